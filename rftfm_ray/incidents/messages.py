"""What the controller and the driver say to each other."""

from __future__ import annotations

from dataclasses import dataclass

from rftfm_ray.incidents.state import Entry
from rftfm_ray.types import IncidentSummary
from rftfm_ray.verdicts import DeclaredChange, Order


@dataclass(frozen=True, slots=True)
class News:
    """What judging led to: what was journalled since the last message, and the order that waits for a boundary."""

    entries: tuple[Entry, ...]
    order: Order | None = None


@dataclass(frozen=True, slots=True)
class Permit:
    """Whether an order may be carried out now: it is the one that waits, it is confirmed, and it was journalled."""

    entries: tuple[Entry, ...]
    granted: bool


@dataclass(frozen=True, slots=True)
class OrderResult:
    """What became of an order: the seconds that it took, and the error that ended it half way, empty for none."""

    seconds: float
    error: str = ""


@dataclass(frozen=True, slots=True)
class Settlement:
    """What an order has changed for the monitor: a declared change, and the step that the run went back to, if any.

    `change` is None where the order failed: then the run ends.
    """

    entries: tuple[Entry, ...]
    change: DeclaredChange | None = None
    rewound_to: int | None = None


@dataclass(frozen=True, slots=True)
class GuardTotals:
    """What a run's guard comes to: its incidents, and how many remedies were applied.

    `entries`: what was journalled since the last message. `waits`: reports and declarations that found the guard's
    buffer full.
    """

    incidents: tuple[IncidentSummary, ...] = ()
    remedies: int = 0
    entries: tuple[Entry, ...] = ()
    waits: int = 0
