"""The ledger: writes every entry before it changes the state."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from rftfm_ray.incidents.state import Entry, EntryKind, GuardState, Scalar, fold
from rftfm_ray.types import StepId

Sink: TypeAlias = Callable[[Entry], None]
"""Writes one entry; raises when it cannot."""


class Ledger:
    """Numbers entries, passes them to `sink`, and folds them into the state after it has returned."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._seq = 0
        self.state = GuardState()

    def write(self, kind: EntryKind, step: StepId, incident: int, fields: tuple[tuple[str, Scalar], ...] = ()) -> Entry:
        """Write an entry. When the sink raises, the state does not change."""
        entry = Entry(self._seq + 1, kind, step, incident, fields)
        after = fold(self.state, entry)
        self._sink(entry)
        self._seq += 1
        self.state = after
        return entry

    def note(self, kind: EntryKind, step: StepId, incident: int, **values: Scalar) -> Entry:
        """Write an entry whose fields are keywords."""
        return self.write(kind, step, incident, tuple(values.items()))
