"""What came of a pair: recovered, worse, contained, severity, reasons."""

from __future__ import annotations

import math
from typing import Any

import pytest

from rftfm_ray.faultbench.remediation.figures import reason
from rftfm_ray.faultbench.remediation.margins import PairResult, result_of
from rftfm_ray.faultbench.remediation.pairs import Cell, Role, clean_accuracy, is_harmful
from rftfm_ray.faultbench.remediation.records import OUTCOMES, GivenRemedy
from tests.unit.faultbench.remediation.made import HELPED, PAIR, ended, record


def judged(clean: float, alone: float | None, guarded: float | None, **changes: Any) -> PairResult:
    """The result of a guarded run."""
    runs = ended(PAIR, clean, {Role.ALONE: alone, Role.GUARDED: guarded}, **changes)
    result = result_of(Cell.HARM, PAIR, Role.GUARDED, runs)
    assert result is not None
    return result


@pytest.mark.parametrize(
    ("alone", "guarded", "harmful", "recovered", "worse"),
    [
        (0.79, 0.90, True, True, False),
        (0.81, 0.90, False, False, False),
        (0.50, 0.83, True, True, False),  # Four fifths of the loss are given back.
        (0.50, 0.80, True, False, False),
        (0.70, 0.84, True, False, False),  # Not within 0.05, and a fifth of the loss is less than that.
        (0.70, 0.64, True, False, True),
        (0.70, 0.66, True, False, False),
        (0.88, 0.82, False, False, True),
    ],
)
def test_margins(alone: float, guarded: float, harmful: bool, recovered: bool, worse: bool) -> None:
    result = judged(0.9, alone, guarded)
    assert (result.is_harmful, result.is_recovered, result.is_worse) == (harmful, recovered, worse)


def test_the_mean_of_the_clean_forks_is_what_a_run_is_compared_with() -> None:
    runs = {run.arm: run for run in (record(PAIR.clean(n), accuracy) for n, accuracy in ((1, 0.8), (2, 0.9), (3, 1.0)))}
    assert clean_accuracy(PAIR.trunk, runs) == pytest.approx(0.9)


def test_a_run_that_ended_by_itself_has_lost_everything_and_is_never_recovered() -> None:
    saved = judged(0.9, None, 0.86)
    assert saved.is_harmful
    assert saved.is_recovered
    assert not saved.is_worse
    assert saved.lowered
    lost = judged(0.9, 0.7, None)
    assert not lost.is_recovered
    assert lost.is_worse
    assert not lost.lowered
    both = judged(0.9, None, None)
    assert both.is_harmful
    assert not both.is_worse
    assert not both.lowered


def test_a_run_is_contained_where_it_ends_no_worse_than_a_policy_that_stands_still() -> None:
    runs = ended(PAIR, 0.9, {Role.ALONE: 0.3, Role.GUARDED: 0.56, Role.FROZEN: 0.6})
    result = result_of(Cell.HARM, PAIR, Role.GUARDED, runs)
    assert result is not None
    assert result.contained is True
    runs = ended(PAIR, 0.9, {Role.ALONE: 0.3, Role.GUARDED: 0.54, Role.FROZEN: 0.6})
    result = result_of(Cell.HARM, PAIR, Role.GUARDED, runs)
    assert result is not None
    assert result.contained is False


def test_where_the_guard_is_silent_freezing_at_its_alarm_is_doing_nothing() -> None:
    runs = ended(PAIR, 0.9, {Role.ALONE: 0.3, Role.GUARDED: 0.3})
    result = result_of(Cell.HARM, PAIR, Role.FROZEN, runs)
    assert result is not None
    assert result.run is runs[PAIR.arm(Role.ALONE).name]
    alarmed = ended(PAIR, 0.9, {Role.ALONE: 0.3, Role.GUARDED: 0.3}, alarm=12)
    assert result_of(Cell.HARM, PAIR, Role.FROZEN, alarmed) is None


def test_severity_is_lowered_where_signals_come_back_to_those_of_the_clean_runs() -> None:
    assert judged(0.9, 0.3, 0.9).lowered
    assert not judged(0.9, 0.3, 0.3).lowered
    assert not judged(0.9, 0.9, 0.3).lowered


def test_severity_before_and_after_the_first_remedy_is_told_with_what_happens_without_one() -> None:
    fell = tuple(0.2 if step < 10 else 0.9 + 0.001 * (step % 2) for step in range(33))
    result = judged(0.9, 0.3, 0.9, given=(HELPED,), series=dict.fromkeys(OUTCOMES, fell))
    assert result.lowered_since is True
    assert result.lowered_alone is False
    assert judged(0.9, 0.3, 0.9).lowered_since is None


def test_steps_to_a_remedy_count_from_the_effect_to_the_first_that_helped() -> None:
    failed = GivenRemedy(10, "lower_rate", "ineffective", 0)
    run = judged(0.9, 0.3, 0.9, given=(failed, HELPED), frozen=4).run
    assert run.to_remedy == HELPED.step - 9
    assert run.lost == HELPED.undone + 4
    assert math.isinf(judged(0.9, 0.3, 0.9, given=(failed,)).run.to_remedy)
    assert math.isnan(judged(0.9, 0.3, 0.9, effects=(None,)).run.to_remedy)
    assert judged(0.9, 0.3, 0.9, given=(HELPED,), effects=(20,)).run.to_remedy == 0


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"error": "the learner has died"}, "the run ended by itself: the learner has died"),
        ({}, "not found"),
        ({"alarm": 9, "named": "RF-1"}, "named RF-1"),
        ({"alarm": 9, "is_named": True, "asked": True}, "no remedy was given, and a person was asked"),
        ({"alarm": 9, "is_named": True}, "no remedy was given"),
        (
            {"alarm": 9, "is_named": True, "given": (GivenRemedy(10, "lower_rate", "harmful", 0),)},
            "no remedy was verified to have helped",
        ),
        ({"alarm": 9, "is_named": True, "given": (HELPED,)}, "the remedy was in force 2 steps after the effect"),
    ],
)
def test_the_first_thing_that_went_wrong_is_the_reason(changes: dict[str, Any], why: str) -> None:
    assert reason(judged(0.9, 0.3, 0.4, **changes)) == why


def test_harm_is_the_loss_without_a_guard() -> None:
    assert is_harmful(PAIR, ended(PAIR, 0.9, {Role.ALONE: 0.79}))
    assert not is_harmful(PAIR, ended(PAIR, 0.9, {Role.ALONE: 0.81}))
