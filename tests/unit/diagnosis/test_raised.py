"""Shares that faults raise: compared with the run's own past, with a profile, or with what is healthy anywhere."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rftfm_ray.detection.observed import Observation
from rftfm_ray.detection.reference.residuals import COLUMNS
from rftfm_ray.diagnosis.findings import COLUMN_OF, FINDINGS, INTACT, READ, findings_in
from rftfm_ray.diagnosis.raised import (
    CALLS,
    COUNTED,
    EMPTY,
    FEWEST,
    NO_PAST,
    NONE_COUNTED,
    RAISED_BY,
    VERDICTS,
    Counted,
    Floats,
    Past,
    Standing,
    counts_in,
    standing_of,
)
from rftfm_ray.diagnosis.readings import WINDOW, Readings
from tests.detecting import USUAL, make_report
from tests.unit.diagnosis.scripted import alarm

NOWHERE = np.full(len(COUNTED), math.nan)
"""Without a profile."""


def counts(hits: float, events: float) -> Floats:
    """The same hits and events of everything that is counted."""
    same: Floats = np.zeros_like(NONE_COUNTED) + np.array([hits, events])
    return same


def usual(hits: float, events: float, past: Past) -> frozenset[Counted]:
    """What is not raised at this share."""
    return standing_of(counts(hits, events), past).usual


def higher(hits: float, events: float, past: Past) -> frozenset[Counted]:
    """What is raised at this share."""
    return standing_of(counts(hits, events), past).higher


@pytest.mark.parametrize(
    ("hits", "is_usual"),
    # Before: 20 of 1,000, so that 10 of 500 are expected; more than about 16 verdicts would be one in twenty.
    [(0, True), (10, True), (15, True), (20, False), (60, False)],
)
def test_share_is_compared_with_the_runs_own_past(hits: float, is_usual: bool) -> None:
    past = Past(counts(20, 1000), np.array([-9.0, 9.0, 9.0]))
    assert (VERDICTS in usual(hits, 500, past)) is is_usual
    assert (VERDICTS in higher(hits, 500, past)) is not is_usual


def test_one_event_where_there_were_none_is_chance_among_many_and_not_among_few() -> None:
    clean = Past(counts(0, 1000), NOWHERE)
    assert usual(1, 800, clean) == set(COUNTED)
    assert usual(1, 100, clean) == set()


def test_events_of_a_cluster_say_less() -> None:
    past = Past(counts(20, 1000), NOWHERE)
    assert usual(17, 500, past) == {CALLS, EMPTY}
    assert higher(17, 500, past) == {VERDICTS}


def test_without_a_past_a_profile_is_asked_and_then_what_is_healthy_anywhere() -> None:
    assert usual(50, 500, Past(NONE_COUNTED, np.full(3, 0.3))) == set(COUNTED)
    assert higher(0, 500, Past(NONE_COUNTED, np.full(3, 3.0))) == set(COUNTED)
    assert usual(0, 500, NO_PAST) == {VERDICTS, EMPTY}, "how often a tool fails differs from run to run"
    assert higher(50, 500, NO_PAST) == {VERDICTS, EMPTY}
    # Three of 117 verdicts are more than a healthy verifier errs on and fewer than a faulty one: nothing is known.
    assert VERDICTS not in usual(3, 117, NO_PAST) | higher(3, 117, NO_PAST)


def test_few_events_say_nothing() -> None:
    clean = Past(counts(0, 1000), NOWHERE)
    assert usual(0, FEWEST - 1, clean) == set()
    assert higher(5, 18, clean) == set(COUNTED), "but many hits among them do"
    assert standing_of(NONE_COUNTED, clean) == standing_of(NONE_COUNTED, NO_PAST) == Standing(frozenset(), frozenset())


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 400))
def test_more_hits_are_never_more_usual(fewer: int, more: int, before: int) -> None:
    past = Past(counts(before, 2000), NOWHERE)
    low, high = sorted((fewer, more))
    assert usual(high, 400, past) <= usual(low, 400, past)


def test_healthy_runs_are_called_raised_one_time_in_twenty() -> None:
    """Independent events, so that clustered calls are called raised less often."""
    rng = np.random.default_rng(7)
    raised = {VERDICTS: 0, CALLS: 0}
    for _ in range(2000):
        past = Past(counts(rng.binomial(1500, 0.02), 1500), NOWHERE)
        found = usual(rng.binomial(500, 0.02), 500, past)
        for counted in raised:
            raised[counted] += counted not in found
    assert 0.03 < raised[VERDICTS] / 2000 < 0.07
    assert raised[CALLS] < raised[VERDICTS] / 2


def test_counting_skips_what_was_not_measured_and_clips_what_is_no_share() -> None:
    values = np.full((4, len(READ)), math.nan)
    share, count = COLUMN_OF[CALLS.share], COLUMN_OF[CALLS.count]
    values[:, share], values[:, count] = [0.5, math.nan, 7.0, 0.5], [10, 10, 10, 0]
    assert counts_in(values, COLUMN_OF).tolist() == [[0, 0], [15, 20], [0, 0]]


def followed(shares: list[float], onset: int, *, profiled: bool = False, residual: float = 0.0) -> tuple[str, ...]:
    """Findings since an onset in a run whose tool fails with these shares; an alarm is open from the onset on."""
    readings = Readings()
    for step, share in enumerate(shares, 1):
        report = make_report(step, tool_error_rate=share, tool_call_count=100.0)
        residuals = np.full(len(COLUMNS), math.nan)
        residuals[COLUMNS.index("tool_error_rate")] = residual
        symptoms = (alarm("reward_std", -1),) if step >= onset else ()
        readings.observe(Observation(report, symptoms, residuals=residuals, profiled=profiled))
    return readings.findings(onset)


TOLD = f"{INTACT}TE-1"


def test_run_remembers_its_past_beyond_the_window() -> None:
    assert TOLD in followed([0.02] * 30, 25), "no more than before"
    assert TOLD not in followed([0.02] * 24 + [0.08] * 6, 25), "it rose"
    assert TOLD in followed([0.05] * 24 + [0.02] * 6, 25), "it fell"


def test_what_leaves_the_window_while_an_alarm_is_open_is_no_past() -> None:
    assert TOLD not in followed([0.0] * 24 + [0.05] * (20 * WINDOW), 25)


def test_fault_of_the_first_step_has_no_past_but_a_profile_tells_it() -> None:
    assert TOLD not in followed([0.0] * 6, 1)
    assert TOLD in followed([0.02] * 6, 1, profiled=True, residual=0.2)
    assert TOLD not in followed([0.02] * 6, 1, profiled=True, residual=1.5), "six times a little is much"


def test_few_wrong_verdicts_of_a_verifier_that_errs_at_times_are_about_nothing() -> None:
    split = {"regrade_hit_wrong": 0.05, "regrade_hit_right": 0.0, "regrade_error_mean": 0.03}
    wrong = {**USUAL, **split, "regrade_count": 32.0, "regrade_mismatch_rate": 0.03, "trained_mismatch_rate": 0.03}
    values = np.array([[wrong.get(name, math.nan) for name in READ]] * 4)
    erring, clean = Past(counts(30, 1000), NOWHERE), Past(counts(0, 1000), NOWHERE)
    assert not {"regrade_disagrees", "regrade_of_some_wrong"} & set(findings_in(values, erring))
    assert {"regrade_disagrees", "regrade_of_some_wrong"} <= set(findings_in(values, clean))


def test_empty_answers_are_found_where_there_are_more_than_before() -> None:
    some = {**USUAL, "empty_rate": 0.05, "trajectory_count": 128.0}
    values = np.array([[some.get(name, math.nan) for name in READ]] * 3)
    assert "answers_empty" in findings_in(values, NO_PAST)
    assert "answers_empty" not in findings_in(values, Past(counts(50, 1000), NOWHERE))


def test_every_fault_that_raises_a_share_has_its_finding() -> None:
    assert {f"{INTACT}{code}" for code in RAISED_BY} <= set(FINDINGS)
    assert all({counted.share, counted.count} <= set(READ) for counted in COUNTED)
