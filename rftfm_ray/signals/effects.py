"""What moves what: one table from every deliberate cause to the signals that lose their reference by it. Pure.

Detectors forget these signals when their cause is declared. Signals of an identity or of an independent channel are
left out, except where the cause itself defines them: a deliberate change makes no reward wrong, and no held-out answer.
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
    """What a cause moves. A row without signals says why in `reason`."""

    signals: tuple[str, ...] = ()
    reason: str = ""


PROMPTS = "prompts"
"""The cause of a run whose prompts are no longer those of its reference."""

# `update_ratio` is not forgotten where a lever changes the size of updates: a smaller update raises no alarm, and an
# update that is too large when the lever returns must raise one.
_SIZE = "changes the size of updates, whose reference must stay: a lever that returns must not hide updates too large"
_REWARD_SPREAD = ("reward_mean", "reward_std", "reward_max")
_TOOL = ("valid_rate", "length_mean", "reward_mean")
_ESTIMATOR = ("advantage_std", "value_loss", "explained_variance")
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
    )),
    "task.hard_share": Effect(PROMPT_DEPENDENT),
    "task.token_scale": Effect((
        "correct_rate", "sampled_gap", "probe_gap", "grad_norm", *REWARDS, *LENGTHS, *GROUP_RATES, *ADVANTAGES,
        *REPETITION, *ENDINGS, *TOOL_CALLS,
    )),
    "task.reward_scale": Effect((
        "return_early", "return_late", "value_early", "value_late", "value_bias", "value_loss", "explained_variance",
        "value_clip_rate", "loss", "policy_loss", "kl_ref", *REWARDS, *ADVANTAGES, *UPDATE_SIZES,
    )),
    # Levers.
    "lr_scale": Effect(reason=_SIZE),
    "kl_coef_scale": Effect(("kl_ref",)),
    "clip_low": Effect(reason=_SIZE),
    "clip_high": Effect(reason=_SIZE),
    "entropy_coef": Effect(("entropy",)),
    "max_grad_norm": Effect(reason=_SIZE),
    "minibatches": Effect(reason=_SIZE),
    "regrade_rate": Effect(_REWARD_SPREAD),
    "reward_limit": Effect(_REWARD_SPREAD),
    "tool_instance": Effect(_TOOL),
    "tool_retries": Effect(_TOOL),
    "refill_rounds": Effect(_TOOL),
    "advantage_clip": Effect(("advantage_max", "advantage_std", "advantage_kurtosis")),
    "group_filter": Effect(("advantage_std", "grad_norm", "loss", "policy_loss")),
    "gamma": Effect(_ESTIMATOR),
    "gae_lambda": Effect(_ESTIMATOR),
    "critic_lr_scale": Effect(("value_loss", "explained_variance")),
    "freeze_policy": Effect(("grad_norm", "loss")),
}  # fmt: skip
"""Signals by cause: a change of the prompts, a changeable key of the configuration, or a lever."""


def signals_of(causes: Iterable[str]) -> tuple[str, ...]:
    """The signals that some causes move, sorted.

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
