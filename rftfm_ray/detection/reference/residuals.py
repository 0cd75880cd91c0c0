"""A run's telemetry as residuals in standard deviations, in chunks of any length. Pure; numpy.

Residuals are against the profile while it applies. They are against the self-baseline after the profile's last step, a
declared change or a prompt shift.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from rftfm_ray.detection.reference.profile import Profile
from rftfm_ray.detection.reference.prompt_shift import PromptShift
from rftfm_ray.detection.stateful import Kind, Stateful
from rftfm_ray.detection.statistics.recursions import MANY
from rftfm_ray.detection.statistics.self_baseline import SelfBaseline
from rftfm_ray.signals.groups import OF_UPDATES, PROMPT_DEPENDENT, PROMPT_SIGNALS, REFUSED, TELEMETRY, WATCHED
from rftfm_ray.signals.scale import Scales
from rftfm_ray.signals.schema import INDEX, SIGNALS

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]

# Factor of residuals against the self-baseline: it rests on fewer steps than a profile.
OWN_WEIGHT = 0.85
# Steps between checks for a prompt shift: steps after a shift are computed again.
SEGMENT = MANY

COLUMNS: tuple[str, ...] = (*TELEMETRY, *PROMPT_SIGNALS)
"""Signals of a residual: telemetry, and then the prompts."""
_SIGNALS = [SIGNALS[INDEX[name]] for name in COLUMNS]
_SCALES = Scales(COLUMNS)
_INDICES = np.array([INDEX[name] for name in COLUMNS])
_TELEMETRY, _PROMPTS = slice(len(TELEMETRY)), slice(len(TELEMETRY), None)
_MOVED_BY_PROMPTS = np.array([name in PROMPT_DEPENDENT or name in PROMPT_SIGNALS for name in COLUMNS])
# A sum of parts, whose weights depend on the run and on the scale of rewards.
_SUMS = ("loss",)
_OF_UPDATES = np.array([name in OF_UPDATES for name in COLUMNS])
_HAS_OWN_PAST = np.array([(name in WATCHED and name not in _SUMS) or name in PROMPT_SIGNALS for name in COLUMNS])
# Signals that need healthy runs of the task: how shares of answers beyond a length follow the length, and how AdamW's
# moments follow many steps, depend on it.
_TASK_SPECIFIC = ("short_rate", "long_rate", "update_ratio")
_FLOORS = np.array(
    [
        signal.floor if has_past and signal.name not in _TASK_SPECIFIC and np.isfinite(signal.floor) else np.nan
        for signal, has_past in zip(_SIGNALS, _HAS_OWN_PAST, strict=True)
    ]
)


def levels_of(values: Sequence[float] | Floats) -> Floats:
    """Levels (..., `COLUMNS`) on each signal's scale, from values (..., signals) of reports.

    NaN where a value is missing, is not a number, or belongs to a rejected update.
    """
    table = np.asarray(values, np.float64)
    levels = _SCALES.levels(table[..., _INDICES])
    refused = table[..., INDEX[REFUSED]] > 0
    levels[refused[..., None] & _OF_UPDATES] = np.nan
    return levels


class Usual:
    """A profile as arrays: means and scales (steps, `COLUMNS`), NaN where it does not have the signal.

    Without a profile a run is compared with its self-baseline from the start, and no signal's standard deviation is
    below its floor. So are the signals in `moved`, which the profile says nothing about.
    """

    def __init__(self, profile: Profile | None = None, moved: Collection[str] = ()) -> None:
        self.steps = 0 if profile is None else profile.steps
        self.means, self.scales = (np.full((self.steps, len(COLUMNS)), np.nan) for _ in range(2))
        self.spreads = _FLOORS.copy() if profile is None else np.full(len(COLUMNS), np.nan)
        self.moved = np.array([profile is not None and name in moved for name in COLUMNS])
        self.spreads[self.moved] = _FLOORS[self.moved]
        signals = {} if profile is None else {s.name: s for s in profile.signals if s.name not in moved}
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
        residuals: (N, `COLUMNS`) against the profile while it applies, else against the self-baseline; NaN where
            there is neither.
        own: (N, `COLUMNS`) against the self-baseline throughout.
        prompts_changed: (N) whether a change of the prompts became certain at the step.
        profiled: (N) whether telemetry is compared with the profile.
    """

    residuals: Floats
    own: Floats
    prompts_changed: Mask
    profiled: Mask


