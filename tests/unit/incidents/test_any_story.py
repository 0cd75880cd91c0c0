"""Whatever happens in a run: what the guard never does, and the same state when its journal is read again."""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from rftfm_ray.diagnosis.fingerprints import FINGERPRINTS
from rftfm_ray.incidents.ledger import Ledger
from rftfm_ray.incidents.lever_return import moved
from rftfm_ray.incidents.manager import IncidentManager
from rftfm_ray.incidents.orders import Order
from rftfm_ray.incidents.settings import IncidentSettings
from rftfm_ray.incidents.state import Entry, EntryKind, carries_remedy, fold, replay
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
    Evidence,
    Family,
    IncidentState,
    Remedy,
    StepReport,
    Symptom,
)

K = EntryKind
SIZE = 256
Answer = Remedy | None | Exception
REMEDIES: list[Answer] = [
    Remedy("retry", Levers(tool_retries=2, refill_rounds=1)),
    Remedy("slow", Levers(lr_scale=0.1, kl_coef_scale=3.0)),
    Remedy("back", Levers(lr_scale=0.3), rollback=True, skip_batches=1),
    Remedy("back", Levers(lr_scale=0.3), rollback=True, skip_batches=1),
    Remedy("stop", halt=True),
    Remedy("freeze", Levers(freeze_policy=1)),
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


def symptom(evidence: Evidence, signal: str) -> Symptom:
    """An alarm."""
    return Symptom("test", signal, evidence, True, 1, 1.0, 0.0, 9.0, 2, 1, f"{signal} is high")


# Mostly telemetry; what allows a costly remedy is rare, as in life.
alarms = st.sampled_from([
    *6 * [()], *6 * [(symptom(Evidence.TELEMETRY, "tool_error_rate"),)],
    (symptom(Evidence.CHANNEL, "probe_accuracy"),), (symptom(Evidence.CHANNEL, "golden_mismatch_rate"),),
    (symptom(Evidence.IDENTITY, "staleness"),),
])  # fmt: skip
faults = st.builds(
    lambda code, sure, low, seen: Diagnosis(
        code, family_of(code), sure, (), seen, low + 1, low, "an \x00 odd \ud800 one"
    ),
    st.sampled_from([*CODES, *20 * ["TE-1", "OD-1"]]),
    st.floats(0.3, 1.0),
    st.sampled_from([1, 1, 1, *range(2, 13)]),
    alarms,
)
# Some equal steps: a fault or none, its harm, what the probe says, a reading, and what happens at their boundaries.
spells = st.tuples(
    st.one_of(st.none(), faults, faults),
    st.sampled_from([0.0, 0.0, 0.5]),
    st.sampled_from([math.nan, 0.2, 0.8, 0.9, 0.9]),
    st.sampled_from([*9 * [0.0], 500.0]),
    st.sampled_from(["carry out", "carry out", "carry out", "leave"]),
    st.integers(1, 6),
)
Spell = tuple[Diagnosis | None, float, float, float, str, int]
settings_of_a_run = st.builds(
    IncidentSettings,
    mode=st.sampled_from([*6 * [GuardMode.ACT], GuardMode.ADVISE, GuardMode.OBSERVE]),
    act_on=st.sampled_from([tuple(Family), tuple(Family), (Family.TE,)]),
    verify_steps=st.integers(1, 3),
    verify_timeout_steps=st.integers(1, 6),
    cooldown_steps=st.integers(0, 3),
    budget=st.integers(0, 6),
    return_after=st.integers(1, 3),
    halts=st.booleans(),
    probe_size=st.just(SIZE),
    nominal=st.just(Settings(1e-3, 0.02, 0.2, 0.2, 0.0, 1.0, 1, None, False, 1.0, 0.95, 1e-3, False)),
)


class Run:
    """A run in which anything may happen, and what must always hold in it.

    What allows a remedy is kept here a second time, in the plainest way.
    """

    def __init__(self, how: IncidentSettings, answers: Sequence[Answer], levers: Levers) -> None:
        self.entries: list[Entry] = []
        self.ledger = Ledger(self._write)
        self._settings = how
        self._manager = IncidentManager(how, SafePolicy(Mood(answers), "mood", 30.0), lambda: (0, 4, 8), self.ledger)
        self._place = StepId(0, 0, 0)
        # Held-out accuracies of the lineage by step, the first one, and those before each alarm.
        self._probes: dict[int, float] = {}
        self._before: dict[int, float] = {}
        self._has_ground = self._has_identity = False
        self._manager.start(self._place, levers)
        self._manager.note_probe(self._place, 0.9)

    def step(self, spell: Spell) -> None:
        """A step is judged, and a boundary passed."""
        diagnosis, rate, probe, kl, boundary, _ = spell
        place = self._place = StepId(self._place.attempt, self._place.step + 1, self._place.paid_step + 1)
        signals = {"tool_error_rate": rate, "probe_accuracy": probe, "kl_ref": kl, "update_ratio": 0.01, "lr": 1e-3}
        values = dict.fromkeys(INDEX, 0.0) | signals
        report = StepReport(place, place.paid_step, tuple(values[signal.name] for signal in SIGNALS))
        seen = [(s.evidence, s.signal) for s in (diagnosis.symptoms if diagnosis else ())]
        # What an alarm of the probe is worth, the probe at the boundary says.
        of_channel = any(kind is Evidence.CHANNEL and signal != "probe_accuracy" for kind, signal in seen)
        self._has_ground |= kl > 100 or of_channel or any(kind is Evidence.IDENTITY for kind, _ in seen)
        self._has_identity |= any(kind is Evidence.IDENTITY for kind, _ in seen)
        if not math.isnan(probe):
            self._probes[place.step] = probe
        waiting = self._manager.pending
        order = self._manager.consider(Assessment(report, diagnosis))
        assert waiting is None or (order is None and self._manager.pending is waiting)
        pending = self._manager.pending
        if pending is not None and boundary != "leave":
            self._pass(pending, StepId(place.attempt, place.step + 1, place.paid_step + 1), probe)

    def _pass(self, order: Order, following: StepId, probe: float) -> None:
        frozen = self.ledger.state.levers.freeze_policy == 1
        begun = self._manager.begin(order, following, probe)
        if begun is None:
            assert self._manager.pending is None
            return
        assert begun == order or not begun.is_costly, "only a remedy without cost takes the place of another"
        order = begun
        freezes = order.role == "remedy" and order.levers.freeze_policy == 1 and not frozen
        if order.restore_step is not None or order.halt or freezes:
            # The end that is ordered where nothing is left rests on the probes so far, a remedy on one of its own.
            known = [0.9, *self._probes.values()]
            now = probe if order.role == "remedy" else min(known)
            assert self._has_ground or max(known) - now > 0.03, f"{order.remedy} on telemetry alone"
            if order.role == "remedy" and not self._has_identity:
                assert not now >= max(known) - 0.03, f"{order.remedy} against an accuracy that stands"
        self._manager.done(order, following, 0.1)
        if order.restore_step is not None:
            restored = order.restore_step
            self._place = StepId(following.attempt + 1, restored, following.paid_step)
            self._probes = {step: probe for step, probe in self._probes.items() if step <= restored}

    def _write(self, entry: Entry) -> None:
        self.entries.append(entry)
        if entry.kind is K.OPENED:
            earlier = [probe for step, probe in self._probes.items() if step < entry.id.step]
            self._before[entry.incident] = [0.9, *earlier][-1]
        if entry.kind is K.OUTCOME and entry.text("outcome") in ("resolved", "mitigated"):
            before, now = self._before[entry.incident], list(self._probes.values())[-1]
            by_chance = 2 * math.sqrt((before * (1 - before) + now * (1 - now)) / SIZE)
            assert before - now <= max(0.03, by_chance), f"{entry.text('outcome')} with {now} after {before}"

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
        unverified = [i for i in state.incidents if i.tried and i.tried[-1].outcome == "unverified"]
        assert all(incident.state is not IncidentState.RESOLVED for incident in unverified)
        applied = [e for e in self.entries if e.kind is K.APPLIED and carries_remedy(e)]
        places = [(state.incident(e.incident).code, e.text("remedy"), place_of(e)) for e in applied]
        assert max(Counter(places).values(), default=0) <= 2, "a third time at one step"


def place_of(entry: Entry) -> int:
    """The step that training goes on from."""
    return entry.integer("restored") if entry.has("restored") else entry.id.step - 1


def same(levers: Any) -> Any:
    """Entries as they are read again: what is not finite is none."""
    return None if isinstance(levers, float) and not math.isfinite(levers) else levers


def told(how: IncidentSettings, answers: Sequence[Answer], course: Sequence[Spell]) -> Run:
    """The run after a story, checked at every step."""
    run = Run(how, answers, Levers(max_grad_norm=0.5))
    for spell in course:
        for _ in range(spell[-1]):
            run.step(spell)
            run.check()
    return run


# A story of one fault that comes and goes, whose remedies are carried out at once.
KEEN = IncidentSettings(
    mode=GuardMode.ACT, act_on=tuple(Family), verify_steps=1, verify_timeout_steps=4, cooldown_steps=0, budget=9,
    return_after=2, halts=False, probe_size=SIZE,
    nominal=Settings(1e-3, 0.02, 0.2, 0.2, 0.0, 1.0, 1, None, False, 1.0, 0.95, 1e-3, False),
)  # fmt: skip
relapses = st.builds(
    lambda evidence, signal, harm, probe, pause: [
        (
            Diagnosis("TE-1", Family.TE, 0.9, (), (symptom(evidence, signal),), 2, 1, ""),
            0.5, 0.9, 0.0, "carry out", 1,
        ),
        (None, harm, probe, 0.0, "carry out", pause),
    ],
    st.sampled_from(list(Evidence)), st.sampled_from(["probe_accuracy", "staleness"]),
    st.sampled_from([0.0, 0.0, 0.5]), st.sampled_from([0.2, 0.8, 0.9, 0.9, 0.9, math.nan]), st.integers(1, 7),
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.sampled_from(REMEDIES[:6]), min_size=1, max_size=2), st.lists(relapses, min_size=3, max_size=6)
)  # fmt: skip
def test_fault_that_comes_and_goes(answers: list[Answer], course: list[list[Spell]]) -> None:
    run = told(KEEN, answers, [(None, 0.0, 0.9, 0.0, "carry out", 2), *(spell for part in course for spell in part)])
    assert replay(tuple(run.entries)) == run.ledger.state


@settings(max_examples=60, deadline=None)
@given(
    settings_of_a_run,
    st.lists(st.sampled_from(REMEDIES), min_size=1, max_size=4),
    st.lists(spells, min_size=3, max_size=12),
)
def test_whatever_happens(how: IncidentSettings, answers: list[Answer], course: list[Spell]) -> None:
    run = told(how, answers, course)
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
        kept = tuple((name, same(value)) for name, value in written.fields)
        assert read == replace(written, fields=kept)
