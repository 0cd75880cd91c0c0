"""From reports to assessments: states that go back with a rollback, and diagnosers that fail."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from rftfm_ray.actors.monitor import MonitorActor
from rftfm_ray.actors.roles import Role
from rftfm_ray.detection.monitor import MonitorPlan
from rftfm_ray.detection.observed import Observation
from rftfm_ray.detection.state import State, check_keys, scalar_from
from rftfm_ray.diagnosis import assessor as assessor_module
from rftfm_ray.diagnosis.assessor import Assessor, build_assessor
from rftfm_ray.diagnosis.classify import CLAIMED
from rftfm_ray.diagnosis.diagnoser import Diagnoser, FaultDiagnoser, StepEvidence
from rftfm_ray.diagnosis.model import installed_model
from rftfm_ray.diagnosis.readings import Readings
from rftfm_ray.errors import StateError
from rftfm_ray.verdicts import (
    Assessment,
    Declaration,
    DeclaredChange,
    Diagnosis,
    Expected,
    Family,
    StepReport,
    Symptom,
)
from tests.unit.diagnosis.scripted import ScriptedMonitor, alarm

Make = Callable[..., StepReport]
Recorded = dict[str, list[StepReport]]
TOOL = alarm("tool_error_rate", 8)


class Counting:
    """A diagnoser that names the number of steps it has seen, and raises at the step `broken`."""

    name = "counting"

    def __init__(self, broken: int = 0) -> None:
        self.count = 0
        self.broken = broken

    def observe(self, observation: Observation) -> None:
        """Count."""
        self.count += 1
        if observation.report.id.step == self.broken:
            raise ZeroDivisionError("no weights" + "!" * 400)

    def diagnose(self) -> Diagnosis | None:
        """The count as a code."""
        return Diagnosis(str(self.count), Family.UNKNOWN, 1.0, (), (), 1, 1, "")

    def rediagnoser(self) -> StepEvidence:
        """One without readings."""
        return StepEvidence(Readings(), (), installed_model())

    def state_dict(self) -> State:
        """The count."""
        return {"count": self.count}

    def load_state_dict(self, state: State) -> None:
        """Take the count."""
        check_keys(state, ("count",))
        self.count = scalar_from(state, "count", int)


def assessor(
    symptoms: Mapping[int, Sequence[Symptom]], diagnoser: Diagnoser | None = None, every: int = 5, keep: int = 4
) -> Assessor:
    """An assessor whose monitor has these symptoms at these steps."""
    return Assessor(ScriptedMonitor(symptoms), diagnoser or FaultDiagnoser(), every, keep)


def codes(assessments: Sequence[Assessment]) -> dict[int, str]:
    """Codes of the diagnoses, by step."""
    return {a.report.id.step: a.diagnosis.code for a in assessments if a.diagnosis is not None}


def same(left: Sequence[Assessment], right: Sequence[Assessment]) -> bool:
    """Equal, where NaN equals NaN."""
    return repr(left) == repr(right)


def test_alarm_gets_a_name_and_silence_none(make_report: Make) -> None:
    assessments = assessor({8: [TOOL], 9: [TOOL]}).assess([make_report(step) for step in range(1, 12)])
    assert [a.report.id.step for a in assessments] == list(range(1, 12))
    assert codes(assessments) == {8: "TE-1", 9: "TE-1"}


def test_reports_are_judged_in_chunks_that_end_where_a_state_is_kept(make_report: Make) -> None:
    monitor = ScriptedMonitor({8: [TOOL]})
    reports = [make_report(step) for step in range(1, 13)]
    chunked = Assessor(monitor, FaultDiagnoser(), 5, 4).assess(reports)
    assert monitor.chunks == [5, 5, 2]
    one_by_one = assessor({8: [TOOL]})
    assert same(chunked, [one_by_one.assess([report])[0] for report in reports])
    assert assessor({}).assess([]) == []


@pytest.mark.parametrize("step", [5, 7, 10])
def test_rewinding_goes_to_the_newest_kept_state_before_a_step(make_report: Make, step: int) -> None:
    monitor, diagnoser = ScriptedMonitor({}), Counting()
    assessor = Assessor(monitor, diagnoser, 5, 4)
    assessor.assess([make_report(step) for step in range(1, 13)])
    for _ in range(2):
        assessor.rewind(step)
        assert (monitor.count, diagnoser.count) == ((step // 5) * 5,) * 2
        assessor.assess([make_report(step) for step in range(step + 1, step + 3)])


def test_steps_that_were_undone_leave_nothing(make_report: Make) -> None:
    monitor = ScriptedMonitor({})
    assessor = Assessor(monitor, FaultDiagnoser(), 5, 4)
    assessor.assess([make_report(step) for step in range(1, 13)])
    assessor.rewind(5)
    # The state of step 10 is one of the abandoned attempt.
    assessor.rewind(12)
    assert monitor.count == 5


@pytest.mark.parametrize(("keep", "every"), [(1, 5), (4, 5), (4, 1), (2, 7)])
def test_kept_states_are_bounded_and_reach_as_far_as_the_snapshots(make_report: Make, keep: int, every: int) -> None:
    monitor = ScriptedMonitor({})
    assessor = Assessor(monitor, FaultDiagnoser(), every, keep)
    for step in range(1, 61):
        assessor.assess([make_report(step)])
        kept = assessor.state_dict()["kept"]
        assert isinstance(kept, Mapping)
        assert list(kept) == [str(at) for at in range(0, step + 1, every)][-keep - 1 :]
    # Snapshots of the learner: the newest `keep` multiples of `every`.
    for step in [s for s in range(60, 0, -1) if s % every == 0][:keep]:
        assessor.rewind(step)
        assert monitor.count == step


def test_rewinding_beyond_the_kept_states_goes_to_the_initial_one(make_report: Make) -> None:
    monitor, diagnoser = ScriptedMonitor({12: [TOOL]}), Counting()
    assessor = Assessor(monitor, diagnoser, 1, 1)
    reports = [make_report(step) for step in range(1, 15)]
    first = assessor.assess(reports)
    assert "3" not in assessor.state_dict()["kept"]  # type: ignore[operator]
    for _ in range(2):
        assessor.rewind(3)
        assert (monitor.count, diagnoser.count) == (0, 0)
        # What was kept of later steps is gone, and the state can be saved and loaded.
        assert list(assessor.state_dict()["kept"]) == ["0"]  # type: ignore[arg-type]
        assessor.load_state_dict(assessor.state_dict())
    assert same(assessor.assess(reports), first)


def test_without_snapshots_only_the_start_is_kept(make_report: Make) -> None:
    monitor = ScriptedMonitor({})
    assessor = Assessor(monitor, FaultDiagnoser(), 0, 4)
    assessor.assess([make_report(step) for step in range(1, 30)])
    assert monitor.chunks == [29]
    assessor.rewind(20)
    assert monitor.count == 0


def test_diagnoser_that_raises_is_disabled_said_once_and_alarms_keep_coming(
    make_report: Make, caplog: pytest.LogCaptureFixture
) -> None:
    judge = assessor({7: [TOOL], 8: [TOOL]}, Counting(broken=7))
    with caplog.at_level(logging.WARNING, assessor_module.__name__):
        assessments = judge.assess([make_report(step) for step in range(1, 10)])
    assert [len(a.disabled) for a in assessments] == [0] * 6 + [1, 0, 0]
    ((name, reason),) = assessments[6].disabled
    assert name == "counting"
    assert reason.startswith("ZeroDivisionError: no weights!")
    assert len(reason) == 300
    assert "counting" in caplog.text
    # From then on an alarm has no name, and is an alarm all the same.
    assert codes(assessments)[6] == "6"
    assert {step: code for step, code in codes(assessments).items() if step > 6} == {7: "UNKNOWN", 8: "UNKNOWN"}
    nameless = assessments[7].diagnosis
    assert nameless is not None
    assert (nameless.onset, nameless.probability) == (8, 1.0)
    assert "tool_error_rate is high" in nameless.summary
    assert "diagnoser is disabled" in nameless.summary


def test_disabled_diagnoser_does_not_come_back_with_a_rollback(make_report: Make) -> None:
    judge = assessor({7: [TOOL]}, Counting(broken=7))
    judge.assess([make_report(step) for step in range(1, 9)])
    judge.rewind(5)
    again = judge.assess([make_report(step) for step in range(6, 9)])
    assert codes(again) == {7: "UNKNOWN"}
    assert not any(a.disabled for a in again)


def test_diagnoser_whose_state_cannot_be_taken_is_disabled(make_report: Make) -> None:
    class Stateless(Counting):
        def load_state_dict(self, state: State) -> None:
            raise KeyError("count")

    judge = assessor({}, Stateless())
    judge.assess([make_report(step) for step in range(1, 9)])
    judge.rewind(5)
    assert [name for a in judge.assess([make_report(6)]) for name, _ in a.disabled] == ["counting"]


def test_assessor_continues_from_a_file(make_report: Make, tmp_path: Path) -> None:
    reports, file = [make_report(step) for step in range(1, 15)], tmp_path / "state"
    first = assessor({13: [TOOL]}, Counting())
    first.assess(reports[:12])
    first.declare(
        DeclaredChange(
            "levers", 13, (), "order 1", expected=Expected((("update_ratio", -1),), (("tool_error_rate", 1),))
        )
    )
    first.save(file)
    monitor, diagnoser = ScriptedMonitor({13: [TOOL]}), Counting()
    second = Assessor(monitor, diagnoser, 5, 4)
    second.load(file)
    assert second.state_dict() == first.state_dict()
    assert (monitor.count, diagnoser.count) == (12, 12)
    assert same(second.assess(reports[12:]), first.assess(reports[12:]))
    second.rewind(11)
    assert (monitor.count, diagnoser.count) == (10, 10)


def test_state_of_something_else_is_refused_and_changes_nothing(make_report: Make, tmp_path: Path) -> None:
    monitor = ScriptedMonitor({})
    judge = Assessor(monitor, Counting(), 5, 4)
    judge.assess([make_report(step) for step in range(1, 8)])
    whole, file = judge.state_dict(), tmp_path / "state"
    kept = whole["kept"]
    assert isinstance(kept, Mapping)
    damaged: list[State] = [
        {},
        {**whole, "more": 1},
        {**whole, "monitor": {"other": 1}},
        {**whole, "diagnoser": {}},
        {**whole, "kept": {}},
        {**whole, "kept": {"five": kept["5"]}},
        {**whole, "kept": {**kept, "5": {"monitor": {"count": "five"}, "diagnoser": {"count": 5}}}},
        {**whole, "expected": {"above": "", "below": ""}},
        {**whole, "expected": {"moved": {"above": "", "below": ""}, "contained": {"above": "", "below": 3}}},
    ]
    for state in damaged:
        with pytest.raises(StateError):
            judge.load_state_dict(state)
        assert judge.state_dict() == whole
    file.write_bytes(b"no state at all")
    with pytest.raises(StateError, match=str(file)):
        judge.load(file)
    assert judge.state_dict() == whole


@pytest.mark.parametrize(
    ("run", "fault"),
    [
        ("calculator_od1", ("OD-1", 16, 15)),
        ("arithmetic_od1", ("OD-1", 16, 15)),
        ("calculator_te1", ("TE-1", 10, 10)),
        ("calculator_rf1", ("RF-1", 15, 15)),
    ],
)
def test_recorded_fault_is_found_named_and_dated(
    recorded: Recorded, plan: MonitorPlan, run: str, fault: tuple[str, int, int]
) -> None:
    code, alarm_step, onset = fault
    assessments = build_assessor(plan).assess(recorded[run])
    named = codes(assessments)
    assert abs(min(named) - alarm_step) <= 1
    assert min(named) >= onset
    assert set(list(named.values())[:5]) == {code}
    first = assessments[min(named) - 1].diagnosis
    assert first is not None
    assert (first.onset, first.onset_low) == (onset, onset)


@pytest.mark.parametrize(
    "run",
    [
        "calculator_od1",
        "arithmetic_od1",
        "calculator_te1",
        "calculator_rf1",
    ],
)
def test_recorded_fault_is_claimed_at_its_first_alarm(recorded: Recorded, plan: MonitorPlan, run: str) -> None:
    first = next(each.diagnosis for each in build_assessor(plan).assess(recorded[run]) if each.diagnosis)
    assert first.probability >= CLAIMED


@pytest.fixture
def actor(plan: MonitorPlan, monkeypatch: pytest.MonkeyPatch) -> MonitorActor:
    """The monitor's actor without the name of its process and its gauges."""
    for name in ("rename_process", "StateGauge"):
        monkeypatch.setattr(f"rftfm_ray.actors.monitor.{name}", lambda *_: _Silent())
    return MonitorActor(Role("run", "monitor", 0, ""), plan)


