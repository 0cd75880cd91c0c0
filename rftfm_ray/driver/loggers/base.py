"""What a logger of a run is handed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Note:
    """What the guard did or saw.

    Attributes:
        consumed: step at which, as it is counted on the axis.
        step: of training.
        incident: its number.
        code: of its fault.
        event: one word for what happened, as `guard.on_incident` is told it.
        text: the same in plain words, with the reason.
    """

    consumed: int
    step: int
    incident: int
    code: str
    event: str
    text: str


class RunLogger(Protocol):
    """One logger. Each call may raise anything."""

    def figures(self, values: Mapping[str, float], consumed: int) -> None:
        """Log named numbers at a consumed step."""

    def note(self, note: Note) -> None:
        """Mark what the guard did."""

    def close(self) -> None:
        """Write what is left."""