class Residuals(Stateful):
    """The residuals of one run.

    Args:
        usual: the arrays of a profile; `Usual()` without one.
    """

    STATE: ClassVar[Mapping[str, Kind]] = {
        "_past": Kind.PART, "_shift": Kind.PART, "_telemetry_alone": Kind.BOOL, "_prompts_alone": Kind.BOOL,
    }  # fmt: skip

    def __init__(self, usual: Usual) -> None:
        self._usual = usual
        # Signals that healthy runs of the kind did not measure are not judged.
        self._known = np.isfinite(usual.spreads)
        # The profile's standard deviations are the floors of the self-baseline.
        self._past, self._shift = SelfBaseline(np.nan_to_num(usual.spreads, nan=1.0)), PromptShift()
        # Whether telemetry, and the prompts, are compared with the self-baseline only from now on.
        self._telemetry_alone = self._prompts_alone = False

    def forget(self, signals: Sequence[str]) -> None:
        """Take a declared change: these signals have no reference from the next step on.

        All other telemetry moves to the self-baseline too: correlated signals must share one reference, and after a
        change the policy no longer follows the healthy runs. Without a profile all telemetry restarts, because the
        effect of the change on other signals is not known. The prompts keep their reference unless one of their signals
        is named. Signals that the profile says nothing about restart as they do without one.
        """
        gone = np.array([name in signals for name in COLUMNS])
        if not gone.any():
            return
        self._telemetry_alone = True
        self._prompts_alone = self._prompts_alone or bool(gone[_PROMPTS].any())
        gone[_TELEMETRY] |= not self._usual.steps
        gone[_TELEMETRY] |= self._usual.moved[_TELEMETRY]
        self._past.restart(gone)

    def add(self, step: int, levels: Floats) -> Floats:
        """Take the levels (`COLUMNS`) of a step, counted from 1, and return its residuals (`COLUMNS`)."""
        residuals: Floats = self.over(np.array([step]), levels[None]).residuals[0]
        return residuals

    def over(self, steps: Ints, levels: Floats) -> ResidualTable:
        """Take many steps (N), counted from 1, with their levels (N, `COLUMNS`); equal to single steps."""
        residuals, own = (np.full(levels.shape, np.nan) for _ in range(2))
        table = ResidualTable(residuals, own, np.zeros(len(levels), bool), np.zeros(len(levels), bool))
        known, start = np.where(self._known, levels, np.nan), 0
        while start < len(steps):
            start += self._take(steps[start : start + SEGMENT], known[start : start + SEGMENT], table, start)
        return table

    def _take(self, steps: Ints, levels: Floats, table: ResidualTable, start: int) -> int:
        """Take steps up to the one that makes a prompt shift certain, or all of them; returns their number."""
        taken = len(steps) if len(steps) == 1 else self._until_prompts_change(steps, levels)
        steps, levels = steps[:taken], levels[:taken]
        own: Floats = np.where(_HAS_OWN_PAST, OWN_WEIGHT * self._past.over(levels), np.nan)
        residuals = self._against(steps, levels, own)
        table.profiled[start : start + taken] = ~self._telemetry_alone & ~self._beyond(steps)
        changed = self._shift.first(residuals[:, _PROMPTS]) is not None
        beyond = self._beyond(steps)
        # Telemetry and the prompts that explain it must have the same reference.
        rows_of_own = np.flatnonzero(self._telemetry_alone | beyond)
        residuals[rows_of_own, _PROMPTS] = own[rows_of_own, _PROMPTS]
        self._telemetry_alone, self._prompts_alone = (
            bool(before or beyond[-1]) for before in (self._telemetry_alone, self._prompts_alone)
        )
        if changed:
            # Prompt-dependent signals restart their self-baseline at the shift.
            self._telemetry_alone = self._prompts_alone = True
            self._past.restart(_MOVED_BY_PROMPTS)
            residuals[-1, _MOVED_BY_PROMPTS] = own[-1, _MOVED_BY_PROMPTS] = np.nan
        rows = slice(start, start + taken)
        table.residuals[rows], table.own[rows] = residuals, own
        table.prompts_changed[start + taken - 1] = changed
        return taken

    def _against(self, steps: Ints, levels: Floats, own: Floats) -> Floats:
        """Residuals (N, `COLUMNS`) against the profile; where it does not apply, those of the self-baseline, `own`."""
        beyond = self._beyond(steps)
        residuals = own.copy()
        for columns, is_self_baseline in ((_TELEMETRY, self._telemetry_alone), (_PROMPTS, self._prompts_alone)):
            rows = np.flatnonzero(~beyond) if not is_self_baseline else beyond[:0]
            if len(rows):
                profiled = steps[rows] - 1
                deviation = levels[rows, columns] - self._usual.means[profiled, columns]
                ratio = deviation / self._usual.scales[profiled, columns]
                residuals[rows, columns] = np.where(self._usual.moved[columns], own[rows, columns], ratio)
        return residuals

    def _beyond(self, steps: Ints) -> Mask:
        """Steps (N) from the first one on that the profile does not reach."""
        beyond: Mask = np.logical_or.accumulate(steps > self._usual.steps)
        return beyond

    def _until_prompts_change(self, steps: Ints, levels: Floats) -> int:
        """Number of steps up to the one that makes a prompt shift certain, or of all steps."""
        prompts = np.arange(len(COLUMNS))[_PROMPTS]
        own = np.full(levels.shape, np.nan)
        own[:, _PROMPTS] = OWN_WEIGHT * self._past.select(prompts).over(levels[:, _PROMPTS])
        changed = copy.copy(self._shift).first(self._against(steps, levels, own)[:, _PROMPTS])
        return len(steps) if changed is None else changed + 1
