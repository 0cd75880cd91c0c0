"""Every detector beside its healthy twin: what must be found, and what looks like it and must not be."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean

import numpy as np
import pytest

from rftfm_ray.detection.detectors.base import Detector
from rftfm_ray.detection.detectors.blow_up import BlowUpDetector
from rftfm_ray.detection.detectors.exact import DeclaredRateDetector, FiniteDetector
from rftfm_ray.detection.detectors.probe import ProbeDetector, probe_drop
from rftfm_ray.detection.detectors.rates import RateDetector
from rftfm_ray.detection.detectors.shift import ShiftDetector
from rftfm_ray.detection.detectors.updates import UpdateSizeDetector
from rftfm_ray.detection.suite import NOTICE_NATS, WatchSettings, battery
from rftfm_ray.verdicts import Evidence, StepReport, Symptom

Make = Callable[..., StepReport]
Play = Callable[..., Mapping[int, Sequence[Symptom]]]

THRESHOLD = math.log(10_000)
ROUGH = np.random.default_rng(21).standard_normal(400)


@pytest.fixture
def shipped(watch_settings: WatchSettings) -> Mapping[str, Detector]:
    """The battery as it is shipped, by name."""
    return {detector.name: detector for detector in battery(watch_settings)}


def _alarm(found: Mapping[int, Sequence[Symptom]], step: int, signal: str, direction: int, onset: int) -> Symptom:
    """The first symptom, which is an alarm at `step` as described."""
    assert min(found, default=None) == step
    symptom = found[step][0]
    assert (symptom.signal, symptom.direction, symptom.onset, symptom.alarm) == (signal, direction, onset, True)
    assert symptom.onset_low <= symptom.onset
    return symptom


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["loss", "grad_norm", "kl_ref", "entropy", "reward_mean"])
def test_value_that_is_not_finite_is_an_identity(play: Play, name: str, wrong: float) -> None:
    found = play(FiniteDetector(), **{name: [0.5, 0.5, wrong, 0.5]})
    symptom = _alarm(found, 3, name, 1, 3)
    assert symptom.evidence is Evidence.IDENTITY
    assert symptom.reason == f"{name} is {wrong} at step 3"
    assert list(found) == [3], "a finite value ends it"
    assert len(found[3]) == 1


@pytest.mark.parametrize("share", [0.0, math.nan])
def test_empty_batch_has_no_loss_and_is_no_fault_of_the_numbers(play: Play, share: float) -> None:
    nothing = {name: [math.nan] for name in ("loss", "grad_norm", "kl_ref", "entropy", "reward_mean")}
    assert not play(FiniteDetector(), valid_rate=[share], **nothing)
    assert len(play(FiniteDetector(), valid_rate=[0.01], **nothing)[1]) == 5


@pytest.mark.parametrize(("times", "direction"), [(30.0, 1), (0.5, -1), (1.00001, 1)])
def test_rate_that_nobody_called_for_is_an_identity(play: Play, times: float, direction: int) -> None:
    excess = math.log(times)
    found = play(DeclaredRateDetector(), lr_excess=[0.0, excess, excess, 0.0, excess], lr=[1e-4 * times] * 5)
    symptom = _alarm(found, 2, "lr_excess", direction, 2)
    assert symptom.evidence is Evidence.IDENTITY
    assert symptom.reason == f"the learning rate is {1e-4 * times:.3g}, {times:.3g} times the one called for"
    assert {step: symptoms[0].onset for step, symptoms in found.items()} == {2: 2, 3: 2, 5: 5}


def test_rate_that_follows_its_schedule_is_none(play: Play) -> None:
    rates = [1e-4 * min(1.0, step / 10) for step in range(1, 60)]
    assert not play(DeclaredRateDetector(), lr=rates, lr_excess=[1e-8, -1e-8, math.nan] + [0.0] * 56)


@pytest.mark.parametrize(("error", "direction"), [(0.8, 1), (-0.3, -1)])
def test_spiked_reward_channel_is_found(
    play: Play, shipped: Mapping[str, Detector], error: float, direction: int
) -> None:
    mismatch, errors = [0.0] * 14 + [7 / 32] * 3, [0.0] * 14 + [error] * 3
    found = play(shipped["rate:trained_mismatch_rate"], trained_mismatch_rate=mismatch, regrade_error_mean=errors)
    symptom = _alarm(found, 15, "trained_mismatch_rate", 1, 15)
    assert symptom.evidence is Evidence.CHANNEL
    assert symptom.reason == "trained_mismatch_rate is 0.219 of 32, where 0.001 is usual"
    beside = found[15][1]
    assert (beside.signal, beside.direction, beside.alarm) == ("regrade_error_mean", direction, False)
    assert beside.reason == f"regrade_error_mean is {error:+.3g}"


def test_honest_reward_channel_with_its_noise_is_none(play: Play, shipped: Mapping[str, Detector]) -> None:
    rng = np.random.default_rng(22)
    for _ in range(10):
        rates = (rng.binomial(32, 0.001, 1000) / 32).tolist()
        assert max(rates) > 0
        assert not play(shipped["rate:trained_mismatch_rate"], trained_mismatch_rate=rates)


def test_evidence_of_a_rare_mismatch_adds_up(play: Play, shipped: Mapping[str, Detector]) -> None:
    rates = [0.0] * 10 + [2 / 32] * 5
    found = play(shipped["rate:trained_mismatch_rate"], trained_mismatch_rate=rates)
    assert _alarm(found, 12, "trained_mismatch_rate", 1, 11).score > THRESHOLD
    assert len(found[12]) == 1, "an error of nought tells nothing apart"


def test_tool_that_is_down_is_found_and_recovers(play: Play, shipped: Mapping[str, Detector]) -> None:
    rates = [0.01] * 9 + [0.8] * 4 + [0.0] * 10
    found = play(shipped["rate:tool_error_rate"], tool_error_rate=rates)
    symptom = _alarm(found, 10, "tool_error_rate", 1, 10)
    assert symptom.evidence is Evidence.TELEMETRY
    assert symptom.reason == "tool_error_rate is 0.8 of 100, where 0.02 is usual"
    assert list(found) == [10, 11, 12, 13, 14]


def test_calls_of_one_trajectory_count_half(make_report: Make, shipped: Mapping[str, Detector]) -> None:
    detector = shipped["rate:tool_error_rate"]
    (symptom,) = detector.observe(make_report(1, tool_error_rate=0.12, tool_call_count=200.0))
    assert symptom.score == pytest.approx(100 * (0.12 * math.log(0.15 / 0.02) + 0.88 * math.log(0.85 / 0.98)))


def test_malformed_calls_of_the_policy_are_not_the_tools_fault(play: Play, shipped: Mapping[str, Detector]) -> None:
    unparsable = [0.0] * 10 + [min(0.9, 0.05 * step) for step in range(40)]
    for name in ("rate:tool_error_rate", "rate:trained_mismatch_rate", "finite", "update_size"):
        assert not play(shipped[name], tool_unparsable_rate=unparsable, tool_error_rate=[0.0] * 50)


def test_few_calls_say_little(play: Play, shipped: Mapping[str, Detector]) -> None:
    assert not play(shipped["rate:tool_error_rate"], tool_error_rate=[1.0] * 4, tool_call_count=[2.0] * 4)
    assert play(shipped["rate:tool_error_rate"], tool_error_rate=[1.0] * 1, tool_call_count=[2.0] * 1)


def test_step_without_a_call_changes_nothing(play: Play, shipped: Mapping[str, Detector]) -> None:
    detector = shipped["rate:tool_error_rate"]
    assert not play(detector, tool_error_rate=[math.nan] * 50, tool_call_count=[0.0] * 50)
    found = play(detector, 51, tool_error_rate=[1.0, math.nan, 0.0], tool_call_count=[90.0, 0.0, math.nan])
    assert list(found) == [51, 52, 53], "silence is no recovery"


def _update_size() -> UpdateSizeDetector:
    return UpdateSizeDetector(THRESHOLD, 5)


@pytest.mark.parametrize("times", [4.0, 30.0, 1e6])
def test_update_that_is_too_large_is_found_at_once(play: Play, times: float) -> None:
    sizes = [9e-3, 5e-3] + [1e-3] * 18 + [1e-3 * times] * 8
    found = play(_update_size(), update_ratio=sizes)
    symptom = _alarm(found, 21, "update_ratio", 1, 21)
    assert (symptom.evidence, symptom.reference) == (Evidence.TELEMETRY, 1e-3)
    assert symptom.reason == f"updates are {times:.3g} times as large as the largest of before step 21"
    assert list(found) == list(range(21, 29)), "what is too large does not become the usual"


def test_first_updates_are_no_reference(play: Play) -> None:
    assert play(_update_size(), update_ratio=[9e-3] * 5 + [1e-3] * 15 + [4e-3] * 2)


def test_somewhat_larger_updates_add_up_and_one_of_them_is_none(play: Play) -> None:
    larger = [2.8e-3] * 3
    assert not play(_update_size(), update_ratio=([1e-3] * 20 + larger[:1]) * 3 + [1e-3] * 5)
    _alarm(play(_update_size(), update_ratio=[1e-3] * 20 + larger), 22, "update_ratio", 1, 21)


def test_one_update_far_too_large_is_over_soon(play: Play) -> None:
    found = play(_update_size(), update_ratio=[1e-3] * 20 + [1.0] + [1e-3] * 20)
    assert list(found) == [21]
    assert not play(_update_size(), update_ratio=[1e-3] * 20 + [2e-3] * 3 + [1e-3, 3e-3])


def _converged() -> list[float]:
    """Slow decay, then dips to a tenth that come back to a seventh beyond the old size, with noise of a tenth."""
    path = [3e-3 * 0.97**step + 1e-3 for step in range(100)]
    path += [1e-4] * 30 + [1e-3] * 20 + [1e-4 * 1.08**step for step in range(30)] + [1.1e-3] * 20
    return [size * math.exp(0.07 * rough) for size, rough in zip(path, ROUGH, strict=False)]


def test_decay_and_dips_of_a_converged_run_are_none(play: Play) -> None:
    assert not play(_update_size(), update_ratio=_converged())
    assert play(_update_size(), update_ratio=[*_converged(), *[4e-3] * 2])


def test_rate_that_a_schedule_raises_is_none(play: Play) -> None:
    for factors in ([step / 31 for step in range(1, 31)] + [1.0] * 20, [0.1] * 30 + [1.0] * 20):
        sizes = [1e-3 * factor for factor in factors]
        assert not play(_update_size(), update_ratio=sizes, schedule_factor=factors)
    assert play(_update_size(), update_ratio=sizes, schedule_factor=[1.0] * 50)


def test_factor_that_a_fault_has_made_shows(play: Play) -> None:
    factors = [1.0] * 20 + [30.0] * 3
    sizes = [1e-3 * factor for factor in factors]
    excess = [math.log(factor) for factor in factors]
    found = play(_update_size(), update_ratio=sizes, schedule_factor=factors, schedule_excess=excess)
    _alarm(found, 21, "update_ratio", 1, 21)


def test_lever_that_lowers_the_rate_and_gives_it_back_is_none(play: Play) -> None:
    sizes = [1e-3] * 20 + [3e-5] * 20 + [1e-4] * 10 + [3e-4] * 10 + [1e-3] * 20
    assert not play(_update_size(), update_ratio=sizes)


@pytest.mark.parametrize("gap", [0.0, math.nan])
def test_step_without_an_update_says_nothing(play: Play, gap: float) -> None:
    assert not play(_update_size(), update_ratio=[1e-3, gap] * 30)
    assert not play(_update_size(), update_ratio=[1e-3] * 60, schedule_factor=[1.0, gap] * 30)


def _shift(*sides: int, signal: str = "reward_mean", threshold: float = THRESHOLD) -> ShiftDetector:
    return ShiftDetector(signal, sides, alarm=True, threshold=threshold, warmup=5)


def _noise(sd: float, size: int = 60) -> list[float]:
    return [float(0.5 + sd * rough) for rough in ROUGH[:size]]


@pytest.mark.parametrize(("side", "way"), [(1, "above"), (-1, "below")])
def test_shift_is_found_on_its_side_only(play: Play, side: int, way: str) -> None:
    values = [*_noise(0.02, 30), *[0.5 + side * 0.3] * 5]
    found = play(_shift(1, -1), reward_mean=values)
    symptom = _alarm(found, 32, "reward_mean", side, 31)
    assert symptom.evidence is Evidence.TELEMETRY
    assert symptom.reference == pytest.approx(0.5, abs=0.01)
    usual = f"{symptom.reference:.3g} of before step 31"
    assert symptom.reason == f"reward_mean is {0.5 + side * 0.3:.3g}, far {way} its {usual}"
    assert all(len(symptoms) == 1 for symptoms in found.values())
    assert not play(_shift(-side), reward_mean=values)


def test_ratio_is_compared_by_its_logarithm(play: Play) -> None:
    for scale in (1.0, 1e4):
        norms = [scale * math.exp(0.1 * rough) for rough in ROUGH[:30]]
        assert play(_shift(1, signal="grad_norm"), grad_norm=[*norms, *[6 * scale] * 3])
        assert not play(_shift(1, signal="grad_norm"), grad_norm=norms)


@pytest.mark.parametrize("slope", [0.002, -0.002])
def test_slow_trend_is_none(play: Play, slope: float) -> None:
    climb = [0.5 + slope * step + 0.005 * float(rough) for step, rough in enumerate(ROUGH[:200])]
    assert not play(_shift(1, -1), reward_mean=climb)


@pytest.mark.parametrize("height", [0.3, 100.0, 1e9, -1e9])
def test_blip_of_one_step_is_none_whatever_its_size(play: Play, height: float) -> None:
    values = [*_noise(0.02, 30), 0.5 + height, *_noise(0.02, 30)]
    assert not play(_shift(1, -1), reward_mean=values)


def test_what_is_shifted_does_not_become_the_usual(play: Play) -> None:
    found = play(_shift(1, -1), reward_mean=[*_noise(0.02, 30), *[0.9] * 200, *_noise(0.02, 20)])
    assert set(range(32, 231)) <= set(found), "it stands as long as it lasts"
    assert max(found) <= 233, "and no longer"


def test_gap_keeps_what_stands(play: Play) -> None:
    found = play(_shift(1), reward_mean=[*_noise(0.02, 30), 0.9, 0.9, math.nan, math.nan])
    assert list(found) == [32, 33, 34]


def test_notices_of_the_battery_open_nothing(play: Play, shipped: Mapping[str, Detector]) -> None:
    found = play(shipped["shift:truncated_rate"], truncated_rate=[0.0] * 20 + [0.5] * 3)
    assert found
    assert not any(symptom.alarm for symptoms in found.values() for symptom in symptoms)


def test_notices_of_correlated_noise_come_and_go(play: Play) -> None:
    """AR(1) with 0.5, 300 steps: a notice is wrong now and then; one that never ended would be the rule."""
    rng, shares = np.random.default_rng(23), []
    for _ in range(20):
        values = [0.5]
        for rough in rng.standard_normal(299):
            values.append(0.5 + 0.5 * (values[-1] - 0.5) + 0.1 * float(rough))
        shares.append(len(play(_shift(1, -1, threshold=NOTICE_NATS), reward_mean=values)) / 300)
    assert fmean(shares) < 0.3


def test_drop_of_held_out_accuracy_is_found_and_dated_after_the_best(play: Play) -> None:
    gap = math.nan
    found = play(ProbeDetector(256), probe_accuracy=[0.5, gap, 0.8, gap, 0.78, gap, 0.5, gap, 0.75, gap])
    symptom = _alarm(found, 7, "probe_accuracy", -1, 4)
    assert (symptom.evidence, symptom.onset_low, symptom.reference) == (Evidence.CHANNEL, 3, 0.8)
    assert symptom.reason == "held-out accuracy is 0.500, and was 0.800 at step 3"
    assert symptom.score == pytest.approx(probe_drop(0.8, 0.5, 256) ** 2 / 2)
    assert list(found) == [7, 8], "it stands until the next probe, which ends it"


def test_rise_and_binomial_noise_of_probes_are_none(play: Play) -> None:
    rng = np.random.default_rng(24)
    assert not play(ProbeDetector(256), probe_accuracy=(rng.binomial(256, 0.6, 40) / 256).tolist())
    assert not play(ProbeDetector(256), probe_accuracy=[step / 20 for step in range(21)])


def test_small_probes_say_less() -> None:
    assert probe_drop(0.8, 0.5, 256) == pytest.approx(0.3 / math.sqrt(2 * 0.65 * 0.35 / 256))
    assert probe_drop(0.8, 0.5, 64) == pytest.approx(probe_drop(0.8, 0.5, 256) / 2)
    assert probe_drop(0.5, 0.8, 256) < 0
    assert probe_drop(1.0, 1.0, 256) == 0.0


@pytest.mark.parametrize(
    ("detector", "signal", "usual", "changed"),
    [
        (_shift(1, -1), "reward_mean", [*_noise(0.02, 30), 0.9, 0.9], [0.4 + x for x in _noise(0.02, 30)]),
        (_update_size(), "update_ratio", [1e-3] * 20 + [9e-3] * 2, [9e-3] * 30),
        (BlowUpDetector("kl_ref", 0.5, 3.0), "kl_ref", [0.1] * 20 + [2.0] * 2, [0.2] * 30),
        (ProbeDetector(256), "probe_accuracy", [0.9, 0.5], [0.5] * 4),
    ],
    ids=["shift", "update_size", "blow_up", "probe"],
)
def test_declared_change_clears_what_depends_on_its_signals(
    play: Play, detector: Detector, signal: str, usual: list[float], changed: list[float]
) -> None:
    assert play(detector, **{signal: usual})
    detector.forget(["lr", "length_mean"], len(usual) + 1)
    assert play(detector, len(usual), **{signal: usual[-1:]}), "what does not depend on it stands"
    detector.forget(["lr", signal], len(usual) + 1)
    assert not play(detector, len(usual) + 1, **{signal: changed})
    first = len(usual) + len(changed) + 1
    assert play(detector, first, **{signal: [*[changed[-1]] * 20, *_after(signal, changed[-1])]}), "it judges on"


def _after(signal: str, level: float) -> list[float]:
    return [0.0, 0.0] if signal == "probe_accuracy" else [20 * level] * 2


def test_identities_and_fixed_shares_stay_armed(play: Play, shipped: Mapping[str, Detector]) -> None:
    cases = {
        "finite": {"loss": math.nan},
        "declared_rate": {"lr_excess": 1.0},
        "rate:trained_mismatch_rate": {"trained_mismatch_rate": 1.0},
        "rate:tool_error_rate": {"tool_error_rate": 1.0},
    }
    for name, values in cases.items():
        shipped[name].forget(list(values), 1)
        assert list(play(shipped[name], **{signal: [value] for signal, value in values.items()})) == [1]
        shipped[name].forget(list(values), 2)
        assert list(play(shipped[name], 2, **{signal: [value] for signal, value in values.items()})) == [2]


def test_usual_share_of_mismatches_is_the_settings(play: Play) -> None:
    strict = WatchSettings(5, 10_000, 0.001, 256, 5, 4)
    loose = WatchSettings(5, 10_000, 0.04, 256, 5, 4)
    mismatch = {"trained_mismatch_rate": [1 / 32] * 40}
    found = [next(d for d in battery(s) if isinstance(d, RateDetector)) for s in (strict, loose)]
    assert play(found[0], **mismatch)
    assert not play(found[1], **mismatch)
