"""Incidents as stories: the journal's entries sorted to what was found, decided, done and verified.

Unlike `policies.state.replay`, which the controller goes by, this takes a journal as it is: a missing field leaves a
gap, and never ends the reading.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from rftfm_ray.incidents.state import Entry, EntryKind
from rftfm_ray.runs.words import clean, levers_in, number_of, text_of, value_of, whole
from rftfm_ray.types import StepId
from rftfm_ray.verdicts import IncidentState, OrderRole, OutcomeKind


@dataclass(slots=True)
class Treatment:
    """One remedy from the decision on. What has not happened, or is not recorded, is None."""

    decision: Entry
    confirmation: Entry | None = None
    applied: Entry | None = None
    failed: Entry | None = None
    outcome: Entry | None = None

    @property
    def remedy(self) -> str:
        """Its name."""
        return text_of(self.decision, "remedy") or "no remedy named"

    @property
    def advised(self) -> bool:
        """Whether it was only advised."""
        return self.decision.kind is EntryKind.ADVISED

    @property
    def result(self) -> str:
        """How far it came, in a word or two."""
        if self.outcome is not None:
            return text_of(self.outcome, "outcome") or "no verdict"
        if self.applied is not None:
            return "not verified yet"
        if self.failed is not None:
            return "could not be applied"
        if self.confirmation is not None and self.confirmation.kind is EntryKind.UNCONFIRMED:
            return "not confirmed"
        return "advised only" if self.advised else "not applied yet"


@dataclass(slots=True)
class Incident:
    """One incident as the journal tells it; `closed` is None while it is open."""

    id: int
    opened: StepId
    state: str = IncidentState.SUSPECTED.value
    closed: Entry | None = None
    treatments: list[Treatment] = field(default_factory=list)
    refusals: list[Entry] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)

    @property
    def code(self) -> str:
        """Code of the fault; `unknown` when no entry says it."""
        return self.found("code") or "unknown"

    @property
    def family(self) -> str:
        """Family of the fault; `unknown` when no entry says it."""
        return self.found("family") or "unknown"

    @property
    def evidence(self) -> tuple[str, ...]:
        """What was seen, item by item."""
        entry = self.finding("evidence")
        raw = value_of(entry, "evidence") if entry is not None else ""
        return tuple(item for part in str(raw).split("; ") if (item := clean(part)))

    def finding(self, name: str) -> Entry | None:
        """The newest diagnosis that has a field."""
        kinds = (EntryKind.OPENED, EntryKind.DIAGNOSED)
        found = (e for e in reversed(self.entries) if e.kind in kinds and value_of(e, name) is not None)
        return next(found, None)

    def found(self, name: str) -> str:
        """A field of the newest diagnosis that has it, as text; empty when none has."""
        entry = self.finding(name)
        return text_of(entry, name) if entry is not None else ""

    @property
    def reason(self) -> str:
        """Why it was closed; empty while it is open."""
        return text_of(self.closed, "reason") if self.closed else ""


@dataclass(frozen=True, slots=True)
class Mark:
    """A remedy that was applied, with the number that curves and table share."""

    number: int
    incident: Incident
    treatment: Treatment
    applied: Entry


def tell(entries: Iterable[Entry]) -> tuple[Incident, ...]:
    """The incidents of a journal, in the order of their opening."""
    found: dict[int, Incident] = {}
    for entry in entries:
        if entry.incident <= 0:
            continue
        incident = found.setdefault(entry.incident, Incident(entry.incident, entry.id))
        incident.entries.append(entry)
        _take(incident, entry)
    return tuple(found.values())


def marks(incidents: Iterable[Incident]) -> tuple[Mark, ...]:
    """Remedies that were applied, numbered from 1 in the order of their application."""
    applied = [
        (treatment.applied, incident, treatment)
        for incident in incidents
        for treatment in incident.treatments
        if treatment.applied is not None
    ]
    applied.sort(key=lambda item: item[0].seq)
    return tuple(Mark(n, incident, treatment, entry) for n, (entry, incident, treatment) in enumerate(applied, start=1))


def levers_now(entries: Iterable[Entry]) -> dict[str, float]:
    """Levers in force off their nominal value after the last entry."""
    return next((levers for _, levers in reversed(lever_history(entries))), {})


def lever_history(entries: Iterable[Entry]) -> list[tuple[int, dict[str, float]]]:
    """Paid steps at which levers were set, and all of them as they stood from then on; absent means nominal."""
    moves = (EntryKind.STARTED, EntryKind.APPLIED)
    return [(entry.id.paid_step, levers_in(entry)) for entry in entries if entry.kind in moves]


def _take(incident: Incident, entry: Entry) -> None:
    kind = entry.kind
    if kind in (EntryKind.OPENED, EntryKind.DIAGNOSED):
        incident.state = IncidentState.SUSPECTED if kind is EntryKind.OPENED else IncidentState.DIAGNOSED
    elif kind in (EntryKind.DECIDED, EntryKind.ADVISED):
        incident.treatments.append(Treatment(entry))
        incident.state = IncidentState.TREATING if kind is EntryKind.DECIDED else incident.state
    elif kind in (EntryKind.REFUSED, EntryKind.POLICY_FAILED, EntryKind.HELD):
        incident.refusals.append(entry)
    elif kind is EntryKind.CLOSED:
        incident.closed = entry
        incident.state = text_of(entry, "state") or "closed"
    else:
        _treat(incident, entry)


def _treat(incident: Incident, entry: Entry) -> None:
    """Add an entry to the treatment it belongs to. Returns and undos of levers, and a halt, are no treatment."""
    kind, returns = entry.kind, text_of(entry, "role") not in ("", OrderRole.REMEDY)
    treatment = None if returns else _ordered(incident, entry)
    if treatment is None and kind is EntryKind.APPLIED and not returns:
        # An odd journal, which lacks the decision: what was done is shown all the same.
        treatment = Treatment(entry)
        incident.treatments.append(treatment)
    if treatment is None:
        return
    if kind in (EntryKind.CONFIRMED, EntryKind.UNCONFIRMED):
        treatment.confirmation = entry
        incident.state = IncidentState.DIAGNOSED if kind is EntryKind.UNCONFIRMED else incident.state
    elif kind is EntryKind.APPLIED:
        treatment.applied = entry
        incident.state = IncidentState.VERIFYING
    elif kind is EntryKind.FAILED:
        treatment.failed = entry
    elif kind is EntryKind.OUTCOME:
        treatment.outcome = entry
        good = text_of(entry, "outcome") in (OutcomeKind.CURED, OutcomeKind.CONTAINED)
        incident.state = IncidentState.VERIFYING if good else IncidentState.DIAGNOSED


def _ordered(incident: Incident, entry: Entry) -> Treatment | None:
    """The treatment with the entry's order; the last one for an entry that names none."""
    order = whole(number_of(entry, "order"))
    if not order:
        return incident.treatments[-1] if incident.treatments else None
    named = [t for t in incident.treatments if whole(number_of(t.decision, "order")) == order]
    return named[-1] if named else None
