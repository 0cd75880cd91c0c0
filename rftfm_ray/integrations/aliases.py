"""What other trainers call the signals of the dictionary. Pure.

Names are those of TRL 1.16 (GRPO and RLOO; of the older PPO trainer where they differ) and of verl 0.7. Only what means
the same is listed: a name whose quantity differs is better left unused than misread.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from rftfm_ray.signals.logged import BESIDE, ROLLOUT_GAP_MEAN
from rftfm_ray.signals.schema import INDEX

STEPS = (
    "step", "global_step", "training/global_step", "train/global_step", "_step", "rollout/step", "trainer/global_step",
    "progress/batch",
)  # fmt: skip
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
    "sampling/sampling_logp_difference/mean": ROLLOUT_GAP_MEAN,
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

OTHERS: Mapping[str, str] = {
    # OpenRLHF.
    "response_length": "length_mean",
    "actor_lr": "lr",
    "actor_grad_norm": "grad_norm",
    "entropy_loss": "entropy",
    "critic_loss": "value_loss",
    # prime-rl.
    "reward/mean": "reward_mean",
    "seq_len/mean": "length_mean",
    "is_truncated/mean": "truncated_rate",
    "loss/mean": "loss",
    "entropy/mean": "entropy",
    "mismatch_kl/mean": "rollout_kl",
    "optim/grad_norm": "grad_norm",
    "optim/lr": "lr",
    # SkyRL.
    "reward/avg_raw_reward": "reward_mean",
    "policy/policy_loss": "policy_loss",
    "policy/policy_entropy": "entropy",
    "policy/policy_kl": "kl_ref",
    "policy/raw_grad_norm": "grad_norm",
    "generate/avg_num_tokens": "length_mean",
    # slime.
    "rollout/raw_reward": "reward_mean",
    "rollout/response_len/mean": "length_mean",
    "rollout/truncated_ratio": "truncated_rate",
    "pg_loss": "policy_loss",
    "ppo_kl": "kl_old",
    "kl_loss": "kl_ref",
    # NeMo-RL.
    "approx_entropy": "entropy",
    "kl_penalty": "kl_ref",
    "mean_gen_tokens_per_sample": "length_mean",
    # tinker.
    "env/all/reward/total": "reward_mean",
    "env/all/ac_tokens_per_turn": "length_mean",
    "optim/kl_sample_train_v1": "rollout_kl",
    "optim/entropy": "entropy",
}
"""Name of a signal by the name that OpenRLHF, prime-rl, SkyRL, slime, NeMo-RL or tinker has for it."""

ALIASES: Mapping[str, str] = {**TRL, **VERL, **OTHERS}
"""Name of a signal by another trainer's name of it."""


LOG_ONLY = (ROLLOUT_GAP_MEAN,)
"""Quantities that logs of other trainers have, and the dictionary of signals has not."""

# A part of the reward, or a score of an evaluation: what it is called is the trainer's own. Losses, spreads, counts and
# times of an evaluation are no scores.
_PART = re.compile(r"rewards/(?P<name>[^/]+)(/mean)?")
_EVALUATION = re.compile(r"(?P<name>(eval|val|val-core|test)[_/].*(reward|acc|score|pass|mean@).*)")
_NO_SCORE = re.compile(r"std|loss|length|time|runtime|samples|count|clip|entropy|num_")


def beside(name: str) -> str | None:
    """What a column is called that holds a part of the reward or a score of an evaluation; None for any other."""
    for pattern in (_PART, _EVALUATION):
        match = pattern.fullmatch(name)
        if match and not _NO_SCORE.search(name):
            return f"{BESIDE}{match['name']}"
    return None


def canonical(name: str) -> str | None:
    """The signal that a column holds, by its own name or an alias, or its name beside the signals; None without."""
    plain = [name, *(name.removeprefix(prefix) for prefix in PREFIXES)]
    for candidate in plain:
        found = ALIASES.get(candidate, candidate)
        if found in INDEX or found in LOG_ONLY:
            return found
    return next(filter(None, map(beside, plain)), None)


def is_reward_part(name: str) -> bool:
    """Whether a column holds the mean of one of several reward functions, as TRL names it (`rewards/NAME/mean`)."""
    plain = (name, *(name.removeprefix(prefix) for prefix in PREFIXES))
    return canonical(name) not in INDEX and any(_PART.fullmatch(each) and beside(each) for each in plain)
