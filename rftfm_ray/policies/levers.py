"""Levers: what may be moved while a run goes on, within which bounds, and what comes of it. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

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


MOVES: Mapping[str, tuple[str, ...]] = {
    "kl_coef_scale": ("kl_ref",),
    "entropy_coef": ("entropy",),
    "regrade_rate": ("reward_mean", "reward_std", "reward_max"),
    "reward_limit": ("reward_mean", "reward_std", "reward_max"),
    "tool_instance": ("valid_rate", "length_mean", "reward_mean"),
    "tool_retries": ("valid_rate", "length_mean", "reward_mean"),
    "refill_rounds": ("valid_rate", "length_mean", "reward_mean"),
    "advantage_clip": ("advantage_max", "advantage_std", "advantage_kurtosis"),
    "group_filter": ("advantage_std", "grad_norm", "loss", "policy_loss"),
    "gamma": ("advantage_std", "value_loss", "explained_variance"),
    "gae_lambda": ("advantage_std", "value_loss", "explained_variance"),
    "critic_lr_scale": ("value_loss", "explained_variance"),
    "freeze_policy": ("grad_norm", "loss"),
}
"""Signals that a lever moves by design, and whose reference is therefore gone when it has been moved.

Not `update_ratio`: a lower rate makes it smaller, and coming back must not look like going too far.
"""


def check_levers(levers: Levers) -> None:
    """Refuse a lever outside its bounds.

    Raises:
        ConfigError: names the lever, its value and its bounds.
    """
    for spec in LEVERS:
        value = getattr(levers, spec.name)
        if value is None:
            continue
        whole = isinstance(value, int) or not spec.whole
        if isinstance(value, bool) or not whole or not (math.isfinite(value) and spec.low <= value <= spec.high):
            bounds = f"[{spec.low}, {spec.high}]"
            raise ConfigError(
                f"Lever {spec.name}={value} is out of bounds; choose a {'' if whole else 'whole '}value in {bounds}."
            )
