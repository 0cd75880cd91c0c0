"""A person's answers to decisions that wait: what an approved remedy goes through, and what cannot be followed."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from rftfm_ray.incidents.advice import AdvisedOrder, advised_in
from rftfm_ray.incidents.orders import Order, OrderRole
from rftfm_ray.incidents.requests import Reply, Request, Wish
from rftfm_ray.incidents.state import Entry, EntryKind, Scalar, lever_fields, replay
from rftfm_ray.types import Action, GuardMode, Levers, StepId
from rftfm_ray.verdicts import Family, IncidentState, Remedy
from tests.unit.incidents.managed import FAILING, FIRST, PLAIN, SECOND, VERIFY, ManagedRun, fault, started

K = EntryKind
ADVISE: dict[str, Any] = {"mode": GuardMode.ADVISE}
BACK = Remedy("back", Levers(lr_scale=0.5), rollback=True, skip_batches=2, quarantine=True)


def ask(run: ManagedRun, wish: Wish = Wish.APPROVE, incident: int = 1, **changed: Any) -> Reply:
    """Answer at the boundary of the step under way."""
    request = replace(Request("a1", wish, incident, "ada", 12.5, "I looked"), **changed)
    return run.manager.answer(request, run.following)


def advised(*answers: Any, **changed: Any) -> ManagedRun:
    """A run with a remedy that waits."""
    run = started(*(answers or (FIRST,)), **{**ADVISE, **changed})
    assert run.begin_fault() is None
    assert run.incident.waiting_advice is not None
    return run


def test_approved_remedy_is_begun_verified_and_goes_home_as_in_act() -> None:
    run = advised()
    assert ask(run) == Reply("a1", True, "Approved: first for incident #1 (TE-1), as order 1.")
    assert (run.pending.remedy, run.pending.role, run.pending.levers) == (
        "first",
        OrderRole.REMEDY,
        Levers(tool_instance=1),
    )
    run.carry_out()
    run.pass_steps(VERIFY - 1)
    run.tick()
    assert (run.now(), run.incident.tried[0].remedy) == (IncidentState.RESOLVED, "first")
    given = dict(run.last(K.APPROVED).fields)
    assert (given["by"], given["given_s"], given["reason"], given["advice"]) == (
        "ada",
        12.5,
        "I looked",
        run.last(K.ADVISED).seq,
    )
    assert replay(tuple(run.entries)) == run.manager.state
    acting = started(FIRST)
    acting.begin_fault()
    acting.carry_out()
    acting.pass_steps(VERIFY - 1)
    acting.tick()
    after = run.kinds[run.kinds.index(K.APPLYING) :]
    assert after == acting.kinds[acting.kinds.index(K.APPLYING) :]
    # Of a fault whose cause is over nothing is left.
    orders = [run.tick() for _ in range(PLAIN.return_after + 1)]
    assert [order.role for order in orders if order is not None] == [OrderRole.RETURN]


def test_levers_of_a_checkpoint_stay_where_nobody_has_approved_anything() -> None:
    run = ManagedRun(FIRST, levers=Levers(lr_scale=0.5), **ADVISE)
    run.pass_steps(20)
    acting = ManagedRun(FIRST, levers=Levers(lr_scale=0.5))
    assert any(acting.tick() for _ in range(20)), "the guard that may act returns them"


def test_remedy_that_does_not_help_is_undone_at_once_and_the_next_one_waits() -> None:
    run = advised(FIRST, SECOND)
    ask(run)
    run.carry_out()
    undo = None
    while undo is None:
        undo = run.tick(fault(), **FAILING)
    assert (undo.role, undo.levers) == (OrderRole.UNDO, Levers())
    run.carry_out()
    assert run.manager.state.levers == Levers()
    run.pass_steps(1, fault(), **FAILING)
    assert run.last(K.ADVISED).text("remedy") == "second"
    assert ask(run).message == "Approved: second for incident #1 (TE-1), as order 3."
    assert run.pending.levers == Levers(tool_retries=2)


def test_given_up_incident_gives_back_what_was_approved() -> None:
    run = advised(FIRST, None)
    ask(run)
    run.carry_out()
    while run.manager.pending is None:
        run.tick(fault(), **FAILING)
    run.carry_out()
    run.pass_steps(1, fault(), **FAILING)
    assert (run.now(), run.manager.state.levers) == (IncidentState.ESCALATED, Levers())


def test_remedy_that_cannot_be_verified_is_taken_back() -> None:
    run = advised(FIRST)
    ask(run)
    run.carry_out()
    while run.manager.pending is None:
        run.tick(probe_accuracy=math.nan)
    assert (run.pending.role, run.pending.levers) == (OrderRole.UNDO, Levers())
    assert run.now() is IncidentState.ESCALATED


def test_advice_keeps_what_the_remedy_sets_and_nothing_that_was_so_before() -> None:
    then, base = Levers(tool_retries=2, kl_coef_scale=2.0), Levers(kl_coef_scale=2.0)
    values: dict[str, Scalar] = {"remedy": "retry", "restore_step": 5, "skip_batches": 1, "halt": True}
    values |= {"actions": "resync, restart_learner", "critic_step": 4, "quarantine_from": 6}
    values |= dict(lever_fields(then))
    advised = advised_in(Entry(7, K.ADVISED, StepId(0, 6, 6), 1, tuple(values.items())), base)
    actions = Action.RESYNC, Action.RESTART_LEARNER
    order = Order(0, 1, OrderRole.REMEDY, "retry", "", Levers(tool_retries=2), 5, 1, True, actions, 4, 6)
    assert advised == AdvisedOrder(7, order)


def test_rollback_keeps_what_it_skips_and_needs_its_ground_like_any_other() -> None:
    run = advised(BACK, FIRST)
    ask(run)
    assert (run.pending.restore_step, run.pending.skip_batches) == (5, 2)
    assert run.pending.quarantine_from == run.incident.onset_low
    assert not run.begin(0.8), "held-out accuracy stands"
    assert run.kinds[-2:] == [K.UNCONFIRMED, K.ADVISED]
    assert run.manager.pending is None, "another remedy waits for a person as well"
    assert run.incident.waiting_advice is not None
    assert run.incident.waiting_advice.order.remedy == "first"


def test_lever_that_has_moved_since_the_advice_keeps_its_new_value() -> None:
    run = advised(Remedy("slow", Levers(lr_scale=0.5)), act_on=(Family.OD,), mode=GuardMode.ACT)
    run.script.answers = [Remedy("penalty", Levers(kl_coef_scale=2.0))]
    run.pass_steps(1, fault(), **FAILING)
    run.tick(fault("OD-1"), grad_norm=50.0)
    run.carry_out()
    assert run.manager.state.levers == Levers(kl_coef_scale=2.0)
    ask(run)
    order = run.tick() if run.manager.pending is None else run.pending
    assert order is not None
    assert order.levers == Levers(kl_coef_scale=2.0, lr_scale=0.5)


def test_approval_waits_for_the_order_that_is_pending() -> None:
    run = advised(FIRST, act_on=(Family.OD,), mode=GuardMode.ACT)
    run.script.answers = [Remedy("penalty", Levers(kl_coef_scale=2.0))]
    run.tick(fault("OD-1"), grad_norm=50.0)
    assert run.pending.remedy == "penalty"
    assert ask(run).accepted
    assert run.pending.remedy == "penalty"
    run.carry_out()
    following = run.tick(fault(), **FAILING)
    assert following is not None
    assert (following.remedy, following.number) == ("first", 2)


def test_rejected_remedy_is_not_given_and_nothing_else_is_advised() -> None:
    run = advised(FIRST, SECOND)
    assert ask(run, Wish.REJECT) == Reply(
        "a1", True, "Rejected: first for incident #1 (TE-1); nothing is done about it."
    )
    run.pass_steps(8, fault(), **FAILING)
    assert run.kinds.count(K.ADVISED) == 1
    assert (run.now(), run.manager.state.spent) == (IncidentState.DIAGNOSED, ())
    assert "rejected already" in ask(run).message


def declined(run: ManagedRun, reply: Reply, about: int) -> None:
    """Nothing was done, and the journal says why."""
    assert not reply.accepted
    entry = run.entries[-1]
    assert (entry.kind, entry.incident, entry.text("reason")) == (K.DECLINED, about, reply.message)
    assert (entry.text("by"), entry.text("wish")) == ("ada", "approve")


def test_unknown_incident() -> None:
    run = started(FIRST, **ADVISE)
    reply = ask(run, incident=3)
    assert reply.message == "There is no incident #3 in this run: it has none so far."
    declined(run, reply, 0)
    run.begin_fault()
    assert ask(run, incident=2).message == "There is no incident #2 in this run: its incidents are #1 to #1."


def test_incident_that_is_over() -> None:
    run = advised()
    run.pass_steps(VERIFY + 1)
    reply = ask(run)
    assert reply.message.startswith("The decision is gone: incident #1 (TE-1) is resolved (")
    declined(run, reply, 1)
    assert run.manager.pending is None


def test_decision_that_is_superseded() -> None:
    run = advised()
    reply = ask(run, advice=run.last(K.ADVISED).seq + 1)
    assert reply.message.startswith("The decision is superseded: first waits for incident #1 (TE-1) now;")
    declined(run, reply, 1)
    assert ask(run, advice=run.last(K.ADVISED).seq).accepted


def test_decision_that_was_made_already() -> None:
    run = advised()
    ask(run)
    reply = ask(run)
    assert (
        reply.message == "The decision about incident #1 (TE-1) was made already: order 1 is about to be carried out."
    )
    run.carry_out()
    reply = ask(run)
    assert reply.message == "No decision waits for incident #1 (TE-1): first was applied, and it is verifying."
    declined(run, reply, 1)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"budget": 0}, "guard.budget=0 remedies for family TE are used up"),
        ({"snapshots": ()}, "the snapshot of step 5 has made way for a newer one"),
    ],
)
def test_remedy_that_is_no_longer_permitted(changed: dict[str, Any], why: str) -> None:
    available = [(0, 5)]
    run = advised(BACK, snapshots=lambda: available[0])
    if "snapshots" in changed:
        available[0] = changed["snapshots"]
    else:
        run.manager._settings = replace(run.manager._settings, **changed)
    reply = ask(run)
    assert reply.message == f"back for incident #1 (TE-1) is no longer permitted: {why}."
    declined(run, reply, 1)
    assert ask(run, Wish.REJECT).accepted, "it can be turned down all the same"


def test_guard_that_only_observes_says_what_would_decide() -> None:
    run = started(FIRST, mode=GuardMode.OBSERVE)
    run.begin_fault()
    assert "guard.mode=observe decides nothing; run with guard.mode=advise" in ask(run).message


def test_advice_outside_of_act_on_can_be_approved_in_act() -> None:
    run = advised(FIRST, mode=GuardMode.ACT, act_on=())
    assert ask(run).accepted
    run.carry_out()
    assert run.now() is IncidentState.VERIFYING


def test_pause_says_who_waited_and_hands_over_what_a_continued_run_needs() -> None:
    run = advised(BACK, SECOND)
    handover = run.manager.pause(run.following, run.place, 1, 61.04)
    assert (run.entries[-1].kind, run.entries[-1].text("remedy"), run.entries[-1].number("waited_s")) == (
        K.PAUSED,
        "back",
        61.0,
    )
    assert (handover.at, handover.restore_steps, handover.seq) == (run.place, (5,), len(run.entries))
    assert [report.id.step for report in handover.memory.reports] == [1, 2, 3, 4, 5, 6]
    assert handover.at == StepId(0, 6, 6)
