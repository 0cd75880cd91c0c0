"""What the built-in tasks say of the mean figures of a step: their reward rule, and how turns follow from calls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rftfm_ray.config import RunConfig
from rftfm_ray.config.declared import RewardRule
from rftfm_ray.tasks.calculator import PRICE_PER_CALL
from rftfm_ray.tasks.verifiers import ships


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


def relations_of(config: RunConfig) -> TaskRelations:
    """The relations of the task of a configuration.

    An answer to a row of a data set is one turn without a call. Where one verifier that ships is all of the reward, it
    pays right answers its weight, and others nothing, unless another one says what is right.
    """
    if config.data.train is None:
        return RELATIONS.get(config.task.name, TaskRelations())
    functions = config.reward.functions
    weight = config.reward.weights[0] if config.reward.weights else 1.0
    other = config.reward.verifier not in (None, *functions)
    if other or len(functions) != 1 or not ships(functions[0]) or weight == 0:
        return TaskRelations(turn_per_call=True)
    return TaskRelations(RewardRule((("correct_rate", weight),), abs(weight)), turn_per_call=True)
