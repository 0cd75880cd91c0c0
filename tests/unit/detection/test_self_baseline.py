"""A run against its own past: noise and slow trends of any scale are no surprise, a shift is one until it is learnt."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rftfm_ray.detection.state import State
from rftfm_ray.detection.statistics.recursions import MANY
from rftfm_ray.detection.statistics.self_baseline import WARMUP, SelfBaseline
from rftfm_ray.detection.statistics.student import normal_equivalents
from rftfm_ray.errors import StateError

Floats = NDArray[np.float64]


def residuals(table: Floats, floor: float = 1e-9) -> Floats:
    """Residuals (steps, signals) of a table."""
    past = SelfBaseline(np.full(table.shape[1], floor))
    return np.stack([past.add(row) for row in table])


def noise(steps: int = 200, signals: int = 400, seed: int = 0) -> Floats:
    """Independent noise."""
    return np.random.default_rng(seed).normal(size=(steps, signals))


@pytest.mark.parametrize(
    ("scale", "offset", "slope"), [(1.0, 0.0, 0.0), (1e-6, 3.0, 0.0), (1e4, -1e5, 0.0), (1.0, 0.0, 0.05)]
)
def test_noise_of_any_scale_and_slow_trends_are_standard_normal(scale: float, offset: float, slope: float) -> None:
    table = offset + scale * (noise() + slope * np.arange(200)[:, None])
    found = residuals(table)
    assert np.isnan(found[:WARMUP]).all()
    assert np.nanstd(found) == pytest.approx(1.0, abs=0.06)
    assert np.nanmean(found[40:]) == pytest.approx(0.0, abs=0.15)
    assert np.nanmean(np.abs(found) > 4) < 1e-3


def test_early_residuals_are_not_wild_although_their_spread_is_a_guess() -> None:
    found = residuals(noise(12, 20000))[WARMUP:]
    # One in 370 is beyond three; without Student's t it would be one in twenty.
    assert (np.abs(found) > 3).mean() < 0.012


def test_shift_is_seen_at_once_and_then_learnt() -> None:
    table = noise(80)
    table[40:] += 4.0
    found = residuals(table)
    assert found[40].mean() > 2.5
    # What has been level for forty steps is held against them for a moment longer than what it has learnt says.
    assert 1.0 < found[41].mean() < found[40].mean()
    assert found[60:].mean() < 0.5


def test_what_never_moved_is_held_longer_against_its_past_than_what_has_a_trend() -> None:
    # Wanders by as much in three steps as it is noisy.
    wandering = noise(120) + np.cumsum(0.6 * noise(120, seed=1), 0)
    level = noise(120)
    for table in (wandering, level):
        table[60:] += 4.0
    moved, stood = residuals(wandering)[61:66].mean(), residuals(level)[61:66].mean()
    assert moved < 0.7 * stood


def test_a_trend_of_the_first_steps_is_followed_and_one_that_ends_is_no_shift() -> None:
    steps = np.arange(60)[:, None]
    found = residuals(noise(60, 2000) + 0.5 * np.minimum(steps, 30))
    assert abs(found[8:30].mean()) < 0.35
    # Half a spread a step that is missing from now on.
    assert found[31:].mean(1).min() > -1.2


def test_one_wild_step_changes_little() -> None:
    table = noise(80)
    calm = residuals(table)
    table[40] += 1e6
    found = residuals(table)
    assert (found[40] > 8).all()
    assert np.abs(found[50:] - calm[50:]).mean() < 0.5


def test_what_never_varies_is_judged_by_its_floor() -> None:
    table = np.ones((40, 1))
    table[30:] += 0.05
    assert residuals(table, floor=0.01)[30, 0] > 3
    assert abs(residuals(table, floor=0.1)[30, 0]) < 1


def test_gaps_say_nothing_and_a_restart_begins_anew() -> None:
    table = noise(60, 2)
    table[::3, 1] = np.nan
    found = residuals(table)
    assert np.isnan(found[::3, 1]).all()
    assert np.isfinite(found[40:, 0]).all()
    past = SelfBaseline(np.full(2, 1e-9))
    for row in table[:30]:
        past.add(row)
    past.restart(np.array([True, False]))
    after = past.add(np.array([100.0, 0.0]))
    assert np.isnan(after[0])
    assert np.isfinite(after[1])


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=1, max_size=40), st.floats(1e-6, 10))
@settings(max_examples=50)
def test_no_input_breaks_it(values: list[float], floor: float) -> None:
    with np.errstate(all="ignore"):
        found = residuals(np.array(values)[:, None], floor)
    assert found.shape == (len(values), 1)
    assert not np.isfinite(found[~np.isfinite(np.array(values))]).any()


@pytest.mark.parametrize("gaps", [False, True])
def test_chunks_give_what_single_steps_give(*, gaps: bool) -> None:
    table = noise(300, 6) + np.cumsum(0.2 * noise(300, 6, 2), 0)
    table[40, 2], table[120:, 3] = 50.0, table[120:, 3] + 5
    if gaps:
        table[::3, 1], table[60:, 4] = np.nan, np.nan
    one_by_one, past = residuals(table), SelfBaseline(np.full(6, 1e-9))
    chunks = [past.over(table[start:end]) for start, end in itertools.pairwise([0, 1, 7, 120, 121, 300])]
    np.testing.assert_array_equal(np.concatenate(chunks), one_by_one)


def test_long_chunks_are_worked_out_in_blocks_to_the_same() -> None:
    """Heavy tails are clipped in every other block; gaps, restarts and odd scales have groups of their own."""
    rng = np.random.default_rng(3)
    table = rng.standard_t(2, size=(3 * MANY, 5)) * np.array([1e-6, 1.0, 1e4, 1.0, 1.0])
    table += np.cumsum(0.1 * rng.normal(size=table.shape), 0)
    table[::7, 1], table[rng.random(len(table)) < 0.2, 3] = np.nan, np.nan
    single, blocks = SelfBaseline(np.full(5, 1e-9)), SelfBaseline(np.full(5, 1e-9))
    for part in np.split(table, 3):
        one_by_one = np.stack([single.add(row) for row in part])
        found = blocks.over(part)
        np.testing.assert_array_equal(np.isnan(found), np.isnan(one_by_one))
        np.testing.assert_allclose(found, one_by_one, atol=1e-9)
        for past in (single, blocks):
            past.restart(np.arange(5) == 4)


def test_values_too_large_for_blocks_are_worked_out_step_by_step() -> None:
    table = noise(MANY, 2)
    table[200, 0] = 1e40
    single, whole = residuals(table), SelfBaseline(np.full(2, 1e-9)).over(table)
    np.testing.assert_allclose(whole, single, rtol=1e-9, atol=1e-9)


def test_some_of_the_signals_go_on_with_their_past() -> None:
    table, past = noise(60, 4), SelfBaseline(np.full(4, 1e-9))
    past.over(table[:30])
    part = past.select(np.array([2, 0]))
    np.testing.assert_array_equal(part.over(table[30:][:, [2, 0]]), past.over(table[30:])[:, [2, 0]])


def test_state_goes_on_where_it_was_saved() -> None:
    table, past, other = noise(60, 3), SelfBaseline(np.full(3, 1e-9)), SelfBaseline(np.full(3, 1e-9))
    past.over(table[:3])
    other.load_state_dict(past.state_dict())
    np.testing.assert_array_equal(other.over(table[3:40]), past.over(table[3:40]))
    other.load_state_dict(past.state_dict())
    np.testing.assert_array_equal(other.over(table[40:]), past.over(table[40:]))
    saved = past.state_dict()
    level = saved["level"]
    assert isinstance(level, np.ndarray)
    wrong: tuple[State, ...] = {**saved, "level": level[:, :2]}, {**saved, "level": np.full(level.shape, np.inf)}, {}
    for damaged in wrong:
        with pytest.raises(StateError):
            other.load_state_dict(damaged)


@pytest.mark.parametrize(
    ("t", "freedom", "z"),
    [(17.0 / math.sqrt(1.2), 4, 3.89), (5.0 / math.sqrt(1.05), 19, 3.89), (2.776, 4, 1.96), (2.0, 1e6, 2.0)],
)
def test_rare_residual_is_as_rare_as_its_normal_equivalent(t: float, freedom: float, z: float) -> None:
    """Multipliers for 1 in 10,000 at n = 5 and 20, and the 97.5 % quantile of Student's t."""
    both = normal_equivalents(np.array([t, -t]), freedom)
    assert both == pytest.approx([z, -z], rel=0.025)


@given(st.floats(allow_nan=False), st.floats(1, 1e6))
def test_no_residual_is_too_large(residual: float, freedom: float) -> None:
    normal = float(normal_equivalents(np.array([residual]), freedom)[0])
    assert math.isfinite(normal)
    # Squares of smaller ones are lost in a float.
    assert abs(normal) <= abs(residual) * 1.01 + 1e-150
