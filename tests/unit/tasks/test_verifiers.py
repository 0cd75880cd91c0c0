"""Verifiers that ship: what they call right, and what not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rftfm_ray.errors import RewardError, TaskError
from rftfm_ray.tasks.verifiers import choice, exact, final_number, matches, numeric, verifier_of


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("42", 42.0), ("The answer is 1,234.5 dollars", 1234.5), ("2+2=4, so #### 4", 4.0),
        (r"\boxed{-7} and then 3", -7.0), (r"\boxed{\frac{1}{2}} no, \boxed{1/2}", 0.5), ("50%", 0.5),
        ("x = 1e-3", 1e-3), ("\u22125", -5.0), ("answer: 8 apples in 2 baskets", 8.0), ("about .5", 0.5),
        ("nothing", None), ("", None), ("1/0", None),
    ],
)  # fmt: skip
def test_the_final_number_of_a_text(text: str, number: float | None) -> None:
    assert final_number(text) == (None if number is None else pytest.approx(number))


@given(st.floats(-1e9, 1e9, allow_nan=False).map(lambda value: round(value, 3)))
def test_a_number_is_equal_to_itself_however_it_is_written(value: float) -> None:
    for written in (f"{value}", f"{value:,}", f"so it is #### {value}", rf"\boxed{{{value}}}"):
        assert numeric(written, f"#### {value}")
    assert not numeric(f"{1.01 * value + 1}", f"{value}")


@given(st.text(), st.integers(-1000, 1000))
def test_no_answer_makes_a_verifier_fail(answer: str, truth: int) -> None:
    for check, right in (
        (exact, str(truth)),
        (numeric, str(truth)),
        (choice, "B"),
        (matches(r"{answer}\b"), str(truth)),
    ):
        assert isinstance(check(answer, right), bool)


def test_a_truth_without_what_is_compared_is_no_verdict() -> None:
    with pytest.raises(RewardError, match="holds no number"):
        numeric("1", "none")
    with pytest.raises(RewardError, match="holds no capital letter"):
        choice("A", "none")


def test_words_are_compared_without_the_space_between_them() -> None:
    assert exact(" a  b\n", "a b")
    assert not exact("ab", "a b")


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("B", True),
        ("(B)", True),
        ("I think it is B.", True),
        ("The answer is B, and not C", True),
        ("C", False),
        ("", False),
    ],
)
def test_the_final_letter_of_an_answer(answer: str, right: bool) -> None:
    assert choice(answer, "B") is right


def test_a_pattern_may_ask_for_the_right_answer() -> None:
    check = matches(r"<answer>\s*{answer}\s*</answer>")
    assert check("<think>1</think><answer> 1.5 </answer>", "1.5")
    assert not check("<answer> 125 </answer>", "1.5")
    with pytest.raises(TaskError, match="is no regular expression"):
        matches("(")


def test_names_that_no_verifier_has() -> None:
    assert verifier_of("exact") is exact
    assert verifier_of("regex:a") is not None
    assert verifier_of("file.py:fn") is None
