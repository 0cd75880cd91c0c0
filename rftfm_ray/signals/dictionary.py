"""The dictionary of signals: what each one is, in which unit, where it comes from, and how small a change counts.

Codes s1 to s23 group what tells the same story. Costs: 0 comes with the step, 1 takes a little more work, 2 asks an
independent channel. `floor` is the smallest spread that a signal is ever judged against, in units of its scale (nats
for a ratio). NaN stands for nothing to measure, or for a channel that was not due.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Scale(StrEnum):
    """How a signal is compared: as a fraction of a batch, by its ratio, or by its difference."""

    RATE = "rate"
    RATIO = "ratio"
    LINEAR = "linear"


class Source(StrEnum):
    """Who measures a signal."""

    ROLLOUT = "rollout"
    LEARNER = "learner"
    CHANNEL = "channel"
    DRIVER = "driver"


@dataclass(frozen=True, slots=True)
class Signal:
    """One entry of the schema."""

    name: str
    code: str
    scale: Scale
    unit: str
    floor: float
    source: Source
    cost: int
    meaning: str


RATE, RATIO, LINEAR = Scale.RATE, Scale.RATIO, Scale.LINEAR
ROLLOUT, LEARNER, CHANNEL, DRIVER = Source.ROLLOUT, Source.LEARNER, Source.CHANNEL, Source.DRIVER
# One trajectory of a batch of 128, rounded up.
ONE = 0.01

_Row = tuple[str, str, Scale, str, float, Source, int, str]

_REWARDS: tuple[_Row, ...] = (
    ("trajectory_count", "s1", LINEAR, "trajectories", 1.0, ROLLOUT, 0, "trajectories of the step"),
    ("reward_mean", "s1", LINEAR, "reward", 0.02, ROLLOUT, 0, "mean reward that trains, over valid trajectories"),
    ("reward_std", "s1", LINEAR, "reward", 0.02, ROLLOUT, 0, "standard deviation of the rewards"),
    ("reward_min", "s1", LINEAR, "reward", 0.02, ROLLOUT, 0, "smallest reward"),
    ("reward_q10", "s1", LINEAR, "reward", 0.02, ROLLOUT, 0, "10 % quantile of the rewards"),
    ("reward_q50", "s1", LINEAR, "reward", 0.02, ROLLOUT, 0, "median reward"),
    ("reward_q90", "s1", LINEAR, "reward", 0.02, ROLLOUT, 0, "90 % quantile of the rewards"),
    ("reward_max", "s1", LINEAR, "reward", 0.02, ROLLOUT, 0, "largest reward"),
    ("correct_rate", "s1", RATE, "fraction", ONE, ROLLOUT, 0, "valid trajectories that the verifier calls right"),
    ("valid_rate", "s1", RATE, "fraction", ONE, ROLLOUT, 0, "trajectories that may train"),
    (
        "failed_rate",
        "s19",
        RATE,
        "fraction",
        ONE,
        ROLLOUT,
        0,
        "trajectories that a failure has ended, or masked",
    ),
    ("refilled_rate", "s19", RATE, "fraction", ONE, ROLLOUT, 0, "valid trajectories that were sampled again"),
    ("zero_variance_group_rate", "s2", RATE, "fraction", ONE, ROLLOUT, 0, "groups whose rewards are all equal"),
    ("all_right_group_rate", "s2", RATE, "fraction", ONE, ROLLOUT, 0, "such groups with every answer right"),
    ("all_wrong_group_rate", "s2", RATE, "fraction", ONE, ROLLOUT, 0, "such groups with every answer wrong"),
)

_TEXTS: tuple[_Row, ...] = (
    ("length_mean", "s6", LINEAR, "tokens", 0.1, ROLLOUT, 0, "mean number of chosen tokens"),
    ("length_q10", "s6", LINEAR, "tokens", 0.1, ROLLOUT, 0, "10 % quantile of chosen tokens"),
    ("length_q50", "s6", LINEAR, "tokens", 0.1, ROLLOUT, 0, "median of chosen tokens"),
    ("length_q90", "s6", LINEAR, "tokens", 0.1, ROLLOUT, 0, "90 % quantile of chosen tokens"),
    ("length_max", "s6", LINEAR, "tokens", 0.1, ROLLOUT, 0, "most chosen tokens"),
    ("turns_mean", "s19", LINEAR, "turns", 0.02, ROLLOUT, 0, "mean number of turns of the model"),
    ("eos_rate", "s19", RATE, "fraction", ONE, ROLLOUT, 0, "ended by the end-of-sequence token"),
    ("stop_rate", "s19", RATE, "fraction", ONE, ROLLOUT, 0, "ended by the environment"),
    ("truncated_rate", "s19", RATE, "fraction", ONE, ROLLOUT, 0, "cut off by a limit of tokens or turns"),
    ("turn_limit_rate", "s19", RATE, "fraction", ONE, ROLLOUT, 0, "cut off by the limit of turns"),
    ("empty_rate", "s7", RATE, "fraction", ONE, ROLLOUT, 0, "at most one chosen token: only an end of sequence"),
    ("short_rate", "s7", RATE, "fraction", ONE, ROLLOUT, 0, "at most two chosen tokens"),
    ("long_rate", "s7", RATE, "fraction", ONE, ROLLOUT, 0, "more than 80 % of the tokens that the task allows"),
    ("unique_token_rate", "s8", RATE, "fraction", ONE, ROLLOUT, 0, "distinct over all tokens, within trajectories"),
    ("repeated_bigram_rate", "s8", RATE, "fraction", ONE, ROLLOUT, 0, "bigrams seen before in their trajectory"),
    ("repeated_trigram_rate", "s8", RATE, "fraction", ONE, ROLLOUT, 0, "trigrams seen before in their trajectory"),
    ("distinct_bigram_rate", "s8", RATE, "fraction", ONE, ROLLOUT, 0, "distinct over all bigrams of the step"),
    (
        "distinct_sample_rate",
        "s8",
        RATE,
        "fraction",
        ONE,
        ROLLOUT,
        0,
        "distinct answers within a group, mean of groups",
    ),
    (
        "compress_ratio",
        "s8",
        LINEAR,
        "bytes per byte",
        0.01,
        ROLLOUT,
        1,
        "zlib size of the chosen tokens over their own",
    ),
    ("sampling_logprob_mean", "s9", LINEAR, "nats", 0.02, ROLLOUT, 0, "mean log-prob of a chosen token at sampling"),
)

_TOOLS: tuple[_Row, ...] = (
    ("tool_call_count", "s17", LINEAR, "calls", 1.0, ROLLOUT, 0, "tool calls of the step, masked ones included"),
    ("tool_calls_mean", "s17", LINEAR, "calls", 0.02, ROLLOUT, 0, "tool calls of a valid trajectory"),
    ("tool_unparsable_rate", "s17", RATE, "fraction", ONE, ROLLOUT, 0, "calls that could not be read: the model's"),
    ("tool_error_rate", "s17", RATE, "fraction", ONE, ROLLOUT, 0, "calls that the tool failed, by error or time-out"),
    ("tool_timeout_rate", "s17", RATE, "fraction", ONE, ROLLOUT, 0, "calls that ended in a time-out"),
    ("tool_retry_rate", "s17", RATE, "fraction", ONE, ROLLOUT, 0, "calls that took more than one try"),
    ("tool_latency_s", "s17", LINEAR, "s", math.inf, ROLLOUT, 0, "mean time of a call"),
    ("tool_latency_max_s", "s17", LINEAR, "s", math.inf, ROLLOUT, 0, "longest time of a call"),
    ("tool_error_latency_s", "s17", LINEAR, "s", math.inf, ROLLOUT, 0, "mean time of a failed call"),
)

_CHANNELS: tuple[_Row, ...] = (
    ("tool_shadow_error_rate", "s17", RATE, "fraction", ONE, CHANNEL, 2, "known calls that an idle instance got wrong"),
    ("known_call_count", "s17", LINEAR, "calls", 1.0, CHANNEL, 2, "known calls put to the instance asked first"),
    ("known_call_error_rate", "s17", RATE, "fraction", ONE, CHANNEL, 2, "known calls that it got wrong"),
    ("regrade_count", "s5", LINEAR, "trajectories", 1.0, CHANNEL, 2, "trajectories graded by the trusted verifier too"),
    ("regrade_mismatch_rate", "s5", RATE, "fraction", ONE, CHANNEL, 2, "those that the live channel graded otherwise"),
    ("regrade_error_mean", "s5", LINEAR, "reward", 0.02, CHANNEL, 2, "live less trusted reward, mean"),
    (
        "regrade_hit_right",
        "s5",
        LINEAR,
        "net fraction",
        ONE,
        CHANNEL,
        2,
        "share of right answers paid too much, less that of those paid too little",
    ),
    (
        "regrade_hit_wrong",
        "s5",
        LINEAR,
        "net fraction",
        ONE,
        CHANNEL,
        2,
        "share of wrong answers paid too much, less that of those paid too little",
    ),
    (
        "regrade_by_length",
        "s5",
        LINEAR,
        "correlation",
        0.05,
        CHANNEL,
        2,
        "correlation of the reward's error with the tokens before the end",
    ),
    (
        "regrade_by_repetition",
        "s5",
        LINEAR,
        "correlation",
        0.05,
        CHANNEL,
        2,
        "correlation of the reward's error with the share of repeated tokens",
    ),
    ("regrade_empty", "s5", RATE, "fraction", ONE, CHANNEL, 2, "wrongly graded answers that are empty"),
    (
        "regrade_by_form",
        "s5",
        LINEAR,
        "share",
        0.01,
        CHANNEL,
        2,
        "what the first or last token explains of which wrong answers it pays",
    ),
    ("trained_mismatch_rate", "s5", RATE, "fraction", ONE, CHANNEL, 2, "those that train on another reward"),
    ("golden_count", "s5", LINEAR, "responses", 1.0, CHANNEL, 2, "known responses that the live channel graded"),
    ("golden_mismatch_rate", "s5", RATE, "fraction", ONE, CHANNEL, 2, "those that it graded wrongly"),
    ("golden_right_error", "s5", LINEAR, "reward", 0.02, CHANNEL, 2, "their reward less the right one, known-right"),
    ("golden_wrong_error", "s5", LINEAR, "reward", 0.02, CHANNEL, 2, "their reward less the right one, known-wrong"),
    (
        "golden_repeat_mismatch_rate",
        "s5",
        RATE,
        "fraction",
        ONE,
        CHANNEL,
        2,
        "known responses that it pays otherwise when it is asked again",
    ),
    ("verifier_error_rate", "s5", RATE, "fraction", ONE, CHANNEL, 1, "trajectories on which the verifier failed"),
    ("observation_count", "s18", LINEAR, "observations", 1.0, CHANNEL, 1, "observations that carry their tool's hash"),
    ("observation_mismatch_rate", "s18", RATE, "fraction", ONE, CHANNEL, 1, "those that are altered in the transcript"),
    (
        "observation_decode_mismatch_rate",
        "s18",
        RATE,
        "fraction",
        ONE,
        CHANNEL,
        1,
        "those whose tokens decode to another text",
    ),
    ("limit_excess", "s19", LINEAR, "nats", 1e-06, CHANNEL, 1, "logarithm of a turn's tokens asked for over declared"),
    ("cut_short_rate", "s19", RATE, "fraction", ONE, CHANNEL, 1, "turns cut off before the tokens asked for"),
    ("replay_count", "s18", LINEAR, "trajectories", 1.0, CHANNEL, 2, "trajectories put to the trusted environment"),
    ("replay_observation_mismatch_rate", "s18", RATE, "fraction", ONE, CHANNEL, 2, "those observed otherwise then"),
    ("replay_termination_mismatch_rate", "s19", RATE, "fraction", ONE, CHANNEL, 2, "those ended elsewhere then"),
    ("termination_mismatch_rate", "s19", RATE, "fraction", ONE, CHANNEL, 1, "terminations that the tokens belie"),
)

_UPDATES: tuple[_Row, ...] = (
    ("loss", "s13", LINEAR, "loss", 0.02, LEARNER, 0, "whole loss: policy, KL, entropy and value terms"),
    ("policy_loss", "s13", LINEAR, "loss", 0.02, LEARNER, 0, "clipped surrogate, mean over tokens"),
    ("kl_ref", "s10", RATIO, "nats", 0.15, LEARNER, 0, "k3 estimate of KL(policy, reference) a token"),
    ("kl_old", "s11", RATIO, "nats", 0.15, LEARNER, 0, "k3 estimate of KL(policy, policy before the step)"),
    ("entropy", "s9", LINEAR, "nats", 0.02, LEARNER, 0, "mean entropy of the next-token distribution"),
    ("entropy_q10", "s9", LINEAR, "nats", 0.02, LEARNER, 0, "10 % quantile of it"),
    ("entropy_q90", "s9", LINEAR, "nats", 0.02, LEARNER, 0, "90 % quantile of it"),
    ("entropy_observed", "s9", LINEAR, "nats", 0.05, LEARNER, 0, "its mean right after an observation"),
    ("ratio_min", "s11", RATIO, "ratio", 0.15, LEARNER, 0, "smallest probability ratio to before the step"),
    ("ratio_max", "s11", RATIO, "ratio", 0.15, LEARNER, 0, "largest one"),
    ("clip_low_rate", "s11", RATE, "fraction", ONE, LEARNER, 0, "tokens whose ratio the lower clip binds"),
    ("clip_high_rate", "s11", RATE, "fraction", ONE, LEARNER, 0, "tokens whose ratio the upper clip binds"),
    ("value_loss", "s14", RATIO, "loss", 0.15, LEARNER, 0, "half the squared error of the critic, clipped"),
    ("value_clip_rate", "s14", RATE, "fraction", ONE, LEARNER, 0, "tokens whose value the clip binds"),
    ("grad_norm", "s12", RATIO, "norm", 0.2, LEARNER, 0, "norm of the gradient before it is clipped"),
    ("update_ratio", "s12", RATIO, "norm over norm", 0.1, LEARNER, 1, "norm of the change over that of the weights"),
    ("changed_rate", "s12", RATE, "fraction", ONE, LEARNER, 1, "weights that the step changed"),
    ("step_kl", "s11", RATIO, "nats", 0.2, LEARNER, 1, "k3 estimate of KL(policy before, after the step)"),
    ("step_ratio_max", "s11", RATIO, "ratio", 0.15, LEARNER, 1, "largest probability ratio of after to before"),
    ("lr", "s12", RATIO, "rate", 0.01, LEARNER, 0, "learning rate in force, as the learner reports it"),
    ("critic_lr", "s14", RATIO, "rate", 0.01, LEARNER, 0, "learning rate of the critic's head"),
    ("schedule_factor", "s12", RATIO, "rate", 0.01, LEARNER, 0, "share of the nominal rate that is scheduled"),
    ("kl_coef", "s10", RATIO, "rate", 0.01, LEARNER, 0, "weight of the KL term in force"),
    ("rollout_gap_max", "s20", LINEAR, "nats", 0.0001, LEARNER, 0, "largest log-prob gap of learner and rollout"),
    ("rollout_kl", "s20", RATIO, "nats", 0.2, LEARNER, 0, "k3 estimate of KL(rollout, learner) a token"),
    ("rollout_ratio_mean", "s20", LINEAR, "ratio", 0.0001, LEARNER, 0, "mean probability ratio of learner to rollout"),
    (
        "gap_end",
        "s20",
        LINEAR,
        "nats",
        0.001,
        LEARNER,
        0,
        "bias of end tokens at sampling: their log-odds less the learner's",
    ),
    ("gap_rest", "s20", LINEAR, "nats", 0.001, LEARNER, 0, "log-prob at sampling less the learner's, all other tokens"),
    ("gap_again", "s20", LINEAR, "nats", 0.001, LEARNER, 0, "of these, tokens that their response had before"),
    ("gap_new", "s20", LINEAR, "nats", 0.001, LEARNER, 0, "of these, tokens that it had not"),
    (
        "gap_slope",
        "s20",
        LINEAR,
        "slope",
        0.001,
        LEARNER,
        0,
        "exponent by which the sampler sharpens the learner's distribution",
    ),
    ("gap_zero_share", "s20", RATE, "fraction", ONE, LEARNER, 0, "tokens whose two log-probs are the same"),
    (
        "update_gain",
        "s12",
        LINEAR,
        "factor",
        0.01,
        LEARNER,
        1,
        "what an update moved over what AdamW moves at the declared rate",
    ),
    ("staleness", "s21", LINEAR, "versions", 0.5, LEARNER, 0, "version that learns less the one that sampled"),
    ("vetoes", "s12", LINEAR, "updates", 0.5, LEARNER, 0, "updates that the commit gate refused"),
)

_CREDIT: tuple[_Row, ...] = (
    ("advantage_mean", "s15", LINEAR, "advantage", 0.02, LEARNER, 0, "mean advantage"),
    ("advantage_std", "s15", LINEAR, "advantage", 0.05, LEARNER, 0, "standard deviation of the advantages"),
    ("advantage_max", "s15", LINEAR, "advantage", 0.05, LEARNER, 0, "largest magnitude of an advantage"),
    ("advantage_kurtosis", "s15", LINEAR, "moment", 0.2, LEARNER, 0, "fourth standardised moment, 3 if normal"),
    ("advantage_error", "s15", LINEAR, "advantage", 1e-05, LEARNER, 1, "largest gap to the independent recompute"),
    (
        "credit_error",
        "s15",
        LINEAR,
        "advantage",
        1e-05,
        LEARNER,
        1,
        "largest gap of advantages in the loss to the declared rule",
    ),
    (
        "credit_known_share",
        "s15",
        RATE,
        "fraction",
        ONE,
        LEARNER,
        1,
        "of the advantages that differ, those that another token has",
    ),
    (
        "return_error",
        "s14",
        LINEAR,
        "reward",
        1e-05,
        LEARNER,
        1,
        "largest gap of the critic's targets to the declared rule",
    ),
    ("value_error", "s14", LINEAR, "reward", 1e-05, LEARNER, 1, "largest gap of the values used to the critic's own"),
    (
        "sample_mismatch_rate",
        "s15",
        RATE,
        "fraction",
        ONE,
        LEARNER,
        1,
        "samples that do not reach the loss once, as the rollout made them",
    ),
    ("advantage_early", "s16", LINEAR, "advantage", 0.05, LEARNER, 0, "mean advantage of first chosen tokens"),
    ("advantage_late", "s16", LINEAR, "advantage", 0.05, LEARNER, 0, "mean advantage of last chosen tokens"),
    ("return_early", "s14", LINEAR, "reward", 0.02, LEARNER, 0, "mean discounted reward after first chosen tokens"),
    ("return_late", "s14", LINEAR, "reward", 0.02, LEARNER, 0, "mean discounted reward after last chosen tokens"),
    ("value_early", "s14", LINEAR, "reward", 0.02, LEARNER, 0, "mean value before first chosen tokens"),
    ("value_late", "s14", LINEAR, "reward", 0.02, LEARNER, 0, "mean value before last chosen tokens"),
    ("value_bias", "s14", LINEAR, "reward", 0.02, LEARNER, 0, "mean value less the discounted reward that followed"),
    ("value_slope", "s14", LINEAR, "slope", 0.1, LEARNER, 0, "regression of the discounted reward on the value"),
    ("explained_variance", "s14", LINEAR, "fraction", 0.05, LEARNER, 0, "1 - Var(return - value) / Var(return)"),
    ("credit_correlation", "s16", LINEAR, "correlation", 0.05, LEARNER, 0, "last token's advantage with the reward"),
    ("credit_lag", "s16", LINEAR, "tokens", 0.5, LEARNER, 0, "tokens before the last where it goes most"),
    ("filtered_group_rate", "s2", RATE, "fraction", ONE, LEARNER, 0, "groups that the group filter left out"),
)

_CHECKS: tuple[_Row, ...] = (
    ("probe_accuracy", "s3", RATE, "fraction", ONE, CHANNEL, 2, "held-out problems answered right, greedily"),
    ("probe_sampled_accuracy", "s3", RATE, "fraction", ONE, CHANNEL, 2, "the same at the temperature of training"),
    ("parity_gap", "s20", LINEAR, "nats", 0.0001, CHANNEL, 2, "largest log-prob gap of the two, fixed tokens"),
    ("weights_mismatch", "s22", LINEAR, "0 or 1", 0.5, CHANNEL, 1, "1 when other weights are served than learnt"),
    ("lr_excess", "s12", LINEAR, "nats", 1e-06, DRIVER, 0, "logarithm of the rate in force over the one called for"),
    ("schedule_excess", "s12", LINEAR, "nats", 1e-06, DRIVER, 0, "the same of the schedule's factor"),
    ("probe_gap", "s4", LINEAR, "reward", 0.02, CHANNEL, 2, "correct_rate less probe_accuracy"),
    ("sampled_gap", "s4", LINEAR, "reward", 0.02, CHANNEL, 2, "correct_rate less probe_sampled_accuracy"),
)

# Where a pass over few problems ends, some of them come again soon.
_PROMPTS: tuple[_Row, ...] = (
    ("prompt_length_mean", "s23", LINEAR, "characters", 0.1, DRIVER, 0, "mean length of the prompts"),
    ("answer_length_mean", "s23", LINEAR, "characters", 0.02, DRIVER, 0, "mean length of their known right answers"),
    ("prompt_difficulty_mean", "s23", LINEAR, "difficulty", 0.02, DRIVER, 0, "their mean difficulty, by the task"),
    ("prompt_repeat_rate", "s23", RATE, "fraction", 0.2, DRIVER, 0, "those drawn in the last ten batches too"),
)

GROUPS: Mapping[str, tuple[Signal, ...]] = {
    title: tuple(Signal(*row) for row in rows)
    for title, rows in (
        ("Rewards", _REWARDS),
        ("Texts", _TEXTS),
        ("Tools", _TOOLS),
        ("Independent channels", _CHANNELS),
        ("Updates", _UPDATES),
        ("Credit", _CREDIT),
        ("Checks", _CHECKS),
        ("Prompts", _PROMPTS),
    )
}
"""Every signal by what it speaks of, as a page shows them."""

DICTIONARY: Mapping[str, Signal] = {signal.name: signal for group in GROUPS.values() for signal in group}
"""Every signal by its name."""
