"""Profiles of the kinds of runs that a benchmark has, and its runs as residuals against them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from rftfm_ray.detection.reference.correlation import FEWEST_RUNS
from rftfm_ray.detection.reference.fitting import RunSeries, fit, fit_profile
from rftfm_ray.detection.reference.priors import KindPriors, kind_of, learn_priors
from rftfm_ray.detection.reference.profile import Profile
from rftfm_ray.detection.reference.residuals import COLUMNS, Residuals, ResidualTable, Usual
from rftfm_ray.detection.reference.views import StepView
from rftfm_ray.errors import BenchError
from rftfm_ray.faultbench.runs.dataset import NAMES, Recorded
from rftfm_ray.faultbench.runs.declared import references_gone
from rftfm_ray.faultbench.runs.plan import Entry, Kind
from rftfm_ray.signals.groups import OF_UPDATES, REFUSED, TELEMETRY
from rftfm_ray.signals.scale import Scales

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
    """Levels (N, names) on the scale that each signal is compared on; NaN where nothing was measured, or of an update
    that was refused."""
    found = Scales(names).levels(np.stack([run.signal(name) for name in names], axis=1))
    refused = run.signal(REFUSED) > 0
    found[np.ix_(refused, np.array([name in OF_UPDATES for name in names]))] = np.nan
    return found


class Cells:
    """Profiles by cell, fitted to the healthy runs of some split."""

    def __init__(self, runs: Sequence[Recorded]) -> None:
        sound = [run for run in runs if run.entry.kind is Kind.HEALTHY]
        by_cell: dict[CellName, list[RunSeries]] = {}
        for run in sound:
            by_cell.setdefault(cell_of(run.entry), []).append(series(run))
        self._series = by_cell
        self._profiles = {cell: fit(found) for cell, found in by_cell.items()}
        self._usual: dict[CellName, Usual] = {}
        self._whole: dict[CellName, Profile] = {}
        self._priors: dict[tuple[str, str], KindPriors | None] = {}
        self._residuals: dict[Recorded, Floats] = {}

    def profile(self, entry: Entry) -> Profile:
        """The profile that a run is held against.

        Raises:
            BenchError: when no healthy run of its kind was there.
        """
        try:
            return self._profiles[cell_of(entry)]
        except KeyError:
            raise BenchError(f"There is no healthy run like {entry.name} to hold it against; make more.") from None

    def whole_profile(self, entry: Entry) -> Profile:
        """The profile as `rftfm profile fit` would write it from the same runs, with how their signals go together."""
        cell = cell_of(entry)
        if cell not in self._whole:
            priors, facts = self.priors(entry), self.profile(entry).facts
            self._whole[cell] = fit_profile(self._series[cell], facts, None if priors is None else priors.healthy)
        return self._whole[cell]

    def priors(self, entry: Entry) -> KindPriors | None:
        """What the healthy runs of the other tasks show of the algorithm's kind; None for too few."""
        key = entry.task, kind_of(self._series.get(cell_of(entry), ()))
        if key not in self._priors:
            others = [some for (task, _, _), some in self._series.items() if task != key[0] and kind_of(some) == key[1]]
            self._priors[key] = learn_priors(others) if sum(map(len, others)) >= FEWEST_RUNS else None
        return self._priors[key]

    def residuals(self, run: Recorded) -> Floats:
        """Residuals (N, `TELEMETRY`) of a run; see `all_residuals`."""
        return self.all_residuals(run)[:, : len(TELEMETRY)]

    def all_residuals(self, run: Recorded) -> Floats:
        """Residuals (N, `COLUMNS`) in spreads, as a guard that is told what was declared has them live; read only."""
        if run not in self._residuals:
            cell = cell_of(run.entry)
            if cell not in self._usual:
                self._usual[cell] = Usual(self.profile(run.entry))
            self._residuals[run] = view_of(run, Residuals(self._usual[cell])).residuals
            self._residuals[run].flags.writeable = False
        return self._residuals[run]


def view_of(run: Recorded, residuals: Residuals) -> StepView:
    """All steps of a run as a guard that is told what was declared views them."""
    declared, known = references_gone(run.entry), levels(run, COLUMNS)
    steps, tables = np.arange(1, len(run) + 1), list[ResidualTable]()
    bounds = sorted({1, *declared.values(), len(run) + 1})
    for first, end in itertools.pairwise(bounds):
        gone = [name for name, step in declared.items() if step == first]
        residuals.forget(gone)
        tables.append(residuals.over(steps[first - 1 : end - 1], known[first - 1 : end - 1]))
    parts = zip(*((table.residuals, table.own, table.prompts_changed) for table in tables), strict=True)
    against, own, changed = (np.concatenate(part) for part in parts)
    return StepView(steps, run.values.astype(np.float64), known, against, own, changed)


@lru_cache(maxsize=1)
def cells_with(runs: tuple[Recorded, ...]) -> Cells:
    """Profiles from these runs: everybody who is held against them asks for the same ones."""
    return Cells(runs)
