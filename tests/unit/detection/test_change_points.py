"""Jumps of a signal against its own past: what is found and when, what is left alone, and chunks of any size."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rftfm_ray.detection.statistics.change_points import FEWEST, FIRST, LEVEL, Floats, Jumps, JumpScores, levels_at

FLOOR = 1e-9


def level_at(place: int) -> float:
    """What a score must reach for an alarm at one place."""
    return float(levels_at(place, 1)[0])


def noise(seed: int, steps: int, phi: float = 0.0) -> Floats:
    """Unit noise of which each value keeps a share of the one before."""
    fresh = np.random.default_rng(seed).standard_normal(steps)
    found = fresh.copy()
    for step in range(1, steps):
        found[step] = phi * found[step - 1] + fresh[step] * math.sqrt(1 - phi**2)
    return found


def scored_by(levels: Floats, floor: float = FLOOR) -> JumpScores:
    """One signal, judged at once."""
    return Jumps(np.array([floor])).add(levels[:, None])


def alarms(levels: Floats) -> list[int]:
    """Places of scores that would raise one."""
    scores = scored_by(levels).score[:, 0]
    return [place for place, score in enumerate(scores.tolist()) if score >= level_at(place)]


def test_a_jump_is_found_as_soon_as_it_lasts_and_dated_to_its_first_step() -> None:
    lags = []
    for seed in range(40):
        levels = noise(seed, 100)
        levels[60:] += 10.0
        scored = scored_by(levels)
        (first, *_) = [place for place in range(100) if scored.score[place, 0] >= level_at(place)]
        lags.append(first - 60)
        assert first - scored.lag[first, 0] == 60
        assert scored.side[first, 0] == 1
        assert abs(scored.usual[first, 0]) < 4
    assert max(lags) <= 8
    assert np.median(lags) <= 3


@pytest.mark.parametrize("phi", [0.0, 0.3])
def test_noise_is_left_alone_however_long(phi: float) -> None:
    found = [seed for seed in range(60) if alarms(noise(seed, 60, phi))]
    found += [seed for seed in range(100, 103) if alarms(noise(seed, 20_000, phi))]
    assert found == []


def test_nothing_smooth_is_a_jump() -> None:
    steps = np.arange(300.0)
    shapes = {
        "line": 3 * steps,
        "learning": 40 / (1 + np.exp(-(steps - 120) / 12)),
        "fast learning": 40 / (1 + np.exp(-(steps - 60) / 3)),
        "convergence": 40 * np.exp(-steps / 8),
        "growth": np.exp(steps / 40),
        "wave": 20 * np.sin(steps / 30),
    }
    for name, shape in shapes.items():
        for seed in range(5):
            assert alarms(shape + noise(seed, 300)) == [], name
        assert alarms(shape) == [], f"{name} without noise"


def test_one_wild_step_is_none_and_hides_none() -> None:
    for seed in range(20):
        levels = noise(seed, 120)
        levels[40] += 30.0
        levels[52] -= 30.0
        assert alarms(levels) == []
        levels[56:] += 12.0
        assert alarms(levels)[0] <= 66


def test_a_signal_that_stands_still_is_judged_by_its_floor() -> None:
    levels = np.zeros(40)
    levels[20:] = 1.0
    assert scored_by(levels, 0.01).score.max() > level_at(40)
    assert scored_by(levels, 1.0).score.max() < LEVEL


def test_short_runs_say_nothing_and_long_ones_ask_for_more() -> None:
    levels = np.concatenate([np.zeros(8), np.full(FEWEST - 9, 50.0)])
    assert not scored_by(levels, 0.01).score.any()
    assert level_at(0) == level_at(FIRST - 1) == LEVEL < level_at(1000) < level_at(100_000)


@settings(max_examples=30, deadline=None)
@example(0, [66, 0, 7], 0.0)
@given(st.integers(0, 10_000), st.lists(st.integers(0, 90), min_size=1, max_size=8), st.floats(0, 15))
def test_chunks_of_any_size_give_the_same(seed: int, sizes: list[int], shift: float) -> None:
    levels = noise(seed, sum(sizes), 0.3)
    levels[len(levels) // 2 :] += shift
    # A second signal beside it changes nothing, and neither does its leaving after the first chunk.
    both, watch = np.stack([levels, noise(seed + 1, len(levels))], 1), Jumps(np.array([FLOOR, FLOOR]))
    first, *others = np.split(both, np.cumsum(sizes)[:-1])
    parts, alone = [watch.add(first)], watch.select(np.array([0]))
    parts += [alone.add(part[:, :1]) for part in others]
    whole = scored_by(levels)
    for name in ("score", "side", "lag", "usual"):
        joined = np.concatenate([getattr(part, name)[:, 0] for part in parts])
        # Bit for bit: what a chunk is rounded to would decide between two signals that are equally strange.
        np.testing.assert_array_equal(joined, getattr(whole, name)[:, 0], name)


def test_thresholds_of_many_steps_are_those_of_each() -> None:
    assert levels_at(37, 500).tolist() == [level_at(place) for place in range(37, 537)]


@pytest.mark.parametrize("cut", [1, 7, 40, 90])
def test_state_goes_on_as_the_run_would_have(cut: int) -> None:
    levels = np.stack([noise(seed, 150, 0.3) for seed in range(3)], 1)
    levels[80:] += [12.0, 0.0, -12.0]
    watch, whole = Jumps(np.full(3, FLOOR)), Jumps(np.full(3, FLOOR)).add(levels)
    watch.add(levels[:cut])
    saved, other = watch.state_dict(), Jumps(np.full(3, FLOOR))
    watch.add(levels[cut:])
    other.load_state_dict(saved)
    rest = other.add(levels[cut:])
    for name in JumpScores.__slots__:
        np.testing.assert_array_equal(getattr(rest, name), getattr(whole, name)[cut:], name)
