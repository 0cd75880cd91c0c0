"""A guard whose actors live in this process and can be killed anywhere, and the story of an incident for it."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from rftfm_ray.actors import controller as controller_module
from rftfm_ray.actors import guards as guards_module
from rftfm_ray.actors import monitor as monitor_module
from rftfm_ray.actors import recovery as recovery_module
from rftfm_ray.actors.calls import Limit, Pending
from rftfm_ray.actors.controller import ControllerActor
from rftfm_ray.actors.guards import GuardGroup
from rftfm_ray.actors.monitor import MonitorActor
from rftfm_ray.actors.recovery import Recoverable
from rftfm_ray.actors.roles import Role
from rftfm_ray.diagnosis.assessor import Assessor
from rftfm_ray.diagnosis.diagnoser import FaultDiagnoser
from rftfm_ray.errors import GuardError, RftfmError
from rftfm_ray.incidents.messages import GuardTotals, OrderResult
from rftfm_ray.incidents.state import Entry, EntryKind
from rftfm_ray.policies.api import PolicyContext
from rftfm_ray.policies.safety import SafePolicy
from rftfm_ray.signals.schema import INDEX, SIGNALS
from rftfm_ray.telemetry.journal import JOURNAL, Journal, read_journal
from rftfm_ray.types import Levers, StepId
from rftfm_ray.verdicts import Decision, Outcome, Remedy, StepReport
from tests.unit.diagnosis.scripted import ScriptedMonitor, alarm
from tests.unit.incidents.managed import PLAIN, USUAL

ROLES = {name: Role("run", name, 0, "") for name in ("monitor", "controller")}
STORY_STEPS = 26
# That the controller has started and what its policy remembers: at the start a run fails as a whole.
START_LINES = 2
RETRY = Remedy("retry", Levers(tool_retries=2))
BACK = Remedy("back", Levers(lr_scale=0.5), rollback=True)


class Killed(BaseException):
    """The process of an actor has died in the middle of a call."""


@dataclass
class Cut:
    """Where an actor is killed: the `number`th time that `point` is reached; 0 for never."""

    point: str = ""
    number: int = 0
    times: int = 1
    reached: dict[str, int] = field(default_factory=dict)

    def reach(self, point: str) -> None:
        """Die here, if this is the place; after that at the same point again until it was `times`."""
        self.reached[point] = self.reached.get(point, 0) + 1
        if point == self.point and self.number <= self.reached[point] < self.number + self.times:
            raise Killed(point)


@dataclass(frozen=True)
class Result:
    """The result of a call as it crosses a process border, or the error that it ended with."""

    value: bytes = b""
    error: Exception | None = None


class LocalActor:
    """The handle of an actor in this process."""

    def __init__(self, make: Callable[[], Any], cut: Cut, role: Role) -> None:
        self._actor = make()
        self._cut, self._role = cut, role
        self.dead = False

    def __getattr__(self, method: str) -> LocalMethod:
        return LocalMethod(self, method)

    def call(self, method: str, arguments: tuple[object, ...]) -> Result:
        """Make a call, in which the actor may die."""
        if self.dead:
            return Result(error=GuardError(f"{self._role.name} died."))
        taken = [pickle.loads(a.value) if isinstance(a, Result) else a for a in arguments]  # noqa: S301
        try:
            self._cut.reach(f"before {method}")
            value = getattr(self._actor, method)(*taken)
            self._cut.reach(f"after {method}")
        except Killed:
            self.dead = True
            return Result(error=GuardError(f"{self._role.name} died."))
        except RftfmError as error:
            return Result(error=error)
        return Result(pickle.dumps(value))


@dataclass(frozen=True)
class LocalMethod:
    """A method of such a handle."""

    actor: LocalActor
    name: str

    def remote(self, *arguments: object) -> Result:
        """Call it."""
        return self.actor.call(self.name, arguments)


class Persistent:
    """A policy with a state of its own: a retry, then a rollback, then nothing."""

    def __init__(self) -> None:
        self.decided = 0
        self.told: list[str] = []

    def decide(self, ctx: PolicyContext) -> Decision:
        """By the number of remedies that were tried."""
        self.decided += 1
        remedy = (RETRY, BACK, None)[min(len(ctx.tried), 2)]
        return Decision(remedy, "because", (("asked", 1 + int(dict(ctx.state).get("asked", 0))),))

    def observe(self, outcome: Outcome) -> None:
        """Remember what came of a remedy."""
        self.told.append(f"{outcome.remedy} {outcome.kind} {outcome.abandoned}")

    def state_dict(self) -> dict[str, Any]:
        """What it remembers."""
        return {"decided": self.decided, "told": list(self.told)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.decided, self.told = state["decided"], list(state["told"])

    def metrics(self) -> dict[str, float]:
        """How often it has decided."""
        return {"decided": self.decided}


def wait_for_local(calls: Sequence[Pending[Any]], limit: Limit, doing: str) -> list[Any]:
    """Results of local calls."""
    del limit, doing
    results: list[Any] = []
    for call in calls:
        result = call.reference
        assert isinstance(result, Result)
        if result.error is not None:
            raise result.error
        results.append(pickle.loads(result.value))  # noqa: S301
    return results


class CutJournal(Journal):
    """A journal in whose process one may die before, in the middle of, and after every line."""

    cut: Cut

    def write(self, entry: Entry) -> None:
        """Write a line, or a part of it, or none."""
        self.cut.reach("before a line")
        try:
            self.cut.reach("in a line")
        except Killed:
            with self._path.open("ab") as file:
                file.write(b'{"seq": ')
            raise
        super().write(entry)
        self.cut.reach("after a line")


def make_group(monkeypatch: pytest.MonkeyPatch, cut: Cut) -> GuardGroup:
    """A guard of actors in this process."""
    for module in (controller_module, monitor_module):
        monkeypatch.setattr(module, "rename_process", lambda role: None)
    symptoms = [alarm("tool_error_rate", 8)]
    monkeypatch.setattr(
        monitor_module,
        "build_assessor",
        lambda plan, diagnosis: Assessor(ScriptedMonitor(lambda step: symptoms * (step >= 8)), FaultDiagnoser(), 5, 4),
    )
    CutJournal.cut = cut
    monkeypatch.setattr(controller_module, "Journal", CutJournal)
    for module in (guards_module, recovery_module):
        monkeypatch.setattr(module, "wait_for", wait_for_local)
    monkeypatch.setattr("ray.kill", lambda handle: setattr(handle, "dead", True))
    monkeypatch.setattr(recovery_module, "wait_for_name", lambda name: None)

    def start(role: Role) -> Any:
        if role.kind == "monitor":
            return LocalActor(lambda: MonitorActor(role, cast("Any", None)), cut, role)
        # A new process has a new policy.
        return LocalActor(lambda: ControllerActor(role, PLAIN, SafePolicy(Persistent(), "mine", 30.0)), cut, role)

    monitor, controller = (Recoverable(role, lambda role=role: start(role)) for role in ROLES.values())  # type: ignore[misc]
    return GuardGroup(monitor, controller)


@dataclass
class Story:
    """A driver that trains and carries out orders, and what it has seen."""

    group: GuardGroup
    folder: Path
    told: list[Entry] = field(default_factory=list)
    carried_out: list[int] = field(default_factory=list)
    totals: GuardTotals = field(default_factory=GuardTotals)
    position: StepId = StepId(0, 0, 0)  # noqa: RUF009 - it is frozen

    def run(self) -> Story:
        """Take the run to its end."""
        self.group.attach(self.folder / JOURNAL, self.position, Levers())
        while self.position.paid_step < STORY_STEPS:
            self._step()
        self.totals = self.group.finish(self.position, Limit(1.0))
        self.told += self.totals.entries
        return self

    def _step(self) -> None:
        last = self.position
        self.position = StepId(last.attempt, last.step + 1, last.paid_step + 1)
        news = self.group.judge([self._report()], 1.0)
        self.told += news.entries
        if self.position.paid_step == 15:
            self.group.note_late(self.position, 0.5)
        if news.order is None or news.order.number in self.carried_out:
            return
        order, following = news.order, StepId(last.attempt, last.step + 2, last.paid_step + 2)
        permit = self.group.begin(order.number, following, 0.2)
        self.told += permit.entries
        assert permit.granted
        self.carried_out.append(order.number)
        settlement = self.group.done(order.number, following, OrderResult(0.5))
        self.told += settlement.entries
        if order.restore_step is not None:
            self.position = StepId(last.attempt + 1, order.restore_step, following.paid_step)

    def _report(self) -> StepReport:
        values = dict.fromkeys(INDEX, 0.0) | USUAL | {"probe_accuracy": 0.9, "tool_error_rate": 0.5}
        values |= {"tool_error_rate": 0.0} if self.position.step < 8 else {}
        return StepReport(
            self.position, self.position.paid_step, tuple(values[s.name] for s in SIGNALS), (0, 5, self.position.step)
        )

    @property
    def entries(self) -> tuple[Entry, ...]:
        """The journal."""
        return read_journal(self.folder / JOURNAL)[0]


def without_restorations(entries: Sequence[Entry]) -> list[tuple[Any, ...]]:
    """What entries say, without those that an actor came back, and without their numbers."""
    return [
        (e.kind, e.id, e.incident, tuple((k, v) for k, v in e.fields if v == v))
        for e in entries
        if e.kind is not EntryKind.RESTORED
    ]
