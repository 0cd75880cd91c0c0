"""The incident manager: follows every incident from suspicion to its end. Pure, one report at a time.

An incident is suspected when an alarm opens it, diagnosed when one explanation leads, remediating while an order waits
for its boundary, verifying afterwards, and then resolved, or diagnosed again for the next remedy. One whose alarms go
silent without a remedy is cleared, and resolved only where harm and held-out accuracy are back (`verification`). Every
change is written to the journal first, and the state is the fold of the journal. The manager gives orders, which others
carry out between `begin` and `done`. Policy and snapshots are injected.
"""

from __future__ import annotations

import math
from dataclasses import replace

from rftfm_ray.diagnosis.classify import PATIENCE, SURE, claimed, reasons_of
from rftfm_ray.diagnosis.features import is_shown
from rftfm_ray.diagnosis.fingerprints import FINGERPRINTS
from rftfm_ray.errors import GuardError
from rftfm_ray.incidents.answering import approved_order, follow, note_pause
from rftfm_ray.incidents.belonging import began_under, incident_for, is_remediated
from rftfm_ray.incidents.confirmation import doubt, ground_of, held_out, is_after_effect, needs_ground, refusal
from rftfm_ray.incidents.decisions import Decisions, Snapshots, announce
from rftfm_ray.incidents.explaining import named_fields, opened_fields
from rftfm_ray.incidents.handover import Handover, handover_of, memory_of
from rftfm_ray.incidents.ledger import Ledger
from rftfm_ray.incidents.lever_return import expected_alarms, levers_to_keep, next_return
from rftfm_ray.incidents.manager_memory import ManagerMemory
from rftfm_ray.incidents.memory import RunMemory
from rftfm_ray.incidents.messages import Restoration
from rftfm_ray.incidents.muting import MutedFaults
from rftfm_ray.incidents.orders import Order, OrderRole
from rftfm_ray.incidents.policy_calls import PolicyCalls
from rftfm_ray.incidents.questions import ask, take_answers
from rftfm_ray.incidents.renaming import takes_name
from rftfm_ray.incidents.requests import Reply, Request
from rftfm_ray.incidents.settings import IncidentSettings
from rftfm_ray.incidents.state import EntryKind, GuardState, Incident, Scalar, lever_fields
from rftfm_ray.incidents.summaries import summarize
from rftfm_ray.incidents.verification import Rules, awaited, figures_out, judge, state_after_silence
from rftfm_ray.policies.safety import SafePolicy
from rftfm_ray.signals.effects import lever_change
from rftfm_ray.taxonomy import UNKNOWN
from rftfm_ray.types import GuardMode, IncidentSummary, Levers, StepId
from rftfm_ray.verdicts import Assessment, Declaration, DeclaredChange, Diagnosis, Expected, IncidentState


