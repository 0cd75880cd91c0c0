"""Baseline detectors: outlier detection by scikit-learn, a three-sigma rule and the closed-form shift score.

All of them see telemetry only, as residuals against the same profiles, and score every step. Their thresholds are set
in the same way as the guard's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from rftfm_ray.detection.statistics.bayes import shift_factors
from rftfm_ray.faultbench.detectors.strata import Floats, Strata, strata_of
from rftfm_ray.faultbench.runs.dataset import Recorded
from rftfm_ray.faultbench.runs.plan import Kind
from rftfm_ray.signals.groups import TELEMETRY

WINDOW = 5
# Residuals are clipped here: a larger one is no stronger evidence.
LARGEST = 20.0


class Scorer(Protocol):
    """Gives every step of a run a score: the higher, the more it looks like a fault."""

    name: str

    def fit(self, runs: Sequence[Recorded]) -> None:
        """Learn what is healthy from the runs of the calibrate split."""

    def scores(self, run: Recorded) -> Floats:
        """Scores (N) of a run, each from its own and earlier steps only."""


class _OnResiduals:
    """Base of all baselines: residuals against profiles, with gaps set to 0 and outliers clipped."""

    def __init__(self) -> None:
        self._strata: Strata | None = None

    def fit(self, runs: Sequence[Recorded]) -> None:
        """Fit the profiles."""
        self._strata = strata_of(tuple(runs))

    def _residuals(self, run: Recorded) -> Floats:
        return np.clip(np.nan_to_num(self._fitted().residuals(run), nan=0.0), -LARGEST, LARGEST)

    def _fitted(self) -> Strata:
        if self._strata is None:
            raise ValueError("fit it first")
        return self._strata

    def _measured(self, run: Recorded) -> list[int]:
        """Columns of the signals in the profile of the run."""
        known = {signal.name for signal in self._fitted().profile(run.entry).signals}
        return [column for column, name in enumerate(TELEMETRY) if name in known]


class ThreeSigma(_OnResiduals):
    """The largest residual of any signal: a threshold of three is the three-sigma rule."""

    name = "three_sigma"

    def scores(self, run: Recorded) -> Floats:
        """Largest absolute residual of each step."""
        largest: Floats = np.abs(self._residuals(run)).max(1)
        return largest


class ShiftScore(_OnResiduals):
    """Log Bayes factor of a shift of the mean over the last steps, log-mean-exp over signals (see `severity`)."""

    name = "shift_score"

    def scores(self, run: Recorded) -> Floats:
        """Of the last `WINDOW` steps, fewer at the beginning."""
        residuals = self._residuals(run)
        # A signal that runs of this stratum never measure is not evidence against a shift.
        residuals = residuals[:, self._measured(run)]
        sums = np.cumsum(residuals, 0)
        sums[WINDOW:] -= sums[:-WINDOW].copy()
        count = np.minimum(np.arange(len(run)) + 1, WINDOW)[:, None]
        factors = shift_factors(sums, count.astype(np.float64))
        largest = factors.max(1)
        factor: Floats = largest + np.log(np.exp(factors - largest[:, None]).mean(1))
        # An alarm recovers at a share of its threshold, which must be positive for that: ln(1 + e^x) keeps the order.
        return np.logaddexp(0.0, factor)


class Outliers(_OnResiduals):
    """An outlier detector of scikit-learn on the residuals of single steps.

    Args:
        name: of the detector.
        make: an estimator with `fit` and `score_samples`, higher for what is more usual.
    """

    def __init__(self, name: str, make: Callable[[], Any]) -> None:
        super().__init__()
        self.name = name
        self._make = make
        self._model: Any = None
        self._usual = 0.0

    def fit(self, runs: Sequence[Recorded]) -> None:
        """Fit profiles, and the estimator to the healthy steps."""
        super().fit(runs)
        sound = np.concatenate([self._residuals(run) for run in runs if run.entry.kind is Kind.HEALTHY])
        self._model = self._make().fit(sound)
        self._usual = float(np.median(self._model.score_samples(sound)))

    def scores(self, run: Recorded) -> Floats:
        """How much less usual each step is than the median healthy one."""
        unusual: Floats = self._usual - self._model.score_samples(self._residuals(run))
        return np.maximum(unusual, 0.0)


def isolation_forest() -> Any:
    """As scikit-learn has it by default, with a seed."""
    from sklearn.ensemble import IsolationForest

    return IsolationForest(random_state=0)


def local_outlier_factor() -> Any:
    """As scikit-learn has it by default, for data that it has not been fitted to."""
    from sklearn.neighbors import LocalOutlierFactor

    return LocalOutlierFactor(novelty=True)


def baselines() -> tuple[Scorer, ...]:
    """All baselines, unfitted."""
    return (
        ThreeSigma(),
        ShiftScore(),
        Outliers("isolation_forest", isolation_forest),
        Outliers("local_outlier_factor", local_outlier_factor),
    )
