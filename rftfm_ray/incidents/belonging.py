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
    return incident.state is not IncidentState.DIAGNOSED or bool(incident.tried)
