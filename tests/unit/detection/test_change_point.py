"""A run against its own past: trends that no healthy run takes, and the life of an alarm."""

from __future__ import annotations

import numpy as np
import pytest

from rftfm_ray.detection.detectors.change_point import USUAL, ColdSignal
from rftfm_ray.detection.statistics.change_points import Floats, level_at
from rftfm_ray.detection.statistics.trends import LASTING, Alarm, Kind, trends_of
from rftfm_ray.signals.groups import WATCHED
from tests.unit.doubles import recorded_runs

STEPS: Floats = np.arange(200, dtype=np.float64)


def noisy(levels: Floats, spread: float, seed: int = 0) -> Floats:
    """Levels with unit noise of a spread on them."""
    return levels + spread * np.random.default_rng(seed).standard_normal(len(levels))


def alarms(name: str, values: Floats) -> list[Alarm]:
    """All alarms of a signal, those that are over first."""
    watch = ColdSignal(name)
    return [*watch.add(values), *watch.standing]


def wrong(name: str, values: Floats) -> list[int]:
    """Places at which a trend says that something is wrong."""
    found = []
    for trend in trends_of(name):
        found += [place for place, value in enumerate(values.tolist()) if trend.add(value) is not None]
    return sorted(found)


def test_a_kl_that_explodes_is_no_kl_that_grows() -> None:
    exploding = 0.02 * np.exp(np.maximum(STEPS - 100, 0) / 5)
    (alarm,) = [alarm for alarm in alarms("kl_ref", exploding[:130]) if alarm.kind == Kind.BLOW_UP]
    assert 100 <= alarm.first <= 112
    assert alarm.raised <= 125
    shapes: list[Floats] = [0.3 * (1 - np.exp(-STEPS / 10)), 0.004 * STEPS, np.zeros(200), 2 - 2 * np.exp(-STEPS / 40)]
    for shape in shapes:
        assert wrong("kl_ref", noisy(shape, 0.002)) == []


def test_a_kl_with_a_wild_step_at_the_end_of_others_is_none_that_explodes() -> None:
    # As converged runs have it: the level doubles twice in fifteen steps, and then comes one rare token.
    values = np.array([0.05] * 50 + [0.1] * 5 + [0.2] * 4 + [6.6] + [0.1] * 20)
    assert wrong("kl_ref", values) == []


def test_an_entropy_that_collapses_is_none_that_converges() -> None:
    collapsing = np.exp(-((np.maximum(STEPS - 100, 0) / 12) ** 2))
    (alarm,) = [alarm for alarm in alarms("entropy", collapsing) if alarm.kind == Kind.COLLAPSE]
    assert 100 <= alarm.first <= 115
    assert alarm.last == 199
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
    (alarm,) = [alarm for alarm in alarms("tool_error_rate", rates) if alarm.kind == Kind.RATE]
    assert (alarm.first, alarm.raised) == (50, 53)
    assert 69 <= alarm.last <= 73
    assert wrong("tool_error_rate", np.where(STEPS == 50, 1.0, 0.02)) == []


def test_an_alarm_stands_until_its_signal_is_back() -> None:
    values = noisy(np.where((STEPS >= 80) & (STEPS < 120), 9.0, 5.0), 0.1)
    watch = ColdSignal("length_mean")
    assert watch.add(values[:82]) == []
    assert not watch.standing
    assert watch.add(values[82:110]) == []
    (standing,) = watch.standing
    assert (standing.kind, standing.first, standing.last) == (Kind.JUMP, 80, 109)
    (over,) = watch.add(values[110:])
    assert (over.first, over.last) == (80, 119)
    # The way back is no fault of its own.
    assert not watch.standing


def test_what_stays_becomes_usual_and_a_later_jump_is_another_alarm() -> None:
    steps = np.arange(80.0 + 2 * USUAL)
    values = noisy(np.where(steps >= 80, 9.0, 5.0) + np.where(steps >= 130, 6.0, 0.0), 0.1)
    first, second = alarms("length_mean", values)
    assert (first.first, first.last) == (80, 129)
    assert (second.first, second.last) == (130, 130 + USUAL)


def test_values_one_by_one_give_the_same_alarms() -> None:
    values = noisy(np.where((STEPS >= 60) & (STEPS < 90), 2.0, 1.0), 0.05)
    watch, found = ColdSignal("entropy"), list[Alarm]()
    for value in values:
        found += watch.add(np.array([value]))
    assert [*found, *watch.standing] == alarms("entropy", values) != []


def test_healthy_runs_of_the_real_stack_are_left_alone() -> None:
    found = {}
    for run in list(recorded_runs(10))[::3]:
        for name in WATCHED:
            values = run.signal(name)
            raised = alarms(name, values[np.isfinite(values)])
            if raised:
                found[run.entry.name, name] = raised
    assert len(found) <= 1, found
    assert level_at(39) < 4.5
