"""The guard of the loop: a thread ships reports, and a boundary waits for the orders that follow from them."""

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
from rftfm_ray.driver.unguarded import UnguardedJournal
from rftfm_ray.driver.waiting import GONE, OVER, WaitingDecisions
from rftfm_ray.errors import GuardError, GuardLostError, RftfmError, StateError
from rftfm_ray.incidents.messages import GuardTotals, News, OrderResult
from rftfm_ray.incidents.orders import Order
from rftfm_ray.incidents.state import Entry
from rftfm_ray.metrics import StepRow
from rftfm_ray.signals.schema import report_of
from rftfm_ray.types import Check, GuardMode, StepId
from rftfm_ray.verdicts import Declaration, StepReport

FINISH = Limit(30.0)
BEFORE = StepId(0, 0, 0)

Lost = Callable[[str], None]
Tell = Callable[[Entry], None]
Shipped = StepRow | StepReport | Declaration


class Guard(Protocol):
    """The interface of a guard to the loop."""

    def report(self, step: StepRow | StepReport) -> None:
        """Submit a finished step to be judged."""

    def note_probe(self, step: StepId, accuracy: float) -> None:
        """Submit the held-out accuracy before the first step, `step` being the last one before it."""

    def declare(self, declaration: Declaration) -> None:
        """Submit a declared change, which takes effect after the reports so far and before the next."""

    def boundary(self, step: StepId) -> Order | None:
        """The order from earlier reports; `step` is the current one. Each order is given once."""

    def asked(self) -> tuple[Check, ...]:
        """Checks that are asked for, beside those that are due at their cadence."""

    def begin(self, order: Order, step: StepId, probed: float, graded: int = 0) -> Order | None:
        """Journal the start of an order; returns the one to carry out, see `Permit`. Others as `ControllerActor`."""

    def done(self, order: Order, step: StepId, result: OrderResult) -> None:
        """Journal the result of a begun order."""

    def finish(self, last: StepId) -> GuardTotals:
        """Wait until everything is judged and journalled."""


class NoGuard:
    """`guard.mode=off`."""

    def report(self, step: StepRow | StepReport) -> None:
        """Ignore the step."""

    def note_probe(self, step: StepId, accuracy: float) -> None:
        """Ignore the accuracy."""

    def declare(self, declaration: Declaration) -> None:
        """Ignore the change."""

    def boundary(self, step: StepId) -> Order | None:
        """Give no order."""
        del step
        return None

    def asked(self) -> tuple[Check, ...]:
        """Ask for nothing."""
        return ()

    def begin(self, order: Order, step: StepId, probed: float, graded: int = 0) -> Order | None:
        """Permit no order."""
        del order, step, probed, graded
        return None

    def done(self, order: Order, step: StepId, result: OrderResult) -> None:
        """Ignore the result."""

    def finish(self, last: StepId) -> GuardTotals:
        """Return empty totals."""
        del last
        return GuardTotals()


@dataclass(slots=True)
class _Shared:
    """State that the shipping thread and the loop share, under one lock."""

    settled: int = 0
    order: Order | None = None
    checks: tuple[Check, ...] = ()
    lost: str = ""
    judged: StepId | None = None
    entries: list[Entry] = field(default_factory=list)


