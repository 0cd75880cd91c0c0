"""The guard as the loop sees it: who ships reports, what a boundary waits for, and what happens when it is lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from rftfm_ray.config import GuardConfig
from rftfm_ray.driver import guard as guard_module
from rftfm_ray.driver.guard import LiveGuard, NoGuard
from rftfm_ray.errors import LearnerError, RftfmError, RolloutError
from rftfm_ray.incidents.messages import Change, GuardTotals, News
from rftfm_ray.incidents.state import Entry, EntryKind
from rftfm_ray.types import GuardMode, Levers, Position, StepId
from rftfm_ray.verdicts import Order, OrderRole, StepReport
from tests.unit.doubles import step_row

# Never waited out, unless something hangs.
LONG_S = 20.0
SHORT_S = 0.05
STAND, PROMPT_DEPENDENT = Position(StepId(0, 5, 5), 5, 80), StepId(0, 6, 6)
CHANGE = Change("retry", "because", Levers(tool_retries=2))
SHIPPER = "rftfm-guard"


def order(number: int) -> Order:
    """An order."""
    return Order(number, 1, OrderRole.REMEDY, "retry", "because", Levers(tool_retries=2))


def entry(seq: int) -> Entry:
    """An entry of the journal."""
    return Entry(seq, EntryKind.HELD, StepId(0, seq, seq), 1)


@dataclass
class Method:
    """A remote method: does its work where it is called, and hands back what stands for its result."""

    work: Callable[..., Any]
    threads: list[str] = field(default_factory=list)

    def remote(self, *arguments: Any) -> Any:
        """Call it."""
        self.threads.append(threading.current_thread().name)
        return self.work(*arguments)


class Far:
    """Monitor and controller, played by this process.

    `gate` closed: judging takes its time. `news`: what judging leads to, by the number of reports judged by then;
    `errors`: what waiting for something raises, by what was being done.
    """

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.batches: list[list[int]] = []
        self.news: Callable[[int], News] = lambda _: News(())
        self.change: Change | None = CHANGE
        self.errors: dict[str, BaseException] = {}
        self.executed: list[tuple[int, Position, StepId]] = []
        self.late: list[tuple[StepId, float]] = []
        self.waited: list[tuple[str, str]] = []
        self.assess = Method(lambda reports: reports)
        self.consider = Method(self._consider)
        self.execute = Method(self._execute)
        self.note_late = Method(lambda step, waited: self.late.append((step, waited)))
        self.finish = Method(lambda last: GuardTotals(2, 1, (entry(99),)))

    @property
    def judged(self) -> list[int]:
        """Steps in the order in which they were judged."""
        return [step for batch in self.batches for step in batch]

    def _consider(self, reports: list[StepReport]) -> News:
        assert self.gate.wait(LONG_S)
        assert {type(each) for each in reports} == {StepReport}, "rows are made into reports on their way"
        self.batches.append([each.id.step for each in reports])
        return self.news(len(self.judged))

    def _execute(self, number: int, stand: Position, following: StepId) -> News:
        self.executed.append((number, stand, following))
        return News((entry(50), entry(51)), change=self.change)

    def wait_for(self, references: list[Any], timeout_s: float, doing: str) -> list[Any]:
        """In place of `actors.group.wait_for`."""
        self.waited.append((doing, threading.current_thread().name))
        for part, error in self.errors.items():
            if part in doing:
                raise error
        return references


@dataclass
class Loop:
    """The loop's end of the guard."""

    guard: LiveGuard
    far: Far
    lost: list[tuple[str, str]]
    told: list[tuple[int, str]]

    def report(self, *steps: int) -> None:
        """Hand steps over."""
        for step in steps:
            self.guard.report(step_row(step))

    def boundary(self) -> Change | None:
        """Reach a boundary."""
        return self.guard.boundary(STAND, PROMPT_DEPENDENT)

    def settle(self, count: int) -> None:
        """Wait until so many steps have been judged."""
        self.until(lambda: self.guard._shared.settled == count)

    def until(self, true: Callable[[], bool]) -> None:
        """Wait for the other thread."""
        end = time.monotonic() + LONG_S
        while not true():
            assert time.monotonic() < end, "it does not come to pass"
            time.sleep(0.001)


Begin = Callable[..., Loop]


@pytest.fixture
def begin(monkeypatch: pytest.MonkeyPatch) -> Iterator[Begin]:
    """Start a guard in `act`, with other settings where they are given; ends its thread afterwards."""
    begun: list[Loop] = []

    def make(**how: Any) -> Loop:
        far = Far()
        monkeypatch.setattr(guard_module, "wait_for", far.wait_for)
        lost: list[tuple[str, str]] = []
        told: list[tuple[int, str]] = []
        config = GuardConfig(**{"mode": GuardMode.ACT, "verdict_timeout_s": LONG_S, **how})
        guard = LiveGuard(
            config, far, far,
            lambda why: lost.append((why, threading.current_thread().name)),
            lambda each: told.append((each.seq, threading.current_thread().name)),
        )  # fmt: skip
        begun.append(loop := Loop(guard, far, lost, told))
        return loop

    yield make
    for loop in begun:
        loop.far.gate.set()
        loop.guard._queue.put(None, timeout=LONG_S)
        loop.guard._thread.join(LONG_S)
        assert not loop.guard._thread.is_alive()


