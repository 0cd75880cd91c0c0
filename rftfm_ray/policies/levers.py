"""Levers: what may be moved while a run goes on, within which bounds, and what comes of it. Pure."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rftfm_ray.config import RunConfig
from rftfm_ray.errors import ConfigError
from rftfm_ray.types import Levers, Settings, StepId


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
)


MOVES: Mapping[str, tuple[str, ...]] = {
    "kl_coef_scale": ("kl_ref",),
    "entropy_coef": ("entropy",),
    "regrade_rate": ("reward_mean", "reward_std", "reward_max"),
    "reward_limit": ("reward_mean", "reward_std", "reward_max"),
    "tool_instance": ("valid_rate", "length_mean", "reward_mean"),
    "tool_retries": ("valid_rate", "length_mean", "reward_mean"),
    "refill_rounds": ("valid_rate", "length_mean", "reward_mean"),
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


def schedule_factor(kind: str, step: int, steps: int, warmup_steps: int) -> float:
    """Share of the nominal learning rate at `step` (from 1): linear warm-up, then constant, linear or cosine to 0.1."""
    if step <= warmup_steps:
        return step / (warmup_steps + 1)
    done = min(1.0, (step - warmup_steps - 1) / max(1, steps - warmup_steps - 1))
    if kind == "linear":
        return 1 - 0.9 * done
    if kind == "cosine":
        return 0.1 + 0.45 * (1 + math.cos(math.pi * done))
    return 1.0


def effective(nominal: Settings, factor: float, levers: Levers) -> Settings:
    """The settings in force: schedule first, levers last, so that a lever wins over any schedule.

    Args:
        nominal: what the configuration says.
        factor: `schedule_factor` of the step; it scales the rate.
        levers: None leaves a setting alone. `lr_scale` and `kl_coef_scale` multiply the nominal value.
    """
    return dataclasses.replace(
        nominal,
        lr=nominal.lr * (factor if levers.lr_scale is None else levers.lr_scale),
        kl_coef=nominal.kl_coef * (1.0 if levers.kl_coef_scale is None else levers.kl_coef_scale),
        clip_low=nominal.clip_low if levers.clip_low is None else levers.clip_low,
        clip_high=nominal.clip_high if levers.clip_high is None else levers.clip_high,
        entropy_coef=nominal.entropy_coef if levers.entropy_coef is None else levers.entropy_coef,
        max_grad_norm=nominal.max_grad_norm if levers.max_grad_norm is None else levers.max_grad_norm,
        minibatches=nominal.minibatches if levers.minibatches is None else levers.minibatches,
    )


def nominal_settings(config: RunConfig) -> Settings:
    """What the configuration says, before schedule and levers."""
    algorithm, learner = config.algorithm, config.learner
    return Settings(
        lr=learner.lr,
        kl_coef=algorithm.kl_coef,
        clip_low=algorithm.clip_low,
        clip_high=algorithm.clip_high,
        entropy_coef=algorithm.entropy_coef,
        max_grad_norm=learner.max_grad_norm,
        minibatches=algorithm.minibatches,
    )


Schedule = Callable[[StepId], float]
"""Share of the nominal learning rate at a step."""


def config_schedule(config: RunConfig) -> Schedule:
    """The schedule that the configuration calls for."""
    learner = config.learner
    return lambda step: schedule_factor(learner.lr_schedule, step.step, config.steps, learner.warmup_steps)
