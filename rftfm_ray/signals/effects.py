"""Changes of the configuration that a run makes on purpose, as the guard is told of them. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rftfm_ray.config import MadeChange
from rftfm_ray.signals.groups import FOLLOWING
from rftfm_ray.verdicts import DeclaredChange

_REWARDS = ("reward_mean", "reward_std", "reward_min", "reward_q10", "reward_q50", "reward_q90", "reward_max")
_LENGTHS = ("length_mean", "length_q10", "length_q50", "length_q90", "length_max", "long_rate", "truncated_rate")
_GROUPS = ("zero_variance_group_rate", "all_right_group_rate", "all_wrong_group_rate", "filtered_group_rate")
_ADVANTAGES = ("advantage_std", "advantage_max", "advantage_kurtosis")
_ENTROPY = ("entropy", "entropy_q10", "entropy_q90", "entropy_observed", "sampling_logprob_mean")
_UPDATES = ("grad_norm", "update_ratio", "step_kl", "step_ratio_max")
_REPETITION = (
    "distinct_sample_rate", "distinct_bigram_rate", "unique_token_rate", "repeated_bigram_rate",
    "repeated_trigram_rate", "compress_ratio",
)  # fmt: skip
_ENDS = ("eos_rate", "stop_rate", "turn_limit_rate", "turns_mean", "empty_rate", "short_rate")
_CALLS = ("tool_call_count", "tool_calls_mean", "tool_unparsable_rate")

SHIFTS: Mapping[str, tuple[str, ...]] = {
    "learner.lr": (
        "lr", "update_ratio", "changed_rate", "step_kl", "step_ratio_max", "kl_old", "ratio_min", "ratio_max",
    ),
    "algorithm.prompts_per_step": (
        "trajectory_count", "tool_call_count", "regrade_count", "observation_count", "replay_count",
        "distinct_bigram_rate", "compress_ratio", "reward_std", "reward_max", "length_max", "advantage_max",
        "advantage_kurtosis", "rollout_gap_max", *_UPDATES,
    ),
    "algorithm.samples_per_prompt": (
        "trajectory_count", "tool_call_count", "regrade_count", "observation_count", "replay_count", "reward_std",
        "reward_max", "length_max", "rollout_gap_max", *_REPETITION, *_GROUPS, *_ADVANTAGES, *_UPDATES,
    ),
    "rollout.temperature": (
        "correct_rate", "probe_sampled_accuracy", "sampled_gap", "probe_gap", "valid_rate", "kl_ref", *_REWARDS,
        *_LENGTHS, *_GROUPS, *_ADVANTAGES, *_ENTROPY, *_UPDATES, *_REPETITION, *_ENDS, *_CALLS,
    ),
    "task.hard_share": FOLLOWING,
    "task.token_scale": (
        "correct_rate", "sampled_gap", "probe_gap", "grad_norm", *_REWARDS, *_LENGTHS, *_GROUPS, *_ADVANTAGES,
        *_REPETITION, *_ENDS, *_CALLS,
    ),
    "task.reward_scale": (
        "return_early", "return_late", "value_early", "value_late", "value_bias", "value_loss", "explained_variance",
        "value_clip_rate", "loss", "policy_loss", "kl_ref", *_REWARDS, *_ADVANTAGES, *_UPDATES,
    ),
}  # fmt: skip
"""Signals that a change of a key moves by design, and whose reference is therefore gone.

What an identity or an independent channel speaks of is not among them, but for what the key itself defines: a change on
purpose makes no reward wrong, and no held-out answer.
"""


def declared_change(made: Sequence[MadeChange], step: int) -> DeclaredChange:
    """What the guard is told of changes that come into force at `step`."""
    signals = sorted({signal for change in made for signal in SHIFTS[change.key]})
    said = ", ".join(f"{change.key} from {change.old:g} to {change.new:g}" for change in made)
    return DeclaredChange("configuration", step, tuple(signals), said)
