"""What the controller knows, as a fold over its journal: read the journal again, and it knows the same.

Nothing changes the state but an entry, and every entry is written before what it announces is done.
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
from rftfm_ray.verdicts import Family, IncidentState, OutcomeKind, Tried

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
    ENDED = "ended"


LEVER_PREFIX = "lever_"


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the journal. `incident` is 0 for what belongs to none; levers stand in fields `lever_<name>`."""

    seq: int
    kind: EntryKind
    id: StepId
    incident: int
    fields: tuple[tuple[str, Scalar], ...] = ()

    def text(self, name: str) -> str:
        """A field that is text; empty when it is missing."""
        value = dict(self.fields).get(name)
        return value if isinstance(value, str) else ""

    def whole(self, name: str) -> int:
        """A field that is a whole number.

        Raises:
            GuardError: when it is missing or something else.
        """
        value = dict(self.fields).get(name)
        if not isinstance(value, int) or isinstance(value, bool):
            raise GuardError(f"Journal entry {self.seq} ({self.kind}) has no whole number {name}; it has been altered.")
        return value


@dataclass(frozen=True, slots=True)
class Incident:
    """One pass along the chain. `ordered` is the number of an order that has been given and not yet carried out,
    `advised` says that a remedy was named and is not to be carried out, `unconfirmed_at` is the paid step at which
    one was last dropped for want of confirmation, `unconfirmed` how often that was."""

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
    """Everything the controller goes by, apart from the newest reports.

    Attributes:
        incidents: in the order of their opening.
        levers: in force.
        owners: which incident a lever was moved for.
        orders: number of the newest order.
        executed: number of the newest order that was carried out.
        spent: remedies decided on, by family.
        moved_at: paid step at which levers were last moved.
        policy_failures: how often the user's policy has failed.
        late: verdicts that came after their boundary.
        halted: whether an order has ended the run.
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

    def incident(self, number: int) -> Incident:
        """The incident with an id.

        Raises:
            GuardError: when there is none.
        """
        for incident in self.incidents:
            if incident.id == number:
                return incident
        raise GuardError(f"There is no incident {number} in the journal; it has been altered.")

    def open_incidents(self) -> tuple[Incident, ...]:
        """Incidents that are not over, oldest first."""
        return tuple(incident for incident in self.incidents if not incident.state.final)


def lever_fields(levers: Levers) -> tuple[tuple[str, Scalar], ...]:
    """Levers as fields of an entry: those that are set."""
    values = asdict(levers).items()
    return tuple((LEVER_PREFIX + name, value) for name, value in values if value is not None)


def levers_of(entry: Entry) -> Levers:
    """Levers that stand in an entry.

    Raises:
        GuardError: when one of them is unknown.
    """
    values: dict[str, Any] = {k.removeprefix(LEVER_PREFIX): v for k, v in entry.fields if k.startswith(LEVER_PREFIX)}
    try:
        levers = Levers(**values)
        check_levers(levers)
        return levers
    except (TypeError, ConfigError) as error:
        raise GuardError(f"Journal entry {entry.seq} moves levers that there are not ({error}).") from None


def replay(entries: tuple[Entry, ...]) -> GuardState:
    """The state after `entries`."""
    return reduce(fold, entries, GuardState())


def fold(state: GuardState, entry: Entry) -> GuardState:
    """The state after one more entry.

    Raises:
        GuardError: when the entry cannot follow, because it has been altered.
    """
    change = _CHANGES.get(entry.kind)
    try:
        return state if change is None else change(state, entry)
    except (ValueError, IndexError) as error:
        raise GuardError(
            f"Journal entry {entry.seq} ({entry.kind}) cannot follow ({error}); it has been altered."
        ) from None


def _with(state: GuardState, changed: Incident) -> GuardState:
    return replace(state, incidents=tuple(changed if i.id == changed.id else i for i in state.incidents))


def _opened(state: GuardState, entry: Entry) -> GuardState:
    opened = Incident(
        id=entry.incident,
        state=IncidentState.SUSPECTED,
        code=entry.text("code"),
        family=Family(entry.text("family")),
        opened=entry.id,
        onset=entry.whole("onset"),
        onset_low=entry.whole("onset_low"),
    )
    return replace(state, incidents=(*state.incidents, opened))


def _diagnosed(state: GuardState, entry: Entry) -> GuardState:
    diagnosed = replace(
        state.incident(entry.incident),
        state=IncidentState.DIAGNOSED,
        code=entry.text("code"),
        family=Family(entry.text("family")),
        onset=entry.whole("onset"),
        onset_low=entry.whole("onset_low"),
    )
    return _with(state, diagnosed)


def _decided(state: GuardState, entry: Entry) -> GuardState:
    number, incident = entry.whole("order"), state.incident(entry.incident)
    spent = dict(state.spent)
    spent[incident.family] = spent.get(incident.family, 0) + 1
    changed = _with(state, replace(incident, state=IncidentState.TREATING, ordered=number))
    return replace(changed, orders=number, spent=tuple(sorted(spent.items())))


def _advised(state: GuardState, entry: Entry) -> GuardState:
    return _with(state, replace(state.incident(entry.incident), advised=True))


def _returning(state: GuardState, entry: Entry) -> GuardState:
    return replace(state, orders=entry.whole("order"))


def _unconfirmed(state: GuardState, entry: Entry) -> GuardState:
    """Nothing was done, so nothing is spent."""
    known = state.incident(entry.incident)
    incident = replace(
        known,
        state=IncidentState.DIAGNOSED,
        ordered=0,
        unconfirmed_at=entry.id.paid_step,
        unconfirmed=known.unconfirmed + 1,
    )
    spent = dict(state.spent)
    spent[incident.family] = spent.get(incident.family, 1) - 1
    return replace(_with(state, incident), executed=entry.whole("order"), spent=tuple(sorted(spent.items())))


def _applied(state: GuardState, entry: Entry) -> GuardState:
    """Levers are in force. A return to nominal, or an undo, moves them and treats nothing."""
    levers, before = levers_of(entry), state.levers
    names = [item.name for item in fields(Levers)]
    owners = {name: owner for name, owner in state.owners if getattr(levers, name) is not None}
    moved = [name for name in names if getattr(levers, name) not in (None, getattr(before, name))]
    if entry.text("role") == "remedy":
        incident = state.incident(entry.incident)
        # What follows a remedy that did not help has undone it: what it can be undone to is what that one was.
        failed = incident.tried and incident.tried[-1].outcome in (OutcomeKind.INEFFECTIVE, OutcomeKind.WORSE)
        base = incident.tried[-1].before if failed else before
        tried = (*incident.tried, Tried(entry.text("remedy"), entry.id.paid_step, base))
        state = _with(state, replace(incident, state=IncidentState.VERIFYING, ordered=0, tried=tried))
        owners |= dict.fromkeys(moved, entry.incident)
    return replace(
        state,
        levers=levers,
        owners=tuple(sorted(owners.items())),
        executed=entry.whole("order"),
        moved_at=entry.id.paid_step,
        halted=state.halted or entry.text("halt") == "yes",
    )


def _judged(state: GuardState, entry: Entry) -> GuardState:
    incident, outcome = state.incident(entry.incident), OutcomeKind(entry.text("outcome"))
    tried = (*incident.tried[:-1], replace(incident.tried[-1], outcome=outcome))
    good = outcome in (OutcomeKind.CURED, OutcomeKind.CONTAINED)
    after = IncidentState.VERIFYING if good else IncidentState.DIAGNOSED
    return _with(state, replace(incident, state=after, tried=tried))


def _closed(state: GuardState, entry: Entry) -> GuardState:
    final = IncidentState(entry.text("state"))
    return _with(state, replace(state.incident(entry.incident), state=final, reason=entry.text("reason")))


def _started(state: GuardState, entry: Entry) -> GuardState:
    return replace(state, levers=levers_of(entry))


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
