"""The scale of signals: one function for a value, for many, and for whole tables."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rftfm_ray.signals.arithmetic import safe_exp
from rftfm_ray.signals.scale import LARGEST, SMALL, Scales, level_of, raw_of
from rftfm_ray.signals.schema import INDEX, SIGNALS, Scale

NAMES = ("kl_ref", "entropy", "reward_mean", "grad_norm", "update_ratio")


@pytest.mark.parametrize("name", NAMES)
def test_levels_of_many_values_are_those_of_each(name: str) -> None:
    signal, values = SIGNALS[INDEX[name]], np.array([[-1.0, 0.0, 1e-9], [0.3, 5e4, math.nan]])
    found = level_of(signal, values)
    assert found.shape == (2, 3)
    assert np.array_equal(
        found, [[level_of(signal, value) for value in row] for row in values.tolist()], equal_nan=True
    )
    table = np.repeat(values.reshape(6, 1), len(NAMES), axis=1)
    assert np.array_equal(Scales(NAMES).levels(table)[:, NAMES.index(name)], found.ravel(), equal_nan=True)


def test_a_ratio_is_compared_in_nats_and_everything_else_as_it_is() -> None:
    assert level_of(SIGNALS[INDEX["kl_ref"]], 0.2) == pytest.approx(math.log(0.2 + SMALL["kl_ref"]))
    assert level_of(SIGNALS[INDEX["update_ratio"]], 0.0) == pytest.approx(math.log(1e-12))
    assert level_of(SIGNALS[INDEX["reward_mean"]], -3.0) == -3.0


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_has_no_level(value: float) -> None:
    assert math.isnan(level_of(SIGNALS[INDEX["reward_mean"]], value))
    assert math.isnan(level_of(SIGNALS[INDEX["kl_ref"]], value))


@given(st.floats(0, 1e6))
def test_level_and_value_belong_together(value: float) -> None:
    for signal in (SIGNALS[INDEX[name]] for name in NAMES):
        assert raw_of(signal, level_of(signal, value)) == pytest.approx(value, rel=1e-9, abs=1e-9)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_no_level_overflows_when_it_is_squared(value: float) -> None:
    for signal in SIGNALS:
        level = level_of(signal, value)
        assert abs(level) <= LARGEST
        assert math.isfinite(level * level)
        assert signal.scale is Scale.RATIO or abs(value) > LARGEST or level == value


def test_exponential_is_infinite_where_it_would_overflow() -> None:
    assert (safe_exp(0.0), safe_exp(1e4)) == (1.0, math.inf)
