"""Signals that speak of a fault's cause alone: they open incidents, but not while a lever keeps the harm away."""

from __future__ import annotations

import math
from dataclasses import replace

from rftfm_ray.diagnosis.assessor import Assessor
from rftfm_ray.diagnosis.diagnoser import FaultDiagnoser
from rftfm_ray.incidents.guardian import Guardian
from rftfm_ray.incidents.lever_return import expected_alarms
from rftfm_ray.incidents.orders import OrderRole
from rftfm_ray.incidents.state import Entry, EntryKind
from rftfm_ray.policies.playbook import Playbook
from rftfm_ray.policies.safety import SafePolicy
from rftfm_ray.signals.schema import INDEX, SIGNALS
from rftfm_ray.types import Levers, StepId
from rftfm_ray.verdicts import DeclaredChange, Evidence, Expected, OutcomeKind, Remedy, StepReport, Symptom
from tests.unit.diagnosis.scripted import ScriptedMonitor, alarm
from tests.unit.incidents.managed import FAILING, PLAIN, RETURN_AFTER, USUAL, VERIFY, ManagedRun, fault

GOLDEN, TRAINED = "golden_mismatch_rate", "trained_mismatch_rate"
SOURCE = ((GOLDEN, 1), ("regrade_mismatch_rate", 1))
REGRADE = Remedy("regrade", Levers(regrade_rate=1.0))
K = EntryKind


def sides(change: DeclaredChange) -> frozenset[tuple[str, int]]:
    """Signals and sides on which alarms are expected from a change on."""
    return change.expected.sides if change.expected is not None else frozenset()


def test_containing_lever_makes_alarms_of_the_cause_expected() -> None:
    run = ManagedRun(REGRADE)
    run.pass_steps(5)
    run.tick(fault("RF-1", signals=[TRAINED, GOLDEN]), trained_mismatch_rate=0.5)
    assert run.begin()
    change = run.done()
    assert change.expected == Expected(contained=SOURCE)
    assert TRAINED in change.settled


def test_lever_that_contains_nothing_leaves_alarms_as_they_are() -> None:
    # TE-1 is not contained by grading again, and a lower rate contains no reward fault.
    for code, remedy in (("TE-1", REGRADE), ("RF-1", Remedy("slow", Levers(lr_scale=0.5)))):
        run = ManagedRun(remedy)
        run.tick(fault(code, signals=[GOLDEN]))
        assert run.begin()
        assert not sides(run.done()) & set(SOURCE)


def test_lever_that_returns_ends_the_expectation_and_the_evidence() -> None:
    run = ManagedRun(REGRADE)
    run.pass_steps(5)
    run.remedied(fault("RF-1"), {TRAINED: 0.5})
    while run.manager.pending is None:
        run.tick()
    assert run.pending.role is OrderRole.RETURN
    assert run.begin()
    change = run.done()
    assert (change.expected, change.settled) == (Expected(), (GOLDEN, "regrade_mismatch_rate"))


def test_levers_of_a_tool_end_the_expectation_with_the_last_of_them() -> None:
    run = ManagedRun(Remedy("both", Levers(tool_instance=1, tool_retries=2)))
    run.pass_steps(5)
    run.remedied(fault(), FAILING)
    changes = list[DeclaredChange]()
    while not changes or run.manager.state.levers != Levers():
        run.tick()
        if run.manager.pending is not None:
            assert run.begin()
            changes.append(run.done())
    signals = ("known_call_error_rate", "tool_retry_rate", "tool_shadow_error_rate")
    causes = tuple((signal, 1) for signal in signals)
    expected = [change.expected for change in changes]
    assert [each.contained for each in expected if each is not None] == [causes, ()]
    assert [change.settled for change in changes] == [(), signals]


def test_what_a_lever_does_by_design_is_expected_while_it_is_in_force() -> None:
    run = ManagedRun(Remedy("slow", Levers(lr_scale=0.2, refill_rounds=1)), None)
    run.pass_steps(5)
    run.tick(fault("OD-1"))
    assert run.begin()
    change = run.done()
    assert {("update_ratio", -1), ("refilled_rate", 1)} <= sides(change)
    # Updates that are too large are never expected, and the size of updates keeps its reference.
    assert ("update_ratio", 1) not in sides(change)
    assert "update_ratio" not in change.signals
    # It did not help and is undone: what it did is no evidence.
    run.pass_steps(VERIFY - 1, fault("OD-1"))
    assert run.tick(fault("OD-1")) is not None
    assert run.pending.role is OrderRole.UNDO
    assert run.begin()
    undone = run.done()
    assert undone.expected == Expected()
    assert {"update_ratio", "refilled_rate"} <= set(undone.settled)


def test_lever_that_is_in_force_from_the_start_moves_its_signals_too() -> None:
    run = ManagedRun(None, levers=Levers(lr_scale=0.2, tool_retries=2))
    assert ("update_ratio", -1) in expected_alarms(run.manager.state).moved


