"""Orders at their boundary: what a costly one needs, whoever has asked for it, and what no ground makes up for."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from rftfm_ray.incidents.orders import OrderRole
from rftfm_ray.incidents.state import EntryKind
from rftfm_ray.types import Levers
from rftfm_ray.verdicts import Diagnosis, Evidence, IncidentState, Remedy, Symptom
from tests.unit.incidents.managed import FAILING, ManagedRun, fault

K = EntryKind
COSTLY = [
    Remedy("back", Levers(lr_scale=0.5), rollback=True),
    Remedy("stop", halt=True),
    Remedy("freeze", Levers(freeze_policy=1)),
]
every_costly_one = pytest.mark.parametrize("remedy", COSTLY, ids=lambda remedy: remedy.name)


def alarmed(evidence: Evidence, signal: str = "lr_excess") -> Diagnosis:
    """A diagnosis that is certain of itself, with one alarm."""
    symptom = Symptom("test", signal, evidence, True, 1, 1.0, 0.0, 99.0, 6, 6, f"{signal} is high")
    return replace(fault("OD-1", 1.0), symptoms=(symptom,))


def asked_for(remedy: Remedy, diagnosis: Diagnosis, **signals: float) -> ManagedRun:
    """A run in which a policy has asked for a remedy."""
    run = ManagedRun(remedy, snapshots=(0, 5))
    run.pass_steps(5)
    assert run.tick(diagnosis, **signals) is not None
    assert run.pending.is_costly
    return run


@every_costly_one
@pytest.mark.parametrize("now", [0.8, 0.78, 0.99, math.nan])
def test_telemetry_alone_carries_nothing_costly_while_accuracy_stands(remedy: Remedy, now: float) -> None:
    run = asked_for(remedy, alarmed(Evidence.TELEMETRY))
    assert not run.begin(now)
    reason = (
        "held-out accuracy is not known, was 0.800, and only telemetry speaks for it"
        if math.isnan(now)
        else f"held-out accuracy is {now:.3f}, was 0.800: it stands, and no broken identity of the fault shows damage"
    )
    assert run.last(K.UNCONFIRMED).text("reason") == reason
    assert run.manager.pending is None
    assert (run.incident.state, run.manager.state.levers) == (IncidentState.DIAGNOSED, Levers())


@every_costly_one
@pytest.mark.parametrize(
    ("diagnosis", "signals", "now", "ground"),
    [
        (alarmed(Evidence.IDENTITY), {}, 0.99, "identity"),
        (alarmed(Evidence.CHANNEL), {}, math.nan, "channel"),
        (alarmed(Evidence.TELEMETRY), {}, 0.5, "channel"),
        (alarmed(Evidence.TELEMETRY), {"update_ratio": 0.3}, math.nan, "reading"),
    ],
)
def test_ground_of_a_costly_remedy_is_journalled(
    remedy: Remedy, diagnosis: Diagnosis, signals: dict[str, float], now: float, ground: str
) -> None:
    run = asked_for(remedy, diagnosis, **signals)
    assert run.begin(now)
    confirmed = dict(run.last(K.CONFIRMED).fields)
    assert {"order": 1, "probe_before": 0.8, "ground": ground}.items() <= confirmed.items()
    assert confirmed["probe_now"] == pytest.approx(now, nan_ok=True)


@every_costly_one
@pytest.mark.parametrize("now", [0.78, 0.8, 0.99])
@pytest.mark.parametrize(
    ("evidence", "signals"), [(Evidence.CHANNEL, {}), (Evidence.TELEMETRY, {"update_ratio": 0.3, "kl_ref": 500.0})]
)
def test_accuracy_that_stands_speaks_against_channel_and_reading(
    remedy: Remedy, now: float, evidence: Evidence, signals: dict[str, float]
) -> None:
    run = asked_for(remedy, alarmed(evidence), **signals)
    assert run.script.seen[-1].ground is not None, "no probe since the fault speaks against it at the decision"
    assert not run.begin(now)
    assert (
        run.last(K.UNCONFIRMED).text("reason").endswith("it stands, and no broken identity of the fault shows damage")
    )


@every_costly_one
def test_identity_that_the_fault_does_not_explain_carries_nothing_costly_while_accuracy_stands(remedy: Remedy) -> None:
    """Transcripts that are altered do not say that the updates are too large."""
    altered = alarmed(Evidence.IDENTITY, "observation_mismatch_rate")
    run = asked_for(remedy, altered)
    assert not run.begin(0.99)
    assert asked_for(remedy, altered).begin(0.5)
    assert asked_for(remedy, alarmed(Evidence.IDENTITY)).begin(0.99)


def test_probe_that_weights_from_before_the_fault_answered_in_part_shows_a_loss_but_not_that_there_is_none() -> None:
    grounds = []
    for step, accuracy in ((6, 0.8), (8, 0.8), (11, 0.8), (8, 0.3)):
        run = ManagedRun(None, verify_steps=9, probe_steps=5)
        run.pass_steps(5)
        for now in range(6, step + 1):
            probe = accuracy if now == step else math.nan
            run.tick(alarmed(Evidence.CHANNEL), probe_accuracy=probe)
        grounds.append(run.script.seen[-1].ground)
    assert [ground and ground.reason for ground in grounds] == [
        "lr_excess is high", "lr_excess is high", None, "held-out accuracy fell from 0.800 to 0.300",
    ]  # fmt: skip


def test_onset_that_is_dated_too_late_hides_no_loss() -> None:
    run = ManagedRun(COSTLY[0], snapshots=(0, 5))
    run.pass_steps(5)
    exploded = replace(fault("OD-1", 1.0, 6, ("update_ratio",)), onset_low=6)
    assert run.tick(exploded) is not None
    run.drop()
    # From now on its onset is dated after the harm; the incident was opened when accuracy was 0.8.
    run.tick(replace(exploded, onset=7, onset_low=7), probe_accuracy=0.3)
    assert run.begin(0.3)
    assert run.last(K.CONFIRMED).text("ground") == "channel"
    assert dict(run.last(K.CONFIRMED).fields)["probe_before"] == 0.8


def test_policy_sees_what_allows_a_costly_remedy() -> None:
    seen = [asked_for(COSTLY[0], alarmed(kind)).script.seen[-1].ground for kind in Evidence]
    assert [ground and ground.kind.value for ground in seen] == [None, "channel", "law", "identity"]


def test_probe_before_the_first_step_is_the_reference_of_a_fault_that_begins_with_it() -> None:
    run = ManagedRun(COSTLY[0])
    run.manager.note_probe(run.place, 0.4)
    unmeasured = {"probe_accuracy": math.nan}
    assert run.tick(fault("OD-1", onset=1), **unmeasured) is not None
    assert run.incident.probe == 0.4
    assert run.begin(0.0)
    assert run.last(K.CONFIRMED).text("reason") == "held-out accuracy fell from 0.400 to 0.000"


def test_policy_that_is_frozen_already_is_not_frozen_again() -> None:
    run = ManagedRun(Remedy("slow", Levers(lr_scale=0.5)), levers=Levers(freeze_policy=1))
    run.pass_steps(2)
    assert run.tick(fault("OD-1", onset=3)) is not None
    assert run.pending.is_costly
    assert run.begin(0.8)
    assert K.CONFIRMED not in run.kinds


@pytest.mark.parametrize(("diagnosis", "ends"), [(alarmed(Evidence.IDENTITY), True), (fault("OD-1", 1.0), False)])
def test_run_is_not_ended_because_telemetry_alone_speaks_against_it(diagnosis: Diagnosis, ends: bool) -> None:
    run = ManagedRun(None, verify_steps=1, halts=True)
    run.pass_steps(5)
    order = run.tick(diagnosis)
    assert (order is not None and order.role is OrderRole.HALT) is ends
    said = "; the run goes on, because only telemetry speaks against it"
    assert run.incident.reason == "nothing is left" + ("" if ends else said)


def test_run_that_goes_on_has_the_levers_undone() -> None:
    run = ManagedRun(Remedy("slow", Levers(lr_scale=0.5)), None, halts=True)
    run.pass_steps(5)
    assert run.tick(fault("OD-1"), **FAILING) is not None
    run.carry_out()
    run.pass_steps(2, fault("OD-1"))
    order = run.tick(fault("OD-1"))
    assert order is not None
    assert (order.role, order.levers) == (OrderRole.UNDO, Levers())


@every_costly_one
@pytest.mark.parametrize("evidence", [Evidence.IDENTITY, Evidence.CHANNEL])
@pytest.mark.parametrize("silent", [1, 3])
def test_alarm_that_has_gone_silent_is_no_ground(remedy: Remedy, evidence: Evidence, silent: int) -> None:
    run = asked_for(remedy, alarmed(evidence))
    for _ in range(silent):
        run.tick(None)
    assert not run.begin(0.8 if evidence is Evidence.IDENTITY else math.nan)
    assert run.last(K.UNCONFIRMED).text("reason").startswith("held-out accuracy is")


def test_ground_is_an_alarm_of_the_newest_step_whatever_that_step_is_called() -> None:
    """A step has one diagnosis, and the alarms of every incident."""
    other = replace(fault("PG-1", 1.0), symptoms=alarmed(Evidence.IDENTITY).symptoms)
    for diagnosis, begins in ((other, True), (alarmed(Evidence.CHANNEL), False), (fault("PG-1", 1.0), False)):
        run = asked_for(COSTLY[0], alarmed(Evidence.IDENTITY))
        run.tick(diagnosis)
        assert run.begin(0.8) is begins


@pytest.mark.parametrize(("steps", "ends"), [(0, True), (1, False)])
def test_run_is_not_ended_by_an_identity_that_holds_again(steps: int, ends: bool) -> None:
    run = ManagedRun(None, verify_steps=3, halts=True)
    run.pass_steps(5)
    run.pass_steps(2, alarmed(Evidence.IDENTITY))
    order = run.tick(None if steps else alarmed(Evidence.IDENTITY))
    assert (order is not None and order.role is OrderRole.HALT) is ends
    assert run.now() is IncidentState.ESCALATED
    said = "; the run goes on, because held-out accuracy stands and no broken identity of the fault shows damage"
    assert run.incident.reason == "nothing is left" + ("" if ends else said)


@pytest.mark.parametrize(
    ("code", "now", "ends"), [("UNKNOWN", math.nan, True), ("UNKNOWN", 0.8, False), ("PG-1", math.nan, False)]
)
def test_identity_may_be_broken_by_a_fault_without_a_name_unless_accuracy_stands(
    code: str, now: float, ends: bool
) -> None:
    run = ManagedRun(None, verify_steps=3, halts=True)
    run.pass_steps(5, None, probe_accuracy=0.8)
    broken = replace(fault(code, 0.9), symptoms=alarmed(Evidence.IDENTITY).symptoms)
    orders = [run.tick(broken, probe_accuracy=now) for _ in range(8)]
    assert (OrderRole.HALT in [order.role for order in orders if order is not None]) is ends


def test_rollback_ends_the_alarms_of_the_steps_that_it_gave_up() -> None:
    run = asked_for(COSTLY[0], alarmed(Evidence.IDENTITY))
    before = run.manager.memory().run.active_diagnosis_of(1)
    assert before is not None
    assert [symptom.alarm for symptom in before.symptoms] == [True]
    run.carry_out()
    found = run.manager.memory().run.active_diagnosis_of(1)
    assert found is not None
    assert [symptom.alarm for symptom in found.symptoms] == [False]
