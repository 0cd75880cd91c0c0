"""The bound for telemetry: a CUSUM of the likelihood ratio that is told which fault to expect and what it shifts.

It knows the mean shift of the mechanism at its level and the covariance of healthy residuals, both from the calibrate
split, and looks for nothing else: its whole budget of false alarms goes to one fault. No detector that must watch for
all of them can do better on normal residuals than this, up to the error of what it was told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rftfm_ray.faultbench.cells import Cells, Floats
from rftfm_ray.faultbench.dataset import Recorded
from rftfm_ray.faultbench.plan import Entry, Kind
from rftfm_ray.faultbench.scoring import mechanism_of

# Steps from the effect on over which a shift is taken.
WINDOW = 10
# A residual beyond this says no more than this: healthy ones are not normal that far out.
LARGEST = 8.0

Fault = tuple[str, str, str]
Kinds = tuple[str, str]


def fault_of(entry: Entry) -> Fault:
    """Code, mechanism and level of an entry's fault."""
    return entry.code, mechanism_of(entry), entry.level


def kind_of(entry: Entry) -> Kinds:
    """What runs must have in common to measure the same signals."""
    return entry.task, entry.algorithm


@dataclass(frozen=True, slots=True)
class Told:
    """A shift (signals) in spreads, weighted by the inverse covariance (signals), and half of its squared length."""

    weighted: Floats
    half: float


class Clairvoyant:
    """Scores runs for one fault at a time.

    Args:
        runs: of the calibrate split, faulty and healthy.
    """

    def __init__(self, runs: Sequence[Recorded]) -> None:
        self._cells = Cells(runs)
        sound = [run for run in runs if run.entry.kind is Kind.HEALTHY]
        self._precision: Mapping[Kinds, Floats] = {
            kind: _precision([self._residuals(run) for run in sound if kind_of(run.entry) == kind])
            for kind in sorted({kind_of(run.entry) for run in sound})
        }
        healthy = {run.entry.seed: run for run in sound}
        found: dict[Fault, list[Floats]] = {}
        for run in runs:
            effect = run.outcome.effects[0] if run.entry.kind is Kind.FAULT else None
            if effect is not None and effect <= len(run):
                shift = self._shift(run, healthy[run.entry.seed], effect)
                found.setdefault(fault_of(run.entry), []).append(shift)
        self._shifts: dict[Fault, Floats] = {fault: np.stack(shifts).mean(0) for fault, shifts in found.items()}

    def _residuals(self, run: Recorded) -> Floats:
        return np.clip(np.nan_to_num(self._cells.residuals(run), nan=0.0), -LARGEST, LARGEST)

    def _shift(self, run: Recorded, healthy: Recorded, effect: int) -> Floats:
        steps = slice(effect - 1, min(effect - 1 + WINDOW, len(run), len(healthy)))
        apart: Floats = (self._residuals(run)[steps] - self._residuals(healthy)[steps]).mean(0)
        return apart

    def knows(self, fault: Fault) -> bool:
        """Whether the calibrate split has a run with it."""
        return fault in self._shifts

    def told(self, fault: Fault, entry: Entry) -> Told:
        """What it looks for in a run."""
        shift = self._shifts[fault]
        weighted: Floats = self._precision[kind_of(entry)] @ shift
        return Told(weighted, 0.5 * float(weighted @ shift))

    def scores(self, run: Recorded, fault: Fault) -> Floats:
        """Page's sum (N) of the log-likelihood ratios of the fault against health, in nats."""
        told, found, total = self.told(fault, run.entry), np.zeros(len(run)), 0.0
        for place, ratio in enumerate((self._residuals(run) @ told.weighted - told.half).tolist()):
            total = max(0.0, total + ratio)
            found[place] = total
        return found


def _precision(residuals: Sequence[Floats]) -> Floats:
    """Inverse of the shrunken covariance of healthy residuals (Ledoit and Wolf, Journal of Multivariate Analysis 88,
    2004); what never varies gets the spread of 1 that it is judged by."""
    from sklearn.covariance import LedoitWolf

    table = np.concatenate(residuals)
    # Residuals around a mean of few runs are too small by as much as it follows them.
    table = table * float(np.sqrt(len(residuals) / max(1, len(residuals) - 1)))
    covariance: NDArray[np.float64] = LedoitWolf(assume_centered=True).fit(table).covariance_
    still = np.flatnonzero(table.std(0) < 1e-6)
    covariance[still, still] = 1.0
    return np.linalg.inv(covariance).astype(np.float64)
