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
    """Live settings of the learner. None leaves a setting to the configuration and its schedule.

    A value that is set fixes the effective value after every schedule: the learning rate becomes
    nominal rate times `lr_scale`, whatever the schedule says.
    """

    lr_scale: float | None = None
    kl_coef_scale: float | None = None
    clip_low: float | None = None
    clip_high: float | None = None
    entropy_coef: float | None = None
    max_grad_norm: float | None = None
    minibatches: int | None = None


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
    """Greedy accuracy on held-out problems at one model version."""

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


@dataclass(frozen=True, slots=True)
class BatchMetrics:
    """What the trajectories of one step look like. Rewards and lengths are taken over valid trajectories.

    Lengths count tokens that the model chose. Rates are fractions in [0, 1]. NaN: nothing to measure.
    """

    reward_mean: float
    reward_std: float
    reward_min: float
    reward_max: float
    correct_rate: float
    valid_rate: float
    zero_variance_group_rate: float
    length_mean: float
    length_max: float
    turns_mean: float
    eos_rate: float
    truncated_rate: float
    empty_rate: float
    tool_calls_mean: float
    tool_unparsable_rate: float
    tool_error_rate: float
    sampling_logprob_mean: float


@dataclass(frozen=True, slots=True)
class UpdateMetrics:
    """What one step's updates did, averaged over minibatches unless named max. KL and entropy in nats per token.

    `rollout_gap_max` is the largest difference between the learner's and the rollout's log-prob of a
    sampled token before the first update of the step; NaN where top_p cuts the rollout's distribution.
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
    grad_norm: float
    lr: float
    kl_coef: float
    rollout_gap_max: float
    vetoes: int


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds of one step by phase; `step_s` is wall time from one boundary to the next, probes left out."""

    generate_s: float
    train_s: float
    sync_s: float
    step_s: float


@dataclass(frozen=True, slots=True)
class StepRow:
    """One row of `steps/`: a step as it stands in the records. `probe_accuracy` and `parity_gap` may be NaN."""

    id: StepId
    model_version: int
    batch: BatchMetrics
    update: UpdateMetrics
    timings: Timings
    probe_accuracy: float
    parity_gap: float
