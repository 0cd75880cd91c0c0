"""Which open incident a diagnosis belongs to. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from rftfm_ray.incidents.settings import IncidentSettings
from rftfm_ray.incidents.state import Incident
from rftfm_ray.taxonomy import UNKNOWN
from rftfm_ray.types import StepId
from rftfm_ray.verdicts import Diagnosis, IncidentState


def incident_for(diagnosis: Diagnosis, incidents: Sequence[Incident]) -> Incident | None:
    """The open incident of a diagnosis: one of the same code, else one without any remedy yet; None without one."""
    same = [i for i in incidents if i.code == diagnosis.code]
    unnamed = [i for i in incidents if i.state is IncidentState.SUSPECTED]
    untouched = [i for i in incidents if i.state is IncidentState.DIAGNOSED and not i.tried and not i.advised]
    return next(iter((*same, *unnamed, *untouched)), None)


def is_remediated(incident: Incident, step: StepId, other: Diagnosis, settings: IncidentSettings) -> bool:
    """Whether an incident's remediation is under way, so that another diagnosis is an after-effect of it.

    A verdict that waits for a probe hides no other fault that has a name.
    """
    if incident.state is IncidentState.VERIFYING and other.code != UNKNOWN:
        return step.paid_step - incident.tried[-1].paid_step < settings.verify_steps
    # A decision that waits for a person, or that one has turned down, is no remediation that is under way.
    return incident.state is not IncidentState.DIAGNOSED or (bool(incident.tried) and not incident.advised)


ASIDE = (
    "tool_instance", "tool_retries", "refill_rounds", "regrade_rate", "mask_undecoded", "mask_unreplayed",
    "mask_truncated", "rollout_path",
)  # fmt: skip
"""Levers that choose what is trained on, and by which way it comes: no fault of another family follows from them."""


def began_under(incident: Incident, incidents: Sequence[Incident], levers: Sequence[str]) -> str:
    """The other fault that began under an incident's remedy and not because of it, in words; empty for none.

    Args:
        incident: whose remedy is verified.
        incidents: all of the run.
        levers: off nominal that were moved for it.
    """
    last = incident.tried[-1]
    if last.undone or not set(levers) <= set(ASIDE):
        return ""
    for other in incidents:
        is_named = other.code != UNKNOWN and other.state is not IncidentState.SUSPECTED
        harms = other.state is not IncidentState.RESOLVED and other.family != incident.family
        if is_named and harms and other.opened.paid_step >= last.paid_step and other.id != incident.id:
            return f"incident #{other.id} ({other.code}) began under the remedy"
    return ""
