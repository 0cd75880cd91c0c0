"""Incidents whose alarms go silent without a remedy: cleared, and resolved only where a probe shows no loss."""

from __future__ import annotations

import math
from typing import Any

import pytest

from rftfm_ray.incidents.state import EntryKind, replay
from rftfm_ray.signals.held_out import LEAST_LOSS
from rftfm_ray.types import GuardMode, Levers
from rftfm_ray.verdicts import Family, IncidentState, Remedy
from tests.unit.incidents.managed import VERIFY, ManagedRun, fault

K = EntryKind
BACK = Remedy("back", Levers(lr_scale=0.5), rollback=True)


def silenced(run: ManagedRun, *accuracies: float, before: float = 0.9, alarms: int = 3) -> ManagedRun:
    """Five usual steps, a fault, and the steps of silence after which its incident is over, with their probes."""
    run.pass_steps(5, None, probe_accuracy=before)
    for _ in range(alarms):
        run.tick(fault("OD-1"), probe_accuracy=math.nan, kl_ref=5.0)
        if run.manager.pending is not None:
            assert not run.begin(before)
    for accuracy in (*(math.nan for _ in range(VERIFY - len(accuracies))), *accuracies):
        assert run.now() is not IncidentState.CLEARED
        run.tick(None, probe_accuracy=accuracy)
    return run


OBSERVED: dict[str, Any] = {"mode": GuardMode.OBSERVE}
ADVISED: dict[str, Any] = {"act_on": (Family.TE,)}
UNCONFIRMED: dict[str, Any] = {"cooldown_steps": 30}
every_way = pytest.mark.parametrize("changed", [OBSERVED, ADVISED, UNCONFIRMED], ids=["observed", "advised", "dropped"])


@every_way
@pytest.mark.parametrize(
    ("now", "state"),
    [
        (0.05, IncidentState.CLEARED),
        (0.9 - LEAST_LOSS - 0.05, IncidentState.CLEARED),
        (0.88, IncidentState.RESOLVED),
        (0.95, IncidentState.RESOLVED),
    ],
)
def test_silence_resolves_only_where_a_probe_shows_no_loss(
    changed: dict[str, Any], now: float, state: IncidentState
) -> None:
    run = silenced(ManagedRun(BACK, **changed), now)
    assert run.now() is state
    assert run.now().final
    assert run.last(K.CLOSED).text("state") == state.value
    why = f"the alarm cleared without a remedy; held-out accuracy is {now:.3f} and was 0.900 before it"
    assert run.incident.reason == why
    assert replay(tuple(run.entries)) == run.manager.state
    assert run.manager.state.open_incidents() == ()


def over(**quiet: float) -> ManagedRun:
    """Usual steps, a fault that shows in the KL, and its silence, in which held-out accuracy stands."""
    run = ManagedRun(None, **OBSERVED)
    run.pass_steps(5)
    run.pass_steps(3, fault("OD-1", signals=("kl_ref",)), kl_ref=5.0)
    run.pass_steps(VERIFY, None, **quiet)
    return run


def test_silence_does_not_resolve_harm_that_goes_on() -> None:
    assert over().now() is IncidentState.RESOLVED
    run = over(kl_ref=5.0)
    assert run.now() is IncidentState.CLEARED
    assert run.incident.reason == (
        "the alarm cleared without a remedy; held-out accuracy is 0.800 and was 0.800 before it; "
        "kl_ref is still 5, 20.0 spreads above its healthy level"
    )


def test_silence_does_not_resolve_what_did_no_harm() -> None:
    run = ManagedRun(None, **OBSERVED)
    run.pass_steps(5)
    run.pass_steps(3, fault("OD-1"))
    run.pass_steps(VERIFY, None)
    assert run.now() is IncidentState.CLEARED
    assert run.incident.reason.endswith("; severity was 0.0 nats before, within its healthy band")


def test_silence_does_not_resolve_a_fault_whose_cause_is_active() -> None:
    run = ManagedRun(BACK, act_on=(Family.OD,))
    run.pass_steps(9)
    run.pass_steps(3, fault("TE-1", onset=10, signals=("tool_error_rate",)), tool_error_rate=0.2)
    run.pass_steps(VERIFY, None, tool_shadow_error_rate=0.5, tool_retry_rate=0.5)
    assert run.now() is IncidentState.CLEARED
    assert run.incident.reason.endswith("; its cause is still active")


