"""What a diagnosis is learnt from: symptoms by name, residuals since the onset, and separating figures. Pure; numpy.

Numbers stand in one order, `NUMBERS`: the mean residual since the onset and over the newest steps, the directions of
both, and figures that need no reference. A direction is that of the residuals' logarithms, so that a weak fault looks
like a strong one of its kind.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from rftfm_ray.detection.reference.residuals import COLUMNS
from rftfm_ray.diagnosis.findings import COLUMN_OF
from rftfm_ray.diagnosis.meaning import is_break
from rftfm_ray.signals.groups import SEPARATORS
from rftfm_ray.verdicts import EXACT_EVIDENCE, Evidence, Symptom

Floats = NDArray[np.float64]

SINCE_ONSET, NEWEST = 12, 3
"""Steps since the onset that count at most, and how many of them are the newest."""
# A residual beyond this many standard deviations says no more about the cause than one at it.
FARTHEST = 8.0
FIGURES: tuple[str, ...] = (
    "trained_mismatch_rate", "regrade_mismatch_rate", "regrade_error_mean", "golden_mismatch_rate",
    "golden_right_error", "golden_wrong_error", "known_call_error_rate", "tool_shadow_error_rate", "tool_error_rate",
    "observation_mismatch_rate", "sampled_gap", "probe_gap", "lr_excess", "changed_rate", "rollout_kl",
    "rollout_ratio_mean", "truncated_rate", "empty_rate", "repeated_bigram_rate", "turns_mean", "clip_high_rate",
    *SEPARATORS,
)  # fmt: skip
"""Signals whose newest value counts as it is: most are 0, or another number, in every healthy run."""
_FIGURE_COLUMNS = [COLUMN_OF[name] for name in FIGURES]
# What a figure is a distance from: its healthy value, or the value that a fault leads to. A share of changed weights
# says most near 0, and what is healthy depends on the precision of the weights.
_AT_ONE = ("gap_slope", "gap_zero_share", "update_gain", "rollout_ratio_mean")
_ORIGIN = np.array([float(name in _AT_ONE) for name in FIGURES])
# A value that is not known must not look like a change: it counts as healthy.
_HEALTHY = np.array([float(name in (*_AT_ONE, "changed_rate", "turns_mean")) for name in FIGURES])
# Size at which the logarithm of a figure begins to flatten.
_SMALL = 0.01
_RESIDUALS = ("since onset", "newest", "direction since onset", "newest direction")
NUMBERS: tuple[str, ...] = (
    *(f"{part}: {name}" for part in _RESIDUALS for name in COLUMNS), *(f"figure: {name}" for name in FIGURES),
)  # fmt: skip
"""Names of all numbers, in their order."""


@dataclass(frozen=True, slots=True)
class Window:
    """What is known of the steps since an onset.

    Attributes:
        residuals: (N, `COLUMNS`) in standard deviations, NaN where unknown; at most `SINCE_ONSET` steps, at least one.
        figures: (`FIGURES`) as `figures_in` gives them.
        profiled: whether the residuals are against a profile, and not against the run's own past.
    """

    residuals: Floats
    figures: Floats
    profiled: bool

    def knows(self, signal: str) -> bool:
        """Whether a signal has a residual at any of the steps; some have none without a profile."""
        return signal in COLUMNS and bool(np.isfinite(self.residuals[:, COLUMNS.index(signal)]).any())


@dataclass(frozen=True, slots=True)
class Features:
    """What a diagnosis is made from.

    Attributes:
        present: names of symptoms and findings.
        window: of the steps since the onset; None without readings.
    """

    present: tuple[str, ...]
    window: Window | None = field(default=None, compare=False)


def features_of(symptoms: Sequence[Symptom], findings: Collection[str] = (), window: Window | None = None) -> Features:
    """The features of some symptoms, findings and steps.

    Symptoms of telemetry are left out: where their signals have residuals, these say more, and before they are alarms.
    """
    exact = {name_of(symptom) for symptom in symptoms if is_exact(symptom)}
    return Features((*sorted(exact), *findings), window)


def name_of(symptom: Symptom) -> str:
    """A broken law is another feature than an alarm of telemetry of the same signal."""
    kind = "alarm" if symptom.alarm else "notice"
    about = symptom.detector if is_break(symptom) else symptom.signal
    return f"{kind} {about} {'above' if symptom.direction > 0 else 'below'}"


def is_exact(symptom: Symptom) -> bool:
    """Whether a symptom is a broken identity, law or floor, or of an independent channel: its meaning is written."""
    return symptom.evidence in (*EXACT_EVIDENCE, Evidence.CHANNEL) or is_break(symptom)


def is_shown(symptom: Symptom) -> bool:
    """Whether a symptom is an alarm of a check, and not only of what a policy does."""
    return symptom.alarm and is_exact(symptom)


def figures_in(values: Floats) -> Floats:
    """The newest known figures (`FIGURES`) of some steps, as signed logarithms; healthy ones where none is known.

    Args:
        values: (N, `findings.READ`) of the steps.
    """
    figures = values[:, _FIGURE_COLUMNS]
    known = np.isfinite(figures)
    # The newest known row of each column.
    newest = len(figures) - 1 - known[::-1].argmax(0)
    distance = np.where(known.any(0), figures[newest, np.arange(len(FIGURES))], _HEALTHY) - _ORIGIN
    squashed: Floats = np.sign(distance) * np.log1p(np.abs(distance) / _SMALL)
    return squashed


UNMEASURED: Floats = figures_in(np.full((1, len(COLUMN_OF)), np.nan))
"""Figures (`FIGURES`) of a run in which none is measured."""


def numbers_of(window: Window) -> Floats:
    """The numbers (`NUMBERS`) of a window."""
    residuals = np.clip(np.nan_to_num(window.residuals), -FARTHEST, FARTHEST)
    means = residuals.mean(0), residuals[-NEWEST:].mean(0)
    return np.concatenate([*means, *map(_direction, means), window.figures])


def _direction(mean: Floats) -> Floats:
    squashed: Floats = np.sign(mean) * np.log1p(np.abs(mean))
    length = float(np.linalg.norm(squashed))
    return squashed / length if length > 0 else squashed
