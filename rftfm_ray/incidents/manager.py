"""The controller's judgement: what becomes of an incident, from suspicion to its end. Pure, one report at a time.

An incident is suspected when an alarm opens, diagnosed when one explanation leads, treating while an order waits for
its boundary, verifying afterwards, and then resolved, or diagnosed once more for the next remedy. Whatever changes
is written to the journal first, and the state is the fold of what was written. Effects leave as orders; what must be
asked (policy, snapshots) is injected.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace

from rftfm_ray.config import RunConfig
from rftfm_ray.config.settings import nominal_settings
from rftfm_ray.incidents.ledger import Ledger
from rftfm_ray.incidents.lever_return import moved, one_step_back
from rftfm_ray.incidents.state import EntryKind, GuardState, Incident, Scalar, lever_fields
from rftfm_ray.incidents.verification import CONTAINING, REFERENCE_STEPS, Case, judge, last_probe, source_active
from rftfm_ray.policies.api import PolicyContext
from rftfm_ray.policies.safety import Ruling, SafePolicy, restore_step
from rftfm_ray.signals.schema import value
from rftfm_ray.types import GuardMode, Levers, Settings, StepId
from rftfm_ray.verdicts import (
    Assessment,
    Diagnosis,
    Family,
    IncidentState,
    Order,
    OrderRole,
    OutcomeKind,
    Remedy,
    StepReport,
)

# An explanation must reach this to be acted on; until then an incident is only suspected.
SURE = 0.6
# Steps that a suspicion may take to become a diagnosis.
PATIENCE = 4
MEMORY = 256
# Costly remedies that may go unconfirmed before a person must look.
UNCONFIRMED = 3


@dataclass(frozen=True, slots=True)
class TreatmentSettings:
    """What the configuration says about treating; names as in `config.GuardConfig`."""

    mode: GuardMode
    act_on: tuple[Family, ...]
    verify_steps: int
    cooldown_steps: int
    budget: int
    return_after: int
    halts: bool
    probe_size: int
    nominal: Settings
    later: tuple[tuple[int, Settings], ...] = ()

    def nominal_at(self, step: int) -> Settings:
        """What the configuration calls for at a step: `nominal`, or the newest of the `later` ones."""
        return next((settings for start, settings in reversed(self.later) if start <= step), self.nominal)


def treatment_settings(config: RunConfig) -> TreatmentSettings:
    """The settings that a run's configuration calls for."""
    guard = config.guard
    return TreatmentSettings(
        mode=guard.mode,
        act_on=guard.act_on,
        verify_steps=guard.verify_steps,
        cooldown_steps=guard.cooldown_steps,
        budget=guard.budget,
        return_after=guard.return_after,
        halts=guard.on_give_up == "halt",
        probe_size=config.probe.size,
        nominal=nominal_settings(config),
        later=tuple((start, nominal_settings(stage)) for start, stage in config.stages()[1:]),
    )


