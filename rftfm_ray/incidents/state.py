"""The incident manager's state as a fold over its journal: replaying the journal gives the same state.

Only entries change the state. Every entry is written before the action that it announces.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import reduce
from typing import Any

from rftfm_ray.errors import GuardError
from rftfm_ray.incidents.advice import advised_in
from rftfm_ray.incidents.entries import (
    LEVER_PREFIX,
    Entry,
    EntryKind,
    Scalar,
    is_shown_in,
    lever_fields,
    levers_of,
    moves_after,
    place_in,
)
from rftfm_ray.incidents.incident import Incident
from rftfm_ray.incidents.orders import OrderRole
from rftfm_ray.incidents.policy_memory import PolicyMemory
from rftfm_ray.types import Check, Levers
from rftfm_ray.verdicts import Family, IncidentState, OutcomeKind, Tried

__all__ = [
    "LEVER_PREFIX", "Entry", "EntryKind", "GuardState", "Incident", "Scalar", "carries_remedy", "fold", "lever_fields",
    "levers_before", "levers_home", "levers_of", "next_state", "replay",
]  # fmt: skip


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
        first_probe: held-out accuracy before the first step; None when it was not measured.
        returned: consumed step at which each lever last went a step home, by lever and the code it was moved for.
        kept: levers that do not return, with the incident they were moved for.
        policy: what the policy remembers.
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
    first_probe: float | None = None
    returned: tuple[tuple[str, str, int], ...] = ()
    kept: tuple[tuple[str, int], ...] = ()
    policy: PolicyMemory = field(default_factory=PolicyMemory)

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

    def given(self, code: str) -> tuple[Tried, ...]:
        """Remedies that were applied for faults of a code, in every incident."""
        return tuple(tried for incident in self.incidents if incident.code == code for tried in incident.tried)

    def has_relapsed(self, lever: str, code: str) -> bool:
        """Whether the fault that a lever was moved for came back after the lever had gone home, or on its way."""
        went = next((at for name, known, at in self.returned if (name, known) == (lever, code)), None)
        later = [i for i in self.incidents if i.code == code and i.tried]
        return went is not None and any(incident.opened.paid_step >= went for incident in later)

    def levers_of(self, number: int) -> tuple[str, ...]:
        """Levers off nominal that were moved for an incident."""
        return tuple(name for name, owner in self.owners if owner == number)

    def open_incidents(self) -> tuple[Incident, ...]:
        """Incidents that are not closed, oldest first."""
        return tuple(incident for incident in self.incidents if not incident.state.final)


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
    EntryKind.APPROVED: IncidentState.REMEDIATING,
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
        probe=_known(entry.number("probe")),
        place=place_in(entry),
    )
    return replace(state, incidents=(*state.incidents, opened))


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _diagnosed(state: GuardState, entry: Entry) -> GuardState:
    incident = state.incident(entry.incident)
    diagnosed = replace(
        incident,
        code=entry.text("code"),
        family=Family(entry.text("family")),
        onset=entry.integer("onset"),
        onset_low=entry.integer("onset_low"),
        # What a place is told by may be gone under a remedy.
        place=incident.place if incident.tried else place_in(entry),
    )
    return _with(state, entry, diagnosed)


def _asked(state: GuardState, entry: Entry) -> GuardState:
    incident, check = state.incident(entry.incident), Check(entry.text("check"))
    asked = replace(incident, asked=(*incident.asked, check), waiting=check, asked_at=entry.id.paid_step)
    return _with(state, entry, asked)


def _answered(state: GuardState, entry: Entry) -> GuardState:
    return _with(state, entry, replace(state.incident(entry.incident), waiting=None))


def _decided(state: GuardState, entry: Entry) -> GuardState:
    number, incident = entry.integer("order"), state.incident(entry.incident)
    place = place_in(entry) if entry.has("place") else incident.place
    shown = is_shown_in(entry) or incident.shown
    decided = _with(
        state, entry, replace(incident, ordered=number, place=place, shown=shown, sets=sets_in(entry, incident))
    )
    return replace(decided, orders=number, spent=_spent(state, incident.family, 1))


def sets_in(entry: Entry, incident: Incident) -> tuple[str, ...]:
    """Levers that the remedy of an entry sets; an approval repeats those of what was advised."""
    return tuple(filter(None, entry.text("sets").split(", "))) if entry.has("sets") else incident.sets


def _spent(state: GuardState, family: Family, more: int) -> tuple[tuple[Family, int], ...]:
    spent = dict(state.spent)
    spent[family] = max(0, spent.get(family, 0) + more)
    return tuple(sorted(spent.items()))


def _advised(state: GuardState, entry: Entry) -> GuardState:
    incident = state.incident(entry.incident)
    advice = advised_in(entry, levers_before(state, incident))
    changes: dict[str, Any] = {"place": place_in(entry), "shown": is_shown_in(entry), "sets": sets_in(entry, incident)}
    return _with(state, entry, replace(incident, advised=True, advice=advice, **changes))


def _approved(state: GuardState, entry: Entry) -> GuardState:
    incident = state.incident(entry.incident)
    if incident.waiting_advice is None:
        raise ValueError("no decision waits")
    return _decided(_with(state, entry, replace(incident, advised=False)), entry)


def _rejected(state: GuardState, entry: Entry) -> GuardState:
    return _with(state, entry, replace(state.incident(entry.incident), advice=None))


def _returning(state: GuardState, entry: Entry) -> GuardState:
    return replace(state, orders=entry.integer("order"))


def _unconfirmed(state: GuardState, entry: Entry) -> GuardState:
    """Drop an unconfirmed order, and give its budget back because no remedy was applied."""
    incident = state.incident(entry.incident)
    dropped = replace(
        incident, ordered=0, advice=None, unconfirmed_at=entry.id.paid_step, unconfirmed=incident.unconfirmed + 1
    )
    spent = _spent(state, incident.family, -1)
    return replace(_with(state, entry, dropped), executed=entry.integer("order"), spent=spent)


def levers_before(state: GuardState, incident: Incident) -> Levers:
    """The levers that the next remedy of an incident starts from.

    A remedy that did not help is undone first, as far as its levers still belong to the incident.
    """
    last = incident.tried[-1] if incident.tried else None
    if last is None or last.outcome is None or last.outcome.helped:
        return state.levers
    return levers_home(state, incident, last.before)


def levers_home(state: GuardState, incident: Incident, before: Levers, stay: Sequence[str] = ()) -> Levers:
    """The levers in force, with those of an incident as they were in `before`, except for those that `stay`."""
    own = [name for name, owner in state.owners if owner == incident.id and name not in stay]
    settings: dict[str, Any] = {name: getattr(before, name) for name in own}
    return replace(state.levers, **settings)


def _applied(state: GuardState, entry: Entry) -> GuardState:
    """Apply levers. A return to nominal or an undo moves levers without being a remedy."""
    levers, before = levers_of(entry), state.levers
    names = [item.name for item in fields(Levers)]
    owners = {name: owner for name, owner in state.owners if getattr(levers, name) is not None}
    moved = [name for name in names if getattr(levers, name) not in (None, getattr(before, name))]
    if entry.text("role") == OrderRole.RETURN:
        gone = [name for name in names if getattr(levers, name) != getattr(before, name)]
        state = replace(state, returned=_returned(state, entry, gone))
    if entry.has("restored"):
        state = replace(state, policy=state.policy.rewound(entry.integer("restored")))
    if carries_remedy(entry):
        incident = state.incident(entry.incident)
        tried = (*incident.tried, _tried(state, entry))
        state = _with(state, entry, replace(incident, ordered=0, advice=None, tried=tried, awaited=""))
        # A lever that was in force already, from before a resumed run or by nobody's remedy, is this incident's now.
        set_again = [name for name in incident.sets if getattr(levers, name) is not None and not owners.get(name)]
        owners |= dict.fromkeys((*moved, *set_again), entry.incident)
    return replace(
        state,
        levers=levers,
        owners=tuple(sorted(owners.items())),
        moves=moves_after(state.moves, entry, levers),
        executed=entry.integer("order"),
        moved_at=entry.id.paid_step,
        halted=state.halted or entry.text("halt") == "yes",
    )


def _tried(state: GuardState, entry: Entry) -> Tried:
    """The remedy that was applied; the step under way when it was is not part of the lineage yet."""
    last = entry.id.step - 1
    step = entry.integer("restored") if entry.has("restored") else last
    before = levers_before(state, state.incident(entry.incident))
    return Tried(entry.text("remedy"), entry.id.paid_step, before, step=step, undone=max(0, last - step))


def _returned(state: GuardState, entry: Entry, names: Sequence[str]) -> tuple[tuple[str, str, int], ...]:
    code = state.incident(entry.incident).code if entry.incident else ""
    known = {(name, of): at for name, of, at in state.returned}
    known |= {(name, code): entry.id.paid_step for name in names}
    return tuple((name, of, at) for (name, of), at in sorted(known.items()))


def _judged(state: GuardState, entry: Entry) -> GuardState:
    incident, outcome = state.incident(entry.incident), OutcomeKind(entry.text("outcome"))
    tried = (*incident.tried[:-1], replace(incident.tried[-1], outcome=outcome))
    told = replace(state, policy=state.policy.told(entry))
    return _with(told, entry, replace(incident, tried=tried, reason=entry.text("reason")))


def _closed(state: GuardState, entry: Entry) -> GuardState:
    return _with(state, entry, replace(state.incident(entry.incident), reason=entry.text("reason")))


def _awaited(state: GuardState, entry: Entry) -> GuardState:
    return _with(state, entry, replace(state.incident(entry.incident), awaited=entry.text("reason")))


def _started(state: GuardState, entry: Entry) -> GuardState:
    levers = levers_of(entry)
    return replace(state, levers=levers, moves=((entry.id.step, levers),))


def _probed(state: GuardState, entry: Entry) -> GuardState:
    return replace(state, first_probe=_known(entry.number("accuracy")))


def _kept(state: GuardState, entry: Entry) -> GuardState:
    return replace(state, kept=(*state.kept, (entry.text("lever"), entry.incident)))


_CHANGES: dict[EntryKind, Callable[[GuardState, Entry], GuardState]] = {
    EntryKind.STARTED: _started,
    EntryKind.PROBED: _probed,
    EntryKind.KEPT: _kept,
    EntryKind.OPENED: _opened,
    EntryKind.DIAGNOSED: _diagnosed,
    EntryKind.ASKED: _asked,
    EntryKind.ANSWERED: _answered,
    EntryKind.DECIDED: _decided,
    EntryKind.ADVISED: _advised,
    EntryKind.APPROVED: _approved,
    EntryKind.REJECTED: _rejected,
    EntryKind.RETURNING: _returning,
    EntryKind.UNCONFIRMED: _unconfirmed,
    EntryKind.APPLIED: _applied,
    EntryKind.AWAITED: _awaited,
    EntryKind.OUTCOME: _judged,
    EntryKind.CLOSED: _closed,
    EntryKind.POLICY_FAILED: lambda state, _: replace(state, policy_failures=state.policy_failures + 1),
    EntryKind.POLICY_STATE: lambda state, entry: replace(state, policy=state.policy.kept(entry)),
    EntryKind.LATE: lambda state, _: replace(state, late=state.late + 1),
}
