"""Decisions that wait for a person, in the journal of a run that goes on or has paused."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rftfm_ray.incidents.requests import Wish
from rftfm_ray.incidents.state import Entry, EntryKind
from rftfm_ray.runs.counts import is_open
from rftfm_ray.runs.incidents import Incident, Remediation, incidents_of
from rftfm_ray.runs.words import text_of
from rftfm_ray.telemetry.rundir import CONTINUED, answer_command


@dataclass(frozen=True, slots=True)
class WaitingDecision:
    """A remedy that was advised for an open incident and that nobody has answered."""

    incident: Incident
    remediation: Remediation

    def commands(self, run_dir: Path) -> tuple[str, ...]:
        """The commands that approve and reject it."""
        return tuple(answer_command(run_dir, wish, self.incident.id) for wish in Wish)

    @property
    def words(self) -> str:
        """Which remedy waits, for what, since when, and why."""
        decision, about = self.remediation.decision, f"#{self.incident.id} ({self.incident.code})"
        why = text_of(decision, "reason")
        return f"{self.remediation.remedy} for incident {about}, since step {decision.id.step}" + (
            f": {why}" if why else ""
        )


def waiting(entries: Iterable[Entry]) -> tuple[WaitingDecision, ...]:
    """The decisions that wait for a person, by the journal alone: a run that has ended carries none of them out."""
    decisions = []
    for incident in incidents_of(entries):
        last = incident.remediations[-1] if incident.remediations else None
        is_waiting = last is not None and last.decision.kind is EntryKind.ADVISED and last.answer is None
        if last is not None and is_waiting and is_open(incident):
            decisions.append(WaitingDecision(incident, last))
    return tuple(decisions)


def pause_of(entries: Sequence[Entry]) -> Entry | None:
    """The entry with which a run has paused; None where it has not, or goes on."""
    kinds = (EntryKind.PAUSED, EntryKind.STARTED)
    newest = next((entry for entry in reversed(entries) if entry.kind in kinds), None)
    return newest if newest is not None and newest.kind is EntryKind.PAUSED else None


def continued_in(run_dir: Path) -> str:
    """The directory of the run that has continued a paused one; empty where none has."""
    try:
        return (run_dir / CONTINUED).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""
