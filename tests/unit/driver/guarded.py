"""The loop's end of a guard whose monitor and controller are played by this process."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from rftfm_ray.actors.calls import Limit
from rftfm_ray.driver.guard import LiveGuard
from rftfm_ray.incidents.messages import Answered, GuardTotals, News, OrderResult, Paused, Permit, Settlement
from rftfm_ray.incidents.orders import Order, OrderRole
from rftfm_ray.incidents.requests import Reply, Request
from rftfm_ray.incidents.state import Entry, EntryKind
from rftfm_ray.types import IncidentSummary, Levers, StepId
from rftfm_ray.verdicts import StepReport
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
    journal: Path = Path("/nowhere/journal.jsonl")
    answered: list[Request] = field(default_factory=list)
    paused: list[tuple[StepId, int]] = field(default_factory=list)
    stopped: bool = False
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

    def stop(self) -> None:
        self.stopped = True

    def judge(self, reports: list[StepReport], policy_timeout_s: float) -> News:
        self._note("judge")
        assert self.gate.wait(LONG_S)
        assert {type(each) for each in reports} == {StepReport}, "rows are made into reports on their way"
        self.batches.append([each.id.step for each in reports])
        return self.news(len(self.judged))

    def note_late(self, step: StepId, waited_s: float) -> None:
        self.late.append((step, waited_s))

    def begin(self, number: int, step: StepId, probed: float, graded: int) -> Permit:
        del graded
        self._note("begin")
        self.begun.append((number, step, probed))
        return Permit((entry(50), entry(51)), order(number) if self.granted else None)

    def done(self, number: int, step: StepId, result: OrderResult) -> Settlement:
        self._note("done")
        self.ended.append((number, step, result))
        return Settlement((entry(52),))

    def answer(self, request: Request, step: StepId) -> Answered:
        """Approve whatever is asked for."""
        self._note("answer")
        self.answered.append(request)
        approved = Entry(60, EntryKind.APPROVED, step, request.incident)
        return Answered((approved,), Reply(request.id, True, "Approved."), order(9))

    def pause(self, step: StepId, last: StepId, incident: int, waited_s: float) -> Paused:
        self._note("pause")
        self.paused.append((last, incident))
        return Paused((Entry(70, EntryKind.PAUSED, step, incident, (("remedy", "retry"),)),), (5,))

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


ME = threading.current_thread().name
