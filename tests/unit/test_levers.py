"""Levers: their bounds, the course of the learning rate, and which of the two wins."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rftfm_ray.config import load_config
from rftfm_ray.detection.signals import INDEX
from rftfm_ray.errors import ConfigError
from rftfm_ray.policies.levers import (
    LEVERS,
    MOVES,
    LeverSpec,
    check_levers,
    config_schedule,
    effective,
    nominal_settings,
    schedule_factor,
)
from rftfm_ray.rollout.channels import INSTANCES
from rftfm_ray.types import Levers, Settings, StepId

NOMINAL = Settings(
    lr=1e-3, kl_coef=0.02, clip_low=0.2, clip_high=0.25, entropy_coef=0.01, max_grad_norm=1.5, minibatches=2
)
KINDS = ["constant", "linear", "cosine"]

every_lever = pytest.mark.parametrize("spec", LEVERS, ids=lambda spec: spec.name)


def only(name: str, value: Any) -> Levers:
    """Levers with one of them set."""
    return dataclasses.replace(Levers(), **{name: value})


def test_every_lever_has_bounds() -> None:
    assert [spec.name for spec in LEVERS] == [field.name for field in dataclasses.fields(Levers)]
    assert all(spec.low < spec.high for spec in LEVERS)


@every_lever
def test_bounds_are_allowed(spec: LeverSpec) -> None:
    middle = (int if spec.whole else float)((spec.low + spec.high) / 2)
    for value in (spec.low, spec.high, middle, None):
        check_levers(only(spec.name, value))


@every_lever
def test_values_outside_the_bounds_are_refused_by_name(spec: LeverSpec) -> None:
    below, above = math.nextafter(spec.low, -math.inf), math.nextafter(spec.high, math.inf)
    for value in (below, above, -1.0, 1e9):
        with pytest.raises(ConfigError, match=rf"^Lever {spec.name}=") as caught:
            check_levers(only(spec.name, value))
        assert f"[{spec.low}, {spec.high}]" in str(caught.value)


@every_lever
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_refused(spec: LeverSpec, value: float) -> None:
    with pytest.raises(ConfigError, match=spec.name):
        check_levers(only(spec.name, value))


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("regrade_rate", 0.0, 1.0),
        ("reward_limit", 0.01, 1e6),
        ("tool_instance", 0, INSTANCES - 1),
        ("tool_retries", 0, 5),
        ("refill_rounds", 0, 5),
    ],
)
def test_rollout_levers_have_the_bounds_of_what_they_move(name: str, low: float, high: float) -> None:
    assert [(spec.low, spec.high) for spec in LEVERS if spec.name == name] == [(low, high)]


@pytest.mark.parametrize("spec", [spec for spec in LEVERS if spec.whole], ids=lambda spec: spec.name)
@pytest.mark.parametrize("value", [0.5, 1.0, True, False])
def test_counts_and_places_are_whole_numbers(spec: LeverSpec, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"^Lever {spec.name}={value} "):
        check_levers(only(spec.name, value))


def test_whole_levers_are_those_that_count_or_choose() -> None:
    whole = {spec.name for spec in LEVERS if spec.whole}
    assert whole == {"minibatches", "tool_instance", "tool_retries", "refill_rounds"}


def test_levers_that_move_signals_and_the_signals_are_there() -> None:
    assert set(MOVES) <= {spec.name for spec in LEVERS}
    assert {name for names in MOVES.values() for name in names} <= set(INDEX)
    assert all(names and len(set(names)) == len(names) for names in MOVES.values())


def test_one_bad_lever_among_good_ones_is_refused() -> None:
    with pytest.raises(ConfigError, match="clip_high"):
        check_levers(Levers(lr_scale=0.5, kl_coef_scale=2.0, clip_high=3.0))


@pytest.mark.parametrize("kind", KINDS)
def test_warm_up_rises_linearly_to_the_whole_rate(kind: str) -> None:
    course = [schedule_factor(kind, step, 20, 4) for step in range(1, 6)]
    assert course == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


@pytest.mark.parametrize("kind", KINDS)
def test_without_warm_up_the_first_step_has_the_whole_rate(kind: str) -> None:
    assert schedule_factor(kind, 1, 20, 0) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("kind", "half", "end"), [("constant", 1.0, 1.0), ("linear", 0.55, 0.1), ("cosine", 0.55, 0.1)]
)
def test_schedule_passes_its_middle_and_ends_at_a_tenth(kind: str, half: float, end: float) -> None:
    assert schedule_factor(kind, 15, 25, 4) == pytest.approx(half)
    assert schedule_factor(kind, 25, 25, 4) == pytest.approx(end)


def test_linear_falls_evenly_and_cosine_slowly_at_both_ends() -> None:
    linear = [schedule_factor("linear", step, 21, 0) for step in range(1, 22)]
    assert [a - b for a, b in itertools.pairwise(linear)] == pytest.approx([0.045] * 20)
    cosine = [schedule_factor("cosine", step, 21, 0) for step in range(1, 22)]
    assert cosine[5] == pytest.approx(0.55 + 0.45 / math.sqrt(2))
    assert cosine[15] == pytest.approx(0.55 - 0.45 / math.sqrt(2))


@settings(max_examples=200, deadline=None)
@given(kind=st.sampled_from(KINDS), steps=st.integers(1, 300), warmup=st.integers(0, 299), past=st.integers(0, 50))
def test_schedule_stays_above_nothing_and_never_rises_after_the_warm_up(
    kind: str, steps: int, warmup: int, past: int
) -> None:
    warmup = min(warmup, steps - 1)
    course = [schedule_factor(kind, step, steps, warmup) for step in range(1, steps + past + 1)]
    assert all(0 < factor <= 1 for factor in course)
    assert course[: warmup + 1] == sorted(course[: warmup + 1])
    assert course[warmup:] == sorted(course[warmup:], reverse=True)
    assert course[-1] >= 0.1 - 1e-12


def test_no_lever_leaves_all_to_configuration_and_schedule() -> None:
    assert effective(NOMINAL, 1.0, Levers()) == NOMINAL
    assert effective(NOMINAL, 0.5, Levers()) == dataclasses.replace(NOMINAL, lr=0.5e-3)


@pytest.mark.parametrize("factor", [0.1, 0.3, 1.0])
def test_rate_lever_wins_over_the_schedule(factor: float) -> None:
    assert effective(NOMINAL, factor, Levers(lr_scale=0.5)).lr == pytest.approx(0.5e-3)


@pytest.mark.parametrize(
    ("name", "value", "key", "expected"),
    [
        ("kl_coef_scale", 10.0, "kl_coef", 0.2),
        ("clip_low", 0.05, "clip_low", 0.05),
        ("clip_high", 0.5, "clip_high", 0.5),
        ("entropy_coef", 0.0, "entropy_coef", 0.0),
        ("max_grad_norm", 0.25, "max_grad_norm", 0.25),
        ("minibatches", 4, "minibatches", 4),
    ],
)
def test_lever_changes_its_setting_and_no_other(name: str, value: float, key: str, expected: float) -> None:
    changed = dataclasses.asdict(effective(NOMINAL, 1.0, only(name, value)))
    unchanged = dataclasses.asdict(NOMINAL)
    assert changed.pop(key) == pytest.approx(expected)
    del unchanged[key]
    assert changed == unchanged


def test_rollout_levers_change_no_setting_of_the_learner() -> None:
    levers = Levers(regrade_rate=1.0, reward_limit=2.0, tool_instance=1, tool_retries=3, refill_rounds=2)
    assert effective(NOMINAL, 1.0, levers) == NOMINAL


def test_nominal_settings_and_schedule_are_those_of_the_configuration() -> None:
    config = load_config(
        None,
        ["steps=25", "learner.lr=0.5", "learner.lr_schedule=linear", "learner.warmup_steps=4",
         "learner.max_grad_norm=3", "algorithm.kl_coef=0.25", "algorithm.clip_low=0.1", "algorithm.clip_high=0.3",
         "algorithm.entropy_coef=0.01", "algorithm.minibatches=4"],
    )  # fmt: skip
    assert nominal_settings(config) == Settings(0.5, 0.25, 0.1, 0.3, 0.01, 3.0, 4)
    schedule = config_schedule(config)
    factors = [schedule(StepId(attempt=2, step=step, paid_step=step + 90)) for step in range(1, 26)]
    assert factors == [schedule_factor("linear", step, 25, 4) for step in range(1, 26)]


def test_schedule_touches_nothing_but_the_rate() -> None:
    levers = Levers(kl_coef_scale=2.0, max_grad_norm=0.5)
    slow, fast = effective(NOMINAL, 0.1, levers), effective(NOMINAL, 1.0, levers)
    assert dataclasses.replace(slow, lr=fast.lr) == fast
