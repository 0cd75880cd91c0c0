"""The reward path: from a transcript to a verdict. A verifier that fails masks a trajectory, it never scores 0."""

from __future__ import annotations

import logging

from rftfm_ray.errors import RewardError
from rftfm_ray.tasks.api import Problem, Task, Transcript, Verdict

# Rewards travel as float32; beyond its range they would arrive as infinity. NaN fails the comparison.
LARGEST_REWARD = 3e38

logger = logging.getLogger(__name__)


def verify(task: Task, problem: Problem, transcript: Transcript) -> Verdict:
    """The task's verdict, checked.

    Raises:
        RewardError: when the verifier raises, or gives something that is not a finite verdict.
    """
    try:
        verdict = task.verify(problem, transcript)
    except Exception as error:  # the task's own code may raise anything
        raise RewardError(
            f"The verifier of task {task.name} raised {type(error).__name__}: {error}; it must return a Verdict for "
            "every transcript."
        ) from error
    if not isinstance(verdict, Verdict) or not _is_reward(verdict.reward):
        raise RewardError(
            f"The verifier of task {task.name} returned {verdict!r:.200}; it must return a finite Verdict."
        )
    return verdict


def score(task: Task, problem: Problem, transcript: Transcript) -> Verdict | None:
    """The verdict, or None where the verifier failed: the trajectory is then masked out of the update."""
    try:
        return verify(task, problem, transcript)
    except RewardError as error:
        logger.warning("%s", error)
        return None


def _is_reward(value: object) -> bool:
    return isinstance(value, int | float) and abs(value) <= LARGEST_REWARD
