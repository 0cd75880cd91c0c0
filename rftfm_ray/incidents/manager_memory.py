"""What an incident manager's decisions depend on beside its journal: it survives the process that holds it. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from rftfm_ray.incidents.decisions import DecisionsMemory
from rftfm_ray.incidents.memory import RunMemory
from rftfm_ray.incidents.muting import MutedFaults
from rftfm_ray.incidents.orders import Order


@dataclass(frozen=True, slots=True)
class ManagerMemory:
    """The memory of an incident manager.

    Attributes:
        seq: number of journal entries that it belongs to.
        run: reports and diagnoses.
        muted: faults that were left to people.
        decisions: of `Decisions`.
        quiet: steps since an alarm of its own was active, by open incident.
        pending: the newest order until it was carried out or dropped.
        begun: whether that order has begun.
    """

    seq: int
    run: RunMemory
    muted: MutedFaults
    decisions: DecisionsMemory
    quiet: dict[int, int]
    pending: Order | None
    begun: bool
