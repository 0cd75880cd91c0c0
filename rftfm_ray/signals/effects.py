"""What moves what: one table from every deliberate cause to the signals that it moves. Pure.

Detectors forget signals that lose their reference when their cause is declared; signals that a lever holds above or
below keep it, and alarms on that side are expected while it is in force. Signals of an identity or of an independent
channel are left out, except where the cause itself defines them: a deliberate change makes no reward wrong, and no
held-out answer.

A key that differs between two runs from their first step on moves more than the same key when it changes during one
run: whatever changes an update changes the course of all that is learnt. `Effect.reach` says how far.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum

from rftfm_ray.config import MadeChange
from rftfm_ray.signals.dictionary import DICTIONARY
from rftfm_ray.signals.groups import (
    ADVANTAGES,
    ENDINGS,
    ENTROPIES,
    GAPS,
    GROUP_RATES,
    LEARNING,
    LENGTHS,
    PROMPT_DEPENDENT,
    REPETITION,
    REWARDS,
    TOOL_CALLS,
    UPDATE_SIZES,
)
from rftfm_ray.types import CreditSource, Levers
from rftfm_ray.verdicts import DeclaredChange


class Reach(StrEnum):
    """What two runs have in common that differ in a key of the configuration from their first step on."""

    DIRECT = "direct"
    """All but the signals that the key itself moves."""
    COURSE = "course"
    """Neither these nor `LEARNING`: one of the two runs learns faster than the other, or something else."""
    KIND = "kind"
    """Nothing: they are runs of different kinds."""


@dataclass(frozen=True, slots=True)
class Effect:
    """What a cause moves.

    Attributes:
        signals: that lose their reference.
        raises: signals that a lever holds above their reference while it is in force.
        lowers: signals that a lever holds below their reference while it is in force.
        reason: why the row has no signals.
        reach: of a difference between two runs in this key of the configuration.
    """

    signals: tuple[str, ...] = ()
    raises: tuple[str, ...] = ()
    lowers: tuple[str, ...] = ()
    reason: str = ""
    reach: Reach = Reach.DIRECT


PROMPTS = "prompts"
"""The cause of a run whose prompts are no longer those of its reference."""

# No lever takes the reference of `update_ratio` away: an update that is too large when it returns must raise an alarm.
_SMALLER = ("update_ratio", "changed_rate", "step_kl", "kl_old", "clip_low_rate", "clip_high_rate")
_REWARD_SPREAD = ("reward_mean", "reward_std", "reward_max")
_TOOL = ("valid_rate", "length_mean", "reward_mean")
_OTHER_ROWS = Effect(reason="other rows are another task", reach=Reach.KIND)
_OTHER_REWARD = Effect(reason="no signal can be compared where answers are worth something else", reach=Reach.KIND)
_OTHER_TOOLS = Effect(reason="no signal can be compared where turns can do something else", reach=Reach.KIND)
_ESTIMATOR = ("advantage_std", "value_loss", "explained_variance")
# What a critic learns, and what it is judged by, are the returns of the episodes that are sampled.
_RETURNS = (
    "return_early", "return_late", "value_early", "value_late", "value_bias", "value_loss", "explained_variance",
    "value_clip_rate",
)  # fmt: skip
_BATCH = ("trajectory_count", "tool_call_count", "regrade_count", "reward_std", "reward_max", "length_max")
_BATCH_CHECKS = ("observation_count", "replay_count", "rollout_gap_max")

_STEP_SIZES = ("update_ratio", "changed_rate", "step_kl", "step_ratio_max", "kl_old", "ratio_min", "ratio_max")
_RATE = ("lr", *_STEP_SIZES)
_SCHEDULED = ("schedule_factor", *_RATE)
_LOSS = ("loss", "policy_loss", "grad_norm")
# Numerical differences of the two forward passes.
_SERVED = ("rollout_gap_max", "rollout_kl", "rollout_ratio_mean", *GAPS)
# These, and updates that are lost in rounding.
_PRECISION = (*_SERVED, "changed_rate")

_INVERSE = "it restores what is declared, so that every reference holds again, and a wrong value has to show"

_CHANGEABLE: Mapping[str, Effect] = {
    "learner.lr": Effect(_RATE, reach=Reach.COURSE),
    "algorithm.prompts_per_step": Effect((
        *_BATCH, *_BATCH_CHECKS, "distinct_bigram_rate", "compress_ratio", "advantage_max", "advantage_kurtosis",
        *UPDATE_SIZES,
    ), reach=Reach.COURSE),
    "algorithm.samples_per_prompt": Effect((
        *_BATCH, *_BATCH_CHECKS, *REPETITION, *GROUP_RATES, *ADVANTAGES, *UPDATE_SIZES,
    ), reach=Reach.COURSE),
    "rollout.temperature": Effect((
        "correct_rate", "probe_sampled_accuracy", "sampled_gap", "probe_gap", "valid_rate", "kl_ref", *REWARDS,
        *LENGTHS, *GROUP_RATES, *ADVANTAGES, *ENTROPIES, *UPDATE_SIZES, *REPETITION, *ENDINGS, *TOOL_CALLS,
        *_RETURNS, "credit_correlation",
    ), reach=Reach.COURSE),
    "task.hard_share": Effect(PROMPT_DEPENDENT, reach=Reach.COURSE),
    "task.token_scale": Effect((
        "correct_rate", "sampled_gap", "probe_gap", "grad_norm", *REWARDS, *LENGTHS, *GROUP_RATES, *ADVANTAGES,
        *REPETITION, *ENDINGS, *TOOL_CALLS,
    ), reach=Reach.COURSE),
    "task.reward_scale": Effect((
        *_RETURNS, "loss", "policy_loss", "kl_ref", *REWARDS, *ADVANTAGES, *UPDATE_SIZES,
    ), reach=Reach.COURSE),
}  # fmt: skip

# Keys that a run has from its first step to its last.
_CONSTANT: Mapping[str, Effect] = {
    "model.path": Effect(reason="no signal of another model can be compared", reach=Reach.KIND),
    "model.dtype": Effect(_PRECISION, reach=Reach.COURSE),
    "sync.dtype": Effect(_SERVED, reach=Reach.COURSE),
    "task.name": Effect(reason="no signal of another task can be compared", reach=Reach.KIND),
    "task.options": Effect(reason="other options make other problems, as another task does", reach=Reach.KIND),
    "task.pool_size": Effect(PROMPT_DEPENDENT, reach=Reach.COURSE),
    "data.train": _OTHER_ROWS,
    "data.prompt": _OTHER_ROWS,
    "data.answer": _OTHER_ROWS,
    "data.max_new_tokens": Effect(reason="another limit lets other answers end", reach=Reach.KIND),
    "data.heldout": Effect(PROMPT_DEPENDENT, reach=Reach.COURSE),
    "data.heldout_share": Effect(PROMPT_DEPENDENT, reach=Reach.COURSE),
    "reward.functions": _OTHER_REWARD,
    "reward.weights": _OTHER_REWARD,
    "reward.right": _OTHER_REWARD,
    "reward.verifier": _OTHER_REWARD,
    "tools.functions": _OTHER_TOOLS,
    "tools.calls": _OTHER_TOOLS,
    "tools.result": _OTHER_TOOLS,
    "tools.stop": _OTHER_TOOLS,
    "tools.max_turns": _OTHER_TOOLS,
    "tools.max_result": _OTHER_TOOLS,
    "algorithm.name": Effect(reason="no signal of another algorithm can be compared", reach=Reach.KIND),
    "algorithm.minibatches": Effect(
        ("ratio_min", "ratio_max", "changed_rate", "step_kl", "kl_old", "clip_low_rate", "clip_high_rate"),
        reach=Reach.COURSE,
    ),
    "algorithm.clip_low": Effect(("clip_low_rate",), reach=Reach.COURSE),
    "algorithm.clip_high": Effect(("clip_high_rate",), reach=Reach.COURSE),
    "algorithm.kl_coef": Effect(("kl_coef", "kl_ref", "loss"), reach=Reach.COURSE),
    "algorithm.entropy_coef": Effect((*ENTROPIES, "loss"), reach=Reach.COURSE),
    "algorithm.normalize_std": Effect((*ADVANTAGES, *_LOSS), reach=Reach.COURSE),
    "algorithm.advantage_clip": Effect((*ADVANTAGES, *_LOSS), reach=Reach.COURSE),
    "algorithm.group_filter": Effect(("advantage_std", "filtered_group_rate", *_LOSS), reach=Reach.COURSE),
    "algorithm.loss_aggregation": Effect(_LOSS, reach=Reach.COURSE),
    "critic.lr": Effect(("critic_lr", *_ESTIMATOR), reach=Reach.COURSE),
    "critic.gamma": Effect(("advantage_std", *_RETURNS), reach=Reach.COURSE),
    "critic.gae_lambda": Effect(_ESTIMATOR, reach=Reach.COURSE),
    "critic.value_coef": Effect((*_ESTIMATOR, *_LOSS), reach=Reach.COURSE),
    "critic.value_clip": Effect((*_ESTIMATOR, "value_clip_rate"), reach=Reach.COURSE),
    "critic.warmup_steps": Effect(("critic_lr", *_ESTIMATOR, *_SCHEDULED), reach=Reach.COURSE),
    "rollout.top_p": Effect(
        ("rollout_kl", "rollout_ratio_mean", "rollout_gap_max", *GAPS, *ENTROPIES, *REPETITION, *LENGTHS),
        reach=Reach.COURSE,
    ),
    "rollout.max_model_len": Effect((*LENGTHS, *ENDINGS), reach=Reach.COURSE),
    "rollout.tool_retries": Effect(("failed_rate", "tool_retry_rate", *_TOOL), reach=Reach.COURSE),
    "learner.lr_schedule": Effect(_SCHEDULED, reach=Reach.COURSE),
    "learner.warmup_steps": Effect(_SCHEDULED, reach=Reach.COURSE),
    "learner.weight_decay": Effect(("update_ratio", "changed_rate"), reach=Reach.COURSE),
    "learner.adam_betas": Effect(_STEP_SIZES, reach=Reach.COURSE),
    "learner.max_grad_norm": Effect(_STEP_SIZES, reach=Reach.COURSE),
    "learner.step_kl_samples": Effect(("step_kl", "step_ratio_max")),
    "steps": Effect(_SCHEDULED, reach=Reach.COURSE),
}

EFFECTS: Mapping[str, Effect] = {
    PROMPTS: Effect(PROMPT_DEPENDENT),
    **_CHANGEABLE,
    **_CONSTANT,
    # Levers.
    "lr_scale": Effect(lowers=_SMALLER),
    "kl_coef_scale": Effect(("kl_ref", "loss")),
    "clip_low": Effect(("clip_low_rate",)),
    "clip_high": Effect(("clip_high_rate",)),
    "entropy_coef": Effect((*ENTROPIES, "loss")),
    "max_grad_norm": Effect(reason="the gradient norm is measured before it is clipped, and AdamW divides it out"),
    "minibatches": Effect(("changed_rate", "step_kl", "kl_old", "clip_low_rate", "clip_high_rate")),
    "regrade_rate": Effect(_REWARD_SPREAD),
    "reward_limit": Effect(_REWARD_SPREAD),
    "tool_instance": Effect(_TOOL),
    "tool_retries": Effect(_TOOL, raises=("tool_retry_rate",)),
    "refill_rounds": Effect(_TOOL, raises=("refilled_rate",)),
    "advantage_clip": Effect(("advantage_max", "advantage_std", "advantage_kurtosis")),
    "group_filter": Effect(("advantage_std", "filtered_group_rate", "grad_norm", "loss", "policy_loss")),
    "gamma": Effect(_ESTIMATOR),
    "gae_lambda": Effect(_ESTIMATOR),
    "critic_lr_scale": Effect(("value_loss", "explained_variance")),
    "freeze_policy": Effect(("loss",), lowers=(*_SMALLER, "grad_norm")),
    # Other advantages than the estimator's; the recomputation gives the same ones, see `_AT`.
    "credit_source": Effect((
        *ADVANTAGES, "value_loss", "explained_variance", "credit_correlation", "credit_lag", "advantage_early",
        "advantage_late", *_LOSS,
    )),
    "temperature_scale": Effect(reason=_INVERSE),
    "end_bias": Effect(reason=_INVERSE),
    # A turn that nothing cuts short may now be longer.
    "tokens_scale": Effect(("length_max", "length_q90", "long_rate")),
    "is_cap": Effect(_LOSS),
    "mask_undecoded": Effect(_TOOL, raises=("failed_rate",)),
    "mask_unreplayed": Effect(_TOOL, raises=("failed_rate",)),
    # The longest are left out, and wrong ones with them.
    "mask_truncated": Effect((
        "valid_rate", "correct_rate", "sampled_gap", "probe_gap", "grad_norm", *REWARDS, *LENGTHS, *GROUP_RATES,
        *ADVANTAGES, *REPETITION, *ENDINGS,
    ), raises=("failed_rate",)),
    "rollout_path": Effect(reason=_INVERSE),
}  # fmt: skip
"""By cause: a change of the prompts, a key of the configuration, or a lever."""

_AT: Mapping[tuple[str, float], Effect] = {
    ("credit_source", CreditSource.LEARNER): Effect(reason="it is the learner's own, as without the lever"),
    ("credit_source", CreditSource.RECOMPUTED): Effect(reason="the estimator should give the same"),
}


def effect_at(lever: str, setting: float | None) -> Effect:
    """What a lever moves at a setting; its nominal one, None, moves nothing.

    Raises:
        KeyError: for a lever that has no row.
    """
    row = EFFECTS[lever]
    if setting is None:
        return Effect(reason="it is nominal")
    if lever == "lr_scale" and setting > 1:
        # It makes up for what updates have lost: one that stays small must show.
        return Effect(reason=_INVERSE)
    return _AT.get((lever, setting), row)


CONFIGURED: tuple[str, ...] = (*_CONSTANT, *_CHANGEABLE)
"""Keys of the configuration that move signals, those first that tell kinds of runs apart."""

_UNMOVING: Mapping[str, tuple[str, ...]] = {
    "chance, which the spreads of healthy runs hold": ("seed",),
    "it ends a run, and changes no step": (
        "max_paid_steps", "rollout.timeout_s", "learner.timeout_s", "verifier.max_failing_steps",
    ),
    "the guard has to find injected faults by itself": ("inject",),
    "the guard has to tell faults from the background of an experiment by itself": (
        "background.preset", "background.tool_failures", "background.verifier_errors", "background.slow_verdicts",
        "background.length_spread", "background.difficulty_walk",
    ),
    "each key that it changes has a row of its own": ("changes",),
    "it divides work among processes or devices, and changes the order of sums at most": (
        "rollout.num_actors", "rollout.max_num_seqs", "rollout.kv_cache_mib", "rollout.block_size",
        "learner.zero_stage", "learner.micro_batch_size", "learner.micro_batch_tokens",
        "learner.gradient_checkpointing", "placement.timeout_s", "placement.cpus_per_rollout",
        "placement.cpus_per_learner", "placement.gpus_per_rollout", "placement.gpus_per_learner",
    ),
    "it moves times alone, which are not compared": ("rollout.tool_backoff_s",),
    "it decides on updates that healthy runs do not make": (
        "gate.grad_norm_factor", "gate.grad_norm_window", "gate.grad_norm_warmup", "gate.advantage_tolerance",
    ),
    "healthy verdicts and tool calls are in time, and are taken in order": ("verifier.timeout_s", "verifier.workers"),
    "it says how often and how strictly an independent check is made, and what checks find is not compared": (
        "sync.parity_every", "sync.parity_max_gap", "probe.every", "probe.size", "probe.spread", "probe.final_size",
        "probe.sampled_share", "guard.regrade_rate", "guard.regrade_noise", "channels.golden_every",
        "channels.golden_size", "channels.replay_rate", "channels.known_calls_every", "channels.known_calls",
        "channels.fingerprint_every", "channels.update_replay_every", "data.solution",
    ),
    "it asks beside training, and no signal comes of it": (
        "eval.sets", "eval.every", "eval.samples", "eval.size", "eval.best",
    ),
    "it says what is checked before the first step, by copies of what trains": (
        "preflight.mode", "preflight.verdicts", "preflight.timeout_s", "preflight.groups",
    ),
    "it says what is kept in memory, on disk or elsewhere": (
        "snapshots.every", "snapshots.keep", "snapshots.max_bytes", "snapshots.spill", "checkpoints.every",
        "checkpoints.keep", "checkpoints.at_end", "checkpoints.best", "records.text", "records.trajectory_rate",
        "records.part_steps", "records.retention_mib", "report.at_end", "report.samples", "logging.to",
        "logging.project", "logging.group",
    ),
    "it says how a run is judged, and every act of the guard is declared": (
        "guard.mode", "guard.act_on", "guard.policy", "guard.policy_timeout_s", "guard.fallback",
        "guard.verdict_timeout_s", "guard.warmup_steps", "guard.false_alarm_steps", "guard.profile",
        "guard.diagnosis", "guard.detectors", "guard.verify_steps", "guard.cooldown_steps", "guard.budget",
        "guard.return_after", "guard.on_give_up", "guard.on_lost", "guard.on_harm", "guard.verify_timeout_steps",
        "guard.buffer", "guard.pause_timeout_s", "guard.on_incident",
    ),
}  # fmt: skip

UNMOVING: Mapping[str, str] = {key: reason for reason, keys in _UNMOVING.items() for key in keys}
"""Keys of the configuration that move no signal that is compared with healthy runs, with the reason."""


def signals_of(causes: Iterable[str]) -> tuple[str, ...]:
    """The signals that lose their reference by some causes, sorted.

    Raises:
        KeyError: for a cause that has no row.
    """
    return tuple(sorted({signal for cause in causes for signal in EFFECTS[cause].signals}))


def moved_between_runs(keys: Iterable[str]) -> tuple[str, ...]:
    """The signals that cannot be compared between two runs that differ in some keys, sorted.

    Raises:
        KeyError: for a key that has no row.
    """
    effects = [EFFECTS[key] for key in keys]
    reaches = {effect.reach for effect in effects}
    if Reach.KIND in reaches:
        return tuple(sorted(DICTIONARY))
    moved = {signal for effect in effects for signal in (*effect.signals, *effect.raises, *effect.lowers)}
    return tuple(sorted(moved | set(LEARNING if Reach.COURSE in reaches else ())))


def declared_change(made: Sequence[MadeChange], step: int) -> DeclaredChange:
    """The declaration of changed keys of the configuration that come into force at `step`."""
    reason = ", ".join(f"{change.key} from {change.old:g} to {change.new:g}" for change in made)
    return DeclaredChange("configuration", step, signals_of(change.key for change in made), reason)


def lever_change(before: Levers, after: Levers, step: int, reason: str) -> DeclaredChange:
    """The declaration of levers that are moved from `before` to `after` at `step`."""
    moved = [item.name for item in fields(Levers) if getattr(before, item.name) != getattr(after, item.name)]
    effects = [effect_at(name, getattr(levers, name)) for name in moved for levers in (before, after)]
    signals = tuple(sorted({signal for effect in effects for signal in effect.signals}))
    return DeclaredChange("levers", step, signals, reason, levers=after)


def expected_sides(levers: Levers) -> tuple[tuple[str, int], ...]:
    """Signals that levers hold above (+1) or below (-1) their reference while they are in force, sorted."""
    effects = [effect_at(item.name, getattr(levers, item.name)) for item in fields(Levers)]
    above = {(signal, 1) for effect in effects for signal in effect.raises}
    return tuple(sorted(above | {(signal, -1) for effect in effects for signal in effect.lowers}))
