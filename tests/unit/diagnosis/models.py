"""Small models of diagnoses, made by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from rftfm_ray.detection.reference.residuals import COLUMNS
from rftfm_ray.diagnosis.features import FIGURES, NUMBERS, Window
from rftfm_ray.diagnosis.forest import WHOLE, Forest
from rftfm_ray.diagnosis.model import (
    CODES,
    EXACT,
    FORMAT,
    OWN_PAST,
    PROFILE,
    TELEMETRY,
    DiagnosisModel,
    ModelInfo,
)

Points = tuple[tuple[float, float], ...]
AS_IT_IS: Points = ((0.0, 0.0), (1.0, 1.0))


def info_of(present: Sequence[str] = (), calibration: Points = AS_IT_IS) -> ModelInfo:
    """What a model of these symptoms and findings says of itself."""
    levels = dict.fromkeys((TELEMETRY, EXACT), calibration)
    return ModelInfo(FORMAT, "a command", "a hash", 1, 10, NUMBERS, tuple(present), levels)


def stump(
    left: Mapping[str, float], right: Mapping[str, float] | None = None, feature: int = 0, threshold: float = 0.0
) -> Forest:
    """One tree of one node: these shares up to the threshold, and others beyond it."""
    shares = np.zeros((1, 2, len(CODES)), np.uint8)
    for leaf, given in enumerate((left, left if right is None else right)):
        for code, share in given.items():
            shares[0, leaf, CODES.index(code)] = round(share * WHOLE)
    return Forest(
        np.array([[feature]], np.int16), np.array([[threshold]], np.float32), np.array([[-1]], np.int16),
        np.array([[-2]], np.int16), shares,
    )  # fmt: skip


def model_of(
    profile: Forest, own_past: Forest | None = None, present: Sequence[str] = (), calibration: Points = AS_IT_IS
) -> DiagnosisModel:
    """A model of one forest, or of one for each kind of reference."""
    forests = {PROFILE: profile, OWN_PAST: own_past or profile}
    return DiagnosisModel(info_of(present, calibration), forests)


def window_of(residual: float = 0.0, steps: int = 3, *, profiled: bool = False, signal: str = COLUMNS[0]) -> Window:
    """A window in which one signal has the same residual at each step, and all others are unknown."""
    residuals = np.full((steps, len(COLUMNS)), np.nan)
    residuals[:, COLUMNS.index(signal)] = residual
    return Window(residuals, np.zeros(len(FIGURES)), profiled)