class _Silent:
    def set(self, state: object) -> None:
        """Nothing to show."""


def judged(actor: MonitorActor, items: Sequence[StepReport | Declaration]) -> tuple[Assessment, ...]:
    """The assessments among what an actor returns."""
    return tuple(item for item in actor.assess(items) if isinstance(item, Assessment))


def test_actor_judges_in_order_and_goes_back_before_it_forgets(
    actor: MonitorActor, recorded: Recorded, plan: MonitorPlan
) -> None:
    reports, judge = recorded["arithmetic_od1"], build_assessor(plan)
    assert same(judged(actor, reports[:20]), tuple(judge.assess(reports[:20])))
    change = DeclaredChange("levers", 16, ("kl_ref", "update_ratio"), "order 1")
    actor.changed(change, 15)
    judge.rewind(15)
    judge.declare(change)
    # A report of the attempt that has ended is late: it does not belong to the lineage that is watched.
    (late,) = judged(actor, reports[20:21])
    assert (late.report, late.diagnosis) == (reports[20], None)
    again = [replace(report, id=replace(report.id, attempt=1)) for report in reports]
    assert same(judged(actor, again[15:]), tuple(judge.assess(again[15:])))
    actor.changed(change, None)
    judge.declare(change)
    assert same(judged(actor, again[:3]), tuple(judge.assess(again[:3])))


