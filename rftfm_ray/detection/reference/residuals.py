"""A run's telemetry as residuals in standard deviations, in chunks of any length, live as in a recording. Pure; numpy.

Against the profile for as long as that says what is usual; against the run's own past beyond the profile's last step,
and from a change on that was declared, or that the prompts show.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from rftfm_ray.detection.reference.profile import Profile
from rftfm_ray.detection.reference.prompt_shift import DataShift
from rftfm_ray.detection.stateful import Kind, Stateful
from rftfm_ray.detection.statistics.recursions import MANY
from rftfm_ray.detection.statistics.self_baseline import OwnPast
from rftfm_ray.signals.groups import OF_UPDATES, PROMPT_DEPENDENT, PROMPT_SIGNALS, REFUSED, TELEMETRY, WATCHED
from rftfm_ray.signals.scale import Scales
from rftfm_ray.signals.schema import INDEX, SIGNALS

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]

# A reference of the few steps before is worth less than one of many runs.
OWN_WEIGHT = 0.85
# Steps after which it is looked at whether the prompts have changed: what comes after such a step is worked out again.
SEGMENT = MANY

COLUMNS: tuple[str, ...] = (*TELEMETRY, *PROMPT_SIGNALS)
"""Signals of a residual: telemetry, and then the prompts."""
_SIGNALS = [SIGNALS[INDEX[name]] for name in COLUMNS]
_SCALES = Scales(COLUMNS)
_INDICES = np.array([INDEX[name] for name in COLUMNS])
_TELEMETRY, _ASKED = slice(len(TELEMETRY)), slice(len(TELEMETRY), None)
_MOVED_BY_PROMPTS = np.array([name in PROMPT_DEPENDENT or name in PROMPT_SIGNALS for name in COLUMNS])
# A sum of parts: what each weighs in it depends on the run, and changes with the scale of rewards.
_SUMS = ("loss",)
_OF_UPDATES = np.array([name in OF_UPDATES for name in COLUMNS])
_HAS_OWN_PAST = np.array([(name in WATCHED and name not in _SUMS) or name in PROMPT_SIGNALS for name in COLUMNS])
# Without healthy runs of the task nothing says how shares of answers beyond a length follow the length, or what AdamW's
# moments remember of many steps.
_TASK_SPECIFIC = ("short_rate", "long_rate", "update_ratio")
_FLOORS = np.array(
    [
        one.floor if has_past and one.name not in _TASK_SPECIFIC and np.isfinite(one.floor) else np.nan
        for one, has_past in zip(_SIGNALS, _HAS_OWN_PAST, strict=True)
    ]
)


def levels_of(values: Sequence[float] | Floats) -> Floats:
    """Levels (..., `COLUMNS`) on the scale that each signal is compared on, from values (..., signals) of reports; NaN
    where there is none, or it is not a number, or it speaks of an update that was refused."""
    table = np.asarray(values, np.float64)
    levels = _SCALES.levels(table[..., _INDICES])
    refused = table[..., INDEX[REFUSED]] > 0
    levels[refused[..., None] & _OF_UPDATES] = np.nan
    return levels


class Usual:
    """What a profile calls usual, as arrays: means and scales (steps, `COLUMNS`), NaN where it has no such signal.

    Without a profile a run is compared with its own past from the start, each signal with no less spread than its
    floor.
    """

    def __init__(self, profile: Profile | None = None) -> None:
        self.steps = 0 if profile is None else profile.steps
        self.means, self.scales = (np.full((self.steps, len(COLUMNS)), np.nan) for _ in range(2))
        self.spreads = _FLOORS.copy() if profile is None else np.full(len(COLUMNS), np.nan)
        signals = {} if profile is None else {signal.name: signal for signal in profile.signals}
        for column, name in enumerate(COLUMNS):
            if name in signals:
                signal = signals[name]
                self.spreads[column] = signal.spread
                self.means[:, column] = signal.mean
                self.scales[:, column] = signal.spread * np.sqrt(1 + 1 / np.array(signal.support))


@dataclass(frozen=True, slots=True)
class ResidualTable:
    """N steps.

    Attributes:
        residuals: (N, `COLUMNS`) against the profile while it applies, else against the run's own past; NaN where
            there is nothing to say.
        own: (N, `COLUMNS`) against the run's own past throughout.
        prompts_changed: (N) whether a change of the prompts became certain at the step.
    """

    residuals: Floats
    own: Floats
    prompts_changed: Mask


class Residuals(Stateful):
    """The residuals of one run.

    Args:
        usual: what a profile calls usual; `Usual()` without one.
    """

    STATE: ClassVar[Mapping[str, Kind]] = {
        "_past": Kind.PART, "_shift": Kind.PART, "_telemetry_alone": Kind.BOOL, "_prompts_alone": Kind.BOOL,
    }  # fmt: skip

    def __init__(self, usual: Usual) -> None:
        self._usual = usual
        # What no healthy run of the kind has measured is not judged.
        self._known = np.isfinite(usual.spreads)
        # No spread of the run's own is smaller than the profile's.
        self._past, self._shift = OwnPast(np.nan_to_num(usual.spreads, nan=1.0)), DataShift()
        # Whether telemetry, and the prompts, are compared with the run's own past alone by now.
        self._telemetry_alone = self._prompts_alone = False

    def forget(self, signals: Sequence[str]) -> None:
        """A change was made on purpose: these signals have no reference any more, from the next step on.

        All other telemetry goes on against the run's own past too: what goes together must be compared with one
        reference, and a policy that learns on after a change is not where healthy runs are without it. Where there was
        no profile all of it starts again: how the others took the change is not known of this task. Prompts are drawn
        as before unless the change was one of theirs.
        """
        gone = np.array([name in signals for name in COLUMNS])
        if not gone.any():
            return
        self._telemetry_alone = True
        self._prompts_alone = self._prompts_alone or bool(gone[_ASKED].any())
        if not self._usual.steps:
            gone[_TELEMETRY] = True
        self._past.restart(gone)

    def add(self, step: int, levels: Floats) -> Floats:
        """Take the levels (`COLUMNS`) of a step, counted from 1; its residuals (`COLUMNS`)."""
        residuals: Floats = self.over(np.array([step]), levels[None]).residuals[0]
        return residuals

    def over(self, steps: Ints, levels: Floats) -> ResidualTable:
        """Take many steps (N), counted from 1, with their levels (N, `COLUMNS`); the same as one by one."""
        residuals, own = (np.full(levels.shape, np.nan) for _ in range(2))
        table = ResidualTable(residuals, own, np.zeros(len(levels), bool))
        known, start = np.where(self._known, levels, np.nan), 0
        while start < len(steps):
            start += self._take(steps[start : start + SEGMENT], known[start : start + SEGMENT], table, start)
        return table

    def _take(self, steps: Ints, levels: Floats, table: ResidualTable, start: int) -> int:
        """Take steps up to the one with which a change of the prompts is certain, or all; how many were taken."""
        taken = len(steps) if len(steps) == 1 else self._until_prompts_change(steps, levels)
        steps, levels = steps[:taken], levels[:taken]
        own: Floats = np.where(_HAS_OWN_PAST, OWN_WEIGHT * self._past.over(levels), np.nan)
        residuals = self._against(steps, levels, own)
        changed = self._shift.first(residuals[:, _ASKED]) is not None
        beyond = np.logical_or.accumulate(steps > self._usual.steps)
        # What the prompts explain must be measured by what it is taken from.
        alone = np.flatnonzero(self._telemetry_alone | beyond)
        residuals[alone, _ASKED] = own[alone, _ASKED]
        self._telemetry_alone, self._prompts_alone = (
            bool(before or beyond[-1]) for before in (self._telemetry_alone, self._prompts_alone)
        )
        if changed:
            # What follows from the prompts is compared with what it is since then.
            self._telemetry_alone = self._prompts_alone = True
            self._past.restart(_MOVED_BY_PROMPTS)
            residuals[-1, _MOVED_BY_PROMPTS] = own[-1, _MOVED_BY_PROMPTS] = np.nan
        rows = slice(start, start + taken)
        table.residuals[rows], table.own[rows] = residuals, own
        table.prompts_changed[start + taken - 1] = changed
        return taken

    def _against(self, steps: Ints, levels: Floats, own: Floats) -> Floats:
        """Residuals (N, `COLUMNS`) against the profile, or those against the run's own past (N, `COLUMNS`) where it
        does not apply."""
        beyond = np.logical_or.accumulate(steps > self._usual.steps)
        residuals = own.copy()
        for columns, alone in ((_TELEMETRY, self._telemetry_alone), (_ASKED, self._prompts_alone)):
            rows = np.flatnonzero(~beyond) if not alone else beyond[:0]
            if len(rows):
                profiled = steps[rows] - 1
                deviation = levels[rows, columns] - self._usual.means[profiled, columns]
                residuals[rows, columns] = deviation / self._usual.scales[profiled, columns]
        return residuals

    def _until_prompts_change(self, steps: Ints, levels: Floats) -> int:
        """How many of the steps there are up to the one with which a change of the prompts is certain, or all."""
        asked = np.arange(len(COLUMNS))[_ASKED]
        own = np.full(levels.shape, np.nan)
        own[:, _ASKED] = OWN_WEIGHT * self._past.only(asked).over(levels[:, _ASKED])
        changed = copy.copy(self._shift).first(self._against(steps, levels, own)[:, _ASKED])
        return len(steps) if changed is None else changed + 1
