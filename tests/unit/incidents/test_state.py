"""The incident manager's state as a fold over its journal: what entries do, and the same state when read again."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import pytest

from rftfm_ray.errors import GuardError, RecordError
from rftfm_ray.incidents.ledger import Ledger
from rftfm_ray.incidents.policy_memory import PolicyMemory
from rftfm_ray.incidents.state import (
    Entry,
    EntryKind,
    GuardState,
    Incident,
    Scalar,
    lever_fields,
    levers_before,
    levers_of,
    replay,
)
from rftfm_ray.types import Levers, StepId
from rftfm_ray.verdicts import (
    Family,
    IncidentState,
    Outcome,
    OutcomeKind,
    Tried,
)

K = EntryKind
AT = StepId(1, 7, 9)
NAMED: dict[str, Scalar] = {"code": "TE-1", "family": "TE", "onset": 6, "onset_low": 5}
APPLIED: dict[str, Scalar] = {"order": 1, "remedy": "retry", "role": "remedy", "lever_tool_retries": 2, "halt": "no"}
LIFE: tuple[tuple[EntryKind, dict[str, Scalar]], ...] = (
    (K.OPENED, NAMED),
    (K.DIAGNOSED, NAMED),
    (K.DECIDED, {"order": 1}),
    (K.APPLIED, APPLIED),
    (K.OUTCOME, {"outcome": "mitigated"}),
    (K.CLOSED, {"state": "resolved", "reason": "better"}),
)


def entry(
    kind: EntryKind, told: Mapping[str, Scalar] | None = None, incident: int = 1, seq: int = 1, at: StepId = AT
) -> Entry:
    """An entry."""
    return Entry(seq, kind, at, incident, tuple((told or {}).items()))


def after(count: int, *more: Entry) -> GuardState:
    """The state after the first entries of an incident's life, and some others."""
    first = tuple(entry(kind, told, seq=n) for n, (kind, told) in enumerate(LIFE[:count], start=1))
    return replay((*first, *more))


def test_nothing_comes_of_nothing() -> None:
    assert replay(()) == GuardState()


def test_life_of_an_incident() -> None:
    opened = Incident(1, IncidentState.SUSPECTED, "TE-1", Family.TE, AT, 6, 5)
    assert after(1) == GuardState(incidents=(opened,))
    assert after(2) == GuardState(incidents=(replace(opened, state=IncidentState.DIAGNOSED),))
    remediating = replace(opened, state=IncidentState.REMEDIATING, ordered=1)
    assert after(3) == GuardState(incidents=(remediating,), orders=1, spent=((Family.TE, 1),))
    tried = Tried("retry", 9, Levers(), step=6)
    verifying = replace(opened, state=IncidentState.VERIFYING, tried=(tried,))
    acted = GuardState(
        (verifying,),
        Levers(tool_retries=2),
        (("tool_retries", 1),),
        1,
        1,
        ((Family.TE, 1),),
        moved_at=9,
        moves=((7, Levers(tool_retries=2)),),
    )
    assert after(4) == acted
    judged = replace(verifying, tried=(replace(tried, outcome=OutcomeKind.MITIGATED),))
    nan = math.nan
    told = PolicyMemory(outcomes=((7, Outcome(OutcomeKind.MITIGATED, nan, nan, nan, nan, "", 1)),))
    assert after(5) == replace(acted, incidents=(judged,), policy=told)
    closed = replace(judged, state=IncidentState.RESOLVED, reason="better")
    assert after(6) == replace(acted, incidents=(closed,), policy=told)
    assert after(6).open_incidents() == ()
    assert after(5).open_incidents() == (judged,)


def test_rollback_remembers_where_it_went_and_what_it_gave_up() -> None:
    (tried,) = after(3, entry(K.APPLIED, APPLIED | {"restored": 2})).incident(1).tried
    assert (tried.step, tried.undone) == (2, 4), "step 7 was under way"
    assert after(4).given("TE-1") == after(4).incident(1).tried
    assert after(4).given("OD-1") == ()


def test_probe_of_an_incident_is_that_of_its_entry_and_the_first_one_that_of_the_start() -> None:
    state = after(0, entry(K.PROBED, {"accuracy": 0.4}, 0), entry(K.OPENED, NAMED | {"probe": 0.7}))
    assert (state.first_probe, state.incident(1).probe) == (0.4, 0.7)
    unknown = after(0, entry(K.PROBED, {"accuracy": None}, 0), entry(K.OPENED, NAMED | {"probe": None}))
    assert (unknown.first_probe, unknown.incident(1).probe) == (None, None)