class IncidentManager:
    """Takes assessments in order, gives orders, and keeps their journal.

    Args:
        settings: from the configuration.
        policy: makes the decisions.
        snapshots: gives the steps that the learner can go back to; called only when a decision is due.
        ledger: takes every entry before the state changes.
    """

    def __init__(self, settings: IncidentSettings, policy: SafePolicy, snapshots: Snapshots, ledger: Ledger) -> None:
        self._settings = settings
        self._policy = PolicyCalls(policy, ledger)
        self._ledger = ledger
        self._memory = RunMemory()
        self._muted = MutedFaults(settings.verify_steps)
        self._decisions = Decisions(settings, self._policy, snapshots, ledger, self._memory)
        self._snapshots = snapshots
        self._rules = Rules(
            settings.verify_steps, settings.verify_timeout_steps, settings.probe_size, settings.probe_steps
        )
        # Steps since an alarm of its own was active, by open incident.
        self._quiet: dict[int, int] = {}
        # The newest order until it has been carried out or dropped, and whether it has begun.
        self._pending: Order | None = None
        self._begun = False
        # The state that was last checked, and whether anything in it needs attention at every step.
        self._checked_state: GuardState | None = None
        self._needs_attention = False

    @property
    def state(self) -> GuardState:
        """The fold of the journal."""
        return self._ledger.state

    @property
    def pending(self) -> Order | None:
        """The order that waits for a boundary; None once it has begun."""
        return None if self._begun else self._pending

    def start(self, step: StepId, levers: Levers, policy_state: str = "") -> None:
        """Begin the journal, with the step that the run starts from, the levers in force and a saved policy state."""
        settings = self._settings
        self._ledger.note(
            EntryKind.STARTED, step, 0, mode=settings.mode.value, act_on=",".join(settings.act_on),
            policy=self._policy.name, **dict(lever_fields(levers)),
        )  # fmt: skip
        if step.step:
            self._ledger.note(EntryKind.DECLARED, step, 0, change="resume", reason=f"goes on from step {step.step}")
        self._policy.start(step, policy_state)

    def note_probe(self, step: StepId, accuracy: float) -> None:
        """Note the held-out accuracy before the first step, the reference of a fault that begins with it."""
        self._ledger.note(EntryKind.PROBED, step, 0, accuracy=accuracy)

    def consider(self, assessment: Assessment) -> Order | None:
        """Take one step's assessment; the new order that it leads to, if any."""
        report, diagnosis = assessment.report, assessment.diagnosis
        for name, reason in assessment.disabled:
            self._ledger.note(EntryKind.DISABLED, report.id, 0, name=name, reason=reason)
        if self._memory.is_late(report):
            return None
        self._memory.add(report, diagnosis)
        if diagnosis is None and not assessment.disabled and self._is_idle():
            return None
        diagnosis = self._muted.unmuted(assessment)
        take_answers(self._ledger, report)
        self._open_or_name(report.id, diagnosis)
        ask(self._ledger, report, self._memory, self._settings.mode)
        active = {i.id: self._memory.is_active(i, diagnosis) for i in self.state.open_incidents()}
        flickers = {number for number in active if self._quiet.get(number, 0)}
        self._quiet = {number: 0 if on else self._quiet.get(number, 0) + 1 for number, on in active.items()}
        for incident in self.state.open_incidents():
            self._follow_up(incident, report.id, diagnosis, flickers=incident.id in flickers)
        if self._pending is None:
            self._pending = approved_order(self.state) or self._next_order(assessment)
            return self._pending
        return None

    def _is_idle(self) -> bool:
        """Whether no incident is open, no fault muted, no order pending and no lever off nominal.

        A step without a diagnosis then changes nothing.
        """
        if self._checked_state is not self.state:
            self._checked_state = self.state
            returning = self.state.levers != Levers() and self._settings.mode is not GuardMode.OBSERVE
            self._needs_attention = returning or bool(self.state.open_incidents())
        return not (self._needs_attention or self._muted or self._pending)

    def _open_or_name(self, step: StepId, diagnosis: Diagnosis | None) -> None:
        """Assign a diagnosis to an open incident where it can belong to one, else open a new one."""
        led = self._memory.led_by(diagnosis)
        if diagnosis is None:
            return
        incident = incident_for(diagnosis, self.state.open_incidents())
        if incident is None:
            if any(is_remediated(i, step, diagnosis, self._settings) for i in self.state.open_incidents()):
                # During the remediation of an incident, another diagnosis is taken for an after-effect of it.
                return
            if is_after_effect(diagnosis, self.state, self._memory, self._settings.probe_size):
                return
            number = len(self.state.incidents) + 1
            seen = reasons_of(symptom for symptom in diagnosis.symptoms if symptom.alarm)
            opened = opened_fields(diagnosis)
            opened["probe"] = self._memory.best_probe(diagnosis.onset, step.step, self.state.first_probe)
            self._ledger.note(EntryKind.OPENED, step, number, **opened, reason=seen)
            incident = self.state.incident(number)
        waited = step.paid_step - incident.opened.paid_step
        suspected = incident.state is IncidentState.SUSPECTED
        is_due = suspected and (diagnosis.probability >= SURE or waited >= PATIENCE)
        if is_due or (not suspected and incident.code != diagnosis.code):
            diagnosis = claimed(diagnosis)
        changed = incident.code != diagnosis.code and not incident.tried
        if changed and not suspected and not takes_name(incident.code, diagnosis, led):
            return
        diagnosis = self._memory.diagnose(incident, diagnosis)
        if is_due or (not suspected and changed):
            self._ledger.note(EntryKind.DIAGNOSED, step, incident.id, **named_fields(diagnosis))

    def _follow_up(self, incident: Incident, step: StepId, diagnosis: Diagnosis | None, *, flickers: bool) -> None:
        """Verify an incident whose remedy is in force; close one whose alarm has been silent for long.

        `flickers`: its alarm was silent a step ago. One step says nothing of a remedy, but for a rollback's.
        """
        active = diagnosis is not None and (diagnosis.code == incident.code or incident.code == UNKNOWN)
        if incident.state is IncidentState.VERIFYING:
            # Where a check has shown the fault, what the policy has become under it is not the fault.
            shows = not incident.shown or (diagnosis is not None and any(map(is_shown, diagnosis.symptoms)))
            lasts = not flickers or bool(incident.tried[-1].undone)
            self._verify(incident, step, alarm_active=active and shows and lasts)
        elif (incident.tried and not incident.advised) or incident.state is IncidentState.REMEDIATING:
            # Silence after a remedy that did not help resolves nothing, unless nothing more is done about it.
            return
        elif self._quiet[incident.id] >= self._settings.verify_steps:
            case = self._memory.case_of_silence(incident, self._quiet[incident.id])
            self._close(incident, step, *state_after_silence(incident, case, self._rules))

    def _verify(self, incident: Incident, step: StepId, *, alarm_active: bool) -> None:
        levers = self.state.levers_of(incident.id)
        other = began_under(incident, self.state.incidents, levers)
        case = replace(self._memory.case_of(incident), moved=levers, disturbed=other)
        outcome = judge(incident, case, self._rules, alarm_active=alarm_active)
        remedy = incident.tried[-1].remedy
        if outcome is None:
            why = awaited(incident, case, self._rules)
            if why and figures_out(why) != figures_out(incident.awaited):
                self._ledger.note(EntryKind.AWAITED, step, incident.id, remedy=remedy, reason=why)
            return
        self._ledger.note(
            EntryKind.OUTCOME, step, incident.id, outcome=outcome.kind.value, remedy=remedy, code=incident.code,
            severity_before=outcome.severity_before, severity_after=outcome.severity_after,
            probe_before=outcome.probe_before, probe_after=outcome.probe_after, reason=outcome.reason,
        )  # fmt: skip
        self._policy.observe(outcome, step)
        if outcome.kind.helped:
            reason = f"{outcome.kind.value} by {remedy}"
            self._close(incident, step, IncidentState.RESOLVED, reason, outcome=outcome.kind.value)

    def _close(self, incident: Incident, step: StepId, state: IncidentState, reason: str, **outcome: Scalar) -> None:
        self._ledger.note(EntryKind.CLOSED, step, incident.id, state=state.value, reason=reason, **outcome)

    def _next_order(self, assessment: Assessment) -> Order | None:
        """The order that is due: for the oldest incident with one, else for a lever that may return."""
        report = assessment.report
        for incident in self.state.open_incidents():
            diagnosis = self._memory.diagnosis_of(incident.id)
            if incident.state is not IncidentState.DIAGNOSED or diagnosis is None:
                continue
            order = self._decisions.order_for(incident, diagnosis, report.id)
            if self.state.incident(incident.id).state.final:
                self._muted.add(incident, diagnosis, assessment.rediagnoser)
            if order is not None:
                return order
        if not self.state.open_incidents():
            for kept in levers_to_keep(self.state, self._memory):
                self._ledger.note(EntryKind.KEPT, report.id, kept.incident, lever=kept.name, reason=kept.reason)
        back = next_return(self.state, self._memory, self._settings, is_muted=bool(self._muted))
        if back is None:
            return None
        number, name = self.state.orders + 1, f"return {back.name}"
        order = Order(number, back.incident, OrderRole.RETURN, name, back.reason, back.levers)
        return announce(self._ledger, report.id, order)

    def answer(self, request: Request, step: StepId) -> Reply:
        """Follow a person's answer to a decision that waits; an approved remedy is then pending, or due next."""
        reply = follow(self._ledger, self._settings, request, step, self._snapshots())
        self._pending = self._pending or approved_order(self.state)
        return reply

    def pause(self, step: StepId, last: StepId, incident: int, waited_s: float) -> Handover:
        """Note that the run ends until a person answers; returns what the run that continues it needs."""
        restore_steps = note_pause(self._ledger, step, incident, waited_s)
        return handover_of(self.memory(), last, restore_steps)

    def take_over(self, handover: Handover) -> None:
        """Continue a paused run; the ledger must hold its journal, to which a person may have added an answer."""
        self.restore(memory_of(handover, self._settings.verify_steps))
        self._pending = approved_order(self.state)

    def begin(self, order: Order, step: StepId, probed: float = math.nan, graded: int = 0) -> Order | None:
        """Announce that the pending order is about to be carried out. An order begins once.

        Args:
            order: the pending one; others are refused.
            step: the step under way.
            probed: held-out accuracy of the weights in force, for a costly order; NaN for any other.
            graded: number of its problems; 0 for `probe.size`.

        Returns:
            The order to carry out; None for none. A costly remedy without a ground, one that was applied twice at its
            step, and a rollback whose snapshot is gone are dropped. In place of the first the policy may have a remedy
            without cost, which is begun at once.
        """
        if self._begun or self._pending is None or self._pending.number != order.number:
            return None
        self._pending = order if self._confirm(order, step, probed, graded) else self._instead(order, step)
        if self._pending is None:
            return None
        begun = self._pending
        self._ledger.note(
            EntryKind.APPLYING, step, begun.incident, order=begun.number, remedy=begun.remedy,
            restore_step=begun.restore_step,
        )  # fmt: skip
        self._begun = True
        return begun

    def _instead(self, order: Order, step: StepId) -> Order | None:
        """What may be carried out in place of an order that was dropped for want of a ground."""
        incident, diagnosis = self.state.incident(order.incident), self._memory.diagnosis_of(order.incident)
        if diagnosis is None or not self._memory.reports or refusal(order, self.state, step, self._snapshots()):
            return None
        other = self._decisions.instead(incident, diagnosis, step)
        return None if other is None or refusal(other, self.state, step, self._snapshots()) else other

    def _confirm(self, order: Order, step: StepId, probed: float, graded: int) -> bool:
        reason, told, ground = refusal(order, self.state, step, self._snapshots()), dict[str, Scalar](), None
        if not reason and not needs_ground(order, self.state):
            return True
        if not reason:
            incident = self.state.incident(order.incident)
            probes = held_out(self.state, self._memory, incident, probed, graded or self._settings.probe_size)
            told = {"probe_before": probes.before, "probe_now": probes.now}
            ground = ground_of(self._memory, incident, probes)
            reason = doubt(probes) if ground is None else ground.reason
            told |= {} if ground is None else {"ground": ground.kind.value}
        kind = EntryKind.UNCONFIRMED if ground is None else EntryKind.CONFIRMED
        self._ledger.note(kind, step, order.incident, order=order.number, reason=reason, **told)
        return ground is not None

    def fail(self, order: Order, step: StepId, reason: str) -> None:
        """Note that the begun order failed half way: training must not continue.

        Raises:
            GuardError: when the order was not begun.
        """
        self._end(order)
        self._ledger.note(EntryKind.FAILED, step, order.incident, order=order.number, reason=reason)

    def _end(self, order: Order) -> None:
        if not self._begun or self._pending is None or self._pending.number != order.number:
            raise GuardError(f"Order {order.number} ends and was not begun; the run cannot be trusted, start it again.")
        self._pending, self._begun = None, False

    def done(self, order: Order, step: StepId, seconds: float) -> DeclaredChange:
        """Note that the begun order was carried out in `seconds`, and update the state.

        Returns:
            The declared change for the monitor. After a rollback the monitor first rewinds to `order.restore_step`, and
            then takes the change.

        Raises:
            GuardError: when it was not begun.
        """
        self._end(order)
        before, expected = self.state.levers, expected_alarms(self.state)
        if order.restore_step is not None:
            # The monitor goes back to that step as well, so it knows the levers that were in force then.
            before = self.state.levers_at(order.restore_step)
        values: dict[str, Scalar] = {"order": order.number, "remedy": order.remedy, "role": order.role.value}
        values |= {"seconds": round(seconds, 3), "halt": "yes" if order.halt else "no"}
        values |= {"restored": order.restore_step, **dict(lever_fields(order.levers))}
        self._ledger.note(EntryKind.APPLIED, step, order.incident, **values)
        if order.restore_step is not None:
            self._memory.rewind(order.restore_step)
            self._policy.rewind(order.restore_step, step)
        first = step.step if order.restore_step is None else order.restore_step + 1
        change = lever_change(before, order.levers, first, f"order {order.number}: {order.remedy}")
        change = replace(change, expected=expected_alarms(self.state))
        if order.restore_step is None:
            # After a rollback the detectors are where they were before the fault.
            change = replace(change, settled=self._settled(order, expected))
        if change.signals:
            levers = dict(lever_fields(order.levers))
            about = {"change": change.kind, "reason": change.reason}
            self._ledger.note(EntryKind.DECLARED, step, order.incident, **about, **levers)
        return change

    def _settled(self, order: Order, expected: Expected) -> tuple[str, ...]:
        """Signals whose evidence restarts: the harm that a remedy is for, and alarms that are no longer expected.

        Effects of a lever, or of a cause that it contained, must not raise an alarm once the lever has returned.
        """
        fingerprint = FINGERPRINTS.get(self.state.incident(order.incident).code) if order.incident else None
        harm = fingerprint.harm if fingerprint and order.role is OrderRole.REMEDY else ()
        ended = expected.sides - expected_alarms(self.state).sides
        return tuple(dict.fromkeys((*harm, *(signal for signal, _ in sorted(ended)))))

    def note_declared(self, declaration: Declaration) -> None:
        """Note a declared change."""
        change = declaration.change
        self._memory.forget(change.signals)
        self._ledger.note(EntryKind.DECLARED, declaration.id, 0, change=change.kind, reason=change.reason)

    def note_late(self, step: StepId, waited_s: float) -> None:
        """Note that a verdict came after its boundary."""
        self._ledger.note(EntryKind.LATE, step, 0, waited_s=round(waited_s, 3))

    def note_hook_failed(self, step: StepId, hook: str, reason: str) -> None:
        """Note that a hook of the user's could not be called."""
        self._ledger.note(EntryKind.HOOK_FAILED, step, 0, name=hook, reason=reason)

    def note_restored(self, step: StepId, back: Restoration) -> None:
        """Note that an actor of the guard was lost and came back; `step` is the newest one."""
        self._ledger.note(
            EntryKind.RESTORED, step, 0, name=back.actor, reason=back.reason, replayed=back.replayed,
            waited=back.waited, seconds=round(back.seconds, 3),
        )  # fmt: skip
        self._policy.note_unsaid(step)

    def memory(self) -> ManagerMemory:
        """What later decisions depend on beside the journal; it is shared with this manager, so copy it."""
        return ManagerMemory(
            self._ledger.seq, self._memory, self._muted, self._decisions.memory, dict(self._quiet), self._pending,
            self._begun,
        )  # fmt: skip

    def restore(self, memory: ManagerMemory) -> None:
        """Continue from a memory; the ledger must hold the state after `memory.seq` entries."""
        self._memory, self._muted, self._quiet = memory.run, memory.muted, dict(memory.quiet)
        self._pending, self._begun = memory.pending, memory.begun
        self._decisions.restore(memory.run, memory.decisions)
        self._policy.restore()

    def finish(self, last: StepId) -> tuple[tuple[IncidentSummary, ...], int]:
        """End the journal at the last step; returns the incidents and the number of applied remedies."""
        incidents = self.state.incidents
        remedies = sum(len(incident.tried) for incident in incidents)
        still_open = len(self.state.open_incidents())
        self._ledger.note(EntryKind.ENDED, last, 0, incidents=len(incidents), remedies=remedies, open=still_open)
        return tuple(map(summarize, incidents)), remedies
