"""A run's telemetry as residuals in spreads, step by step, live as in a recording. Pure; numpy, O(1) a step.

Against the profile for as long as that says what is usual; against the run's own past beyond the profile's last step,
and from a change on of which the guard was told, or which the prompts show.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray

from rftfm_ray.detection.reference.profile import Profile
from rftfm_ray.detection.reference.prompt_shift import DataShift
from rftfm_ray.detection.statistics.self_baseline import OwnPast
from rftfm_ray.signals.groups import OF_UPDATES, PROMPT_DEPENDENT, PROMPT_SIGNALS, REFUSED, TELEMETRY, WATCHED
from rftfm_ray.signals.scale import Scales
from rftfm_ray.signals.schema import INDEX, SIGNALS

Floats = NDArray[np.float64]

# A reference of the few steps before is worth less than one of many runs.
OWN_WEIGHT = 0.85

COLUMNS: tuple[str, ...] = (*TELEMETRY, *PROMPT_SIGNALS)
"""Signals of a residual: telemetry, and then the prompts."""
_SIGNALS = [SIGNALS[INDEX[name]] for name in COLUMNS]
_SCALES = Scales(COLUMNS)
_PLACES = np.array([INDEX[name] for name in COLUMNS])
_PROMPT_DEPENDENT = np.array([name in PROMPT_DEPENDENT for name in TELEMETRY])
# A sum of parts: what each weighs in it depends on the run, and changes with the scale of rewards.
_SUMS = ("loss",)
_OF_UPDATES = np.array([name in OF_UPDATES for name in COLUMNS])
_BY_ITSELF = np.array([(name in WATCHED and name not in _SUMS) or name in PROMPT_SIGNALS for name in COLUMNS])
# Without healthy runs of the task nothing says how shares of answers beyond a length follow the length, or what AdamW's
# moments remember of many steps.
_OF_A_TASK = ("short_rate", "long_rate", "update_ratio")
_FLOORS = np.array(
    [
        one.floor if by_itself and one.name not in _OF_A_TASK and np.isfinite(one.floor) else np.nan
        for one, by_itself in zip(_SIGNALS, _BY_ITSELF, strict=True)
    ]
)


def levels_of(values: Sequence[float] | Floats) -> Floats:
    """Levels (`COLUMNS`) on the scale that each signal is compared on, from a report's values; NaN where there is none,
    or it is no number, or it speaks of an update that was refused."""
    found = _SCALES.levels(np.asarray(values, np.float64)[_PLACES])
    if values[INDEX[REFUSED]] > 0:
        found[_OF_UPDATES] = np.nan
    return found


class Usual:
    """What a profile calls usual, as arrays: means and scales (steps, `COLUMNS`), NaN where it has no such signal.

    Without a profile a run is held against its own past from the start, each signal with no less spread than its floor.
    """

    def __init__(self, profile: Profile | None = None) -> None:
        self.steps = 0 if profile is None else profile.steps
        self.means, self.scales = (np.full((self.steps, len(COLUMNS)), np.nan) for _ in range(2))
        self.spreads = _FLOORS.copy() if profile is None else np.full(len(COLUMNS), np.nan)
        for place, name in enumerate(COLUMNS):
            signal = None if profile is None else profile.find(name)
            if signal is not None:
                self.spreads[place] = signal.spread
                self.means[:, place] = signal.mean
                self.scales[:, place] = signal.spread * np.sqrt(1 + 1 / np.array(signal.support))

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        # Detectors are copied every few steps; what never changes need not be.
        del memo
        return self


class _Part:
    """Some of the columns of one run: against the profile, or from some step on against their own past.

    Attributes:
        alone: whether they have left the profile.
        own: residuals of the newest step against the run's own past.
    """

    def __init__(self, usual: Usual, part: slice) -> None:
        self._usual, self._part = usual, part
        self.columns = COLUMNS[part]
        spreads = usual.spreads[part]
        # What no healthy run of the kind has measured is not judged.
        self._known, self._by_itself = np.isfinite(spreads), _BY_ITSELF[part]
        # No spread of the run's own is smaller than the profile's.
        self._past = OwnPast(np.nan_to_num(spreads, nan=1.0))
        self.alone, self.own = False, np.full(len(spreads), np.nan)

    def leave(self, forgotten: NDArray[np.bool_]) -> None:
        """Leave the profile for the run's own past, without that of some signals."""
        self.alone = True
        self._past.restart(forgotten)

    def add(self, step: int, levels: Floats) -> Floats:
        """Take the levels of a step; its residuals."""
        levels = np.where(self._known, levels, np.nan)
        self.own = np.where(self._by_itself, OWN_WEIGHT * self._past.add(levels), np.nan)
        self.alone = self.alone or step > self._usual.steps
        if self.alone:
            return self.own
        found: Floats = (levels - self._usual.means[step - 1, self._part]) / self._usual.scales[step - 1, self._part]
        return found


class Prompts:
    """What is asked in one run, and whether that has changed."""

    def __init__(self, usual: Usual) -> None:
        self._part, self._shift = _Part(usual, slice(len(TELEMETRY), None)), DataShift()

    def forget(self, signals: Sequence[str]) -> None:
        """A change was made on purpose. Prompts are drawn as before unless it was one of theirs."""
        told = np.array([name in signals for name in PROMPT_SIGNALS])
        if told.any():
            self._part.leave(told)

    def add(self, step: int, levels: Floats) -> tuple[Floats, bool]:
        """Take the levels (`COLUMNS`) of a step: residuals (`PROMPT_SIGNALS`), and whether a change is certain by now. What
        follows is held against the prompts of since then."""
        found = self._part.add(step, levels[len(TELEMETRY) :])
        changed = self._shift.add(found)
        if changed:
            self._part.leave(np.ones(len(PROMPT_SIGNALS), bool))
            found = self._part.own = np.full(len(PROMPT_SIGNALS), np.nan)
        return found, changed

    @property
    def own(self) -> Floats:
        """Residuals (`PROMPT_SIGNALS`) of the newest step against the run's own past, whatever else they are held against."""
        return self._part.own


class Residuals:
    """The residuals of one run."""

    def __init__(self, usual: Usual) -> None:
        self._part, self._prompts = _Part(usual, slice(len(TELEMETRY))), Prompts(usual)
        self._without_profile = usual.steps == 0

    def forget(self, signals: Sequence[str]) -> None:
        """A change was made on purpose: these signals have no reference any more, from the next step on.

        All other telemetry goes on against the run's own past too: what goes together must be held against one
        reference, and a policy that learns on after a change is not where healthy runs are without it. Where there was
        no profile all of it begins anew: how the others took the change is not known of this task.
        """
        self._prompts.forget(signals)
        told = np.array([name in signals for name in COLUMNS])
        if told.any():
            self._part.leave(told[: len(TELEMETRY)] | self._without_profile)

    def add(self, step: int, levels: Floats) -> Floats:
        """Take the levels (`COLUMNS`) of a step, counted from 1; its residuals, NaN where there is nothing to say."""
        found = self._part.add(step, levels[: len(TELEMETRY)])
        asked, changed = self._prompts.add(step, levels)
        if changed:
            self._part.leave(_PROMPT_DEPENDENT)
            found[_PROMPT_DEPENDENT] = np.nan
        # What the prompts explain must be measured by what it is taken from.
        return np.concatenate([found, self._prompts.own if self._part.alone else asked])
