"""ControllerActor: a thin shell over the incident manager. It decides and journals; the driver carries out orders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rftfm_ray.actors.roles import Role, keep_working, rename_process
from rftfm_ray.errors import GuardError, RecordError
from rftfm_ray.files import PRIVATE_DIR, write_atomic
from rftfm_ray.incidents.handover import write_handover
from rftfm_ray.incidents.ledger import Journalled, Ledger
from rftfm_ray.incidents.manager import IncidentManager
from rftfm_ray.incidents.manager_memory import ManagerMemory
from rftfm_ray.incidents.messages import (
    Answered,
    GuardTotals,
    Inherited,
    News,
    OrderResult,
    Paused,
    Permit,
    Restoration,
    Settlement,
)
from rftfm_ray.incidents.orders import Order
from rftfm_ray.incidents.questions import waiting_checks
from rftfm_ray.incidents.requests import Reply, Request
from rftfm_ray.incidents.settings import IncidentSettings
from rftfm_ray.incidents.state import Entry
from rftfm_ray.policies.safety import SafePolicy
from rftfm_ray.telemetry.journal import Journal, read_journal
from rftfm_ray.telemetry.metrics import GuardGauges, StateGauge
from rftfm_ray.telemetry.requests import RequestBox
from rftfm_ray.telemetry.rundir import HANDOVER
from rftfm_ray.types import ActorState, Levers, StepId
from rftfm_ray.verdicts import Assessment, Declaration


@dataclass(frozen=True, slots=True)
class ControllerState:
    """What a controller's later answers depend on beside its journal.

    Attributes:
        manager: memory of its incident manager.
        snapshots: steps that the learner can go back to.
        unreported: journal entries that no answer has contained yet.
    """

    manager: ManagerMemory
    snapshots: tuple[int, ...]
    unreported: tuple[Entry, ...]


class ControllerActor:
    """Takes assessments, gives orders, and journals their execution by the driver: `begin` before, `done` after."""

    def __init__(self, role: Role, settings: IncidentSettings, policy: SafePolicy) -> None:
        rename_process(role)
        keep_working()
        self._role = role
        self._settings = settings
        self._policy = policy
        self._gauge = StateGauge(role.run, role.name)
        self._gauges = GuardGauges(role.run)
        self._gauge.set(ActorState.IDLE)
        self._unreported: list[Entry] = []
        self._snapshots: tuple[int, ...] = ()
        self._begun: Order | None = None
        self._journal: Journal
        self._journal_path: Path
        self._manager: IncidentManager

    def __repr__(self) -> str:
        return repr(self._role)

    def attach(self, journal: str, start: StepId, levers: Levers, policy_state: str = "") -> None:
        """Open the journal at its path, with the current levers and what the policy remembers from a checkpoint.

        Called once, before all other methods.
        """
        self._open(journal, Ledger(self._record))
        self._manager.start(start, levers, policy_state)

    def ping(self) -> None:
        """Answer, as a sign of life."""

    def state(self) -> ControllerState:
        """What later answers depend on beside the journal; shared with this actor until it is sent elsewhere."""
        return ControllerState(self._manager.memory(), self._snapshots, tuple(self._unreported))

    def reattach(self, journal: str, state: ControllerState) -> None:
        """Take the place of a controller that was lost: instead of `attach`, and before the calls since `state`.

        Those calls make the entries that the journal already holds again, which are compared and not written.

        Raises:
            RecordError: when the journal has been altered or cannot be read.
            GuardError: when it does not belong to the state.
        """
        path = Path(journal)
        Journal(path).drop_partial_line()
        entries, _ = read_journal(path)
        if len(entries) < state.manager.seq:
            raise GuardError(f"The journal {path} has lost entries; start the run again from a checkpoint.")
        for entry in entries[: state.manager.seq]:
            self._gauges.observe(entry)
        self._open(journal, Ledger(self._record, Journalled(entries, state.manager.seq, self._announce)))
        self._manager.restore(state.manager)
        self._snapshots, self._unreported = state.snapshots, list(state.unreported)
        self._begun = state.manager.pending if state.manager.begun else None

    def _open(self, journal: str, ledger: Ledger) -> None:
        self._journal_path = Path(journal)
        self._journal = Journal(self._journal_path)
        self._manager = IncidentManager(self._settings, self._policy, lambda: self._snapshots, ledger)

    def consider(self, items: Sequence[Assessment | Declaration]) -> News:
        """Take assessments and declarations in their order; the news has the order that waits, if any."""
        self._gauge.set(ActorState.JUDGING)
        for item in items:
            if isinstance(item, Declaration):
                self._manager.note_declared(item)
            else:
                self._snapshots = item.report.snapshots
                self._manager.consider(item)
        self._gauge.set(ActorState.IDLE)
        order = None if self._begun else self._manager.pending
        return News(self._news(), order, waiting_checks(self._manager.state))

    def begin(self, number: int, step: StepId, probed: float, graded: int = 0) -> Permit:
        """Journal that the pending order, or one in its place, is about to be carried out. An order begins once.

        Args:
            number: of the order; only the pending one is begun.
            step: the current step.
            probed: held-out accuracy of the weights in force, for a costly order; NaN for any other.
            graded: problems that it is a share of; 0 for `probe.size`.

        Raises:
            RecordError: when it cannot be journalled; the order must not be carried out.
        """
        order = self._manager.pending
        is_pending = order is not None and order.number == number
        begun = self._manager.begin(order, step, probed, graded) if order is not None and is_pending else None
        if begun is not None:
            self._gauge.set(ActorState.ACTING)
            self._begun = begun
        return Permit(self._news(), begun)

    def answer(self, request: Request, step: StepId) -> Answered:
        """Follow a person's answer to a decision that waits, or journal why it cannot be followed.

        Args:
            request: taken from the run's request box by the driver: calls of others are not made again when this actor
                is lost.
            step: the current step.
        """
        reply = self._manager.answer(request, step)
        return Answered(self._news(), reply, None if self._begun else self._manager.pending)

    def pause(self, step: StepId, last: StepId, incident: int, waited_s: float) -> Paused:
        """Journal that the run ends until a person answers, and write what the run that continues it needs.

        Args:
            step: the current step.
            last: the last step that was made.
            incident: whose decision has waited too long.
            waited_s: how long it has waited.

        Raises:
            RecordError: when it cannot be written.
        """
        handover = self._manager.pause(step, last, incident, waited_s)
        path = self._journal_path.parent / HANDOVER
        try:
            path.parent.mkdir(mode=PRIVATE_DIR, exist_ok=True)
            write_atomic(path, write_handover(handover))
        except OSError as error:
            raise RecordError(f"{path} cannot be written ({error.strerror}); make room.") from None
        return Paused(self._news(), handover.restore_steps)

    def take_over(self, journal: str, start: StepId, levers: Levers, inherited: Inherited) -> News:
        """Continue the journal of a run that was paused: instead of `attach`.

        Args:
            journal: path of a copy of that run's journal, which is continued.
            start: the step that this run starts from.
            levers: the current levers.
            inherited: what that run has handed over.

        Raises:
            RecordError: when the journal has been altered or cannot be read.
        """
        path = Path(journal)
        entries, _ = read_journal(path)
        for entry in entries:
            self._gauges.observe(entry)
        self._open(journal, Ledger(self._record, Journalled(entries, len(entries))))
        self._snapshots = inherited.snapshots
        self._manager.take_over(inherited.handover)
        self._manager.start(start, levers)
        return News(self._news(), self._manager.pending, waiting_checks(self._manager.state))

    def post(self, request: Request) -> None:
        """Put a person's answer into the run's request box; the driver takes it at the next boundary.

        For whoever reaches the cluster and not the run directory. It changes nothing in this actor.

        Raises:
            RecordError: when it cannot be written.
        """
        self._box().post(request)

    def reply_to(self, request: str) -> Reply | None:
        """The reply to a posted request; None before there is one."""
        return self._box().reply_to(request)

    def withdraw(self, request: str) -> bool:
        """Take a posted request back; whether nobody had taken it."""
        return self._box().withdraw(request)

    def _box(self) -> RequestBox:
        return RequestBox(self._journal_path.parent)

    def done(self, number: int, step: StepId, result: OrderResult) -> Settlement:
        """Journal the result of the begun order; returns its effect for the monitor.

        Args:
            number: of the order.
            step: the step at which it began.
            result: of the order.

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

    def note_probe(self, step: StepId, accuracy: float) -> None:
        """Journal the held-out accuracy before the first step."""
        self._manager.note_probe(step, accuracy)

    def note_late(self, step: StepId, waited_s: float) -> None:
        """Journal that a verdict came after its boundary."""
        self._manager.note_late(step, waited_s)

    def note_hook_failed(self, step: StepId, hook: str, reason: str) -> None:
        """Journal that a hook of the user's could not be called."""
        self._manager.note_hook_failed(step, hook, reason)

    def note_restored(self, step: StepId, back: Restoration) -> tuple[Entry, ...]:
        """Journal that an actor of the guard was lost and came back; returns the unreported entries."""
        self._manager.note_restored(step, back)
        return self._news()

    def finish(self, last: StepId) -> GuardTotals:
        """End the journal."""
        incidents, remedies = self._manager.finish(last)
        return GuardTotals(incidents, remedies, self._news())

    def _news(self) -> tuple[Entry, ...]:
        entries, self._unreported = tuple(self._unreported), []
        return entries

    def _record(self, entry: Entry) -> None:
        self._journal.write(entry)
        self._announce(entry)

    def _announce(self, entry: Entry) -> None:
        self._unreported.append(entry)
        self._gauges.observe(entry)
