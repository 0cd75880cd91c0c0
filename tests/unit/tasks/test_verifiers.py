"""Verifiers that ship: what they call right, and what not."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rftfm_ray.errors import RewardError, TaskError
from rftfm_ray.tasks import code_verifier
from rftfm_ray.tasks.code_verifier import passes
from rftfm_ray.tasks.verifiers import (
    choice,
    compares,
    exact,
    final_number,
    matches,
    mathematical,
    numeric,
    verifier_of,
)


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


@pytest.mark.parametrize(
    ("answer", "truth", "right"),
    [
        (r"So it is \boxed{\frac{1}{2}}", "0.5", True), ("1/2", r"\frac{1}{2}", True),
        (r"$(a+b)^2$", "a^2+2ab+b^2", True),
        ("so $x=3$", "3", True), ("nothing", "5", False), ("", "5", False), (r"\boxed{4}", "5", False),
    ],
)  # fmt: skip
def test_expressions_are_compared_as_expressions(answer: str, truth: str, right: bool) -> None:
    assert mathematical(answer, truth) is right


def test_right_answer_without_an_expression_is_said() -> None:
    with pytest.raises(RewardError, match="holds no expression"):
        mathematical("4", "")


def test_json_has_to_fit_its_schema(tmp_path: Path) -> None:
    file = tmp_path / "person.json"
    schema = {"type": "object", "required": ["name"], "properties": {"age": {"type": "integer"}}}
    file.write_text(json.dumps(schema))
    check = verifier_of(f"json:{file}")
    assert check is not None
    assert check('{"name": "Ada", "age": 36}', "")
    assert check('Here it is:\n```json\n{"name": "Ada"}\n```\nDone.', "")
    assert not check('{"age": 36}', "")
    assert not check('{"name": "Ada", "age": "old"}', "")
    for broken in ("", "{", "Ada", "[" * 20_000, '```json\n{"name": 1\n```'):
        assert not check(broken, "")


@pytest.mark.parametrize(
    ("text", "said"), [(None, "cannot be read"), ("{", "holds no JSON schema"), ('{"type": 3}', "holds")]
)
def test_what_is_no_schema_is_refused(tmp_path: Path, text: str | None, said: str) -> None:
    file = tmp_path / "schema.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(TaskError, match=said):
        verifier_of(f"json:{file}")


TESTS = "assert double(2) == 4\nassert double('a') == 'aa'"


@pytest.mark.parametrize(
    ("code", "right"),
    [
        ("def double(x):\n    return x + x", True),
        ("Sure:\n```python\ndef double(x):\n    return x + x\n```\nThis adds.", True),
        ("```\ndef double(x):\n    return 1\n```\nNo:\n```py\ndef double(x):\n    return x * 2\n```", True),
        ("def double(x):\n    return 4", False),
        ("def double(x)", False),
        ("", False),
        # Ways out that end the process with success.
        ("import sys; sys.exit(0)", False),
        ("import os; os._exit(0)", False),
        ("print('x' * 10)\nraise SystemExit", False),
        ("def double(x):\n    return x + x\ninput()", False),
        # Output beyond its file, and memory beyond its limit.
        ("print('x' * 3_000_000)\ndef double(x):\n    return x + x", False),
        ("y = bytearray(3 << 30)\ndef double(x):\n    return x + x", False),
        ("\x00def double(x):\n    return x + x", False),
        ("def double(x):\n    return x + x\nprint('\ud800')", True),
    ],
)  # fmt: skip
def test_code_passes_its_tests_or_not(code: str, right: bool) -> None:
    assert passes(code, TESTS) is right


def test_code_that_does_not_end_is_ended_with_what_it_started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(code_verifier, "LIMIT_S", 1.0)
    left = tmp_path / "left"
    child = f"import time; time.sleep(2.5); open({str(left)!r}, 'w')"
    code = f"import subprocess, sys, time\nsubprocess.Popen([sys.executable, '-c', {child!r}])\ntime.sleep(60)"
    began = time.monotonic()
    assert not passes(code, TESTS)
    assert time.monotonic() - began < 2.4
    time.sleep(2.5)
    assert not left.exists()


def test_package_that_is_missing_is_said_at_submit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(TaskError, match="pip install math-verify"):
        verifier_of("math")


def test_what_reads_the_right_answer_is_known() -> None:
    assert [name for name in ("exact", "code", "math", "regex:a", "regex:{answer}", "json:x") if compares(name)] == [
        "exact", "code", "math", "regex:{answer}",
    ]  # fmt: skip
