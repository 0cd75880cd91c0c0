"""Profiles of the kinds of runs that a benchmark has, and its runs as residuals against them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rftfm_ray.detection.detectors import level_of
from rftfm_ray.detection.evidence import TELEMETRY
from rftfm_ray.detection.fitting import RunSeries, fit
from rftfm_ray.detection.own_past import OwnPast
from rftfm_ray.detection.profile import Profile
from rftfm_ray.detection.signals import INDEX, SIGNALS
from rftfm_ray.errors import BenchError
from rftfm_ray.faultbench.dataset import NAMES, Recorded
from rftfm_ray.faultbench.declared import references_gone
from rftfm_ray.faultbench.plan import Entry, Kind

Floats = NDArray[np.float64]
CellName = tuple[str, str, str]


def cell_of(entry: Entry) -> CellName:
    """What runs must have in common to be held against one profile."""
    return entry.task, entry.algorithm, entry.size


def series(run: Recorded) -> RunSeries:
    """A recorded run as profiles are fitted to it."""
    values = run.values.astype(np.float64)
    steps = np.arange(1, len(run) + 1)
    return RunSeries(steps, {name: values[:, place] for place, name in enumerate(NAMES)}, run.entry.name)


def levels(run: Recorded, names: Sequence[str] = TELEMETRY) -> Floats:
    """Levels (N, names) on the scale that each signal is compared on; NaN where nothing was measured."""
    found = np.full((len(run), len(names)), np.nan)
    for place, name in enumerate(names):
        signal, column = SIGNALS[INDEX[name]], run.signal(name)
        there = np.isfinite(column)
        found[there, place] = [level_of(signal, value) for value in column[there].tolist()]
    return found


class Cells:
    """Profiles by cell, fitted to the healthy runs of some split."""

    def __init__(self, runs: Sequence[Recorded]) -> None:
        sound = [run for run in runs if run.entry.kind is Kind.HEALTHY]
        by_cell: dict[CellName, list[RunSeries]] = {}
        for run in sound:
            by_cell.setdefault(cell_of(run.entry), []).append(series(run))
        self._profiles = {cell: fit(found) for cell, found in by_cell.items()}

    def profile(self, entry: Entry) -> Profile:
        """The profile that a run is held against.

        Raises:
            BenchError: when no healthy run of its kind was there.
        """
        try:
            return self._profiles[cell_of(entry)]
        except KeyError:
            raise BenchError(f"There is no healthy run like {entry.name} to hold it against; make more.") from None

    def residuals(self, run: Recorded, names: Sequence[str] = TELEMETRY) -> Floats:
        """Residuals (N, names) in spreads around the step-matched mean; NaN where there is nothing to say.

        Beyond the profile's last step no healthy run has shown what is usual, and what a declared change moves is usual
        no more: from there on they are those of the run against its own past, that of before the change forgotten,
        with spreads that are never smaller than the profile's.
        """
        profile, known, gone = self.profile(run.entry), levels(run, names), references_gone(run.entry)
        found, spreads = np.full(known.shape, np.nan), np.ones(len(names))
        for place, name in enumerate(names):
            signal = profile.find(name)
            if signal is None:
                known[:, place] = np.nan
                continue
            mean, support = np.array(signal.mean), np.array(signal.support)
            within, spreads[place] = min(len(found), len(mean)), signal.spread
            scale = signal.spread * np.sqrt(1 + 1 / support[:within])
            found[:within, place] = (known[:within, place] - mean[:within]) / scale
        first = np.array([min(profile.steps + 1, gone.get(name, len(found) + 1)) for name in names])
        if (first <= len(found)).any():
            own = _against_own_past(known, spreads, np.array([gone.get(name, 0) for name in names]))
            later = np.arange(1, len(found) + 1)[:, None] >= first
            found[later] = own[later]
        return found


def _against_own_past(known: Floats, spreads: Floats, restarts: NDArray[np.int64]) -> Floats:
    """Residuals (N, names) of levels against the run's own past, which each signal forgets at a step (0: never)."""
    past, nothing = OwnPast(spreads), np.zeros(len(spreads), bool)
    found = np.empty_like(known)
    for place, step in enumerate(known):
        past.restart(restarts == place + 1)
        found[place] = past.add(step, nothing)
    return found
