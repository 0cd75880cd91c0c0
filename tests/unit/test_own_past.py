"""A run against its own past: noise and slow trends of any scale are no surprise, a shift is one until it is learnt."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rftfm_ray.detection.jumps import normal_equivalents
from rftfm_ray.detection.own_past import WARMUP, OwnPast
from rftfm_ray.detection.profile import normal_equivalent

Floats = NDArray[np.float64]


def residuals(table: Floats, floor: float = 1e-9, held_from: int | None = None) -> Floats:
    """Residuals (steps, signals) of a table; from `held_from` on nothing is learnt."""
    past = OwnPast(np.full(table.shape[1], floor))
    nothing, all_of_it = np.zeros(table.shape[1], bool), np.ones(table.shape[1], bool)
    return np.stack(
        [past.add(row, all_of_it if held_from and step >= held_from else nothing) for step, row in enumerate(table, 1)]
    )


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


def test_shift_is_seen_at_once_and_then_learnt_unless_it_is_held() -> None:
    table = noise(80)
    table[40:] += 4.0
    free, held = residuals(table), residuals(table, held_from=42)
    assert free[40].mean() > 2.5
    assert free[60:].mean() < 0.5
    assert held[60:].mean() > 2.5


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
    nothing = np.zeros(2, bool)
    for row in table[:30]:
        past.add(row, nothing)
    past.restart(np.array([True, False]))
    after = past.add(np.array([100.0, 0.0]), nothing)
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
