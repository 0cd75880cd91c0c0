"""Verdicts in processes of their own, several at a time; one that does not end is killed. Pure; pebble and cloudpickle.

A thread that runs a user's code cannot be ended, and shares its interpreter with whatever else the process does. Pebble
kills a process whose call is late and starts another in its place.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as LateError
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

import cloudpickle
from pebble import ProcessExpired, ProcessPool

from rftfm_ray.errors import RewardError
from rftfm_ray.tasks.api import Observation, Problem, Task, Transcript, Verdict
from rftfm_ray.tasks.rewards import checked, late_verdict

Asked = tuple[Problem, Transcript]

WORTH_S = 0.2
"""Seconds of grading a batch from which on it is begun before all answers have ended."""

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
        self._begun: dict[Asked, list[_Begun]] = defaultdict(list)
        self._running: list[Future[Any]] = []
        self._last_s = 0.0
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
            (given,) = self._given(self._schedule([(problem, transcript)]), 1)
        return checked(self._task, given)

    def start(self, asked: Sequence[Asked]) -> int:
        """Have processes that are idle begin with some of `asked`, from the first on; how many.

        The next `ahead` goes on from there. Where none is idle nothing is begun: until then there may be more to put to
        a function together. Nor is it where the verdicts of the last batch took no time worth saving, which a call for
        each of them costs too.
        """
        if self._last_s / self._count < WORTH_S:
            return 0
        self._running = [future for future in self._running if not future.done()]
        idle = self._count - len(self._running)
        if idle <= 0 or not asked:
            return 0
        size = 1 if self._one_by_one else -(-len(asked) // idle)
        chunks = [asked[start : start + size] for start in range(0, len(asked), size)][:idle]
        for chunk in chunks:
            future = self._schedule(chunk)
            self._running.append(future)
            for place, one in enumerate(chunk):
                self._begun[one].append(_Begun(future, place, len(chunk)))
        return sum(map(len, chunks))

    def forget(self) -> None:
        """Leave to themselves the verdicts that `start` has begun."""
        self._begun.clear()

    @contextlib.contextmanager
    def ahead(self, asked: Sequence[Asked]) -> Iterator[None]:
        """Within it `verdict` finds those that are asked for here together: each as often as it stands in `asked`."""
        given = self._all(asked)
        self.forget()
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
        begun = {place: self._begun[one].pop() for place, one in enumerate(asked) if self._begun.get(one)}
        rest = [place for place in range(len(asked)) if place not in begun]
        size = 1 if self._one_by_one else max(1, -(-len(rest) // self._count))
        chunks = [rest[start : start + size] for start in range(0, len(rest), size)]
        futures = [self._schedule([asked[place] for place in chunk]) for chunk in chunks]
        given = {place: self._given(one.future, one.size)[one.place] for place, one in begun.items()}
        for future, chunk in zip(futures, chunks, strict=True):
            given |= zip(chunk, self._given(future, len(chunk)), strict=True)
        self._last_s = sum(map(self._took_s, {*futures, *(one.future for one in begun.values())}))
        lost = [place for place, one in given.items() if isinstance(one, _LostError)]
        self._one_by_one |= any(isinstance(given[place], _LateError) for place in lost)
        alone = [(place, self._schedule([asked[place]])) for place in lost]
        given |= {place: self._given(future, 1)[0] for place, future in alone}
        return [given[place] for place in range(len(asked))]

    def _given(self, future: Future[Any], count: int) -> list[object]:
        """What came of a call for `count` verdicts."""
        try:
            given, _ = future.result()
        except LateError:
            return [late_verdict(self._task, self._timeout_s)] if count == 1 else [_LateError()] * count
        except Exception as error:  # noqa: BLE001 - the process has ended, or could not start
            return [_lost(self._task, error)] if count == 1 else [_LostError()] * count
        return list(given)

    def _took_s(self, future: Future[Any]) -> float:
        """Seconds of a call that has ended."""
        return float(future.result()[1]) if future.exception() is None else self._timeout_s

    def _schedule(self, chunk: Sequence[Asked]) -> Future[Any]:
        with self._lock:
            if self._pool is None or not self._pool.active:
                # A fork would copy locks that threads of this process hold.
                self._pool = ProcessPool(
                    self._count, initializer=_prepare, initargs=(self._packed,), context=get_context("spawn")
                )
            future: Future[Any] = self._pool.schedule(_verdicts, args=(list(chunk),), timeout=self._timeout_s)
        return future


@dataclass(frozen=True, slots=True)
class _Begun:
    """A verdict that was begun early: its place in a call for `size` of them."""

    future: Future[Any]
    place: int
    size: int


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


def _verdicts(asked: Sequence[Asked]) -> tuple[list[Verdict | RewardError], float]:
    """What the task gives for each, in a form that travels, and the seconds that it took."""
    assert _task is not None  # noqa: S101 - `_prepare` has run
    began = time.perf_counter()
    given = list(_task.verify_all(asked))
    seconds = time.perf_counter() - began
    if len(given) != len(asked):
        said = f"gave {len(given)} verdicts for {len(asked)} answers; give one each"
        return [RewardError(f"The verifier of task {_task.name} {said}.")] * len(asked), seconds
    return [_plain(_task, one) for one in given], seconds


def _plain(task: Task, given: object) -> Verdict | RewardError:
    try:
        return checked(task, given)
    except RewardError as error:
        return RewardError(str(error))
