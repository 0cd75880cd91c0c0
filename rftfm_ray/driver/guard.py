"""The guard as the loop sees it: reports go off by a thread of their own, and a boundary waits for what they led to."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from rftfm_ray.actors.calls import Limit
from rftfm_ray.actors.guards import GuardGroup
from rftfm_ray.config import GuardConfig
from rftfm_ray.errors import RftfmError
from rftfm_ray.incidents.messages import GuardTotals, News, OrderResult
from rftfm_ray.incidents.state import Entry
from rftfm_ray.metrics import StepRow
from rftfm_ray.signals.schema import report_of
from rftfm_ray.types import GuardMode, StepId
from rftfm_ray.verdicts import Declaration, Order, StepReport

FINISH = Limit(30.0)

Lost = Callable[[str], None]
Tell = Callable[[Entry], None]
Shipped = StepRow | StepReport | Declaration


class Guard(Protocol):
    """What the loop needs of a guard."""

    def report(self, step: StepRow | StepReport) -> None:
        """Hand a finished step over to be judged."""

    def declare(self, declaration: Declaration) -> None:
        """Say that something is changed on purpose: after the reports so far, and before the next."""

    def boundary(self, step: StepId) -> Order | None:
        """The order that earlier reports led to; `step` is the one under way. Each order is given once."""

    def begin(self, order: Order, step: StepId, probed: float) -> bool:
        """Journal that an order is about to be carried out; whether it may be. `probed`: as `ControllerActor.begin`."""

    def done(self, order: Order, step: StepId, result: OrderResult) -> None:
        """Journal what became of an order that was begun."""

    def finish(self, last: StepId) -> GuardTotals:
        """Wait until everything is judged and journalled."""


class NoGuard:
    """`guard.mode=off`."""

    def report(self, step: StepRow | StepReport) -> None:
        """Nobody judges."""

    def declare(self, declaration: Declaration) -> None:
        """Nobody need know."""

    def boundary(self, step: StepId) -> Order | None:
        """Nobody gives orders."""
        del step
        return None

    def begin(self, order: Order, step: StepId, probed: float) -> bool:
        """No order may be carried out."""
        del order, step, probed
        return False

    def done(self, order: Order, step: StepId, result: OrderResult) -> None:
        """Nobody keeps a journal."""

    def finish(self, last: StepId) -> GuardTotals:
        """There were no incidents."""
        del last
        return GuardTotals()


@dataclass(slots=True)
class _Shared:
    """What the shipping thread and the loop have in common, under one lock."""

    settled: int = 0
    order: Order | None = None
    lost: str = ""
    entries: list[Entry] = field(default_factory=list)


class LiveGuard:
    """Ships reports to the monitor and its assessments to the controller; hands their orders to the loop.

    A guard that is lost does not stop the run: it is said once through `lost`, and training goes on unguarded. An
    order that was begun and cannot be ended does stop it, for then nobody knows what is being trained.
    """

    def __init__(self, config: GuardConfig, group: GuardGroup, lost: Lost, tell: Tell) -> None:
        self._config = config
        self._group = group
        self._lost = lost
        self._tell = tell
        # The loop pays for each hand-over: this queue costs it less than half of one with a bound, which `_put` keeps.
        self._queue: queue.SimpleQueue[Shipped | None] = queue.SimpleQueue()
        self._condition = threading.Condition()
        self._shared = _Shared()
        self._submitted = self._waits = self._given = 0
        self._said_lost = False
        self._thread = threading.Thread(target=self._ship, name="rftfm-guard", daemon=True)
        self._thread.start()

    def report(self, step: StepRow | StepReport) -> None:
        """Queue a step; waits only when `guard.buffer` of them wait already.

        A row is made into its report by the shipping thread: that takes longer than everything else here.
        """
        self._put(step)

    def declare(self, declaration: Declaration) -> None:
        """Queue a declared change between two reports."""
        self._put(declaration)

    def boundary(self, step: StepId) -> Order | None:
        """Wait for the verdict on the last report, in `act`; the order that it led to, if any."""
        if self._config.mode is not GuardMode.ACT:
            self._say()
            return None
        began = time.perf_counter()
        with self._condition:
            self._condition.wait_for(self._settled, self._config.verdict_timeout_s)
            late = not self._settled()
            order, self._shared.order = self._shared.order, None
        self._say()
        if late:
            self._group.note_late(step, time.perf_counter() - began)
        if order is None or order.number <= self._given or self._shared.lost:
            return None
        # News of a late verdict name an order that waits; it may have been given since.
        self._given = order.number
        return order

    def begin(self, order: Order, step: StepId, probed: float) -> bool:
        """Journal that an order is about to be carried out; whether it may be.

        Raises:
            RftfmError: when that cannot be journalled: then nothing may be done.
        """
        permit = self._group.begin(order.number, step, probed)
        self._tell_all(permit.entries)
        return permit.granted

    def done(self, order: Order, step: StepId, result: OrderResult) -> None:
        """Journal what became of an order, and tell the monitor what it has changed.

        Raises:
            RftfmError: when that cannot be done: then nobody knows what is being trained.
        """
        self._tell_all(self._group.done(order.number, step, result).entries)

    def finish(self, last: StepId) -> GuardTotals:
        """End the thread and the journal."""
        self._queue.put(None)
        self._thread.join(FINISH.seconds)
        self._say()
        try:
            totals = self._group.finish(last, FINISH)
        except RftfmError as error:
            if not self._said_lost:
                self._lost(str(error))
            return GuardTotals(waits=self._waits)
        self._tell_all(totals.entries)
        return replace(totals, waits=self._waits)

    def _put(self, item: Shipped) -> None:
        self._submitted += 1
        if self._full():
            self._waits += 1
            with self._condition:
                self._condition.wait_for(lambda: not self._full())
        self._queue.put(item)

    def _full(self) -> bool:
        return self._queue.qsize() >= self._config.buffer

    def _settled(self) -> bool:
        return self._shared.settled >= self._submitted or bool(self._shared.lost)

    def _tell_all(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            self._tell(entry)

    def _say(self) -> None:
        """Hand on, from the loop's own thread, what was journalled; and once that the guard is lost."""
        with self._condition:
            entries, self._shared.entries = self._shared.entries, []
        self._tell_all(entries)
        if self._shared.lost and not self._said_lost:
            self._said_lost = True
            self._lost(self._shared.lost)

    def _ship(self) -> None:
        while (items := self._next()) is not None:
            with self._condition:
                # There is room again.
                self._condition.notify_all()
            if self._shared.lost:
                continue
            news, lost = News(()), ""
            try:
                reports = [report_of(item) if isinstance(item, StepRow) else item for item in items]
                news = self._group.judge(reports, self._config.policy_timeout_s)
            except Exception as error:  # noqa: BLE001 - whatever it is, the run goes on and is told
                lost = str(error) or repr(error)
            with self._condition:
                self._shared.settled += len(items)
                self._shared.entries += news.entries
                self._shared.order = news.order or self._shared.order
                self._shared.lost = lost
                self._condition.notify_all()

    def _next(self) -> Sequence[Shipped] | None:
        """All steps and declarations that wait, at least one, in their order; None at the end."""
        taken = [self._queue.get()]
        while taken[-1] is not None:
            try:
                taken.append(self._queue.get_nowait())
            except queue.Empty:
                break
        if taken[-1] is None and len(taken) > 1:
            # What came before the end is still judged.
            self._queue.put(None)
        items = [item for item in taken if item is not None]
        return items or None
