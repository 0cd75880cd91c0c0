"""The settings in force in an update: what the configuration says, then its schedule, then levers. Pure."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

from rftfm_ray.config import RunConfig
from rftfm_ray.types import CreditSource, Levers, Settings, StepId


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
        factor: `schedule_factor` of the step; it scales the rates.
        levers: None leaves a setting alone. Levers named `_scale` multiply the nominal value.
    """

    def scaled(value: float, scale: float | None, otherwise: float = 1.0) -> float:
        return value * (otherwise if scale is None else scale)

    same = {name: value for name in _FIXED if (value := getattr(levers, name)) is not None}
    frozen = nominal.freeze_policy if levers.freeze_policy is None else bool(levers.freeze_policy)
    return dataclasses.replace(
        nominal,
        **same,
        lr=0.0 if frozen else scaled(nominal.lr, levers.lr_scale, factor),
        critic_lr=scaled(nominal.critic_lr, levers.critic_lr_scale, factor),
        kl_coef=scaled(nominal.kl_coef, levers.kl_coef_scale),
        group_filter=nominal.group_filter if levers.group_filter is None else bool(levers.group_filter),
        freeze_policy=frozen,
        credit_source=nominal.credit_source if levers.credit_source is None else CreditSource(levers.credit_source),
    )


# Levers that give a setting of their own name its value.
_FIXED = (
    "clip_low", "clip_high", "entropy_coef", "max_grad_norm", "minibatches", "advantage_clip", "gamma", "gae_lambda",
    "is_cap",
)  # fmt: skip


def nominal_settings(config: RunConfig, step: int | None = None) -> Settings:
    """What the configuration says at `step` (from 1), before schedule and levers.

    None: as it is at the start, before any of `changes`, and after every warm-up.
    """
    config = config if step is None else config.at(step)
    algorithm, learner, critic = config.algorithm, config.learner, config.critic
    return Settings(
        lr=learner.lr,
        kl_coef=algorithm.kl_coef,
        clip_low=algorithm.clip_low,
        clip_high=algorithm.clip_high,
        entropy_coef=algorithm.entropy_coef,
        max_grad_norm=learner.max_grad_norm,
        minibatches=algorithm.minibatches,
        advantage_clip=algorithm.advantage_clip,
        group_filter=algorithm.group_filter,
        gamma=critic.gamma,
        gae_lambda=critic.gae_lambda,
        critic_lr=critic.lr,
        # The critic learns what the policy is worth before the policy follows it.
        freeze_policy=algorithm.name == "ppo" and step is not None and step <= critic.warmup_steps,
    )


Schedule = Callable[[StepId], float]
"""Share of the nominal learning rate at a step."""


def config_schedule(config: RunConfig) -> Schedule:
    """The schedule that the configuration calls for."""
    learner = config.learner
    return lambda step: schedule_factor(learner.lr_schedule, step.step, config.steps, learner.warmup_steps)
