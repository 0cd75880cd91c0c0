"""The ledger: writes every entry before it changes the state, and after a restart writes none of them a second time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from rftfm_ray.errors import GuardError
from rftfm_ray.incidents.state import Entry, EntryKind, GuardState, Scalar, fold, replay
from rftfm_ray.types import StepId

Sink: TypeAlias = Callable[[Entry], None]
"""Writes one entry; raises when it cannot."""

# Fields that decide what was done; figures beside them may differ in their last digit after a restart.
_DECISIVE = (
    "code", "order", "remedy", "restore_step", "restored", "outcome", "state", "change", "name", "policy", "check",
)  # fmt: skip


def _unread(_: Entry) -> None:
    """Ignore an entry that the journal already holds."""


@dataclass(frozen=True, slots=True)
class Journalled:
    """What a journal held when its ledger restarted.

    Attributes:
        entries: all of them, in order.
        seq: number of entries that the restored state already contains; the later ones are made again and compared.
        sink: takes each entry that is made again, instead of the sink that writes.
    """

    entries: tuple[Entry, ...] = ()
    seq: int = 0
    sink: Sink = _unread


class Ledger:
    """Numbers entries, passes them to `sink`, and folds them into the state after it has returned.

    Args:
        sink: writes new entries.
        journalled: what the journal already holds, after a restart. As long as there are such entries, an entry that
            is noted must be the next of them; it is folded and not written.
    """

    def __init__(self, sink: Sink, journalled: Journalled | None = None) -> None:
        self._sink = sink
        self._past = journalled or Journalled()
        self._seq = self._past.seq
        self.state = replay(self._past.entries[: self._seq])

    @property
    def seq(self) -> int:
        """Number of entries that the state contains."""
        return self._seq

    def write(self, kind: EntryKind, step: StepId, incident: int, fields: tuple[tuple[str, Scalar], ...] = ()) -> Entry:
        """Write an entry. When the sink raises, the state does not change.

        Raises:
            GuardError: when the journal holds another entry with this number.
        """
        entry, sink = Entry(self._seq + 1, kind, step, incident, fields), self._sink
        if self._seq < len(self._past.entries):
            entry, sink = _same(self._past.entries[self._seq], entry), self._past.sink
        after: GuardState = fold(self.state, entry)
        sink(entry)
        self._seq += 1
        self.state = after
        return entry

    def note(self, kind: EntryKind, step: StepId, incident: int, **values: Scalar) -> Entry:
        """Write an entry whose fields are keywords."""
        return self.write(kind, step, incident, tuple(values.items()))


def _same(written: Entry, made: Entry) -> Entry:
    """The written entry.

    Raises:
        GuardError: when the entry that was made in its place decides something else.
    """

    def decision(entry: Entry) -> tuple[object, ...]:
        values = dict(entry.fields)
        return entry.kind, entry.id, entry.incident, *(values.get(name) for name in _DECISIVE)

    if decision(written) != decision(made):
        raise GuardError(
            f"Journal entry {written.seq} says {written.kind} at step {written.id.step}, and the restarted controller "
            f"came to {made.kind} at step {made.id.step}; start the run again from a checkpoint with --resume."
        )
    return written
