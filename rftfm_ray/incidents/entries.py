"""Entries of the journal: every event of the guard, before it takes effect. Pure."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, TypeAlias

from rftfm_ray.errors import ConfigError, GuardError
from rftfm_ray.policies.levers import check_levers
from rftfm_ray.types import Levers, StepId
from rftfm_ray.verdicts import Place

Scalar: TypeAlias = str | int | float | bool | None


class EntryKind(StrEnum):
    """Kinds of journal entries."""

    STARTED = "started"
    PROBED = "probed"
    OPENED = "opened"
    DIAGNOSED = "diagnosed"
    ASKED = "asked"
    ANSWERED = "answered"
    DECIDED = "decided"
    ADVISED = "advised"
    APPROVED = "approved"
    REJECTED = "rejected"
    DECLINED = "declined"
    HELD = "held"
    REFUSED = "refused"
    POLICY_FAILED = "policy_failed"
    POLICY_STATE = "policy_state"
    CONFIRMED = "confirmed"
    UNCONFIRMED = "unconfirmed"
    APPLYING = "applying"
    APPLIED = "applied"
    FAILED = "failed"
    AWAITED = "awaited"
    OUTCOME = "outcome"
    RETURNING = "returning"
    KEPT = "kept"
    CLOSED = "closed"
    DECLARED = "declared"
    DISABLED = "disabled"
    LATE = "late"
    RESTORED = "restored"
    LOST = "lost"
    PAUSED = "paused"
    HOOK_FAILED = "hook_failed"
    ENDED = "ended"


LEVER_PREFIX = "lever_"


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the journal. `incident` is 0 where it concerns none; levers are in fields `lever_<name>`."""

    seq: int
    kind: EntryKind
    id: StepId
    incident: int
    fields: tuple[tuple[str, Scalar], ...] = ()

    def text(self, name: str) -> str:
        """A field that is text; empty when it is missing."""
        value = dict(self.fields).get(name)
        return value if isinstance(value, str) else ""

    def has(self, name: str) -> bool:
        """Whether there is a field of that name with a value."""
        return dict(self.fields).get(name) is not None

    def number(self, name: str) -> float:
        """A field that is a number; NaN when it is missing or something else."""
        value = dict(self.fields).get(name)
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan

    def integer(self, name: str) -> int:
        """A field that is an integer.

        Raises:
            GuardError: when it is missing or something else.
        """
        value = dict(self.fields).get(name)
        if not isinstance(value, int) or isinstance(value, bool):
            raise GuardError(
                f"Journal entry {self.seq} ({self.kind}) needs a whole number in {name}, not {value!r:.40}; "
                "the journal has been altered."
            )
        return value


def lever_fields(levers: Levers) -> tuple[tuple[str, Scalar], ...]:
    """Levers as fields of an entry: those that are set."""
    values = asdict(levers).items()
    return tuple((LEVER_PREFIX + name, value) for name, value in values if value is not None)


def levers_of(entry: Entry) -> Levers:
    """The levers of an entry.

    Raises:
        GuardError: when one of them is unknown or out of bounds.
    """
    values: dict[str, Any] = {k.removeprefix(LEVER_PREFIX): v for k, v in entry.fields if k.startswith(LEVER_PREFIX)}
    try:
        levers = Levers(**values)
        check_levers(levers)
        return levers
    except (TypeError, ConfigError) as error:
        raise GuardError(
            f"Journal entry {entry.seq} moves levers that do not exist or may not be set so ({error})."
        ) from None


def is_shown_in(entry: Entry) -> bool:
    """Whether a decision was made about a fault that more than telemetry shows."""
    return dict(entry.fields).get("shown") is True


def place_in(entry: Entry) -> Place | None:
    """The place that an entry names; None where it names none, as those of earlier versions do."""
    named = entry.text("place") if entry.has("place") else ""
    return next((place for place in Place if place.value == named), None)


def moves_after(moves: tuple[tuple[int, Levers], ...], entry: Entry, levers: Levers) -> tuple[tuple[int, Levers], ...]:
    """The moves of the lineage after one more; a rollback undoes those after the step that it goes back to."""
    restored = entry.integer("restored") if entry.has("restored") else None
    if restored is None:
        return (*moves, (entry.id.step, levers))
    return (*((first, known) for first, known in moves if first <= restored), (restored + 1, levers))
