"""What moves what: one table from every deliberate cause to the signals that it moves. Pure.

Detectors forget signals that lose their reference when their cause is declared; signals that a lever holds above or
below keep it, and alarms on that side are expected while it is in force. Signals of an identity or of an independent
channel are left out, except where the cause itself defines them: a deliberate change makes no reward wrong, and no
held-out answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields

from rftfm_ray.config import MadeChange
from rftfm_ray.signals.groups import (
    ADVANTAGES,
    ENDINGS,
    ENTROPIES,
    GROUP_RATES,
    LENGTHS,
    PROMPT_DEPENDENT,
    REPETITION,
    REWARDS,
    TOOL_CALLS,
    UPDATE_SIZES,
)
from rftfm_ray.types import Levers
from rftfm_ray.verdicts import DeclaredChange


@dataclass(frozen=True, slots=True)
class Effect:
    """What a cause moves.

    Attributes:
        signals: that lose their reference.
        raises: signals that a lever holds above their reference while it is in force.
        lowers: signals that a lever holds below their reference while it is in force.
        reason: why the row has no signals.
    """

    signals: tuple[str, ...] = ()
    raises: tuple[str, ...] = ()
    lowers: tuple[str, ...] = ()
    reason: str = ""


PROMPTS = "prompts"
"""The cause of a run whose prompts are no longer those of its reference."""

# No lever takes the reference of `update_ratio` away: an update that is too large when it returns must raise an alarm.
_SMALLER = ("update_ratio", "changed_rate", "step_kl", "kl_old", "clip_low_rate", "clip_high_rate")
_REWARD_SPREAD = ("reward_mean", "reward_std", "reward_max")
_TOOL = ("valid_rate", "length_mean", "reward_mean")
_ESTIMATOR = ("advantage_std", "value_loss", "explained_variance")
# What a critic learns, and what it is judged by, are the returns of the episodes that are sampled.
_RETURNS = (
    "return_early", "return_late", "value_early", "value_late", "value_bias", "value_loss", "explained_variance",
    "value_clip_rate",
)  # fmt: skip
_BATCH = ("trajectory_count", "tool_call_count", "regrade_count", "reward_std", "reward_max", "length_max")
_BATCH_CHECKS = ("observation_count", "replay_count", "rollout_gap_max")

EFFECTS: Mapping[str, Effect] = {
    PROMPTS: Effect(PROMPT_DEPENDENT),
    # Keys of the configuration that may change while a run goes on.
    "learner.lr": Effect((
        "lr", "update_ratio", "changed_rate", "step_kl", "step_ratio_max", "kl_old", "ratio_min", "ratio_max",
    )),
    "algorithm.prompts_per_step": Effect((
        *_BATCH, *_BATCH_CHECKS, "distinct_bigram_rate", "compress_ratio", "advantage_max", "advantage_kurtosis",
        *UPDATE_SIZES,
    )),
    "algorithm.samples_per_prompt": Effect((
        *_BATCH, *_BATCH_CHECKS, *REPETITION, *GROUP_RATES, *ADVANTAGES, *UPDATE_SIZES,
    )),
    "rollout.temperature": Effect((
        "correct_rate", "probe_sampled_accuracy", "sampled_gap", "probe_gap", "valid_rate", "kl_ref", *REWARDS,
        *LENGTHS, *GROUP_RATES, *ADVANTAGES, *ENTROPIES, *UPDATE_SIZES, *REPETITION, *ENDINGS, *TOOL_CALLS,
        *_RETURNS, "credit_correlation",
    )),
    "task.hard_share": Effect(PROMPT_DEPENDENT),
    "task.token_scale": Effect((
        "correct_rate", "sampled_gap", "probe_gap", "grad_norm", *REWARDS, *LENGTHS, *GROUP_RATES, *ADVANTAGES,
        *REPETITION, *ENDINGS, *TOOL_CALLS,
    )),
    "task.reward_scale": Effect((
        *_RETURNS, "loss", "policy_loss", "kl_ref", *REWARDS, *ADVANTAGES, *UPDATE_SIZES,
    )),
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
    "freeze_policy": Effect(("grad_norm", "loss"), lowers=_SMALLER),
}  # fmt: skip
"""By cause: a change of the prompts, a changeable key of the configuration, or a lever."""


def signals_of(causes: Iterable[str]) -> tuple[str, ...]:
    """The signals that lose their reference by some causes, sorted.

    Raises:
        KeyError: for a cause that has no row.
    """
    return tuple(sorted({signal for cause in causes for signal in EFFECTS[cause].signals}))


def declared_change(made: Sequence[MadeChange], step: int) -> DeclaredChange:
    """The declaration of changed keys of the configuration that come into force at `step`."""
    reason = ", ".join(f"{change.key} from {change.old:g} to {change.new:g}" for change in made)
    return DeclaredChange("configuration", step, signals_of(change.key for change in made), reason)


def lever_change(before: Levers, after: Levers, step: int, reason: str) -> DeclaredChange:
    """The declaration of levers that are moved from `before` to `after` at `step`."""
    moved = (item.name for item in fields(Levers) if getattr(before, item.name) != getattr(after, item.name))
    return DeclaredChange("levers", step, signals_of(moved), reason)


def expected_sides(levers: Levers) -> tuple[tuple[str, int], ...]:
    """Signals that levers hold above (+1) or below (-1) their reference while they are in force, sorted."""
    effects = [EFFECTS[item.name] for item in fields(Levers) if getattr(levers, item.name) is not None]
    above = {(signal, 1) for effect in effects for signal in effect.raises}
    return tuple(sorted(above | {(signal, -1) for effect in effects for signal in effect.lowers}))
