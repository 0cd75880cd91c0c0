"""A run's telemetry as residuals in spreads, step by step, live as in a recording. Pure; numpy, O(1) a step.

Against the profile for as long as that says what is usual; against the run's own past beyond the profile's last step,
and from a change on of which the guard was told, or which the prompts show.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray

from rftfm_ray.detection.asked import ASKED, FOLLOWING, DataShift
from rftfm_ray.detection.detectors import level_of
from rftfm_ray.detection.evidence import TELEMETRY
from rftfm_ray.detection.own_past import OwnPast
from rftfm_ray.detection.profile import Profile
from rftfm_ray.detection.signals import INDEX, SIGNALS

Floats = NDArray[np.float64]

# Squares of larger values are no numbers any more.
LARGEST = 1e100
# A reference of the few steps before is worth less than one of many runs.
OWN_WEIGHT = 0.85

COLUMNS: tuple[str, ...] = (*TELEMETRY, *ASKED)
"""Signals of a residual: telemetry, and then the prompts."""
_SIGNALS = [SIGNALS[INDEX[name]] for name in COLUMNS]
_PLACES = np.array([INDEX[name] for name in COLUMNS])
_FOLLOWING = np.array([name in FOLLOWING for name in COLUMNS])
_TELEMETRY = np.arange(len(COLUMNS)) < len(TELEMETRY)
_NOTHING = np.zeros(len(COLUMNS), bool)


def levels_of(values: Sequence[float] | Floats) -> Floats:
    """Levels (`COLUMNS`) on the scale that each signal is compared on, from a report's values; NaN where there is none
    or it is no number."""
    found: Floats = np.asarray(values, np.float64)[_PLACES]
    for place in np.flatnonzero(np.isfinite(found)).tolist():
        found[place] = level_of(_SIGNALS[place], float(found[place]))
    found[~np.isfinite(found)] = np.nan
    return np.clip(found, -LARGEST, LARGEST)


class Usual:
    """What a profile calls usual, as arrays: means and scales (steps, `COLUMNS`), NaN where it has no such signal."""

    def __init__(self, profile: Profile) -> None:
        self.steps = profile.steps
        self.means, self.scales = (np.full((profile.steps, len(COLUMNS)), np.nan) for _ in range(2))
        self.spreads = np.full(len(COLUMNS), np.nan)
        for place, name in enumerate(COLUMNS):
            signal = profile.find(name)
            if signal is not None:
                self.spreads[place] = signal.spread
                self.means[:, place] = signal.mean
                self.scales[:, place] = signal.spread * np.sqrt(1 + 1 / np.array(signal.support))

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        # Detectors are copied every few steps; what never changes need not be.
        del memo
        return self


class Residuals:
    """The residuals of one run."""

    def __init__(self, usual: Usual) -> None:
        self._usual = usual
        self._known = np.isfinite(usual.spreads)
        # No spread of the run's own is smaller than the profile's.
        self._past = OwnPast(np.nan_to_num(usual.spreads, nan=1.0))
        self._prompts = DataShift()
        self._alone = np.zeros(len(COLUMNS), bool)

    def forget(self, signals: Sequence[str]) -> None:
        """A change was made on purpose: these signals have no reference any more, from the next step on.

        The others go on against the run's own past too: what goes together must be held against one reference, and a
        policy that learns on after a change is not where healthy runs are without it.
        """
        self._leave(np.array([name in signals for name in COLUMNS]))

    def _leave(self, forgotten: NDArray[np.bool_]) -> None:
        """Leave the profile for the run's own past, without that of some signals."""
        if forgotten.any():
            # Prompts are drawn as before unless the change was one of theirs.
            self._alone = self._alone | forgotten | _TELEMETRY
            self._past.restart(forgotten)

    def add(self, step: int, levels: Floats) -> Floats:
        """Take the levels (`COLUMNS`) of a step, counted from 1; its residuals, NaN where there is nothing to say."""
        # What no healthy run of the kind has measured is not judged.
        levels = np.where(self._known, levels, np.nan)
        own, beyond = OWN_WEIGHT * self._past.add(levels, _NOTHING), step > self._usual.steps
        self._alone = self._alone | beyond
        place = 0 if beyond else step - 1
        found = np.where(self._alone, own, (levels - self._usual.means[place]) / self._usual.scales[place])
        if self._prompts.add(found[len(TELEMETRY) :]):
            self._leave(_FOLLOWING)
            found[_FOLLOWING] = np.nan
        return found
