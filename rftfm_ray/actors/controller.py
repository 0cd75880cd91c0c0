"""ControllerActor: a thin shell over policies. Journals, then acts, through the one executor that it was given."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from rftfm_ray.actors.roles import Role, rename_process
from rftfm_ray.diagnosis.fingerprints import FINGERPRINTS
from rftfm_ray.incidents.ledger import Ledger
from rftfm_ray.incidents.manager import Treatment, TreatmentSettings
from rftfm_ray.incidents.messages import Change, GuardTotals, News
from rftfm_ray.incidents.state import Entry, EntryKind, Scalar, lever_fields
from rftfm_ray.incidents.verification import confirmed
from rftfm_ray.policies.levers import MOVES
from rftfm_ray.policies.safety import SafePolicy
from rftfm_ray.telemetry.journal import Journal
from rftfm_ray.telemetry.metrics import GuardGauges, StateGauge
from rftfm_ray.types import ActorState, Levers, Position, StepId
from rftfm_ray.verdicts import Assessment, Declaration, DeclaredChange, Order, OrderRole

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

    def __init__(self, role: Role, settings: TreatmentSettings, policy: SafePolicy) -> None:
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
        self._ledger: Ledger
        self._treatment: Treatment

    def __repr__(self) -> str:
        return repr(self._role)

    def attach(self, journal: str, executor: Executor, start: StepId, levers: Levers) -> None:
        """Begin: open the journal at its path, with the levers that are in force. Called once, before anything else."""
        self._journal, self._executor = Journal(Path(journal)), executor
        self._ledger = Ledger(self._record)
        self._treatment = Treatment(self._settings, self._policy, executor.snapshots, self._ledger)
        told: dict[str, Scalar] = {
            "mode": self._settings.mode.value,
            "act_on": ",".join(self._settings.act_on),
            "policy": self._policy.name,
            **dict(lever_fields(levers)),
        }
        self._write(EntryKind.STARTED, start, 0, **told)
        if start.step:
            self._write(EntryKind.DECLARED, start, 0, change="resume", reason=f"goes on from step {start.step}")

    def consider(self, items: Sequence[Assessment | Declaration]) -> News:
        """Take assessments and declarations in their order; with the order that waits for the next boundary, if any."""
        self._gauge.set(ActorState.JUDGING)
        for item in items:
            if isinstance(item, Declaration):
                self._write(EntryKind.DECLARED, item.id, 0, change=item.change.kind, reason=item.change.reason)
            else:
                self._treatment.consider(item)
        self._gauge.set(ActorState.IDLE)
        return News(self._news(), self._treatment.pending)

    def execute(self, number: int, stand: Position, following: StepId) -> News:
        """Carry out the pending order, which must have that number; an order is carried out once.

        Args:
            number: of the order.
            stand: where the run stands.
            following: the step that is under way.

        Raises:
            RftfmError: when it fails half way: then nobody may train on.
        """
        order = self._treatment.pending
        if order is None or order.number != number:
            return News(self._news())
        self._gauge.set(ActorState.ACTING)
        try:
            change = self._confirm_and_do(order, stand, following)
            return News(self._news(), change=change)
        finally:
            self._gauge.set(ActorState.IDLE)

    def _confirm_and_do(self, order: Order, stand: Position, following: StepId) -> Change | None:
        costly = order.role is OrderRole.REMEDY and (order.restore_step is not None or order.halt)
        if costly and not self._confirm(order, stand, following):
            self._treatment.settle()
            return None
        began = time.perf_counter()
        self._write(
            EntryKind.APPLYING, following, order.incident, order=order.number, remedy=order.remedy,
            restore_step=order.restore_step,
        )  # fmt: skip
        try:
            position, checkpoint = self._executor.carry_out(order, stand, following)
        except Exception as error:
            self._treatment.settle()
            self._write(EntryKind.FAILED, following, order.incident, order=order.number, reason=str(error))
            raise
        told: dict[str, Scalar] = {"order": order.number, "remedy": order.remedy, "role": order.role.value}
        told |= {"seconds": round(time.perf_counter() - began, 3), "halt": "yes" if order.halt else "no"}
        told |= {"restored": order.restore_step, **dict(lever_fields(order.levers))}
        before = self._ledger.state.levers
        self._write(EntryKind.APPLIED, following, order.incident, **told)
        self._treatment.settle()
        if order.restore_step is not None:
            self._treatment.rewind(order.restore_step)
        self._declare(order, before, following)
        return Change(order.remedy, order.reason, order.levers, position, order.halt, checkpoint)

    def _confirm(self, order: Order, stand: Position, following: StepId) -> bool:
        before, now = self._treatment.newest_probe(), self._executor.probe(stand)
        diagnosis = self._treatment.diagnosis_of(order.incident)
        sure, reason = confirmed(diagnosis, before, now, self._settings.probe_size)
        kind = EntryKind.CONFIRMED if sure else EntryKind.UNCONFIRMED
        told: dict[str, Scalar] = {"order": order.number, "reason": reason, "probe_before": before, "probe_now": now}
        self._write(kind, following, order.incident, **told)
        return sure

    def _declare(self, order: Order, before: Levers, following: StepId) -> None:
        """What the guard changes it changes on purpose, and says so like anybody else."""
        step = following.step if order.restore_step is None else order.restore_step + 1
        change = declared(before, order.levers, step, f"order {order.number}: {order.remedy}")
        if order.role is OrderRole.REMEDY and order.restore_step is None:
            # After a rollback the detectors stand where they stood before the fault.
            code = self._ledger.state.incident(order.incident).code
            change = replace(change, settled=FINGERPRINTS[code].harm if code in FINGERPRINTS else ())
        self._executor.tell_monitor(change, order.restore_step)
        if change.signals:
            self._write(EntryKind.DECLARED, following, order.incident, change=change.kind, reason=change.reason)

    def regroup(self, group: ActorGroup) -> None:
        """An actor was replaced: orders go to those of `group` from now on."""
        self._executor.regroup(group)

    def note_late(self, step: StepId, waited_s: float) -> None:
        """A boundary went by without its verdict."""
        self._write(EntryKind.LATE, step, 0, waited_s=round(waited_s, 3))

    def finish(self, last: StepId) -> GuardTotals:
        """End the journal."""
        state = self._ledger.state
        incidents, remedies = len(state.incidents), sum(len(incident.tried) for incident in state.incidents)
        still = [incident for incident in state.incidents if not incident.state.final]
        told: dict[str, Scalar] = {"incidents": incidents, "remedies": remedies, "open": len(still)}
        self._write(EntryKind.ENDED, last, 0, **told)
        return GuardTotals(incidents, remedies, self._news())

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
