"""Calls of a task's own code with a time limit, several at a time. Pure; standard library."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")

# Threads in calls that never returned, in units of the number of workers; beyond them nothing more is called.
LEFT_BEHIND = 4
DEFAULT_TIMEOUT_S = 60.0
DEFAULT_WORKERS = 8


class NotAskedError(TimeoutError):
    """A call that was not made, because earlier ones have not returned."""


class Workers:
    """Runs calls in threads. A thread cannot be ended, so one whose call is late is left behind.

    At most `LEFT_BEHIND * count` threads are left behind at a time; then no further call is made until one of them
    returns. They are daemons and do not keep a process alive.

    Args:
        count: calls at a time.
        timeout_s: seconds that one call may take.
    """

    def __init__(self, count: int = DEFAULT_WORKERS, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        self.count = count
        self.timeout_s = timeout_s
        self._most_left = LEFT_BEHIND * count
        self._left = 0
        self._changed = threading.Condition()

    @property
    def left_behind(self) -> int:
        """Threads whose calls were late and have not returned yet."""
        return self._left

    def run(self, calls: Sequence[Callable[[], T]]) -> list[T | BaseException]:
        """Results of `calls` in their order: what each returned, what it raised, or `TimeoutError` for a late one.

        It is `NotAskedError` for one that was not made.
        """
        batch = _Batch(calls)
        with self._changed:
            self._start(batch)
            while batch.unfinished:
                now = time.monotonic()
                for index, began in list(batch.started.items()):
                    if now - began >= self.timeout_s:
                        batch.finish(index, self._late())
                        self._left += 1
                self._start(batch)
                if not batch.started:
                    batch.drop(self._not_asked())
                elif batch.unfinished:
                    first = min(batch.started.values())
                    self._changed.wait(None if first == math.inf else max(0.0, first + self.timeout_s - now))
        return batch.results

    def _late(self) -> TimeoutError:
        return TimeoutError(f"it gave no answer within {self.timeout_s:g} s")

    def _not_asked(self) -> NotAskedError:
        return NotAskedError(f"it was not asked, because {self._left} earlier calls of it have not returned")

    def _start(self, batch: _Batch[T]) -> None:
        """Start threads for calls that wait; the lock is held."""
        while batch.waiting and len(batch.started) < min(self.count, self._most_left - self._left):
            index = batch.take()
            threading.Thread(target=self._work, args=(batch, index), name="task-code", daemon=True).start()

    def _work(self, batch: _Batch[T], index: int) -> None:
        """Make call after call, until none waits or one was late."""
        with self._changed:
            # On a busy machine a thread may start late; that is no time of the call.
            batch.started[index] = time.monotonic()
            self._changed.notify()
        while True:
            result: T | BaseException
            try:
                result = batch.calls[index]()
            except BaseException as error:  # noqa: BLE001 - the task's own code may raise anything, SystemExit too
                result = error
            with self._changed:
                if index not in batch.started:
                    self._left -= 1
                    return
                batch.finish(index, result)
                if not batch.waiting:
                    self._changed.notify()
                    return
                index = batch.take()
                batch.started[index] = time.monotonic()


class WorkerPools:
    """Workers for each part of a task's code: one that hangs uses up its own threads and those of no other.

    Args:
        count: calls of one part at a time. Parts are called one after the other.
        timeout_s: seconds that one call may take.
    """

    def __init__(self, count: int = DEFAULT_WORKERS, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        self.count = count
        self.timeout_s = timeout_s
        self._pools: dict[str, Workers] = {}

    @property
    def verifier(self) -> Workers:
        """Workers for verdicts."""
        return self._of("verifier")

    @property
    def replay(self) -> Workers:
        """Workers for replays in the trusted environment."""
        return self._of("replay")

    def tool(self, instance: int) -> Workers:
        """Workers for calls of one tool instance."""
        return self._of(f"tool-{instance}")

    def separate(self) -> WorkerPools:
        """Pools of the same size that share no thread with these."""
        return WorkerPools(self.count, self.timeout_s)

    def _of(self, part: str) -> Workers:
        return self._pools.setdefault(part, Workers(self.count, self.timeout_s))


class _Batch(Generic[T]):
    """The calls of one `Workers.run`; whoever touches it holds the lock of the workers."""

    def __init__(self, calls: Sequence[Callable[[], T]]) -> None:
        self.calls = calls
        self.started: dict[int, float] = {}
        self._results: dict[int, T | BaseException] = {}
        self._next = 0

    @property
    def waiting(self) -> bool:
        """Whether a call has not been taken yet."""
        return self._next < len(self.calls)

    @property
    def unfinished(self) -> bool:
        """Whether a result is missing."""
        return len(self._results) < len(self.calls)

    @property
    def results(self) -> list[T | BaseException]:
        """The results, in the order of the calls."""
        return [self._results[index] for index in range(len(self.calls))]

    def take(self) -> int:
        """Take the next call; it begins when a thread has set when."""
        index = self._next
        self._next += 1
        self.started[index] = math.inf
        return index

    def finish(self, index: int, result: T | BaseException) -> None:
        """End a call with its result."""
        del self.started[index]
        self._results[index] = result

    def drop(self, result: BaseException) -> None:
        """End all calls that wait, without making them."""
        while self.waiting:
            self.finish(self.take(), result)
