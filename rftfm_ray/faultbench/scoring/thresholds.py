"""Sets thresholds on the tune split to half of the promised false-alarm budget, in the same way for every detector."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from rftfm_ray.faultbench.detectors.alarms import alarms_of
from rftfm_ray.faultbench.detectors.baselines import Scorer
from rftfm_ray.faultbench.detectors.strata import Floats
from rftfm_ray.faultbench.runs.dataset import Recorded
from rftfm_ray.faultbench.runs.plan import is_without_fault
from rftfm_ray.faultbench.scoring.judging import Results, benign, false_alarms, healthy, result_of

# False alarms in 1,000 steps: half of the promise, because thresholds from a few thousand steps must hold on others.
HEALTHY_BUDGET, BENIGN_BUDGET = 0.5, 1.0
# Multipliers that are tried: from a quarter to sixteen times the thresholds that theory gives, one percent apart.
MULTIPLIERS = np.exp(np.arange(math.log(0.25), math.log(16.0), 0.01))
# First by steps of so many of them.
STRIDE = 8


@dataclass(frozen=True, slots=True)
class ScoredRun:
    """A run with its scores (N)."""

    run: Recorded
    scores: Floats


def score_all(scorer: Scorer, runs: Sequence[Recorded]) -> list[ScoredRun]:
    """Scores of all runs."""
    return [ScoredRun(run, scorer.scores(run)) for run in runs]


def tuned_threshold(draws: Sequence[Sequence[ScoredRun]]) -> float:
    """The smallest threshold of scores at which healthy runs and benign controls stay within their budgets; positive.

    Args:
        draws: scores of the same runs by draw of their reference; one for a detector that has one reference only.
    """
    sound = [[run for run in draw if is_without_fault(run.run.entry)] for draw in draws]
    # An alarm is raised at the score of some step, so thresholds between two scores are equivalent.
    candidates = np.unique(np.concatenate([run.scores[np.isfinite(run.scores)] for draw in sound for run in draw]))
    candidates = candidates[candidates > 0]
    low, high = 0, len(candidates)
    while low < high:
        middle = (low + high) // 2
        threshold = _above(candidates, middle)
        results = [tuple(result_of(run.run, alarms_of(run.scores, threshold)) for run in draw) for draw in sound]
        if is_within_budget(Results(tuple(results))):
            high = middle
        else:
            low = middle + 1
    return _above(candidates, min(low, len(candidates) - 1)) if len(candidates) else 1.0


def _above(candidates: Floats, index: int) -> float:
    """A threshold a little above a candidate, which then raises no alarm."""
    following = candidates[index + 1] if index + 1 < len(candidates) else candidates[index] * 1.1
    return float((candidates[index] + following) / 2)


def tuned_multiplier(results_at: Callable[[float], Results]) -> float:
    """The smallest of `MULTIPLIERS` at and above which healthy runs and benign controls stay within their budgets.

    Some alarms do not depend on the multiplier. Where these exceed a budget, it is the smallest multiplier with no more
    false alarms than the largest. The search starts at the largest, because more alarms take more time.

    Args:
        results_at: results of the runs without a fault at a multiplier.
    """
    least = results_at(float(MULTIPLIERS[-1]))
    high = len(MULTIPLIERS) - 1
    for stride in (STRIDE, 1):
        while high >= stride and is_within_budget(results_at(float(MULTIPLIERS[high - stride])), least):
            high -= stride
    return round(float(MULTIPLIERS[high]), 3)


def is_within_budget(results: Results, least: Results | None = None) -> bool:
    """Whether false alarms are within both budgets, or no more than in the results `least`."""
    return all(
        not chosen(results).pooled
        or false_alarms(chosen(results))["rate"] <= max(budget, _rate(chosen, least))
        for chosen, budget in ((healthy, HEALTHY_BUDGET), (benign, BENIGN_BUDGET))
    )  # fmt: skip


def _rate(chosen: Callable[[Results], Results], least: Results | None) -> float:
    return 0.0 if least is None or not chosen(least).pooled else false_alarms(chosen(least))["rate"]
