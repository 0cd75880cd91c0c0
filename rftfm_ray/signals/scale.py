"""The scale that the values of a signal are compared on. Pure."""

from __future__ import annotations

import math

from rftfm_ray.signals.schema import Scale, Signal

# Two units of the logarithm's argument below which a KL is as good as none, in nats per token.
SMALL: dict[str, float] = {"kl_ref": 0.05, "kl_old": 0.01, "grad_norm": 1e-3}


def level_of(signal: Signal, raw: float) -> float:
    """A finite value on the scale that it is compared on: in nats for a ratio, else as it is."""
    if signal.scale is Scale.RATIO:
        return math.log(max(raw, 0.0) + SMALL.get(signal.name, 1e-12))
    return raw


def raw_of(signal: Signal, level: float) -> float:
    """The value that stands at a level."""
    return safe_exp(level) - SMALL.get(signal.name, 0.0) if signal.scale is Scale.RATIO else level


def safe_exp(exponent: float) -> float:
    """The exponential, and infinity where it would overflow."""
    return math.exp(exponent) if exponent < 700 else math.inf