def test_fault_that_comes_back_after_a_lever_has_returned_is_a_relapse() -> None:
    home = entry(K.APPLIED, {"order": 2, "role": "return"}, at=StepId(1, 20, 22))
    again = entry(K.OPENED, NAMED, 2, at=StepId(1, 20, 22))
    treated = entry(K.APPLIED, APPLIED | {"order": 3}, 2, at=StepId(1, 22, 24))
    assert after(6, home).returned == (("tool_retries", "TE-1", 22),)
    assert not after(6, home, again).has_relapsed("tool_retries", "TE-1"), "a suspicion may fade"
    relapsed = after(6, home, again, treated)
    assert relapsed.has_relapsed("tool_retries", "TE-1")
    assert not relapsed.has_relapsed("lr_scale", "TE-1")
    assert not relapsed.has_relapsed("tool_retries", "OD-1")
    assert not after(6, again, treated).has_relapsed("tool_retries", "TE-1"), "it never went home"
    kept = entry(K.KEPT, {"lever": "tool_retries"}, 2)
    assert after(6, home, again, treated, kept).kept == (("tool_retries", 2),)


def test_undo_leaves_the_levers_of_other_incidents() -> None:
    other = entry(K.OPENED, NAMED, 2)
    theirs = entry(K.APPLIED, APPLIED | {"order": 2, "lever_lr_scale": 0.5}, 2)
    failed = entry(K.OUTCOME, {"outcome": "ineffective"})
    state = after(4, other, theirs, failed)
    assert levers_before(state, state.incident(1)) == Levers(lr_scale=0.5)
    assert levers_before(state, state.incident(2)) == state.levers


def test_diagnosis_may_rename() -> None:
    renamed = after(2, entry(K.DIAGNOSED, {"code": "OD-1", "family": "OD", "onset": 4, "onset_low": 3})).incident(1)
    assert (renamed.code, renamed.family, renamed.onset, renamed.onset_low) == ("OD-1", Family.OD, 4, 3)
    assert renamed.opened == AT


@pytest.mark.parametrize(
    ("outcome", "state"),
    [
        ("resolved", IncidentState.VERIFYING),
        ("mitigated", IncidentState.VERIFYING),
        ("ineffective", IncidentState.DIAGNOSED),
        ("harmful", IncidentState.DIAGNOSED),
        ("unverified", IncidentState.DIAGNOSED),
    ],
)
def test_only_a_good_outcome_ends_a_remediation(outcome: str, state: IncidentState) -> None:
    incident = after(4, entry(K.OUTCOME, {"outcome": outcome})).incident(1)
    assert (incident.state, incident.tried[-1].outcome) == (state, OutcomeKind(outcome))


def test_unconfirmed_order_is_over_and_has_changed_nothing() -> None:
    state = after(3, entry(K.UNCONFIRMED, {"order": 1}))
    assert (state.incident(1).state, state.incident(1).ordered, state.incident(1).tried) == ("diagnosed", 0, ())
    assert (state.orders, state.executed, state.levers) == (1, 1, Levers())


def test_advice_is_remembered_and_costs_nothing() -> None:
    state = after(2, entry(K.ADVISED, {"order": 1}))
    assert state.incident(1).advised
    assert (state.orders, state.spent) == (0, ())


def test_return_moves_levers_and_remedies_nothing() -> None:
    back = entry(K.APPLIED, {"order": 2, "role": "return"}, at=StepId(1, 20, 22))
    state = after(6, entry(K.RETURNING, {"order": 2}), back)
    assert (state.levers, state.owners, state.orders, state.executed, state.moved_at) == (Levers(), (), 2, 2, 22)
    assert len(state.incident(1).tried) == 1
    assert state.incident(1).state is IncidentState.RESOLVED


def test_return_on_behalf_of_nobody_needs_no_incident() -> None:
    started = entry(K.STARTED, {"lever_lr_scale": 0.5}, 0)
    state = replay((started, entry(K.APPLIED, {"order": 1, "role": "return", "lever_lr_scale": 1.0}, 0)))
    assert (state.levers, state.owners, state.incidents) == (Levers(lr_scale=1.0), (), ())


def test_lever_belongs_to_who_moved_it_last() -> None:
    other = entry(K.OPENED, NAMED, 2)
    again: dict[str, Scalar] = APPLIED | {"order": 2, "lever_lr_scale": 0.5}
    state = after(4, other, entry(K.APPLIED, again, 2))
    assert state.owners == (("lr_scale", 2), ("tool_retries", 1)), "what stays as it was keeps its owner"
    moved_on = after(4, other, entry(K.APPLIED, APPLIED | {"lever_tool_retries": 3}, 2))
    assert moved_on.owners == (("tool_retries", 2),)


