"""The driver's side of a trial of `benchmarks.guard_kills`: it notes what the guard did, and kills between its calls.

Methods of the driver are replaced for the length of a run by ones that call them; the shipped code has no hook for it.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

from ray.actor import ActorHandle

from benchmarks.guard_kills_points import (
    CONTROLLER,
    MONITOR,
    RANDOM,
    SAVE_STEPS,
    Arms,
    Kill,
    KillableController,
    KillableMonitor,
    wait_for_random,
)
from rftfm_ray.actors import guards
from rftfm_ray.actors.controller import ControllerActor
from rftfm_ray.actors.guards import GuardGroup
from rftfm_ray.actors.monitor import MonitorActor
from rftfm_ray.actors.recovery import Call, Recoverable
from rftfm_ray.actors.roles import Role
from rftfm_ray.driver.guard import LiveGuard
from rftfm_ray.driver.remediation import RemedyExecutor
from rftfm_ray.driver.session import Session
from rftfm_ray.incidents.messages import News
from rftfm_ray.incidents.orders import Order
from rftfm_ray.incidents.state import Entry
from rftfm_ray.metrics import StepRow
from rftfm_ray.types import Levers, StepId
from rftfm_ray.verdicts import Declaration, StepReport

KILLABLE: dict[type, type] = {MonitorActor: KillableMonitor, ControllerActor: KillableController}


@dataclass(frozen=True, slots=True)
class Delays:
    """Longest delays of random kills, in seconds: a step, and a verdict. `seed` draws from them."""

    step_s: float = 1.0
    verdict_s: float = 0.01
    seed: int = 0

    def delay(self, kill: Kill) -> float:
        """The delay of a kill, which is drawn evenly."""
        longest = self.step_s if kill.point == "any" else self.verdict_s
        return random.Random(f"guard_kills-{self.seed}-{kill.name}").uniform(0, longest)


@dataclass(slots=True)
class Watch:
    """What a driver sees of its guard in one run, and the kills it makes.

    Attributes:
        arms: the kills of the trial; None for a run without a kill, which has the shipped actors.
        kills: those that are planned.
        delays: of random kills.
        told: numbers of the entries that the run passed on.
        carried: numbers of the orders that were carried out to their end.
        unjudged: boundaries that were passed while a report before them had no verdict.
        submitted: steps that were reported.
        judged: steps whose report got a verdict.
        verdicts_s: seconds of every verdict.
        session: of the run.
        order: number of the order that is being carried out; 0 for none.
    """

    arms: Arms | None = None
    kills: tuple[Kill, ...] = ()
    delays: Delays = field(default_factory=Delays)
    told: list[int] = field(default_factory=list)
    carried: list[int] = field(default_factory=list)
    unjudged: list[StepId] = field(default_factory=list)
    submitted: list[StepId] = field(default_factory=list)
    judged: set[StepId] = field(default_factory=set)
    verdicts_s: list[float] = field(default_factory=list)
    session: Session | None = None
    order: int = 0

    def tell(self, entry: Entry) -> None:
        """Note an entry that the run passes on."""
        self.told.append(entry.seq)

    def stepped(self, row: StepRow) -> None:
        """Pass the end of a step."""
        self.at("stepped", row.id.paid_step)

    def at(self, point: str, key: object) -> None:
        """Pass a point between two calls of the guard's actors."""
        if self.arms is not None:
            for victim in (MONITOR, CONTROLLER):
                self.arms.kill(Kill(victim, point, str(key)))

    def start_random(self, paid_step: int) -> None:
        """Start the clocks of the random kills of a step."""
        for kill in self.kills:
            if self.arms is not None and kill.point in RANDOM and kill.key == str(paid_step):
                arguments = (kill, self.arms, self.delays.delay(kill))
                threading.Thread(target=wait_for_random, args=arguments, daemon=True).start()


