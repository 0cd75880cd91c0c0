"""The scorer without a profile: a task is judged by what healthy runs of other tasks have shown, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rftfm_ray.faultbench.detectors.unprofiled import ColdScorer
from rftfm_ray.faultbench.runs.dataset import NAMES, Recorded
from rftfm_ray.faultbench.scoring.judging import alarms_of
from tests.unit.doubles import recorded_runs

ONSET = 20
RUNS = [run for run in recorded_runs(4) if run.entry.size == "tiny"]
HERE, ELSEWHERE = ([run for run in RUNS if run.entry.task == task] for task in ("addition", "calculator"))
# Within what jumps of single signals need, as a fault that several signals show a little.
SHIFT = {"entropy": 0.12, "sampling_logprob_mean": -0.05}


def moved(run: Recorded) -> Recorded:
    """A run with a shift from `ONSET` on."""
    values = run.values.copy()
    for name, size in SHIFT.items():
        values[ONSET - 1 :, NAMES.index(name)] += size
    return Recorded(run.entry, run.outcome, values)


def found(scorer: ColdScorer, runs: list[Recorded]) -> int:
    """How many runs alarm from `ONSET` on, at the level."""
    return sum(any(alarm.raised >= ONSET for alarm in alarms_of(scorer.scores(run), 1.0)) for run in runs)


@pytest.fixture(scope="module")
def scorer() -> ColdScorer:
    """Fitted on both tasks."""
    found = ColdScorer()
    found.fit(RUNS)
    return found


def test_what_other_tasks_have_shown_finds_more_than_signals_one_by_one(scorer: ColdScorer) -> None:
    alone = ColdScorer()
    alone.fit(HERE)
    assert found(scorer, HERE) <= 1
    shifted = [moved(run) for run in HERE]
    assert found(scorer, shifted) >= found(alone, shifted) + 6


def test_runs_of_the_task_itself_teach_nothing(scorer: ColdScorer) -> None:
    """Nonsense among them changes no score."""
    rng = np.random.default_rng(0)
    nonsense = [replace(run, values=rng.normal(size=run.values.shape).astype(np.float32)) for run in HERE]
    # What tells whether there is a critic is left as it is.
    for run, true in zip(nonsense, HERE, strict=True):
        run.values[:, ~np.isfinite(true.values).any(0)] = np.nan
    other = ColdScorer()
    other.fit([*nonsense, *ELSEWHERE])
    np.testing.assert_array_equal(scorer.scores(HERE[0]), other.scores(HERE[0]))


def test_without_other_tasks_signals_are_watched_one_by_one() -> None:
    one, none = ColdScorer(), ColdScorer()
    one.fit(HERE)
    none.fit([])
    np.testing.assert_array_equal(one.scores(HERE[0]), none.scores(HERE[0]))
