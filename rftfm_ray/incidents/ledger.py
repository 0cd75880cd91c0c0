"""The controller's memory: an entry is written, then it counts."""

from __future__ import annotations

from collections.abc import Callable

from rftfm_ray.incidents.state import Entry, EntryKind, GuardState, Scalar, fold
from rftfm_ray.types import StepId


class Ledger:
    """Numbers entries, hands them to `sink`, and folds them into the state once that has returned."""

    def __init__(self, sink: Callable[[Entry], None]) -> None:
        self._sink = sink
        self._seq = 0
        self.state = GuardState()

    def write(self, kind: EntryKind, step: StepId, incident: int, fields: tuple[tuple[str, Scalar], ...] = ()) -> Entry:
        """One more entry. When the sink raises, nothing has happened."""
        entry = Entry(self._seq + 1, kind, step, incident, fields)
        after = fold(self.state, entry)
        self._sink(entry)
        self._seq += 1
        self.state = after
        return entry
