"""What an incident has cost in steps, as its journal tells it, and what became of the levers meanwhile."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rftfm_ray.incidents.state import Entry, EntryKind
from rftfm_ray.runs.incidents import Incident
from rftfm_ray.runs.words import lever_text, levers_in, number_of, plural

FROZEN = "freeze_policy"


@dataclass(frozen=True, slots=True)
class IncidentCost:
    """Consumed steps that an incident has cost.

    Attributes:
        lasted: from its opening to its end, or to the newest step where it is open.
        given_up: whose learning its rollbacks have undone.
        frozen: in which the policy did not learn, because a remedy of the incident had stopped it.
    """

    lasted: int
    given_up: int
    frozen: int

    def __str__(self) -> str:
        parts = [f"{plural(self.lasted, 'step')} from alarm to end"]
        if self.given_up:
            parts.append(f"{plural(self.given_up, 'step')} of learning given up by rollback")
        if self.frozen:
            parts.append(f"no learning for {plural(self.frozen, 'step')}")
        return "; ".join(parts)


def cost_of(incident: Incident, last: int) -> IncidentCost:
    """The cost of an incident; `last` is the newest consumed step of the run."""
    applied = applied_of(incident)
    end = last if incident.closed is None else incident.closed.id.paid_step
    given_up = sum(_given_up(entry) for entry in applied)
    frozen, since = 0, None
    for entry in applied:
        is_frozen = levers_in(entry).get(FROZEN) == 1
        if is_frozen and since is None:
            since = entry.id.paid_step
        elif not is_frozen and since is not None:
            frozen, since = frozen + entry.id.paid_step - since, None
    frozen += 0 if since is None else max(0, last + 1 - since)
    return IncidentCost(max(0, end - incident.opened.paid_step), given_up, frozen)


def applied_of(incident: Incident) -> list[Entry]:
    """Everything that was carried out for an incident: remedies, what was undone, and levers on their way home."""
    return [entry for entry in incident.entries if entry.kind is EntryKind.APPLIED]


def _given_up(entry: Entry) -> int:
    restored = number_of(entry, "restored")
    # The step of the entry was under way.
    return max(0, entry.id.step - 1 - int(restored)) if math.isfinite(restored) else 0


def lever_course(applied: Sequence[Entry]) -> str:
    """The levers of an incident over time, as `step 12: lr_scale=0.5; step 20: nominal`."""
    parts = list[str]()
    for entry in applied:
        text = lever_text(levers_in(entry))
        if not parts or not parts[-1].endswith(f": {text}"):
            parts.append(f"step {entry.id.step}: {text}")
    return "; ".join(parts)
