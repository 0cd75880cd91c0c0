"""The bound: it finds what it is told of sooner than who must watch for everything, within the same budget."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rftfm_ray.faultbench.detectors.baselines import ShiftScore, ThreeSigma
from rftfm_ray.faultbench.detectors.oracle import Clairvoyant
from rftfm_ray.faultbench.detectors.shifts import fault_of
from rftfm_ray.faultbench.runs.dataset import NAMES, Outcome, Recorded
from rftfm_ray.faultbench.runs.plan import Entry, Kind, Split
from rftfm_ray.faultbench.scoring.judging import alarms_of, false_alarms, judge
from rftfm_ray.faultbench.scoring.thresholds import Scored, score_all, tuned
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


def test_it_finds_at_once_what_nobody_else_sees_in_time() -> None:
    bound = Clairvoyant(CALIBRATE)
    fault = fault_of(FAULTY[0].entry)
    threshold = tuned([Scored(run, bound.scores(run, fault)) for run in TUNE])
    judged = [judge(run, alarms_of(bound.scores(run, fault), threshold)) for run in FAULTY]
    assert sum(run.found and run.delay is not None and run.delay <= 2 for run in judged) >= 38
    fresh = [simulated(seed) for seed in range(2000, 2100)]
    sound = [judge(run, alarms_of(bound.scores(run, fault), threshold)) for run in fresh]
    assert false_alarms(sound)["rate"] < 3.0
    for other in (ThreeSigma(), ShiftScore()):
        other.fit(CALIBRATE)
        level = tuned(score_all(other, TUNE))
        found = [judge(one.run, alarms_of(one.scores, level)) for one in score_all(other, FAULTY)]
        late = [run.delay for run in found if run.delay is not None]
        assert sum(run.found for run in found) < 38 or np.median(late) > 2


def test_it_knows_what_the_calibrate_split_has() -> None:
    bound = Clairvoyant(CALIBRATE)
    assert bound.knows(("RF-1", "outliers", "hard"))
    assert not bound.knows(("RF-1", "outliers", "easy"))
    told = bound.told(("RF-1", "outliers", "hard"), FAULTY[0].entry)
    # Rewards alone have moved, and what goes with them has not.
    assert told.half > 5
    weights = dict(zip(MEASURED, told.weighted[[TELEMETRY.index(name) for name in MEASURED]], strict=True))
    assert weights["reward_mean"] > 5 * abs(weights["entropy"])


def test_scores_know_nothing_of_later_steps() -> None:
    bound, run = Clairvoyant(CALIBRATE), FAULTY[0]
    early = replace(run, values=run.values[:20])
    fault = fault_of(run.entry)
    assert bound.scores(run, fault)[:20] == pytest.approx(bound.scores(early, fault))


def test_a_fault_that_is_less_than_was_told_is_found_all_the_same() -> None:
    """Told of twelve spreads, as of another task: half of that would be evidence against it."""
    told = Clairvoyant([simulated(seed) for seed in range(12)] + [simulated(seed, 2.4) for seed in range(4)])
    fault, small = fault_of(FAULTY[0].entry), [simulated(seed, 0.8) for seed in range(3000, 3020)]
    threshold = tuned([Scored(run, told.scores(run, fault)) for run in TUNE])
    judged = [judge(run, alarms_of(told.scores(run, fault), threshold)) for run in small]
    assert sum(run.found for run in judged) >= 18
