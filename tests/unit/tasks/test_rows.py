"""Rows whose fields are not text are refused at submit with the row, the field and the fix."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rftfm_ray.errors import TaskError
from rftfm_ray.tasks.api import Problem
from rftfm_ray.tasks.rows import FIELDS, check_rows

MESSAGES = [{"role": "user", "content": "1+1="}]


def rows(field: str, value: object, at: int = 3) -> list[Problem]:
    """Five sound rows, one of which has `value` in `field`."""
    values: list[dict[str, Any]] = [{"key": f"k{i}", "prompt": f"{i}+1=", "answer": str(i + 1)} for i in range(5)]
    values[at][field] = value
    return [Problem(**row) for row in values]


def refused(field: str, value: object) -> str:
    """The sentence that refuses the rows."""
    with pytest.raises(TaskError) as caught:
        check_rows("t", "pool", rows(field, value))
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("field", "value", "kind", "fix"),
    [
        ("prompt", MESSAGES, "a list", "write these chat messages as one string, by the chat template"),
        ("prompt", None, "missing", "give the row a prompt, or leave the row out"),
        ("prompt", b"1+1=", "a bytes", "give str(prompt)"),
        ("answer", 4, "an int", "give str(answer)"),
        ("answer", 4.5, "a float", "give str(answer)"),
        ("answer", np.int64(4), "a numpy.int64", "give str(answer)"),
        ("answer", ["4", "four"], "a list", "write these values as one string, as the verifier compares it"),
        ("answer", None, "missing", "give the row an answer"),
        ("key", 7, "an int", "give str(key)"),
    ],
)
def test_field_that_is_not_text_is_named_with_its_row_and_fix(field: str, value: object, kind: str, fix: str) -> None:
    message = refused(field, value)
    assert message.startswith(f"Task t: Problem.{field} in row 3 of pool is {kind}, ")
    assert fix in message


def test_long_value_is_cut() -> None:
    assert len(refused("prompt", ["x" * 5000])) < 300


def test_row_that_is_not_a_problem_is_named() -> None:
    with pytest.raises(TaskError, match=r"gave \{'prompt': '1'\} as a problem in row 1 of heldout; give rftfm_ray"):
        check_rows("t", "heldout", [rows("key", "k")[0], {"prompt": "1"}])


@given(st.lists(st.tuples(st.text(), st.text(), st.text()), max_size=5))
def test_any_text_is_taken(values: list[tuple[str, str, str]]) -> None:
    check_rows("t", "pool", [Problem(*value) for value in values])


@given(
    st.sampled_from(FIELDS),
    st.one_of(st.none(), st.integers(), st.floats(), st.binary(), st.lists(st.text())),
)
def test_anything_else_is_refused_in_one_line(field: str, value: object) -> None:
    assert f"Problem.{field} in row 3" in refused(field, value)
