"""The incident manager's state as a fold over its journal: replaying the journal gives the same state.

Only entries change the state. Every entry is written before the action that it announces.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace
from enum import StrEnum
from functools import reduce
from typing import Any, TypeAlias

from rftfm_ray.errors import ConfigError, GuardError
from rftfm_ray.policies.levers import check_levers
from rftfm_ray.types import Levers, StepId
from rftfm_ray.verdicts import Family, IncidentState, OrderRole, OutcomeKind, Tried

Scalar: TypeAlias = str | int | float | bool | None


class EntryKind(StrEnum):
    """Kinds of journal entries."""

    STARTED = "started"
    OPENED = "opened"
    DIAGNOSED = "diagnosed"
    DECIDED = "decided"
    ADVISED = "advised"
    HELD = "held"
    REFUSED = "refused"
    POLICY_FAILED = "policy_failed"
    CONFIRMED = "confirmed"
    UNCONFIRMED = "unconfirmed"
    APPLYING = "applying"
    APPLIED = "applied"
    FAILED = "failed"
    OUTCOME = "outcome"
    RETURNING = "returning"
    CLOSED = "closed"
    DECLARED = "declared"
    DISABLED = "disabled"
    LATE = "late"
    RESTORED = "restored"
    LOST = "lost"
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


@dataclass(frozen=True, slots=True)
class Incident:
    """One incident, from suspicion to its end.

    Attributes:
        id: number of the incident in the run, from 1.
        state: its stage.
        code: of the fault.
        family: of the fault.
        opened: step whose report opened it.
        onset: estimated first step of the fault.
        onset_low: earliest step at which the fault may have begun.
        tried: remedies that were applied for it.
        ordered: number of its order that is not yet carried out; 0 for none.
        advised: whether a remedy was advised without being carried out.
        unconfirmed_at: consumed step at which an order was last dropped because the probe did not confirm it.
        unconfirmed: number of such orders.
        reason: why it was closed.
    """

    id: int
    state: IncidentState
    code: str
    family: Family
    opened: StepId
    onset: int
    onset_low: int
    tried: tuple[Tried, ...] = ()
    ordered: int = 0
    advised: bool = False
    unconfirmed_at: int | None = None
    unconfirmed: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class GuardState:
    """Everything that decisions depend on, except the newest reports.

    Attributes:
        incidents: in the order of their opening.
        levers: in force.
        owners: incident that each lever was moved for.
        orders: number of the newest order.
        executed: number of the newest order that was carried out.
        spent: number of remedies decided on, by family.
        moved_at: consumed step at which levers were last moved.
        policy_failures: number of failures of the user's policy.
        late: number of verdicts that came after their boundary.
        halted: whether an order has ended the run.
        moves: first step under each setting of the levers in the lineage that is kept, oldest first.
    """

    incidents: tuple[Incident, ...] = ()
    levers: Levers = field(default_factory=Levers)
    owners: tuple[tuple[str, int], ...] = ()
    orders: int = 0
    executed: int = 0
    spent: tuple[tuple[Family, int], ...] = ()
    moved_at: int = 0
    policy_failures: int = 0
    late: int = 0
    halted: bool = False
    moves: tuple[tuple[int, Levers], ...] = ()

    def incident(self, number: int) -> Incident:
        """The incident with an id.

        Raises:
            GuardError: when it does not exist.
        """
        for incident in self.incidents:
            if incident.id == number:
                return incident
        raise GuardError(f"The journal names incident {number}, which was never opened; it has been altered.")

    def levers_at(self, step: int) -> Levers:
        """The levers that were in force at a step of the lineage that is kept."""
        return next((levers for first, levers in reversed(self.moves) if first <= step), Levers())

    def open_incidents(self) -> tuple[Incident, ...]:
        """Incidents that are not closed, oldest first."""
        return tuple(incident for incident in self.incidents if not incident.state.final)


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


def replay(entries: tuple[Entry, ...]) -> GuardState:
    """The state after `entries`."""
    return reduce(fold, entries, GuardState())


def fold(state: GuardState, entry: Entry) -> GuardState:
    """The state after one more entry.

    Raises:
        GuardError: when the entry cannot follow the state, because the journal has been altered.
    """
    change = _CHANGES.get(entry.kind)
    try:
        return state if change is None else change(state, entry)
    except (ValueError, IndexError) as error:
        raise GuardError(
            f"Journal entry {entry.seq} ({entry.kind}) cannot follow ({error}); it has been altered."
        ) from None


_NEXT: dict[EntryKind, IncidentState] = {
    EntryKind.OPENED: IncidentState.SUSPECTED,
    EntryKind.DIAGNOSED: IncidentState.DIAGNOSED,
    EntryKind.DECIDED: IncidentState.REMEDIATING,
    EntryKind.UNCONFIRMED: IncidentState.DIAGNOSED,
}


def carries_remedy(entry: Entry) -> bool:
    """Whether an order's entry is for a policy's remedy, and not for an undo, a lever's return or a halt."""
    return entry.text("role") in ("", OrderRole.REMEDY)


def next_state(state: IncidentState, entry: Entry) -> IncidentState:
    """The state of an incident after one of its own entries; informative entries do not change it.

    Raises:
        ValueError: when the entry has an outcome or a final state that does not exist.
    """
    if entry.kind is EntryKind.APPLIED:
        return IncidentState.VERIFYING if carries_remedy(entry) else state
    if entry.kind is EntryKind.OUTCOME:
        helped = OutcomeKind(entry.text("outcome")).helped
        return IncidentState.VERIFYING if helped else IncidentState.DIAGNOSED
    if entry.kind is EntryKind.CLOSED:
        return IncidentState(entry.text("state"))
    return _NEXT.get(entry.kind, state)