def test_fault_left_to_people_is_not_opened_again_by_its_cause() -> None:
    run = ManagedRun(None)
    run.pass_steps(VERIFY, fault("RF-1", signals=[TRAINED]))
    assert len(run.manager.state.incidents) == 1
    assert run.manager.state.incidents[0].state.final
    # What is left of it is the alarm of its cause, under whatever name.
    run.pass_steps(VERIFY + 5, fault("PG-1", signals=[GOLDEN]))
    assert len(run.manager.state.incidents) == 1


class GuardedRun:
    """A run whose reward channel goes wrong at step 6, guarded as a whole."""

    def __init__(self, last: int) -> None:
        self.last = last
        self.step = 0
        self.entries: list[Entry] = []
        self.monitor = ScriptedMonitor(lambda _: self.symptoms())
        assessor = Assessor(self.monitor, FaultDiagnoser(), 5, 4)
        policy = SafePolicy(Playbook(), "playbook", 30.0)
        self.guardian = Guardian(assessor, PLAIN, policy, lambda: (0, 5), self.entries.append)
        self.guardian.start(StepId(0, 0, 0))

    @property
    def is_broken(self) -> bool:
        """Whether the reward channel disagrees with the verifier at the current step."""
        return 6 <= self.step <= self.last

    def symptoms(self) -> list[Symptom]:
        """The golden set shows the cause; what is trained on shows it as long as nothing is graded again."""
        graded_again = self.guardian.state.levers.regrade_rate == 1.0
        names = [GOLDEN, *([] if graded_again else [TRAINED])] if self.is_broken else []
        alarms = [alarm(name, 6, evidence=Evidence.CHANNEL) for name in names]
        # The side on which rewards are wrong tells RF-1 from RF-2.
        pays_more = alarm("regrade_error_mean", 6, evidence=Evidence.CHANNEL)
        return [*alarms, replace(pays_more, alarm=False)] if alarms else []

    def tick(self) -> None:
        """One step, and the boundary after it."""
        self.step += 1
        graded_again = self.guardian.state.levers.regrade_rate == 1.0
        wrong = 0.5 if self.is_broken else 0.0
        values = dict.fromkeys(INDEX, 0.0) | USUAL | {"regrade_mismatch_rate": wrong, "regrade_count": 100.0}
        values |= {TRAINED: 0.0 if graded_again else wrong, GOLDEN: wrong}
        # Every wrong answer is paid as a right one.
        values |= {"regrade_error_mean": wrong, "golden_wrong_error": 2 * wrong, "regrade_hit_wrong": 2 * wrong}
        id_ = StepId(0, self.step, self.step)
        _, order = self.guardian.step(StepReport(id_, self.step, tuple(values[s.name] for s in SIGNALS)))
        if order is not None:
            following = StepId(0, self.step + 1, self.step + 1)
            assert self.guardian.begin(order, following, math.nan)
            self.guardian.done(order, following, 0.1)

    def incidents(self) -> list[tuple[int, str]]:
        """Steps at which incidents were opened, with their codes."""
        return [(e.id.step, e.text("code")) for e in self.entries if e.kind is K.OPENED]


def test_mitigated_fault_opens_no_second_incident_while_its_cause_lasts() -> None:
    run = GuardedRun(last=40)
    for _ in range(40):
        run.tick()
    assert run.incidents() == [(6, "RF-1")]
    (incident,) = run.guardian.state.incidents
    assert [tried.outcome for tried in incident.tried] == [OutcomeKind.MITIGATED]
    assert run.guardian.state.levers == Levers(regrade_rate=1.0)


def test_lever_returns_when_the_cause_is_over_and_a_relapse_is_seen() -> None:
    run = GuardedRun(last=20)
    for _ in range(20 + RETURN_AFTER + 1):
        run.tick()
    assert run.guardian.state.levers == Levers()
    assert run.incidents() == [(6, "RF-1")]
    assert [c.expected for c in run.monitor.changes] == [Expected(contained=SOURCE), Expected()]
    # The cause comes back, and nothing keeps its harm away.
    run.last = 100
    run.tick()
    assert [code for _, code in run.incidents()] == ["RF-1", "RF-1"]


def test_cause_alone_opens_an_incident() -> None:
    for signal, code in ((GOLDEN, "RF-1"), ("known_call_error_rate", "TE-1")):
        entries: list[Entry] = []
        monitor = ScriptedMonitor({1: [alarm(signal, 2, evidence=Evidence.CHANNEL)]})
        assessor = Assessor(monitor, FaultDiagnoser(), 0, 0)
        guardian = Guardian(assessor, PLAIN, SafePolicy(Playbook(), "playbook", 30.0), lambda: (0,), entries.append)
        values = tuple((dict.fromkeys(INDEX, 0.0) | USUAL)[s.name] for s in SIGNALS)
        guardian.step(StepReport(StepId(0, 2, 2), 2, values))
        assert [entry.text("code") for entry in entries if entry.kind is K.OPENED] == [code]
