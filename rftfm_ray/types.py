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


class Check(StrEnum):
    """A check that is made at a cadence, and at once where the guard asks for it; the cheapest first."""

    UPDATE_REPLAY = "update_replay"
    KNOWN_CALLS = "known_calls"
    GOLDEN = "golden"


class Action(StrEnum):
    """What a remedy does once, beside moving levers.

    Send the learner's weights to every rollout actor again, and compare by hash what is served; replace every rollout
    actor by a new one, which gets weights whole; put the critic's head back to where it was before the fault; replace
    the learner by a new one, which goes on from the state that the old one saves.
    """

    RESYNC = "resync"
    RESTART_ROLLOUT = "restart_rollout"
    RESET_CRITIC = "reset_critic"
    RESTART_LEARNER = "restart_learner"


class Rejection(StrEnum):
    """Why the commit gate rejected an update."""

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


class CreditSource(IntEnum):
    """Where the loss gets advantages and a critic's targets from.

    The learner's own estimator; the commit gate's independent recomputation from rewards and the critic's own output,
    taken at the loss; or the same with rewards relative to their group, which needs no critic: one that there is
    learns on, and its loss ends at its head.
    """

    LEARNER = 0
    RECOMPUTED = 1
    GROUP = 2


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
        credit_source: where the loss gets its credit from, a `CreditSource`. Any but the learner's own goes by declared
            settings, past everything between estimator and loss.
        temperature_scale: temperature that the sampler is asked for over the declared one, at which the learner then
            computes log-probs, whatever it is told.
        end_bias: nats that are added to the logits of end tokens at sampling.
        tokens_scale: most tokens of a turn over the declared ones.
        is_cap: the policy loss of a token is weighted by its importance ratio, learner over rollout, at most this.
        mask_undecoded: 1 keeps trajectories out of the loss with an observation whose tokens do not decode to its text.
        mask_unreplayed: 1 keeps trajectories out of the loss whose replay in the trusted environment differs; all of
            them are replayed then.
        mask_truncated: 1 keeps trajectories out of the loss that a limit of tokens or turns has cut off.
        rollout_path: 1 takes the clean path, the one of held-out probes: prompts are those of the problems, and turns
            go to the engine with the declared sampling terms and nothing between.
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
    credit_source: int | None = None
    temperature_scale: float | None = None
    end_bias: float | None = None
    tokens_scale: float | None = None
    is_cap: float | None = None
    mask_undecoded: int | None = None
    mask_unreplayed: int | None = None
    mask_truncated: int | None = None
    rollout_path: int | None = None


@dataclass(frozen=True, slots=True)
class Settings:
    """The values in force in one update, after schedule and levers. `lr` is 0 while the policy is frozen.

    `is_cap` None: tokens are not weighted by their importance ratio.
    """

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
    is_cap: float | None = None
    credit_source: CreditSource = CreditSource.LEARNER


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What a run is, as far as it decides which levers it can have.

    Attributes:
        algorithm: its name.
        group_size: fewest answers to one prompt in any step.
        top_p: at sampling.
        calls_tools: whether episodes of its task call tools.
    """

    algorithm: str
    group_size: int
    top_p: float
    calls_tools: bool = True

    @property
    def has_critic(self) -> bool:
        """Whether a critic learns beside the policy."""
        return self.algorithm == "ppo"


@dataclass(frozen=True, slots=True)
class RejectedUpdate:
    """One rejected update: its minibatch, the cause, and the evidence in one sentence."""

    minibatch: int
    veto: Rejection
    reason: str


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """Accuracy on held-out problems at one model version, `step` being the step that made it.

    `accuracy` is greedy, over `size` problems; `sampled_accuracy` is that of one sample each at the temperature of
    training, over `sampled_size` problems, NaN where none was drawn. Sizes count answers that were graded; where those
    without a verdict (`ungraded`, `sampled_ungraded`) are more, the accuracy is NaN and the size 0.
    """

    step: int
    model_version: int
    accuracy: float
    size: int
    sampled_accuracy: float
    sampled_size: int
    seconds: float
    ungraded: int = 0
    sampled_ungraded: int = 0


@dataclass(frozen=True, slots=True)
class IncidentSummary:
    """One incident of a finished run.

    Attributes:
        fault: code of its newest diagnosis.
        alarm_step: step whose report opened it.
        onset: first step of the change, as estimated.
        state: where it ended, for example resolved; mitigated where its cause is still active, so that a lever has to
            stay.
        remedies: names of those that were applied, in order.
        outcome: of the last of them; None where there was none, or where it had not been verified.
    """

    fault: str
    alarm_step: int
    onset: int
    state: str
    remedies: tuple[str, ...]
    outcome: str | None


@dataclass(frozen=True, slots=True)
class EndingProblem:
    """One thing that is wrong with the state in which a run has ended.

    Attributes:
        kind: `no_update`, `below_start`, `below_best`, `ungraded`, `incident` or `guard_lost`.
        message: one sentence.
        before: held-out accuracy that the run had, None where the problem is another one.
        after: held-out accuracy at the end, as `before`.
        incident: its number, 0 where the problem is another one.
    """

    kind: str
    message: str
    before: float | None = None
    after: float | None = None
    incident: int = 0


@dataclass(frozen=True, slots=True)
class RunSummary:
    """What a finished run comes to; `rftfm train --json` prints it.

    `remedies` counts those that were applied, `guard_waits` the steps that had to wait because the guard was
    `guard.buffer` reports behind, and `ending` lists what is wrong with the last state. `guard_restarts` counts how
    often monitor or controller was lost and replaced, and `unguarded_steps` the steps without a verdict because the
    guard was lost for good. `hook_failures` counts the events of incidents that `guard.on_incident` was not told.
    `probe_size` is the number of held-out problems of the first and the last accuracy, 0 where it is not known.
    """

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
    incidents: tuple[IncidentSummary, ...]
    remedies: int
    paid_steps: int
    guard_waits: int
    ending: tuple[EndingProblem, ...] = ()
    guard_restarts: int = 0
    unguarded_steps: int = 0
    hook_failures: int = 0
    probe_size: int = 0


@dataclass(frozen=True, slots=True)
class TrainingCursor:
    """The training cursor after a step: the state of a snapshot or checkpoint beside its tensors."""

    id: StepId
    model_version: int
    cursor: int
