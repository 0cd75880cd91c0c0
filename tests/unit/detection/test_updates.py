"""Updates that are too large, and those of healthy runs that only look so."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest

from rftfm_ray.detection.detectors.updates import UpdateSizeDetector
from rftfm_ray.verdicts import Evidence, Symptom
from tests.detecting import Watched

Play = Callable[..., Mapping[int, Sequence[Symptom]]]

THRESHOLD = math.log(10_000)
ROUGH = np.random.default_rng(21).standard_normal(400)


def detector() -> UpdateSizeDetector:
    """A fresh one."""
    return UpdateSizeDetector(THRESHOLD, 5)


def assert_alarm(symptoms: Mapping[int, Sequence[Symptom]], step: int, onset: int) -> Symptom:
    """The first symptom is an alarm at `step` of updates that are too large since `onset`."""
    assert min(symptoms, default=None) == step
    (symptom,) = symptoms[step]
    assert (symptom.signal, symptom.direction, symptom.alarm) == ("update_ratio", 1, True)
    assert (symptom.onset, symptom.onset_low) == (onset, onset)
    return symptom


@pytest.mark.parametrize("times", [4.0, 30.0, 1e6])
def test_update_that_is_too_large_is_found_at_once(play: Play, times: float) -> None:
    sizes = [9e-3, 5e-3] + [1e-3] * 18 + [1e-3 * times] * 8
    symptoms = play(detector(), update_ratio=sizes)
    symptom = assert_alarm(symptoms, 21, 21)
    assert (symptom.evidence, symptom.reference) == (Evidence.TELEMETRY, 1e-3)
    assert symptom.reason == f"updates are {times:.3g} times as large as the largest before step 21"
    assert list(symptoms) == list(range(21, 29)), "what is too large does not become the usual"


def test_first_updates_are_no_reference(play: Play) -> None:
    assert play(detector(), update_ratio=[9e-3] * 5 + [1e-3] * 15 + [4e-3] * 2)


def test_somewhat_larger_updates_add_up_and_one_of_them_is_no_alarm(play: Play) -> None:
    larger = [2.8e-3] * 3
    assert not play(detector(), update_ratio=([1e-3] * 20 + larger[:1]) * 3 + [1e-3] * 5)
    assert_alarm(play(detector(), update_ratio=[1e-3] * 20 + larger), 22, 21)


def test_one_update_far_too_large_is_over_soon(play: Play) -> None:
    assert list(play(detector(), update_ratio=[1e-3] * 20 + [1.0] + [1e-3] * 20)) == [21]
    assert not play(detector(), update_ratio=[1e-3] * 20 + [2e-3] * 3 + [1e-3, 3e-3])


def converged() -> list[float]:
    """Slow decay, then dips to a tenth that come back to a seventh beyond the old size, with noise of a tenth."""
    path = [3e-3 * 0.97**step + 1e-3 for step in range(100)]
    path += [1e-4] * 30 + [1e-3] * 20 + [1e-4 * 1.08**step for step in range(30)] + [1.1e-3] * 20
    return [size * math.exp(0.07 * rough) for size, rough in zip(path, ROUGH, strict=False)]


def test_decay_and_dips_of_a_converged_run_are_left_alone(play: Play) -> None:
    assert not play(detector(), update_ratio=converged())
    assert play(detector(), update_ratio=[*converged(), *[4e-3] * 2])


def test_rate_that_a_schedule_raises_is_left_alone(play: Play) -> None:
    for factors in ([step / 31 for step in range(1, 31)] + [1.0] * 20, [0.1] * 30 + [1.0] * 20):
        sizes = [1e-3 * factor for factor in factors]
        assert not play(detector(), update_ratio=sizes, schedule_factor=factors)
    assert play(detector(), update_ratio=sizes, schedule_factor=[1.0] * 50)


def test_factor_that_a_fault_has_made_shows(play: Play) -> None:
    factors = [1.0] * 20 + [30.0] * 3
    sizes = [1e-3 * factor for factor in factors]
    excess = [math.log(factor) for factor in factors]
    symptoms = play(detector(), update_ratio=sizes, schedule_factor=factors, schedule_excess=excess)
    assert_alarm(symptoms, 21, 21)


def test_reference_is_what_the_schedule_makes_of_the_largest_update(play: Play) -> None:
    factors = [1.0] * 20 + [0.1]
    symptom = assert_alarm(play(detector(), update_ratio=[1e-3] * 20 + [6e-4], schedule_factor=factors), 21, 21)
    assert symptom.reference == pytest.approx(1e-4)
    assert symptom.reason.startswith("updates are 6 times as large")


def test_lever_that_lowers_the_rate_and_gives_it_back_is_left_alone(play: Play) -> None:
    sizes = [1e-3] * 20 + [3e-5] * 20 + [1e-4] * 10 + [3e-4] * 10 + [1e-3] * 20
    assert not play(detector(), update_ratio=sizes)


@pytest.mark.parametrize("gap", [0.0, math.nan])
def test_step_without_an_update_says_nothing(play: Play, gap: float) -> None:
    assert not play(detector(), update_ratio=[1e-3, gap] * 30)
    assert not play(detector(), update_ratio=[1e-3] * 60, schedule_factor=[1.0, gap] * 30)


def test_gap_keeps_an_alarm_with_its_reading(play: Play) -> None:
    symptoms = play(detector(), update_ratio=[1e-3] * 20 + [9e-3, math.nan, 0.0])
    assert list(symptoms) == [21, 22, 23]
    assert symptoms[23] == symptoms[22] == symptoms[21]


def test_declared_change_clears_what_depends_on_its_signals(play: Play) -> None:
    watched = Watched(detector())
    assert play(watched, update_ratio=[1e-3] * 20 + [9e-3] * 2)
    watched.forget(["lr", "length_mean"], 23)
    assert play(watched, 23, update_ratio=[9e-3]), "what does not depend on it stays open"
    watched.forget(["lr", "update_ratio"], 24)
    assert not play(watched, 24, update_ratio=[9e-3] * 30)
    assert play(watched, 54, update_ratio=[9e-3] * 20 + [0.2] * 2), "it judges on"


@pytest.mark.parametrize("size", [1e308, 5e-324, math.inf, -1e308])
@pytest.mark.parametrize("first", [1, 5, 7, 12])
def test_no_size_of_an_update_makes_it_raise_or_blinds_it(play: Play, size: float, first: int) -> None:
    sizes = [1e-3] * 30
    sizes[first - 1] = size
    watched = Watched(detector())
    play(watched, update_ratio=sizes)
    assert play(watched, 31, update_ratio=[1e308] * 3 if size < 1 else [math.inf] * 3), "it judges on"
    assert math.isfinite(watched.detector._cusum.sum)  # type: ignore[attr-defined]