ME = threading.current_thread().name


def test_reports_are_shipped_by_a_thread_of_their_own(begin: Begin) -> None:
    loop = begin()
    for step in range(1, 6):
        loop.report(step)
        loop.boundary()
    assert set(loop.far.assess.threads) == set(loop.far.consider.threads) == {SHIPPER}
    assert {thread for doing, thread in loop.far.waited if doing == "judging a step"} == {SHIPPER}
    assert loop.far.judged == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("mode", [GuardMode.OBSERVE, GuardMode.ADVISE])
def test_guard_that_does_not_act_is_never_waited_for(begin: Begin, mode: GuardMode) -> None:
    loop = begin(mode=mode)
    loop.far.news = lambda _: News((), order(1))
    loop.far.gate.clear()
    loop.report(1, 2)
    assert loop.boundary() is None
    assert loop.far.judged == [], "nobody has waited"
    loop.far.gate.set()
    loop.until(lambda: loop.far.judged == [1, 2])
    assert loop.boundary() is None
    assert (loop.far.executed, loop.far.late) == ([], [])


def test_boundary_waits_for_the_verdict_on_the_last_report(begin: Begin) -> None:
    loop = begin()
    loop.far.news = lambda judged: News((), order(7) if judged == 3 else None)
    loop.far.gate.clear()
    loop.report(1, 2, 3)
    timer = threading.Timer(0.1, loop.far.gate.set)
    timer.start()
    assert loop.boundary() == CHANGE
    timer.join()
    assert loop.far.judged == [1, 2, 3]
    assert loop.far.executed == [(7, STAND, PROMPT_DEPENDENT)]
    assert loop.far.late == []


def test_boundary_before_any_report_waits_for_nothing(begin: Begin) -> None:
    loop = begin()
    loop.far.gate.clear()
    assert loop.boundary() is None
    assert loop.far.late == []


def test_order_is_asked_for_once(begin: Begin) -> None:
    loop = begin()
    loop.far.news = lambda judged: News((), order(1) if judged == 1 else None)
    loop.report(1)
    assert loop.boundary() == CHANGE
    assert loop.boundary() is None
    loop.report(2)
    assert loop.boundary() is None
    assert len(loop.far.executed) == 1
    assert loop.far.execute.threads == [ME]


def test_order_that_was_not_confirmed_changes_nothing(begin: Begin) -> None:
    loop = begin()
    loop.far.news, loop.far.change = lambda _: News((), order(1)), None
    loop.report(1)
    assert loop.boundary() is None
    assert [seq for seq, _ in loop.told] == [50, 51]


def test_late_verdict_is_noted_and_takes_effect_at_the_next_boundary(begin: Begin) -> None:
    loop = begin(verdict_timeout_s=SHORT_S)
    loop.far.news = lambda _: News((), order(3))
    loop.far.gate.clear()
    loop.report(1)
    assert loop.boundary() is None
    ((step, waited),) = loop.far.late
    assert step == PROMPT_DEPENDENT
    assert SHORT_S <= waited < LONG_S
    loop.far.gate.set()
    loop.settle(1)
    assert loop.boundary() == CHANGE
    assert len(loop.far.late) == 1


def test_earlier_order_is_carried_out_while_a_later_verdict_is_late(begin: Begin) -> None:
    loop = begin(verdict_timeout_s=SHORT_S)
    loop.far.news = lambda _: News((), order(3))
    loop.report(1)
    loop.settle(1)
    loop.far.gate.clear()
    loop.report(2)
    assert loop.boundary() == CHANGE
    assert len(loop.far.late) == 1


def test_order_is_kept_until_a_boundary(begin: Begin) -> None:
    loop = begin()
    loop.far.news = lambda judged: News((), order(3) if judged == 1 else None)
    for step in (1, 2):
        loop.report(step)
        loop.settle(step)
    assert loop.boundary() == CHANGE


def test_entries_are_told_in_order_by_the_loop_itself(begin: Begin) -> None:
    loop = begin()
    loop.far.news = lambda judged: News((entry(2 * judged - 1), entry(2 * judged)), order(1) if judged == 3 else None)
    for step in range(1, 4):
        loop.report(step)
        loop.boundary()
    assert [seq for seq, _ in loop.told] == [1, 2, 3, 4, 5, 6, 50, 51]
    assert {thread for _, thread in loop.told} == {ME}


def test_reports_that_wait_are_judged_together_and_in_their_order(begin: Begin) -> None:
    loop = begin(mode=GuardMode.OBSERVE)
    loop.far.gate.clear()
    loop.report(1)
    loop.until(lambda: bool(loop.far.consider.threads))
    loop.report(*range(2, 40))
    loop.far.gate.set()
    loop.until(lambda: len(loop.far.judged) == 39)
    assert loop.far.batches == [[1], list(range(2, 40))]


