"""Returns levers to nominal, one lever and one step at a time, and what they move by design until then. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from rftfm_ray.incidents.incident import Incident
from rftfm_ray.incidents.memory import REPORTS, RunMemory
from rftfm_ray.incidents.settings import IncidentSettings
from rftfm_ray.incidents.state import GuardState
from rftfm_ray.policies.levers import beyond_usual
from rftfm_ray.policies.playbook import RemedyPlan, plan_of
from rftfm_ray.signals.effects import expected_sides
from rftfm_ray.signals.schema import value
from rftfm_ray.types import GuardMode, Levers
from rftfm_ray.verdicts import Expected, IncidentState, StepReport

# Scales return by this factor a step; every other lever returns at once.
FACTOR = 4.0
RATES = ("lr_scale", "critic_lr_scale")
SCALES = (*RATES, "kl_coef_scale")


@dataclass(frozen=True, slots=True)
class LeverReturn:
    """One lever's next step to its nominal value.

    It holds the lever's name, the incident it was moved for, all levers after the step, and the reason.
    """

    name: str
    incident: int
    levers: Levers
    reason: str


@dataclass(frozen=True, slots=True)
class KeptLever:
    """A lever that does not return: its name, the incident it was moved for, and the reason."""

    name: str
    incident: int
    reason: str


def next_return(
    state: GuardState, memory: RunMemory, settings: IncidentSettings, *, is_muted: bool = False
) -> LeverReturn | None:
    """The lever that may return now: no incident is open, and the fault that it was moved for is over.

    A containing lever waits until the cause of its fault has been silent for `return_after` steps, any other lever for
    `verify_steps`. Each relapse doubles the wait. One that only undoes what was measured goes home as soon as the cause
    is measured to be over: from then on it is the harm. A rate that was lowered goes home during its verification too,
    for what creeps shows nothing. One that nobody's remedy has set stays while a fault is muted (`is_muted`).
    """
    off, owners = moved(state.levers), dict(state.owners)
    if settings.mode is not GuardMode.ACT:
        # In advise the guard returns what a person has approved, and no lever of the checkpoint that a run began with.
        off = tuple(name for name in off if owners.get(name)) if settings.mode is GuardMode.ADVISE else ()
    open_incidents = state.open_incidents()
    reports, beyond = memory.since(state.moved_at), {spec.name for spec in beyond_usual(state.levers)}
    for name in off:
        owner = owners.get(name, 0)
        if (name, owner) in state.kept or (is_muted and not owner):
            continue
        code, plan = _plan(state, owner)
        contains = name in plan.containing
        if open_incidents and not (contains and _creeps(name, owner, open_incidents)):
            continue
        if name in beyond and contains:
            if _is_measured_over(plan, state.levers_of(owner), reports, memory.reference_of(owner)):
                nominal: dict[str, Any] = {name: None}
                return LeverReturn(name, owner, replace(state.levers, **nominal), "its cause is measured to be over")
            continue
        relapses = max(0, sum(incident.code == code for incident in state.incidents) - 1)
        # No longer than what is remembered: a wait beyond that would never end.
        wait = min(REPORTS, (settings.return_after if contains else settings.verify_steps) * 2**relapses)
        window = reports[-wait:]
        over = not contains or plan.cause_is_over(state.levers_of(owner), window, memory.reference_of(owner))
        if len(window) == wait and over:
            levers = one_step_back(state.levers, name, scheduled_share(reports[-1]))
            return LeverReturn(name, owner, levers, f"{wait} steps without {'its cause' if contains else 'an alarm'}")
    return None


def _creeps(name: str, owner: int, incidents: Sequence[Incident]) -> bool:
    """Whether a lowered rate only holds up the verdict on the rollback beside it, whose steps are not made again so."""
    if name not in RATES or len(incidents) > 1:
        return False
    (incident,) = incidents
    return incident.id == owner and incident.state is IncidentState.VERIFYING and incident.tried[-1].undone > 0


def _is_measured_over(
    plan: RemedyPlan, levers: Sequence[str], reports: Sequence[StepReport], reference: Sequence[StepReport]
) -> bool:
    """Whether the newest measurement since the levers moved shows that the cause is over."""
    measured = [r for r in reports if any(math.isfinite(value(r, name)) for name in plan.source_reads)]
    return plan.cause_is_over(levers, measured[-1:], reference)


def levers_to_keep(state: GuardState, memory: RunMemory) -> tuple[KeptLever, ...]:
    """Levers off nominal that must not return, and of which the journal does not say so yet.

    A lever under whose nominal setting the fault came back; one that contains a fault from before which there is no
    step, so that the run was never seen healthy without it; and one that hides the cause of its fault.
    """
    staying = []
    for name, owner in state.owners:
        if (name, owner) in state.kept:
            continue
        code, plan = _plan(state, owner)
        reason = ""
        # What only undoes a measured loss does harm where there is none, however often that comes back.
        only_undoes = name in plan.inverted_by or name in {spec.name for spec in beyond_usual(state.levers)}
        if state.has_relapsed(name, code) and not only_undoes:
            reason = f"{name} stays: {code} came back when it had returned"
        elif name in plan.containing and plan.needs_reference and not memory.reference_of(owner):
            reason = f"{name} stays: no step from before {code} shows that the run is healthy without it"
        elif name in plan.hidden_by:
            reason = f"{name} stays: nothing shows under it whether the cause of {code} is over"
        if reason:
            staying.append(KeptLever(name, owner, reason))
    return tuple(staying)


def expected_alarms(state: GuardState) -> Expected:
    """Alarms that are expected under the current levers, and open no incident.

    They are of the signals that a lever moves by design, and of a cause whose harm a lever contains.
    """
    plans = [(name, _plan(state, owner)[1]) for name, owner in state.owners if owner]
    sources = {side for name, plan in plans for side in plan.expected_under(name)}
    return Expected(expected_sides(state.levers), tuple(sorted(sources)))


def _plan(state: GuardState, owner: int) -> tuple[str, RemedyPlan]:
    """The code of the fault that a lever was moved for, and its plan; an empty one for a lever of no incident."""
    if not owner:
        return "", plan_of("", None)
    incident = state.incident(owner)
    return incident.code, plan_of(incident.code, incident.place)


def moved(levers: Levers) -> tuple[str, ...]:
    """Names of the levers that are off nominal."""
    return tuple(item.name for item in fields(Levers) if getattr(levers, item.name) is not None)


def one_step_back(levers: Levers, name: str, scheduled: float = 1.0) -> Levers:
    """`levers` with one of them a step nearer to its nominal value, which is None.

    `scheduled` is the current share of the rates by the schedule, to which their scales return.
    """
    # Early in a long warm-up the scheduled share is below the lower bound of the lever.
    full = max(0.01, scheduled) if name in RATES else 1.0
    nearer: dict[str, Any] = {name: _nearer(name, getattr(levers, name), full)}
    return replace(levers, **nearer)


def _nearer(name: str, setting: float, full: float) -> float | None:
    if name not in SCALES:
        return None
    if setting < full:
        after = setting * FACTOR
        return after if after < full else None
    after = setting / FACTOR
    return after if after > full else None


def scheduled_share(report: StepReport) -> float:
    """Share of the nominal learning rate by configuration and schedule at a step."""
    share = value(report, "schedule_factor") * math.exp(-value(report, "schedule_excess"))
    return share if share > 0 else 1.0
