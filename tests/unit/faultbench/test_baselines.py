"""Baselines and thresholds on simulated runs: a shift is found, healthy runs stay within the budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from rftfm_ray.errors import BenchError
from rftfm_ray.faultbench.detectors.alarms import alarms_of
from rftfm_ray.faultbench.detectors.baselines import Scorer, baselines
from rftfm_ray.faultbench.detectors.strata import Strata
from rftfm_ray.faultbench.runs.dataset import NAMES, Outcome, Recorded
from rftfm_ray.faultbench.runs.plan import Entry, Kind, Split
from rftfm_ray.faultbench.scoring.judging import false_alarms, recall
from rftfm_ray.faultbench.scoring.score import DetectorScore
from rftfm_ray.faultbench.scoring.thresholds import ScoredRun, score_all, tuned_threshold
from rftfm_ray.signals.groups import TELEMETRY

MEASURED = ("reward_mean", "entropy", "length_mean", "empty_rate", "grad_norm")
PLACES = [NAMES.index(name) for name in MEASURED]
STEPS, ONSET = 40, 21


def simulated(seed: int, shift: float = 0.0, kind: Kind = Kind.HEALTHY) -> Recorded:
    """A run whose signals follow one course, with noise of a tenth; from `ONSET` on they are shifted, in spreads."""
    rng = np.random.default_rng(seed)
    values = np.full((STEPS, len(NAMES)), np.nan, np.float32)
    course = np.linspace(1.0, 2.0, STEPS)[:, None]
    values[:, PLACES] = course + 0.1 * rng.normal(size=(STEPS, len(MEASURED)))
    values[ONSET - 1 :, PLACES] -= 0.1 * shift
    inject = ("OD-3@21:easy,mechanism=cold_sampler",) if shift else ()
    entry = Entry(
        f"{kind}-{seed}", kind, Split.REPORT, seed, "addition", "grpo", "tiny", STEPS, inject, "", ONSET * bool(shift)
    )
    outcome = Outcome((ONSET,), (ONSET,)) if shift else Outcome((), ())
    return Recorded(entry, outcome, values)


HEALTHY = [simulated(seed) for seed in range(20)]
TUNE = [simulated(seed) for seed in range(1000, 1100)]


@pytest.fixture(scope="module", params=baselines(), ids=lambda scorer: str(scorer.name))
def scorer(request: pytest.FixtureRequest) -> Scorer:
    """A baseline that is fitted."""
    scorer: Scorer = request.param
    scorer.fit(HEALTHY)
    return scorer


@pytest.fixture(scope="module")
def tune(scorer: Scorer) -> list[ScoredRun]:
    """Its scores of the runs that thresholds are tuned on."""
    return score_all(scorer, TUNE)


def detected_share(scorer: Scorer, threshold: float, runs: Sequence[Recorded]) -> float:
    """The share of runs that is found."""
    return recall(DetectorScore(scorer.name, score_all(scorer, runs), threshold).results()).rate


def test_large_shift_is_found_at_a_threshold_that_keeps_to_its_budget(scorer: Scorer, tune: list[ScoredRun]) -> None:
    threshold = tuned_threshold([tune])
    fresh = score_all(scorer, [simulated(seed) for seed in range(2000, 2100)])
    assert false_alarms(DetectorScore(scorer.name, fresh, threshold).results())["rate"] < 2.0
    faulty = [simulated(seed, 12.0, Kind.FAULT) for seed in range(300, 310)]
    assert detected_share(scorer, threshold, faulty) > 0.8
    assert detected_share(scorer, threshold, [simulated(seed, 0.3, Kind.FAULT) for seed in range(300, 310)]) < 0.5


def test_scores_know_nothing_of_later_steps(scorer: Scorer) -> None:
    run = simulated(7, 10.0, Kind.FAULT)
    early = replace(run, values=run.values[:ONSET])
    np.testing.assert_allclose(scorer.scores(run)[:ONSET], scorer.scores(early))


def test_threshold_is_the_smallest_that_will_do(tune: list[ScoredRun]) -> None:
    threshold = tuned_threshold([tune])
    alarms = [len(alarms_of(one.scores, threshold)) for one in tune]
    # Two in 4,000 steps are all that half of the budget allows.
    assert sum(alarms) <= 2
    lower = [len(alarms_of(one.scores, threshold * 0.8)) for one in tune]
    assert sum(lower) > 2


def test_residuals_are_those_of_the_profile() -> None:
    strata = Strata(HEALTHY)
    residuals = np.concatenate([strata.residuals(run) for run in TUNE])
    column = TELEMETRY.index("entropy")
    assert np.nanmean(residuals[:, column]) == pytest.approx(0.0, abs=0.1)
    assert np.nanstd(residuals[:, column]) == pytest.approx(1.0, abs=0.1)
    assert np.isnan(residuals[:, TELEMETRY.index("value_loss")]).all()
    other = replace(TUNE[0], entry=replace(TUNE[0].entry, algorithm="ppo"))
    with pytest.raises(BenchError, match="no healthy run like"):
        strata.residuals(other)


def test_what_nobody_measures_on_its_own_is_no_telemetry() -> None:
    assert {"reward_mean", "update_ratio", "value_loss", "rollout_kl"} <= set(TELEMETRY)
    others = ("probe_accuracy", "advantage_error", "regrade_mismatch_rate", "lr", "tool_latency_s", "weights_mismatch")
    assert not set(others) & set(TELEMETRY)
