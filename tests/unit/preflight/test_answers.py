"""Kinds of answers: many, distinct, never right by accident, and the same for the same problem."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rftfm_ray.preflight.answers import ANOTHER, DIGITS, REFERENCE, Answer, Worth, answers
from rftfm_ray.tasks.api import Problem, Transcript
from rftfm_ray.tasks.calculator import Calculator

PROBLEM = Problem("k", "17+58=", "75")
REFERENCES = (Transcript(("75",)), [Transcript(("31",)), Transcript(("108",)), Transcript(("9",))])


def kinds(problem: Problem = PROBLEM, right: str = "75", stop: str = "") -> list[Answer]:
    """All answers to a problem."""
    return answers(problem, Transcript((right,)), REFERENCES[1], stop)


def test_there_are_more_than_forty_kinds_of_every_worth() -> None:
    made = kinds()
    assert len({answer.kind for answer in made}) == len(made) > 70
    assert set(Counter(answer.worth for answer in made)) == set(Worth)
    assert Counter(answer.worth for answer in made)[Worth.NOTHING] >= 10


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (REFERENCE, "75"),
        (ANOTHER, "31"),
        ("an empty answer", ""),
        ("the prompt again", "17+58="),
        ("only the marker ####", "#### "),
        ("one more than the right answer", "76"),
        ("the right answer in a wrong sentence", "75 is wrong, the answer is 31."),
        ("every number", " ".join(map(str, range(1000)))),
        ("a very long number", "9" * DIGITS),
        ("half a LaTeX fraction", "\\frac{1}{"),
    ],
)
def test_kind_has_its_text(kind: str, text: str) -> None:
    (answer,) = (answer for answer in kinds() if answer.kind == kind)
    assert answer.transcript.turns[-1] == text


def test_long_number_is_longer_than_python_reads() -> None:
    with pytest.raises(ValueError, match="digits"):
        int("9" * DIGITS)


@given(st.text(max_size=8))
def test_no_answer_without_a_right_worth_is_the_right_one(right: str) -> None:
    for answer in kinds(right=right):
        if answer.worth not in (Worth.RIGHT, Worth.DRESSED) and not answer.kind.startswith(ANOTHER):
            assert answer.transcript.turns[-1].strip().casefold() != right.strip().casefold()


@given(st.text(max_size=8), st.text(max_size=8))
def test_any_texts_give_the_same_kinds_twice(prompt: str, right: str) -> None:
    problem = Problem("k", prompt, right)
    assert kinds(problem, right) == kinds(problem, right)


def test_kinds_that_happen_to_be_right_are_left_out() -> None:
    assert "the guess 0" not in {answer.kind for answer in kinds(right="0")}
    assert "the guess yes" not in {answer.kind for answer in kinds(right=" Yes ")}


def test_honest_answers_keep_the_calls_of_the_reference_and_idle_ones_make_none() -> None:
    task = Calculator()
    first, second = task.pool(2, 0)
    made = answers(first, task.reference(first), [task.reference(second)], task.stop)
    by_kind = {answer.kind: answer.transcript for answer in made}
    assert by_kind["every number"].calls == task.reference(first).calls
    assert by_kind["an empty answer"] == Transcript(("",))
    assert by_kind["only the end of a turn"] == Transcript((";",))
    assert by_kind[f"{ANOTHER}, at once"] == Transcript((second.answer,))


def test_without_other_problems_there_is_no_answer_of_another() -> None:
    assert ANOTHER not in {answer.kind for answer in answers(PROBLEM, REFERENCES[0], [])}