def test_full_buffer_makes_the_loop_wait_and_drops_nothing(begin: Begin) -> None:
    loop = begin(mode=GuardMode.OBSERVE, buffer=2)
    loop.far.gate.clear()
    loop.report(1)
    loop.until(lambda: bool(loop.far.consider.threads))
    loop.report(2, 3)
    through = threading.Event()

    def more() -> None:
        loop.report(4)
        through.set()

    threading.Thread(target=more, daemon=True).start()
    assert not through.wait(0.1), "there is no room for a fourth"
    loop.far.gate.set()
    assert through.wait(LONG_S)
    loop.until(lambda: loop.far.judged == [1, 2, 3, 4])
    assert loop.guard.finish(PROMPT_DEPENDENT).waits == 1


@pytest.mark.parametrize("buffer", [1, 256])
def test_end_waits_until_everything_is_judged(begin: Begin, buffer: int) -> None:
    loop = begin(mode=GuardMode.OBSERVE, buffer=buffer)
    loop.far.news = lambda judged: News((entry(judged),))
    loop.report(*range(1, 20))
    totals = loop.guard.finish(PROMPT_DEPENDENT)
    assert (totals.incidents, totals.remedies) == (2, 1)
    assert loop.far.judged == list(range(1, 20))
    assert [seq for seq, _ in loop.told][-1] == 99, "the end of the journal comes last"
    assert not loop.guard._thread.is_alive()
    assert loop.lost == []


def lose(loop: Loop, error: BaseException) -> None:
    """Lose it at a report."""
    loop.far.errors["judging"] = error
    loop.report(1)


def test_lost_guard_is_said_once_and_the_run_goes_on(begin: Begin) -> None:
    loop = begin(buffer=2)
    lose(loop, RolloutError("An actor died."))
    assert loop.boundary() is None
    loop.far.errors.clear()
    for step in range(2, 10):
        loop.report(step)
        assert loop.boundary() is None
    assert loop.lost == [("An actor died.", ME)]
    assert loop.far.assess.threads == [SHIPPER], "nothing more is sent to it"
    assert loop.far.late == []


@pytest.mark.parametrize("mode", [GuardMode.OBSERVE, GuardMode.ACT])
def test_lost_guard_is_said_in_every_mode(begin: Begin, mode: GuardMode) -> None:
    loop = begin(mode=mode)
    lose(loop, RolloutError("An actor died."))
    loop.until(lambda: bool(loop.guard._shared.lost))
    loop.boundary()
    assert [why for why, _ in loop.lost] == ["An actor died."]


def test_end_without_a_guard_counts_nothing(begin: Begin) -> None:
    loop = begin()
    loop.report(1)
    loop.far.errors["ending the journal"] = RolloutError("It died at the end.")
    assert loop.guard.finish(PROMPT_DEPENDENT) == GuardTotals(0, 0)
    assert [why for why, _ in loop.lost] == ["It died at the end."]


@pytest.mark.parametrize("error", [LearnerError("Half way."), RolloutError("An actor died.")])
def test_order_that_fails_stops_the_run(begin: Begin, error: RftfmError) -> None:
    loop = begin()
    loop.far.news = lambda _: News((), order(1))
    loop.far.errors["carrying out the remedy retry"] = error
    loop.report(1)
    with pytest.raises(type(error)):
        loop.boundary()


def test_guard_that_is_lost_for_good_is_said_once(begin: Begin) -> None:
    loop = begin()
    lose(loop, RolloutError("An actor died."))
    loop.boundary()
    loop.far.errors["ending"] = RolloutError("An actor died.")
    loop.guard.finish(PROMPT_DEPENDENT)
    assert len(loop.lost) == 1


def test_order_of_a_lost_guard_does_not_stop_the_run(begin: Begin) -> None:
    loop = begin()
    loop.far.news = lambda _: News((), order(1))
    loop.report(1)
    loop.settle(1)
    loop.far.errors |= {"judging": RolloutError("An actor died."), "carrying out": RolloutError("An actor died.")}
    loop.report(2)
    assert loop.boundary() is None


def test_whatever_judging_raises_the_run_goes_on(begin: Begin) -> None:
    loop = begin(verdict_timeout_s=SHORT_S)
    lose(loop, RuntimeError("lost object"))
    loop.until(lambda: bool(loop.guard._shared.lost) or not loop.guard._thread.is_alive())
    assert loop.boundary() is None
    assert [why for why, _ in loop.lost] == ["lost object"]
    assert loop.guard._thread.is_alive()


def test_no_guard_does_nothing() -> None:
    nobody = NoGuard()
    nobody.report(step_row(1))
    assert nobody.boundary(STAND, PROMPT_DEPENDENT) is None
    assert nobody.finish(PROMPT_DEPENDENT) == GuardTotals(0, 0)
