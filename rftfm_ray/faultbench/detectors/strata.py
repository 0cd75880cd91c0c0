"""Strata of a benchmark, their profiles, and recorded runs as a monitor views them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import fields
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from rftfm_ray.detection.reference.fitting import RunSeries, fit
from rftfm_ray.detection.reference.mixture import Reference
from rftfm_ray.detection.reference.profile import Profile
from rftfm_ray.detection.reference.views import StepView, StepViews
from rftfm_ray.errors import BenchError
from rftfm_ray.faultbench.runs.dataset import NAMES, Recorded
from rftfm_ray.faultbench.runs.declared import declarations, watched
from rftfm_ray.faultbench.runs.plan import Entry, Kind
from rftfm_ray.signals.groups import OF_UPDATES, REFUSED, TELEMETRY
from rftfm_ray.signals.scale import Scales
from rftfm_ray.verdicts import DeclaredChange

Floats = NDArray[np.float64]
Stratum = tuple[str, ...]


def stratum_of(entry: Entry) -> Stratum:
    """Task, algorithm, model size and background: what runs must have in common to be compared with one profile."""
    return entry.task, entry.algorithm, entry.size, *background_of(entry)


def background_of(entry: Entry) -> tuple[str, ...]:
    """Name of a run's background as a part of keys, which say nothing of a run without one."""
    return (entry.background,) if entry.dirty else ()


def healthy_by_stratum(runs: Sequence[Recorded]) -> dict[Stratum, list[Recorded]]:
    """The healthy runs of each stratum, by name; without those of other configurations."""
    strata: dict[Stratum, list[Recorded]] = {}
    for run in sorted(runs, key=lambda run: run.entry.name):
        if run.entry.kind is Kind.HEALTHY and not run.entry.overrides:
            strata.setdefault(stratum_of(run.entry), []).append(run)
    return strata


def series(run: Recorded) -> RunSeries:
    """A recorded run as profiles are fitted to it."""
    values = run.values.astype(np.float64)
    steps = np.arange(1, len(run) + 1)
    return RunSeries(steps, {name: values[:, column] for column, name in enumerate(NAMES)}, run.entry.name)


def levels(run: Recorded, names: Sequence[str] = TELEMETRY) -> Floats:
    """Values (N, names) on the scale that each signal is compared on; NaN where nothing was measured, or of an update
    that was refused."""
    table = Scales(names).levels(np.stack([run.signal(name) for name in names], axis=1))
    refused = run.signal(REFUSED) > 0
    table[np.ix_(refused, np.array([name in OF_UPDATES for name in names]))] = np.nan
    return table


def declared_changes(entry: Entry) -> dict[int, DeclaredChange]:
    """Changes that are declared to the guard of a run, by their first step."""
    return {declaration.id.step: declaration.change for declaration in declarations(entry, watched(entry))}


def view_of(run: Recorded, reference: Reference) -> StepView:
    """All steps of a run as the monitor views them, with what was declared."""
    views, changes = StepViews(reference), declared_changes(run.entry)
    steps, values = np.arange(1, len(run) + 1), run.values.astype(np.float64)
    bounds = sorted({0, *(step - 1 for step in changes), len(run)})
    pieces = list[StepView]()
    for start, end in itertools.pairwise(bounds):
        if start + 1 in changes:
            views.forget(changes[start + 1].signals)
        pieces.append(views.observe(steps[start:end], values[start:end]))
    return StepView(*(np.concatenate([getattr(piece, field.name) for piece in pieces]) for field in fields(StepView)))


def bare_reference(profile: Profile | None) -> Reference:
    """A reference for residuals alone, without a correlation model."""
    return Reference(profile, (), 1.0)


class Strata:
    """Profiles by stratum, fitted to the healthy runs of some split, and residuals against them."""

    def __init__(self, runs: Sequence[Recorded]) -> None:
        self._profiles = {
            stratum: fit([series(run) for run in healthy]) for stratum, healthy in healthy_by_stratum(runs).items()
        }
        self._residuals: dict[Recorded, Floats] = {}

    def profile(self, entry: Entry) -> Profile:
        """The profile that a run is compared with.

        Raises:
            BenchError: when there is no healthy run of its kind.
        """
        try:
            return self._profiles[stratum_of(entry)]
        except KeyError:
            raise BenchError(
                f"The calibrate split has no healthy run like {entry.name} to compare with; generate more runs."
            ) from None

    def residuals(self, run: Recorded) -> Floats:
        """Residuals (N, `TELEMETRY`) of a run in standard deviations, as a live monitor has them; read only."""
        if run not in self._residuals:
            view = view_of(run, bare_reference(self.profile(run.entry)))
            self._residuals[run] = view.residuals[:, : len(TELEMETRY)].copy()
            self._residuals[run].flags.writeable = False
        return self._residuals[run]


@lru_cache(maxsize=1)
def strata_of(runs: tuple[Recorded, ...]) -> Strata:
    """Profiles of these runs, shared by all detectors that use them."""
    return Strata(runs)
