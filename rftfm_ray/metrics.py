"""What is measured of a step, as frozen values. Standard library only, so that anything may import this."""

from __future__ import annotations

from dataclasses import dataclass

from rftfm_ray.types import StepId


@dataclass(frozen=True, slots=True)
class BatchMetrics:
    """What the trajectories of one step look like; `detection.dictionary` defines every figure.

    Rewards and lengths are taken over valid trajectories; rewards are those that train. Lengths count tokens that the
    model chose. Rates are fractions in [0, 1]. NaN: nothing to measure, or a channel that was not due.
    """

    trajectory_count: float
    tool_call_count: float
    reward_mean: float
    reward_std: float
    reward_min: float
    reward_q10: float
    reward_q50: float
    reward_q90: float
    reward_max: float
    correct_rate: float
    valid_rate: float
    zero_variance_group_rate: float
    all_right_group_rate: float
    all_wrong_group_rate: float
    length_mean: float
    length_q10: float
    length_q50: float
    length_q90: float
    length_max: float
    turns_mean: float
    eos_rate: float
    stop_rate: float
    truncated_rate: float
    turn_limit_rate: float
    failed_rate: float
    empty_rate: float
    short_rate: float
    long_rate: float
    unique_token_rate: float
    repeated_bigram_rate: float
    repeated_trigram_rate: float
    distinct_bigram_rate: float
    distinct_sample_rate: float
    compress_ratio: float
    tool_calls_mean: float
    tool_unparsable_rate: float
    tool_error_rate: float
    tool_timeout_rate: float
    tool_retry_rate: float
    tool_shadow_error_rate: float
    tool_latency_s: float
    tool_latency_max_s: float
    tool_error_latency_s: float
    refilled_rate: float
    sampling_logprob_mean: float
    regrade_count: float
    regrade_mismatch_rate: float
    regrade_error_mean: float
    regrade_hit_right: float
    regrade_hit_wrong: float
    regrade_by_length: float
    regrade_by_repetition: float
    regrade_empty: float
    regrade_by_form: float
    trained_mismatch_rate: float
    golden_count: float
    golden_mismatch_rate: float
    golden_right_error: float
    golden_wrong_error: float
    golden_repeat_mismatch_rate: float
    observation_count: float
    observation_mismatch_rate: float
    observation_decode_mismatch_rate: float
    limit_excess: float
    cut_short_rate: float
    replay_count: float
    replay_observation_mismatch_rate: float
    replay_termination_mismatch_rate: float
    termination_mismatch_rate: float
    known_call_count: float
    known_call_error_rate: float


@dataclass(frozen=True, slots=True)
class UpdateMetrics:
    """What one step's updates did, averaged over minibatches and tokens unless named otherwise.

    KL and entropy in nats per token. `rollout_*` compare the learner's log-probs of the sampled tokens before the
    step's first update with those of the sampling; NaN where top_p cuts the rollout's distribution. `step_*` compare
    the policy after the step's last update with the one before its first, on a sample of the step's trajectories.
    `update_ratio` is the norm of the change over the norm of the weights, `changed_rate` the share of weights that
    changed, both over a fixed sample of the weights and the whole step. NaN without a critic: `value_*`, `critic_lr`.

    `gap_*` compare the log-prob at sampling with the learner's before the step's first update, by kind of token. Of end
    tokens it is the difference of log-odds, which is the bias that the sampler adds to them (`training.gaps`); of all
    others, and of these the ones that occurred before in their response and the ones that did not, that of log-probs;
    `gap_slope` the exponent by which the sampler sharpens the learner's distribution, to first order: about the
    declared temperature over the real one (`training.gaps`); and the share of tokens without a gap. `update_gain` is
    what one update moved a sample of the weights over what AdamW moves them by at the declared rate.
    """

    loss: float
    policy_loss: float
    kl_ref: float
    kl_old: float
    entropy: float
    entropy_q10: float
    entropy_q90: float
    entropy_observed: float
    ratio_min: float
    ratio_max: float
    clip_low_rate: float
    clip_high_rate: float
    value_loss: float
    value_clip_rate: float
    grad_norm: float
    update_ratio: float
    changed_rate: float
    step_kl: float
    step_ratio_max: float
    lr: float
    critic_lr: float
    schedule_factor: float
    kl_coef: float
    rollout_gap_max: float
    rollout_kl: float
    rollout_ratio_mean: float
    gap_end: float
    gap_rest: float
    gap_again: float
    gap_new: float
    gap_slope: float
    gap_zero_share: float
    update_gain: float
    staleness: float
    vetoes: int


