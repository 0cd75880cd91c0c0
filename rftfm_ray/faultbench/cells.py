"""Profiles of the kinds of runs that a benchmark has, and its runs as residuals against them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rftfm_ray.detection.asked import ASKED, FOLLOWING, DataShift
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
WATCHED = (*TELEMETRY, *ASKED)
_FOLLOWING = np.array([name in FOLLOWING for name in WATCHED])
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

    def residuals(self, run: Recorded) -> Floats:
        """Residuals (N, `TELEMETRY`) of a run; see `watched`."""
        return self.watched(run)[:, : len(TELEMETRY)]

    def watched(self, run: Recorded) -> Floats:
        """Residuals (N, `WATCHED`) in spreads around the step-matched mean; NaN where there is nothing to say.

        Beyond the profile's last step no healthy run has shown what is usual, and what a change moves, declared or
        seen in the prompts, is usual no more: from there on they are those of the run against its own past, that of
        before the change forgotten, with spreads that are never smaller than the profile's.
        """
        profile, known = self.profile(run.entry), levels(run, WATCHED)
        found, spreads = _against(profile, known)
        # What no healthy run of the kind has measured is not judged.
        known[:, np.isnan(spreads)] = np.nan
        declared = references_gone(run.entry)
        past, prompts = OwnPast(np.nan_to_num(spreads, nan=1.0)), DataShift()
        gone, nothing = np.zeros(len(WATCHED), bool), np.zeros(len(WATCHED), bool)
        for place, step in enumerate(known):
            told = np.array([declared.get(name) == place + 1 for name in WATCHED]) if declared else nothing
            gone |= told | (place >= profile.steps)
            past.restart(told)
            found[place] = np.where(gone, past.add(step, nothing), found[place])
            if prompts.add(found[place, len(TELEMETRY) :]):
                gone |= _FOLLOWING
                past.restart(_FOLLOWING)
                found[place, _FOLLOWING] = np.nan
        return found


def _against(profile: Profile, known: Floats) -> tuple[Floats, Floats]:
    """Residuals (N, `WATCHED`) of levels against a profile, NaN beyond its end; and its spreads (`WATCHED`)."""
    found, spreads = np.full(known.shape, np.nan), np.full(len(WATCHED), np.nan)
    for place, name in enumerate(WATCHED):
        signal = profile.find(name)
        if signal is not None:
            mean, support = np.array(signal.mean), np.array(signal.support)
            within, spreads[place] = min(len(found), len(mean)), signal.spread
            scale = signal.spread * np.sqrt(1 + 1 / support[:within])
            found[:within, place] = (known[:within, place] - mean[:within]) / scale
    return found, spreads
