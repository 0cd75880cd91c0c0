"""Makes orders for diagnosed incidents.

The policy is called within budget and cooldown, and its remedy becomes an order. When nothing is left to try, the
incident is escalated to people. Pure: policy and snapshots are injected.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

from rftfm_ray.diagnosis.features import is_shown
from rftfm_ray.incidents.advice import merged
from rftfm_ray.incidents.confirmation import ground_of, probes_at_decision
from rftfm_ray.incidents.ledger import Ledger
from rftfm_ray.incidents.lever_return import moved
from rftfm_ray.incidents.memory import RunMemory
from rftfm_ray.incidents.orders import Order, OrderRole
from rftfm_ray.incidents.policy_calls import PolicyCalls
from rftfm_ray.incidents.settings import IncidentSettings
from rftfm_ray.incidents.state import EntryKind, Incident, Scalar, lever_fields, levers_before, levers_home
from rftfm_ray.policies.api import PolicyContext, restore_step
from rftfm_ray.policies.grounds import Ground
from rftfm_ray.policies.playbook import plan_of
from rftfm_ray.policies.safety import Ruling
from rftfm_ray.types import Action, GuardMode, Levers, StepId
from rftfm_ray.verdicts import Diagnosis, IncidentState, OutcomeKind, Remedy

# Unconfirmed costly remedies after which a person must look.
UNCONFIRMED = 3

Snapshots: TypeAlias = Callable[[], tuple[int, ...]]
"""Steps that the learner can go back to."""


@dataclass(frozen=True, slots=True)
class DecisionsMemory:
    """What the policy is called with beside the journal's state: how often it waited, by incident and code.

    A fault that has got a name has the patience of one.
    """

    waited: dict[tuple[int, str], int]


class Decisions:
    """Makes orders for diagnosed incidents.

    Args:
        settings: of the incident manager.
        policy: makes the decisions.
        snapshots: called only when a decision is due.
        ledger: takes every entry before the state changes.
        memory: reports and diagnoses of the run.
    """

    def __init__(
        self, settings: IncidentSettings, policy: PolicyCalls, snapshots: Snapshots, ledger: Ledger, memory: RunMemory
    ) -> None:
        self._settings = settings
        self._policy = policy
        self._snapshots = snapshots
        self._ledger = ledger
        self._memory = memory
        # Number of times that the policy chose to wait, by incident and code.
        self._waited: dict[tuple[int, str], int] = {}

    @property
    def memory(self) -> DecisionsMemory:
        """What later decisions depend on beside journal and reports."""
        return DecisionsMemory(dict(self._waited))

    def restore(self, run: RunMemory, memory: DecisionsMemory) -> None:
        """Continue from a memory, with the reports and diagnoses of `run`."""
        self._memory, self._waited = run, dict(memory.waited)

    def order_for(self, incident: Incident, diagnosis: Diagnosis, step: StepId) -> Order | None:
        """The order for a diagnosed incident, if one is due; may close the incident."""
        settings, state = self._settings, self._ledger.state
        if settings.mode is GuardMode.OBSERVE or incident.advised:
            return None
        if incident.tried and incident.tried[-1].outcome is OutcomeKind.UNVERIFIED:
            return self._give_up(incident, step, IncidentState.ESCALATED, f"{incident.reason}; a person must look")
        if not settings.acts_on(incident.family) and (undo := self._undo(incident, step)) is not None:
            return undo
        last = max([tried.paid_step for tried in incident.tried[-1:]] + [incident.unconfirmed_at or 0])
        if last and step.paid_step - last < settings.cooldown_steps:
            return None
        if incident.unconfirmed >= UNCONFIRMED:
            reason = f"the remedy was not confirmed {incident.unconfirmed} times"
            return self._give_up(incident, step, IncidentState.ESCALATED, reason)
        spent = dict(state.spent).get(incident.family, 0)
        if spent >= settings.budget:
            reason = f"guard.budget={settings.budget} remedies for family {incident.family} are used up"
            return self._give_up(incident, step, IncidentState.GIVEN_UP, reason)
        ctx = self._context(incident, diagnosis, step, settings.budget - spent)
        ruling = self._policy.decide(ctx, step, incident.id)
        remedy = ruling.decision.remedy
        return self._wait(incident, step, ruling) if remedy is None else self._order(incident, ruling, remedy, ctx)

    def instead(self, incident: Incident, diagnosis: Diagnosis, step: StepId) -> Order | None:
        """The order in place of a costly one without a ground: the policy is called again, and told that there is none.

        None where it wants a costly remedy again or does nothing; the incident then waits out its cooldown. `step` is
        the one under way; the policy's is the last one that was judged.
        """
        spent, judged = dict(self._ledger.state.spent).get(incident.family, 0), self._memory.reports[-1].id
        ctx = replace(self._context(incident, diagnosis, judged, self._settings.budget - spent), ground=None)
        ruling = self._policy.decide(ctx, judged, incident.id)
        remedy = ruling.decision.remedy
        if remedy is None or remedy.rollback or remedy.halt or remedy.levers.freeze_policy == 1:
            return None
        return self._order(incident, ruling, remedy, replace(ctx, step=step))

    def _context(self, incident: Incident, diagnosis: Diagnosis, step: StepId, budget_left: int) -> PolicyContext:
        return PolicyContext(
            step=step,
            diagnosis=replace(diagnosis, place=incident.place) if incident.tried else diagnosis,
            tried=incident.tried,
            levers=self._ledger.state.levers,
            nominal=self._settings.nominal_at(step.step),
            snapshots=self._snapshots(),
            budget_left=budget_left,
            reports=self._memory.reports,
            state=self._policy.decision_state,
            ground=self._ground(incident),
            given=self._ledger.state.given(incident.code),
            facts=self._settings.facts,
        )

    def _ground(self, incident: Incident) -> Ground | None:
        """What allows a costly remedy, by the probes of the steps so far."""
        probes = probes_at_decision(self._ledger.state, self._memory, incident, self._settings)
        return ground_of(self._memory, incident, probes)

    def _wait(self, incident: Incident, step: StepId, ruling: Ruling) -> Order | None:
        """Note that the policy waits. It is called again at later steps; after the limit the incident is escalated."""
        reason = ruling.decision.reason
        key = incident.id, incident.code
        is_first = key not in self._waited
        # A check that was asked for may show what the policy goes by.
        waited = self._waited[key] = self._waited.get(key, 0) + (incident.waiting is None)
        if incident.tried:
            gave_up = f"the policy gave up: {reason}"
            return self._give_up(incident, step, IncidentState.ESCALATED, gave_up, policy=ruling.policy)
        if is_first:
            self._ledger.note(EntryKind.HELD, step, incident.id, policy=ruling.policy, reason=reason)
        if waited < self._settings.verify_steps:
            return None
        return self._give_up(incident, step, IncidentState.ESCALATED, reason)

    def _order(self, incident: Incident, ruling: Ruling, remedy: Remedy, ctx: PolicyContext) -> Order | None:
        reason = ruling.decision.reason
        restore = restore_step(ctx) if remedy.rollback else None
        critic = restore_step(ctx) if Action.RESET_CRITIC in remedy.actions else None
        # A remedy that did not help is undone before the next one is tried.
        levers = merged(levers_before(self._ledger.state, incident), remedy.levers)
        number = self._ledger.state.orders + 1
        values: dict[str, Scalar] = {"order": number, "remedy": remedy.name, "reason": reason}
        if remedy.measured_by:
            values["measured_by"] = ", ".join(remedy.measured_by)
        values["shown"] = any(map(is_shown, ctx.diagnosis.symptoms))
        values["sets"] = ", ".join(moved(remedy.levers))
        if ctx.diagnosis.place is not None:
            values["place"] = ctx.diagnosis.place.value
        if remedy.actions:
            values |= {"actions": ", ".join(remedy.actions), "critic_step": critic}
        values |= {"policy": ruling.policy, "restore_step": restore, "halt": remedy.halt}
        # What is approved is rebuilt from its entry.
        values |= {"skip_batches": remedy.skip_batches} if remedy.skip_batches else {}
        apart = ctx.diagnosis.onset_low if remedy.quarantine else None
        values |= {"quarantine_from": apart} if remedy.quarantine else {}
        values |= dict(lever_fields(levers))
        # Later than the diagnosis in the journal an alarm may have shown that the fault began earlier.
        values["onset_low"] = ctx.diagnosis.onset_low
        if ruling.decision.ask or not self._settings.acts_on(incident.family):
            self._ledger.note(EntryKind.ADVISED, ctx.step, incident.id, **values)
            return self._undo(incident, ctx.step)
        self._ledger.note(EntryKind.DECIDED, ctx.step, incident.id, **values)
        return Order(
            number, incident.id, OrderRole.REMEDY, remedy.name, reason, levers, restore, remedy.skip_batches,
            remedy.halt, remedy.actions, critic, apart,
        )  # fmt: skip

    def _undo(self, incident: Incident, step: StepId) -> Order | None:
        """The order that takes back what a person has approved and what did not help; None for nothing.

        The next remedy may wait long for a person, or never be given.
        """
        state = self._ledger.state
        home = levers_before(state, incident)
        if home == state.levers:
            return None
        order = Order(state.orders + 1, incident.id, OrderRole.UNDO, OrderRole.UNDO.value, incident.reason, home)
        return announce(self._ledger, step, order)

    def _give_up(
        self, incident: Incident, step: StepId, final: IncidentState, reason: str, **by: Scalar
    ) -> Order | None:
        """Close the incident: undo what did not help, and end the run if that is configured and has a ground.

        `by` names the policy where its decision closes the incident.
        """
        state = self._ledger.state
        levers = self._levers_after(incident)
        halts = self._settings.halts and self._settings.acts_on(incident.family)
        if halts and self._ground(incident) is None:
            stands = probes_at_decision(state, self._memory, incident, self._settings).stands
            why = (
                "held-out accuracy stands and no broken identity of the fault shows damage"
                if stands
                else "only telemetry speaks against it"
            )
            halts, reason = False, f"{reason}; the run goes on, because {why}"
        self._ledger.note(EntryKind.CLOSED, step, incident.id, state=final.value, reason=reason, **by)
        if not self._may_act(incident) or (levers == state.levers and not halts):
            return None
        role = OrderRole.HALT if halts else OrderRole.UNDO
        order = Order(state.orders + 1, incident.id, role, role.value, reason, levers, halt=halts)
        return announce(self._ledger, step, order)

    def _may_act(self, incident: Incident) -> bool:
        """Whether orders for an incident are carried out: by the settings, or to end what a person has approved."""
        return self._settings.acts_on(incident.family) or bool(incident.tried)

    def _levers_after(self, incident: Incident) -> Levers:
        """The levers that stay when an incident is left to people: none that was not shown to help.

        One that contains the fault stays unless its cause is over, after a remedy that could not be verified, and where
        held-out accuracy stood against everything costlier: it stands under these levers.
        """
        state, last = self._ledger.state, incident.tried[-1] if incident.tried else None
        stood = incident.unconfirmed >= UNCONFIRMED and last is not None and last.outcome is OutcomeKind.INEFFECTIVE
        if last is None or not (stood or last.outcome is OutcomeKind.UNVERIFIED):
            return levers_before(state, incident)
        plan, window = plan_of(incident.code, incident.place), self._memory.reports[-self._settings.return_after :]
        reference = self._memory.reference_of(incident.id)
        over = plan.cause_is_over(state.levers_of(incident.id), window, reference)
        return levers_home(state, incident, last.before, () if over else plan.containing)


def announce(ledger: Ledger, step: StepId, order: Order) -> Order:
    """Write an order that no policy has made to the journal, and return it."""
    ledger.note(EntryKind.RETURNING, step, order.incident, order=order.number, remedy=order.remedy, reason=order.reason)
    return order
