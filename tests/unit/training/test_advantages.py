"""Advantages: closed forms, naive sums, masking, and agreement with the gate's own recompute."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from rftfm_ray.training.advantages import (
    STD_EPSILON,
    gae,
    group_advantages,
    leave_one_out_advantages,
    mixed_groups,
    returns_to_go,
    whiten,
)
from rftfm_ray.training.gate import RawStep, Recipe, recompute_advantages

Member = tuple[float, int, bool]
MEMBERS = st.lists(st.tuples(st.floats(-100, 100, width=32), st.integers(0, 4), st.booleans()), min_size=1, max_size=24)


def _advantages(
    rewards: Sequence[float],
    groups: Sequence[int],
    valid: Sequence[bool] | None = None,
    *,
    normalize_std: bool = True,
    estimator: Callable[..., NDArray[np.float32]] = group_advantages,
) -> NDArray[np.float32]:
    return estimator(
        np.array(rewards, np.float32),
        np.array(groups, np.int32),
        np.array(valid if valid is not None else [True] * len(rewards), np.bool_),
        normalize_std=normalize_std,
    )


def test_without_std_is_reward_less_group_mean() -> None:
    found = _advantages([1, 0, 0, 3, 5], [0, 0, 0, 1, 1], normalize_std=False)
    np.testing.assert_allclose(found, [2 / 3, -1 / 3, -1 / 3, -1, 1], rtol=1e-6)


def test_with_std_is_divided_by_sample_deviation_plus_epsilon() -> None:
    found = _advantages([1, 0, 0, 0], [0, 0, 0, 0])
    deviation = math.sqrt((0.75**2 + 3 * 0.25**2) / 3)
    np.testing.assert_allclose(found, np.array([0.75, -0.25, -0.25, -0.25]) / (deviation + STD_EPSILON), rtol=1e-6)


def test_groups_may_be_interleaved_and_leave_names_out() -> None:
    found = _advantages([1, 10, 3, 30], [5, 2, 5, 2], normalize_std=False)
    np.testing.assert_allclose(found, [-1, -10, 1, 10])


@pytest.mark.parametrize("normalize_std", [False, True])
def test_masked_member_has_no_share(normalize_std: bool) -> None:
    masked = _advantages([1, math.nan, 0, 4], [0, 0, 0, 0], [True, False, True, True], normalize_std=normalize_std)
    alone = _advantages([1, 0, 4], [0, 0, 0], normalize_std=normalize_std)
    np.testing.assert_array_equal(masked, np.insert(alone, 1, 0.0))


def test_reward_of_masked_member_is_ignored() -> None:
    valid = [True, True, False]
    np.testing.assert_array_equal(_advantages([1, 0, 9], [0, 0, 0], valid), _advantages([1, 0, -5], [0, 0, 0], valid))


def test_group_of_one_has_no_advantage() -> None:
    found = _advantages([7, 1, 0, 5, 5], [0, 1, 1, 2, 2], [True, True, True, True, False], normalize_std=False)
    np.testing.assert_allclose(found, [0, 0.5, -0.5, 0, 0])


def test_equal_rewards_have_no_advantage() -> None:
    np.testing.assert_array_equal(_advantages([0.1] * 7, [0] * 7), np.zeros(7))


def test_all_masked_is_all_zero() -> None:
    np.testing.assert_array_equal(_advantages([math.nan] * 3, [0, 0, 1], [False] * 3), np.zeros(3))


def test_empty_batch_gives_empty_array() -> None:
    assert _advantages([], []).shape == (0,)


def test_is_float32() -> None:
    assert _advantages([1, 0], [0, 0]).dtype == np.float32


ESTIMATORS = {"grpo": group_advantages, "rloo": leave_one_out_advantages}


@pytest.mark.parametrize("name", ESTIMATORS)
@given(members=MEMBERS, normalize_std=st.booleans())
def test_equals_the_recompute_of_the_gate(name: str, members: list[Member], normalize_std: bool) -> None:
    rewards, groups, valid = zip(*members, strict=True)
    found = _advantages(rewards, groups, valid, normalize_std=normalize_std, estimator=ESTIMATORS[name])
    rows = recompute_advantages(RawStep(rewards, groups, valid, [1] * len(rewards)), Recipe(name, normalize_std))
    expected = [row[0] if row else 0.0 for row in rows]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@given(members=MEMBERS, shift=st.integers(-64, 64), normalize_std=st.booleans())
def test_a_shift_of_all_rewards_changes_nothing(members: list[Member], shift: int, normalize_std: bool) -> None:
    # Sixteenths, so that the shifted rewards are exact.
    rewards = [round(reward * 16) / 16 for reward, _, _ in members]
    groups, valid = [group for _, group, _ in members], [keep for _, _, keep in members]
    before = _advantages(rewards, groups, valid, normalize_std=normalize_std)
    after = _advantages([reward + shift for reward in rewards], groups, valid, normalize_std=normalize_std)
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5)


@given(members=MEMBERS, normalize_std=st.booleans())
def test_advantages_of_a_group_sum_to_zero(members: list[Member], normalize_std: bool) -> None:
    rewards, groups, valid = zip(*members, strict=True)
    found = _advantages(rewards, groups, valid, normalize_std=normalize_std).astype(np.float64)
    np.testing.assert_allclose(np.bincount(groups, weights=found), 0, atol=1e-3)


def test_leave_one_out_is_reward_less_the_mean_of_the_others() -> None:
    found = _advantages([1, 0, 0, 3, 5, 9], [0, 0, 0, 1, 1, 2], normalize_std=False, estimator=leave_one_out_advantages)
    np.testing.assert_allclose(found, [1, -0.5, -0.5, -2, 2, 0])


def test_masked_member_is_none_of_the_others() -> None:
    rewards, valid = [1, math.nan, 0, 4], [True, False, True, True]
    found = _advantages(rewards, [0] * 4, valid, normalize_std=False, estimator=leave_one_out_advantages)
    np.testing.assert_allclose(found, [1 - 4 / 2, 0, 0 - 5 / 2, 4 - 1 / 2])


@given(rewards=st.lists(st.floats(-100, 100, width=32), min_size=2, max_size=12), normalize_std=st.booleans())
def test_leave_one_out_is_the_group_advantage_times_n_over_n_less_one(
    rewards: list[float], normalize_std: bool
) -> None:
    size = len(rewards)
    one, other = (
        _advantages(rewards, [0] * size, normalize_std=normalize_std, estimator=estimator)
        for estimator in (leave_one_out_advantages, group_advantages)
    )
    np.testing.assert_allclose(one, other * (size / (size - 1)), rtol=1e-5, atol=1e-6)


def _mixed(rewards: Sequence[float], groups: Sequence[int], valid: Sequence[bool]) -> list[bool]:
    found = mixed_groups(np.array(rewards, np.float32), np.array(groups, np.int32), np.array(valid, np.bool_))
    return [bool(mixed) for mixed in found]


def test_group_is_mixed_by_members_that_count() -> None:
    rewards = [0.0, 1.0, 0.5, 0.5, 0.5, math.nan, 7.0, 1.0, 1.0, math.nan]
    groups = [4, 4, 0, 0, 1, 1, 2, 3, 3, 3]
    valid = [True, True, True, True, True, False, True, True, False, False]
    assert _mixed(rewards, groups, valid) == [True, True] + [False] * 8
    assert _mixed(rewards[:2], groups[:2], [True, False]) == [False, False]
    assert _mixed([], [], []) == []


RAGGED = st.lists(
    st.lists(st.floats(-10, 10, width=32), max_size=7).flatmap(
        lambda values: st.tuples(st.floats(-100, 100, width=32), st.just(values))
    ),
    max_size=8,
)


def _flat(rows: Sequence[tuple[float, list[float]]]) -> tuple[NDArray[np.float32], NDArray[np.float32], Any]:
    """Rewards, values and counts of trajectories."""
    values = [value for _, row in rows for value in row]
    counts = np.array([len(row) for _, row in rows], np.int64)
    return np.array([reward for reward, _ in rows], np.float32), np.array(values, np.float32), counts


def test_estimates_of_three_tokens_by_hand() -> None:
    reward, values, counts = _flat([(2.0, [0.5, 1.0, -1.0]), (4.0, []), (1.0, [0.25])])
    # Surprises 0.5 * 1 - 0.5 = 0, 0.5 * -1 - 1 = -1.5, 2 + 1 = 3; each carries a quarter of the next.
    found = gae(reward, values, counts, 0.5, 0.5)
    np.testing.assert_array_equal(found, [(3 / 4 - 1.5) / 4, 3 / 4 - 1.5, 3, 0.75])


@given(rows=RAGGED, gamma=st.floats(0.5, 1), lam=st.floats(0, 1))
def test_estimates_are_the_sum_of_all_later_surprises(
    rows: list[tuple[float, list[float]]], gamma: float, lam: float
) -> None:
    expected = []
    for reward, values in rows:
        after = [*values[1:], 0.0]
        earned = [0.0] * (len(values) - 1) + [reward]
        surprises = [r + gamma * v - now for r, v, now in zip(earned, after, values, strict=bool(values))]
        for place in range(len(values)):
            later = surprises[place:]
            expected.append(math.fsum((gamma * lam) ** k * surprise for k, surprise in enumerate(later)))
    np.testing.assert_allclose(gae(*_flat(rows), gamma, lam), expected, rtol=1e-9, atol=1e-9)


def test_estimates_solve_their_linear_equations() -> None:
    values = np.random.default_rng(7).normal(size=200).astype(np.float32)
    surprises = np.append(0.99 * values[1:].astype(np.float64), 3.0) - values
    expected = np.linalg.solve(np.eye(200) - 0.99 * 0.9 * np.eye(200, k=1), surprises)
    found = gae(np.array([3.0], np.float32), values, np.array([200], np.int64), 0.99, 0.9)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@given(rows=RAGGED, gamma=st.floats(0.5, 1))
def test_with_lambda_one_estimates_are_returns_less_values(rows: list[tuple[float, list[float]]], gamma: float) -> None:
    reward, values, counts = _flat(rows)
    returns = returns_to_go(reward, counts, gamma)
    np.testing.assert_allclose(gae(reward, values, counts, gamma, 1.0) + values, returns, rtol=1e-6, atol=1e-5)


def test_returns_are_discounted_from_the_last_token_back() -> None:
    found = returns_to_go(np.array([8, 5, 2], np.float32), np.array([4, 0, 1], np.int64), 0.5)
    assert found.tolist() == [1, 2, 4, 8, 2]


def test_whitened_tokens_have_mean_0_and_deviation_1() -> None:
    values = np.random.default_rng(3).normal(5, 0.01, 100)
    kept = np.arange(100) % 3 > 0
    found = whiten(values, kept, normalize_std=True)
    np.testing.assert_array_equal(found[~kept], 0)
    spread = math.sqrt(statistics.variance(values[kept].tolist()) + 1e-8)
    np.testing.assert_allclose(found[kept], (values[kept] - values[kept].mean()) / spread)
    assert found[kept].std(ddof=1) == pytest.approx(1, rel=1e-3)
    np.testing.assert_allclose(whiten(values, kept, normalize_std=False)[kept], values[kept] - values[kept].mean())


def test_whitening_leaves_tokens_that_are_all_alike_at_0() -> None:
    for values in ([], [3.0], [0.1] * 5, [1e6] * 9):
        kept = np.ones(len(values), np.bool_)
        np.testing.assert_array_equal(whiten(np.array(values), kept, normalize_std=True), 0)
    np.testing.assert_array_equal(whiten(np.ones(3), np.zeros(3, np.bool_), normalize_std=True), 0)


def test_nearly_equal_tokens_are_not_blown_up() -> None:
    found = whiten(np.array([1e-5, -1e-5]), np.ones(2, np.bool_), normalize_std=True)
    np.testing.assert_allclose(found, np.array([1, -1]) * 1e-5 / math.sqrt(2e-10 + 1e-8))
