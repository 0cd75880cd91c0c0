"""Thresholds: set on the tune split to a budget of false alarms, and the same way for every detector. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rftfm_ray.faultbench.detectors.baselines import Scorer
from rftfm_ray.faultbench.detectors.strata import Floats
from rftfm_ray.faultbench.runs.dataset import Recorded
from rftfm_ray.faultbench.runs.plan import Kind
from rftfm_ray.faultbench.scoring.judging import alarms_of, benign, false_alarms, healthy, judge

# Half of what is promised for 1,000 steps: what is set on a few thousand steps must hold on others.
HEALTHY_BUDGET, BENIGN_BUDGET = 0.5, 1.0


@dataclass(frozen=True, slots=True)
class Scored:
    """A run with its scores (N)."""

    run: Recorded
    scores: Floats


def score_all(scorer: Scorer, runs: Sequence[Recorded]) -> list[Scored]:
    """Scores of all runs."""
    return [Scored(run, scorer.scores(run)) for run in runs]


def tuned(scored: Sequence[Scored]) -> float:
    """The smallest threshold at which healthy runs and twins stay within their budgets; positive."""
    sound = [one for one in scored if one.run.entry.kind in (Kind.HEALTHY, Kind.LONG, Kind.TWIN)]
    # An alarm is raised at a score that some step has: nothing between two of them changes anything.
    candidates = np.unique(np.concatenate([one.scores[np.isfinite(one.scores)] for one in sound]))
    candidates = candidates[candidates > 0]
    low, high = 0, len(candidates)
    while low < high:
        middle = (low + high) // 2
        if _within(sound, _above(candidates, middle)):
            high = middle
        else:
            low = middle + 1
    return _above(candidates, min(low, len(candidates) - 1)) if len(candidates) else 1.0


def _above(candidates: Floats, place: int) -> float:
    """A little above a candidate, which then raises no alarm."""
    following = candidates[place + 1] if place + 1 < len(candidates) else candidates[place] * 1.1
    return float((candidates[place] + following) / 2)


def _within(scored: Sequence[Scored], threshold: float) -> bool:
    judged = [judge(one.run, alarms_of(one.scores, threshold)) for one in scored]
    return all(
        not some or false_alarms(some)["rate"] <= budget
        for some, budget in ((healthy(judged), HEALTHY_BUDGET), (benign(judged), BENIGN_BUDGET))
    )
