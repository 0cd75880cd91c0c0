"""Tool calls of a batch: several at a time, each within a time limit, answers in the order of the calls."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from rftfm_ray.rollout.channels import CallId, ToolPool
from rftfm_ray.tasks.api import Observation, Problem
from rftfm_ray.tasks.workers import Workers


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


def replies(tools: ToolPool, asked: Sequence[Asked], workers: Workers) -> list[Reply]:
    """Ask the tools; a call without an answer within the time limit ends in a `TimeoutError`."""
    results = workers.run([partial(_ask, tools, each) for each in asked])
    now = time.perf_counter()
    return [
        result if isinstance(result, Reply) else Reply(None, result, now - workers.timeout_s, now) for result in results
    ]


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
