"""Alarms compared with what is true of a run: what is found, what is false, what is late."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rftfm_ray.faultbench.detectors.alarms import Alarm, alarms_of, alarms_while
from rftfm_ray.faultbench.runs.dataset import NAMES, Outcome, Recorded
from rftfm_ray.faultbench.runs.plan import Entry, Kind, Split
from rftfm_ray.faultbench.scoring.judging import (
    Results,
    RunResult,
    as_in_the_paper,
    benign,
    delay,
    false_alarms,
    faulty,
    group_rows,
    healthy,
    recall,
    recall_from_effect,
    result_of,
    rows,
)

FAULT = Entry(
    "RF-1-easy-0", Kind.FAULT, Split.REPORT, 1, "addition", "grpo", "tiny", 30,
    ("RF-1@11:easy,mechanism=outliers,duration=ramp",), "easy", 11, 10,
)  # fmt: skip
HEALTHY = replace(FAULT, name="healthy-1", kind=Kind.HEALTHY, inject=(), level="", onset=0, fork=0)
CONTROL = replace(FAULT, name="control-1", kind=Kind.CONTROL, inject=("slow_tool@11",), level="")


def run(entry: Entry, effect: int | None = 11, steps: int = 30) -> Recorded:
    """A recorded run."""
    outcome = Outcome((11,), (effect,)) if entry.kind is Kind.FAULT else Outcome((), ())
    return Recorded(entry, outcome, np.zeros((steps, len(NAMES)), np.float32))


def test_alarm_lasts_until_the_score_has_fallen_far_below_the_threshold() -> None:
    scores = np.array([0, 8, 5, 3, 2.1, 2, 9, math.nan, 0, 8])
    assert alarms_of(scores, 8.0) == (Alarm(2, 5), Alarm(7, 8), Alarm(10, 10))


def test_alarms_of_a_latch_last_while_it_is_open() -> None:
    assert alarms_while([False, True, True, False, True]) == (Alarm(2, 3), Alarm(5, 5))
    assert alarms_while([]) == alarms_while([False]) == ()


@given(st.lists(st.floats(0, 20) | st.just(math.nan), max_size=40), st.floats(0.1, 15))
def test_alarms_are_apart_and_in_order(scores: list[float], threshold: float) -> None:
    alarms = alarms_of(np.array(scores), threshold)
    for alarm in alarms:
        assert scores[alarm.raised - 1] >= threshold
        assert alarm.raised <= alarm.last <= len(scores)
    assert all(one.last < other.raised for one, other in itertools.pairwise(alarms))


@pytest.mark.parametrize(
    ("alarms", "is_detected", "from_effect", "late", "false"),
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
    alarms: list[Alarm], is_detected: bool, from_effect: bool, late: int | None, false: int
) -> None:
    result = result_of(run(FAULT), alarms)
    assert (result.is_detected, result.is_detected_from_effect, result.delay, result.false_alarms) == (
        is_detected,
        from_effect,
        late,
        false,
    )
    assert result.counts


def test_alarms_before_a_fork_belong_to_the_healthy_run() -> None:
    entry = replace(FAULT, fork=0)
    assert (result_of(run(entry), [Alarm(5, 6)]).false_alarms, result_of(run(entry), []).healthy_steps) == (1, 10)
    assert (result_of(run(FAULT), [Alarm(5, 6)]).false_alarms, result_of(run(FAULT), []).healthy_steps) == (0, 0)


def test_between_switch_and_effect_an_alarm_finds_it_but_not_from_the_effect() -> None:
    result = result_of(run(FAULT, effect=20), [Alarm(15, 25)])
    assert (result.is_detected, result.is_detected_from_effect, result.delay) == (True, False, 0)
    again = result_of(run(FAULT, effect=20), [Alarm(15, 16), Alarm(22, 23)])
    assert (again.is_detected, again.is_detected_from_effect, again.delay) == (True, True, 0)


@pytest.mark.parametrize("effect", [None, 31])
def test_fault_without_an_effect_does_not_count(effect: int | None) -> None:
    result = result_of(run(FAULT, effect=effect), [Alarm(15, 25)])
    assert (result.counts, result.is_detected, result.flagged) == (False, False, True)
    assert faulty(Results.single([result])).pooled == []


def test_false_alarms_are_counted_over_healthy_steps() -> None:
    control = result_of(run(CONTROL), [Alarm(5, 6), Alarm(12, 30)])
    assert (control.false_alarms, control.healthy_steps) == (1, 20)
    results = Results.single(
        [result_of(run(HEALTHY), [Alarm(3, 4), Alarm(9, 30)]), result_of(run(HEALTHY, steps=470), []), control]
    )
    counted = false_alarms(healthy(results))
    assert (counted["rate"], counted["steps"], counted["alarms"]) == (4.0, 500, 2)
    assert counted["upper95"] == pytest.approx(6.2958 / 0.5, abs=1e-3)
    assert benign(results).pooled == [control]


def test_recall_and_delay_are_taken_over_runs_with_an_effect() -> None:
    runs = [result_of(run(replace(FAULT, seed=seed)), [Alarm(13, 30)] if seed % 4 else []) for seed in range(40)]
    results = Results.single([*runs, result_of(run(FAULT, effect=None), [])])
    share = recall(faulty(results, "easy"))
    assert (share.count, share.total) == (30, 40)
    assert share.low95 < 0.75 < share.high95
    assert (delay(faulty(results)).median, delay(faulty(results)).censored) == (2.0, 10)
    (row,) = rows(results, "duration")
    assert (row.name, row.share.total, row.without_effect) == ("ramp", 40, 1)
    assert [r.name for r in rows(results, "mechanism")] == ["RF-1 outliers"]
    assert [r.name for r in rows(results, "family")] == ["RF"]
    assert faulty(results, "hard").pooled == []


def test_recall_from_the_effect_leaves_out_what_was_found_while_the_fault_grew() -> None:
    early, late = [Alarm(15, 25)], [Alarm(22, 30)]
    results = Results.single(
        [result_of(run(replace(FAULT, seed=seed), effect=20), late if seed % 2 else early) for seed in range(10)]
    )
    assert (recall(results).count, recall_from_effect(results).count) == (10, 5)
    (row,) = rows(results, "fault")
    assert (row.share.count, row.from_effect.count) == (10, 5)


def test_figures_of_several_draws_are_means_over_them() -> None:
    """Two draws of a reference: each run counts once, with half of what either draw makes of it."""
    entries = [replace(FAULT, seed=seed) for seed in range(8)]
    draws = (
        tuple(result_of(run(entry), [Alarm(13, 30)]) for entry in entries),
        tuple(result_of(run(entry), [Alarm(15, 30)] if entry.seed % 2 else []) for entry in entries),
    )
    results = Results(draws)
    assert (recall(results).count, recall(results).total) == (6, 8)
    assert [recall(one).count for one in results.by_draw()] == [8, 4]
    assert (delay(results).median, delay(results).censored, delay(results).total) == (2.0, 2, 8)
    (row,) = rows(results, "fault")
    assert (row.share.count, row.share.total) == (6, 8)
    quiet, loud = result_of(run(HEALTHY), []), result_of(run(HEALTHY), [Alarm(3, 4)])
    counted = false_alarms(Results(((quiet,), (loud,))))
    assert (counted["alarms"], counted["steps"]) == (0.5, 30)


def test_groups_have_a_row_for_each_level_and_one_for_all_of_them() -> None:
    two = replace(FAULT, kind=Kind.TWO_FAULTS)
    outcome = Outcome((11, 21), (11, 21))
    both = Recorded(two, outcome, run(FAULT).values)
    results = Results.single([result_of(both, [Alarm(12, 13)]), result_of(run(FAULT), [])])
    shares = {(row.name, row.level): row.share for row in group_rows(results)}
    assert (shares["two faults", "easy"].count, shares["two faults", "easy"].total) == (1, 1)
    assert ("two faults", "all") not in shares, "one level is all that there is"
    assert shares["on a declared change", "all"].total == 0


def flagged(entry: Entry, flag: bool) -> RunResult:
    """A run with or without an alarm."""
    return result_of(run(entry), [Alarm(20, 30)] if flag else [])


def test_paper_s_figures_are_over_whole_runs() -> None:
    other = replace(FAULT, inject=("TE-1@11:easy,mechanism=error",))
    results = [flagged(FAULT, n < 8) for n in range(10)] + [flagged(other, n < 4) for n in range(10)]
    results += [flagged(HEALTHY, n < 1) for n in range(5)]
    table = as_in_the_paper(Results.single(results), "easy")
    assert table["guard"]["precision"] == pytest.approx(12 / 13)
    assert table["guard"]["recall"] == pytest.approx(0.6)
    first, second = 2 * 8 / (9 + 10), 2 * 4 / (5 + 10)
    assert table["guard"]["family_mean_f1"] == pytest.approx((first + second) / 2)
    assert table["flag_everything"]["recall"] == 1.0
    assert table["flag_everything"]["precision"] == pytest.approx(0.8)
