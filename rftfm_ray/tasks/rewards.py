"""A task's verdict on a transcript, checked before anything uses it."""

from __future__ import annotations

import numbers

from rftfm_ray.errors import RewardError
from rftfm_ray.tasks.api import Problem, Task, Transcript, Verdict

# Rewards travel as float32; beyond its range they would arrive as infinity. NaN fails the comparison.
LARGEST_REWARD = 3e38


def verify(task: Task, problem: Problem, transcript: Transcript) -> Verdict:
    """The task's verdict, checked; a real number of any type, numpy's too, arrives as a float.

    Raises:
        RewardError: when the verifier raises, or gives something that is not a finite verdict.
    """
    try:
        verdict: object = task.verify(problem, transcript)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the task's own code may raise anything
        verdict = error
    return checked(task, verdict)


def checked(task: Task, verdict: object) -> Verdict:
    """What a verifier has given or raised, as a verdict.

    Raises:
        RewardError: when it has raised, or is not a finite verdict.
    """
    if isinstance(verdict, RewardError):
        # A data set's task says itself which of its functions has failed.
        raise verdict
    if isinstance(verdict, BaseException):
        raise RewardError(
            f"The verifier of task {task.name} raised {type(verdict).__name__}: {verdict}; it must return a Verdict "
            "for every transcript."
        ) from verdict
    if not isinstance(verdict, Verdict) or not _is_reward(verdict.reward) or not _is_truth(verdict.correct):
        raise RewardError(
            f"The verifier of task {task.name} returned {verdict!r:.200}; it must return a Verdict with a finite "
            "number as reward, and True or False as correct."
        )
    return Verdict(float(verdict.reward), bool(verdict.correct), tuple(verdict.parts))


def late_verdict(task: Task, timeout_s: float) -> RewardError:
    """The error of a verifier that gave no verdict in time."""
    return RewardError(
        f"The verifier of task {task.name} gave no verdict within {timeout_s:g} s; let it end by itself, or raise "
        "verifier.timeout_s."
    )


def _is_reward(value: object) -> bool:
    if not isinstance(value, numbers.Real):
        return False
    try:
        return abs(float(value)) <= LARGEST_REWARD
    except OverflowError:
        return False


def _is_truth(value: object) -> bool:
    # By its name: numpy takes a tenth of a second to load, and most verifiers return plain values.
    kind = type(value)
    return isinstance(value, bool) or (kind.__module__ == "numpy" and kind.__name__ in ("bool", "bool_"))
