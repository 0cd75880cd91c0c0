"""What other trainers call the signals of the dictionary. Pure.

Names are those of TRL 1.16 (GRPO and RLOO; of the older PPO trainer where they differ) and of verl 0.7. Only what means
the same is listed: a name whose quantity differs is better left unused than misread.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from rftfm_ray.signals.schema import INDEX

STEPS = ("step", "global_step", "training/global_step", "train/global_step", "_step")
"""Columns that count steps, the likeliest first."""
PREFIXES = ("train/", "train_")
"""What loggers put before a name."""

TRL: Mapping[str, str] = {
    "reward": "reward_mean",
    "frac_reward_zero_std": "zero_variance_group_rate",
    "completions/mean_length": "length_mean",
    "completions/max_length": "length_max",
    "completions/clipped_ratio": "truncated_rate",
    "tools/call_frequency": "tool_calls_mean",
    "tools/failure_frequency": "tool_error_rate",
    "sampling/sampling_logp_difference/max": "rollout_gap_max",
    "sampling/importance_sampling_ratio/mean": "rollout_ratio_mean",
    "kl": "kl_ref",
    "clip_ratio/low_mean": "clip_low_rate",
    "clip_ratio/high_mean": "clip_high_rate",
    "learning_rate": "lr",
    "objective/scores": "reward_mean",
    "objective/kl": "kl_ref",
    "objective/entropy": "entropy",
    "policy/approxkl_avg": "kl_old",
    "policy/clipfrac_avg": "clip_high_rate",
    "loss/policy_avg": "policy_loss",
    "loss/value_avg": "value_loss",
}
"""Name of a signal by TRL's name of it."""
VERL: Mapping[str, str] = {
    "critic/score/mean": "reward_mean",
    "critic/score/max": "reward_max",
    "critic/score/min": "reward_min",
    "critic/rewards/mean": "reward_mean",
    "critic/rewards/max": "reward_max",
    "critic/rewards/min": "reward_min",
    "critic/advantages/mean": "advantage_mean",
    "critic/vf_loss": "value_loss",
    "critic/vf_explained_var": "explained_variance",
    "critic/lr": "critic_lr",
    "response_length/mean": "length_mean",
    "response_length/max": "length_max",
    "response_length/clip_ratio": "truncated_rate",
    "response/aborted_ratio": "failed_rate",
    "num_turns/mean": "turns_mean",
    "actor/entropy": "entropy",
    "actor/entropy_loss": "entropy",
    "actor/kl_loss": "kl_ref",
    "actor/kl_coef": "kl_coef",
    "actor/ppo_kl": "kl_old",
    "actor/pg_loss": "policy_loss",
    "actor/pg_clipfrac": "clip_high_rate",
    "actor/pg_clipfrac_lower": "clip_low_rate",
    "actor/grad_norm": "grad_norm",
    "actor/lr": "lr",
}
"""Name of a signal by verl's name of it."""

ALIASES: Mapping[str, str] = {**TRL, **VERL}
"""Name of a signal by another trainer's name of it."""


_REWARD_PART = re.compile(r"(?:train[/_])?rewards/.+/mean")


def is_reward_part(name: str) -> bool:
    """Whether a column holds the mean of one of several reward functions, as TRL names it (`rewards/NAME/mean`)."""
    return _REWARD_PART.fullmatch(name) is not None and canonical(name) is None


def canonical(name: str) -> str | None:
    """The signal that a column holds, by its own name or an alias; None when nobody knows."""
    for candidate in (name, *(name.removeprefix(prefix) for prefix in PREFIXES)):
        found = ALIASES.get(candidate, candidate)
        if found in INDEX:
            return found
    return None
