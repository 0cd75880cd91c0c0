"""Alarms held against what is true of a run: what is found, what is false, what is late."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rftfm_ray.faultbench.runs.dataset import NAMES, Outcome, Recorded
from rftfm_ray.faultbench.runs.plan import Entry, Kind, Split
from rftfm_ray.faultbench.scoring.judging import (
    Alarm,
    Judged,
    alarms_of,
    as_in_the_paper,
    delay,
    false_alarms,
    faulty,
    healthy,
    judge,
    recall,
    rows,
)

FAULT = Entry(
    "RF-1-easy-0", Kind.FAULT, Split.REPORT, 1, "addition", "grpo", "tiny", 30,
    ("RF-1@11:easy,mechanism=outliers,duration=ramp",), "easy", 11, 10,
)  # fmt: skip
HEALTHY = replace(FAULT, name="healthy-1", kind=Kind.HEALTHY, inject=(), level="", onset=0, fork=0)
TWIN = replace(FAULT, name="twin-1", kind=Kind.TWIN, inject=("slow_tool@11",), level="")


def run(entry: Entry, effect: int | None = 11, steps: int = 30) -> Recorded:
    """A recorded run."""
    outcome = Outcome((11,), (effect,)) if entry.kind is Kind.FAULT else Outcome((), ())
    return Recorded(entry, outcome, np.zeros((steps, len(NAMES)), np.float32))


def test_alarm_lasts_until_the_score_has_fallen_far_below_the_threshold() -> None:
    scores = np.array([0, 8, 5, 3, 2.1, 2, 9, math.nan, 0, 8])
    assert alarms_of(scores, 8.0) == [Alarm(2, 5), Alarm(7, 8), Alarm(10, 10)]


@given(st.lists(st.floats(0, 20) | st.just(math.nan), max_size=40), st.floats(0.1, 15))
def test_alarms_are_apart_and_in_order(scores: list[float], threshold: float) -> None:
    alarms = alarms_of(np.array(scores), threshold)
    for alarm in alarms:
        assert scores[alarm.raised - 1] >= threshold
        assert alarm.raised <= alarm.last <= len(scores)
    assert all(one.last < other.raised for one, other in itertools.pairwise(alarms))


@pytest.mark.parametrize(
    ("alarms", "found", "strict", "late", "false"),
    [
        ([], False, False, None, 0),
        ([Alarm(11, 30)], True, True, 0, 0),
        ([Alarm(14, 15), Alarm(20, 21)], True, True, 3, 0),
        # Open as the fault began: an alarm that was there already has found nothing.
        ([Alarm(9, 12)], False, False, None, 0),
        ([Alarm(9, 12), Alarm(15, 16)], False, False, None, 0),
        # Over before it: a false one, and the next is a find.
        ([Alarm(5, 6), Alarm(12, 13)], True, True, 1, 0),
    ],
)
def test_fault_is_found_by_the_first_alarm_after_it(
    alarms: list[Alarm], found: bool, strict: bool, late: int | None, false: int
) -> None:
    judged = judge(run(FAULT), alarms)
    assert (judged.found, judged.strict, judged.delay, judged.false_alarms) == (found, strict, late, false)
    assert judged.counts


def test_alarms_before_a_fork_belong_to_the_healthy_run() -> None:
    whole = replace(FAULT, fork=0)
    assert (judge(run(whole), [Alarm(5, 6)]).false_alarms, judge(run(whole), []).healthy_steps) == (1, 10)
    assert (judge(run(FAULT), [Alarm(5, 6)]).false_alarms, judge(run(FAULT), []).healthy_steps) == (0, 0)


def test_between_switch_and_effect_an_alarm_is_a_find_but_no_strict_one() -> None:
    judged = judge(run(FAULT, effect=20), [Alarm(15, 25)])
    assert (judged.found, judged.strict, judged.delay) == (True, False, 0)
    again = judge(run(FAULT, effect=20), [Alarm(15, 16), Alarm(22, 23)])
    assert (again.found, again.strict, again.delay) == (True, True, 0)


@pytest.mark.parametrize("effect", [None, 31])
def test_fault_without_an_effect_does_not_count(effect: int | None) -> None:
    judged = judge(run(FAULT, effect=effect), [Alarm(15, 25)])
    assert (judged.counts, judged.found, judged.flagged) == (False, False, True)
    assert faulty([judged]) == []


def test_false_alarms_are_counted_over_healthy_steps() -> None:
    judged = [judge(run(HEALTHY), [Alarm(3, 4), Alarm(9, 30)]), judge(run(HEALTHY, steps=470), [])]
    counted = false_alarms(healthy(judged))
    assert (counted["rate"], counted["steps"], counted["alarms"]) == (4.0, 500, 2)
    assert counted["upper95"] == pytest.approx(6.2958 / 0.5, abs=1e-3)
    twin = judge(run(TWIN), [Alarm(5, 6), Alarm(12, 30)])
    assert (twin.false_alarms, twin.healthy_steps) == (1, 20)


def test_recall_and_delay_are_taken_over_runs_with_an_effect() -> None:
    judged = [judge(run(replace(FAULT, seed=seed)), [Alarm(13, 30)] if seed % 4 else []) for seed in range(40)]
    judged.append(judge(run(FAULT, effect=None), []))
    share = recall(faulty(judged, "easy"))
    assert (share.found, share.total) == (30, 40)
    assert share.low95 < 0.75 < share.high95
    assert (delay(faulty(judged)).median, delay(faulty(judged)).censored) == (2.0, 10)
    (row,) = rows(judged, "duration")
    assert (row.name, row.share.total, row.without_effect) == ("ramp", 40, 1)
    assert [r.name for r in rows(judged, "mechanism")] == ["RF-1 outliers"]
    assert [r.name for r in rows(judged, "family")] == ["RF"]


def flagged(entry: Entry, flag: bool) -> Judged:
    """A run with or without an alarm."""
    return judge(run(entry), [Alarm(20, 30)] if flag else [])


def test_paper_s_figures_are_over_whole_runs() -> None:
    other = replace(FAULT, inject=("TE-1@11:easy,mechanism=error",))
    judged = [flagged(FAULT, n < 8) for n in range(10)] + [flagged(other, n < 4) for n in range(10)]
    judged += [flagged(HEALTHY, n < 1) for n in range(5)]
    table = as_in_the_paper(judged, "easy")
    assert table["ours"]["precision"] == pytest.approx(12 / 13)
    assert table["ours"]["recall"] == pytest.approx(0.6)
    first, second = 2 * 8 / (9 + 10), 2 * 4 / (5 + 10)
    assert table["ours"]["family_mean_f1"] == pytest.approx((first + second) / 2)
    assert table["flag_everything"]["recall"] == 1.0
    assert table["flag_everything"]["precision"] == pytest.approx(0.8)
