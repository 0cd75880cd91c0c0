"""Ends the journal of a run whose guard is lost for good: the driver says there from which step on nobody watches."""

from __future__ import annotations

from pathlib import Path

from rftfm_ray.errors import RftfmError
from rftfm_ray.incidents.ledger import Journalled, Ledger
from rftfm_ray.incidents.messages import GuardTotals
from rftfm_ray.incidents.state import Entry, EntryKind
from rftfm_ray.incidents.summaries import summarize
from rftfm_ray.telemetry.journal import Journal, read_journal
from rftfm_ray.types import StepId


class UnguardedJournal:
    """The journal after its controller was lost; it is read and continued. Monitor and controller must have ended.

    Args:
        path: of the journal. Where it cannot be read or written, nothing is journalled: the run has other records.
        judged: the last step with a verdict.
    """

    def __init__(self, path: Path, judged: StepId) -> None:
        self._judged = judged
        self._entries: list[Entry] = []
        self._ledger: Ledger | None = None
        try:
            journal = Journal(path)
            journal.drop_partial_line()
            entries, _ = read_journal(path)
            self._ledger = Ledger(journal.write, Journalled(entries, len(entries)))
        except (RftfmError, OSError):
            self._ledger = None

    def note(self, step: StepId, reason: str) -> tuple[Entry, ...]:
        """Journal that the guard is lost; returns the new entries."""
        return self._write(EntryKind.LOST, step, reason=reason, judged=self._judged.step)

    def finish(self, last: StepId) -> GuardTotals:
        """End the journal at the last step; returns its totals."""
        unguarded = max(0, last.paid_step - self._judged.paid_step)
        if self._ledger is None:
            return GuardTotals(unguarded=unguarded)
        incidents = self._ledger.state.incidents
        remedies = sum(len(incident.tried) for incident in incidents)
        still_open = len(self._ledger.state.open_incidents())
        entries = self._write(
            EntryKind.ENDED, last, incidents=len(incidents), remedies=remedies, open=still_open, unguarded=unguarded
        )
        return GuardTotals(tuple(map(summarize, incidents)), remedies, entries, unguarded=unguarded)

    def _write(self, kind: EntryKind, step: StepId, **values: str | int) -> tuple[Entry, ...]:
        if self._ledger is None:
            return ()
        try:
            return (self._ledger.write(kind, step, 0, tuple(values.items())),)
        except RftfmError:
            return ()
