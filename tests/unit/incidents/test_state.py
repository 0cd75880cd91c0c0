"""The incident manager's state as a fold over its journal: what entries do, and the same state when read again."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rftfm_ray.diagnosis.fingerprints import FINGERPRINTS
from rftfm_ray.errors import GuardError, RecordError
from rftfm_ray.incidents.ledger import Ledger
from rftfm_ray.incidents.lever_return import moved
from rftfm_ray.incidents.manager import IncidentManager
from rftfm_ray.incidents.settings import IncidentSettings
from rftfm_ray.incidents.state import (
    Entry,
    EntryKind,
    GuardState,
    Incident,
    Scalar,
    fold,
    lever_fields,
    levers_of,
    replay,
)
from rftfm_ray.policies.api import PolicyContext
from rftfm_ray.policies.levers import check_levers
from rftfm_ray.policies.safety import SafePolicy
from rftfm_ray.signals.schema import INDEX, SIGNALS
from rftfm_ray.taxonomy import family_of
from rftfm_ray.telemetry.journal import Journal, read_journal
from rftfm_ray.types import GuardMode, Levers, Settings, StepId
from rftfm_ray.verdicts import (
    Assessment,
    Decision,
    Diagnosis,
    Family,
    IncidentState,
    OutcomeKind,
    Remedy,
    StepReport,
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
    tried = Tried("retry", 9, Levers())
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
    assert after(5) == replace(acted, incidents=(judged,))
    closed = replace(judged, state=IncidentState.RESOLVED, reason="better")
    assert after(6) == replace(acted, incidents=(closed,))
    assert after(6).open_incidents() == ()
    assert after(5).open_incidents() == (judged,)


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
    ("lever too high", 3, entry(K.APPLIED, APPLIED | {"lever_lr_scale": 7.0}, seq=8)),
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


# --- Whatever happens in a run, the journal read again comes to the same state. ---

Answer = Remedy | None | Exception
REMEDIES: list[Answer] = [
    Remedy("retry", Levers(tool_retries=2, refill_rounds=1)),
    Remedy("slow", Levers(lr_scale=0.1, kl_coef_scale=3.0)),
    Remedy("back", Levers(lr_scale=0.3), rollback=True, skip_batches=1),
    Remedy("stop", halt=True),
    Remedy("too much", Levers(lr_scale=9.0)),
    None,
    ValueError("no"),
]
CODES = [*FINGERPRINTS, "UNKNOWN"]


class Mood:
    """A policy of any mood."""

    def __init__(self, answers: Sequence[Answer]) -> None:
        self._answers = answers
        self._asked = 0

    def decide(self, ctx: PolicyContext) -> Decision:
        """The next answer, in turn."""
        answer = self._answers[self._asked % len(self._answers)]
        self._asked += 1
        if isinstance(answer, Exception):
            raise answer
        return Decision(answer, "as it comes", (("asked", self._asked),))


faults = st.builds(
    lambda code, sure, low: Diagnosis(code, family_of(code), sure, (), (), low + 1, low, "an \x00 odd \ud800 one"),
    st.sampled_from([*CODES, *20 * ["TE-1", "OD-1"]]),
    st.floats(0.3, 1.0),
    st.integers(1, 12),
)
# Some equal steps: a fault or none, its harm, what the probe says, and what happens at their boundaries.
spells = st.tuples(
    st.one_of(st.none(), faults, faults),
    st.sampled_from([0.0, 0.5]),
    st.sampled_from([math.nan, math.nan, 0.2, 0.9]),
    st.sampled_from(["carry out", "carry out", "carry out", "leave"]),
    st.integers(1, 6),
)
settings_of_a_run = st.builds(
    IncidentSettings,
    mode=st.sampled_from([*6 * [GuardMode.ACT], GuardMode.ADVISE, GuardMode.OBSERVE]),
    act_on=st.sampled_from([tuple(Family), tuple(Family), (Family.TE,)]),
    verify_steps=st.integers(1, 3),
    cooldown_steps=st.integers(0, 3),
    budget=st.integers(0, 6),
    return_after=st.integers(1, 3),
    halts=st.booleans(),
    probe_size=st.just(256),
    nominal=st.just(Settings(1e-3, 0.02, 0.2, 0.2, 0.0, 1.0, 1, None, False, 1.0, 0.95, 1e-3, False)),
)


class Run:
    """A run in which anything may happen, and what must always hold in it."""

    def __init__(self, how: IncidentSettings, answers: Sequence[Answer], levers: Levers) -> None:
        self.entries: list[Entry] = []
        self.ledger = Ledger(self.entries.append)
        self._settings = how
        self._manager = IncidentManager(how, SafePolicy(Mood(answers), "mood", 30.0), lambda: (0, 4, 8), self.ledger)
        self._place = StepId(0, 0, 0)
        self._manager.start(self._place, levers)

    def step(self, diagnosis: Diagnosis | None, rate: float, probe: float, boundary: str) -> None:
        """A step is judged, and a boundary passed."""
        place = self._place = StepId(self._place.attempt, self._place.step + 1, self._place.paid_step + 1)
        values = dict.fromkeys(INDEX, 0.0) | {"tool_error_rate": rate, "probe_accuracy": probe}
        report = StepReport(place, place.paid_step, tuple(values[signal.name] for signal in SIGNALS))
        waiting = self._manager.pending
        order = self._manager.consider(Assessment(report, diagnosis))
        assert waiting is None or (order is None and self._manager.pending is waiting)
        pending = self._manager.pending
        if pending is None or boundary == "leave":
            return
        following = StepId(place.attempt, place.step + 1, place.paid_step + 1)
        if not self._manager.begin(pending, following, probe):
            assert self._manager.pending is None
        else:
            self._manager.done(pending, following, 0.1)
            if pending.restore_step is not None:
                self._place = StepId(place.attempt + 1, pending.restore_step, place.paid_step + 1)

    def check(self) -> None:
        """What holds at every moment."""
        state, pending = self.ledger.state, self._manager.pending
        check_levers(state.levers)
        assert {name for name, _ in state.owners} <= set(moved(state.levers))
        ordered = [incident.ordered for incident in state.incidents if incident.state is IncidentState.REMEDIATING]
        assert ordered == ([pending.number] if pending is not None and pending.role == "remedy" else [])
        assert state.orders - state.executed == (pending is not None)
        assert all(count <= self._settings.budget for _, count in state.spent)
        if self._settings.mode is not GuardMode.ACT:
            assert (state.orders, pending) == (0, None)


def same(levers: Any) -> Any:
    """Entries as they are read again: what is not finite is none."""
    return None if isinstance(levers, float) and not math.isfinite(levers) else levers


@settings(max_examples=60, deadline=None)
@given(
    settings_of_a_run,
    st.lists(st.sampled_from(REMEDIES), min_size=1, max_size=4),
    st.lists(spells, min_size=3, max_size=12),
)
def test_state_is_what_the_journal_says(
    how: IncidentSettings, answers: list[Answer], course: list[tuple[Diagnosis | None, float, float, str, int]]
) -> None:
    run = Run(how, answers, Levers(max_grad_norm=0.5))
    for diagnosis, rate, probe, boundary, steps in course:
        for _ in range(steps):
            run.step(diagnosis, rate, probe, boundary)
            run.check()
    assert replay(tuple(run.entries)) == run.ledger.state
    for cut in range(len(run.entries)):
        assert fold(replay(tuple(run.entries[:cut])), run.entries[cut]) == replay(tuple(run.entries[: cut + 1]))
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder) / "journal.jsonl")
        for written in run.entries:
            journal.write(written)
        found, times = read_journal(Path(folder) / "journal.jsonl")
    assert replay(found) == run.ledger.state
    assert len(times) == len(found)
    for written, read in zip(run.entries, found, strict=True):
        told = tuple((name, same(value)) for name, value in written.fields)
        assert read == replace(written, fields=told)
