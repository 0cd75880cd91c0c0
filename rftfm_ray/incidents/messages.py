"""What the controller and the driver say to each other."""

from __future__ import annotations

from dataclasses import dataclass

from rftfm_ray.incidents.state import Entry
from rftfm_ray.types import Levers, Position
from rftfm_ray.verdicts import Order


@dataclass(frozen=True, slots=True)
class Change:
    """What an order has changed: the levers in force, and where the run stands after a rollback, else None."""

    remedy: str
    reason: str
    levers: Levers
    position: Position | None = None
    halt: bool = False
    checkpoint: str = ""


@dataclass(frozen=True, slots=True)
class News:
    """What the controller has to say: the order that waits, a change that was made, and what was journalled since."""

    entries: tuple[Entry, ...]
    order: Order | None = None
    change: Change | None = None


@dataclass(frozen=True, slots=True)
class GuardTotals:
    """What a run's guard comes to; `waits`: reports and declarations that found its buffer full."""

    incidents: int
    remedies: int
    entries: tuple[Entry, ...] = ()
    waits: int = 0
