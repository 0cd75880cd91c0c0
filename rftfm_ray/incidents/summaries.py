"""Incidents as the summary of a run has them. Pure."""

from __future__ import annotations

from rftfm_ray.incidents.state import Incident
from rftfm_ray.types import IncidentSummary
from rftfm_ray.verdicts import OutcomeKind


def summarize(incident: Incident) -> IncidentSummary:
    """The entry of an incident. One whose cause a remedy contains is mitigated, not resolved: the cause goes on."""
    outcome = incident.tried[-1].outcome if incident.tried else None
    return IncidentSummary(
        fault=incident.code,
        alarm_step=incident.opened.step,
        onset=incident.onset,
        state=outcome.value if outcome is OutcomeKind.MITIGATED else incident.state.value,
        remedies=tuple(tried.remedy for tried in incident.tried),
        outcome=None if outcome is None else outcome.value,
    )
