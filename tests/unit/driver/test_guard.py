"""The guard as the loop sees it: who ships reports, what a boundary waits for, and what happens when it is lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from rftfm_ray.actors.calls import Limit
from rftfm_ray.config import GuardConfig
from rftfm_ray.driver.guard import LiveGuard, NoGuard
from rftfm_ray.errors import GuardError
from rftfm_ray.incidents.messages import GuardTotals, News, OrderResult, Permit, Settlement
from rftfm_ray.incidents.state import Entry, EntryKind
from rftfm_ray.types import GuardMode, IncidentSummary, Levers, StepId
from rftfm_ray.verdicts import Order, OrderRole, StepReport
from tests.unit.doubles import step_row

# Never waited out, unless something hangs.
LONG_S = 20.0
SHORT_S = 0.05
FOLLOWING = StepId(0, 6, 6)
SHIPPER = "rftfm-guard"
FOUND = IncidentSummary("TE-1", 3, 3, "resolved", ("retry",), "contained")


def order(number: int) -> Order:
    """An order."""
    return Order(number, 1, OrderRole.REMEDY, "retry", "because", Levers(tool_retries=2))


def entry(seq: int) -> Entry:
    """An entry of the journal."""
    return Entry(seq, EntryKind.HELD, StepId(0, seq, seq), 1)


@dataclass
class Far:
    """Monitor and controller, played by this process.

    `gate` closed: judging takes its time. `news`: what judging leads to, by the number of reports judged by then;
    `errors`: what calls raise, by their names. `calls`: every call, and the thread that made it.
    """

    gate: threading.Event = field(default_factory=threading.Event)
    batches: list[list[int]] = field(default_factory=list)
    news: Callable[[int], News] = lambda _: News(())
    granted: bool = True
    errors: dict[str, BaseException] = field(default_factory=dict)
    begun: list[tuple[int, StepId, float]] = field(default_factory=list)
    ended: list[tuple[int, StepId, OrderResult]] = field(default_factory=list)
    late: list[tuple[StepId, float]] = field(default_factory=list)
    calls: list[tuple[str, str]] = field(default_factory=list)

    @property
    def judged(self) -> list[int]:
        """Steps in the order in which they were judged."""
        return [step for batch in self.batches for step in batch]

    def threads(self, call: str) -> list[str]:
        """Who has made a call, once for each time."""
        return [thread for name, thread in self.calls if name == call]

    def _note(self, call: str) -> None:
        self.calls.append((call, threading.current_thread().name))
        if call in self.errors:
            raise self.errors[call]

    def judge(self, reports: list[StepReport], policy_timeout_s: float) -> News:
        self._note("judge")
        assert self.gate.wait(LONG_S)
        assert {type(each) for each in reports} == {StepReport}, "rows are made into reports on their way"
        self.batches.append([each.id.step for each in reports])
        return self.news(len(self.judged))

    def note_late(self, step: StepId, waited_s: float) -> None:
        self.late.append((step, waited_s))

    def begin(self, number: int, step: StepId, probed: float) -> Permit:
        self._note("begin")
        self.begun.append((number, step, probed))
        return Permit((entry(50), entry(51)), self.granted)

    def done(self, number: int, step: StepId, result: OrderResult) -> Settlement:
        self._note("done")
        self.ended.append((number, step, result))
        return Settlement((entry(52),))

    def finish(self, last: StepId, limit: Limit) -> GuardTotals:
        self._note("finish")
        return GuardTotals((FOUND,), 1, (entry(99),))


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

    def boundary(self) -> Order | None:
        """Reach a boundary."""
        return self.guard.boundary(FOLLOWING)

    def settle(self, count: int) -> None:
        self.until(lambda: self.guard._shared.settled == count)

    def until(self, true: Callable[[], bool]) -> None:
        end = time.monotonic() + LONG_S
        while not true():
            assert time.monotonic() < end, "it does not come to pass"
            time.sleep(0.001)


Begin = Callable[..., Loop]


@pytest.fixture
def begin() -> Iterator[Begin]:
    """Start a guard in `act`, with other settings where they are given; ends its thread afterwards."""
    begun: list[Loop] = []

    def make(**how: Any) -> Loop:
        far = Far()
        far.gate.set()
        lost: list[tuple[str, str]] = []
        told: list[tuple[int, str]] = []
        config = GuardConfig(**{"mode": GuardMode.ACT, "verdict_timeout_s": LONG_S, **how})
        guard = LiveGuard(
            config, cast("Any", far),
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
    assert set(loop.far.threads("judge")) == {SHIPPER}
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
    assert loop.far.late == []


def test_boundary_waits_for_the_verdict_on_the_last_report(begin: Begin) -> None:
    loop = begin()
    loop.far.news = lambda judged: News((), order(7) if judged == 3 else None)
    loop.far.gate.clear()
    loop.report(1, 2, 3)
    timer = threading.Timer(0.1, loop.far.gate.set)
    timer.start()
    assert loop.boundary() == order(7)
    timer.join()
    assert loop.far.judged == [1, 2, 3]
    assert loop.far.late == []


def test_boundary_before_any_report_waits_for_nothing(begin: Begin) -> None:
    loop = begin()
    loop.far.gate.clear()
    assert loop.boundary() is None
    assert loop.far.late == []


def test_order_is_given_once(begin: Begin) -> None:
    """News that the controller sends before the order begins name it again."""
    loop = begin()
    loop.far.news = lambda judged: News((), order(1 if judged < 3 else 2))
    given = []
    for step in (1, 2, 3):
        loop.report(step)
        given.append(loop.boundary())
    assert given == [order(1), None, order(2)]
    assert loop.boundary() is None


def test_beginning_and_ending_an_order_are_handed_on_and_what_was_journalled_is_told(begin: Begin) -> None:
    loop = begin()
    assert loop.guard.begin(order(3), FOLLOWING, 0.25)
    assert loop.far.begun == [(3, FOLLOWING, 0.25)]
    assert [seq for seq, _ in loop.told] == [50, 51]
    result = OrderResult(1.5, "it broke")
    loop.guard.done(order(3), FOLLOWING, result)
    assert loop.far.ended == [(3, FOLLOWING, result)]
    assert [seq for seq, _ in loop.told] == [50, 51, 52]
    assert set(loop.far.threads("begin") + loop.far.threads("done")) == {ME}


def test_order_that_is_not_granted_is_not_to_be_carried_out(begin: Begin) -> None:
    loop = begin()
    loop.far.granted = False
    assert not loop.guard.begin(order(3), FOLLOWING, 0.25)
    assert [seq for seq, _ in loop.told] == [50, 51], "why stands in the journal"


def test_late_verdict_is_noted_and_takes_effect_at_the_next_boundary(begin: Begin) -> None:
    loop = begin(verdict_timeout_s=SHORT_S)
    loop.far.news = lambda _: News((), order(3))
    loop.far.gate.clear()
    loop.report(1)
    assert loop.boundary() is None
    ((step, waited),) = loop.far.late
    assert step == FOLLOWING
    assert SHORT_S <= waited < LONG_S
    loop.far.gate.set()
    loop.settle(1)
    assert loop.boundary() == order(3)
    assert len(loop.far.late) == 1


def test_earlier_order_is_given_while_a_later_verdict_is_late(begin: Begin) -> None:
    loop = begin(verdict_timeout_s=SHORT_S)
    loop.far.news = lambda _: News((), order(3))
    loop.report(1)
    loop.settle(1)
    loop.far.gate.clear()
    loop.report(2)
    assert loop.boundary() == order(3)
    assert len(loop.far.late) == 1


def test_order_is_kept_until_a_boundary(begin: Begin) -> None:
    loop = begin()
    loop.far.news = lambda judged: News((), order(3) if judged == 1 else None)
    for step in (1, 2):
        loop.report(step)
        loop.settle(step)
    assert loop.boundary() == order(3)


def test_entries_are_told_in_order_by_the_loop_itself(begin: Begin) -> None:
    loop = begin()
    loop.far.news = lambda judged: News((entry(2 * judged - 1), entry(2 * judged)), order(1) if judged == 3 else None)
    for step in range(1, 4):
        loop.report(step)
        loop.boundary()
    assert [seq for seq, _ in loop.told] == [1, 2, 3, 4, 5, 6]
    assert {thread for _, thread in loop.told} == {ME}


def test_reports_that_wait_are_judged_together_and_in_their_order(begin: Begin) -> None:
    loop = begin(mode=GuardMode.OBSERVE)
    loop.far.gate.clear()
    loop.report(1)
    loop.until(lambda: bool(loop.far.threads("judge")))
    loop.report(*range(2, 40))
    loop.far.gate.set()
    loop.until(lambda: len(loop.far.judged) == 39)
    assert loop.far.batches == [[1], list(range(2, 40))]


def test_full_buffer_makes_the_loop_wait_and_drops_nothing(begin: Begin) -> None:
    loop = begin(mode=GuardMode.OBSERVE, buffer=2)
    loop.far.gate.clear()
    loop.report(1)
    loop.until(lambda: bool(loop.far.threads("judge")))
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
    assert loop.guard.finish(FOLLOWING).waits == 1


@pytest.mark.parametrize("buffer", [1, 256])
def test_end_waits_until_everything_is_judged(begin: Begin, buffer: int) -> None:
    loop = begin(mode=GuardMode.OBSERVE, buffer=buffer)
    loop.far.news = lambda judged: News((entry(judged),))
    loop.report(*range(1, 20))
    totals = loop.guard.finish(FOLLOWING)
    assert (totals.incidents, totals.remedies) == ((FOUND,), 1)
    assert loop.far.judged == list(range(1, 20))
    assert [seq for seq, _ in loop.told][-1] == 99, "the end of the journal comes last"
    assert not loop.guard._thread.is_alive()
    assert loop.lost == []


def lose(loop: Loop, error: BaseException) -> None:
    loop.far.errors["judge"] = error
    loop.report(1)


def test_lost_guard_is_said_once_and_the_run_goes_on(begin: Begin) -> None:
    loop = begin(buffer=2)
    lose(loop, GuardError("monitor-0 died."))
    assert loop.boundary() is None
    loop.far.errors.clear()
    for step in range(2, 10):
        loop.report(step)
        assert loop.boundary() is None
    assert loop.lost == [("monitor-0 died.", ME)]
    assert loop.far.threads("judge") == [SHIPPER], "nothing more is sent to it"
    assert loop.far.late == []


@pytest.mark.parametrize("mode", [GuardMode.OBSERVE, GuardMode.ACT])
def test_lost_guard_is_said_in_every_mode(begin: Begin, mode: GuardMode) -> None:
    loop = begin(mode=mode)
    lose(loop, GuardError("monitor-0 died."))
    loop.until(lambda: bool(loop.guard._shared.lost))
    loop.boundary()
    assert [why for why, _ in loop.lost] == ["monitor-0 died."]


def test_end_without_a_guard_counts_nothing(begin: Begin) -> None:
    loop = begin()
    loop.report(1)
    loop.far.errors["finish"] = GuardError("It died at the end.")
    assert loop.guard.finish(FOLLOWING) == GuardTotals()
    assert [why for why, _ in loop.lost] == ["It died at the end."]


def test_order_that_cannot_be_journalled_stops_the_run(begin: Begin) -> None:
    loop = begin()
    loop.far.errors |= {"begin": GuardError("controller-0 died."), "done": GuardError("controller-0 died.")}
    with pytest.raises(GuardError, match="controller-0 died"):
        loop.guard.begin(order(1), FOLLOWING, 0.5)
    with pytest.raises(GuardError, match="controller-0 died"):
        loop.guard.done(order(1), FOLLOWING, OrderResult(0.1))


def test_guard_that_is_lost_for_good_is_said_once(begin: Begin) -> None:
    loop = begin()
    lose(loop, GuardError("monitor-0 died."))
    loop.boundary()
    loop.far.errors["finish"] = GuardError("monitor-0 died.")
    loop.guard.finish(FOLLOWING)
    assert len(loop.lost) == 1


def test_order_of_a_lost_guard_does_not_stop_the_run(begin: Begin) -> None:
    loop = begin()
    loop.far.news = lambda _: News((), order(1))
    loop.report(1)
    loop.settle(1)
    loop.far.errors["judge"] = GuardError("monitor-0 died.")
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
    assert nobody.boundary(FOLLOWING) is None
    assert not nobody.begin(order(1), FOLLOWING, 0.5)
    assert nobody.finish(FOLLOWING) == GuardTotals()
