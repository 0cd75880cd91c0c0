"""The oracle detector: a CUSUM of the likelihood ratio that is told which fault to expect and what it shifts.

It knows the mean shift of the mechanism at its level and the covariance of healthy residuals, both from the calibrate
split, and tests for nothing else, so its full budget of false alarms goes to one fault. On normal residuals no
telemetry detector that watches for all faults does better, up to the error of the oracle's estimates. A shift longer
than `LARGEST_SIZE` standard deviations is shortened to that size: a fault that still grows, or that is smaller on
another task, would otherwise count as evidence against itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rftfm_ray.faultbench.detectors.shifts import LARGEST, Fault, Kinds, kind_of, mean_shifts
from rftfm_ray.faultbench.detectors.strata import Floats, strata_of
from rftfm_ray.faultbench.runs.dataset import Recorded
from rftfm_ray.faultbench.runs.plan import Entry, Kind

# The longest shift that is tested for, in standard deviations.
LARGEST_SIZE = 5.0


@dataclass(frozen=True, slots=True)
class ExpectedShift:
    """A shift (signals) in standard deviations, weighted by the inverse covariance (signals), and half of its squared
    length, both for a shift of at most `LARGEST_SIZE`."""

    weighted: Floats
    half: float


class Oracle:
    """Scores runs for one fault at a time.

    Args:
        runs: of the calibrate split, faulty and healthy.
    """

    def __init__(self, runs: Sequence[Recorded]) -> None:
        self._strata = strata_of(tuple(runs))
        sound = [run for run in runs if run.entry.kind is Kind.HEALTHY]
        self._precision: Mapping[Kinds, Floats] = {
            kind: _precision([self.residuals(run) for run in sound if kind_of(run.entry) == kind])
            for kind in sorted({kind_of(run.entry) for run in sound})
        }
        self._shifts = mean_shifts(runs, self._strata.residuals)

    def residuals(self, run: Recorded) -> Floats:
        """Residuals (N, signals) of a run in standard deviations, 0 where nothing was measured."""
        return np.clip(np.nan_to_num(self._strata.residuals(run), nan=0.0), -LARGEST, LARGEST)

    def knows(self, fault: Fault) -> bool:
        """Whether the calibrate split has a run with it."""
        return fault in self._shifts

    def expected(self, fault: Fault, entry: Entry) -> ExpectedShift:
        """The shift that it tests a run for."""
        shift = self._shifts[fault]
        weighted: Floats = self._precision[kind_of(entry)] @ shift
        length = float(np.sqrt(weighted @ shift))
        size = min(length, LARGEST_SIZE)
        return ExpectedShift(weighted * (size / length if length else 0.0), 0.5 * size * size)

    def scores(self, run: Recorded, fault: Fault) -> Floats:
        """Page's sum (N) of the log-likelihood ratios of the fault against health, in nats."""
        return self.sums(run.entry, self.residuals(run), fault)

    def sums(self, entry: Entry, residuals: Floats, fault: Fault) -> Floats:
        """The same from given residuals, which are the same for every fault."""
        expected, sums, total = self.expected(fault, entry), np.zeros(len(residuals)), 0.0
        for row, ratio in enumerate((residuals @ expected.weighted - expected.half).tolist()):
            total = max(0.0, total + ratio)
            sums[row] = total
        return sums


def _precision(residuals: Sequence[Floats]) -> Floats:
    """Inverse of the shrunken covariance of healthy residuals (Ledoit and Wolf, Journal of Multivariate Analysis 88,
    2004); a signal that never varies gets a standard deviation of 1."""
    from sklearn.covariance import LedoitWolf

    table = np.concatenate(residuals)
    # Residuals around the mean of few runs are too small, because the mean follows them.
    table = table * float(np.sqrt(len(residuals) / max(1, len(residuals) - 1)))
    covariance: NDArray[np.float64] = LedoitWolf(assume_centered=True).fit(table).covariance_
    still = np.flatnonzero(table.std(0) < 1e-6)
    covariance[still, still] = 1.0
    return np.linalg.inv(covariance).astype(np.float64)
