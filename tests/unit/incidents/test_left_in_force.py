"""What stays in force and for whom: levers of a resumed run, of two faults, of what people turned down or approved."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from rftfm_ray.incidents.answering import approved_order, follow
from rftfm_ray.incidents.belonging import began_under
from rftfm_ray.incidents.incident import Incident
from rftfm_ray.incidents.requests import Request, Wish
from rftfm_ray.incidents.state import EntryKind, replay
from rftfm_ray.policies.api import PolicyContext
from rftfm_ray.policies.playbook import Playbook
from rftfm_ray.types import Action, GuardMode, Levers, RunFacts, StepId
from rftfm_ray.verdicts import (
    Decision,
    Declaration,
    DeclaredChange,
    Diagnosis,
    Evidence,
    Family,
    IncidentState,
    OutcomeKind,
    Place,
    Remedy,
    Symptom,
    Tried,
)
from tests.unit.incidents.managed import FAILING, FIRST, PLAIN, ManagedRun, fault, started

K = EntryKind
SLOW, SLOWER = Remedy("slow", Levers(lr_scale=0.5)), Remedy("slower", Levers(lr_scale=0.1))
ON = fault("OD-1", 0.99)


def answer(run: ManagedRun, wish: Wish, incident: int = 1) -> None:
    """A person answers the decision about an incident."""
    assert run.manager.answer(Request(f"{wish}-{incident}", wish, incident, "ada", 0.0), run.following).accepted


def go_on(run: ManagedRun, steps: int, diagnosis: Diagnosis | None = None, **signals: float) -> None:
    """Steps whose orders are carried out."""
    for _ in range(steps):
        run.tick(diagnosis, **signals)
        if run.manager.pending is not None:
            run.carry_out()


def symptom(signal: str, evidence: Evidence, at: int, detector: str = "test", value: float = 0.5) -> Symptom:
    """An alarm."""
    return Symptom(
        detector, signal, evidence, True, -1 if value < 1 else 1, value, 1.0, 9.0, at, at, f"{signal} is wrong"
    )


def test_lever_of_a_resumed_run_belongs_to_the_incident_whose_remedy_sets_it_again() -> None:
    """Without an owner its source would raise alarm after alarm, and the lever go home while the cause goes on."""
    run = ManagedRun(policy=Playbook(), snapshots=(0, 5), levers=Levers(regrade_rate=1.0))
    run.manager.note_probe(run.place, 0.8)
    shown = symptom("regrade_mismatch_rate", Evidence.CHANNEL, 1)
    wrong = {"regrade_mismatch_rate": 0.5, "regrade_count": 16.0}
    run.tick(Diagnosis("RF-2", Family.RF, 0.99, (), (shown,), 1, 1, ""), **wrong)
    assert run.carry_out().levers == Levers(regrade_rate=1.0)
    assert run.manager.state.levers_of(1) == ("regrade_rate",)
    go_on(run, 40, None, **wrong)
    assert run.incident.tried[-1].outcome is OutcomeKind.MITIGATED
    assert (len(run.manager.state.incidents), run.manager.state.levers) == (1, Levers(regrade_rate=1.0))
    assert replay(tuple(run.entries)) == run.manager.state


def test_lever_that_nobody_has_set_stays_while_a_fault_is_left_to_people() -> None:
    run = ManagedRun(None, levers=Levers(lr_scale=0.5))
    run.pass_steps(2)
    go_on(run, 60, fault("TE-1", 0.99, 3, ["tool_error_rate"]), **FAILING)
    assert run.now() is IncidentState.ESCALATED
    assert run.manager.state.levers == Levers(lr_scale=0.5)
    go_on(run, 20)
    assert run.manager.state.levers == Levers()


@pytest.mark.parametrize("wish", [None, Wish.REJECT])
def test_advice_that_waits_or_was_turned_down_hides_no_other_fault(wish: Wish | None) -> None:
    run = started(SLOW, SLOWER, FIRST, act_on=(Family.TE,))
    run.tick(ON, update_ratio=1.0)
    answer(run, Wish.APPROVE)
    run.carry_out()
    go_on(run, 6, ON, update_ratio=1.0)
    if wish is not None:
        answer(run, wish)
    go_on(run, 2, fault("TE-1", 0.99, run.place.step, ["tool_error_rate"]), **FAILING)
    assert [incident.code for incident in run.manager.state.incidents] == ["OD-1", "TE-1"]
    assert run.last(K.APPLIED).text("remedy") == "first"


def test_what_a_person_approved_and_did_harm_is_taken_back_though_the_next_remedy_waits_for_one() -> None:
    class Asks:
        def decide(self, ctx: PolicyContext) -> Decision:
            return Decision((SLOW, SLOWER)[len(ctx.tried)], "ask", ask=True)

    run = started(policy=Asks())
    run.tick(ON, update_ratio=1.0)
    answer(run, Wish.APPROVE)
    run.carry_out()
    assert run.manager.state.levers == SLOW.levers
    go_on(run, 4, ON, update_ratio=1.0, probe_accuracy=0.8)
    go_on(run, 4, ON, update_ratio=1.0, probe_accuracy=0.2)
    assert run.incident.tried[-1].outcome is not None
    assert not run.incident.tried[-1].outcome.helped
    assert (run.incident.advised, run.manager.state.levers) == (True, Levers())
    answer(run, Wish.REJECT)
    go_on(run, 10, ON, update_ratio=1.0, probe_accuracy=0.2)
    assert run.manager.state.levers == Levers()


def test_orders_that_were_approved_in_a_pause_are_carried_out_in_the_order_of_their_numbers() -> None:
    class ByCode:
        def decide(self, ctx: PolicyContext) -> Decision:
            return Decision({"TE-1": FIRST, "OD-1": SLOW}[ctx.diagnosis.code], "known")

    run = started(policy=ByCode(), mode=GuardMode.ADVISE)
    run.tick(fault("TE-1"), **FAILING)
    run.tick(ON, update_ratio=1.0)
    settings = replace(PLAIN, mode=GuardMode.ADVISE)
    for incident in (2, 1):
        request = Request(f"r{incident}", Wish.APPROVE, incident, "ada", 0.0)
        assert follow(run.ledger, settings, request, run.following, (0, 5)).accepted
    first = approved_order(run.ledger.state)
    assert first is not None
    assert (first.number, first.incident) == (1, 2)


def test_working_remedy_is_not_blamed_for_a_fault_of_another_kind() -> None:
    class ByCode:
        def decide(self, ctx: PolicyContext) -> Decision:
            known = {"TE-1": FIRST, "OD-1": SLOW}[ctx.diagnosis.code]
            return Decision(None if ctx.tried else known, "known")

    run = started(policy=ByCode(), verify_steps=3, verify_timeout_steps=20)
    run.tick(fault("TE-1", 0.99, 6, ["tool_error_rate"]), **FAILING)
    run.carry_out()
    source = {"tool_shadow_error_rate": 0.5}
    go_on(run, 5, None, **source, probe_accuracy=math.nan)
    go_on(run, 2, fault("OD-1", 0.99, 12, ["update_ratio"]), **source, update_ratio=1.0, probe_accuracy=0.8)
    go_on(run, 20, None, **source, probe_accuracy=0.3)
    first, second = run.manager.state.incidents
    assert (first.code, second.code) == ("TE-1", "OD-1")
    assert first.tried[0].outcome is OutcomeKind.UNVERIFIED
    assert "incident #2 (OD-1) began under the remedy" in first.reason
    assert run.manager.state.levers.tool_instance == 1, "its cause goes on"


@pytest.mark.parametrize(
    ("levers", "changed", "is_told"),
    [
        (("tool_instance",), {}, True),
        (("tool_instance", "lr_scale"), {}, False),  # A rate may have caused it.
        (("tool_instance",), {"code": "UNKNOWN"}, False),
        (("tool_instance",), {"family": Family.TE}, False),
        (("tool_instance",), {"state": IncidentState.RESOLVED}, False),
        (("tool_instance",), {"state": IncidentState.SUSPECTED}, False),
        (("tool_instance",), {"opened": StepId(0, 9, 9)}, False),
    ],
)
def test_other_fault_is_none_of_a_remedy_that_cannot_have_caused_it(
    levers: tuple[str, ...], changed: dict[str, Any], is_told: bool
) -> None:
    tried = (Tried("other_instance", 10, Levers()),)
    own = Incident(1, IncidentState.VERIFYING, "TE-1", Family.TE, StepId(0, 6, 6), 6, 6, tried)
    other = Incident(2, IncidentState.DIAGNOSED, "OD-1", Family.OD, StepId(0, 12, 12), 12, 12)
    told = began_under(own, (own, replace(other, **changed)), levers)
    assert told == ("incident #2 (OD-1) began under the remedy" if is_told else "")
    rolled_back = replace(own, tried=(replace(tried[0], undone=3),))
    assert began_under(rolled_back, (rolled_back, other), levers) == ""


def test_planned_change_does_not_make_a_working_remedy_ineffective() -> None:
    run = started(Remedy("clean_path", Levers(rollout_path=1)), None)
    run.tick(fault("PG-3L", 0.99, 6, ["length_mean"]), length_mean=80.0)
    run.carry_out()
    change = DeclaredChange("configuration", 8, ("length_mean", "length_q50", "length_q90"), "longer answers")
    run.manager.note_declared(Declaration(run.following, change))
    go_on(run, 20, None, length_mean=34.0)
    assert run.manager.state.incidents[0].tried[0].outcome is not OutcomeKind.INEFFECTIVE


def lost(at: int) -> Diagnosis:
    """Updates of which nine in ten parts are lost."""
    gain = symptom("update_gain", Evidence.IDENTITY, at, "identity:update_gain", 0.1)
    return Diagnosis("OD-2", Family.OD, 0.99, (), (gain,), at, at, "", place=Place.OPTIMIZER)


def test_rate_that_makes_up_for_lost_updates_goes_home_as_soon_as_none_is_lost_however_often() -> None:
    run = ManagedRun(policy=Playbook(), snapshots=(0, 5), levers=Levers())
    run.manager.note_probe(run.place, 0.8)
    for _ in range(2):
        run.pass_steps(10)
        run.tick(lost(run.place.step + 1), update_gain=0.1)
        assert run.carry_out().levers == Levers(lr_scale=10.0)
        go_on(run, 8, None, update_gain=0.1)
        assert run.manager.state.levers == Levers(lr_scale=10.0)
        go_on(run, 1, None, update_gain=math.nan)
        assert run.manager.state.levers == Levers(lr_scale=10.0), "nothing was measured"
        go_on(run, 1, None, update_gain=1.0)
        assert run.manager.state.levers == Levers()


def test_values_that_are_not_finite_never_raise_a_rate_that_contains_another_fault() -> None:
    run = ManagedRun(Remedy("lower", Levers(lr_scale=0.05)), None, levers=Levers())
    run.pass_steps(5)
    at = run.place.step + 1
    nan = Symptom("finite", "loss", Evidence.IDENTITY, True, 1, math.nan, 0.0, math.inf, at, at, "loss is nan")
    numerical = Diagnosis("NUMERICAL", Family.NUMERICAL, 1.0, (), (nan,), at, at, "")
    run.tick(numerical, loss=math.nan)
    ctx = run.script.seen[-1]
    for scale, expected in ((0.05, 0.05), (None, 0.3)):
        remedy = Playbook().decide(_under(ctx, Levers(lr_scale=scale))).remedy
        assert remedy is not None
        assert remedy.levers.lr_scale == expected


def _under(ctx: PolicyContext, levers: Levers) -> PolicyContext:
    return replace(ctx, levers=levers, snapshots=(2,))


def test_critic_is_not_reset_to_a_snapshot_that_is_gone() -> None:
    kept = [0, 5]
    reset = Remedy("reset", actions=(Action.RESET_CRITIC,))
    facts = RunFacts("ppo", 4, 1.0)
    run = started(reset, snapshots=lambda: tuple(kept), mode=GuardMode.ADVISE, facts=facts)
    run.tick(fault("CA-1", 0.99), value_error=1.0)
    kept[:] = [20, 25]
    reply = run.manager.answer(Request("r", Wish.APPROVE, 1, "ada", 0.0), run.following)
    assert "the snapshot of step 5 has made way for a newer one" in reply.message


def test_one_flickering_alarm_is_no_remedy_that_failed() -> None:
    run = started(FIRST, None, verify_timeout_steps=20)
    run.tick(fault("TE-1", 0.99, 6, ["tool_error_rate"]), **FAILING)
    run.carry_out()
    source = {"tool_shadow_error_rate": 0.5, "probe_accuracy": math.nan}
    go_on(run, 6, None, **source)
    go_on(run, 1, fault("TE-1", 0.99, 13, ["tool_error_rate"]), **source, tool_error_rate=0.06)
    assert run.now() is IncidentState.VERIFYING
    go_on(run, 1, fault("TE-1", 0.99, 13, ["tool_error_rate"]), **source, tool_error_rate=0.5)
    assert run.incident.tried[0].outcome is OutcomeKind.INEFFECTIVE
    assert run.manager.state.levers == Levers(), "nothing else was left"


def test_guard_waits_for_what_it_has_asked_before_it_gives_up() -> None:
    run = ManagedRun(policy=Playbook(), snapshots=(0, 5), levers=Levers(), verify_steps=1)
    run.pass_steps(10, update_gain=math.nan)
    alarm = symptom("changed_rate", Evidence.TELEMETRY, 11)
    run.tick(Diagnosis("OD-2", Family.OD, 0.99, (), (alarm,), 11, 11, "", place=Place.OPTIMIZER), update_gain=math.nan)
    assert run.now() is IncidentState.DIAGNOSED
    run.tick(lost(11), update_gain=0.1)
    assert run.pending.remedy == "raised_rate"
