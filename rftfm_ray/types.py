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
    """How the model is sampled. Temperature 0 is greedy."""

    temperature: float
    top_p: float


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


@dataclass(frozen=True, slots=True)
class Settings:
    """The values in force in one update, after schedule and levers."""

    lr: float
    kl_coef: float
    clip_low: float
    clip_high: float
    entropy_coef: float
    max_grad_norm: float
    minibatches: int


@dataclass(frozen=True, slots=True)
class VetoRecord:
    """One refused update: which minibatch of the step, why, and the evidence in one sentence."""

    minibatch: int
    veto: Veto
    reason: str


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """Greedy accuracy on held-out problems at one model version, `step` being the step that made it."""

    step: int
    model_version: int
    accuracy: float
    size: int
    seconds: float


@dataclass(frozen=True, slots=True)
class RunSummary:
    """What a finished run comes to; `rftfm train --json` prints it."""

    run_dir: str
    seed: int
    steps: int
    reward_first: float
    reward_last: float
    probe_first: float
    probe_last: float
    step_time_s_median: float
    first_step_s: float
    vetoes: int
    guard: str
    incidents: int
    remedies: int
    paid_steps: int


@dataclass(frozen=True, slots=True)
class BatchMetrics:
    """What the trajectories of one step look like. Rewards and lengths are taken over valid trajectories.

    Lengths count tokens that the model chose. Rates are fractions in [0, 1]. NaN: nothing to measure.
    Rewards are those that train; `regrade_*` compare the live reward channel with the trusted verifier.
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
    truncated_rate: float
    failed_rate: float
    empty_rate: float
    unique_token_rate: float
    repeated_bigram_rate: float
    tool_calls_mean: float
    tool_unparsable_rate: float
    tool_error_rate: float
    tool_retry_rate: float
    tool_shadow_error_rate: float
    tool_latency_s: float
    refilled_rate: float
    sampling_logprob_mean: float
    regrade_count: float
    regrade_mismatch_rate: float
    regrade_error_mean: float
    trained_mismatch_rate: float


@dataclass(frozen=True, slots=True)
class UpdateMetrics:
    """What one step's updates did, averaged over minibatches unless named max. KL and entropy in nats per token.

    `rollout_gap_max` is the largest difference between the learner's and the rollout's log-prob of a
    sampled token before the first update of the step; NaN where top_p cuts the rollout's distribution.
    `update_ratio` is the norm of the change over the norm of the weights, `changed_rate` the share of
    weights that changed, both over a fixed sample of the weights and the whole step.
    """

    loss: float
    policy_loss: float
    kl_ref: float
    kl_old: float
    entropy: float
    ratio_max: float
    clip_low_rate: float
    clip_high_rate: float
    advantage_std: float
    advantage_max: float
    advantage_kurtosis: float
    grad_norm: float
    update_ratio: float
    changed_rate: float
    lr: float
    schedule_factor: float
    kl_coef: float
    rollout_gap_max: float
    vetoes: int


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
class StepRow:
    """One row of `steps/`: a step as it stands in the records. `probe_accuracy` and `parity_gap` may be NaN.

    `probe_accuracy` belongs to the weights that generated the step's trajectories; `lr_excess` is the natural
    logarithm of the learning rate in force over the one that configuration and levers call for, `schedule_excess` that
    of the schedule's factor over the one that the configuration calls for, which a lever may hide from the rate.
    """

    id: StepId
    model_version: int
    batch: BatchMetrics
    update: UpdateMetrics
    timings: Timings
    probe_accuracy: float
    parity_gap: float
    lr_excess: float
    schedule_excess: float