def test_what_is_counted_and_what_ends_a_run() -> None:
    state = after(4, entry(K.POLICY_FAILED), entry(K.LATE), entry(K.LATE), entry(K.REFUSED))
    assert (state.policy_failures, state.late, state.halted) == (1, 2, False)
    halt = entry(K.APPLIED, {"order": 2, "role": "halt", "halt": "yes"})
    assert after(4, halt).halted
    assert after(4, halt, entry(K.APPLIED, {"order": 3, "role": "return", "halt": "no"})).halted


@pytest.mark.parametrize(
    "kind", [K.HELD, K.REFUSED, K.CONFIRMED, K.APPLYING, K.FAILED, K.DECLARED, K.DISABLED, K.ENDED]
)
def test_entries_that_only_tell_change_nothing(kind: EntryKind) -> None:
    assert after(4, entry(kind, {"order": "no number"}, 99)) == after(4)


def test_levers_pass_through_entries() -> None:
    levers = Levers(lr_scale=0.5, tool_instance=0, refill_rounds=1, entropy_coef=0.0)
    assert levers_of(entry(K.STARTED, dict(lever_fields(levers)))) == levers
    assert lever_fields(Levers()) == ()


ALTERED: list[tuple[str, int, Entry]] = [
    ("no onset", 0, entry(K.OPENED, {"code": "TE-1", "family": "TE", "onset_low": 5}, seq=8)),
    ("onset in words", 0, entry(K.OPENED, NAMED | {"onset": "6"}, seq=8)),
    ("onset true", 0, entry(K.OPENED, NAMED | {"onset": True}, seq=8)),
    ("onset in parts", 0, entry(K.OPENED, NAMED | {"onset": 6.5}, seq=8)),
    ("no order", 2, entry(K.DECIDED, seq=8)),
    ("no order carried out", 3, entry(K.APPLIED, {"role": "remedy"}, seq=8)),
    ("no order returned", 3, entry(K.RETURNING, seq=8)),
    ("unknown lever", 3, entry(K.APPLIED, APPLIED | {"lever_magic": 1}, seq=8)),
    ("lever too high", 3, entry(K.APPLIED, APPLIED | {"lever_lr_scale": 70.0}, seq=8)),
    ("lever in words", 3, entry(K.APPLIED, APPLIED | {"lever_lr_scale": "0.5"}, seq=8)),
    ("levers at the start", 0, entry(K.STARTED, {"lever_tool_retries": 0.5}, seq=8)),
    ("incident diagnosed", 2, entry(K.DIAGNOSED, NAMED, 7)),
    ("incident decided", 2, entry(K.DECIDED, {"order": 1}, 7)),
    ("incident treated", 3, entry(K.APPLIED, APPLIED, 7)),
    ("incident judged", 4, entry(K.OUTCOME, {"outcome": "resolved"}, 7)),
    ("incident closed", 5, entry(K.CLOSED, {"state": "resolved"}, 7)),
]


@pytest.mark.parametrize(("count", "wrong"), [row[1:] for row in ALTERED], ids=[row[0] for row in ALTERED])
def test_altered_entry_is_refused_in_one_sentence(count: int, wrong: Entry) -> None:
    with pytest.raises(GuardError) as caught:
        after(count, wrong)
    message = str(caught.value)
    assert f"entry {wrong.seq}" in message if wrong.incident == 1 else "incident 7" in message
    assert message.endswith(".")


@pytest.mark.parametrize(
    ("count", "wrong"),
    [
        (0, entry(K.OPENED, NAMED | {"family": "XX"})),
        (4, entry(K.OUTCOME, {"outcome": "splendid"})),
        (2, entry(K.OUTCOME, {"outcome": "resolved"})),
        (5, entry(K.CLOSED, {"state": "gone"})),
    ],
    ids=["family", "outcome", "nothing tried", "final state"],
)
def test_altered_word_is_refused_in_one_sentence(count: int, wrong: Entry) -> None:
    with pytest.raises(GuardError):
        after(count, wrong)


def test_entry_that_cannot_be_written_has_not_happened() -> None:
    full = [False]
    written: list[Entry] = []

    def sink(new: Entry) -> None:
        if full[0]:
            raise RecordError("full")
        written.append(new)

    ledger = Ledger(sink)
    ledger.write(K.OPENED, AT, 1, tuple(NAMED.items()))
    before, full[0] = ledger.state, True
    with pytest.raises(RecordError):
        ledger.write(K.DIAGNOSED, AT, 1, tuple(NAMED.items()))
    assert ledger.state is before
    full[0] = False
    assert ledger.write(K.CLOSED, AT, 1, (("state", "resolved"),)).seq == 2, "no number is left out"
    assert replay(tuple(written)) == ledger.state


def test_entry_that_cannot_be_folded_is_not_written() -> None:
    written: list[Entry] = []
    with pytest.raises(GuardError):
        Ledger(written.append).write(K.CLOSED, AT, 1, (("state", "resolved"),))
    assert written == []
