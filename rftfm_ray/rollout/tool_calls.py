"""Tool calls of a batch: several at a time, each within a time limit, answers in the order of the calls."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from rftfm_ray.rollout.channels import CallId, ToolPool
from rftfm_ray.tasks.api import Observation, Problem
from rftfm_ray.tasks.workers import NotAskedError, WorkerPools, Workers
from rftfm_ray.types import StepId


@dataclass(frozen=True, slots=True)
class Due:
    """An episode that goes on after a turn: by itself, or with the environment's answer.

    Attributes:
        index: of the episode.
        asks: whether the environment is asked.
        tries: of this call that have failed.
        began: `time.perf_counter` when the first of the failed tries began.
    """

    index: int
    asks: bool
    tries: int = 0
    began: float = 0.0


@dataclass(frozen=True, slots=True)
class Asked:
    """A tool call."""

    call: CallId
    problem: Problem
    text: str


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of a tool call: an observation, None where the episode is over, or an error.

    `began` and `ended` are by `time.perf_counter`; a call that waits for a worker has not begun.
    """

    observation: Observation | None
    error: BaseException | None
    began: float
    ended: float

    def value(self) -> Observation | None:
        """The observation.

        Raises:
            BaseException: what the tool raised; `TimeoutError` for a call that gave no answer in time.
        """
        if self.error is not None:
            raise self.error
        return self.observation


def replies(tools: ToolPool, asked: Sequence[Asked], workers: WorkerPools) -> list[Reply]:
    """Ask the tools, one instance after the other; a call without an answer in time ends in a `TimeoutError`."""
    results: dict[int, Reply] = {}
    by_instance: dict[int, list[int]] = {}
    for index, each in enumerate(asked):
        by_instance.setdefault(tools.instance(each.call.tries), []).append(index)
    for instance, indices in by_instance.items():
        pool = workers.tool(instance)
        answers = pool.run([partial(_ask, tools, asked[index]) for index in indices])
        now = time.perf_counter()
        for index, answer in zip(indices, answers, strict=True):
            results[index] = answer if isinstance(answer, Reply) else _unanswered(answer, now, pool.timeout_s)
    return [results[index] for index in range(len(asked))]


def _unanswered(error: BaseException, now: float, timeout_s: float) -> Reply:
    """What came of a call without an answer; one that was not made has taken no time."""
    return Reply(None, error, now if isinstance(error, NotAskedError) else now - timeout_s, now)


def _ask(tools: ToolPool, asked: Asked) -> Reply:
    began = time.perf_counter()
    try:
        observation = tools.ask(asked.call, asked.problem, asked.text)
    except BaseException as error:  # noqa: BLE001 - the task's code: its failure is data of the trajectory
        return Reply(None, error, began, time.perf_counter())
    return Reply(observation, None, began, time.perf_counter())


def known_or_late(workers: Workers, ask: Callable[[], list[bool]]) -> list[bool]:
    """Whether tools answer known calls as they should; one that gives no answer in time does not."""
    (result,) = workers.run([ask])
    return [False] if isinstance(result, BaseException) else result


def shadow_or_late(tools: ToolPool, step: StepId, problems: Sequence[Problem], workers: WorkerPools) -> list[bool]:
    """Whether the instances that are not asked first answer as they should, each in its own time."""
    return [
        is_well
        for instance in tools.idle
        for is_well in known_or_late(workers.tool(instance), partial(tools.shadow, step, problems, [instance]))
    ]
