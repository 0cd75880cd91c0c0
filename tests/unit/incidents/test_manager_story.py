"""Long stories of a run: several incidents, levers on their way back, rollbacks, and unconfirmed orders."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from rftfm_ray.incidents.orders import Order, OrderRole
from rftfm_ray.incidents.state import EntryKind, Scalar
from rftfm_ray.types import GuardMode, Levers, StepId
from rftfm_ray.verdicts import Assessment, Family, IncidentState, OutcomeKind, Remedy
from tests.texts import without_places
from tests.unit.incidents.managed import FAILING, RETURN_AFTER, TIMEOUT, VERIFY, ManagedRun, fault

OTHER_TOOL = Remedy("other_tool", Levers(tool_instance=1))
RETRY = Remedy("retry", Levers(tool_retries=2))
SLOW = Remedy("slow", Levers(lr_scale=0.5, kl_coef_scale=2.0))
BACK = Remedy("back", Levers(lr_scale=0.5), rollback=True)
K = EntryKind


def test_helping_lever_goes_back_first_and_the_other_when_the_source_is_silent() -> None:
    run = ManagedRun(SLOW)
    run.pass_steps(5)
    source = {"schedule_excess": 1.0}
    run.remedied(fault("OD-1"), {"update_ratio": 1.0}, **source)
    order = run.tick(None, **source)
    assert run.incident.reason.startswith("mitigated")
    reason = f"{VERIFY} steps without an alarm"
    assert order == Order(2, 1, OrderRole.RETURN, "return kl_coef_scale", reason, Levers(lr_scale=0.5))
    assert run.entries[-1].kind is K.RETURNING
    run.carry_out()
    run.pass_steps(20, None, **source)
    run.pass_steps(RETURN_AFTER - 1)
    assert run.manager.state.levers == Levers(lr_scale=0.5)
    assert run.tick() is not None
    assert run.carry_out().levers == Levers()


def test_levers_go_back_one_at_a_time_with_a_wait_between_them() -> None:
    run = ManagedRun(Remedy("all", Levers(tool_instance=1, tool_retries=2, refill_rounds=1)))
    run.pass_steps(5)
    run.remedied(fault(), FAILING)
    run.pass_steps(1)
    moved: list[tuple[int, str]] = []
    for _ in range(3 * RETURN_AFTER):
        if run.tick() is not None:
            moved.append((run.place.paid_step, run.carry_out().remedy))
    first = moved[0][0]
    assert first == 6 + RETURN_AFTER, "the first step under the remedy is the seventh"
    names = ["return tool_instance", "return tool_retries", "return refill_rounds"]
    assert moved == [(first + n * RETURN_AFTER, name) for n, name in enumerate(names)]
    assert (run.manager.state.levers, run.manager.state.owners) == (Levers(), ())


def test_wait_doubles_with_each_relapse() -> None:
    """Relapses while the lever is in force; one after its return keeps it out for good."""
    run = ManagedRun(OTHER_TOOL)
    run.pass_steps(5)
    for _ in range(2):
        run.remedied(fault(), FAILING)
        run.pass_steps(1)
    began = run.incident.tried[0].paid_step
    while run.manager.pending is None:
        run.tick()
        assert run.place.paid_step < 99
    assert run.place.paid_step - began + 1 == 2 * RETURN_AFTER


def test_lever_that_came_home_to_the_same_fault_stays_out() -> None:
    run = ManagedRun(OTHER_TOOL)
    run.pass_steps(5)
    run.remedied(fault(), FAILING)
    run.pass_steps(1)
    while run.manager.pending is None:
        run.tick()
        assert run.place.paid_step < 99
    assert run.carry_out().role is OrderRole.RETURN
    run.remedied(fault(onset=run.place.step + 1), FAILING)
    run.pass_steps(10 * RETURN_AFTER)
    assert run.manager.state.levers == Levers(tool_instance=1)
    (kept,) = (entry for entry in run.entries if entry.kind is K.KEPT)
    assert dict(kept.fields) == {
        "lever": "tool_instance",
        "reason": "tool_instance stays: TE-1 came back when it had returned",
    }
    assert kept.incident == 2


def test_rate_that_was_never_healthy_does_not_return_to_its_nominal_value() -> None:
    """A rate that is too high from the first step on: nothing shows that the run is healthy without the lever."""
    run = ManagedRun(SLOW)
    run.manager.note_probe(run.place, 0.4)
    assert run.tick(fault("OD-1", onset=1), probe_accuracy=math.nan, update_ratio=1.0) is not None
    run.carry_out()
    run.pass_steps(TIMEOUT - 1)
    order = run.tick()
    assert order is not None
    assert (order.role, order.levers) == (OrderRole.UNDO, Levers(lr_scale=0.5)), "what only helped recovery goes home"
    assert run.incident.state is IncidentState.ESCALATED
    reason = "not verified: no step from before the fault shows a healthy band; a person must look"
    assert run.incident.reason == reason
    run.carry_out()
    run.pass_steps(20 * RETURN_AFTER)
    assert run.manager.state.levers == Levers(lr_scale=0.5)
    assert run.last(K.KEPT).text("lever") == "lr_scale"


def test_remedy_that_cannot_be_verified_is_left_to_a_person_and_its_levers_go_home() -> None:
    run = ManagedRun(SLOW)
    run.pass_steps(5)
    run.remedied(fault("OD-1"), {"update_ratio": 1.0}, probe_accuracy=math.nan)
    run.pass_steps(TIMEOUT - VERIFY, None, probe_accuracy=math.nan)
    order = run.tick(None, probe_accuracy=math.nan)
    assert run.last(K.OUTCOME).text("outcome") == "unverified"
    assert run.incident.state is IncidentState.ESCALATED
    assert order is not None
    assert (order.role, order.levers) == (OrderRole.UNDO, Levers())


def test_remedy_that_contains_stays_while_its_source_speaks_though_nothing_verifies_it() -> None:
    run = ManagedRun(OTHER_TOOL)
    run.pass_steps(5)
    source = {"tool_shadow_error_rate": 0.5, "probe_accuracy": math.nan}
    run.remedied(fault(), FAILING, **source)
    run.pass_steps(TIMEOUT - VERIFY + 20, None, **source)
    assert (run.incident.state, run.manager.state.levers) == (IncidentState.ESCALATED, Levers(tool_instance=1))
    assert [tried.outcome for tried in run.incident.tried] == [OutcomeKind.UNVERIFIED]


def test_verdict_that_waits_for_a_probe_hides_no_other_fault() -> None:
    run = ManagedRun(OTHER_TOOL, SLOW)
    run.pass_steps(5)
    run.remedied(fault(), FAILING, probe_accuracy=math.nan)
    run.pass_steps(1, None, probe_accuracy=math.nan)
    run.pass_steps(1, fault("UNKNOWN"), probe_accuracy=math.nan)
    order = run.tick(fault("OD-1", onset=11), update_ratio=1.0, probe_accuracy=math.nan)
    assert order is not None
    assert (order.incident, order.remedy) == (2, "slow")
    # What the first incident does from now on leaves the levers of the second alone.
    run.carry_out()
    assert run.manager.state.levers == Levers(lr_scale=0.5, kl_coef_scale=2.0, tool_instance=1)


def test_same_remedy_is_given_twice_at_one_step_and_no_third_time() -> None:
    """Also not in a later incident of the same fault: the policy is told, and a person is asked."""
    run = ManagedRun(BACK, snapshots=(0,), budget=9, verify_timeout_steps=30)
    run.pass_steps(5)
    for _ in range(2):
        assert run.tick(fault("OD-1", onset=1), update_ratio=1.0, probe_accuracy=0.8) is not None
        assert run.carry_out().restore_step == 0
        run.pass_steps(5)
    order = run.tick(fault("OD-1", onset=1), update_ratio=1.0)
    assert order is not None
    assert order.role is OrderRole.UNDO
    reason = "Remedy back was applied 2 times at step 0 for OD-1 and the fault came back; choose another one, or none."
    assert run.last(K.REFUSED).text("reason") == reason
    assert run.incident.state is IncidentState.ESCALATED


def test_order_that_has_become_the_third_at_its_step_is_dropped() -> None:
    run = ManagedRun(RETRY)
    run.pass_steps(5)
    assert run.tick(fault(), **FAILING) is not None
    place = run.following
    again: dict[str, Scalar] = {"order": 9, "remedy": "retry", "role": "remedy", "halt": "no", "lever_tool_retries": 2}
    run.ledger.note(K.OPENED, place, 2, code="TE-1", family="TE", onset=6, onset_low=6)
    for _ in range(2):
        run.ledger.write(K.APPLIED, place, 2, tuple(again.items()))
    assert not run.begin()
    assert (
        run.last(K.UNCONFIRMED).text("reason")
        == "retry was applied 2 times at step 6 for TE-1, and the fault came back"
    )


def test_levers_that_no_incident_owns_go_back_step_by_step() -> None:
    run = ManagedRun(None, levers=Levers(lr_scale=0.01))
    passed: list[float | None] = [run.manager.state.levers.lr_scale]
    while passed[-1] is not None:
        run.pass_steps(VERIFY - 1, None, **FAILING)
        assert run.tick(None, **FAILING) is not None
        order = run.carry_out()
        assert (order.incident, order.role) == (0, OrderRole.RETURN)
        passed.append(order.levers.lr_scale)
    scales = [scale for scale in passed if scale is not None]
    assert len(scales) > 2
    assert scales == sorted(scales)


@pytest.mark.parametrize("mode", [GuardMode.OBSERVE, GuardMode.ADVISE])
def test_guard_that_does_not_act_moves_no_lever_back(mode: GuardMode) -> None:
    ManagedRun(None, levers=Levers(tool_retries=3), mode=mode).pass_steps(30)


def test_no_lever_goes_back_while_anything_is_open() -> None:
    run = ManagedRun(OTHER_TOOL, None, act_on=(Family.TE,), verify_steps=30, return_after=31)
    run.pass_steps(5)
    run.tick(fault(), **FAILING)
    run.carry_out()
    run.pass_steps(30)
    assert run.incident.state is IncidentState.RESOLVED
    run.pass_steps(20, fault("RF-3"))
    assert run.manager.state.levers == Levers(tool_instance=1)


def test_two_faults_one_after_the_other() -> None:
    run = ManagedRun(OTHER_TOOL, SLOW)
    run.pass_steps(5)
    # Its source persists, so what contains it stays.
    run.remedied(fault(), FAILING, tool_shadow_error_rate=0.5)
    run.pass_steps(1, None, tool_shadow_error_rate=0.5)
    run.remedied(fault("OD-1", onset=9), {"update_ratio": 1.0})
    assert run.manager.state.levers == Levers(lr_scale=0.5, kl_coef_scale=2.0, tool_instance=1)
    assert dict(run.manager.state.owners) == {"lr_scale": 2, "kl_coef_scale": 2, "tool_instance": 1}


def test_what_is_seen_beside_a_treated_incident_is_its_after_effect() -> None:
    run = ManagedRun(OTHER_TOOL, SLOW)
    run.pass_steps(5)
    run.tick(fault(), **FAILING)
    run.pass_steps(1, fault("OD-1"))
    run.carry_out()
    run.pass_steps(VERIFY - 1, fault("OD-1"))
    assert len(run.manager.state.incidents) == 1
    run.tick(fault("OD-1"))
    assert run.manager.state.incidents[0].state is IncidentState.RESOLVED
    assert run.tick(fault("OD-1")) is not None
    assert run.incident.code == "OD-1"


def test_advised_incident_hides_no_other_one() -> None:
    run = ManagedRun(SLOW, OTHER_TOOL, act_on=(Family.TE,))
    run.pass_steps(5)
    run.pass_steps(2, fault("OD-1"))
    order = run.tick(fault(), **FAILING)
    assert order is not None
    assert (order.incident, order.remedy) == (2, "other_tool")
    assert [incident.code for incident in run.manager.state.open_incidents()] == ["OD-1", "TE-1"]


def test_after_effect_between_two_remedies_opens_nothing() -> None:
    run = ManagedRun(OTHER_TOOL, cooldown_steps=VERIFY + 3)
    run.pass_steps(5)
    run.tick(fault(), **FAILING)
    run.carry_out()
    run.pass_steps(VERIFY, fault(), **FAILING)
    run.tick(fault("OD-1"), **FAILING)
    assert len(run.manager.state.incidents) == 1


def test_fault_left_to_people_is_not_opened_again_while_it_lasts() -> None:
    run = ManagedRun(None)
    run.pass_steps(VERIFY + 10, fault(), **FAILING)
    assert run.kinds == [K.OPENED, K.DIAGNOSED, K.HELD, K.CLOSED]
    run.pass_steps(VERIFY - 1)
    run.pass_steps(1, fault(), **FAILING)
    assert len(run.manager.state.incidents) == 1, "it must have been silent for long"
    run.pass_steps(VERIFY)
    run.pass_steps(1, fault(), **FAILING)
    assert len(run.manager.state.incidents) == 2


def test_other_name_for_a_fault_left_to_people_opens_nothing() -> None:
    run = ManagedRun(None)
    run.pass_steps(VERIFY, fault(signals=["tool_error_rate"]), **FAILING)
    assert run.now() is IncidentState.ESCALATED
    run.tick(fault("UNKNOWN", signals=["tool_error_rate"]), **FAILING)
    assert len(run.manager.state.incidents) == 1


def test_budget_of_a_family_is_for_the_whole_run() -> None:
    run = ManagedRun(OTHER_TOOL, budget=2)
    for _ in range(2):
        run.remedied(fault(), FAILING)
        run.pass_steps(1)
    assert run.tick(fault(), **FAILING) is None
    assert run.incident.state is IncidentState.GIVEN_UP
    assert run.incident.reason == "guard.budget=2 remedies for family TE are used up"
    run.pass_steps(VERIFY)
    assert run.tick(fault("OD-1")) is not None, "another family has a budget of its own"
    assert [ctx.budget_left for ctx in run.script.seen] == [2, 1, 2]


def test_end_of_the_run_is_ordered_where_that_is_wanted() -> None:
    run = ManagedRun(None, verify_steps=1, halts=True)
    assert run.tick(fault(signals=["golden_mismatch_rate"]), **FAILING) == Order(
        1, 1, OrderRole.HALT, "halt", "nothing is left", Levers(), halt=True
    )
    run.carry_out()
    assert run.manager.state.halted
    run = ManagedRun(Remedy("stop", halt=True))
    run.tick(fault(), **FAILING)
    assert run.pending.is_costly
    assert run.carry_out().halt


@pytest.mark.parametrize("changed", [{"mode": GuardMode.ADVISE}, {"act_on": (Family.OD,)}])
def test_guard_that_does_not_act_ends_no_run(changed: dict[str, Any]) -> None:
    run = ManagedRun(None, verify_steps=1, halts=True, **changed)
    run.pass_steps(1, fault(), **FAILING)
    assert run.incident.state is IncidentState.ESCALATED


def test_unconfirmed_orders_spend_no_budget_and_end_with_a_person() -> None:
    run = ManagedRun(BACK, budget=2)
    for _ in range(4):
        if run.tick(fault("OD-1", 0.95)) is not None:
            run.drop()
    assert run.incident.reason == "the remedy was not confirmed 3 times"


def test_rollback_forgets_the_steps_that_it_undoes() -> None:
    run = ManagedRun(BACK, RETRY, snapshots=(0, 5))
    run.pass_steps(4)
    run.pass_steps(1, None, probe_accuracy=0.8)
    run.pass_steps(2)
    run.tick(fault("OD-1", onset=7), probe_accuracy=0.2, update_ratio=1.0)
    run.carry_out()
    assert dict(run.last(K.CONFIRMED).fields)["probe_before"] == 0.8, "of the weights from before the fault"
    run.pass_steps(VERIFY - 1, None, update_ratio=1.0)
    run.tick(fault("OD-1", onset=7), update_ratio=1.0)
    seen = run.script.seen[-1].reports
    places = [(report.id.attempt, report.id.step, report.id.paid_step) for report in seen]
    assert places == [*((0, n, n) for n in range(1, 6)), (1, 6, 10), (1, 7, 11), (1, 8, 12)]


def test_what_is_usual_is_not_learned_from_a_treated_fault() -> None:
    run = ManagedRun(OTHER_TOOL)
    run.pass_steps(5)
    run.tick(fault(onset=6), **FAILING)
    run.carry_out()
    run.pass_steps(VERIFY - 1, fault(onset=99), **FAILING)
    run.tick(None, **FAILING)
    outcome = dict(next(entry.fields for entry in run.entries if entry.kind is K.OUTCOME))
    assert float(str(outcome["severity_before"])) > 10


def test_rollback_goes_to_before_the_earliest_onset_that_was_ever_seen() -> None:
    run = ManagedRun(OTHER_TOOL, BACK, snapshots=(5, 10))
    run.pass_steps(6)
    run.tick(fault(onset=6), **FAILING)
    run.carry_out()
    run.pass_steps(VERIFY - 1, fault(onset=6), **FAILING)
    # The alarm that saw it first has gone; the one that stands is younger.
    order = run.tick(fault(onset=11), **FAILING)
    assert order is not None
    assert order.restore_step == 5
    assert run.last(K.DECIDED).integer("onset_low") == 6


def test_unconfirmed_rollback_is_not_dated_later_when_it_is_asked_for_again() -> None:
    run = ManagedRun(BACK, snapshots=(5, 10))
    run.tick(fault("OD-1", onset=6))
    run.drop()
    assert run.tick(fault("OD-1", onset=11)) is not None
    assert run.pending.restore_step == 5


def test_late_report_of_an_abandoned_attempt_is_no_part_of_the_lineage() -> None:
    run = ManagedRun(BACK, snapshots=(0, 5))
    run.pass_steps(7)
    run.tick(fault("OD-1", onset=7))
    late = replace(run.report(probe_accuracy=0.1), id=StepId(0, 9, 9))
    run.carry_out()
    assert run.manager.consider(Assessment(late, None)) is None
    for _ in range(VERIFY):
        run.tick(fault("OD-1", onset=7))
    assert len(run.script.seen) == 2
    assert late not in run.script.seen[-1].reports


def test_policy_keeps_its_state_and_its_mistakes_are_told() -> None:
    bold = Remedy("bold", Levers(lr_scale=90.0))
    run = ManagedRun(None, bold, ValueError("no"), RETRY, verify_steps=9)
    run.script.counts = True
    for _ in range(4):
        run.tick(fault(), **FAILING)
    assert [ctx.state for ctx in run.script.seen] == [(), (("asked", 1),), (("asked", 1),), (("asked", 1),)]
    refused = next(entry for entry in run.entries if entry.kind is K.REFUSED)
    assert (refused.text("policy"), refused.text("remedy")) == ("script", "bold")
    assert refused.text("reason").startswith("Remedy bold: Lever lr_scale=90.0 is out of bounds")
    failed = next(entry for entry in run.entries if entry.kind is K.POLICY_FAILED)
    assert (failed.text("policy"), without_places(failed.text("reason"))) == ("script", "it raised ValueError: no")
    assert run.manager.state.policy_failures == 1


def test_detector_that_was_disabled_is_told() -> None:
    run = ManagedRun(None)
    run.manager.consider(Assessment(run.report(), None, (("probe", "KeyError: 'x'"),)))
    assert (run.entries[-1].kind, dict(run.entries[-1].fields)["name"]) == (K.DISABLED, "probe")
