"""What takes the place of a costly order without a ground: a remedy without cost, at the same boundary, or nothing."""

from __future__ import annotations

import pytest

from rftfm_ray.incidents.orders import OrderRole
from rftfm_ray.incidents.state import EntryKind
from rftfm_ray.types import Levers
from rftfm_ray.verdicts import Family, IncidentState, Remedy
from tests.unit.incidents.managed import ManagedRun, fault

RETRY = Remedy("retry", Levers(tool_retries=2))
BACK = Remedy("back", Levers(lr_scale=0.5), rollback=True)
K = EntryKind


def test_unconfirmed_order_is_dropped_and_a_remedy_without_cost_takes_its_place_at_once() -> None:
    run = ManagedRun(BACK, RETRY)
    assert run.tick(fault("OD-1", 0.95)) is not None
    assert not run.begin(0.8)
    assert run.script.seen[-1].ground is None
    assert run.script.seen[-1].step == run.place, "the last one that was judged"
    assert {entry.id for entry in run.entries[-3:]} == {run.following}
    order = run.begun
    assert order is not None
    assert (order.number, order.remedy, order.restore_step) == (2, "retry", None)
    assert run.kinds[-3:] == [K.UNCONFIRMED, K.DECIDED, K.APPLYING]
    assert run.manager.pending is None, "it has begun"
    run.done()
    assert (run.now(), run.manager.state.levers) == (IncidentState.VERIFYING, Levers(tool_retries=2))
    assert dict(run.manager.state.spent) == {Family.OD: 1}


@pytest.mark.parametrize("again", [BACK, Remedy("end", halt=True), Remedy("hold", Levers(freeze_policy=1)), None])
def test_unconfirmed_order_has_nothing_costly_in_its_place(again: Remedy | None) -> None:
    run = ManagedRun(BACK, again, RETRY, cooldown_steps=2)
    assert run.tick(fault("OD-1", 0.95)) is not None
    run.drop()
    assert (run.incident.state, run.incident.tried) == (IncidentState.DIAGNOSED, ())
    assert run.manager.pending is None
    run.pass_steps(2, fault("OD-1", 0.95))
    run.tick(fault("OD-1", 0.95))
    order = run.carry_out()
    assert (order.number, order.remedy) == (2, "retry")


@pytest.mark.parametrize(("excess", "stays"), [(1.0, True), (0.0, False)])
def test_lever_that_contains_stays_where_accuracy_stood_against_everything_costlier(excess: float, stays: bool) -> None:
    slow = Remedy("slow", Levers(lr_scale=0.5))
    run = ManagedRun(slow, BACK, verify_steps=2, return_after=2)
    run.pass_steps(5)
    source = {"schedule_excess": excess}
    run.tick(fault("OD-1"), update_ratio=0.3, **source)
    run.carry_out()
    run.pass_steps(1, fault("OD-1"), **source)
    for _ in range(3):
        assert run.tick(fault("OD-1"), **source) is not None
        run.drop()
    assert run.manager.state.levers == slow.levers
    order = run.tick(fault("OD-1"), **source)
    assert (run.now(), run.incident.reason) == (IncidentState.ESCALATED, "the remedy was not confirmed 3 times")
    assert (order is None) is stays
    assert order is None or (order.role is OrderRole.UNDO and order.levers == Levers())