@dataclass(frozen=True, slots=True)
class CreditMetrics:
    """How one step's rewards became advantages.

    Figures are over what the estimator works on: tokens with a critic, else trajectories; what the update leaves out
    does not count.

    `advantage_error` is the largest difference to the independent recompute, relative above 1. `credit_error` and
    `return_error` are the same of what the loss gets, against the declared rule on the critic's values as the estimator
    got them; `credit_known_share` is the share of the advantages that differ which belong to another token.
    `value_error` is the largest difference of these values to the critic's output, and `sample_mismatch_rate` the
    share of samples that do not reach the loss once, with the tokens and rewards of the rollout. `credit_correlation`
    is that of a trajectory's last advantage with its reward; `credit_lag` counts back from the last token to the one
    whose advantage goes most with what the reward surprised by. `value_*` and `explained_variance` judge the critic of
    before the update by the discounted rewards that followed. `early` and `late` are the first and last chosen token of
    a trajectory. NaN without a critic: `value_*`, `explained_variance`, `return_error`.
    """

    advantage_mean: float
    advantage_std: float
    advantage_max: float
    advantage_kurtosis: float
    advantage_error: float
    credit_error: float
    credit_known_share: float
    return_error: float
    value_error: float
    sample_mismatch_rate: float
    advantage_early: float
    advantage_late: float
    return_early: float
    return_late: float
    value_early: float
    value_late: float
    value_bias: float
    value_slope: float
    explained_variance: float
    credit_correlation: float
    credit_lag: float
    filtered_group_rate: float


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds of one step by phase; `step_s` is wall time from one boundary to the next.

    `verdict_s` is what the boundary waited for the guard, `probe_s` what a held-out probe took beside the update.
    """

    generate_s: float
    train_s: float
    sync_s: float
    verdict_s: float
    probe_s: float
    step_s: float


@dataclass(frozen=True, slots=True)
class CheckMetrics:
    """What the driver found out about a step. NaN: not due.

    `probe_accuracy` and `probe_sampled_accuracy` belong to the weights that generated the step's trajectories.
    `weights_mismatch` is 1 when a rollout actor serves other weights than the learner's after the step, else 0.
    `lr_excess` is the natural logarithm of the learning rate in force over the one that configuration and levers call
    for, `schedule_excess` that of the schedule's factor over the one that the configuration calls for, which a lever
    may hide from the rate. The last four speak of the prompts, which no policy and no fault of a run chooses.
    """

    probe_accuracy: float
    probe_sampled_accuracy: float
    parity_gap: float
    weights_mismatch: float
    lr_excess: float
    schedule_excess: float
    prompt_length_mean: float
    answer_length_mean: float
    prompt_difficulty_mean: float
    prompt_repeat_rate: float


@dataclass(frozen=True, slots=True)
class RewardPart:
    """One part of the reward in a step, as its function gave it, before its weight.

    Attributes:
        name: of the part.
        mean: over the valid trajectories that it applies to; NaN without one.
        share: of the valid trajectories, those that it applies to; NaN without a valid one.
    """

    name: str
    mean: float
    share: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a set of problems came to at one version.

    Attributes:
        name: of the set.
        id: the last step before it.
        model_version: that answered.
        problems: whose answers were all graded.
        samples: answers to each.
        accuracy: share of right ones among their answers; NaN where fewer problems were graded than not.
        pass_at: (k, chance that one of k answers is right) for k = 2, 4, ... up to `samples`, that one included.
        ungraded: answers without a verdict, of all problems.
        seconds: that it took.
    """

    name: str
    id: StepId
    model_version: int
    problems: int
    samples: int
    accuracy: float
    pass_at: tuple[tuple[int, float], ...]
    ungraded: int
    seconds: float


@dataclass(frozen=True, slots=True)
class StepRow:
    """One row of `steps/`: a step as it stands in the records.

    `snapshots` are the steps that the learner can go back to after it; they are not recorded. `parts` are those of a
    reward that has several; they are recorded in `reward_parts/`.
    """

    id: StepId
    model_version: int
    batch: BatchMetrics
    update: UpdateMetrics
    credit: CreditMetrics
    timings: Timings
    checks: CheckMetrics
    snapshots: tuple[int, ...] = ()
    parts: tuple[RewardPart, ...] = ()
