"""Verdicts in processes of their own, several at a time; one that does not end is killed. Pure; pebble and cloudpickle.

A thread that runs a user's code cannot be ended, and shares its interpreter with whatever else the process does. Pebble
kills a process whose call is late and starts another in its place.
"""

from __future__ import annotations

import contextlib
import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as LateError
from multiprocessing import get_context
from typing import Any

import cloudpickle
from pebble import ProcessExpired, ProcessPool

from rftfm_ray.errors import RewardError
from rftfm_ray.tasks.api import Observation, Problem, Task, Transcript, Verdict
from rftfm_ray.tasks.rewards import checked, late_verdict

Asked = tuple[Problem, Transcript]

_task: Task | None = None


class VerifierProcesses:
    """Asks a task's verifier in processes that hold a copy of the task each. They start with the first verdict.

    Args:
        task: it is packed once; what its class or functions refer to in modules that are not installed travels along.
        count: of processes.
        timeout_s: seconds that one call may take, of one verdict or of several at once.
    """

    def __init__(self, task: Task, count: int, timeout_s: float) -> None:
        self._task, self._count, self._timeout_s = task, count, timeout_s
        self._packed = cloudpickle.dumps(task)
        self._lock = threading.Lock()
        self._pool: ProcessPool | None = None
        self._ahead: dict[Asked, list[object]] = {}
        # Set once several verdicts at a time were late: each then has its own time.
        self._one_by_one = False

    def verdict(self, problem: Problem, transcript: Transcript) -> Verdict:
        """The verdict on a transcript: one that was asked for ahead, or a new one.

        Raises:
            RewardError: without one.
        """
        with self._lock:
            known = self._ahead.get((problem, transcript))
            given = known.pop() if known else None
        if given is None:
            (given,) = self._given([self._schedule([(problem, transcript)])], [[(problem, transcript)]])
        return checked(self._task, given)

    @contextlib.contextmanager
    def ahead(self, asked: Sequence[Asked]) -> Iterator[None]:
        """Within it `verdict` finds those that are asked for here together: each as often as it stands in `asked`."""
        given = self._all(asked)
        kept: dict[Asked, list[object]] = defaultdict(list)
        for one, verdict in zip(asked, given, strict=True):
            kept[one].append(verdict)
        with self._lock:
            self._ahead = kept
        try:
            yield
        finally:
            with self._lock:
                self._ahead = {}

    def close(self) -> None:
        """End the processes, whatever they do."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.stop()
            pool.join()

    def _all(self, asked: Sequence[Asked]) -> list[object]:
        """What was given for each; several at a time where that works, and alone what was lost with others."""
        size = 1 if self._one_by_one else max(1, -(-len(asked) // self._count))
        chunks = [asked[start : start + size] for start in range(0, len(asked), size)]
        given = self._given([self._schedule(chunk) for chunk in chunks], chunks)
        lost = [place for place, one in enumerate(given) if isinstance(one, _LostError)]
        self._one_by_one |= any(isinstance(given[place], _LateError) for place in lost)
        alone = [[asked[place]] for place in lost]
        for place, one in zip(lost, self._given([self._schedule(one) for one in alone], alone), strict=True):
            given[place] = one
        return given

    def _given(self, futures: Sequence[Future[Any]], chunks: Sequence[Sequence[Asked]]) -> list[object]:
        given: list[object] = []
        for future, chunk in zip(futures, chunks, strict=True):
            alone = len(chunk) == 1
            try:
                given += future.result()
            except LateError:
                given += [late_verdict(self._task, self._timeout_s)] if alone else [_LateError()] * len(chunk)
            except Exception as error:  # noqa: BLE001 - the process has ended, or could not start
                given += [_lost(self._task, error)] if alone else [_LostError()] * len(chunk)
        return given

    def _schedule(self, chunk: Sequence[Asked]) -> Future[Any]:
        with self._lock:
            if self._pool is None or not self._pool.active:
                # A fork would copy locks that threads of this process hold.
                self._pool = ProcessPool(
                    self._count, initializer=_prepare, initargs=(self._packed,), context=get_context("spawn")
                )
            future: Future[Any] = self._pool.schedule(_verdicts, args=(list(chunk),), timeout=self._timeout_s)
        return future


class OutsideTask(Task):
    """A task whose verdicts come from processes; all else is its own."""

    def __init__(self, task: Task, processes: VerifierProcesses) -> None:
        self._own, self._processes = task, processes
        self.name = task.name  # type: ignore[misc]
        self.max_new_tokens, self.stop = task.max_new_tokens, task.stop  # type: ignore[misc]
        self.asks_at_end = task.asks_at_end  # type: ignore[misc]
        self.knows_references, self.parts = task.knows_references, task.parts  # type: ignore[misc]

    def pool(self, size: int, seed: int) -> Sequence[Problem]:
        return self._own.pool(size, seed)

    def heldout(self) -> Sequence[Problem]:
        return self._own.heldout()

    def verify(self, problem: Problem, transcript: Transcript) -> Verdict:
        return self._processes.verdict(problem, transcript)

    def respond(self, problem: Problem, turn: int, text: str) -> Observation | None:
        return self._own.respond(problem, turn, text)

    def reference(self, problem: Problem) -> Transcript:
        return self._own.reference(problem)

    def difficulty(self, problem: Problem) -> float:
        return self._own.difficulty(problem)


class _LostError(Exception):
    """A verdict that was asked for with others, of which one has ended the process."""


class _LateError(_LostError):
    """The same where the process was late."""


def _lost(task: Task, error: Exception) -> RewardError:
    why = f"ended its process (exit code {error.exitcode})" if isinstance(error, ProcessExpired) else f"failed: {error}"
    return RewardError(f"The verifier of task {task.name} {why}; it must return a Verdict for every transcript.")


def _prepare(packed: bytes) -> None:
    # The initializer of a process has nowhere else to leave it.
    global _task
    _task = cloudpickle.loads(packed)


def _verdicts(asked: Sequence[Asked]) -> list[Verdict | RewardError]:
    """What the task gives for each, in a form that travels."""
    assert _task is not None  # noqa: S101 - `_prepare` has run
    given = list(_task.verify_all(asked))
    if len(given) != len(asked):
        said = f"gave {len(given)} verdicts for {len(asked)} answers; give one each"
        return [RewardError(f"The verifier of task {_task.name} {said}.")] * len(asked)
    return [_plain(_task, one) for one in given]


def _plain(task: Task, given: object) -> Verdict | RewardError:
    try:
        return checked(task, given)
    except RewardError as error:
        return RewardError(str(error))
