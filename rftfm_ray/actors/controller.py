"""ControllerActor: a thin shell over policies. Journals, then acts, through the one executor that it was given."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from rftfm_ray.actors.roles import Role, rename_process
from rftfm_ray.incidents.ledger import Ledger
from rftfm_ray.incidents.manager import IncidentManager
from rftfm_ray.incidents.messages import Change, GuardTotals, News
from rftfm_ray.incidents.settings import IncidentSettings
from rftfm_ray.incidents.state import Entry
from rftfm_ray.policies.safety import SafePolicy
from rftfm_ray.telemetry.journal import Journal
from rftfm_ray.telemetry.metrics import GuardGauges, StateGauge
from rftfm_ray.types import ActorState, Levers, Position, StepId
from rftfm_ray.verdicts import Assessment, Declaration, DeclaredChange, Order

if TYPE_CHECKING:
    from rftfm_ray.actors.group import ActorGroup


class Executor(Protocol):
    """The effects of an order, in one place."""

    def snapshots(self) -> tuple[int, ...]:
        """Steps that the learner can go back to."""

    def probe(self, stand: Position) -> float:
        """Held-out accuracy of the weights that are served now."""

    def carry_out(self, order: Order, stand: Position, following: StepId) -> tuple[Position | None, str]:
        """Do what an order says; the new place of the run after a rollback, and a checkpoint where it ends."""

    def tell_monitor(self, change: DeclaredChange, rewound_to: int | None) -> None:
        """A change was made on purpose."""

    def regroup(self, group: ActorGroup) -> None:
        """Orders go to these actors from now on."""


class ControllerActor:
    """Takes assessments, gives orders, and carries them out at a boundary of the loop."""

    def __init__(self, role: Role, settings: IncidentSettings, policy: SafePolicy) -> None:
        rename_process(role)
        self._role = role
        self._settings = settings
        self._policy = policy
        self._gauge = StateGauge(role.run, role.name)
        self._gauges = GuardGauges(role.run)
        self._gauge.set(ActorState.IDLE)
        self._unsaid: list[Entry] = []
        self._journal: Journal
        self._executor: Executor
        self._manager: IncidentManager

    def __repr__(self) -> str:
        return repr(self._role)

    def attach(self, journal: str, executor: Executor, start: StepId, levers: Levers) -> None:
        """Begin: open the journal at its path, with the levers that are in force. Called once, before anything else."""
        self._journal, self._executor = Journal(Path(journal)), executor
        self._manager = IncidentManager(self._settings, self._policy, executor.snapshots, Ledger(self._record))
        self._manager.start(start, levers)

    def consider(self, items: Sequence[Assessment | Declaration]) -> News:
        """Take assessments and declarations in their order; with the order that waits for the next boundary, if any."""
        self._gauge.set(ActorState.JUDGING)
        for item in items:
            if isinstance(item, Declaration):
                self._manager.note_declared(item)
            else:
                self._manager.consider(item)
        self._gauge.set(ActorState.IDLE)
        return News(self._news(), self._manager.pending)

    def execute(self, number: int, stand: Position, following: StepId) -> News:
        """Carry out the pending order, which must have that number; an order is carried out once.

        Args:
            number: of the order.
            stand: where the run stands.
            following: the step that is under way.

        Raises:
            RftfmError: when it fails half way: then nobody may train on.
        """
        order = self._manager.pending
        if order is None or order.number != number:
            return News(self._news())
        self._gauge.set(ActorState.ACTING)
        try:
            change = self._confirm_and_do(order, stand, following)
            return News(self._news(), change=change)
        finally:
            self._gauge.set(ActorState.IDLE)

    def _confirm_and_do(self, order: Order, stand: Position, following: StepId) -> Change | None:
        probed = self._executor.probe(stand) if order.is_costly else math.nan
        if not self._manager.begin(order, following, probed):
            return None
        began = time.perf_counter()
        try:
            position, checkpoint = self._executor.carry_out(order, stand, following)
        except Exception as error:
            self._manager.fail(order, following, str(error))
            raise
        change = self._manager.done(order, following, time.perf_counter() - began)
        # What the guard changes it changes on purpose, and says so like anybody else.
        self._executor.tell_monitor(change, order.restore_step)
        return Change(order.remedy, order.reason, order.levers, position, order.halt, checkpoint)

    def regroup(self, group: ActorGroup) -> None:
        """An actor was replaced: orders go to those of `group` from now on."""
        self._executor.regroup(group)

    def note_late(self, step: StepId, waited_s: float) -> None:
        """A boundary went by without its verdict."""
        self._manager.note_late(step, waited_s)

    def finish(self, last: StepId) -> GuardTotals:
        """End the journal."""
        incidents, remedies = self._manager.finish(last)
        return GuardTotals(incidents, remedies, self._news())

    def _news(self) -> tuple[Entry, ...]:
        entries, self._unsaid = tuple(self._unsaid), []
        return entries

    def _record(self, entry: Entry) -> None:
        self._journal.write(entry)
        self._unsaid.append(entry)
        self._gauges.observe(entry)
