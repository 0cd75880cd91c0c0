"""A task's verdict on a transcript, checked before anything uses it."""

from __future__ import annotations

from rftfm_ray.errors import RewardError
from rftfm_ray.tasks.api import Problem, Task, Transcript, Verdict

# Rewards travel as float32; beyond its range they would arrive as infinity. NaN fails the comparison.
LARGEST_REWARD = 3e38


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


def _is_reward(value: object) -> bool:
    return isinstance(value, int | float) and abs(value) <= LARGEST_REWARD
