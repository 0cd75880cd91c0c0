"""Packing of trajectories into micro batches, and the cuts into minibatches and micro batches."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rftfm_ray.batch import TrajectoryBatch
from rftfm_ray.training.packing import MicroBatch, pack, split_groups, split_rows

MakeBatch = Callable[..., TrajectoryBatch]


def _pack(batch: TrajectoryBatch, rows: list[int]) -> MicroBatch:
    advantages = np.arange(1, len(batch) + 1, dtype=np.float32)
    return pack(batch, np.array(rows, np.int64), advantages, torch.device("cpu"))


@pytest.fixture
def batch(make_batch: MakeBatch) -> TrajectoryBatch:
    """Three trajectories of different lengths; the first has an observation in the middle, the last is masked."""
    return make_batch([1.0, 2.0, 3.0], roles=["ppaaooa", "pppa", "ppaaa"], valid=[True, True, False])


def test_tokens_are_padded_on_the_right(batch: TrajectoryBatch) -> None:
    expected = [[1, 2, 3, 4, 5, 6, 7], [101, 102, 103, 104, 0, 0, 0]]
    assert _pack(batch, [0, 1]).tokens.tolist() == expected


def test_predictions_start_at_the_shortest_prompt(batch: TrajectoryBatch) -> None:
    assert _pack(batch, [0, 1]).first == 1
    assert _pack(batch, [1]).first == 2


def test_targets_are_the_tokens_after_first(batch: TrajectoryBatch) -> None:
    assert _pack(batch, [0, 1]).targets.tolist() == [[3, 4, 5, 6, 7], [103, 104, 0, 0, 0]]


def test_mask_is_one_exactly_where_the_model_chose(batch: TrajectoryBatch) -> None:
    assert _pack(batch, [0, 1]).mask.tolist() == [[1, 1, 0, 0, 1], [0, 1, 0, 0, 0]]


def test_sampled_logprobs_stand_at_their_targets(batch: TrajectoryBatch) -> None:
    micro = _pack(batch, [0, 1])
    torch.testing.assert_close(micro.sampled, micro.mask * micro.targets / -1000)
    assert micro.sampled[0].tolist() == pytest.approx([-0.003, -0.004, 0, 0, -0.007])


def test_rows_may_come_in_any_order_and_keep_their_advantage(batch: TrajectoryBatch) -> None:
    micro = _pack(batch, [2, 0])
    assert micro.advantage.tolist() == [[3.0], [1.0]]
    assert micro.tokens[:, 0].tolist() == [201, 1]
    assert micro.rows.tolist() == [2, 0]


def test_masked_trajectory_has_no_mask_and_no_logprobs(batch: TrajectoryBatch) -> None:
    micro = _pack(batch, [1, 2])
    assert micro.mask.sum(-1).tolist() == [1, 0]
    assert micro.sampled[1].tolist() == [0, 0, 0]


def test_shapes_and_types_are_those_of_a_forward_pass(batch: TrajectoryBatch) -> None:
    micro = _pack(batch, [0, 1, 2])
    assert micro.tokens.shape == (3, 7)
    assert micro.advantage.shape == (3, 1)
    assert micro.tokens.dtype == micro.targets.dtype == torch.int64
    assert micro.mask.dtype == micro.sampled.dtype == micro.advantage.dtype == torch.float32
    assert micro.targets.shape == micro.mask.shape == micro.sampled.shape == (3, 7 - 1 - micro.first)


ROLES = st.builds(
    lambda prompt, rest: "p" * prompt + rest, st.integers(1, 4), st.text(alphabet="ao", min_size=1, max_size=6)
)


@given(roles=st.lists(ROLES, min_size=1, max_size=5), data=st.data())
def test_every_action_of_a_valid_row_is_a_target_once(
    make_batch: MakeBatch, roles: list[str], data: st.DataObject
) -> None:
    valid = data.draw(st.lists(st.booleans(), min_size=len(roles), max_size=len(roles)))
    batch = make_batch([0.0] * len(roles), roles=roles, valid=valid)
    rows = data.draw(st.permutations(range(len(roles))))
    micro = _pack(batch, rows)
    for place, row in enumerate(rows):
        expected = [100 * row + 1 + i for i, role in enumerate(roles[row]) if role == "a" and valid[row]]
        assert micro.targets[place][micro.mask[place] > 0].tolist() == expected


@given(names=st.lists(st.integers(0, 6), min_size=1, max_size=30), parts=st.integers(1, 8))
def test_minibatches_cover_all_rows_and_split_no_group(names: list[int], parts: int) -> None:
    group = np.array(names, np.int32)
    cut = split_groups(group, parts)
    assert len(cut) == min(parts, len(set(names)))
    assert sorted(np.concatenate(cut).tolist()) == list(range(len(names)))
    owners = [set(group[rows].tolist()) for rows in cut]
    assert sum(len(owner) for owner in owners) == len(set(names))


def test_minibatches_have_as_many_groups_each() -> None:
    cut = split_groups(np.repeat(np.arange(6, dtype=np.int32), 2), 3)
    assert [rows.tolist() for rows in cut] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]


@given(lengths=st.lists(st.integers(1, 50), min_size=1, max_size=30), size=st.integers(1, 12), data=st.data())
def test_micro_batches_cover_their_rows_within_the_size(lengths: list[int], size: int, data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.integers(0, len(lengths) - 1), min_size=1, unique=True))
    cut = split_rows(np.array(rows, np.int64), np.array(lengths, np.int64), size)
    assert sorted(np.concatenate(cut).tolist()) == sorted(rows)
    assert all(1 <= len(part) <= size for part in cut)
    assert len(cut) == -(-len(rows) // size)


def test_micro_batches_hold_like_lengths() -> None:
    lengths = np.array([9, 1, 8, 2, 7, 3], np.int64)
    cut = split_rows(np.arange(6), lengths, 2)
    assert [lengths[part].tolist() for part in cut] == [[1, 2], [3, 7], [8, 9]]
