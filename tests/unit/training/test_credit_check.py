"""Credit as the loss gets it: every change on the way is found, and what kind of change it is."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from rftfm_ray.batch import TrajectoryBatch
from rftfm_ray.training.credit import Credit, Rule, assign, members
from rftfm_ray.training.credit_check import check_credit, credit_in_loss, sample_mismatch_rate, value_error
from rftfm_ray.training.objective import targets_of
from rftfm_ray.training.packing import MicroBatch, pack

MakeBatch = Callable[..., TrajectoryBatch]
ROLES = ["paaa", "paa", "pa", "paoaa", "paa", "paa"]
REWARDS = [1.0, 0.0, 0.3, 1.0, 0.0, 0.7]
ESTIMATORS = ("grpo", "rloo", "reinforce_pp", "ppo")


@pytest.fixture
def batch(make_batch: MakeBatch) -> TrajectoryBatch:
    """Two groups; the last trajectory is masked."""
    return make_batch(REWARDS, roles=ROLES, groups=[0, 0, 0, 1, 1, 1], valid=[True] * 5 + [False])


def rule(estimator: str = "grpo", gamma: float = 1.0, clip: float | None = None) -> Rule:
    """A rule."""
    return Rule(estimator, True, gamma, 0.95, clip, False)


def credit_of(batch: TrajectoryBatch, given: Rule) -> Credit:
    """Credit by a rule, on made-up values."""
    values = np.random.default_rng(1).normal(size=int(batch.action.sum())).astype(np.float32)
    return assign(batch, given, values if given.critic else None)


def in_loss(batch: TrajectoryBatch, credit: Credit, parts: list[list[int]]) -> Credit:
    """The credit that stands in the targets of micro batches, one minibatch for each of `parts`."""
    weights = np.ones(len(batch), np.float32)
    minibatches = [[pack(batch, np.array([row]), weights, torch.device("cpu")) for row in rows] for rows in parts]
    targets = [[targets_of(micro, credit, None) for micro in micros] for micros in minibatches]
    return credit_in_loss(minibatches, targets, credit)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("parts", [[[0, 1, 2, 3, 4]], [[0, 1, 2], [3, 4]], [[4], [3], [2, 0], [1]]])
def test_what_arrives_as_it_was_given_is_found_in_order(
    batch: TrajectoryBatch, estimator: str, parts: list[list[int]]
) -> None:
    expected = credit_of(batch, rule(estimator))
    found = check_credit(expected, in_loss(batch, expected, parts), batch.action_counts())
    assert found.credit_error == 0
    assert math.isnan(found.credit_known_share)
    assert math.isnan(found.return_error) if estimator != "ppo" else found.return_error == 0
    assert math.isnan(found.value_error)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_noise_gives_advantages_that_no_token_has(batch: TrajectoryBatch, estimator: str) -> None:
    expected = credit_of(batch, rule(estimator))
    factors = np.repeat(np.array([1.1, 0.7, 2.3, 1.0, -0.4, 1], np.float32), batch.action_counts())
    noisy = dataclasses.replace(expected, advantages=expected.advantages * factors)
    found = check_credit(expected, noisy, batch.action_counts())
    assert found.credit_error > 0.05
    assert found.credit_known_share == 0
    assert found.return_error == 0 or estimator != "ppo"


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_misplaced_advantages_are_those_of_other_tokens(batch: TrajectoryBatch, estimator: str) -> None:
    expected = credit_of(batch, rule(estimator))
    moved = dataclasses.replace(expected, advantages=np.roll(expected.advantages, -1))
    found = check_credit(expected, moved, batch.action_counts())
    assert found.credit_error > 0.05
    # The last token of all is followed by the first one, and the masked trajectory by nothing.
    assert found.credit_known_share > 0.7


def test_share_counts_only_what_differs(batch: TrajectoryBatch) -> None:
    expected = credit_of(batch, rule())
    advantages = expected.advantages.copy()
    advantages[0] = advantages[5]
    assert advantages[0] != expected.advantages[0]
    advantages[3] += 0.01
    mixed = dataclasses.replace(expected, advantages=advantages)
    assert check_credit(expected, mixed, batch.action_counts()).credit_known_share == 0.5


def test_wrong_targets_are_wrong_returns_and_no_wrong_credit(batch: TrajectoryBatch) -> None:
    expected = credit_of(batch, rule("ppo"))
    wrong = dataclasses.replace(expected, returns=expected.returns + np.float32(3))
    found = check_credit(expected, wrong, batch.action_counts())
    assert found.credit_error == 0
    assert 0.5 < found.return_error <= 3.0001


def test_another_discount_is_seen_in_both(batch: TrajectoryBatch) -> None:
    counts = batch.action_counts()
    found = check_credit(credit_of(batch, rule("ppo")), credit_of(batch, rule("ppo", gamma=0.9)), counts)
    assert min(found.credit_error, found.return_error) > 1e-3
    assert found.credit_known_share == 0


def test_lever_that_is_moved_is_part_of_the_rule(batch: TrajectoryBatch) -> None:
    clipped, counts = credit_of(batch, rule("ppo", clip=0.5)), batch.action_counts()
    assert check_credit(clipped, clipped, counts).credit_error == 0
    assert check_credit(credit_of(batch, rule("ppo")), clipped, counts).credit_error > 0.05


def test_member_that_the_loss_has_lost_is_a_difference(batch: TrajectoryBatch) -> None:
    expected = credit_of(batch, rule())
    lost = in_loss(batch, expected, [[0, 1, 2, 4]])
    assert check_credit(expected, lost, batch.action_counts()).credit_error > 0.05


def test_step_in_which_nothing_takes_part_has_nothing_to_compare(make_batch: MakeBatch) -> None:
    batch = make_batch([0.0, 0.0], valid=[False, False])
    empty = credit_of(batch, rule())
    assert all(math.isnan(figure) for figure in dataclasses.astuple(check_credit(empty, empty, batch.action_counts())))
    assert math.isnan(value_error(np.zeros(4, np.float32), np.zeros(4, np.float32), empty.included, np.array([2, 2])))


def test_size_of_a_bias_of_values_is_told_exactly_and_only_of_members() -> None:
    own, counts = np.array([0.1, 0.2, -0.3, 0.0, 0.0], np.float32), np.array([3, 2])
    included = np.array([True, False])
    assert value_error(own, own, included, counts) == 0
    assert value_error(own + np.float32(0.25), own, included, counts) == pytest.approx(0.25, abs=1e-7)
    other = own.copy()
    other[3] = 9
    assert value_error(other, own, included, counts) == 0


def packed(batch: TrajectoryBatch, *parts: list[int]) -> list[list[MicroBatch]]:
    """One minibatch of a micro batch for each of `parts`."""
    weights = np.ones(len(batch), np.float32)
    return [[pack(batch, np.array(rows), weights, torch.device("cpu")) for rows in parts]]


def mismatch(batch: TrajectoryBatch, minibatches: list[list[MicroBatch]], asked: int = 6) -> float:
    """The share of samples that do not reach the loss as they were made."""
    return sample_mismatch_rate(batch, members(batch, rule()), minibatches, asked)


def test_samples_that_arrive_as_they_were_made_are_found_in_order(batch: TrajectoryBatch) -> None:
    # The masked one takes no part, and nothing is wrong with that.
    assert mismatch(batch, packed(batch, [0, 1, 2], [4, 3])) == 0
    assert math.isnan(mismatch(batch, packed(batch, [0, 1, 2], [3, 4]), asked=0))


def test_rewards_and_tokens_of_others_are_found(batch: TrajectoryBatch) -> None:
    rewards, tokens = batch.reward.copy(), batch.tokens.copy()
    rewards[[0, 1]] = rewards[[1, 0]]
    swapped = dataclasses.replace(batch, reward=rewards)
    assert mismatch(swapped, packed(swapped, [0, 1, 2, 3, 4])) == pytest.approx(2 / 6)
    tokens[batch.offsets[3]] += 1
    other = dataclasses.replace(batch, tokens=tokens)
    assert mismatch(other, packed(other, [0, 1, 2, 3, 4])) == pytest.approx(1 / 6)
    unmasked = dataclasses.replace(batch, valid=np.ones(6, np.bool_), reward=np.nan_to_num(batch.reward))
    assert mismatch(unmasked, packed(unmasked, [0, 1, 2, 3, 4, 5])) == pytest.approx(1 / 6)


def test_samples_that_are_lost_or_learnt_twice_are_found(batch: TrajectoryBatch, make_batch: MakeBatch) -> None:
    assert mismatch(batch, packed(batch, [0, 1, 2], [4])) == pytest.approx(1 / 6)
    assert mismatch(batch, packed(batch, [0, 1, 2], [3, 4, 2])) == pytest.approx(1 / 6)
    assert mismatch(batch, packed(batch, [0, 1, 2], [3, 4, 5])) == pytest.approx(1 / 6)
    # A group that never came.
    assert mismatch(batch, packed(batch, [0, 1, 2], [3, 4]), asked=8) == pytest.approx(2 / 8)
    # The second sample of the first group came twice, the first one never.
    fresh = make_batch(REWARDS[:4], roles=ROLES[:4], groups=[0, 0, 0, 0])
    twice = dataclasses.replace(
        fresh,
        **{name: getattr(fresh, name)[[1, 1, 2, 3]] for name in ("group", "sample", "reward", "seal")},
    )
    tokens, action, logprobs = (
        np.concatenate([column[4:7], column[4:]]) for column in (fresh.tokens, fresh.action, fresh.logprobs)
    )
    offsets = np.array([0, 3, 6, 8, 13])
    twice = dataclasses.replace(twice, tokens=tokens, action=action, logprobs=logprobs, offsets=offsets)
    assert mismatch(twice, packed(twice, [0, 1, 2, 3]), asked=4) == pytest.approx(2 / 4)


def test_other_tokens_than_those_of_the_batch_in_the_loss_are_found(batch: TrajectoryBatch) -> None:
    ((first, second),) = packed(batch, [0, 1, 2], [3, 4])
    shifted = dataclasses.replace(second, targets=second.targets + 1)
    assert mismatch(batch, [[first, shifted]]) == pytest.approx(2 / 6)
