"""Confirms orders at their boundary: a costly one needs a ground, and none is given a third time at one step. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rftfm_ray.diagnosis.classify import CLAIMED
from rftfm_ray.diagnosis.fingerprints import explained_signals
from rftfm_ray.incidents.memory import RunMemory
from rftfm_ray.incidents.orders import Order, OrderRole
from rftfm_ray.incidents.settings import IncidentSettings
from rftfm_ray.incidents.state import GuardState, Incident
from rftfm_ray.policies.api import MOST_TIMES
from rftfm_ray.policies.grounds import Ground, HeldOut, ground_for
from rftfm_ray.policies.playbook import Cause, plan_of
from rftfm_ray.taxonomy import UNKNOWN
from rftfm_ray.types import StepId
from rftfm_ray.verdicts import Diagnosis, Evidence, StepReport


def needs_ground(order: Order, state: GuardState) -> bool:
    """Whether an order is a remedy that gives up steps, stops learning, or ends the run."""
    freezes = order.levers.freeze_policy == 1 and state.levers.freeze_policy != 1
    return order.role is OrderRole.REMEDY and (order.restore_step is not None or order.halt or freezes)


def held_out(state: GuardState, memory: RunMemory, incident: Incident, now: float, size: int) -> HeldOut:
    """Held-out accuracy before an incident's fault and now.

    The probe before the first step is the one before a fault that leaves no later one. An onset that is dated too late
    has its harm before it: the accuracy that a remedy has to give back counts as well.
    """
    before = memory.probe_before(incident.onset_low)
    if math.isnan(before) and state.first_probe is not None:
        before = state.first_probe
    due = math.nan if incident.probe is None else incident.probe
    return HeldOut(max((p for p in (before, due) if not math.isnan(p)), default=math.nan), now, size)


def is_after_effect(diagnosis: Diagnosis, state: GuardState, memory: RunMemory, size: int) -> bool:
    """Whether a diagnosis is taken for what a remedy in force does to telemetry, and opens no incident.

    A lever that contains a fault makes the run another one than its past. Only telemetry speaks, held-out accuracy
    stands, and nothing is given up by waiting: the fault has no remedy, not enough speaks for its name, or what its
    cause would show in is as it should be. It is not the fault that the lever was moved for.
    """
    owners = {state.incident(owner).code for _, owner in state.owners if owner}
    is_urgent = diagnosis.probability >= CLAIMED and _cause_shows(diagnosis, memory.reports)
    evidence = [symptom.evidence for symptom in diagnosis.symptoms if symptom.alarm]
    if not owners or diagnosis.code in owners or is_urgent or set(evidence) != {Evidence.TELEMETRY}:
        return False
    before = memory.best_probe(diagnosis.onset, memory.reports[-1].id.step, state.first_probe)
    return HeldOut(math.nan if before is None else before, memory.probe_now(), size).stands


def _cause_shows(diagnosis: Diagnosis, reports: Sequence[StepReport]) -> bool:
    """Whether a fault has remedies, and the signals of its cause show it since its onset."""
    plan = plan_of(diagnosis.code, diagnosis.place)
    before = [report for report in reports if report.id.step < diagnosis.onset_low]
    since = [report for report in reports if report.id.step >= diagnosis.onset_low]
    return bool(plan.remedies) and plan.cause((), since, before) is Cause.ACTIVE


def ground_of(memory: RunMemory, incident: Incident, probes: HeldOut) -> Ground | None:
    """What allows a costly remedy for an incident; None where nothing does.

    An alarm counts while it is active: a broken identity of earlier says nothing of the weights in force. A fault
    without a name has broken whatever is broken, unless held-out accuracy stands.
    """
    diagnosis = memory.active_diagnosis_of(incident.id)
    explained = frozenset[str]() if diagnosis is None else explained_signals(diagnosis)
    if diagnosis is not None and diagnosis.code == UNKNOWN and not probes.stands:
        explained = frozenset(symptom.signal for symptom in diagnosis.symptoms)
    return ground_for(diagnosis, memory.reports, probes, explained)


def refusal(order: Order, state: GuardState, step: StepId, snapshots: tuple[int, ...]) -> str:
    """Why a remedy must not be carried out at all, whatever its ground; empty when it may.

    Args:
        order: about to begin.
        state: of the guard.
        step: the one under way.
        snapshots: steps that the learner can go back to now.
    """
    if order.role is not OrderRole.REMEDY:
        return ""
    for needed in (order.restore_step, order.critic_step):
        if needed is not None and needed not in snapshots:
            # A boundary that did not wait for its verdict has let an update add a snapshot and drop this one.
            return f"the snapshot of step {needed} has made way for a newer one"
    place = step.step - 1 if order.restore_step is None else order.restore_step
    code = state.incident(order.incident).code
    times = sum(tried.remedy == order.remedy and tried.step == place for tried in state.given(code))
    if times >= MOST_TIMES:
        return f"{order.remedy} was applied {times} times at step {place} for {code}, and the fault came back"
    return ""


def probes_at_decision(state: GuardState, memory: RunMemory, incident: Incident, settings: IncidentSettings) -> HeldOut:
    """Held-out accuracy before an incident's fault and by the newest probe, for a decision between two boundaries.

    A probe that was answered in part by weights from before the fault shows a loss, and cannot show that there is none.
    """
    newest = held_out(state, memory, incident, memory.probe_now(), settings.probe_size)
    if newest.fell:
        return newest
    since = incident.onset + max(1, settings.probe_steps)
    return held_out(state, memory, incident, memory.probe_now(since), settings.probe_size)


def doubt(probes: HeldOut) -> str:
    """Why a costly remedy without a ground is not carried out."""
    if probes.stands:
        accuracy = f"held-out accuracy is {probes.now:.3f}, was {probes.before:.3f}"
        return f"{accuracy}: it stands, and no broken identity of the fault shows damage"
    known = f"is {probes.now:.3f}" if not math.isnan(probes.now) else "is not known"
    was = f", was {probes.before:.3f}" if not math.isnan(probes.before) else ""
    return f"held-out accuracy {known}{was}, and only telemetry speaks for it"
