"""The incident manager's memory: an entry is written first, and counts then."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from rftfm_ray.incidents.state import Entry, EntryKind, GuardState, Scalar, fold
from rftfm_ray.types import StepId

Sink: TypeAlias = Callable[[Entry], None]
"""Where entries are written; it raises when it cannot."""


class Ledger:
    """Numbers entries, hands them to `sink`, and folds them into the state once that has returned."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._seq = 0
        self.state = GuardState()

    def write(self, kind: EntryKind, step: StepId, incident: int, fields: tuple[tuple[str, Scalar], ...] = ()) -> Entry:
        """Write one more entry. When the sink raises, the state is as before."""
        entry = Entry(self._seq + 1, kind, step, incident, fields)
        after = fold(self.state, entry)
        self._sink(entry)
        self._seq += 1
        self.state = after
        return entry

    def note(self, kind: EntryKind, step: StepId, incident: int, **values: Scalar) -> Entry:
        """The same, with its fields as keywords."""
        return self.write(kind, step, incident, tuple(values.items()))
