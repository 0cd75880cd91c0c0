"""Levers: what may be moved while a run goes on, and within which bounds. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral, Real

from rftfm_ray.errors import ConfigError
from rftfm_ray.types import CreditSource, Levers, RunFacts


@dataclass(frozen=True, slots=True)
class LeverSpec:
    """Bounds of one lever, ends included.

    Attributes:
        name: of the lever.
        low: smallest setting.
        high: largest setting.
        whole: whether only whole numbers are settings.
        usual_high: largest setting that needs no reason. One beyond it only undoes what a check has measured, and would
            do harm by itself. None where every setting may be tried.
    """

    name: str
    low: float
    high: float
    whole: bool = False
    usual_high: float | None = None


LEVERS: tuple[LeverSpec, ...] = (
    LeverSpec("lr_scale", 0.01, 20.0, usual_high=1.0),
    LeverSpec("kl_coef_scale", 0.1, 10.0),
    LeverSpec("clip_low", 0.01, 0.9),
    LeverSpec("clip_high", 0.01, 2.0),
    LeverSpec("entropy_coef", 0.0, 50.0, usual_high=0.1),
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
    LeverSpec("credit_source", 0, 2, whole=True),
    LeverSpec("temperature_scale", 0.05, 20.0),
    LeverSpec("end_bias", -50.0, 50.0),
    LeverSpec("tokens_scale", 0.25, 20.0),
    LeverSpec("is_cap", 1.0, 100.0),
    LeverSpec("mask_undecoded", 0, 1, whole=True),
    LeverSpec("mask_unreplayed", 0, 1, whole=True),
    LeverSpec("mask_truncated", 0, 1, whole=True),
    LeverSpec("rollout_path", 0, 1, whole=True),
)
"""Every lever of `types.Levers`, in its order; which signals each moves stands in `signals.effects`."""

BOUNDS: Mapping[str, LeverSpec] = {spec.name: spec for spec in LEVERS}
"""The same by name."""
OF_CRITIC = ("gamma", "gae_lambda", "critic_lr_scale")
"""Levers that only an algorithm with a critic has."""
OF_TOOLS = ("tool_instance", "tool_retries")
"""Levers that only a task with tools has."""


def check_levers(levers: Levers) -> None:
    """Refuse a lever outside its bounds.

    Raises:
        ConfigError: names the lever, its value and its bounds.
    """
    for spec in LEVERS:
        value = getattr(levers, spec.name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, Real):
            fix = f"{int(value)}" if isinstance(value, bool) else "a number"
            raise ConfigError(f"Lever {spec.name}={value!r:.40} is a {type(value).__name__}; give {fix}.")
        whole = isinstance(value, Integral) or not spec.whole
        if not whole or not (math.isfinite(value) and spec.low <= float(value) <= spec.high):
            bounds = f"[{spec.low}, {spec.high}]"
            raise ConfigError(
                f"Lever {spec.name}={value} is out of bounds; choose a {'' if whole else 'whole '}value in {bounds}."
            )


def beyond_usual(levers: Levers) -> tuple[LeverSpec, ...]:
    """Levers at a setting that only a measurement allows."""
    return tuple(
        spec for spec in LEVERS
        if spec.usual_high is not None and (value := getattr(levers, spec.name)) is not None and value > spec.usual_high
    )  # fmt: skip


def check_possible(levers: Levers, facts: RunFacts) -> None:
    """Refuse a lever that a run cannot have.

    Raises:
        ConfigError: names the lever, the key of the configuration that rules it out, and what to choose.
    """
    for name in OF_CRITIC:
        if getattr(levers, name) is not None and not facts.has_critic:
            raise ConfigError(
                f"Lever {name} moves a critic, and algorithm.name={facts.algorithm} has none; leave it at None."
            )
    for name in OF_TOOLS:
        if getattr(levers, name) is not None and not facts.calls_tools:
            raise ConfigError(f"Lever {name} is about calls of tools, and this run's task has none; leave it at None.")
    if levers.credit_source == CreditSource.GROUP and facts.group_size < 2:
        raise ConfigError(
            f"Lever credit_source={CreditSource.GROUP.value} takes credit relative to the group, and "
            f"algorithm.samples_per_prompt={facts.group_size} makes no groups; choose "
            f"{CreditSource.RECOMPUTED.value}, the independent recomputation."
        )
    if levers.is_cap is not None and facts.top_p < 1:
        raise ConfigError(
            f"Lever is_cap compares log-probs of rollout and learner, and rollout.top_p={facts.top_p:g} cuts the "
            "distribution of the first; leave it at None."
        )
