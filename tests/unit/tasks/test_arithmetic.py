"""The calculator's parser: sums of signed whole numbers, and an ExpressionError for all other text."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rftfm_ray.tasks.arithmetic import ExpressionError, evaluate

numbers = st.text("0123456789", min_size=1, max_size=3)
first_terms = st.tuples(st.sampled_from(["", "+", "-"]), numbers)
next_terms = st.tuples(st.sampled_from(["+", "-"]), numbers)
expressions = st.tuples(first_terms, st.lists(next_terms, max_size=3)).map(lambda drawn: [drawn[0], *drawn[1]])
GRAMMAR = re.compile(r"[+-]?[0-9]{1,3}([+-][0-9]{1,3}){0,3}")


@settings(max_examples=200, deadline=None)
@given(terms=expressions)
def test_value_is_the_sum_of_the_signed_terms(terms: list[tuple[str, str]]) -> None:
    expected = sum(int(sign + digits) for sign, digits in terms)
    assert evaluate("".join(sign + digits for sign, digits in terms)) == expected


@settings(max_examples=300, deadline=None)
@given(text=st.one_of(st.text(max_size=20), st.text("0123456789+-", max_size=20), st.text("01+- \n_e.*", max_size=8)))
def test_any_text_is_either_in_the_grammar_or_an_expression_error(text: str) -> None:
    if GRAMMAR.fullmatch(text):
        assert isinstance(evaluate(text), int)
    else:
        with pytest.raises(ExpressionError):
            evaluate(text)


@pytest.mark.parametrize(
    ("text", "value"), [("0", 0), ("-5", -5), ("+5", 5), ("007", 7), ("12+34+56", 102), ("1-2-3+4", 0), ("999-999", 0)]
)
def test_examples_have_their_value(text: str, value: int) -> None:
    assert evaluate(text) == value


@pytest.mark.parametrize(
    "text", ["a", "__import__('os')", "x+1", "len('ab')", "True", "1if 1else 2", "9**9", "2*3", "(1)"]
)
def test_names_and_other_python_are_refused(text: str) -> None:
    with pytest.raises(ExpressionError):
        evaluate(text)


@pytest.mark.parametrize("text", ["\u0663", "1+\u0663", "\uff11\uff12", "\u00b2", "1\u22122", "\u0967+1"])
def test_digits_and_signs_outside_ascii_are_refused(text: str) -> None:
    with pytest.raises(ExpressionError, match="characters"):
        evaluate(text)


@pytest.mark.parametrize("text", ["", " ", " 1", "1 ", "1 + 2", "1\n", "\n1", "1+2\n", "1\t+2", "1\x00"])
def test_empty_text_and_whitespace_are_refused(text: str) -> None:
    with pytest.raises(ExpressionError):
        evaluate(text)


@pytest.mark.parametrize("text", ["+", "-", "1+", "1-", "1++2", "1+-2", "--1", "1.5", "1_0", "1e2", "0x1", "1,2", "1="])
def test_broken_sums_are_refused(text: str) -> None:
    with pytest.raises(ExpressionError):
        evaluate(text)


def test_four_terms_are_the_most() -> None:
    assert evaluate("1+1+1+1") == 4
    with pytest.raises(ExpressionError, match="more than 4 terms"):
        evaluate("1+1+1+1+1")


def test_three_digits_are_the_most() -> None:
    assert evaluate("999") == 999
    for text in ("1000", "1+1000", "0001"):
        with pytest.raises(ExpressionError):
            evaluate(text)


def test_error_says_where_reading_stopped() -> None:
    with pytest.raises(ExpressionError, match=r"place 2 of '12\+x'"):
        evaluate("12+x")
