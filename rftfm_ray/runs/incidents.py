"""Reads the incidents of a journal: sorts its entries by diagnosis, decision, action and verification.

Decisions rest on `incidents.state.replay`. This reader accepts any journal instead: a missing field leaves a gap and
never stops the reading.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from rftfm_ray.incidents.explaining import EXPLAINED, Explained, read_explained
from rftfm_ray.incidents.state import Entry, EntryKind, carries_remedy, next_state
from rftfm_ray.runs.words import clean, levers_in, number_of, text_of, to_count, value_of
from rftfm_ray.types import StepId
from rftfm_ray.verdicts import IncidentState, OutcomeKind, Place


@dataclass(slots=True)
class Remediation:
    """One remedy from the decision on. A step that has not happened, or is not recorded, is None."""

    decision: Entry
    confirmation: Entry | None = None
    applied: Entry | None = None
    failed: Entry | None = None
    outcome: Entry | None = None
    # What the verdict waits for, as far as it was said.
    awaited: Entry | None = None
    # What a person has said to a remedy that was advised.
    answer: Entry | None = None

    @property
    def remedy(self) -> str:
        """Its name."""
        return text_of(self.decision, "remedy") or "no remedy named"

    @property
    def advised(self) -> bool:
        """Whether it was only advised: a person who approves it makes it a decision."""
        return self.decision.kind is EntryKind.ADVISED and not self.approved

    @property
    def approved(self) -> bool:
        """Whether a person has approved it."""
        return self.answer is not None and self.answer.kind is EntryKind.APPROVED

    @property
    def orders(self) -> tuple[int, ...]:
        """Numbers of its order: as it was decided on, and as it was approved."""
        entries = [entry for entry in (self.decision, self.answer) if entry is not None]
        return tuple(to_count(number_of(entry, "order")) for entry in entries)

    @property
    def result(self) -> str:
        """Its result, in a word or two."""
        if self.outcome is not None:
            return text_of(self.outcome, "outcome") or "no verdict"
        if self.applied is not None:
            why = text_of(self.awaited, "reason") if self.awaited is not None else ""
            return f"not verified yet: {why}" if why else "not verified yet"
        if self.failed is not None:
            return "could not be applied"
        if self.confirmation is not None and self.confirmation.kind is EntryKind.UNCONFIRMED:
            return "not confirmed"
        if self.answer is not None and not self.approved:
            return f"rejected by {text_of(self.answer, 'by') or 'a person'}"
        return "advised only" if self.advised else "not applied yet"


@dataclass(slots=True)
class Incident:
    """One incident of the journal; `closed` is None while it is open."""

    id: int
    opened: StepId
    state: str = IncidentState.SUSPECTED.value
    closed: Entry | None = None
    remediations: list[Remediation] = field(default_factory=list)
    refusals: list[Entry] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)

    @property
    def code(self) -> str:
        """Code of the fault; `unknown` when no entry says it."""
        return self.text("code") or "unknown"

    @property
    def family(self) -> str:
        """Family of the fault; `unknown` when no entry says it."""
        return self.text("family") or "unknown"

    @property
    def place(self) -> Place | None:
        """Where the source sits, as far as an entry says it."""
        return next((place for place in Place if place.value == self.text("place")), None)

    @property
    def explained(self) -> Explained | None:
        """What the newest diagnosis rests on; None where no entry says it, as in journals of earlier versions."""
        return read_explained(self.text(EXPLAINED))

    @property
    def evidence(self) -> tuple[str, ...]:
        """Items of the evidence."""
        explained = self.explained
        if explained is not None:
            return tuple(sign.says for sign in explained.evidence)
        entry = self.newest_with("evidence")
        raw = value_of(entry, "evidence") if entry is not None else ""
        return tuple(item for part in str(raw).split("; ") if (item := clean(part)))

    def newest_with(self, name: str) -> Entry | None:
        """The newest diagnosis that has a field."""
        kinds = (EntryKind.OPENED, EntryKind.DIAGNOSED)
        having = (e for e in reversed(self.entries) if e.kind in kinds and value_of(e, name) is not None)
        return next(having, None)

    def text(self, name: str) -> str:
        """A field of the newest diagnosis that has it, as text; empty when none has."""
        entry = self.newest_with(name)
        return text_of(entry, name) if entry is not None else ""

    @property
    def end(self) -> str:
        """Its state for people and programs: mitigated, not resolved, where a remedy contains a cause that goes on."""
        if self.closed is None or self.state != IncidentState.RESOLVED:
            return self.state
        applied = [remediation.result for remediation in self.remediations if remediation.applied is not None]
        # A journal of an earlier version closes without the outcome.
        outcome = text_of(self.closed, "outcome") or (applied[-1] if applied else "")
        return OutcomeKind.MITIGATED.value if outcome == OutcomeKind.MITIGATED else self.state

    @property
    def reason(self) -> str:
        """Why it was closed; empty while it is open."""
        return text_of(self.closed, "reason") if self.closed else ""


@dataclass(frozen=True, slots=True)
class Mark:
    """A remedy that was applied, with the number that curves and table share."""

    number: int
    incident: Incident
    remediation: Remediation
    applied: Entry


def incidents_of(entries: Iterable[Entry]) -> tuple[Incident, ...]:
    """The incidents of a journal, in the order of their opening."""
    incidents: dict[int, Incident] = {}
    for entry in entries:
        if entry.incident <= 0:
            continue
        incident = incidents.setdefault(entry.incident, Incident(entry.incident, entry.id))
        incident.entries.append(entry)
        _take(incident, entry)
    return tuple(incidents.values())


def marks(incidents: Iterable[Incident]) -> tuple[Mark, ...]:
    """Remedies that were applied, numbered from 1 in the order of their application."""
    applied = [
        (r.applied, incident, r) for incident in incidents for r in incident.remediations if r.applied is not None
    ]
    applied.sort(key=lambda item: item[0].seq)
    return tuple(Mark(n, incident, r, entry) for n, (entry, incident, r) in enumerate(applied, start=1))


def levers_now(entries: Iterable[Entry]) -> dict[str, float]:
    """Levers in force off their nominal value after the last entry."""
    return next((levers for _, levers in reversed(lever_history(entries))), {})


def lever_history(entries: Iterable[Entry]) -> list[tuple[int, dict[str, float]]]:
    """Consumed steps at which levers were set, with all levers in force from then on; a missing lever is nominal."""
    moves = (EntryKind.STARTED, EntryKind.APPLIED)
    return [(entry.id.paid_step, levers_in(entry)) for entry in entries if entry.kind in moves]


def _take(incident: Incident, entry: Entry) -> None:
    kind = entry.kind
    incident.state = _state_after(incident.state, entry)
    if kind in (EntryKind.DECIDED, EntryKind.ADVISED):
        incident.remediations.append(Remediation(entry))
    elif kind in (EntryKind.APPROVED, EntryKind.REJECTED):
        advised = [r for r in incident.remediations if r.decision.kind is EntryKind.ADVISED and r.answer is None]
        if advised:
            advised[-1].answer = entry
    elif kind in (EntryKind.REFUSED, EntryKind.POLICY_FAILED, EntryKind.HELD):
        incident.refusals.append(entry)
    elif kind is EntryKind.CLOSED:
        incident.closed = entry
    elif carries_remedy(entry):
        _add(incident, entry)


def _state_after(state: str, entry: Entry) -> str:
    """The incident's next state, in the words of the entry where it has words of its own."""
    try:
        return next_state(IncidentState(state), entry).value
    except ValueError:
        # A journal of another version: it has a state or an outcome that this version does not know.
        return text_of(entry, "state") or "closed" if entry.kind is EntryKind.CLOSED else state


def _add(incident: Incident, entry: Entry) -> None:
    """Add an entry to the remediation that it belongs to."""
    remediation = _ordered(incident, entry)
    if remediation is None and entry.kind is EntryKind.APPLIED:
        # The journal lacks the decision; the applied remedy is shown anyway.
        remediation = Remediation(entry)
        incident.remediations.append(remediation)
    if remediation is None:
        return
    if entry.kind in (EntryKind.CONFIRMED, EntryKind.UNCONFIRMED):
        remediation.confirmation = entry
    elif entry.kind is EntryKind.APPLIED:
        remediation.applied = entry
    elif entry.kind is EntryKind.FAILED:
        remediation.failed = entry
    elif entry.kind is EntryKind.AWAITED:
        remediation.awaited = entry
    elif entry.kind is EntryKind.OUTCOME:
        remediation.outcome = entry


def _ordered(incident: Incident, entry: Entry) -> Remediation | None:
    """The remediation with the entry's order; the last one for an entry that names none."""
    order = to_count(number_of(entry, "order"))
    if not order:
        return incident.remediations[-1] if incident.remediations else None
    named = [r for r in incident.remediations if order in r.orders]
    return named[-1] if named else None
