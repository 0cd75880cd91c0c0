"""Named groups of signals, each defined once. Pure."""

from __future__ import annotations

import math

from rftfm_ray.signals.dictionary import Signal, Source
from rftfm_ray.signals.schema import SIGNALS

# Exact by construction, or set and not measured.
NOT_MEASURED = (
    "advantage_error", "staleness", "vetoes", "lr", "critic_lr", "schedule_factor", "kl_coef", "trajectory_count",
    "tool_call_count",
)  # fmt: skip

GAPS = ("gap_end", "gap_rest", "gap_again", "gap_new", "gap_slope", "gap_zero_share")
"""How log-probs at sampling differ from the learner's, by kind of token."""
CREDIT_AT_LOSS = ("credit_error", "credit_known_share", "return_error", "value_error", "sample_mismatch_rate")
"""How what the loss gets differs from what rollout and declared rule give."""
REGRADE_SPLIT = (
    "regrade_hit_right", "regrade_hit_wrong", "regrade_by_length", "regrade_by_repetition", "regrade_empty",
    "regrade_by_form", "golden_repeat_mismatch_rate",
)  # fmt: skip
"""Which answers the live reward channel is wrong about, and whether it would be so again."""
LIMITS = ("limit_excess", "cut_short_rate")
"""Whether turns were asked for with the declared tokens, and got those that were asked for."""
SEPARATORS: tuple[str, ...] = (
    *GAPS, "update_gain", *CREDIT_AT_LOSS, *REGRADE_SPLIT, *LIMITS, "observation_decode_mismatch_rate",
)  # fmt: skip
"""Signals that tell faults apart whose first symptoms are the same.

Each is a comparison of two things that are equal in a healthy run, so it needs no reference: profiles, priors and
self-baselines leave them out. Rows that were recorded without them have NaN there.
"""


def is_telemetry(signal: Signal) -> bool:
    """Whether a signal is measured by the run itself, without an independent channel, and is compared with others."""
    own = signal.source in (Source.ROLLOUT, Source.LEARNER) and math.isfinite(signal.floor)
    return own and signal.name not in (*NOT_MEASURED, *SEPARATORS) and signal.unit != "s"


TELEMETRY: tuple[str, ...] = tuple(signal.name for signal in SIGNALS if is_telemetry(signal))
"""Names of the telemetry signals, in the order of a report's values: what any training log could hold."""

# Quantiles, extremes and high moments of small numbers of whole things leap by themselves; what follows single tokens
# leaps when a format is learnt.
LEAPING = (
    "reward_min", "reward_q10", "reward_q50", "reward_q90", "reward_max", "length_q10", "length_q50", "length_q90",
    "length_max", "advantage_max", "advantage_kurtosis", "ratio_min", "ratio_max", "step_ratio_max", "rollout_gap_max",
    "credit_lag", "advantage_early", "advantage_late", "value_early", "value_late",
)  # fmt: skip
WATCHED = tuple(name for name in TELEMETRY if name not in LEAPING)
"""Telemetry that can be compared with a run's own past."""

FIXED = (
    "failed_rate", "refilled_rate", "tool_error_rate", "tool_timeout_rate", "tool_retry_rate", "rollout_gap_max",
    "rollout_kl", "rollout_ratio_mean",
)  # fmt: skip
"""Telemetry that speaks of tools and machines: how far a policy has learnt does not move it."""
LEARNING = tuple(name for name in TELEMETRY if name not in FIXED)
"""Telemetry that follows how far the policy has learnt, and how fast it learns."""

OF_UPDATES = ("update_ratio", "changed_rate", "step_kl")
"""What updates do. In a step in which the commit gate refused one, an update of size 0 is the right one."""
REFUSED = "vetoes"

REWARDS = ("reward_mean", "reward_std", "reward_min", "reward_q10", "reward_q50", "reward_q90", "reward_max")
LENGTHS = ("length_mean", "length_q10", "length_q50", "length_q90", "length_max", "long_rate", "truncated_rate")
GROUP_RATES = ("zero_variance_group_rate", "all_right_group_rate", "all_wrong_group_rate", "filtered_group_rate")
ADVANTAGES = ("advantage_std", "advantage_max", "advantage_kurtosis")
ENTROPIES = ("entropy", "entropy_q10", "entropy_q90", "entropy_observed", "sampling_logprob_mean")
UPDATE_SIZES = ("grad_norm", "update_ratio", "step_kl", "step_ratio_max")
REPETITION = (
    "distinct_sample_rate", "distinct_bigram_rate", "unique_token_rate", "repeated_bigram_rate",
    "repeated_trigram_rate", "compress_ratio",
)  # fmt: skip
ENDINGS = ("eos_rate", "stop_rate", "turn_limit_rate", "turns_mean", "empty_rate", "short_rate")
TOOL_CALLS = ("tool_call_count", "tool_calls_mean", "tool_unparsable_rate")

PROMPT_SIGNALS: tuple[str, ...] = (
    "prompt_length_mean", "answer_length_mean", "prompt_difficulty_mean", "prompt_repeat_rate",
)  # fmt: skip
"""Signals that describe the prompts alone."""

PROMPT_DEPENDENT: tuple[str, ...] = (
    *PROMPT_SIGNALS, "correct_rate", "sampled_gap", "probe_gap", "kl_ref", *REWARDS, *LENGTHS, *GROUP_RATES,
    *ADVANTAGES, *ENTROPIES, *UPDATE_SIZES, *REPETITION, *ENDINGS, *TOOL_CALLS,
)  # fmt: skip
"""Signals that depend on which prompts are asked, as far as the policy does better on some than on others."""
