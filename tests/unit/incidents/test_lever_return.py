"""Levers on their way back: one at a time, in few steps, never out of bounds."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rftfm_ray.config.settings import effective
from rftfm_ray.incidents.lever_return import FACTOR, RATES, SCALES, moved, one_step_back
from rftfm_ray.policies.levers import LEVERS, LeverSpec, check_levers
from rftfm_ray.types import Levers, Settings

# From one end of the widest bounds of a scale to 1, by halves at least.
MOST_STEPS = 8


def settings_of(spec: LeverSpec) -> st.SearchStrategy[Any]:
    """Settings of a lever within its bounds, or none."""
    inside = st.integers(int(spec.low), int(spec.high)) if spec.whole else st.floats(spec.low, spec.high)
    return st.none() | inside


levers_within_bounds = st.builds(Levers, **{spec.name: settings_of(spec) for spec in LEVERS})


def only(name: str, setting: Any) -> Levers:
    """Levers with one of them set."""
    return dataclasses.replace(Levers(), **{name: setting})


def way_back(levers: Levers, name: str, scheduled: float = 1.0) -> list[Any]:
    """Settings that a lever passes on its way to nominal."""
    passed = []
    while getattr(levers, name) is not None:
        levers = one_step_back(levers, name, scheduled)
        passed.append(getattr(levers, name))
        assert len(passed) <= MOST_STEPS, f"{name} does not come back"
    return passed


@given(levers_within_bounds)
def test_every_lever_comes_back_within_its_bounds(levers: Levers) -> None:
    for name in moved(levers):
        now = levers
        for _ in range(MOST_STEPS):
            before, now = now, one_step_back(now, name)
            check_levers(now)
            others = {spec.name: getattr(before, spec.name) for spec in LEVERS if spec.name != name}
            assert {key: getattr(now, key) for key in others} == others
            if getattr(now, name) is None:
                break
        assert getattr(now, name) is None
        levers = now
    assert levers == Levers()
    assert moved(levers) == ()


@given(st.sampled_from(SCALES), st.floats(0.1, 10.0))
def test_scale_never_passes_one(name: str, setting: float) -> None:
    if name in RATES:
        setting = min(setting, 1.0)
    passed = [step for step in way_back(only(name, setting), name) if step is not None]
    assert all((step < 1) == (setting < 1) for step in passed)
    assert passed == sorted(passed, reverse=setting > 1)


@given(st.floats(0.01, 1.0), st.floats(1e-4, 1.0))
def test_rate_comes_back_within_its_bounds_whatever_the_schedule_calls_for(setting: float, scheduled: float) -> None:
    passed = way_back(only("lr_scale", setting), "lr_scale", scheduled)
    for scale in passed:
        check_levers(only("lr_scale", scale))
    scales = [setting, *(scale for scale in passed if scale is not None)]
    assert scales == sorted(scales, reverse=setting > scheduled)


@pytest.mark.parametrize(
    ("name", "setting", "steps"),
    [
        ("lr_scale", 0.99 / FACTOR**2, [0.99 / FACTOR, 0.99, None]),
        ("lr_scale", 1 / FACTOR, [None]),
        ("lr_scale", 1.0, [None]),
        ("kl_coef_scale", 1.01 * FACTOR, [1.01, None]),
        ("kl_coef_scale", 0.99 / FACTOR, [0.99, None]),
        ("kl_coef_scale", FACTOR, [None]),
        ("regrade_rate", 1.0, [None]),
        ("regrade_rate", 0.0, [None]),
        ("tool_instance", 0, [None]),
        ("tool_instance", 1, [None]),
        ("max_grad_norm", 0.01, [None]),
        ("advantage_clip", 0.1, [None]),
        ("freeze_policy", 1, [None]),
    ],
)
def test_scales_go_back_by_a_factor_and_all_else_at_once(name: str, setting: float, steps: list[float | None]) -> None:
    assert way_back(only(name, setting), name) == pytest.approx(steps)


def test_levers_that_are_off_are_named_in_their_order() -> None:
    assert moved(Levers()) == ()
    # Zero is a setting like any other.
    levers = Levers(refill_rounds=0, lr_scale=0.5, entropy_coef=0.0)
    assert moved(levers) == ("lr_scale", "entropy_coef", "refill_rounds")


def test_way_back_does_not_pass_the_rate_of_the_schedule() -> None:
    nominal = Settings(1e-3, 0.02, 0.2, 0.2, 0.0, 1.0, 1, None, False, 1.0, 0.95, 3e-3, False)
    rates = [effective(nominal, 0.1, levers).lr for levers in (Levers(), Levers(lr_scale=0.02))]
    rates += [effective(nominal, 0.1, only("lr_scale", s)).lr for s in way_back(Levers(lr_scale=0.02), "lr_scale", 0.1)]
    assert max(rates) == rates[0]
