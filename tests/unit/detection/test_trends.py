"""Courses that no healthy run takes, by themselves and as detectors: what is found, since when, and what is not."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rftfm_ray.detection.detectors.trend import CERTAIN, TrendDetector, trend_detectors
from rftfm_ray.detection.statistics.change_points import Floats
from rftfm_ray.detection.statistics.trends import BLOCK, LASTING, TrendKind, Unbearable, trends_of
from rftfm_ray.signals.schema import INDEX
from rftfm_ray.verdicts import Evidence, Symptom
from tests.detecting import Watched

STEPS: Floats = np.arange(200, dtype=np.float64)


def noisy(levels: Floats, spread: float, seed: int = 0) -> Floats:
    """Levels with unit noise of a spread on them."""
    return levels + spread * np.random.default_rng(seed).standard_normal(len(levels))


def wrong(name: str, values: Floats) -> list[int]:
    """Positions at which a trend says that something is wrong."""
    positions = []
    for trend in trends_of(name):
        positions += [place for place, value in enumerate(values.tolist()) if trend.add(value) is not None]
    return sorted(positions)


def detector_of(course: TrendKind, signal: str) -> TrendDetector:
    """A fresh one as it is shipped."""
    return fresh(f"trend:{course}:{signal}")


NAMES = [detector.name for detector in trend_detectors()]


def fresh(name: str) -> TrendDetector:
    """The detector of a name without a past."""
    return next(each for each in trend_detectors() if each.name == name)


def shown(course: TrendKind, signal: str, values: Floats) -> dict[int, Symptom]:
    """The symptom of each step that has one."""
    symptoms = Watched(detector_of(course, signal)).show(**{signal: values.tolist()})
    return {step: each[0] for step, each in symptoms.items()}


def test_every_course_of_every_signal_has_a_detector() -> None:
    names = [detector.name for detector in trend_detectors()]
    assert len(set(names)) == len(names)
    assert set(names) == {f"trend:{trend.kind}:{signal}" for signal in INDEX for trend in trends_of(signal)}
    assert {name.split(":")[1] for name in names} == set(TrendKind)


def test_a_kl_that_explodes_is_told_from_one_that_grows() -> None:
    exploding = 0.02 * np.exp(np.maximum(STEPS - 100, 0) / 5)
    symptoms = shown(TrendKind.BLOW_UP, "kl_ref", exploding[:130])
    first = min(symptoms)
    # Positions from 0 are steps from 1.
    assert first <= 126
    symptom = symptoms[first]
    assert 101 <= symptom.onset <= 113
    assert {one.onset for one in symptoms.values()} == {symptom.onset}
    assert (symptom.signal, symptom.direction, symptom.alarm) == ("kl_ref", 1, True)
    assert (symptom.evidence, symptom.score) == (Evidence.TELEMETRY, CERTAIN)
    assert symptom.reason == f"kl_ref grows exponentially ({exploding[first - 1]:.3g} now)"
    shapes: list[Floats] = [0.3 * (1 - np.exp(-STEPS / 10)), 0.004 * STEPS, np.zeros(200), 2 - 2 * np.exp(-STEPS / 40)]
    for shape in shapes:
        assert wrong("kl_ref", noisy(shape, 0.002)) == []


def test_a_kl_with_a_wild_step_at_the_end_of_others_does_not_explode() -> None:
    # As converged runs have it: the level doubles twice in fifteen steps, and then comes one rare token.
    values = np.array([0.05] * 50 + [0.1] * 5 + [0.2] * 4 + [6.6] + [0.1] * 20)
    assert wrong("kl_ref", values) == []


def test_an_entropy_that_collapses_is_told_from_one_that_converges() -> None:
    symptoms = shown(TrendKind.COLLAPSE, "entropy", np.exp(-((np.maximum(STEPS - 100, 0) / 12) ** 2)))
    assert max(symptoms) == 200
    symptom = symptoms[min(symptoms)]
    assert 101 <= symptom.onset <= 116
    assert (symptom.direction, symptom.reason.split(" (")[0]) == (-1, "entropy falls ever faster, to next to nothing")
    for tau in (5, 20, 60):
        assert wrong("entropy", np.maximum(noisy(np.exp(-STEPS / tau) + 0.02, 0.002), 0)) == []


@pytest.mark.parametrize("scale", [0.01, 1.0, 1000.0])
def test_a_reward_that_is_lost_again_is_seen_on_any_scale(scale: float) -> None:
    learnt = 0.2 + 0.6 / (1 + np.exp(-(STEPS - 50) / 10))
    assert wrong("reward_mean", scale * noisy(learnt, 0.02)) == []
    found = wrong("reward_mean", scale * noisy(learnt * np.exp(-np.maximum(STEPS - 120, 0) / 20), 0.02))
    assert 120 + LASTING < found[0] < 150
    # One that comes back has not been lost.
    dip = learnt - 0.4 * ((STEPS >= 120) & (STEPS < 124))
    assert wrong("reward_mean", scale * noisy(dip, 0.02)) == []


def test_a_share_of_failures_is_borne_for_a_moment_only() -> None:
    rates = np.where((STEPS >= 50) & (STEPS < 70), 0.8, 0.02)
    symptoms = shown(TrendKind.UNBEARABLE, "tool_error_rate", rates)
    assert min(symptoms) == 54
    assert {symptom.onset for symptom in symptoms.values()} == {51}
    assert 70 <= max(symptoms) <= 74
    assert wrong("tool_error_rate", np.where(STEPS == 50, 1.0, 0.02)) == []


def test_a_mean_that_is_rounded_up_to_the_limit_counts_from_its_oldest_value() -> None:
    rates = [math.nextafter(0.9, 0.0)] * 7
    assert sum(rates[:BLOCK]) / BLOCK == 0.9
    trend = Unbearable(0.9)
    assert [trend.add(rate) for rate in rates] == [None, None, None, None, 4, 5, 6]


def test_gaps_are_left_out_and_keep_what_is_open() -> None:
    rates = [0.02] * 10 + [0.8, math.nan] * BLOCK + [math.nan, 0.0, 0.0]
    symptoms = shown(TrendKind.UNBEARABLE, "tool_error_rate", np.array(rates))
    # Three values of five carry the mean; the next ones, and the gaps between and after them, are the same alarm.
    assert list(symptoms) == [17, 18, 19, 20, 21, 22]
    assert {symptom.onset for symptom in symptoms.values()} == {11}


@pytest.mark.parametrize("name", NAMES)
def test_declared_change_and_remedy_begin_a_new_course(name: str) -> None:
    (output,) = fresh(name).outputs
    fault = {
        TrendKind.BLOW_UP: (0.02 * np.exp(np.maximum(STEPS - 100, 0) / 5))[:140],
        TrendKind.COLLAPSE: np.exp(-((np.maximum(STEPS - 100, 0) / 12) ** 2))[:160],
        TrendKind.DECLINE: noisy(np.where(STEPS < 120, 0.8, 0.8 * np.exp(-(STEPS - 120) / 20)), 0.02)[:180],
        TrendKind.UNBEARABLE: np.full(40, 1.0),
    }[TrendKind(name.split(":")[1])]
    values, end = {output.signal: fault.tolist()}, len(fault)
    for asked in ("forget", "settle"):
        watched = Watched(fresh(name))
        before = watched.show(**values)
        assert max(before) == end, "it is open"
        _ask(watched, asked, ["lr"], end + 1)
        assert watched.show(end + 1, **{output.signal: [math.nan]}), "what does not depend on it stays open"
        _ask(watched, asked, ["lr", output.signal], end + 2)
        assert not watched.show(end + 2, **{output.signal: [math.nan]})
        again = watched.show(end + 3, **values)
        assert {step - end - 2 for step in again} == set(before), "the same course is found as by a fresh one"
        assert {one.onset - end - 2 for each in again.values() for one in each} == {
            one.onset for each in before.values() for one in each
        }


def _ask(watched: Watched, asked: str, signals: list[str], step: int) -> None:
    if asked == "forget":
        watched.forget(signals, step)
    else:
        watched.settle(signals)


@pytest.mark.parametrize("wild", [1e308, -1e308, 0.0, 5e-324, math.inf])
@pytest.mark.parametrize("name", NAMES)
def test_no_values_make_it_raise(name: str, wild: float) -> None:
    detector = fresh(name)
    (output,) = detector.outputs
    rows = [0.5] * 20 + [wild] * 30 + [0.5, wild] * 30 + [wild, -wild] * 30 + [0.5] * 200
    symptoms = Watched(detector).show(**{output.signal: rows})
    assert all(one.onset <= step for step, each in symptoms.items() for one in each)
