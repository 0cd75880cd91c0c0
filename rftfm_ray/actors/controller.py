"""ControllerActor: a thin shell over the incident manager. Judges and journals; the driver carries orders out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rftfm_ray.actors.roles import Role, rename_process
from rftfm_ray.diagnosis.fingerprints import FINGERPRINTS
from rftfm_ray.errors import GuardError
from rftfm_ray.incidents.ledger import Ledger
from rftfm_ray.incidents.manager import Treatment, TreatmentSettings
from rftfm_ray.incidents.messages import GuardTotals, News, OrderResult, Permit, Settlement
from rftfm_ray.incidents.state import Entry, EntryKind, Incident, Scalar, lever_fields
from rftfm_ray.incidents.verification import confirmed
from rftfm_ray.policies.levers import MOVES
from rftfm_ray.policies.safety import SafePolicy
from rftfm_ray.telemetry.journal import Journal
from rftfm_ray.telemetry.metrics import GuardGauges, StateGauge
from rftfm_ray.types import ActorState, IncidentSummary, Levers, StepId
from rftfm_ray.verdicts import Assessment, Declaration, DeclaredChange, Order, OrderRole


class ControllerActor:
    """Takes assessments, gives orders, and journals what the driver does about them: `begin` before, `done` after."""

    def __init__(self, role: Role, settings: TreatmentSettings, policy: SafePolicy) -> None:
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
        self._ledger: Ledger
        self._treatment: Treatment

    def __repr__(self) -> str:
        return repr(self._role)

    def attach(self, journal: str, start: StepId, levers: Levers) -> None:
        """Begin: open the journal at its path, with the levers that are in force. Called once, before anything else."""
        self._journal = Journal(Path(journal))
        self._ledger = Ledger(self._record)
        self._treatment = Treatment(self._settings, self._policy, lambda: self._snapshots, self._ledger)
        started: dict[str, Scalar] = {
            "mode": self._settings.mode.value,
            "act_on": ",".join(self._settings.act_on),
            "policy": self._policy.name,
            **dict(lever_fields(levers)),
        }
        self._write(EntryKind.STARTED, start, 0, **started)
        if start.step:
            self._write(EntryKind.DECLARED, start, 0, change="resume", reason=f"goes on from step {start.step}")

    def consider(self, items: Sequence[Assessment | Declaration]) -> News:
        """Take assessments and declarations in their order; with the order that waits for the next boundary, if any."""
        self._gauge.set(ActorState.JUDGING)
        for item in items:
            if isinstance(item, Declaration):
                self._write(EntryKind.DECLARED, item.id, 0, change=item.change.kind, reason=item.change.reason)
            else:
                self._snapshots = item.report.snapshots
                self._treatment.consider(item)
        self._gauge.set(ActorState.IDLE)
        return News(self._news(), None if self._begun else self._treatment.pending)

    def begin(self, number: int, step: StepId, probed: float) -> Permit:
        """Journal that the pending order is about to be carried out. An order begins once.

        Args:
            number: of the order; another one than the pending is not granted.
            step: the step under way.
            probed: held-out accuracy of the weights in force, for a costly order; NaN for any other.

        Raises:
            RecordError: when it cannot be journalled: then nothing may be done.
        """
        order = self._treatment.pending
        if order is None or order.number != number or self._begun is not None:
            return Permit(self._news(), granted=False)
        if order.is_costly and not self._confirm(order, step, probed):
            self._treatment.settle()
            return Permit(self._news(), granted=False)
        self._write(
            EntryKind.APPLYING, step, order.incident, order=order.number, remedy=order.remedy,
            restore_step=order.restore_step,
        )  # fmt: skip
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
            self._treatment.settle()
            self._write(EntryKind.FAILED, step, order.incident, order=order.number, reason=result.error)
            return Settlement(self._news())
        applied: dict[str, Scalar] = {"order": order.number, "remedy": order.remedy, "role": order.role.value}
        applied |= {"seconds": round(result.seconds, 3), "halt": "yes" if order.halt else "no"}
        applied |= {"restored": order.restore_step, **dict(lever_fields(order.levers))}
        before = self._ledger.state.levers
        self._write(EntryKind.APPLIED, step, order.incident, **applied)
        self._treatment.settle()
        if order.restore_step is not None:
            self._treatment.rewind(order.restore_step)
        change = self._declare(order, before, step)
        return Settlement(self._news(), change, order.restore_step)

    def _confirm(self, order: Order, step: StepId, probed: float) -> bool:
        before, diagnosis = self._treatment.newest_probe(), self._treatment.diagnosis_of(order.incident)
        sure, reason = confirmed(diagnosis, before, probed, self._settings.probe_size)
        kind = EntryKind.CONFIRMED if sure else EntryKind.UNCONFIRMED
        fields: dict[str, Scalar] = {"order": order.number, "reason": reason}
        fields |= {"probe_before": before, "probe_now": probed}
        self._write(kind, step, order.incident, **fields)
        return sure

    def _declare(self, order: Order, before: Levers, step: StepId) -> DeclaredChange:
        """What the guard changes it changes on purpose, and says so like anybody else."""
        first = step.step if order.restore_step is None else order.restore_step + 1
        change = declared(before, order.levers, first, f"order {order.number}: {order.remedy}")
        if order.role is OrderRole.REMEDY and order.restore_step is None:
            # After a rollback the detectors stand where they stood before the fault.
            code = self._ledger.state.incident(order.incident).code
            change = replace(change, settled=FINGERPRINTS[code].harm if code in FINGERPRINTS else ())
        if change.signals:
            self._write(EntryKind.DECLARED, step, order.incident, change=change.kind, reason=change.reason)
        return change

    def note_late(self, step: StepId, waited_s: float) -> None:
        """A boundary went by without its verdict."""
        self._write(EntryKind.LATE, step, 0, waited_s=round(waited_s, 3))

    def finish(self, last: StepId) -> GuardTotals:
        """End the journal."""
        incidents = self._ledger.state.incidents
        remedies = sum(len(incident.tried) for incident in incidents)
        unfinished = sum(not incident.state.final for incident in incidents)
        self._write(EntryKind.ENDED, last, 0, incidents=len(incidents), remedies=remedies, open=unfinished)
        return GuardTotals(tuple(map(summarised, incidents)), remedies, self._news())

    def _news(self) -> tuple[Entry, ...]:
        entries, self._unsaid = tuple(self._unsaid), []
        return entries

    def _write(self, kind: EntryKind, step: StepId, incident: int, **values: Scalar) -> None:
        self._ledger.write(kind, step, incident, tuple(values.items()))

    def _record(self, entry: Entry) -> None:
        self._journal.write(entry)
        self._unsaid.append(entry)
        self._gauges.observe(entry)


def declared(before: Levers, after: Levers, step: int, reason: str) -> DeclaredChange:
    """The change that moving levers is, with the signals that it moves by design."""
    signals = sorted(
        {name for lever, names in MOVES.items() if getattr(before, lever) != getattr(after, lever) for name in names}
    )
    return DeclaredChange("levers", step, tuple(signals), reason)


def summarised(incident: Incident) -> IncidentSummary:
    """An incident as the summary of a run lists it."""
    outcome = incident.tried[-1].outcome if incident.tried else None
    return IncidentSummary(
        fault=incident.code,
        alarm_step=incident.opened.step,
        onset=incident.onset,
        state=incident.state.value,
        remedies=tuple(tried.remedy for tried in incident.tried),
        outcome=None if outcome is None else outcome.value,
    )
