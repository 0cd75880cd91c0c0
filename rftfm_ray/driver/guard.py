"""The guard as the loop sees it: reports go off by a thread of their own, and a boundary waits for what they led to."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from rftfm_ray.actors.calls import wait_for
from rftfm_ray.actors.group import ActorGroup
from rftfm_ray.config import GuardConfig
from rftfm_ray.errors import RftfmError
from rftfm_ray.incidents.messages import Change, GuardTotals, News
from rftfm_ray.incidents.state import Entry
from rftfm_ray.metrics import StepRow
from rftfm_ray.signals.schema import report_of
from rftfm_ray.types import GuardMode, Position, StepId
from rftfm_ray.verdicts import Declaration, Order, StepReport

FINISH_TIMEOUT_S = 30.0
# A decision may ask the learner for its snapshots, and that question waits for the update under way.
JUDGE_TIMEOUT_S = 600.0
# Carrying out an order moves weights to every rollout actor and probes parity.
EXECUTE_TIMEOUT_S = 1800.0

Lost = Callable[[str], None]
Tell = Callable[[Entry], None]
Handed = StepRow | StepReport | Declaration


class Guard(Protocol):
    """What the loop needs of a guard."""

    def report(self, step: StepRow | StepReport) -> None:
        """Hand a finished step over to be judged."""

    def declare(self, declaration: Declaration) -> None:
        """Say that something is changed on purpose: after the reports so far, and before the next."""

    def regroup(self, group: ActorGroup) -> None:
        """An actor of the run was replaced."""

    def boundary(self, stand: Position, following: StepId) -> Change | None:
        """What earlier reports led to, carried out. `stand`: where the run stands; `following`: the step under way."""

    def finish(self, last: StepId) -> GuardTotals:
        """Wait until everything is judged and journalled."""


class NoGuard:
    """`guard.mode=off`."""

    def report(self, step: StepRow | StepReport) -> None:
        """Nobody judges."""

    def declare(self, declaration: Declaration) -> None:
        """Nobody need know."""

    def regroup(self, group: ActorGroup) -> None:
        """Nobody gives orders."""

    def boundary(self, stand: Position, following: StepId) -> Change | None:
        """Nothing ever changes."""
        del stand, following
        return None

    def finish(self, last: StepId) -> GuardTotals:
        """There were no incidents."""
        del last
        return GuardTotals(0, 0)


@dataclass(slots=True)
class _Shared:
    """What the shipping thread and the loop have in common, under one lock."""

    settled: int = 0
    order: Order | None = None
    lost: str = ""
    entries: list[Entry] = field(default_factory=list)


class LiveGuard:
    """Ships reports to the monitor and its assessments to the controller; carries orders out at boundaries.

    A guard that is lost does not stop the run: it is said once through `lost`, and training goes on unguarded. An
    order that fails half way does stop it, for then nobody knows what is being trained.
    """

    def __init__(self, config: GuardConfig, monitor: Any, controller: Any, lost: Lost, tell: Tell) -> None:
        self._config = config
        self._monitor = monitor
        self._controller = controller
        self._lost = lost
        self._tell = tell
        # The loop pays for each hand-over: this queue costs it less than half of one with a bound, which `_put` keeps.
        self._queue: queue.SimpleQueue[Handed | None] = queue.SimpleQueue()
        self._condition = threading.Condition()
        self._shared = _Shared()
        self._submitted = self._waits = 0
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

    def regroup(self, group: ActorGroup) -> None:
        """Calls of one caller reach an actor in order: an order that comes later goes to the new actors."""
        self._controller.regroup.remote(group)

    def boundary(self, stand: Position, following: StepId) -> Change | None:
        """Wait for the verdict on the last report, in `act`, and carry out what it led to."""
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
            self._controller.note_late.remote(following, time.perf_counter() - began)
        if order is None or self._shared.lost:
            return None
        asked = self._controller.execute.remote(order.number, stand, following)
        news: News = wait_for([asked], EXECUTE_TIMEOUT_S, f"carrying out the remedy {order.remedy}")[0]
        for entry in news.entries:
            self._tell(entry)
        return news.change

    def finish(self, last: StepId) -> GuardTotals:
        """End the thread and the journal."""
        self._queue.put(None)
        self._thread.join(FINISH_TIMEOUT_S)
        self._say()
        try:
            ended = [self._controller.finish.remote(last)]
            totals: GuardTotals = wait_for(ended, FINISH_TIMEOUT_S, "ending the journal")[0]
        except RftfmError as error:
            if not self._said_lost:
                self._lost(str(error))
            return GuardTotals(0, 0, waits=self._waits)
        for entry in totals.entries:
            self._tell(entry)
        return replace(totals, waits=self._waits)

    def _put(self, item: Handed) -> None:
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

    def _say(self) -> None:
        """Hand on, from the loop's own thread, what was journalled; and once that the guard is lost."""
        with self._condition:
            entries, self._shared.entries = self._shared.entries, []
        for entry in entries:
            self._tell(entry)
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
                # The assessments go from actor to actor; only news comes back here.
                reports = [report_of(item) if isinstance(item, StepRow) else item for item in items]
                asked = self._controller.consider.remote(self._monitor.assess.remote(reports))
                news = wait_for([asked], JUDGE_TIMEOUT_S, "judging a step")[0]
            except Exception as error:  # noqa: BLE001 - whatever it is, the run goes on and is told
                lost = str(error) or repr(error)
            with self._condition:
                self._shared.settled += len(items)
                self._shared.entries += news.entries
                self._shared.order = news.order or self._shared.order
                self._shared.lost = lost
                self._condition.notify_all()

    def _next(self) -> Sequence[Handed] | None:
        """All steps and declarations that wait, at least one, in their order; None at the end."""
        found = [self._queue.get()]
        while found[-1] is not None:
            try:
                found.append(self._queue.get_nowait())
            except queue.Empty:
                break
        if found[-1] is None and len(found) > 1:
            # What came before the end is still judged.
            self._queue.put(None)
        items = [item for item in found if item is not None]
        return items or None
