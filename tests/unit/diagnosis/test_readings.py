"""What is read beside symptoms: where the reward channel errs, what was never computed, and a noisy verifier."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from rftfm_ray.detection.observed import Observation
from rftfm_ray.detection.reference.residuals import COLUMNS
from rftfm_ray.diagnosis.classify import diagnose
from rftfm_ray.diagnosis.features import FIGURES, SINCE_ONSET
from rftfm_ray.diagnosis.readings import WINDOW, Readings
from rftfm_ray.taxonomy import NUMERICAL, UNKNOWN
from rftfm_ray.verdicts import Evidence, StepReport, Symptom
from tests.unit.diagnosis.scripted import alarm

Make = Callable[..., StepReport]


@pytest.fixture
def read(make_report: Make) -> Callable[..., Readings]:
    """Readings of steps with some values, one step for each mapping."""

    def readings(*steps: dict[str, float], first: int = 1) -> Readings:
        result = Readings()
        for step, values in enumerate(steps, first):
            result.observe(Observation(make_report(step, **values), ()))
        return result

    return readings


def graded(rate: float, error: float, **more: float) -> dict[str, float]:
    """A step with 32 regraded verdicts."""
    wrong = {"regrade_mismatch_rate": rate, "trained_mismatch_rate": rate, "regrade_error_mean": error}
    return {"regrade_count": 32.0, **wrong, **more}


@pytest.mark.parametrize(
    ("values", "signals", "code"),
    [
        ({"credit_known_share": 0.0}, ("credit_error",), "CA-2"),
        ({"credit_known_share": 1.0}, ("credit_error",), "CA-3"),
        ({"credit_known_share": 0.0, "return_error": 0.4}, ("credit_error", "return_error"), "CA-3"),
        ({"return_error": 0.4}, ("return_error",), "CA-1"),
        ({"value_error": 0.4}, ("value_error",), "CA-1"),
    ],
)
def test_what_the_loss_gets_tells_faults_of_credit_apart(
    read: Callable[..., Readings], values: dict[str, float], signals: tuple[str, ...], code: str
) -> None:
    readings = read(*[{}] * 5, {**values, "credit_error": 0.5 * ("credit_error" in signals)})
    symptoms = [alarm(signal, 6, evidence=Evidence.IDENTITY) for signal in signals]
    diagnosis = diagnose(symptoms, readings)
    assert diagnosis is not None
    assert diagnosis.code == code


def test_findings_go_back_to_the_onset_and_no_further(read: Callable[..., Readings]) -> None:
    readings = read(graded(0.5, 0.1), graded(0.0, 0.0), graded(0.0, 0.0))
    assert "regrade_disagrees" in readings.findings(1)
    assert "regrade_agrees" in readings.findings(2)
    assert "regrade_disagrees" not in readings.findings(2)
    long = read(graded(0.5, 0.1), *[graded(0.0, 0.0)] * WINDOW)
    assert "regrade_disagrees" not in long.findings(1)


def followed(make_report: Make, steps: int, *, profiled: bool = False) -> Readings:
    """Readings of steps whose residuals are their number."""
    readings = Readings()
    for step in range(1, steps + 1):
        report = make_report(step, lr_excess=float(step))
        residuals = np.full(len(COLUMNS), float(step))
        readings.observe(Observation(report, (), residuals=residuals, profiled=profiled))
    return readings


def test_window_goes_back_to_the_onset_and_no_further(make_report: Make) -> None:
    for steps, onset, first in ((5, 3, 3), (5, 5, 5), (5, 9, 5), (30, 1, 30 - SINCE_ONSET + 1)):
        window = followed(make_report, steps).window(onset)
        assert window.residuals[:, 0].tolist() == list(range(first, steps + 1))
    assert len(Readings().window(1).residuals) == 1


def test_window_is_a_copy_that_later_steps_leave_as_it_is(make_report: Make) -> None:
    readings = followed(make_report, 3)
    window = readings.window(1)
    residuals, figures = window.residuals.copy(), window.figures.copy()
    readings.observe(Observation(make_report(4, lr_excess=-9.0), (), residuals=np.full(len(COLUMNS), -9.0)))
    np.testing.assert_array_equal(window.residuals, residuals)
    np.testing.assert_array_equal(window.figures, figures)
    assert readings.window(1).figures[FIGURES.index("lr_excess")] != figures[FIGURES.index("lr_excess")]


def test_window_says_what_the_newest_residuals_are_against(make_report: Make) -> None:
    readings = followed(make_report, 3, profiled=True)
    assert readings.window(1).profiled
    other = Readings()
    other.load_state_dict(readings.state_dict())
    assert other.window(1).profiled
    readings.observe(Observation(make_report(4), ()))
    assert not readings.window(1).profiled
    assert np.isnan(readings.window(4).residuals).all(), "a step without views has no residuals"


@pytest.mark.parametrize(
    ("errors", "noisy"),
    [
        ((0.1, -0.05, 0.0, 0.05), True),
        ((0.1, -0.05), False),
        # A faulty channel errs to one side, by one amount or by several.
        ((0.02, 0.02, 0.02, 0.02), False),
        ((-0.05, -0.08, -0.1, -0.06), False),
    ],
)
def test_verifier_that_errs_both_ways_from_the_start(
    read: Callable[..., Readings], errors: Sequence[float], noisy: bool
) -> None:
    assert read(*(graded(0.1, error) for error in errors)).errs_both_ways_from_start is noisy
    # What begins later is a change, and no property of the verifier.
    late = read(*[graded(0.0, 0.0)] * 5, *(graded(0.1, error) for error in errors))
    assert not late.errs_both_ways_from_start


def test_noisy_verifier_stays_noisy_until_its_errors_clearly_have_one_side(read: Callable[..., Readings]) -> None:
    noisy = [graded(0.1, error) for error in (0.1, -0.05, 0.0)]
    # The t value of the errors so far is 2.5 after four more with one side, 3.6 after six, 4.1 after seven.
    more = [graded(0.1, 0.08)] * 7
    assert read(*noisy, *more[:6]).errs_both_ways_from_start
    assert not read(*noisy, *more).errs_both_ways_from_start
    # A channel that has never been noisy is not called so for a t value between the limits.
    faulty = [graded(0.1, error) for error in (0.02, 0.05, 0.08)]
    assert not read(*faulty).errs_both_ways_from_start
    # One that errs to both sides again is noisy again.
    back = [graded(0.1, error) for error in (-0.3, 0.2, -0.2)]
    assert read(*noisy, *more, *back).errs_both_ways_from_start
    # State that is saved in between holds it.
    between, other = read(*noisy, *more[:5]), Readings()
    other.load_state_dict(between.state_dict())
    assert other.errs_both_ways_from_start


def test_a_fault_that_comes_late_need_not_outweigh_all_the_noise_before_it(read: Callable[..., Readings]) -> None:
    noisy = [graded(0.1, error) for _ in range(150) for error in (0.1, -0.1)]
    late = [graded(0.1, 0.09)] * 32
    assert read(*noisy).errs_both_ways_from_start
    # Sums over the whole run would call it noisy still, for 83 steps.
    assert not read(*noisy, *late).errs_both_ways_from_start


def test_noisy_verifier_is_not_a_fault_of_the_reward_channel(read: Callable[..., Readings]) -> None:
    mismatch = alarm("trained_mismatch_rate", 1, evidence=Evidence.CHANNEL)
    notice = replace(alarm("regrade_error_mean", 1, evidence=Evidence.CHANNEL), alarm=False)
    noisy = diagnose([mismatch, notice], read(*(graded(0.1, error) for error in (0.1, -0.05, 0.0))))
    assert noisy is not None
    assert noisy.code == UNKNOWN
    assert "The verifier is not deterministic" in noisy.summary
    assert "guard.regrade_noise" in noisy.summary
    assert "10.0%" in noisy.summary
    faulty = diagnose([mismatch, notice], read(*[graded(0.1, 0.05)] * 3))
    assert faulty is not None
    assert faulty.family == "RF"
    # Another alarm is explained by itself.
    both = diagnose([mismatch, alarm("update_ratio", 1)], read(*(graded(0.1, error) for error in (0.1, -0.05, 0.0))))
    assert both is not None
    assert both.code == "OD-1"
    assert "The verifier is not deterministic" in both.summary


NOT_COMPUTED = dict.fromkeys(("loss", "grad_norm", "kl_ref", "entropy"), math.nan)


def not_finite(*names: str) -> list[Symptom]:
    """Alarms of values that are not finite."""
    return [replace(alarm(name, 12, evidence=Evidence.IDENTITY), value=math.nan) for name in names]


@pytest.mark.parametrize("error", [0.5, math.inf])
def test_refused_update_is_named_by_what_the_gate_saw(read: Callable[..., Readings], error: float) -> None:
    # A refused update changes no weight, which is not a frozen optimizer.
    refused = {**NOT_COMPUTED, "vetoes": 1.0, "advantage_error": error, "advantage_max": 1.0, "credit_lag": 1.0}
    refused["changed_rate"] = 0.0
    seen = alarm("advantage_error", 12, evidence=Evidence.IDENTITY)
    diagnosis = diagnose([*not_finite(*NOT_COMPUTED), seen], read(refused, first=12))
    assert diagnosis is not None
    assert diagnosis.code == "CA-3"
    assert "its loss was not computed" in diagnosis.summary
    assert [symptom.signal for symptom in diagnosis.symptoms] == ["advantage_error"]


def test_update_without_anything_to_learn_from_is_not_numerical(read: Callable[..., Readings]) -> None:
    empty = {**NOT_COMPUTED, "vetoes": 1.0, "advantage_error": math.nan, "advantage_max": 0.0}
    diagnosis = diagnose(not_finite("loss", "entropy"), read(empty))
    assert diagnosis is not None
    assert diagnosis.code == UNKNOWN
    assert "its loss was not computed" in diagnosis.summary


@pytest.mark.parametrize(
    "values",
    [
        # The loss was computed and is not finite.
        {"vetoes": 1.0, "advantage_error": 1e-7, "advantage_max": 1.0},
        # The advantages are not finite.
        {"vetoes": 1.0, "advantage_error": math.nan, "advantage_max": math.nan},
        # Nothing was refused.
        {"vetoes": 0.0, "advantage_error": 0.5, "advantage_max": 1.0},
    ],
)
def test_values_that_are_not_finite_are_numerical(read: Callable[..., Readings], values: dict[str, float]) -> None:
    diagnosis = diagnose(not_finite("loss"), read({**NOT_COMPUTED, **values}))
    assert diagnosis is not None
    assert diagnosis.code == NUMERICAL
    assert "100%" not in diagnosis.summary


def test_state_is_saved_and_loaded(read: Callable[..., Readings]) -> None:
    readings, other = read(*(graded(0.1, error) for error in (0.1, -0.05, 0.0))), Readings()
    other.load_state_dict(readings.state_dict())
    assert other.findings(1) == readings.findings(1)
    assert other.errs_both_ways_from_start
    assert other.disagreement == pytest.approx(0.1)
