"""Verdicts on the answers of a batch: several at a time, within a time limit, and one line for those that failed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from rftfm_ray.errors import RewardError
from rftfm_ray.rollout.channels import EpisodeId, Grade
from rftfm_ray.rollout.environment import Channels
from rftfm_ray.tasks.api import Problem, Task, Transcript
from rftfm_ray.tasks.processes import Asked
from rftfm_ray.tasks.rewards import late_verdict
from rftfm_ray.tasks.workers import NotAskedError
from rftfm_ray.types import StepId


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer that waits for its verdict."""

    episode: EpisodeId
    problem: Problem
    transcript: Transcript


def grade_all(channels: Channels, task: Task, step: StepId, answers: Sequence[Answered | None]) -> list[Grade | None]:
    """The grade of each answer; None where there is no answer, or no verdict: the trajectory is masked."""
    asked = [answer for answer in answers if answer is not None]
    workers = channels.workers.verifier
    calls = [partial(channels.grader.grade, answer.episode, answer.problem, answer.transcript) for answer in asked]
    with _ahead(channels, asked):
        found = workers.run(calls)
    results = [
        _without_verdict(task, result, workers.timeout_s) if isinstance(result, TimeoutError) else result
        for result in found
    ]
    channels.failures.failed(step, task, [result for result in results if isinstance(result, BaseException)])
    left = iter(results)
    grades = (None if answer is None else next(left) for answer in answers)
    return [grade if isinstance(grade, Grade) else None for grade in grades]


def _ahead(channels: Channels, asked: Sequence[Answered]) -> contextlib.AbstractContextManager[None]:
    """Have processes give all verdicts together, before one after the other is called for."""
    if channels.processes is None:
        return contextlib.nullcontext()
    return channels.processes.ahead(_verdicts(channels, asked))


def _verdicts(channels: Channels, answers: Iterable[Answered]) -> list[Asked]:
    """The verdicts that grading answers asks for: some are graded a second time."""
    times = [(answer, channels.grader.verdicts(answer.episode)) for answer in answers]
    return [(answer.problem, answer.transcript) for answer, count in times for _ in range(count)]


class EarlyGrading:
    """Has the processes of a batch begin with its verdicts while other episodes go on; without processes nothing."""

    def __init__(self, channels: Channels) -> None:
        self._channels, self._waiting = channels, list[Asked]()
        if channels.processes is not None:
            channels.processes.forget()

    def offer(self, ended: Iterable[Answered]) -> None:
        """Take answers that have ended, and begin with as many of all as processes are idle for."""
        processes = self._channels.processes
        if processes is not None:
            self._waiting += _verdicts(self._channels, ended)
            del self._waiting[: processes.start(self._waiting)]


def _without_verdict(task: Task, error: TimeoutError, timeout_s: float) -> RewardError:
    """The error of an answer that was graded too late, or not at all."""
    if isinstance(error, NotAskedError):
        return RewardError(
            f"The verifier of task {task.name} gave no verdict: {error}; let every verdict end by itself."
        )
    return late_verdict(task, timeout_s)