class Treatment:
    """Takes assessments in order and gives orders.

    Args:
        settings: what it goes by.
        policy: asked for decisions.
        snapshots: steps that the learner can go back to; asked only when a decision is due.
        ledger: where entries go before they count.
    """

    def __init__(
        self, settings: TreatmentSettings, policy: SafePolicy, snapshots: Callable[[], tuple[int, ...]], ledger: Ledger
    ) -> None:
        self._settings = settings
        self._policy = policy
        self._snapshots = snapshots
        self._ledger = ledger
        # The lineage that is kept, and everything that was seen.
        self._reports: list[StepReport] = []
        self._history: list[StepReport] = []
        self._references: dict[int, tuple[StepReport, ...]] = {}
        self._diagnoses: dict[int, Diagnosis] = {}
        self._policy_state: tuple[tuple[str, str | int | float | bool], ...] = ()
        self._held: dict[int, int] = {}
        self._quiet = 0
        # A fault that nobody could mend opens no second incident while it lasts.
        self._muted: dict[str, int] = {}
        # Reports of an attempt that a rollback has ended may still come in.
        self._attempt = 0
        self._pending: Order | None = None

    @property
    def state(self) -> GuardState:
        """What the journal comes to."""
        return self._ledger.state

    @property
    def pending(self) -> Order | None:
        """The order that waits for a boundary."""
        return self._pending

    def consider(self, assessment: Assessment) -> Order | None:
        """Take one step's assessment; the order that it leads to, if any."""
        report, diagnosis = assessment.report, assessment.diagnosis
        if report.id.attempt < self._attempt:
            return self._pending
        self._reports = [*self._reports[-MEMORY + 1 :], report]
        self._history = [*self._history[-MEMORY + 1 :], report]
        for name, reason in assessment.disabled:
            self._write(EntryKind.DISABLED, report.id, 0, name=name, reason=reason)
        self._quiet = 0 if diagnosis is not None else self._quiet + 1
        self._unmute(diagnosis)
        self._open_or_name(report.id, diagnosis)
        for incident in self.state.open_incidents():
            self._look_after(incident, report.id, diagnosis)
        if self._pending is not None:
            return None
        for incident in self.state.open_incidents():
            if incident.state is IncidentState.DIAGNOSED:
                self._pending = self._treat(incident, report.id)
                if self._pending is not None:
                    return self._pending
        self._pending = self._return_a_lever(report.id)
        return self._pending

    def rewind(self, step: int) -> None:
        """Forget the reports of an abandoned attempt, those after `step`."""
        self._attempt = max([self._attempt, *(report.id.attempt for report in self._history[-1:])]) + 1
        self._reports = [report for report in self._reports if report.id.step <= step]

    def settle(self) -> None:
        """The pending order has been carried out, or dropped."""
        self._pending = None

    def diagnosis_of(self, incident: int) -> Diagnosis | None:
        """The newest diagnosis of an incident."""
        return self._diagnoses.get(incident)

    def newest_probe(self) -> float:
        """The newest held-out accuracy from before the open incident with the pending order; NaN without one."""
        if self._pending is None or not self._pending.incident:
            return last_probe(self._reports)
        onset = self.state.incident(self._pending.incident).onset_low
        # The probe in a step's report is of the weights before that step's update.
        return last_probe([report for report in self._reports if report.id.step <= onset])

    def _write(self, kind: EntryKind, step: StepId, incident: int, **values: Scalar) -> None:
        self._ledger.write(kind, step, incident, tuple(values.items()))

    def _unmute(self, diagnosis: Diagnosis | None) -> None:
        standing = _marks(diagnosis) if diagnosis is not None else set()
        for mark in list(self._muted):
            self._muted[mark] = 0 if mark in standing else self._muted[mark] + 1
            if self._muted[mark] >= self._settings.verify_steps:
                del self._muted[mark]

    def _is_muted(self, diagnosis: Diagnosis) -> bool:
        """Whether this is what nobody could mend: by its name, or by other names for the same alarms."""
        alarms = {symptom.signal for symptom in diagnosis.symptoms if symptom.alarm}
        same = bool(alarms) and alarms <= self._muted.keys()
        return diagnosis.code in self._muted or same or (diagnosis.code == "UNKNOWN" and bool(self._muted))

    def _open_or_name(self, step: StepId, diagnosis: Diagnosis | None) -> None:
        if diagnosis is None or self._is_muted(diagnosis):
            return
        incidents = self.state.open_incidents()
        same = [incident for incident in incidents if incident.code == diagnosis.code]
        unnamed = [incident for incident in incidents if incident.state is IncidentState.SUSPECTED]
        untreated = [i for i in incidents if i.state is IncidentState.DIAGNOSED and not i.tried and not i.advised]
        known = [*same, *unnamed, *untreated]
        if not known:
            if any(incident.state is not IncidentState.DIAGNOSED or incident.tried for incident in incidents):
                # What is seen beside an incident under treatment is taken for its after-effect until it is over.
                return
            number = len(self.state.incidents) + 1
            seen = "; ".join(symptom.reason for symptom in diagnosis.symptoms if symptom.alarm)
            self._write(EntryKind.OPENED, step, number, **_named(diagnosis), reason=seen)
            known = [self.state.incident(number)]
        incident = known[0]
        self._remember(incident.id, diagnosis)
        waited = step.paid_step - incident.opened.paid_step
        changed = incident.code != diagnosis.code and not incident.tried
        suspected = incident.state is IncidentState.SUSPECTED
        if (suspected and (diagnosis.probability >= SURE or waited >= PATIENCE)) or (not suspected and changed):
            told = {"summary": diagnosis.summary}
            told["rivals"] = "; ".join(f"{r.code} {r.probability:.0%}, {r.against}" for r in diagnosis.rivals)
            told["evidence"] = "; ".join(symptom.reason for symptom in diagnosis.symptoms)
            self._write(EntryKind.DIAGNOSED, step, incident.id, **_named(diagnosis), **told)

    def _look_after(self, incident: Incident, step: StepId, diagnosis: Diagnosis | None) -> None:
        """Verify a treated incident; close one whose alarm has been silent for long."""
        stands = diagnosis is not None and (diagnosis.code == incident.code or incident.code == "UNKNOWN")
        if incident.state is IncidentState.VERIFYING:
            self._verify(incident, step, alarm_stands=stands)
        elif incident.state is not IncidentState.TREATING and self._quiet >= self._settings.verify_steps:
            self._close(incident, step, IncidentState.RESOLVED, "the alarm has gone by itself")

    def _verify(self, incident: Incident, step: StepId, *, alarm_stands: bool) -> None:
        outcome = judge(
            incident, self._case(incident), alarm_stands=alarm_stands, probe_size=self._settings.probe_size,
            window=self._settings.verify_steps,
        )  # fmt: skip
        if outcome is None:
            return
        self._write(
            EntryKind.OUTCOME, step, incident.id, outcome=outcome.kind.value, remedy=incident.tried[-1].remedy,
            severity_before=outcome.severity_before, severity_after=outcome.severity_after,
            probe_before=outcome.probe_before, probe_after=outcome.probe_after, reason=outcome.reason,
        )  # fmt: skip
        if outcome.kind in (OutcomeKind.CURED, OutcomeKind.CONTAINED):
            self._close(incident, step, IncidentState.RESOLVED, f"{outcome.kind.value} by {incident.tried[-1].remedy}")

    def _case(self, incident: Incident) -> Case:
        first, newest = incident.tried[0].paid_step, incident.tried[-1].paid_step
        attempt = incident.opened.attempt
        under_fault = (
            r
            for r in self._history
            if r.id.attempt == attempt and r.id.step >= incident.onset and r.id.paid_step < first
        )
        after = (r for r in self._reports if r.id.paid_step >= newest)
        return Case(self._references.get(incident.id, ()), tuple(under_fault), tuple(after))

    def _remember(self, incident: int, diagnosis: Diagnosis) -> None:
        known = self.state.incident(incident)
        if known.tried or known.code == diagnosis.code:
            # What saw it first may have fallen silent; the fault is no younger for that.
            onset, low = min(known.onset, diagnosis.onset), min(known.onset_low, diagnosis.onset_low)
            diagnosis = replace(diagnosis, onset=onset, onset_low=low)
        self._diagnoses[incident] = diagnosis
        if not known.tried:
            before = [r for r in self._reports if r.id.step < diagnosis.onset_low]
            self._references[incident] = tuple(before[-REFERENCE_STEPS:])

    def _treat(self, incident: Incident, step: StepId) -> Order | None:
        settings, state = self._settings, self.state
        if settings.mode is GuardMode.OBSERVE or incident.advised:
            return None
        tried = incident.tried
        last = max([t.paid_step for t in tried[-1:]] + [incident.unconfirmed_at or 0])
        if last and step.paid_step - last < settings.cooldown_steps:
            return None
        if incident.unconfirmed >= UNCONFIRMED:
            reason = f"what was wanted was not confirmed {incident.unconfirmed} times"
            return self._give_up(incident, step, IncidentState.ESCALATED, reason)
        spent = dict(state.spent).get(incident.family, 0)
        if spent >= settings.budget:
            reason = f"guard.budget={settings.budget} remedies for {incident.family} are spent"
            return self._give_up(incident, step, IncidentState.GIVEN_UP, reason)
        ctx = self._context(incident, step, settings.budget - spent)
        ruling = self._policy.decide(ctx)
        for problem in ruling.problems:
            told: dict[str, Scalar] = {"policy": problem.policy, "reason": problem.reason}
            told |= {"remedy": problem.remedy} if problem.kind is EntryKind.REFUSED else {}
            self._write(problem.kind, step, incident.id, **told)
        self._policy_state = ruling.decision.state
        remedy = ruling.decision.remedy
        if remedy is None:
            return self._hold(incident, step, ruling)
        return self._order(incident, step, ruling, remedy, restore_step(ctx) if remedy.rollback else None)

    def _context(self, incident: Incident, step: StepId, left: int) -> PolicyContext:
        return PolicyContext(
            step=step,
            diagnosis=self._diagnoses[incident.id],
            tried=incident.tried,
            levers=self.state.levers,
            nominal=self._settings.nominal_at(step.step),
            snapshots=self._snapshots(),
            budget_left=left,
            reports=tuple(self._reports),
            state=self._policy_state,
        )

    def _hold(self, incident: Incident, step: StepId, ruling: Ruling) -> Order | None:
        """The policy does nothing for now; asked again at the next steps, and in the end somebody else must."""
        reason = ruling.decision.reason
        asked = self._held[incident.id] = self._held.get(incident.id, 0) + 1
        if asked == 1:
            self._write(EntryKind.HELD, step, incident.id, policy=ruling.policy, reason=reason)
        if asked < self._settings.verify_steps and not incident.tried:
            return None
        return self._give_up(incident, step, IncidentState.ESCALATED, reason)

    def _order(
        self, incident: Incident, step: StepId, ruling: Ruling, remedy: Remedy, restore: int | None
    ) -> Order | None:
        base = self.state.levers
        failed = incident.tried and incident.tried[-1].outcome in (OutcomeKind.INEFFECTIVE, OutcomeKind.WORSE)
        if failed:
            # What did not help is undone before the next thing is tried.
            base = incident.tried[-1].before
        levers = _merged(base, remedy.levers)
        number = self.state.orders + 1
        told: dict[str, Scalar] = {"order": number, "remedy": remedy.name, "reason": ruling.decision.reason}
        told |= {"policy": ruling.policy, "restore_step": restore, "halt": remedy.halt, **dict(lever_fields(levers))}
        if self._settings.mode is not GuardMode.ACT or incident.family not in self._settings.act_on:
            self._write(EntryKind.ADVISED, step, incident.id, **told)
            return None
        self._write(EntryKind.DECIDED, step, incident.id, **told)
        return Order(
            number, incident.id, OrderRole.REMEDY, remedy.name, ruling.decision.reason, levers, restore,
            remedy.skip_batches, remedy.halt,
        )  # fmt: skip

    def _give_up(self, incident: Incident, step: StepId, final: IncidentState, reason: str) -> Order | None:
        """Nothing is left to try: undo what did not help, and end the run if that is wanted."""
        acts = self._settings.mode is GuardMode.ACT and incident.family in self._settings.act_on
        failed = bool(incident.tried) and incident.tried[-1].outcome in (OutcomeKind.INEFFECTIVE, OutcomeKind.WORSE)
        base = incident.tried[-1].before if failed else self.state.levers
        self._close(incident, step, final, reason)
        self._muted |= dict.fromkeys(_marks(self._diagnoses[incident.id]) | {incident.code}, 0)
        if not acts or not (self._settings.halts or base != self.state.levers):
            return None
        role = OrderRole.HALT if self._settings.halts else OrderRole.UNDO
        return self._returning(step, incident.id, role, role.value, base, reason)

    def _return_a_lever(self, step: StepId) -> Order | None:
        """Move one lever a step back to nominal, when nothing is wrong and what it was moved for is gone."""
        state = self.state
        off = moved(state.levers)
        if not off or state.open_incidents() or self._settings.mode is not GuardMode.ACT:
            return None
        owners = dict(state.owners)
        for name in off:
            owner = owners.get(name, 0)
            code = state.incident(owner).code if owner else ""
            contains = name in CONTAINING.get(code, ())
            # Each relapse doubles the wait.
            relapses = max(0, sum(incident.code == code for incident in state.incidents) - 1)
            wait = (self._settings.return_after if contains else self._settings.verify_steps) * 2**relapses
            since = [r for r in self._reports if r.id.paid_step >= state.moved_at][-wait:]
            active = contains and source_active(code, since, self._references.get(owner, ()))
            if len(since) == wait and not active:
                reason = f"nothing has been seen in {wait} steps of what it was moved for"
                back = one_step_back(state.levers, name, scheduled_share(self._reports[-1]))
                return self._returning(step, owner, OrderRole.RETURN, f"return {name}", back, reason)
        return None

    def _returning(self, step: StepId, incident: int, role: OrderRole, what: str, levers: Levers, reason: str) -> Order:
        number = self.state.orders + 1
        self._write(EntryKind.RETURNING, step, incident, order=number, remedy=what, reason=reason)
        return Order(number, incident, role, what, reason, levers, halt=role is OrderRole.HALT)

    def _close(self, incident: Incident, step: StepId, final: IncidentState, reason: str) -> None:
        self._write(EntryKind.CLOSED, step, incident.id, state=final.value, reason=reason)


def _merged(base: Levers, wanted: Levers) -> Levers:
    """`base` with every lever that `wanted` sets."""
    chosen = {item.name: getattr(wanted, item.name) for item in fields(Levers)}
    return replace(base, **{name: setting for name, setting in chosen.items() if setting is not None})


def _marks(diagnosis: Diagnosis) -> set[str]:
    """What a fault is known by while it stands: its code, and the signals that are in alarm."""
    return {diagnosis.code, *(symptom.signal for symptom in diagnosis.symptoms if symptom.alarm)}


def scheduled_share(report: StepReport) -> float:
    """Share of the nominal learning rate that configuration and schedule call for at a step."""
    share = value(report, "schedule_factor") * math.exp(-value(report, "schedule_excess"))
    return share if share > 0 else 1.0


def _named(diagnosis: Diagnosis) -> dict[str, Scalar]:
    return {
        "code": diagnosis.code,
        "family": diagnosis.family.value,
        "onset": diagnosis.onset,
        "onset_low": diagnosis.onset_low,
        "probability": round(diagnosis.probability, 4),
    }
