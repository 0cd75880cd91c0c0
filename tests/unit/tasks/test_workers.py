"""Calls of a task's own code: results in order, several at a time, and what happens to one that never returns."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from rftfm_ray.tasks.workers import LEFT_BEHIND, Workers


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """What calls that hang wait for; opened at the end, so that no thread outlives its test."""
    event = threading.Event()
    yield event
    event.set()


def returning(value: int) -> Callable[[], int]:
    """A call that returns at once."""
    return lambda: value


@pytest.mark.parametrize("count", [1, 3, 8])
def test_results_come_in_the_order_of_the_calls(count: int) -> None:
    def slow(value: int) -> int:
        time.sleep(0.002 * (value % 3))
        return value

    assert Workers(count, 60).run([partial(slow, n) for n in range(20)]) == list(range(20))


def test_one_worker_makes_one_call_at_a_time_in_order() -> None:
    seen: list[int] = []
    Workers(1, 60).run([partial(seen.append, n) for n in range(50)])
    assert seen == list(range(50))


def test_calls_run_beside_each_other() -> None:
    barrier = threading.Barrier(4, timeout=10)
    assert set(Workers(4, 60).run([barrier.wait] * 4)) == {0, 1, 2, 3}


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3), KeyboardInterrupt()])
def test_what_a_call_raises_is_its_result(error: BaseException) -> None:
    def fail() -> int:
        raise error

    assert Workers(2, 60).run([returning(1), fail, returning(2)]) == [1, error, 2]


def test_nothing_to_call_gives_nothing() -> None:
    assert Workers(2, 60).run([]) == []


@pytest.mark.parametrize("count", [1, 4])
def test_late_call_is_a_time_out_and_the_others_are_made(count: int, gate: threading.Event) -> None:
    workers = Workers(count, 0.3)
    calls = [returning(n) for n in range(6)]
    results = workers.run([*calls[:3], lambda: int(gate.wait()), *calls[3:]])
    late = results.pop(3)
    assert isinstance(late, TimeoutError)
    assert "within 0.3 s" in str(late)
    assert (results, workers.left_behind) == (list(range(6)), 1)


def test_threads_left_behind_are_bounded_and_come_back(gate: threading.Event) -> None:
    workers, begun = Workers(2, 0.2), []

    def hang() -> int:
        begun.append(1)
        return int(gate.wait())

    results = workers.run([hang] * 50)
    assert all(isinstance(result, TimeoutError) for result in results)
    assert len(begun) == workers.left_behind == 2 * LEFT_BEHIND
    start = time.monotonic()
    assert all(isinstance(result, TimeoutError) for result in workers.run([returning(1)] * 20))
    assert time.monotonic() - start < 1, "nothing is called while all threads are in calls that never return"
    gate.set()
    while workers.left_behind:
        time.sleep(0.001)
    assert workers.run([returning(1)] * 20) == [1] * 20
