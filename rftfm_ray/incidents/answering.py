"""Whether a person's answer to a decision that waits can still be followed. Pure.

`rftfm approve` and `rftfm reject` send a `Request`; the incident manager follows it or says in one sentence why not,
and journals either.
"""

from __future__ import annotations

from dataclasses import replace

from rftfm_ray.errors import ConfigError
from rftfm_ray.incidents.advice import AdvisedOrder, merged
from rftfm_ray.incidents.confirmation import refusal
from rftfm_ray.incidents.ledger import Ledger
from rftfm_ray.incidents.orders import Order
from rftfm_ray.incidents.requests import Reply, Request, Wish
from rftfm_ray.incidents.settings import IncidentSettings
from rftfm_ray.incidents.state import EntryKind, GuardState, Incident, Scalar, levers_before
from rftfm_ray.policies.levers import check_levers
from rftfm_ray.types import GuardMode, StepId
from rftfm_ray.verdicts import IncidentState


def follow(
    ledger: Ledger, settings: IncidentSettings, request: Request, step: StepId, snapshots: tuple[int, ...]
) -> Reply:
    """Journal a person's answer, or why it cannot be followed; an approved remedy is then due as an order.

    Args:
        ledger: of the run.
        settings: of the incident manager.
        request: of the person.
        step: the one under way.
        snapshots: steps that the learner can go back to.
    """
    state = ledger.state
    given: dict[str, Scalar] = {"by": request.by, "given_s": round(request.time_s, 3)}
    if request.reason:
        given["reason"] = request.reason
    waiting = _waiting(state, settings, request)
    why = waiting if isinstance(waiting, str) else ""
    if not isinstance(waiting, str) and request.wish is Wish.APPROVE:
        why = _not_permitted(state, settings, waiting, step, snapshots)
    if why or isinstance(waiting, str):
        known = any(incident.id == request.incident for incident in state.incidents)
        given |= {"wish": request.wish.value, "asked": request.incident, "reason": why}
        ledger.note(EntryKind.DECLINED, step, request.incident if known else 0, **given)
        return Reply(request.id, False, why)
    incident, advice = waiting
    about: dict[str, Scalar] = {"remedy": advice.order.remedy, "advice": advice.seq, **given}
    named = f"{advice.order.remedy} for incident #{incident.id} ({incident.code})"
    if request.wish is Wish.REJECT:
        ledger.note(EntryKind.REJECTED, step, incident.id, **about)
        return Reply(request.id, True, f"Rejected: {named}; nothing is done about it.")
    ledger.note(
        EntryKind.APPROVED, step, incident.id, order=state.orders + 1, restore_step=advice.order.restore_step, **about
    )
    return Reply(request.id, True, f"Approved: {named}, as order {state.orders + 1}.")


def approved_order(state: GuardState) -> Order | None:
    """The first order that a person has approved and that is not carried out yet."""
    approved = [
        (incident.ordered, incident, incident.advice.order)
        for incident in state.open_incidents()
        if incident.ordered and incident.advice is not None
    ]
    if not approved:
        return None
    # Orders are carried out in the order of their numbers: a smaller one would be taken for one that was given.
    number, incident, advised = min(approved, key=lambda item: item[0])
    return _order(state, incident, advised, number)


def note_pause(ledger: Ledger, step: StepId, incident: int, waited_s: float) -> tuple[int, ...]:
    """Journal that the run ends until a person answers; the snapshots that remedies which wait go back to."""
    open_incidents = ledger.state.open_incidents()
    waiting = [advice.order for each in open_incidents if (advice := each.waiting_advice) is not None]
    about = ledger.state.incident(incident).waiting_advice
    remedy = "" if about is None else about.order.remedy
    ledger.note(EntryKind.PAUSED, step, incident, remedy=remedy, waited_s=round(waited_s, 1))
    steps = {step for order in waiting for step in (order.restore_step, order.critic_step)}
    return tuple(sorted(step for step in steps if step is not None))


def _order(state: GuardState, incident: Incident, advised: Order, number: int) -> Order:
    return replace(advised, number=number, levers=merged(levers_before(state, incident), advised.levers))


def _waiting(state: GuardState, settings: IncidentSettings, request: Request) -> tuple[Incident, AdvisedOrder] | str:
    """The incident of a request with the decision that waits; why none does where that is so."""
    number = request.incident
    incident = next((each for each in state.incidents if each.id == number), None)
    if incident is None:
        known = f"its incidents are #1 to #{len(state.incidents)}" if state.incidents else "it has none so far"
        return f"There is no incident #{number} in this run: {known}."
    about = f"incident #{number} ({incident.code})"
    if incident.state.final:
        return f"The decision is gone: {about} is {_ended(incident)} ({incident.reason or 'no reason given'})."
    advice = incident.waiting_advice
    if advice is None:
        return _nothing_waits(incident, about, settings)
    if request.advice not in (0, advice.seq):
        remedy = advice.order.remedy
        return f"The decision is superseded: {remedy} waits for {about} now; read `rftfm status` and answer again."
    return incident, advice


def _ended(incident: Incident) -> str:
    return {IncidentState.ESCALATED: "escalated to a person", IncidentState.GIVEN_UP: "given up"}.get(
        incident.state, incident.state.value
    )


def _nothing_waits(incident: Incident, about: str, settings: IncidentSettings) -> str:
    if settings.mode is GuardMode.OBSERVE:
        return f"No decision waits for {about}: guard.mode=observe decides nothing; run with guard.mode=advise."
    if incident.ordered:
        return f"The decision about {about} was made already: order {incident.ordered} is about to be carried out."
    if incident.advised:
        return f"The decision about {about} was rejected already, and no other one waits."
    if incident.tried:
        return f"No decision waits for {about}: {incident.tried[-1].remedy} was applied, and it is {incident.state}."
    return f"No decision waits for {about}: it is {incident.state}, and no remedy was decided on."


def _not_permitted(
    state: GuardState,
    settings: IncidentSettings,
    waiting: tuple[Incident, AdvisedOrder],
    step: StepId,
    snapshots: tuple[int, ...],
) -> str:
    """Why the remedy that waits must not be carried out any more; empty when it may."""
    incident, advice = waiting
    order = _order(state, incident, advice.order, state.orders + 1)
    why = refusal(order, state, step, snapshots)
    if not why and dict(state.spent).get(incident.family, 0) >= settings.budget:
        why = f"guard.budget={settings.budget} remedies for family {incident.family} are used up"
    if not why:
        try:
            check_levers(order.levers)
        except ConfigError as error:
            why = str(error).rstrip(".")
    return (
        f"{advice.order.remedy} for incident #{incident.id} ({incident.code}) is no longer permitted: {why}."
        if why
        else ""
    )
