"""What allows a costly remedy, and what does not: telemetry alone, at any probability."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import pytest

from rftfm_ray.policies.grounds import IMPOSSIBLE, Ground, GroundKind, HeldOut, ground_for
from rftfm_ray.signals.held_out import LEAST_LOSS, probe_drop
from rftfm_ray.signals.schema import INDEX, SIGNALS
from rftfm_ray.types import StepId
from rftfm_ray.verdicts import Diagnosis, Evidence, Family, StepReport, Symptom

ONSET = 11
STANDS = HeldOut(0.99, 0.99, 256)
UNKNOWN = HeldOut(0.99, math.nan, 256)
USUAL = {"lr": 1e-3, "update_ratio": 0.01, "grad_norm": 1.0}


def report(step: int, **signals: float) -> StepReport:
    """A usual step, but for the signals that are given."""
    values = dict.fromkeys(INDEX, 0.0) | USUAL | signals
    return StepReport(StepId(0, step, step), step, tuple(values[signal.name] for signal in SIGNALS))


def course(**signals: float) -> list[StepReport]:
    """Ten usual steps, and one under a fault."""
    return [*(report(step) for step in range(1, ONSET)), report(ONSET, **signals)]


def diagnosis(*symptoms: Symptom) -> Diagnosis:
    """A diagnosis that is certain of itself."""
    return Diagnosis("OD-1", Family.OD, 1.0, (), symptoms, ONSET, ONSET, "")


def symptom(evidence: Evidence, signal: str = "kl_ref", *, alarm: bool = True) -> Symptom:
    """A symptom."""
    return Symptom("test", signal, evidence, alarm, 1, 1.0, 0.0, 99.0, ONSET, ONSET, f"{signal} is high")


def grounds(
    found: Diagnosis | None, reports: Sequence[StepReport], held_out: HeldOut, explained: Collection[str] = ()
) -> Ground | None:
    """The ground for a remedy of a fault that explains some signals."""
    return ground_for(found, reports, held_out, explained)


def test_telemetry_is_no_ground_at_any_probability() -> None:
    assert grounds(diagnosis(symptom(Evidence.TELEMETRY)), course(), STANDS) is None
    assert grounds(diagnosis(), course(), STANDS) is None
    assert grounds(None, course(kl_ref=1e6), STANDS) is None


@pytest.mark.parametrize(
    ("evidence", "kind"), [(Evidence.IDENTITY, GroundKind.IDENTITY), (Evidence.CHANNEL, GroundKind.CHANNEL)]
)
def test_identity_and_channel_are_grounds_and_a_notice_is_none(evidence: Evidence, kind: GroundKind) -> None:
    assert grounds(diagnosis(symptom(evidence)), course(), UNKNOWN, ["kl_ref"]) == Ground(kind, "kl_ref is high")
    assert grounds(diagnosis(symptom(evidence, alarm=False)), course(), UNKNOWN, ["kl_ref"]) is None


def test_broken_law_that_the_fault_explains_is_a_ground_unless_accuracy_stands() -> None:
    broken = diagnosis(symptom(Evidence.LAW))
    assert grounds(broken, course(), UNKNOWN, ["kl_ref"]) == Ground(GroundKind.LAW, "kl_ref is high")
    assert grounds(broken, course(), UNKNOWN, ["update_ratio"]) is None
    assert grounds(broken, course(), STANDS, ["kl_ref"]) is None


def test_identity_that_another_fault_has_broken_is_no_ground_where_accuracy_is_not_known() -> None:
    assert grounds(diagnosis(symptom(Evidence.IDENTITY)), course(), UNKNOWN, ["update_ratio"]) is None


@pytest.mark.parametrize("now", [0.97, 0.99, 1.0])
def test_only_an_identity_that_the_fault_explains_is_a_ground_where_accuracy_stands(now: float) -> None:
    stands = HeldOut(0.99, now, 256)
    read = course(kl_ref=1e6, step_kl=1e6, update_ratio=1e6)
    assert grounds(diagnosis(symptom(Evidence.CHANNEL)), read, stands) is None
    broken = diagnosis(symptom(Evidence.CHANNEL), symptom(Evidence.IDENTITY))
    assert grounds(broken, read, stands, ["kl_ref"]) == Ground(GroundKind.IDENTITY, "kl_ref is high")
    # Something else has broken it, and the remedy of this fault does not mend that.
    assert grounds(broken, read, stands, ["update_ratio"]) is None
    assert grounds(broken, read, HeldOut(0.99, 0.5, 256), ["update_ratio"]) is not None


@pytest.mark.parametrize(("now", "is_ground"), [(0.99, False), (math.nan, True), (0.5, True)])
def test_identity_that_measures_the_cause_shows_no_damage_where_accuracy_stands(now: float, is_ground: bool) -> None:
    """An optimizer that goes too far is held back by a lower rate, as long as nothing is lost."""
    broken = diagnosis(symptom(Evidence.IDENTITY, "update_gain"))
    assert (grounds(broken, course(), HeldOut(0.99, now, 256), ["update_gain"]) is not None) is is_ground


def test_verdicts_that_fail_are_no_harm_by_themselves() -> None:
    failing = diagnosis(symptom(Evidence.CHANNEL, "verifier_error_rate"))
    assert grounds(failing, course(), UNKNOWN) is None
    assert grounds(failing, course(), HeldOut(0.99, 0.5, 256)) is not None


def test_alarm_of_the_probe_counts_only_as_far_as_the_probe_of_now_bears_it_out() -> None:
    seen = diagnosis(symptom(Evidence.CHANNEL, "probe_accuracy"))
    assert grounds(seen, course(), STANDS) is None
    fell = Ground(GroundKind.CHANNEL, "held-out accuracy fell from 0.990 to 0.500")
    assert grounds(seen, course(), HeldOut(0.99, 0.5, 256)) == fell
    assert grounds(None, (), HeldOut(0.99, 0.5, 256)) == fell


@pytest.mark.parametrize("size", [16, 256, 10**6])
def test_fall_takes_two_standard_errors_and_three_hundredths(size: int) -> None:
    for now in (n / 1000 for n in range(600, 1000)):
        expected = probe_drop(0.9, now, size) > 2 and 0.9 - now > LEAST_LOSS
        assert HeldOut(0.9, now, size).fell is expected


@pytest.mark.parametrize(("before", "now"), [(math.nan, 0.0), (0.9, math.nan), (0.4, 0.9), (0.9, 0.9)])
def test_accuracy_that_is_unknown_stands_or_rises_is_no_ground(before: float, now: float) -> None:
    assert not HeldOut(before, now, 256).fell


# The largest values of the recorded healthy runs are 15.8, 0.53 and 4.2 times the largest usual update.
READ = [
    ("kl_ref", "kl_ref", 15.8, 101.0),
    ("step_kl", "step_kl", 0.53, 10.1),
    ("update_ratio", "update_ratio", 0.042, 0.101),
]


@pytest.mark.parametrize(("name", "signal", "healthy", "impossible"), READ)
def test_reading_that_cannot_be_healthy_is_a_ground(name: str, signal: str, healthy: float, impossible: float) -> None:
    assert grounds(diagnosis(), course(**{signal: healthy}), UNKNOWN) is None
    ground = grounds(diagnosis(), course(**{signal: impossible}), UNKNOWN)
    assert ground is not None
    assert ground.kind is GroundKind.READING
    assert ground.reason.startswith(f"{name} shows ")
    assert IMPOSSIBLE[name].why in ground.reason


def test_every_reading_is_tested() -> None:
    assert {row[0] for row in READ} == set(IMPOSSIBLE)


def test_update_is_held_against_the_rate_that_the_configuration_gives() -> None:
    # A planned change of the rate explains the update, a rate that nobody called for does not.
    planned = grounds(diagnosis(), course(update_ratio=0.3, lr=0.03), UNKNOWN)
    assert planned is None
    excess = grounds(diagnosis(), course(update_ratio=0.3, lr=0.03, lr_excess=math.log(30)), UNKNOWN)
    assert excess is not None
    assert excess.reason.startswith("update_ratio shows 30 times the size")


def test_size_of_updates_is_no_reading_where_too_few_steps_show_what_is_usual() -> None:
    few = [*(report(step) for step in range(ONSET - 4, ONSET)), report(ONSET, update_ratio=0.3)]
    assert grounds(diagnosis(), few, UNKNOWN) is None
    assert grounds(diagnosis(), [report(ONSET - 5), *few], UNKNOWN) is not None


def plateau(steps: int, grad_norm: float) -> list[StepReport]:
    """Usual steps, then some whose updates shrink by their momentum, and one whose gradient is back."""
    usual = [report(step - steps) for step in range(1, ONSET)]
    shrinking = [
        report(ONSET - 1 - steps + k, update_ratio=0.01 * 0.9**k, grad_norm=grad_norm) for k in range(1, steps + 1)
    ]
    return [*usual, *shrinking, report(ONSET, update_ratio=0.006)]


@pytest.mark.parametrize("steps", [30, 45, 60, 200])
@pytest.mark.parametrize("grad_norm", [0.0, 1e-6, 0.09])
@pytest.mark.parametrize("is_resumed", [False, True])
def test_gradient_that_comes_back_after_a_plateau_is_no_reading(steps: int, grad_norm: float, is_resumed: bool) -> None:
    reports = plateau(steps, grad_norm)[-12 if is_resumed else 0 :]
    assert reports[-1].values[INDEX["update_ratio"]] > 10 * reports[-2].values[INDEX["update_ratio"]]
    assert grounds(diagnosis(), reports, UNKNOWN) is None


def test_explosion_after_a_plateau_is_a_reading_where_the_usual_updates_are_remembered() -> None:
    reports = [*plateau(45, 0.0)[:-1], report(ONSET, update_ratio=0.3)]
    ground = grounds(diagnosis(), reports, UNKNOWN)
    assert ground is not None
    assert ground.reason.startswith("update_ratio shows 30 times the size")
    unknown = report(ONSET, update_ratio=0.3, grad_norm=math.nan)
    assert grounds(diagnosis(), [*reports[:-1], unknown], UNKNOWN) is None


def test_update_is_held_against_the_largest_comparable_one() -> None:
    reports = [report(step, update_ratio=0.05 if step == 2 else 0.01) for step in range(1, ONSET)]
    assert grounds(diagnosis(), [*reports, report(ONSET, update_ratio=0.29)], UNKNOWN) is None
    assert grounds(diagnosis(), [*reports, report(ONSET, update_ratio=0.31)], UNKNOWN) is not None


def test_reading_from_before_the_fault_is_none_of_it() -> None:
    earlier = [report(5, kl_ref=500.0), *course()[5:]]
    assert grounds(diagnosis(), earlier, UNKNOWN) is None


@pytest.mark.parametrize(
    ("vetoes", "held_out", "is_ground"), [(1.0, STANDS, False), (0.0, STANDS, True), (1.0, UNKNOWN, True)]
)
def test_values_that_nothing_has_learnt_from_show_no_damage_where_accuracy_stands(
    vetoes: float, held_out: HeldOut, is_ground: bool
) -> None:
    nan = Symptom("finite", "loss", Evidence.IDENTITY, True, 1, math.nan, 0.0, math.inf, ONSET, ONSET, "loss is nan")
    found = grounds(diagnosis(nan), course(loss=math.nan, vetoes=vetoes), held_out, ["loss"])
    assert (found is not None) is is_ground
