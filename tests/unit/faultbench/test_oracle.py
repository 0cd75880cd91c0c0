"""The oracle: it finds what it is told of sooner than what must watch for everything, within the same budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from rftfm_ray.faultbench.detectors.baselines import ShiftScore, ThreeSigma
from rftfm_ray.faultbench.detectors.oracle import LARGEST_SIZE, Oracle
from rftfm_ray.faultbench.detectors.shifts import Fault, fault_of
from rftfm_ray.faultbench.runs.dataset import NAMES, Outcome, Recorded
from rftfm_ray.faultbench.runs.plan import Entry, Kind, Split
from rftfm_ray.faultbench.scoring.judging import Results, delay, false_alarms, recall
from rftfm_ray.faultbench.scoring.score import DetectorScore
from rftfm_ray.faultbench.scoring.thresholds import ScoredRun, score_all, tuned_threshold
from rftfm_ray.signals.groups import TELEMETRY

MEASURED = ("reward_mean", "correct_rate", "entropy", "length_mean")
PLACES = [NAMES.index(name) for name in MEASURED]
STEPS, ONSET = 40, 16


def simulated(seed: int, shift: float = 0.0) -> Recorded:
    """A run in which rewards follow the share of right answers closely; a fault shifts the rewards alone."""
    rng = np.random.default_rng(seed)
    right = 0.5 + 0.05 * rng.normal(size=STEPS)
    values = np.full((STEPS, len(NAMES)), np.nan, np.float32)
    values[:, PLACES] = np.stack(
        [right + 0.01 * rng.normal(size=STEPS), right, *(1 + 0.1 * rng.normal(size=(2, STEPS)))], 1
    )
    healthy = Entry(f"healthy-{seed}", Kind.HEALTHY, Split.CALIBRATE, seed, "addition", "grpo", "tiny", STEPS)
    if not shift:
        return Recorded(healthy, Outcome((), ()), values)
    values[ONSET - 1 :, PLACES[0]] += 0.05 * shift
    entry = replace(
        healthy, name=f"RF-1-{seed}", kind=Kind.FAULT, inject=("RF-1@16:hard,mechanism=outliers",), level="hard",
        onset=ONSET,
    )  # fmt: skip
    return Recorded(entry, Outcome((ONSET,), (ONSET,)), values)


CALIBRATE = [simulated(seed) for seed in range(12)] + [simulated(seed, 1.5) for seed in range(4)]
TUNE = [simulated(seed) for seed in range(1000, 1100)]
FAULTY = [simulated(seed, 1.5) for seed in range(3000, 3040)]


FAULT = fault_of(FAULTY[0].entry)


def scored(oracle: Oracle, runs: Sequence[Recorded], fault: Fault = FAULT) -> list[ScoredRun]:
    """Scores of runs by an oracle that was told of one fault."""
    return [ScoredRun(run, oracle.scores(run, fault)) for run in runs]


def soon(results: Results) -> int:
    """How many runs are found at most two steps after the effect."""
    return sum(run.delay is not None and run.delay <= 2 for run in results.pooled if run.is_detected)


def test_it_finds_at_once_what_no_other_detector_sees_in_time() -> None:
    oracle = Oracle(CALIBRATE)
    threshold = tuned_threshold([scored(oracle, TUNE)])
    assert soon(DetectorScore("oracle", scored(oracle, FAULTY), threshold).results()) >= 38
    fresh = scored(oracle, [simulated(seed) for seed in range(2000, 2100)])
    assert false_alarms(DetectorScore("oracle", fresh, threshold).results())["rate"] < 3.0
    for other in (ThreeSigma(), ShiftScore()):
        other.fit(CALIBRATE)
        limit = tuned_threshold([score_all(other, TUNE)])
        results = DetectorScore(other.name, score_all(other, FAULTY), limit).results()
        assert recall(results).count < 38 or delay(results).median > 2


def test_it_knows_what_the_calibrate_split_has() -> None:
    oracle = Oracle(CALIBRATE)
    assert oracle.knows(("RF-1", "outliers", "hard"))
    assert not oracle.knows(("RF-1", "outliers", "easy"))
    expected = oracle.expected(("RF-1", "outliers", "hard"), FAULTY[0].entry)
    # Rewards alone have moved, and what goes with them has not.
    assert 5 < expected.half <= 0.5 * LARGEST_SIZE**2
    weights = dict(zip(MEASURED, expected.weighted[[TELEMETRY.index(name) for name in MEASURED]], strict=True))
    assert weights["reward_mean"] > 5 * abs(weights["entropy"])


def test_scores_know_nothing_of_later_steps() -> None:
    oracle, run = Oracle(CALIBRATE), FAULTY[0]
    early = replace(run, values=run.values[:20])
    assert oracle.scores(run, FAULT)[:20] == pytest.approx(oracle.scores(early, FAULT))


def test_a_fault_that_is_smaller_than_expected_is_found_all_the_same() -> None:
    """Told of twelve standard deviations, as of another task: half of that would be evidence against it."""
    oracle = Oracle([simulated(seed) for seed in range(12)] + [simulated(seed, 2.4) for seed in range(4)])
    small = [simulated(seed, 0.8) for seed in range(3000, 3020)]
    threshold = tuned_threshold([scored(oracle, TUNE)])
    assert recall(DetectorScore("oracle", scored(oracle, small), threshold).results()).count >= 18
