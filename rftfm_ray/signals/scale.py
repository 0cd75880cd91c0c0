"""The scale that the values of a signal are compared on. Pure; numpy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray

from rftfm_ray.signals.arithmetic import safe_exp
from rftfm_ray.signals.schema import INDEX, SIGNALS, Scale, Signal

Floats = NDArray[np.float64]

# Two units of the logarithm's argument below which a KL is as good as none, in nats per token.
SMALL: dict[str, float] = {"kl_ref": 0.05, "kl_old": 0.01, "grad_norm": 1e-3}
# Below this a ratio is as good as 0.
TINY = 1e-12
# Squares of larger levels overflow.
LARGEST = 1e100


@overload
def level_of(signal: Signal, values: float) -> float: ...
@overload
def level_of(signal: Signal, values: Floats) -> Floats: ...
def level_of(signal: Signal, values: float | Floats) -> float | Floats:
    """Values of one signal on the scale that they are compared on: in nats for a ratio, else as they are.

    Args:
        signal: of the dictionary.
        values: a float, or an array of any shape. What is not finite becomes NaN.
    """
    found: Floats = Scales((signal.name,)).levels(np.asarray(values, np.float64)[..., None])[..., 0]
    return float(found) if np.ndim(values) == 0 else found


def raw_of(signal: Signal, level: float) -> float:
    """The value that stands at a level."""
    return safe_exp(level) - SMALL.get(signal.name, 0.0) if signal.scale is Scale.RATIO else level


class Scales:
    """The scales of some signals, for whole tables of their values.

    Args:
        names: of S signals.
    """

    def __init__(self, names: Sequence[str]) -> None:
        signals = [SIGNALS[INDEX[name]] for name in names]
        self._ratio = np.array([signal.scale is Scale.RATIO for signal in signals], bool)
        self._small = np.array([SMALL.get(signal.name, TINY) for signal in signals])

    def levels(self, values: Floats) -> Floats:
        """Levels (..., S) of values (..., S); NaN where a value is not finite."""
        known = np.where(np.isfinite(values), values, np.nan)
        with np.errstate(invalid="ignore"):
            logarithms = np.log(np.maximum(known, 0.0) + self._small)
        return np.clip(np.where(self._ratio, logarithms, known), -LARGEST, LARGEST)