def test_declared_change_counts_from_its_place_between_reports_on(
    actor: MonitorActor, recorded: Recorded, plan: MonitorPlan
) -> None:
    reports, judge = recorded["arithmetic_od1"], build_assessor(plan)
    declaration = Declaration(reports[18].id, DeclaredChange("configuration", 19, ("kl_ref", "update_ratio"), "lr"))
    items: list[StepReport | Declaration] = [*reports[:18], declaration, *reports[18:]]
    returned = actor.assess(items)
    assert [isinstance(item, Declaration) for item in returned] == [isinstance(item, Declaration) for item in items]
    assert returned[18] == declaration, "it is handed on to the journal"
    wanted = judge.assess(reports[:18])
    judge.declare(declaration.change)
    wanted += judge.assess(reports[18:])
    assert same(tuple(item for item in returned if isinstance(item, Assessment)), tuple(wanted))
    # Of an attempt that has ended: its detectors are gone.
    actor.changed(declaration.change, 15)
    judge.rewind(15)
    judge.declare(declaration.change)
    assert actor.assess([declaration]) == (declaration,)
    again = [replace(report, id=replace(report.id, attempt=1)) for report in reports]
    assert same(judged(actor, again[15:]), tuple(judge.assess(again[15:])))


@pytest.mark.parametrize("value_loss", [0.1, math.nan])
def test_only_a_run_with_a_critic_has_a_fault_of_the_critic_as_rival(make_report: Make, value_loss: float) -> None:
    symptoms = [alarm("advantage_mean", 1), alarm("advantage_max", 1)]
    # Where what faults would break was compared and holds, they are no rivals.
    unknown = dict.fromkeys(("value_error", "credit_error", "update_gain"), math.nan)
    reports = [make_report(1, value_loss=value_loss, **unknown)]
    (assessment,) = assessor({1: symptoms}).assess(reports)
    assert assessment.diagnosis is not None
    rivals = [rival.code for rival in assessment.diagnosis.rivals]
    assert ("CA-1" in rivals) == math.isfinite(value_loss)