def _with(state: GuardState, entry: Entry, incident: Incident) -> GuardState:
    """The state with a changed incident, moved to its next state by the entry."""
    changed = replace(incident, state=next_state(incident.state, entry))
    return replace(state, incidents=tuple(changed if i.id == changed.id else i for i in state.incidents))


def _opened(state: GuardState, entry: Entry) -> GuardState:
    opened = Incident(
        id=entry.incident,
        state=IncidentState.SUSPECTED,
        code=entry.text("code"),
        family=Family(entry.text("family")),
        opened=entry.id,
        onset=entry.integer("onset"),
        onset_low=entry.integer("onset_low"),
    )
    return replace(state, incidents=(*state.incidents, opened))


def _diagnosed(state: GuardState, entry: Entry) -> GuardState:
    diagnosed = replace(
        state.incident(entry.incident),
        code=entry.text("code"),
        family=Family(entry.text("family")),
        onset=entry.integer("onset"),
        onset_low=entry.integer("onset_low"),
    )
    return _with(state, entry, diagnosed)


def _decided(state: GuardState, entry: Entry) -> GuardState:
    number, incident = entry.integer("order"), state.incident(entry.incident)
    decided = _with(state, entry, replace(incident, ordered=number))
    return replace(decided, orders=number, spent=_spent(state, incident.family, 1))


def _spent(state: GuardState, family: Family, more: int) -> tuple[tuple[Family, int], ...]:
    spent = dict(state.spent)
    spent[family] = max(0, spent.get(family, 0) + more)
    return tuple(sorted(spent.items()))


def _advised(state: GuardState, entry: Entry) -> GuardState:
    return _with(state, entry, replace(state.incident(entry.incident), advised=True))


def _returning(state: GuardState, entry: Entry) -> GuardState:
    return replace(state, orders=entry.integer("order"))


def _unconfirmed(state: GuardState, entry: Entry) -> GuardState:
    """Drop an unconfirmed order, and give its budget back because no remedy was applied."""
    incident = state.incident(entry.incident)
    dropped = replace(incident, ordered=0, unconfirmed_at=entry.id.paid_step, unconfirmed=incident.unconfirmed + 1)
    spent = _spent(state, incident.family, -1)
    return replace(_with(state, entry, dropped), executed=entry.integer("order"), spent=spent)


def levers_before(incident: Incident, levers: Levers) -> Levers:
    """The levers that the next remedy of an incident starts from, where `levers` are in force.

    A remedy that did not help is undone first, so the next one starts from the levers before it.
    """
    last = incident.tried[-1] if incident.tried else None
    if last is None or last.outcome is None or last.outcome.helped:
        return levers
    return last.before


def _applied(state: GuardState, entry: Entry) -> GuardState:
    """Apply levers. A return to nominal or an undo moves levers without being a remedy."""
    levers, before = levers_of(entry), state.levers
    names = [item.name for item in fields(Levers)]
    owners = {name: owner for name, owner in state.owners if getattr(levers, name) is not None}
    moved = [name for name in names if getattr(levers, name) not in (None, getattr(before, name))]
    if carries_remedy(entry):
        incident = state.incident(entry.incident)
        tried = Tried(entry.text("remedy"), entry.id.paid_step, levers_before(incident, before))
        state = _with(state, entry, replace(incident, ordered=0, tried=(*incident.tried, tried)))
        owners |= dict.fromkeys(moved, entry.incident)
    return replace(
        state,
        levers=levers,
        owners=tuple(sorted(owners.items())),
        moves=_moves(state.moves, entry, levers),
        executed=entry.integer("order"),
        moved_at=entry.id.paid_step,
        halted=state.halted or entry.text("halt") == "yes",
    )


def _moves(moves: tuple[tuple[int, Levers], ...], entry: Entry, levers: Levers) -> tuple[tuple[int, Levers], ...]:
    """The moves of the lineage after one more; a rollback undoes those after the step that it goes back to."""
    restored = entry.integer("restored") if entry.has("restored") else None
    if restored is None:
        return (*moves, (entry.id.step, levers))
    return (*((first, known) for first, known in moves if first <= restored), (restored + 1, levers))


def _judged(state: GuardState, entry: Entry) -> GuardState:
    incident, outcome = state.incident(entry.incident), OutcomeKind(entry.text("outcome"))
    tried = (*incident.tried[:-1], replace(incident.tried[-1], outcome=outcome))
    return _with(state, entry, replace(incident, tried=tried))


def _closed(state: GuardState, entry: Entry) -> GuardState:
    return _with(state, entry, replace(state.incident(entry.incident), reason=entry.text("reason")))


def _started(state: GuardState, entry: Entry) -> GuardState:
    levers = levers_of(entry)
    return replace(state, levers=levers, moves=((entry.id.step, levers),))


_CHANGES: dict[EntryKind, Callable[[GuardState, Entry], GuardState]] = {
    EntryKind.STARTED: _started,
    EntryKind.OPENED: _opened,
    EntryKind.DIAGNOSED: _diagnosed,
    EntryKind.DECIDED: _decided,
    EntryKind.ADVISED: _advised,
    EntryKind.RETURNING: _returning,
    EntryKind.UNCONFIRMED: _unconfirmed,
    EntryKind.APPLIED: _applied,
    EntryKind.OUTCOME: _judged,
    EntryKind.CLOSED: _closed,
    EntryKind.POLICY_FAILED: lambda state, _: replace(state, policy_failures=state.policy_failures + 1),
    EntryKind.LATE: lambda state, _: replace(state, late=state.late + 1),
}
