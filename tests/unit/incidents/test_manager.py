"""What becomes of one incident, one step at a time: scripted policies, hand-made assessments, no actor."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from rftfm_ray.errors import RecordError
from rftfm_ray.incidents.ledger import Ledger
from rftfm_ray.incidents.manager import IncidentManager
from rftfm_ray.incidents.orders import Order, OrderRole
from rftfm_ray.incidents.state import Entry, EntryKind, replay
from rftfm_ray.policies.safety import SafePolicy
from rftfm_ray.signals.effects import signals_of
from rftfm_ray.types import GuardMode, Levers
from rftfm_ray.verdicts import Assessment, Family, IncidentState, OutcomeKind, Remedy, Tried
from tests.unit.incidents.managed import FAILING, FIRST, PLAIN, SECOND, ManagedRun, fault, started

BACK = Remedy("back", Levers(lr_scale=0.5), rollback=True, skip_batches=2)
K = EntryKind
LIFE = [K.OPENED, K.DIAGNOSED, K.DECIDED, K.APPLYING, K.APPLIED, K.DECLARED, K.OUTCOME, K.CLOSED]
"""Kinds of the entries of an incident whose remedy helps."""


def test_life_of_an_incident_that_is_mitigated() -> None:
    run = started(FIRST)
    assert run.begin_fault(fault(probability=0.5)) is None
    assert run.now() is IncidentState.SUSPECTED
    order = run.tick(fault(), **FAILING)
    assert run.now() is IncidentState.REMEDIATING
    expected = Order(1, 1, OrderRole.REMEDY, "first", "first is next", Levers(tool_instance=1))
    assert order == expected
    assert run.carry_out() == expected
    assert run.now() is IncidentState.VERIFYING
    run.pass_steps(2, None, tool_shadow_error_rate=0.5)
    assert run.now() is IncidentState.VERIFYING
    run.tick(None, tool_shadow_error_rate=0.5)
    assert run.now() is IncidentState.RESOLVED
    assert run.incident.tried == (Tried("first", 8, Levers(), OutcomeKind.MITIGATED, step=7),)
    assert run.kinds == LIFE
    assert run.manager.state.levers == Levers(tool_instance=1)
    assert run.manager.state.owners == (("tool_instance", 1),)


def test_diagnosis_is_journalled_with_its_signals_once_each() -> None:
    run = started(FIRST)
    run.begin_fault(fault(signals=("kl_ref", "entropy", "kl_ref")))
    assert run.last(K.DIAGNOSED).text("signals") == "kl_ref,entropy"


def test_entries_hold_everything_about_an_incident() -> None:
    run = started(FIRST)
    run.begin_fault(fault(probability=0.92654))
    named = {"code": "TE-1", "family": "TE", "onset": 6, "onset_low": 6, "probability": 0.9265}
    assert dict(run.last(K.OPENED).fields) == named | {"reason": "", "probe": 0.8}
    told = {"summary": "TE-1 it is", "signals": "", "explained": '{"evidence":[],"rivals":[],"would_tell":[]}'}
    assert dict(run.last(K.DIAGNOSED).fields) == named | told
    decided = dict(run.last(K.DECIDED).fields)
    assert {"order": 1, "remedy": "first", "policy": "script", "lever_tool_instance": 1}.items() <= decided.items()
    run.carry_out()
    run.pass_steps(3)
    outcome = dict(run.last(K.OUTCOME).fields)
    assert (outcome["outcome"], outcome["remedy"]) == ("resolved", "first")
    assert str(run.last(K.CLOSED).text("reason")).startswith("resolved by first")
    assert {(entry.id.step, entry.incident) for entry in run.entries} == {(6, 1), (7, 1), (9, 1)}
    assert [entry.seq for entry in run.entries] == list(range(1, len(run.entries) + 1))


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ([0.5, 0.6, 0.9], 0.9),
        ([0.5, 0.9, 0.6], 0.9),
        ([0.5, math.nan, 0.9], 0.9),
        ([math.nan] * 3, 0.4),
        ([math.nan] * 2 + [0.2], 0.4),
    ],
    ids=[
        "learns up to the alarm",
        "falls before the alarm",
        "asked in the step of the alarm",
        "never asked",
        "first asked under the fault",
    ],
)
def test_accuracy_to_give_back_is_the_best_known_from_before_the_fault_or_its_alarm(
    asked: list[float], expected: float
) -> None:
    run = ManagedRun(None)
    run.manager.note_probe(run.place, 0.4)
    *before, at_alarm = asked
    for accuracy in before:
        run.tick(probe_accuracy=accuracy)
    run.tick(fault(onset=len(before)), **{**FAILING, "probe_accuracy": at_alarm})
    assert dict(run.last(K.OPENED).fields)["probe"] == expected


@pytest.mark.parametrize("code", ["RF-1", "TE-1"])
def test_incident_does_not_begin_after_its_alarm_whatever_is_raised_later(code: str) -> None:
    run = started(None)
    run.begin_fault(fault(code, 0.4))
    opened, began = run.incident.opened.step, run.incident.onset
    run.tick(fault("TE-1", onset=opened + 4), **FAILING)
    named = next(entry for entry in run.entries if entry.kind is K.DIAGNOSED)
    assert run.incident.onset == named.integer("onset") == (began if code == "TE-1" else opened)
    assert run.incident.onset_low <= run.incident.onset


def test_what_did_not_help_is_undone_before_the_next_remedy_is_tried() -> None:
    run = started(FIRST, SECOND)
    run.begin_fault()
    run.carry_out()
    run.pass_steps(2, fault(), **FAILING)
    order = run.tick(fault(), **FAILING)
    assert run.last(K.OUTCOME).text("outcome") == "ineffective"
    assert order is not None
    assert (order.number, order.remedy, order.levers) == (2, "second", Levers(tool_retries=2))
    assert [tried.outcome for tried in run.script.seen[-1].tried] == [OutcomeKind.INEFFECTIVE]
    run.carry_out()
    assert run.manager.state.owners == (("tool_retries", 1),)
    run.pass_steps(3)
    assert [tried.outcome for tried in run.incident.tried] == [OutcomeKind.INEFFECTIVE, OutcomeKind.RESOLVED]


def test_second_failure_is_undone_as_far_as_the_first() -> None:
    run = started(FIRST, SECOND, None)
    run.begin_fault()
    run.carry_out()
    run.pass_steps(2, fault(), **FAILING)
    run.tick(fault(), **FAILING)
    run.carry_out()
    assert [tried.before for tried in run.incident.tried] == [Levers(), Levers()]
    run.pass_steps(2, fault(), **FAILING)
    order = run.tick(fault(), **FAILING)
    assert order is not None
    assert (order.role, order.levers) == (OrderRole.UNDO, Levers())


def test_harmful_remedy_makes_way_at_once() -> None:
    run = started(FIRST, SECOND, verify_steps=10)
    run.begin_fault()
    run.carry_out()
    run.pass_steps(1, fault(), probe_accuracy=0.9)
    order = run.tick(fault(), probe_accuracy=0.5)
    assert run.last(K.OUTCOME).text("outcome") == "harmful"
    assert order is not None
    assert order.levers == Levers(tool_retries=2)


def test_probe_from_before_the_remedy_does_not_speak_against_it() -> None:
    run = started(FIRST, SECOND)
    run.pass_steps(1, None, probe_accuracy=0.9)
    run.begin_fault(fault(onset=7))
    run.carry_out()
    run.pass_steps(1, None, probe_accuracy=0.3)
    run.pass_steps(2, None, probe_accuracy=0.9)
    assert run.last(K.OUTCOME).text("outcome") == "resolved"


def test_without_a_further_remedy_people_are_called_and_levers_go_back() -> None:
    run = started(FIRST, None)
    run.begin_fault()
    run.carry_out()
    run.pass_steps(2, fault(), **FAILING)
    order = run.tick(fault(), **FAILING)
    assert (run.incident.state, run.incident.reason) == (IncidentState.ESCALATED, "the policy gave up: nothing is left")
    assert order == Order(2, 1, OrderRole.UNDO, "undo", "the policy gave up: nothing is left", Levers())
    run.carry_out()
    assert run.manager.state.levers == Levers()
    assert run.manager.state.owners == ()


def test_policy_that_waits_is_asked_again_and_noted_once() -> None:
    run = started(None, None, FIRST, verify_steps=4)
    run.begin_fault()
    run.pass_steps(1, fault(), **FAILING)
    assert run.tick(fault(), **FAILING) is not None
    assert run.kinds == [K.OPENED, K.DIAGNOSED, K.HELD, K.DECIDED]
    assert dict(run.last(K.HELD).fields) == {"policy": "script", "reason": "nothing is left"}


def test_policy_that_always_waits_is_escalated() -> None:
    run = started(None, verify_steps=4)
    run.begin_fault()
    run.pass_steps(2, fault(), **FAILING)
    assert run.now() is IncidentState.DIAGNOSED
    run.pass_steps(1, fault(), **FAILING)
    assert run.now() is IncidentState.ESCALATED
    assert len(run.script.seen) == 4


def test_cooldown_keeps_remedies_of_an_incident_apart() -> None:
    run = started(FIRST, SECOND, verify_steps=1, cooldown_steps=4)
    run.begin_fault()
    run.carry_out()
    assert run.incident.tried[0].paid_step == 7
    run.pass_steps(4, fault(), **FAILING)
    assert run.now() is IncidentState.DIAGNOSED
    order = run.tick(fault(), **FAILING)
    assert (run.place.paid_step, order and order.remedy) == (11, "second")


def test_silence_after_a_remedy_that_did_not_help_resolves_nothing() -> None:
    run = started(FIRST, SECOND, cooldown_steps=9)
    run.begin_fault()
    run.carry_out()
    run.pass_steps(3, fault(), **FAILING)
    assert run.now() is IncidentState.DIAGNOSED
    run.pass_steps(6)
    assert run.now() is IncidentState.DIAGNOSED
    order = run.tick()
    assert order is not None
    assert order.remedy == "second"


@pytest.mark.parametrize(
    ("changed", "entries"),
    [
        ({"mode": GuardMode.OBSERVE}, [K.OPENED, K.DIAGNOSED]),
        ({"mode": GuardMode.ADVISE}, [K.OPENED, K.DIAGNOSED, K.ADVISED]),
        ({"act_on": (Family.OD, Family.RF)}, [K.OPENED, K.DIAGNOSED, K.ADVISED]),
        ({"act_on": ()}, [K.OPENED, K.DIAGNOSED, K.ADVISED]),
        ({"act_on": (Family.TE,)}, [K.OPENED, K.DIAGNOSED, K.DECIDED]),
    ],
)
def test_how_far_the_guard_goes(changed: dict[str, Any], entries: list[EntryKind]) -> None:
    run = started(FIRST, **changed)
    run.begin_fault()
    for _ in range(9):
        run.tick(fault(), **FAILING)
    assert run.kinds == entries
    assert (run.manager.pending is not None) is (K.DECIDED in entries)
    assert len(run.script.seen) == (0 if changed.get("mode") is GuardMode.OBSERVE else 1)
    assert run.manager.state.spent == (((Family.TE, 1),) if K.DECIDED in entries else ())


def test_advised_incident_ends_with_its_alarm() -> None:
    run = started(FIRST, mode=GuardMode.ADVISE)
    run.begin_fault()
    run.pass_steps(3)
    assert run.now() is IncidentState.RESOLVED
    told = dict(run.last(K.ADVISED).fields)
    assert {"remedy": "first", "lever_tool_instance": 1}.items() <= told.items()


def test_no_second_order_while_one_waits() -> None:
    run = started(FIRST, SECOND)
    order = run.begin_fault()
    run.pass_steps(20, fault(), **FAILING)
    run.pass_steps(20)
    assert run.manager.pending is order
    assert len(run.script.seen) == 1
    assert run.kinds.count(K.DECIDED) == 1


def test_rollback_goes_to_a_snapshot_from_before_the_fault_and_skips() -> None:
    run = started(BACK, snapshots=(0, 4, 5, 6, 7))
    run.begin_fault(replace(fault("OD-1", onset=7), onset_low=6))
    order = run.carry_out()
    assert (order.restore_step, order.skip_batches, order.levers) == (5, 2, Levers(lr_scale=0.5))
    assert run.last(K.DECIDED).integer("restore_step") == 5


def test_rollback_is_dropped_where_its_snapshot_has_made_way_for_a_newer_one() -> None:
    available = [(0, 5)]
    run = started(BACK, snapshots=lambda: available[-1])
    assert run.begin_fault(replace(fault("OD-1", onset=4), onset_low=4)) is not None
    available.append((5, 10))
    run.tick(fault("OD-1"), **FAILING)
    assert not run.begin(probed=0.1)
    assert "snapshot of step 0" in run.last(K.UNCONFIRMED).text("reason")
    assert run.manager.pending is None


def test_rollback_declares_levers_against_those_of_the_step_that_it_goes_back_to() -> None:
    entropy = Remedy("entropy", Levers(entropy_coef=0.01))
    run = started(entropy, BACK, snapshots=(0, 5, 9))
    run.remedied(fault("TE-1"), FAILING)
    while run.tick() is None:
        pass
    returned = run.following.step
    assert run.carry_out().role is OrderRole.RETURN
    assert run.manager.state.levers_at(returned - 1) == entropy.levers
    assert run.manager.state.levers_at(returned) == Levers()
    run.tick()
    # The monitor goes back to a step at which the coefficient was in force, and which the rollback does not restore.
    run.begin_fault(replace(fault("OD-1", onset=12), onset_low=10))
    assert run.pending.restore_step == 9
    assert returned == 10
    assert run.begin(probed=0.1)
    assert set(signals_of(["entropy_coef", "lr_scale"])) == set(run.done().signals)
    assert run.manager.state.levers_at(9) == entropy.levers
    assert run.manager.state.levers_at(10) == Levers(lr_scale=0.5)
    assert replay(tuple(run.entries)) == run.manager.state


def test_detector_that_failed_on_a_late_step_is_still_noted() -> None:
    run = started(BACK, snapshots=(0, 5))
    run.begin_fault(replace(fault("OD-1"), onset_low=6))
    late = run.report()
    run.carry_out()
    assert run.manager.consider(Assessment(late, None, (("mine", "it raised"),))) is None
    assert run.last(K.DISABLED).text("name") == "mine"


def test_rollback_without_a_snapshot_from_before_is_refused() -> None:
    run = started(BACK, snapshots=(6, 7))
    assert run.begin_fault(fault("OD-1")) is None
    assert run.last(K.REFUSED).text("remedy") == "back"
    assert run.now() is IncidentState.DIAGNOSED


@pytest.mark.parametrize("good", range(len(LIFE)))
def test_what_cannot_be_journalled_does_not_happen(good: int) -> None:
    run = started(FIRST)
    run.ledger = Ledger(lambda entry: full_after(good, run.entries, entry))
    policy = SafePolicy(run.script, "script", 30.0)
    run.manager = IncidentManager(PLAIN, policy, lambda: (0,), run.ledger)
    run.pass_steps(5)
    with pytest.raises(RecordError):
        life(run)
    assert len(run.entries) == good
    assert run.manager.state == replay(tuple(run.entries))
    assert (run.manager.pending is not None) is (good == 3), "an order is given once it is journalled"


def full_after(good: int, entries: list[Entry], entry: Entry) -> None:
    """A journal with room for `good` entries."""
    if len(entries) == good:
        raise RecordError("full")
    entries.append(entry)


def life(run: ManagedRun) -> None:
    """An incident from its opening to its end."""
    run.begin_fault()
    run.carry_out()
    run.pass_steps(3)
