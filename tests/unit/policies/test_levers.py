"""Levers: their bounds, the course of the learning rate, and which of the two wins."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rftfm_ray.config import load_config
from rftfm_ray.config.settings import config_schedule, effective, nominal_settings, schedule_factor
from rftfm_ray.errors import ConfigError
from rftfm_ray.policies.levers import LEVERS, LeverSpec, check_levers
from rftfm_ray.rollout.channels import INSTANCES
from rftfm_ray.types import CreditSource, Levers, Settings, StepId

NOMINAL = Settings(
    lr=1e-3, kl_coef=0.02, clip_low=0.2, clip_high=0.25, entropy_coef=0.01, max_grad_norm=1.5, minibatches=2,
    advantage_clip=None, group_filter=False, gamma=0.99, gae_lambda=0.95, critic_lr=3e-3, freeze_policy=False,
)  # fmt: skip
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
    for value in (below, above, -1e9, 1e9):
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
        ("advantage_clip", 0.1, 100.0),
        ("group_filter", 0, 1),
        ("gamma", 0.5, 1.0),
        ("gae_lambda", 0.0, 1.0),
        ("critic_lr_scale", 0.01, 10.0),
        ("freeze_policy", 0, 1),
        ("credit_source", min(CreditSource), max(CreditSource)),
        ("is_cap", 1.0, 100.0),
    ],
)
def test_levers_have_the_bounds_of_what_they_move(name: str, low: float, high: float) -> None:
    assert [(spec.low, spec.high) for spec in LEVERS if spec.name == name] == [(low, high)]


@pytest.mark.parametrize("spec", [spec for spec in LEVERS if spec.whole], ids=lambda spec: spec.name)
@pytest.mark.parametrize("value", [0.5, 1.0, True, False])
def test_counts_and_places_are_whole_numbers(spec: LeverSpec, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"^Lever {spec.name}={value} "):
        check_levers(only(spec.name, value))


def test_whole_levers_are_those_that_count_or_choose() -> None:
    whole = {spec.name for spec in LEVERS if spec.whole}
    assert whole == {
        "minibatches", "tool_instance", "tool_retries", "refill_rounds", "group_filter", "freeze_policy",
        "credit_source", "mask_undecoded", "mask_unreplayed", "mask_truncated", "rollout_path",
    }  # fmt: skip


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
    assert effective(NOMINAL, 0.5, Levers()) == dataclasses.replace(NOMINAL, lr=0.5e-3, critic_lr=1.5e-3)


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
        ("advantage_clip", 2.5, "advantage_clip", 2.5),
        ("group_filter", 1, "group_filter", True),
        ("gamma", 0.75, "gamma", 0.75),
        ("gae_lambda", 0.0, "gae_lambda", 0.0),
        ("is_cap", 2.0, "is_cap", 2.0),
        ("credit_source", 2, "credit_source", CreditSource.GROUP),
        ("critic_lr_scale", 0.1, "critic_lr", 3e-4),
    ],
)
def test_lever_changes_its_setting_and_no_other(name: str, value: float, key: str, expected: float) -> None:
    changed = dataclasses.asdict(effective(NOMINAL, 1.0, only(name, value)))
    unchanged = dataclasses.asdict(NOMINAL)
    assert changed.pop(key) == pytest.approx(expected)
    del unchanged[key]
    assert changed == unchanged


@pytest.mark.parametrize("factor", [0.1, 1.0])
def test_lever_of_the_critics_rate_wins_over_the_schedule_and_leaves_the_policys(factor: float) -> None:
    found = effective(NOMINAL, factor, Levers(critic_lr_scale=5.0))
    assert [found.lr, found.critic_lr] == pytest.approx([factor * 1e-3, 1.5e-2])
    assert effective(NOMINAL, factor, Levers(lr_scale=0.5)).critic_lr == pytest.approx(factor * 3e-3)


@pytest.mark.parametrize("levers", [Levers(freeze_policy=1), Levers(freeze_policy=1, lr_scale=1.0)])
def test_frozen_policy_has_no_rate_whatever_else_is_set(levers: Levers) -> None:
    expected = dataclasses.replace(NOMINAL, lr=0.0, critic_lr=1.5e-3, freeze_policy=True)
    assert effective(NOMINAL, 0.5, levers) == expected


def test_levers_that_switch_win_over_the_configuration_both_ways() -> None:
    on = dataclasses.replace(NOMINAL, group_filter=True, freeze_policy=True, advantage_clip=3.0)
    found = effective(on, 1.0, Levers())
    assert (found.group_filter, found.freeze_policy, found.lr, found.advantage_clip) == (True, True, 0.0, 3.0)
    assert effective(on, 1.0, Levers(group_filter=0, freeze_policy=0)) == dataclasses.replace(
        on, group_filter=False, freeze_policy=False
    )
    assert type(effective(NOMINAL, 1.0, Levers(group_filter=1)).group_filter) is bool


def test_policy_is_frozen_while_the_critic_warms_up_and_in_no_other_algorithm() -> None:
    for name, frozen in (("ppo", [True, True, True, False, False]), ("grpo", [False] * 5)):
        config = load_config(None, [f"algorithm.name={name}", "critic.warmup_steps=3"])
        course = [nominal_settings(config, step) for step in range(1, 6)]
        assert [settings.freeze_policy for settings in course] == frozen
        assert [effective(settings, 1.0, Levers()).lr == 0 for settings in course] == frozen
        assert course[-1] == nominal_settings(config)
        assert not effective(course[0], 1.0, Levers(freeze_policy=0)).freeze_policy


def test_rollout_levers_change_no_setting_of_the_learner() -> None:
    levers = Levers(
        regrade_rate=1.0, reward_limit=2.0, tool_instance=1, tool_retries=3, refill_rounds=2, temperature_scale=2.0,
        end_bias=3.0, tokens_scale=2.0, mask_undecoded=1, mask_unreplayed=1, mask_truncated=1, rollout_path=1,
    )  # fmt: skip
    assert effective(NOMINAL, 1.0, levers) == NOMINAL


def test_nominal_settings_and_schedule_are_those_of_the_configuration() -> None:
    config = load_config(
        None,
        ["steps=25", "learner.lr=0.5", "learner.lr_schedule=linear", "learner.warmup_steps=4",
         "learner.max_grad_norm=3", "algorithm.kl_coef=0.25", "algorithm.clip_low=0.1", "algorithm.clip_high=0.3",
         "algorithm.entropy_coef=0.01", "algorithm.minibatches=4", "algorithm.advantage_clip=5",
         "algorithm.group_filter=true", "critic.gamma=0.9", "critic.gae_lambda=0.8", "critic.lr=0.7"],
    )  # fmt: skip
    assert nominal_settings(config) == Settings(0.5, 0.25, 0.1, 0.3, 0.01, 3.0, 4, 5.0, True, 0.9, 0.8, 0.7, False)
    schedule = config_schedule(config)
    factors = [schedule(StepId(attempt=2, step=step, paid_step=step + 90)) for step in range(1, 26)]
    assert factors == [schedule_factor("linear", step, 25, 4) for step in range(1, 26)]


def test_schedule_touches_nothing_but_the_rates() -> None:
    levers = Levers(kl_coef_scale=2.0, max_grad_norm=0.5, gamma=0.9, advantage_clip=1.0)
    slow, fast = effective(NOMINAL, 0.1, levers), effective(NOMINAL, 1.0, levers)
    assert dataclasses.replace(slow, lr=fast.lr, critic_lr=fast.critic_lr) == fast


@every_lever
def test_numbers_of_numpy_are_judged_as_numbers(spec: LeverSpec) -> None:
    check_levers(only(spec.name, np.int64(1) if spec.whole else np.float64(spec.high)))
    with pytest.raises(ConfigError, match=rf"^Lever {spec.name}=.*choose a value in"):
        check_levers(only(spec.name, np.int64(10**9)))
    with pytest.raises(ConfigError, match=spec.name):
        check_levers(only(spec.name, True))
