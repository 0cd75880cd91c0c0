"""What came of a drill, told from a journal and three accuracies."""

from __future__ import annotations

import math

import pytest

from rftfm_ray.drills.cases import DrillCase, Origin
from rftfm_ray.drills.outcome import Ending, Given, RunOutcome, judge
from rftfm_ray.incidents.state import Entry, EntryKind, Scalar
from rftfm_ray.types import StepId
from rftfm_ray.verdicts import Place

K = EntryKind
ONSET = 11
CASE = DrillCase("TE-1", "error", 0.6, Place.TOOL, Origin.HARM)


def journal(*told: tuple[EntryKind, int, dict[str, Scalar]]) -> tuple[Entry, ...]:
    """Entries of kinds, at consumed steps, about incidents that number themselves by `incident`."""
    entries = []
    for seq, (kind, step, fields) in enumerate(told, start=1):
        number = int(fields.get("incident", 1) or 1)
        own = {name: value for name, value in fields.items() if name != "incident"}
        entries.append(Entry(seq, kind, StepId(0, step, step), number, tuple(own.items())))
    return tuple(entries)


def named(code: str, step: int = ONSET, **more: Scalar) -> dict[str, Scalar]:
    """What names an incident."""
    return {"code": code, "family": code.split("-")[0], "onset": step, "onset_low": step, **more}


REMEDY: dict[str, Scalar] = {"order": 1, "remedy": "retry", "role": "remedy", "lever_tool_retries": 2, "halt": "no"}
MENDED = journal(
    (K.OPENED, 12, named("TE-1", place="tool")),
    (K.DIAGNOSED, 12, named("TE-1", place="tool")),
    (K.DECIDED, 12, {"order": 1}),
    (K.APPLIED, 13, REMEDY),
    (K.OUTCOME, 17, {"outcome": "mitigated"}),
)


@pytest.mark.parametrize(
    ("clean", "unguarded", "guarded", "ending"),
    [
        (0.8, 0.5, 0.75, Ending.MENDED),
        (0.8, 0.5, 0.745, Ending.MENDED),  # A fifth of the loss may be left.
        (0.8, 0.5, 0.73, Ending.NOT_MENDED),
        (0.8, 0.75, 0.74, Ending.HARMLESS),
        (0.8, 0.75, 0.69, Ending.WORSE),
        (0.8, 0.5, 0.4, Ending.WORSE),
        (0.8, math.nan, 0.78, Ending.LESS),
        (0.8, math.nan, 0.7, Ending.NOT_MENDED),
    ],
)
def test_ending_goes_by_what_the_fault_costs(clean: float, unguarded: float, guarded: float, ending: Ending) -> None:
    without = None if math.isnan(unguarded) else RunOutcome(unguarded)
    assert judge(CASE, ONSET, clean, without, RunOutcome(guarded)).ending is ending


def test_story_of_a_mended_fault() -> None:
    result = judge(CASE, ONSET, 0.8, RunOutcome(0.5), RunOutcome(0.79, "", MENDED))
    assert (result.found_after, result.named, result.place) == (1, "TE-1", "tool")
    assert (result.is_named, result.is_placed, result.early, result.asked) == (True, True, (), False)
    assert result.given == (Given(13, "retry", "mitigated"),)


def test_what_is_not_found_has_no_name() -> None:
    result = judge(CASE, ONSET, 0.8, RunOutcome(0.5), RunOutcome(0.5))
    assert (result.found_after, result.named, result.is_named, result.is_placed) == (None, "", False, False)
    assert result.ending is Ending.NOT_MENDED


def test_alarm_before_the_fault_is_false_and_finds_nothing() -> None:
    entries = journal((K.OPENED, 7, named("TE-1", 7)))
    result = judge(CASE, ONSET, 0.8, RunOutcome(0.5), RunOutcome(0.5, "", entries))
    assert (result.early, result.found_after, result.is_named) == (("TE-1",), None, False)


def test_other_name_or_place_is_not_the_right_one() -> None:
    other = journal((K.OPENED, 12, named("RF-3", place="reward function")))
    result = judge(CASE, ONSET, 0.8, RunOutcome(0.5), RunOutcome(0.5, "", other))
    assert (result.named, result.is_named, result.is_placed, result.found_after) == ("RF-3", False, False, 1)
    elsewhere = journal((K.OPENED, 12, named("TE-1", place="link between tool and policy")))
    result = judge(CASE, ONSET, 0.8, RunOutcome(0.5), RunOutcome(0.5, "", elsewhere))
    assert (result.is_named, result.is_placed) == (True, False)


def test_right_name_of_a_second_incident_counts_and_the_first_one_found_it() -> None:
    entries = journal(
        (K.OPENED, 12, named("RF-3") | {"incident": 1}), (K.OPENED, 15, named("TE-1", place="tool") | {"incident": 2})
    )
    result = judge(CASE, ONSET, 0.8, RunOutcome(0.5), RunOutcome(0.5, "", entries))
    assert (result.found_after, result.named, result.is_placed) == (1, "TE-1", True)


def test_run_that_an_error_has_ended() -> None:
    stopped = judge(CASE, ONSET, 0.8, RunOutcome(0.5), RunOutcome(math.nan, "the weights differ", MENDED))
    assert (stopped.ending, stopped.error, stopped.found_after) == (Ending.STOPPED, "the weights differ", 1)


@pytest.mark.parametrize(
    ("guarded", "ending"), [(0.79, Ending.MENDED), (0.65, Ending.MENDED), (0.6, Ending.NOT_MENDED)]
)
def test_unguarded_run_that_an_error_has_ended_has_lost_everything_and_shows_no_accuracy(
    guarded: float, ending: Ending
) -> None:
    alone = judge(CASE, ONSET, 0.8, RunOutcome(math.nan, "the weights differ"), RunOutcome(guarded, "", MENDED))
    assert math.isnan(alone.unguarded)
    assert (alone.unguarded_error, alone.ending) == ("the weights differ", ending)


def test_person_who_is_asked_is_told_of() -> None:
    left = journal((K.OPENED, 12, named("TE-1")), (K.CLOSED, 20, {"state": "escalated", "reason": "no remedy is left"}))
    assert judge(CASE, ONSET, 0.8, RunOutcome(0.5), RunOutcome(0.5, "", left)).asked
