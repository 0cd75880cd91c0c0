"""Group-relative advantages: closed forms, masking, and agreement with the gate's own recompute."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from rftfm_ray.training.advantages import STD_EPSILON, group_advantages
from rftfm_ray.training.gate import recompute_advantages

Member = tuple[float, int, bool]
MEMBERS = st.lists(st.tuples(st.floats(-100, 100, width=32), st.integers(0, 4), st.booleans()), min_size=1, max_size=24)


def _advantages(
    rewards: Sequence[float],
    groups: Sequence[int],
    valid: Sequence[bool] | None = None,
    *,
    normalize_std: bool = True,
) -> NDArray[np.float32]:
    return group_advantages(
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


@given(members=MEMBERS, normalize_std=st.booleans())
def test_equals_the_recompute_of_the_gate(members: list[Member], normalize_std: bool) -> None:
    rewards, groups, valid = zip(*members, strict=True)
    found = _advantages(rewards, groups, valid, normalize_std=normalize_std)
    expected = recompute_advantages(rewards, groups, valid, normalize_std=normalize_std)
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
