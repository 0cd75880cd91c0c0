"""Figures by background: cells, pooled cells, false alarms and what a background hides, from synthetic verdicts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rftfm_ray.faultbench.detectors.alarms import Alarm
from rftfm_ray.faultbench.detectors.guard import GivenOrder, GuardTrace
from rftfm_ray.faultbench.detectors.references import ReferenceMode, References
from rftfm_ray.faultbench.detectors.shifts import fault_of, kind_of
from rftfm_ray.faultbench.runs.dataset import NAMES, Outcome, Recorded
from rftfm_ray.faultbench.runs.plan import BACKGROUNDS, Entry, Kind, Split
from rftfm_ray.faultbench.scoring.backgrounds import (
    BOTH,
    LEAST_RUNS,
    background_figures,
    below_rows,
    cells,
    false_alarm_rows,
)
from rftfm_ray.faultbench.scoring.guarding import GuardScore, GuardSetup
from rftfm_ray.faultbench.scoring.intervals import clopper_pearson
from rftfm_ray.faultbench.scoring.judging import Results, fault_levels, faulty, group_rows, result_of, rows
from rftfm_ray.faults.calibration import NAMED_LEVELS

ONSET, STEPS = 11, 30
HEALTHY = Entry("healthy-1", Kind.HEALTHY, Split.REPORT, 1, "addition", "grpo", "tiny", STEPS)
FAULT = replace(
    HEALTHY, name="RF-1-hard-0", kind=Kind.FAULT, inject=(f"RF-1@{ONSET}:hard,mechanism=outliers",), level="hard",
    onset=ONSET, fork=10,
)  # fmt: skip


def run(entry: Entry, effect: int | None = ONSET) -> Recorded:
    """A recorded run; its fault has its effect at once, or as given."""
    switched = (entry.onset,) if entry.kind is Kind.FAULT else ()
    effects = (entry.onset if effect == ONSET else effect,) if switched else ()
    return Recorded(entry, Outcome(switched, effects), np.zeros((STEPS, len(NAMES)), np.float32))


def results(*groups: tuple[Entry, int, int]) -> Results:
    """Results of runs like an entry: so many, of which so many have an alarm at their onset, or at step 20."""

    def every() -> Iterator[Any]:
        for entry, count, found in groups:
            for index in range(count):
                alarm = Alarm(entry.onset or 20, STEPS)
                yield result_of(run(replace(entry, seed=index)), [alarm] if index < found else [])

    return Results.single(list(every()))


def by_key(made: Iterator[Any], *keys: str) -> dict[tuple[Any, ...], dict[str, Any]]:
    """Rows by some of their keys."""
    return {tuple(row[key] for key in keys): row for row in made}


def test_each_cell_has_its_own_recall_with_exact_limits() -> None:
    dirty = replace(FAULT, dirty=True)
    judged = results((FAULT, 200, 180), (dirty, 160, 40))
    found = by_key(cells("all", judged, ("hard",)), "background", "onset")
    assert {key[0] for key in found} == {*BACKGROUNDS, BOTH}
    assert found["clean", "any"]["recall"] == {
        "rate": 0.9, "n": 200, **dict(zip(("low95", "high95"), clopper_pearson(180, 200), strict=True)),
    }  # fmt: skip
    assert found["dirty", "any"]["recall"]["rate"] == 0.25
    assert found[BOTH, "any"]["recall"]["rate"] == pytest.approx(220 / 360)
    assert not any(row["is_pooled"] for row in found.values())


def test_a_cell_of_few_runs_is_read_from_both_backgrounds() -> None:
    judged = results((FAULT, LEAST_RUNS, 1), (replace(FAULT, dirty=True), LEAST_RUNS - 1, 1))
    found = by_key(cells("all", judged, ("hard",)), "background", "onset")
    assert {key[0] for key, row in found.items() if row["is_pooled"]} == {"dirty"}


def test_faults_from_step_1_are_counted_among_the_others_and_by_themselves() -> None:
    first = replace(FAULT, onset=1, fork=0, inject=("RF-1@1:hard,mechanism=outliers",))
    found = by_key(cells("all", results((FAULT, 6, 3), (first, 4, 4)), ("hard",)), "background", "onset")
    assert (found["clean", "any"]["recall"]["rate"], found["clean", "any"]["recall"]["n"]) == (0.7, 10)
    assert (found["clean", "step 1"]["recall"]["rate"], found["clean", "step 1"]["recall"]["n"]) == (1.0, 4)


def test_what_the_background_hides_is_counted_apart_from_everything_else() -> None:
    below = replace(FAULT, dirty=True, below=True)
    judged = results((FAULT, 4, 4), (below, 5, 1))
    assert len(faulty(judged).pooled) == 4
    found = by_key(cells("all", judged, ("hard",)), "background", "onset")
    assert found["dirty", "any"]["recall"]["n"] == 0
    row: Any
    (row,) = below_rows("all", judged, NAMED_LEVELS)
    assert (row["background"], row["level"], row["recall"]["n"], row["recall"]["rate"]) == ("dirty", "hard", 5, 0.2)
    assert sum(one.share.total for one in rows(judged, "mechanism")) == 4
    assert not any(one.share.total for one in group_rows(results((replace(below, level="harm"), 3, 1))))


def test_a_fault_of_the_level_harm_is_harmful_whatever_the_table_says() -> None:
    shares = {(row.name, row.level): row.share for row in group_rows(results((replace(FAULT, level="harm"), 3, 1)))}
    assert shares["harmful", "harm"].total == 3


def test_false_alarms_are_counted_by_background_and_other_configurations_apart() -> None:
    dirty, other = replace(HEALTHY, dirty=True), replace(HEALTHY, overrides=("learner.lr=0.001",))
    control = replace(HEALTHY, kind=Kind.CONTROL, inject=("slow_tool@11",))
    judged = results((HEALTHY, 10, 0), (dirty, 10, 3), (other, 10, 6), (control, 10, 1))
    found = by_key(false_alarm_rows("all", judged), "runs", "background")
    assert found["healthy", "clean"]["alarms"] == 6
    assert found["healthy", "clean"]["steps"] == 20 * STEPS
    assert found["healthy", "dirty"]["rate"] == pytest.approx(3 / (10 * STEPS) * 1000)
    assert found["healthy, other configuration", "clean"]["rate"] == pytest.approx(20.0)
    assert ("healthy, other configuration", "dirty") not in found, "there are no such runs"
    assert found["benign", BOTH]["alarms"] == 1


def trace(entry: Entry, alarms: tuple[Alarm, ...], *orders: GivenOrder) -> GuardTrace:
    """What the guard has made of a run."""
    return GuardTrace(entry.name, (), alarms, np.zeros(STEPS), np.zeros(STEPS), (), orders, ())


def test_orders_and_evidence_are_those_of_each_background() -> None:
    dirty = replace(HEALTHY, name="healthy-2", dirty=True)
    runs = run(HEALTHY), run(dirty), run(FAULT)
    order = GivenOrder(12, "lower the rate")
    draws = tuple(
        (trace(HEALTHY, ()), trace(dirty, (), *given), trace(FAULT, (Alarm(12, 30),))) for given in ((), (order,))
    )
    figures = background_figures(GuardScore(GuardSetup(References([]), ReferenceMode.THREE), runs, draws), ("hard",))
    assert figures["orders"] == {"clean": 0, "dirty": 1}
    listed: Any = figures["cells"]
    found = by_key(iter(listed), "evidence", "background", "onset")
    assert found["all", "clean", "any"]["recall"]["rate"] == 1.0
    assert found["telemetry", "clean", "any"]["recall"]["rate"] == 0.0
    details: Any = figures["by_fault"]
    assert {(row["by"], row["name"], row["background"]) for row in details} == {
        ("fault", "RF-1", "clean"), ("mechanism", "RF-1 outliers", "clean"),
    }  # fmt: skip


entries = st.builds(
    lambda level, dirty, below, first: replace(
        FAULT, level=level, dirty=dirty, below=below, onset=1 if first else ONSET, fork=0 if first else 10
    ),
    st.sampled_from(NAMED_LEVELS), st.booleans(), st.booleans(), st.booleans(),
)  # fmt: skip


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(entries, st.booleans()), max_size=40))
def test_cells_and_what_lies_below_add_up_to_all_runs(drawn: list[tuple[Entry, bool]]) -> None:
    judged = results(*((entry, 1, int(found)) for entry, found in drawn))
    levels = fault_levels(entry for entry, _ in drawn)
    found = by_key(cells("all", judged, levels), "level", "background", "onset")
    below = list(below_rows("all", judged, levels))
    for level in levels:
        parts = [found[level, background, "any"]["recall"] for background in BACKGROUNDS]
        both = found[level, BOTH, "any"]["recall"]
        assert sum(part["n"] for part in parts) == both["n"]
        assert found[level, BOTH, "step 1"]["recall"]["n"] <= both["n"]
        for part in (*parts, both):
            assert not part["n"] or part["low95"] <= part["rate"] <= part["high95"]
    whole = sum(found[level, BOTH, "any"]["recall"]["n"] for level in levels)
    assert whole + sum(row["recall"]["n"] for row in below if isinstance(row["recall"], dict)) == len(drawn)


def test_dirty_runs_have_keys_of_their_own_and_clean_ones_keep_theirs() -> None:
    dirty = replace(FAULT, dirty=True)
    assert fault_of(FAULT) == ("RF-1", "outliers", "hard")
    assert kind_of(FAULT) == ("addition", "grpo")
    assert fault_of(dirty) == ("RF-1", "outliers", "hard", "dirty")
    assert kind_of(dirty) == ("addition", "grpo", "dirty")
