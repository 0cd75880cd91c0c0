"""ControllerActor: a thin shell over the incident manager. Judges and journals; the driver carries orders out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rftfm_ray.actors.roles import Role, rename_process
from rftfm_ray.errors import GuardError
from rftfm_ray.incidents.ledger import Ledger
from rftfm_ray.incidents.manager import IncidentManager
from rftfm_ray.incidents.messages import GuardTotals, News, OrderResult, Permit, Settlement
from rftfm_ray.incidents.settings import IncidentSettings
from rftfm_ray.incidents.state import Entry
from rftfm_ray.policies.safety import SafePolicy
from rftfm_ray.telemetry.journal import Journal
from rftfm_ray.telemetry.metrics import GuardGauges, StateGauge
from rftfm_ray.types import ActorState, Levers, StepId
from rftfm_ray.verdicts import Assessment, Declaration, Order


class ControllerActor:
    """Takes assessments, gives orders, and journals what the driver does about them: `begin` before, `done` after."""

    def __init__(self, role: Role, settings: IncidentSettings, policy: SafePolicy) -> None:
        rename_process(role)
        self._role = role
        self._settings = settings
        self._policy = policy
        self._gauge = StateGauge(role.run, role.name)
        self._gauges = GuardGauges(role.run)
        self._gauge.set(ActorState.IDLE)
        self._unsaid: list[Entry] = []
        self._snapshots: tuple[int, ...] = ()
        self._begun: Order | None = None
        self._journal: Journal
        self._manager: IncidentManager

    def __repr__(self) -> str:
        return repr(self._role)

    def attach(self, journal: str, start: StepId, levers: Levers) -> None:
        """Begin: open the journal at its path, with the levers that are in force. Called once, before anything else."""
        self._journal = Journal(Path(journal))
        ledger = Ledger(self._record)
        self._manager = IncidentManager(self._settings, self._policy, lambda: self._snapshots, ledger)
        self._manager.start(start, levers)

    def consider(self, items: Sequence[Assessment | Declaration]) -> News:
        """Take assessments and declarations in their order; with the order that waits for the next boundary, if any."""
        self._gauge.set(ActorState.JUDGING)
        for item in items:
            if isinstance(item, Declaration):
                self._manager.note_declared(item)
            else:
                self._snapshots = item.report.snapshots
                self._manager.consider(item)
        self._gauge.set(ActorState.IDLE)
        return News(self._news(), None if self._begun else self._manager.pending)

    def begin(self, number: int, step: StepId, probed: float) -> Permit:
        """Journal that the pending order is about to be carried out. An order begins once.

        Args:
            number: of the order; another one than the pending is not granted.
            step: the step under way.
            probed: held-out accuracy of the weights in force, for a costly order; NaN for any other.

        Raises:
            RecordError: when it cannot be journalled: then nothing may be done.
        """
        order = self._manager.pending
        if order is None or order.number != number or not self._manager.begin(order, step, probed):
            return Permit(self._news(), granted=False)
        self._gauge.set(ActorState.ACTING)
        self._begun = order
        return Permit(self._news(), granted=True)

    def done(self, number: int, step: StepId, result: OrderResult) -> Settlement:
        """Journal what became of the order that was begun; gives what the monitor must be told.

        Args:
            number: of the order.
            step: the step that was under way when it began.
            result: what became of it.

        Raises:
            GuardError: when that order was not begun.
            RecordError: when it cannot be journalled.
        """
        order = self._begun
        if order is None or order.number != number:
            raise GuardError(f"Order {number} ends and was not begun; the run cannot be trusted, start it again.")
        self._begun = None
        self._gauge.set(ActorState.IDLE)
        if result.error:
            self._manager.fail(order, step, result.error)
            return Settlement(self._news())
        change = self._manager.done(order, step, result.seconds)
        return Settlement(self._news(), change, order.restore_step)

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