class LiveGuard:
    """Ships reports to the monitor and its assessments to the controller, and passes their orders to the loop.

    A guard that is lost for good is journalled and reported once through `lost`; `guard.on_lost` then ends the run at
    the next boundary, or training continues unguarded.
    """

    def __init__(self, config: GuardConfig, group: GuardGroup, lost: Lost, tell: Tell, start: StepId = BEFORE) -> None:
        self._config = config
        self._start = start
        self._group = group
        self._lost = lost
        self._tell = tell
        # A bounded queue would cost the loop twice as much per item, so `_put` enforces the bound.
        self._queue: queue.SimpleQueue[Shipped | None] = queue.SimpleQueue()
        self._condition = threading.Condition()
        self._shared = _Shared()
        self._submitted = self._waits = self._given = 0
        self._unguarded: UnguardedJournal | None = None
        self._waiting = WaitingDecisions(group, config.pause_timeout_s)
        self._thread = threading.Thread(target=self._ship, name="rftfm-guard", daemon=True)
        self._thread.start()

    def report(self, step: StepRow | StepReport) -> None:
        """Queue a step; blocks only when `guard.buffer` items are queued.

        The shipping thread converts a row to its report, because that takes longer than everything else here.
        """
        self._put(step)

    def note_probe(self, step: StepId, accuracy: float) -> None:
        """Send the held-out accuracy to the controller, which reads it before any report."""
        try:
            self._group.note_probe(step, accuracy)
        except (GuardError, StateError) as error:
            self._lose(f"the first probe could not be journalled: {error}")

    def declare(self, declaration: Declaration) -> None:
        """Queue a declared change between two reports."""
        self._put(declaration)

    def boundary(self, step: StepId) -> Order | None:
        """Wait for the verdict on the last report, and take a person's answers; returns the resulting order, if any.

        Nobody waits in the other modes than `act`, until a person has approved a remedy: it is verified like any other.

        Raises:
            GuardLostError: when the guard is lost for good and the run is not to continue unguarded.
            GuardPausedError: when a decision has waited for a person too long.
        """
        self._take_answers(step)
        if self._config.mode is not GuardMode.ACT and not self._waiting.approved:
            self._report_news(step)
            self._stop_if_lost(step)
            self._pause_if_due(step)
            return None
        began = time.perf_counter()
        with self._condition:
            self._condition.wait_for(self._settled, self._config.verdict_timeout_s)
            late = not self._settled()
            order, self._shared.order = self._shared.order, None
        self._report_news(step)
        self._stop_if_lost(step)
        if late:
            self._group.note_late(step, time.perf_counter() - began)
        if order is None or order.number <= self._given or self._shared.lost:
            self._pause_if_due(step)
            return None
        # The news of a late verdict may name an order that has been given since.
        self._given = order.number
        return order

    def continue_with(self, news: News, entries: Sequence[Entry]) -> None:
        """Begin where a paused run has ended: with the entries of its journal, and an order that a person approved."""
        for entry in (*entries, *news.entries):
            self._waiting.note(entry)
        self._shared.order = news.order
        self._shared.checks = news.checks
        self._tell_all(news.entries)

    def _take_answers(self, step: StepId) -> None:
        """Follow what people have answered to decisions that wait, or say why not."""
        if self._shared.lost:
            self._waiting.decline(GONE)
            return
        try:
            taken = self._waiting.take(step)
        except (GuardError, StateError) as error:
            self._lose(f"a person's answer could not be journalled: {error}")
            return
        with self._condition:
            self._shared.entries += taken.entries
            self._shared.order = taken.order or self._shared.order

    def _pause_if_due(self, step: StepId) -> None:
        if self._shared.lost:
            return
        try:
            paused = self._waiting.pause(step)
        except (GuardError, StateError) as error:
            self._lose(f"the run could not be paused: {error}")
            return
        if paused is not None:
            entries, ending = paused
            self._tell_all(entries)
            raise ending

    def asked(self) -> tuple[Check, ...]:
        """Checks that the verdict on the last report asks for."""
        return () if self._shared.lost else self._shared.checks

    def begin(self, order: Order, step: StepId, probed: float, graded: int = 0) -> Order | None:
        """Journal that an order is about to be carried out; returns the one that may be, see `Permit`.

        None may be when the guard is lost for good: the next boundary says so.

        Raises:
            RecordError: when the journal cannot be written.
        """
        try:
            permit = self._group.begin(order.number, step, probed, graded)
        except (GuardError, StateError) as error:
            self._lose(f"order {order.number} was not carried out: {error}")
            return None
        self._tell_all(permit.entries)
        if permit.order is not None:
            self._given = permit.order.number
        return permit.order

    def done(self, order: Order, step: StepId, result: OrderResult) -> None:
        """Journal the result of an order, and declare its change to the monitor.

        Raises:
            RecordError: when the journal cannot be written; the state of the training is then unknown.
        """
        try:
            settlement = self._group.done(order.number, step, result)
        except (GuardError, StateError) as error:
            ended = f"failed ({result.error})" if result.error else "was carried out"
            self._lose(f"order {order.number} {ended}, and that could not be journalled: {error}")
            return
        self._tell_all(settlement.entries)

    def finish(self, last: StepId) -> GuardTotals:
        """End the thread and the journal; after the guard was lost, the totals are those of the journal."""
        self._waiting.decline(OVER)
        self._queue.put(None)
        self._thread.join(FINISH.seconds)
        self._report_news(last)
        if self._unguarded is None:
            try:
                totals = self._group.finish(last, FINISH)
            except RftfmError as error:
                self._lose(str(error))
                self._report_news(last)
            else:
                self._tell_all(totals.entries)
                return replace(totals, waits=self._waits)
        totals = self._unguarded.finish(last) if self._unguarded is not None else GuardTotals()
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
            self._waiting.note(entry)
            self._tell(entry)

    def _report_news(self, step: StepId) -> None:
        """Pass on journal entries from the loop's own thread, and once the loss of the guard."""
        with self._condition:
            entries, self._shared.entries = self._shared.entries, []
        self._tell_all(entries)
        if self._shared.lost and self._unguarded is None:
            self._group.stop()
            self._unguarded = UnguardedJournal(self._group.journal, self._shared.judged or self._start)
            self._tell_all(self._unguarded.note(step, self._shared.lost))
            self._lost(self._shared.lost)

    def _stop_if_lost(self, step: StepId) -> None:
        default = "stop" if self._config.mode is GuardMode.ACT else "continue"
        if self._unguarded is not None and (self._config.on_lost or default) == "stop":
            raise GuardLostError(
                f"The guard was lost before step {step.step} and could not be brought back ({self._shared.lost}); "
                "guard.on_lost=continue would train on unguarded."
            )

    def _lose(self, why: str) -> None:
        with self._condition:
            self._shared.lost = self._shared.lost or why

    def _ship(self) -> None:
        while (items := self._next()) is not None:
            with self._condition:
                # The queue has room again.
                self._condition.notify_all()
            if self._shared.lost:
                continue
            news, lost = News(()), ""
            try:
                reports = [report_of(item) if isinstance(item, StepRow) else item for item in items]
                news = self._group.judge(reports, self._config.policy_timeout_s)
            except Exception as error:  # noqa: BLE001 - the run continues after any error, which is reported
                lost = str(error) or repr(error)
            with self._condition:
                self._shared.settled += len(items)
                if not lost:
                    judged = [item.id for item in reports if isinstance(item, StepReport)]
                    self._shared.judged = (self._shared.judged, *judged)[-1]
                self._shared.entries += news.entries
                self._shared.order = news.order or self._shared.order
                self._shared.checks = news.checks
                self._shared.lost = self._shared.lost or lost
                self._condition.notify_all()

    def _next(self) -> Sequence[Shipped] | None:
        """All queued steps and declarations in their order, at least one; None at the end."""
        taken = [self._queue.get()]
        while taken[-1] is not None:
            try:
                taken.append(self._queue.get_nowait())
            except queue.Empty:
                break
        if taken[-1] is None and len(taken) > 1:
            # Items before the end are still judged.
            self._queue.put(None)
        items = [item for item in taken if item is not None]
        return items or None
