"""Messages between the controller and the driver."""

from __future__ import annotations

from dataclasses import dataclass

from rftfm_ray.incidents.handover import Handover
from rftfm_ray.incidents.orders import Order
from rftfm_ray.incidents.requests import Reply
from rftfm_ray.incidents.state import Entry
from rftfm_ray.types import Check, IncidentSummary
from rftfm_ray.verdicts import DeclaredChange


@dataclass(frozen=True, slots=True)
class News:
    """The result of judging.

    Attributes:
        entries: of the journal, since the last message.
        order: that waits for a boundary.
        checks: that are asked for.
    """

    entries: tuple[Entry, ...]
    order: Order | None = None
    checks: tuple[Check, ...] = ()


@dataclass(frozen=True, slots=True)
class Permit:
    """The order that is carried out now: it is journalled as begun. None where none may be.

    It is the one that was asked for, or one without cost in its place.
    """

    entries: tuple[Entry, ...]
    order: Order | None = None

    @property
    def granted(self) -> bool:
        """Whether an order is carried out."""
        return self.order is not None


@dataclass(frozen=True, slots=True)
class Answered:
    """What became of a person's answer: the reply to it, and the order that waits for a boundary, if any."""

    entries: tuple[Entry, ...]
    reply: Reply
    order: Order | None = None


@dataclass(frozen=True, slots=True)
class Paused:
    """A run that ends until a person answers; `restore_steps`: snapshots that a remedy which waits goes back to."""

    entries: tuple[Entry, ...]
    restore_steps: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Inherited:
    """What a run continues that was paused: what that one has handed over, and steps that can be restored."""

    handover: Handover
    snapshots: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class OrderResult:
    """The result of an order: its duration in seconds, and the error that ended it half way, empty for none."""

    seconds: float
    error: str = ""


@dataclass(frozen=True, slots=True)
class Settlement:
    """The effect of an order on the monitor: a declared change, and the step that the run was rolled back to, if any.

    `change` is None where the order failed; the run then ends.
    """

    entries: tuple[Entry, ...]
    change: DeclaredChange | None = None
    rewound_to: int | None = None


@dataclass(frozen=True, slots=True)
class GuardTotals:
    """Totals of a run's guard: its incidents, and the number of applied remedies.

    `entries`: the journal entries since the last message. `waits`: number of reports and declarations that found the
    guard's buffer full. `restarts`: number of times that an actor of the guard was replaced. `unguarded`: consumed
    steps without a verdict, because the guard was lost for good.
    """

    incidents: tuple[IncidentSummary, ...] = ()
    remedies: int = 0
    entries: tuple[Entry, ...] = ()
    waits: int = 0
    restarts: int = 0
    unguarded: int = 0


@dataclass(frozen=True, slots=True)
class Restoration:
    """An actor of the guard that was lost and came back.

    Attributes:
        actor: its name, for example `monitor-0`.
        reason: why it was lost.
        replayed: steps that it took in again from the driver's memory.
        waited: steps that waited for it: none of them stays without a verdict.
        seconds: from the loss to its return.
    """

    actor: str
    reason: str
    replayed: int
    waited: int
    seconds: float
