"""Frozen values that cross process borders. Standard library only, so that anything may import this."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum


class Termination(IntEnum):
    """Why an episode ended. Only MAX_TOKENS and MAX_TURNS are truncations; FAILED is not the model's doing."""

    EOS = 0
    STOP = 1
    MAX_TOKENS = 2
    MAX_TURNS = 3
    FAILED = 4


class ActorState(StrEnum):
    """What an actor is doing, as shown by the `rftfm_actor_state` metric."""

    STARTING = "starting"
    IDLE = "idle"
    GENERATING = "generating"
    TRAINING = "training"
    SYNCING = "syncing"
    SAVING = "saving"
    PROBING = "probing"
    JUDGING = "judging"
    ACTING = "acting"


class GuardMode(StrEnum):
    """How far the guard goes: nothing; detect and diagnose; decide and journal as well; and act on it."""

    OFF = "off"
    OBSERVE = "observe"
    ADVISE = "advise"
    ACT = "act"


class Veto(StrEnum):
    """Why the commit gate refused an update."""

    NON_FINITE_LOSS = "non_finite_loss"
    NON_FINITE_GRADIENT = "non_finite_gradient"
    NON_FINITE_ADVANTAGE = "non_finite_advantage"
    GRADIENT_SPIKE = "gradient_spike"
    ADVANTAGE_MISMATCH = "advantage_mismatch"
    EMPTY_BATCH = "empty_batch"


@dataclass(frozen=True, slots=True)
class StepId:
    """Where a step stands. `step` may be rewound by a rollback, which raises `attempt`; `paid_step` never falls."""

    attempt: int
    step: int
    paid_step: int


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the model is sampled. Temperature 0 is greedy.

    What follows `top_p` is as vLLM defines it: a penalty on tokens that have occurred, the fewest tokens of a turn, and
    (token, nats) pairs that are added to logits.
    """

    temperature: float
    top_p: float
    repetition_penalty: float = 1.0
    min_tokens: int = 0
    logit_bias: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Levers:
    """Live settings of learner and rollout. None leaves a setting to the configuration and its schedule.

    A value that is set fixes the effective value after every schedule: the learning rate becomes
    nominal rate times `lr_scale`, whatever the schedule says.

    Attributes:
        lr_scale: effective learning rate over the nominal one.
        kl_coef_scale: effective KL strength over the nominal one.
        clip_low: the probability ratio is clipped from below at 1 - clip_low.
        clip_high: and from above at 1 + clip_high.
        entropy_coef: weight of the entropy bonus.
        max_grad_norm: gradient norm beyond which an update is scaled down.
        minibatches: updates per step.
        regrade_rate: share of trajectories that the trusted verifier grades; where it disagrees with the live
            reward channel, its reward trains. None grades a sample for the record and replaces nothing.
        reward_limit: rewards are clipped to [-reward_limit, reward_limit].
        tool_instance: instance that tool calls go to first.
        tool_retries: further tries of a call that ended in a typed error, each on the next instance.
        refill_rounds: rounds in which trajectories masked by a tool failure are drawn anew.
        advantage_clip: advantages are clipped to [-advantage_clip, advantage_clip].
        group_filter: 1 leaves groups whose rewards are all equal out of the update, 0 takes them in.
        gamma: discount of rewards, for a critic.
        gae_lambda: weight of longer returns in generalised advantage estimation, for a critic.
        critic_lr_scale: effective rate of the critic over the nominal one.
        freeze_policy: 1 lets only the critic learn; without one nothing learns.
    """

    lr_scale: float | None = None
    kl_coef_scale: float | None = None
    clip_low: float | None = None
    clip_high: float | None = None
    entropy_coef: float | None = None
    max_grad_norm: float | None = None
    minibatches: int | None = None
    regrade_rate: float | None = None
    reward_limit: float | None = None
    tool_instance: int | None = None
    tool_retries: int | None = None
    refill_rounds: int | None = None
    advantage_clip: float | None = None
    group_filter: int | None = None
    gamma: float | None = None
    gae_lambda: float | None = None
    critic_lr_scale: float | None = None
    freeze_policy: int | None = None


@dataclass(frozen=True, slots=True)
class Settings:
    """The values in force in one update, after schedule and levers. `lr` is 0 while the policy is frozen."""

    lr: float
    kl_coef: float
    clip_low: float
    clip_high: float
    entropy_coef: float
    max_grad_norm: float
    minibatches: int
    advantage_clip: float | None
    group_filter: bool
    gamma: float
    gae_lambda: float
    critic_lr: float
    freeze_policy: bool


@dataclass(frozen=True, slots=True)
class VetoRecord:
    """One refused update: which minibatch of the step, why, and the evidence in one sentence."""

    minibatch: int
    veto: Veto
    reason: str


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """Accuracy on held-out problems at one model version, `step` being the step that made it.

    `accuracy` is greedy, over `size` problems; `sampled_accuracy` is that of one sample each at the temperature of
    training, over `sampled_size` problems, NaN where none was drawn.
    """

    step: int
    model_version: int
    accuracy: float
    size: int
    sampled_accuracy: float
    sampled_size: int
    seconds: float


@dataclass(frozen=True, slots=True)
class RunSummary:
    """What a finished run comes to; `rftfm train --json` prints it. `guard_waits`: steps that had to wait because the
    guard was `guard.buffer` reports behind."""

    run_dir: str
    seed: int
    steps: int
    reward_first: float
    reward_last: float
    probe_first: float
    probe_last: float
    probe_sampled_first: float
    probe_sampled_last: float
    step_time_s_median: float
    first_step_s: float
    vetoes: int
    guard: str
    incidents: int
    remedies: int
    paid_steps: int
    guard_waits: int


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
    trained_mismatch_rate: float
    golden_count: float
    golden_mismatch_rate: float
    golden_right_error: float
    golden_wrong_error: float
    observation_count: float
    observation_mismatch_rate: float
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
    staleness: float
    vetoes: int


@dataclass(frozen=True, slots=True)
class CreditMetrics:
    """How one step's rewards became advantages, over what the estimator works on: tokens with a critic, else
    trajectories; what the update leaves out does not count.

    `advantage_error` is the largest difference to the independent recompute, relative above 1. `credit_correlation` is
    that of a trajectory's last advantage with its reward; `credit_lag` counts back from the last token to the one whose
    advantage goes most with what the reward surprised by. `value_*` and `explained_variance` judge the critic of before
    the update by the discounted rewards that followed. `early` and `late` are the first and last chosen token of a
    trajectory. NaN without a critic: `value_*`, `explained_variance`.
    """

    advantage_mean: float
    advantage_std: float
    advantage_max: float
    advantage_kurtosis: float
    advantage_error: float
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
class StepRow:
    """One row of `steps/`: a step as it stands in the records."""

    id: StepId
    model_version: int
    batch: BatchMetrics
    update: UpdateMetrics
    credit: CreditMetrics
    timings: Timings
    checks: CheckMetrics