@contextlib.contextmanager
def watched(watch: Watch, folder: Path) -> Iterator[None]:
    """Runs of this process have `watch` see and kill; `folder` is that of its kills."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(guards, "SAVE_STEPS", SAVE_STEPS))
        if watch.arms is not None:
            stack.enter_context(_killable_actors(folder))
        for part in (_watched_guard, _watched_execution, _watched_calls):
            stack.enter_context(part(watch))
        yield


@contextlib.contextmanager
def _killable_actors(folder: Path) -> Iterator[None]:
    create = guards._create

    def create_killable(kind: type, role: Role, *arguments: object) -> ActorHandle:
        return create(KILLABLE[kind], role, *arguments, str(folder))

    with mock.patch.object(guards, "_create", create_killable):
        yield


@contextlib.contextmanager
def _watched_guard(watch: Watch) -> Iterator[None]:
    report, boundary, begin, judge = LiveGuard.report, LiveGuard.boundary, LiveGuard.begin, GuardGroup.judge

    def watched_report(guard: LiveGuard, step: StepRow | StepReport) -> None:
        watch.submitted.append(step.id)
        watch.start_random(step.id.paid_step)
        report(guard, step)

    def watched_judge(group: GuardGroup, items: Sequence[StepReport | Declaration], policy_timeout_s: float) -> News:
        began = time.perf_counter()
        news = judge(group, items, policy_timeout_s)
        watch.verdicts_s.append(time.perf_counter() - began)
        watch.judged.update(item.id for item in items if isinstance(item, StepReport))
        return news

    def watched_boundary(guard: LiveGuard, step: StepId) -> Order | None:
        order = boundary(guard, step)
        if not watch.judged.issuperset(watch.submitted):
            watch.unjudged.append(step)
        if order is not None:
            watch.at("ordered", order.number)
        return order

    def watched_begin(guard: LiveGuard, order: Order, step: StepId, probed: float, graded: int) -> Order | None:
        begun = begin(guard, order, step, probed, graded)
        if begun is not None:
            watch.at("begun", begun.number)
        return begun

    with (
        mock.patch.object(LiveGuard, "report", watched_report),
        mock.patch.object(LiveGuard, "boundary", watched_boundary),
        mock.patch.object(LiveGuard, "begin", watched_begin),
        mock.patch.object(GuardGroup, "judge", watched_judge),
    ):
        yield


@contextlib.contextmanager
def _watched_execution(watch: Watch) -> Iterator[None]:
    carry_out, rollback, move_levers = RemedyExecutor.carry_out, Session.rollback, Session.move_levers
    prepare = Session.resync

    def watched_carry_out(executor: RemedyExecutor, order: Order, step: StepId) -> str:
        watch.order = order.number
        checkpoint = carry_out(executor, order, step)
        watch.order = 0
        watch.carried.append(order.number)
        watch.at("applied", order.number)
        return checkpoint

    def watched_rollback(session: Session, step: int, skip_batches: int, paid_step: int) -> None:
        rollback(session, step, skip_batches, paid_step)
        watch.at("restored", watch.order)

    def watched_move(session: Session, levers: Levers) -> None:
        move_levers(session, levers)
        watch.at("moved", watch.order)

    def watched_resync(session: Session) -> None:
        # Every run begins with it.
        watch.session = session
        prepare(session)

    with (
        mock.patch.object(RemedyExecutor, "carry_out", watched_carry_out),
        mock.patch.object(Session, "rollback", watched_rollback),
        mock.patch.object(Session, "move_levers", watched_move),
        mock.patch.object(Session, "resync", watched_resync),
    ):
        yield


@contextlib.contextmanager
def _watched_calls(watch: Watch) -> Iterator[None]:
    record = Recoverable.record

    def watched_record(actor: Recoverable, call: Call) -> None:
        # Its result has come, and the driver has done nothing with it.
        if call.method == "assess":
            (items,) = call.arguments
            assert isinstance(items, Sequence)
            watch.at("assessed", items[-1].id.paid_step)
        elif call.method == "done":
            watch.at("untold", call.arguments[0])
        record(actor, call)

    with mock.patch.object(Recoverable, "record", watched_record):
        yield
