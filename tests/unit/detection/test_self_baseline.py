"""A run against its own past: noise and slow trends of any scale are no surprise, a shift is one until it is learnt."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rftfm_ray.detection.statistics.self_baseline import WARMUP, OwnPast
from rftfm_ray.detection.statistics.student import normal_equivalent, normal_equivalents

Floats = NDArray[np.float64]


def residuals(table: Floats, floor: float = 1e-9) -> Floats:
    """Residuals (steps, signals) of a table."""
    past = OwnPast(np.full(table.shape[1], floor))
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
    past = OwnPast(np.full(2, 1e-9))
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


def test_normal_equivalent_is_the_one_of_profiles() -> None:
    values, freedom = np.array([-12.0, 0.0, 0.5, 3.0, 40.0]), np.full(5, 7.0)
    assert normal_equivalents(values, freedom) == pytest.approx([normal_equivalent(float(v), 7.0) for v in values])
