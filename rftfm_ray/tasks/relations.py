"""What the built-in tasks say of the mean figures of a step: their reward rule, and how turns follow from calls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rftfm_ray.config.declared import RewardRule
from rftfm_ray.tasks.calculator import PRICE_PER_CALL


@dataclass(frozen=True, slots=True)
class TaskRelations:
    """Relations that hold in every batch of a task.

    Attributes:
        reward: the mean reward before `task.reward_scale`; None where it follows from no logged figures.
        turn_per_call: whether every turn of the model but the last one makes a call.
    """

    reward: RewardRule | None = None
    turn_per_call: bool = False


RELATIONS: Mapping[str, TaskRelations] = {
    "addition": TaskRelations(RewardRule((("correct_rate", 1.0),), 1.0), turn_per_call=True),
    "calculator": TaskRelations(
        RewardRule((("correct_rate", 1.0), ("tool_calls_mean", -PRICE_PER_CALL)), PRICE_PER_CALL), turn_per_call=True
    ),
}
"""By `task.name`; a task of the user's has none."""
