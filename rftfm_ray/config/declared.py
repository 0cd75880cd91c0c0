"""What a run declares about itself: the facts that laws between its logged figures follow from. Pure values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TypeAlias

from rftfm_ray.types import CreditSource, Levers


class Normalization(StrEnum):
    """What advantages are divided by the standard deviation of."""

    NONE = "none"
    GROUP = "group"
    BATCH = "batch"


class Aggregation(StrEnum):
    """How a loss of tokens becomes one number.

    The mean over all tokens, the mean over sequences of their token means, or a sum over a constant.
    """

    TOKEN = "token"  # noqa: S105 - a token of text
    SEQUENCE = "sequence"
    CONSTANT = "constant"


class RateCourse(StrEnum):
    """How a declared learning rate moves after its warm-up: not at all, or on a line to 0 at the last step."""

    CONSTANT = "constant"
    LINEAR = "linear"


@dataclass(frozen=True, slots=True)
class RewardRule:
    """A mean reward as a linear function of other mean figures.

    Attributes:
        parts: figures, each with its weight.
        least_difference: smallest difference between two rewards that are not equal; 0 where it is not known.
    """

    parts: tuple[tuple[str, float], ...]
    least_difference: float = 0.0

    def scaled(self, factor: float) -> RewardRule:
        """The rule of rewards that are `factor` times as large."""
        parts = tuple((name, factor * weight) for name, weight in self.parts)
        return RewardRule(parts, abs(factor) * self.least_difference)


@dataclass(frozen=True, slots=True)
class DeclaredRate:
    """A declared learning rate: its peak, the steps of linear warm-up, and its course over `steps` steps."""

    peak: float
    steps: int
    warmup_steps: int = 0
    course: RateCourse = RateCourse.LINEAR


@dataclass(frozen=True, slots=True)
class Declared:
    """What is in force at a step by configuration and levers, never by what the step reports.

    Attributes:
        estimator: `grpo`, `rloo`, `reinforce_pp` or `ppo`.
        group_size: answers to one prompt.
        normalization: of advantages.
        aggregation: of the loss.
        updates: optimizer updates per batch of trajectories.
        kl_coef: weight of KL(policy, reference) in the loss, by the k3 estimate.
        entropy_coef: weight of the entropy bonus in the loss.
        value_coef: weight of the value loss; None without a critic.
        gamma: discount per chosen token.
        advantage_clip: largest magnitude of an advantage; None without a clip.
        group_filter: whether groups with equal rewards are left out of the update.
        frozen: whether the policy does not learn.
        reward: what the mean reward is made of; None where it is not declared.
        reward_replaced: whether other rewards than those of the reward function train.
        turn_per_call: whether every turn of the model but the last one makes a call.
        starts_at_reference: whether the frozen reference is the policy before the first update.
        parity_gap: largest gap in nats between log-probs of learner and rollout that the configuration accepts; None
            where it says nothing.
        full_precision: whether weights are float32, so that no update is lost in their rounding.
        token_limit: most tokens of an answer; None where it is not declared.
        reweights_tokens: whether tokens are masked or weighted in the loss by anything beside their advantage.
        rate: of learning; None where it has a detector of its own.
    """

    estimator: str
    group_size: int
    normalization: Normalization
    aggregation: Aggregation
    updates: int
    kl_coef: float
    entropy_coef: float = 0.0
    value_coef: float | None = None
    gamma: float = 1.0
    advantage_clip: float | None = None
    group_filter: bool = False
    frozen: bool = False
    reward: RewardRule | None = None
    reward_replaced: bool = False
    turn_per_call: bool = False
    starts_at_reference: bool = True
    parity_gap: float | None = None
    full_precision: bool = False
    token_limit: int | None = None
    reweights_tokens: bool = False
    rate: DeclaredRate | None = None

    def under(self, levers: Levers) -> Declared:
        """The same with levers in force, which win over the configuration."""

        def chosen(lever: float | None, otherwise: float) -> float:
            return otherwise if lever is None else lever

        clip = self.advantage_clip if levers.advantage_clip is None else levers.advantage_clip
        is_relative = levers.credit_source == CreditSource.GROUP
        scope = Normalization.NONE if self.normalization is Normalization.NONE else Normalization.GROUP
        return replace(
            self,
            estimator="grpo" if is_relative else self.estimator,
            normalization=scope if is_relative else self.normalization,
            updates=self.updates if levers.minibatches is None else levers.minibatches,
            kl_coef=self.kl_coef * chosen(levers.kl_coef_scale, 1.0),
            entropy_coef=chosen(levers.entropy_coef, self.entropy_coef),
            gamma=chosen(levers.gamma, self.gamma),
            advantage_clip=clip,
            group_filter=self.group_filter if levers.group_filter is None else bool(levers.group_filter),
            frozen=self.frozen if levers.freeze_policy is None else bool(levers.freeze_policy),
            reweights_tokens=self.reweights_tokens or levers.is_cap is not None,
            reward_replaced=levers.regrade_rate is not None or levers.reward_limit is not None,
        )


DeclaredCourse: TypeAlias = tuple[tuple[int, Declared], ...]
"""What is declared for every part of a run, with the first step of the part; empty where nothing is declared."""


def declared_at(course: Sequence[tuple[int, Declared]], step: int) -> Declared | None:
    """What is declared for a step, before levers; None where nothing is."""
    return next((declared for first, declared in reversed(course) if first <= step), None)
