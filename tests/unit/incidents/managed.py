"""A run as its incident manager sees it: steps that are judged, and orders that are carried out between them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from rftfm_ray.incidents.ledger import Ledger
from rftfm_ray.incidents.manager import IncidentManager
from rftfm_ray.incidents.orders import Order
from rftfm_ray.incidents.settings import IncidentSettings
from rftfm_ray.incidents.state import Entry, EntryKind, Incident
from rftfm_ray.policies.api import Policy, PolicyContext
from rftfm_ray.policies.safety import SafePolicy
from rftfm_ray.signals.schema import INDEX, SIGNALS
from rftfm_ray.taxonomy import family_of
from rftfm_ray.types import GuardMode, Levers, Settings, StepId
from rftfm_ray.verdicts import (
    Assessment,
    Decision,
    DeclaredChange,
    Diagnosis,
    Evidence,
    Family,
    IncidentState,
    Remedy,
    StepReport,
    Symptom,
)

Answer = Remedy | None | Exception
VERIFY, TIMEOUT, RETURN_AFTER = 3, 8, 5
NOMINAL = Settings(1e-3, 0.02, 0.2, 0.2, 0.0, 1.0, 1, None, False, 1.0, 0.95, 1e-3, False)
PLAIN = IncidentSettings(
    mode=GuardMode.ACT, act_on=tuple(Family), verify_steps=VERIFY, verify_timeout_steps=TIMEOUT,
    cooldown_steps=0, budget=4, return_after=RETURN_AFTER, halts=False, probe_size=256, nominal=NOMINAL,
)  # fmt: skip
FIRST = Remedy("first", Levers(tool_instance=1))
SECOND = Remedy("second", Levers(tool_retries=2))
# What a broken tool does to the signals.
FAILING = {"tool_error_rate": 0.5}
USUAL = {
    "probe_accuracy": 0.8, "lr": 1e-3, "update_ratio": 0.01, "grad_norm": 1.0,
    "update_gain": 1.0, "changed_rate": 1.0, "turns_mean": 1.0, "rollout_ratio_mean": 1.0, "gap_slope": 1.0,
    "gap_zero_share": 1.0,
}  # fmt: skip


class Script:
    """A policy that gives its answers in their order, and its last one from then on.

    One that `counts` leaves the number of times that it was asked in the state of its decisions.
    """

    def __init__(self, answers: Sequence[Answer]) -> None:
        self.answers = list(answers)
        self.counts = False
        self.seen: list[PolicyContext] = []

    def decide(self, ctx: PolicyContext) -> Decision:
        """The next answer."""
        self.seen.append(ctx)
        answer = self.answers[min(len(self.seen), len(self.answers)) - 1]
        if isinstance(answer, Exception):
            raise answer
        why = f"{answer.name} is next" if answer else "nothing is left"
        return Decision(answer, why, (("asked", len(self.seen)),) if self.counts else ())


class ManagedRun:
    """An incident manager with what the controller makes around it."""

    def __init__(
        self,
        *answers: Answer,
        snapshots: tuple[int, ...] | Callable[[], tuple[int, ...]] = (0,),
        levers: Levers | None = None,
        policy: Policy | None = None,
        **changed: Any,
    ) -> None:
        self.entries: list[Entry] = []
        self.script = Script(answers)
        self.ledger = Ledger(self.entries.append)
        asked = SafePolicy(policy or self.script, "script", 30.0)
        available = snapshots if callable(snapshots) else lambda: snapshots
        self.manager = IncidentManager(replace(PLAIN, **changed), asked, available, self.ledger)
        self.place = StepId(0, 0, 0)
        self.begun: Order | None = None
        if levers is not None:
            self.manager.start(self.place, levers)

    def report(self, **signals: float) -> StepReport:
        """A report of the step at which the run is."""
        values = dict.fromkeys(INDEX, 0.0) | USUAL | signals
        assert len(values) == len(SIGNALS), "no such signal"
        return StepReport(self.place, self.place.paid_step, tuple(values[signal.name] for signal in SIGNALS))

    def tick(self, diagnosis: Diagnosis | None = None, **signals: float) -> Order | None:
        """One more step is judged."""
        self.place = StepId(self.place.attempt, self.place.step + 1, self.place.paid_step + 1)
        return self.manager.consider(Assessment(self.report(**signals), diagnosis))

    def begin_fault(self, diagnosis: Diagnosis | None = None, **signals: float) -> Order | None:
        """The first step of a fault."""
        return self.tick(diagnosis or fault(), **(signals or FAILING))

    def pass_steps(self, steps: int, diagnosis: Diagnosis | None = None, **signals: float) -> None:
        """Several equal steps that lead to no order."""
        for _ in range(steps):
            assert self.tick(diagnosis, **signals) is None

    @property
    def following(self) -> StepId:
        """The step under way."""
        return StepId(self.place.attempt, self.place.step + 1, self.place.paid_step + 1)

    @property
    def pending(self) -> Order:
        """The order that waits for a boundary."""
        order = self.manager.pending
        assert order is not None
        return order

    def begin(self, probed: float = math.nan) -> bool:
        """Announce the pending order at the boundary of the step under way; whether it is the one that begins."""
        pending = self.pending
        self.begun = self.manager.begin(pending, self.following, probed)
        return self.begun == pending

    def done(self) -> DeclaredChange:
        """The order that was begun has been carried out."""
        order = self.begun
        assert order is not None
        change = self.manager.done(order, self.following, 0.5)
        if order.restore_step is not None:
            # The step under way has been paid for and is thrown away.
            self.place = StepId(self.place.attempt + 1, order.restore_step, self.place.paid_step + 1)
        return change

    def carry_out(self, probed: float = 0.1) -> Order:
        """Do what the pending order says, at the boundary of the step under way; a probe shows harm."""
        order = self.pending
        assert self.begin(probed)
        self.done()
        return order

    def drop(self) -> None:
        """The probe does not confirm the pending order."""
        assert not self.begin(0.8)

    def remedied(self, diagnosis: Diagnosis, harm: dict[str, float], **source: float) -> None:
        """An incident from its first step to the step before its remedy is judged."""
        assert self.tick(diagnosis, **harm) is not None
        self.carry_out()
        self.pass_steps(VERIFY - 1, None, **source)

    @property
    def incident(self) -> Incident:
        """The newest incident."""
        return self.manager.state.incidents[-1]

    def now(self) -> IncidentState:
        """The newest incident's state."""
        return self.incident.state

    @property
    def kinds(self) -> list[EntryKind]:
        """Kinds of the entries, in their order."""
        return [entry.kind for entry in self.entries]

    def last(self, kind: EntryKind) -> Entry:
        """The newest entry of a kind."""
        return next(entry for entry in reversed(self.entries) if entry.kind is kind)


def fault(code: str = "TE-1", probability: float = 0.9, onset: int = 6, signals: Sequence[str] = ()) -> Diagnosis:
    """A diagnosis, with alarms of some signals."""
    symptoms = tuple(
        Symptom("test", name, Evidence.CHANNEL, True, 1, 1.0, 0.0, 9.0, onset, onset, f"{name} is high")
        for name in signals
    )
    return Diagnosis(code, family_of(code), probability, (), symptoms, onset, onset, f"{code} it is")


def started(
    *answers: Answer, snapshots: tuple[int, ...] | Callable[[], tuple[int, ...]] = (0, 5), **changed: Any
) -> ManagedRun:
    """A run in which five usual steps have passed."""
    run = ManagedRun(*answers, snapshots=snapshots, **changed)
    run.pass_steps(5)
    return run
