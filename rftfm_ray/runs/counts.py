"""Counts of incidents and remedies: one function for terminal, `--json`, status, report and journal."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rftfm_ray.incidents.state import Entry
from rftfm_ray.runs.incidents import Incident, incidents_of, marks
from rftfm_ray.runs.words import number_of, to_count
from rftfm_ray.types import IncidentSummary
from rftfm_ray.verdicts import IncidentState

FINAL = tuple(state for state in IncidentState if state.final)


@dataclass(frozen=True, slots=True)
class Counts:
    """Counts of a run's journal.

    Attributes:
        incidents: alarms that opened an incident.
        open: incidents that are not closed.
        remedies: remedies of a policy that were applied; the undoing of one and the return of a lever are not counted.
    """

    incidents: int
    open: int
    remedies: int

    @property
    def closed(self) -> int:
        """Incidents that are closed."""
        return self.incidents - self.open


def counts_of(entries: Iterable[Entry]) -> Counts:
    """Counts of a journal."""
    incidents = incidents_of(entries)
    return Counts(len(incidents), sum(is_open(incident) for incident in incidents), len(marks(incidents)))


def is_open(incident: Incident) -> bool:
    """Whether an incident is not closed. A final state of another version comes with the entry that closes it."""
    return incident.closed is None and incident.state not in FINAL


def summaries_of(entries: Iterable[Entry]) -> tuple[IncidentSummary, ...]:
    """The incidents of a journal as the summary of a run lists them."""
    return tuple(map(_summary, incidents_of(entries)))


def _summary(incident: Incident) -> IncidentSummary:
    applied = [r for r in incident.remediations if r.applied is not None]
    last = applied[-1] if applied else None
    onset = incident.newest_with("onset")
    return IncidentSummary(
        fault=incident.code,
        alarm_step=incident.opened.step,
        onset=incident.opened.step if onset is None else to_count(number_of(onset, "onset")),
        state=incident.end,
        remedies=tuple(r.remedy for r in applied),
        outcome=last.result if last is not None and last.outcome is not None else None,
    )
