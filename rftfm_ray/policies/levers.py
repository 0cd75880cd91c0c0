"""Levers: what may be moved while a run goes on, and within which bounds. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral

from rftfm_ray.errors import ConfigError
from rftfm_ray.types import Levers


@dataclass(frozen=True, slots=True)
class LeverSpec:
    """Bounds of one lever, ends included."""

    name: str
    low: float
    high: float
    whole: bool = False


LEVERS: tuple[LeverSpec, ...] = (
    LeverSpec("lr_scale", 0.01, 1.0),
    LeverSpec("kl_coef_scale", 0.1, 10.0),
    LeverSpec("clip_low", 0.01, 0.9),
    LeverSpec("clip_high", 0.01, 2.0),
    LeverSpec("entropy_coef", 0.0, 0.1),
    LeverSpec("max_grad_norm", 0.01, 100.0),
    LeverSpec("minibatches", 1, 1024, whole=True),
    LeverSpec("regrade_rate", 0.0, 1.0),
    LeverSpec("reward_limit", 0.01, 1e6),
    LeverSpec("tool_instance", 0, 1, whole=True),
    LeverSpec("tool_retries", 0, 5, whole=True),
    LeverSpec("refill_rounds", 0, 5, whole=True),
    LeverSpec("advantage_clip", 0.1, 100.0),
    LeverSpec("group_filter", 0, 1, whole=True),
    LeverSpec("gamma", 0.5, 1.0),
    LeverSpec("gae_lambda", 0.0, 1.0),
    LeverSpec("critic_lr_scale", 0.01, 10.0),
    LeverSpec("freeze_policy", 0, 1, whole=True),
)
"""Every lever of `types.Levers`, in its order; which signals each moves stands in `signals.effects`."""


def check_levers(levers: Levers) -> None:
    """Refuse a lever outside its bounds.

    Raises:
        ConfigError: names the lever, its value and its bounds.
    """
    for spec in LEVERS:
        value = getattr(levers, spec.name)
        if value is None:
            continue
        whole = isinstance(value, Integral) or not spec.whole
        if isinstance(value, bool) or not whole or not (math.isfinite(value) and spec.low <= value <= spec.high):
            bounds = f"[{spec.low}, {spec.high}]"
            raise ConfigError(
                f"Lever {spec.name}={value} is out of bounds; choose a {'' if whole else 'whole '}value in {bounds}."
            )