def test_alarm_that_lasts_is_not_over_because_another_fault_is_told_to_people() -> None:
    run = ManagedRun(BACK, **ADVISED)
    run.pass_steps(5)
    alarms = ("update_ratio", "kl_ref")
    run.pass_steps(3, fault("OD-1", signals=alarms), kl_ref=5.0)
    assert run.now() is IncidentState.DIAGNOSED
    run.pass_steps(3 * VERIFY, fault("OD-3", 0.4, signals=(*alarms, "entropy")), kl_ref=5.0)
    assert run.manager.state.incident(1).state is IncidentState.DIAGNOSED


def test_alarm_that_is_over_ends_its_incident_while_another_fault_lasts() -> None:
    run = ManagedRun(BACK, **ADVISED)
    run.pass_steps(5)
    run.pass_steps(3, fault("OD-1", signals=("kl_ref",)), kl_ref=5.0)
    other = fault("RF-1", 0.95, 9, ("trained_mismatch_rate",))
    run.pass_steps(VERIFY, other, trained_mismatch_rate=0.5)
    states = [incident.state for incident in run.manager.state.incidents]
    assert states == [IncidentState.RESOLVED, IncidentState.DIAGNOSED]


def test_silence_does_not_resolve_harm_that_is_not_measured() -> None:
    run = over(kl_ref=math.nan, update_ratio=math.nan)
    assert run.now() is IncidentState.CLEARED
    assert run.incident.reason.endswith("; the harm was not measured")
    first = ManagedRun(None, **OBSERVED)
    first.manager.note_probe(first.place, 0.8)
    first.pass_steps(2, fault("OD-1", onset=1), kl_ref=5.0, probe_accuracy=math.nan)
    first.pass_steps(VERIFY, None)
    assert first.now() is IncidentState.CLEARED
    assert first.incident.reason.endswith("; no step from before the fault shows a healthy band")


def test_what_was_not_measured_is_cleared() -> None:
    since = silenced(ManagedRun(None, **OBSERVED))
    assert (since.now(), since.incident.reason) == (
        IncidentState.CLEARED, "the alarm cleared without a remedy; held-out accuracy was not measured since",
    )  # fmt: skip
    earlier = silenced(ManagedRun(None, **OBSERVED), 0.9, before=math.nan)
    assert (earlier.now(), earlier.incident.reason) == (
        IncidentState.CLEARED, "the alarm cleared without a remedy; held-out accuracy was not measured before it",
    )  # fmt: skip


@pytest.mark.parametrize(("alarms", "state"), [(3, IncidentState.RESOLVED), (2, IncidentState.CLEARED)])
def test_probe_that_weights_from_before_the_onset_answered_in_part_does_not_count(
    alarms: int, state: IncidentState
) -> None:
    # The fault begins with step 6; the silence is of three steps, and the probe takes five.
    run = silenced(ManagedRun(None, **OBSERVED, probe_steps=5), 0.9, alarms=alarms)
    assert run.place.step == 5 + alarms + VERIFY
    assert run.now() is state


def test_probe_from_before_the_silence_does_not_count() -> None:
    run = ManagedRun(None, **OBSERVED)
    run.pass_steps(5, None, probe_accuracy=0.9)
    run.pass_steps(3, fault("OD-1"), probe_accuracy=0.9)
    run.pass_steps(VERIFY, None, probe_accuracy=math.nan)
    assert run.now() is IncidentState.CLEARED


def test_alarm_after_the_silence_opens_another_incident() -> None:
    run = silenced(ManagedRun(None, **OBSERVED), 0.05)
    run.tick(fault("OD-1"))
    assert [incident.state for incident in run.manager.state.incidents] == [
        IncidentState.CLEARED, IncidentState.DIAGNOSED,
    ]  # fmt: skip


def test_suspicion_that_fades_is_resolved_where_a_probe_shows_no_loss() -> None:
    run = ManagedRun(BACK)
    run.pass_steps(5)
    run.begin_fault(fault(probability=0.5))
    run.pass_steps(2)
    run.tick(fault(probability=0.5))
    run.pass_steps(2)
    assert run.now() is IncidentState.SUSPECTED, "silence counts from its last alarm"
    run.pass_steps(1)
    assert run.now() is IncidentState.RESOLVED
    why = "the alarm cleared without a remedy; held-out accuracy is 0.800 and was 0.800 before it"
    assert run.incident.reason == why
    assert run.kinds == [K.OPENED, K.CLOSED]
