"""The guard as one object: the same verdicts in chunks of any size, rollbacks, declarations, and what quiet costs."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import pytest

from rftfm_ray.diagnosis.assessor import Assessor
from rftfm_ray.diagnosis.diagnoser import FaultDiagnoser
from rftfm_ray.errors import GuardError
from rftfm_ray.incidents.guardian import Guardian
from rftfm_ray.incidents.ledger import Ledger
from rftfm_ray.incidents.manager import IncidentManager
from rftfm_ray.incidents.orders import Order, OrderRole
from rftfm_ray.incidents.state import Entry, EntryKind, replay
from rftfm_ray.policies.safety import SafePolicy
from rftfm_ray.signals.schema import INDEX, SIGNALS
from rftfm_ray.types import Levers, StepId
from rftfm_ray.verdicts import Assessment, Declaration, DeclaredChange, IncidentState, Remedy, StepReport
from tests.unit.diagnosis.scripted import Given, ScriptedMonitor, alarm
from tests.unit.incidents.managed import PLAIN, USUAL, VERIFY, Answer, Script, fault

RETRY = Remedy("retry", Levers(tool_retries=2))
BACK = Remedy("back", Levers(lr_scale=0.5), rollback=True)
TOOL = alarm("tool_error_rate", 6)
K = EntryKind


def report(step: int, attempt: int = 0, paid: int | None = None) -> StepReport:
    """A usual step."""
    values = dict.fromkeys(INDEX, 0.0) | USUAL
    return StepReport(StepId(attempt, step, paid or step), step, tuple(values[signal.name] for signal in SIGNALS))


def guardian(symptoms: Given, *answers: Answer) -> tuple[Guardian, ScriptedMonitor, list[Entry]]:
    """A guardian of a run with these symptoms, its monitor, and its journal."""
    monitor, entries = ScriptedMonitor(symptoms), list[Entry]()
    policy = SafePolicy(Script(answers or (None,)), "script", 30.0)
    assessor = Assessor(monitor, FaultDiagnoser(), 5, 4)
    return Guardian(assessor, PLAIN, policy, lambda: (0, 5), entries.append), monitor, entries


def states(guard: Guardian) -> list[IncidentState]:
    """States of the incidents."""
    return [incident.state for incident in guard.state.incidents]


def test_step_gives_the_assessment_and_a_new_order_once() -> None:
    guard, _, entries = guardian({6: [TOOL], 7: [TOOL]}, RETRY)
    given = [guard.step(report(step)) for step in range(1, 8)]
    assert [order for _, order in given] == [None] * 5 + [guard.pending, None]
    assert isinstance(guard.pending, Order)
    assessment = given[5][0]
    assert assessment.report.id.step == 6
    assert assessment.diagnosis is not None
    assert assessment.diagnosis.code == "TE-1"
    assert replay(tuple(entries)) == guard.state


@pytest.mark.parametrize("size", [1, 3, 7, 40])
def test_chunks_of_any_size_give_the_same_verdicts(size: int) -> None:
    symptoms = {step: [TOOL] for step in (6, 7, 20, 21, 22)}
    reports = [report(step) for step in range(1, 41)]
    one, _, journal = guardian(symptoms, None)
    singly = [one.step(item) for item in reports]
    many, _, entries = guardian(symptoms, None)
    chunks = [reports[start : start + size] for start in range(0, len(reports), size)]
    assert repr([item for chunk in chunks for item in many.steps(chunk)]) == repr(singly)
    assert entries == journal
    assert K.OPENED in [entry.kind for entry in entries]


def test_order_is_announced_and_done_and_the_monitor_learns_of_it() -> None:
    guard, monitor, entries = guardian({6: [TOOL]}, RETRY)
    guard.start(StepId(0, 0, 0))
    order = guard.steps([report(step) for step in range(1, 7)])[-1][1]
    assert order is not None
    assert not order.is_costly
    following = StepId(0, 7, 7)
    assert guard.begin(order, following)
    assert states(guard) == [IncidentState.REMEDIATING]
    # An order begins once, and waits no more.
    assert guard.pending is None
    assert not guard.begin(order, following)
    guard.done(order, following, 0.25)
    assert guard.pending is None
    assert guard.state.levers == Levers(tool_retries=2)
    assert states(guard) == [IncidentState.VERIFYING]
    kinds = [K.STARTED, K.OPENED, K.DIAGNOSED, K.DECIDED, K.APPLYING, K.APPLIED, K.DECLARED]
    assert [entry.kind for entry in entries] == kinds
    assert dict(entries[5].fields)["seconds"] == 0.25
    assert [(change.kind, change.step, change.settled) for change in monitor.changes] == [
        ("levers", 7, ("tool_error_rate",))
    ]
    assert not guard.begin(order, following)
    with pytest.raises(GuardError, match="Order 1 ends and was not begun"):
        guard.done(order, following, 0.25)
    incidents, remedies = guard.finish(StepId(0, 7, 7))
    assert ([incident.fault for incident in incidents], remedies) == (["TE-1"], 1)
    assert [entry.kind for entry in entries[len(kinds) :]] == [K.ENDED]
    assert dict(entries[-1].fields) == {"incidents": 1, "remedies": 1, "open": 1}


def test_rollback_takes_the_guard_back_as_well() -> None:
    guard, monitor, entries = guardian({8: [alarm("update_ratio", 8)]}, BACK)
    order = guard.steps([report(step) for step in range(1, 9)])[-1][1]
    assert order is not None
    assert order.is_costly
    assert order.restore_step == 5
    following = StepId(0, 9, 9)
    assert guard.begin(order, following, 0.4)
    assert dict(next(e.fields for e in entries if e.kind is K.CONFIRMED))["probe_now"] == 0.4
    guard.done(order, following, 1.0)
    assert monitor.count == 5
    assert (monitor.changes[-1].step, monitor.changes[-1].settled) == (6, ()), "rewound detectors are not settled"
    # A report of the abandoned attempt counts no more, and those of the new one do.
    assert guard.step(report(9, 0, 9))[1] is None
    before = len(entries)
    guard.steps([report(step, 1, step + 4) for step in range(6, 6 + VERIFY)])
    assert entries[before].kind is K.OUTCOME


def test_unconfirmed_order_is_dropped_and_failed_one_noted() -> None:
    # Likely enough to be diagnosed, and not to go without a probe.
    guard, _, entries = guardian({8: [alarm(name, 8) for name in ("grad_norm", "kl_ref", "update_ratio")]}, BACK)
    order = guard.steps([report(step) for step in range(1, 9)])[-1][1]
    assert order is not None
    assert not guard.begin(order, StepId(0, 9, 9), math.nan)
    assert guard.pending is None
    assert entries[-1].kind is K.UNCONFIRMED
    guard, _, entries = guardian({6: [TOOL]}, RETRY)
    order = guard.steps([report(step) for step in range(1, 7)])[-1][1]
    assert order is not None
    assert guard.begin(order, StepId(0, 7, 7))
    guard.fail(order, StepId(0, 7, 7), "the learner is gone")
    assert guard.pending is None
    assert (entries[-1].kind, entries[-1].text("reason")) == (K.FAILED, "the learner is gone")


def test_declaration_reaches_monitor_and_journal() -> None:
    guard, monitor, entries = guardian({})
    change = DeclaredChange("configuration", 4, ("lr",), "learner.lr from 1 to 2")
    guard.declare(Declaration(StepId(0, 4, 4), change))
    assert monitor.changes == [change]
    assert (entries[-1].kind, dict(entries[-1].fields)) == (
        K.DECLARED, {"change": "configuration", "reason": "learner.lr from 1 to 2"},
    )  # fmt: skip


def test_start_holds_the_levers_that_are_in_force() -> None:
    guard, _, entries = guardian({})
    guard.start(StepId(0, 7, 9), Levers(lr_scale=0.5))
    assert guard.state.levers == Levers(lr_scale=0.5)
    assert [entry.kind for entry in entries] == [K.STARTED, K.DECLARED]
    assert dict(entries[0].fields)["policy"] == "script"


def manager(levers: Levers | None = None) -> IncidentManager:
    """An incident manager without incidents."""
    made = IncidentManager(PLAIN, SafePolicy(Script([None]), "script", 30.0), lambda: (0,), Ledger(lambda _: None))
    made.start(StepId(0, 0, 0), levers or Levers())
    return made


def consider(made: IncidentManager, assessments: Sequence[Assessment]) -> float:
    """Processor time in seconds that it takes."""
    began = time.process_time()
    for assessment in assessments:
        made.consider(assessment)
    return time.process_time() - began


def test_quiet_steps_cost_next_to_nothing() -> None:
    values = report(1).values
    quiet = [Assessment(StepReport(StepId(0, step, step), step, values), None) for step in range(1, 100_001)]
    # The best of three: the machine may be busy with something else.
    assert min(consider(manager(), quiet) for _ in range(3)) < 1.0


def test_quiet_steps_change_nothing_but_the_count_of_them() -> None:
    """After a long silence everything goes on as after a short one."""
    made = manager()
    for step in range(1, 301):
        assert made.consider(Assessment(report(step), None)) is None
    assert made.state == manager().state
    values = list(report(301).values)
    values[INDEX["tool_error_rate"]] = 0.5
    harmed = StepReport(StepId(0, 301, 301), 301, tuple(values))
    made.consider(Assessment(harmed, fault(probability=0.5, onset=301)))
    for step in range(302, 302 + VERIFY):
        made.consider(Assessment(report(step), None))
    assert [incident.state for incident in made.state.incidents] == [IncidentState.RESOLVED]


def test_lever_off_nominal_is_looked_at_in_quiet_steps() -> None:
    made = manager(Levers(tool_retries=2))
    orders = [made.consider(Assessment(report(step), None)) for step in range(1, VERIFY + 1)]
    assert [order.role for order in orders if order is not None] == [OrderRole.RETURN]
