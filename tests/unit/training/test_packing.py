"""Packing of trajectories into micro batches, and the cuts into minibatches and micro batches."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rftfm_ray.batch import TrajectoryBatch
from rftfm_ray.training.packing import (
    Layout,
    MicroBatch,
    Packed,
    pack,
    pack_sequences,
    split_groups,
    split_rows,
    split_tokens,
    token_weights,
)

MakeBatch = Callable[..., TrajectoryBatch]


def _pack(batch: TrajectoryBatch, rows: list[int]) -> MicroBatch:
    weights = np.arange(1, len(batch) + 1, dtype=np.float32) / np.float32(10)
    return pack(batch, np.array(rows, np.int64), weights, torch.device("cpu"))


def _sequences(packed: Packed, lengths: list[int]) -> list[list[int]]:
    """The sequences as the layout gives them back."""
    rows = packed.tokens[packed.layout.source].tolist()
    return [row[:n] for row, n in zip(rows, lengths, strict=True)]


@pytest.fixture
def batch(make_batch: MakeBatch) -> TrajectoryBatch:
    """Trajectories of different lengths; the first has an observation in the middle."""
    return make_batch([1.0, 2.0, 3.0], roles=["ppaaooa", "pppa", "ppaaa"])


def test_targets_are_the_chosen_tokens_and_columns_stand_before_them(batch: TrajectoryBatch) -> None:
    micro = _pack(batch, [0, 1])
    assert micro.targets.tolist() == [3, 4, 7, 104]
    assert micro.row.tolist() == [0, 0, 0, 1]
    assert micro.column.tolist() == [1, 2, 5, 2]


def test_every_target_carries_what_belongs_to_its_trajectory(batch: TrajectoryBatch) -> None:
    micro = _pack(batch, [2, 0])
    assert micro.targets.tolist() == [203, 204, 205, 3, 4, 7]
    assert micro.weight.tolist() == pytest.approx([0.3] * 3 + [0.1] * 3)
    assert micro.sampled.tolist() == pytest.approx([-t / 1000 for t in micro.targets.tolist()])


def test_types_are_those_of_a_forward_pass(batch: TrajectoryBatch) -> None:
    micro = _pack(batch, [0, 1, 2])
    integers = (micro.packed.tokens, micro.row, micro.column, micro.targets, micro.chosen)
    assert {t.dtype for t in (*integers, *vars_of(micro.packed.layout))} == {torch.int64}
    assert {t.dtype for t in (micro.sampled, micro.weight)} == {torch.float32}
    assert micro.observed.dtype == torch.bool


def test_places_among_all_chosen_tokens_of_the_step(batch: TrajectoryBatch) -> None:
    assert _pack(batch, [2, 0]).chosen.tolist() == [4, 5, 6, 0, 1, 2]
    everywhere = np.flatnonzero(batch.action)
    assert batch.tokens[everywhere][_pack(batch, [1, 2]).chosen].tolist() == [104, 203, 204, 205]


def test_tokens_right_after_an_observation(make_batch: MakeBatch) -> None:
    batch = make_batch([0.0] * 3, roles=["paoaaooaa", "ppa", "poa"])
    assert _pack(batch, [0, 1, 2]).observed.tolist() == [False, True, False, True, False, False, True]


def vars_of(layout: Layout) -> tuple[torch.Tensor, ...]:
    """The tensors of a layout."""
    return layout.source, layout.row, layout.column


def test_a_shared_prompt_is_packed_once() -> None:
    sequences = [np.array(s, np.int32) for s in ([5, 6, 7, 1], [5, 6, 7, 2, 3], [5, 6, 1], [5, 6, 7, 4])]
    packed = pack_sequences(sequences, np.array([3, 3, 2, 3], np.int32), torch.device("cpu"))
    assert packed.tokens.tolist() == [5, 6, 7, 1, 2, 3, 5, 6, 1, 4]
    assert _sequences(packed, [4, 5, 3, 4]) == [s.tolist() for s in sequences]


SEQUENCES = st.lists(
    st.tuples(st.lists(st.integers(0, 1), max_size=3), st.lists(st.integers(0, 9), min_size=1, max_size=5)),
    min_size=1,
    max_size=8,
)


@given(parts=SEQUENCES)
def test_layout_gives_every_sequence_back(parts: list[tuple[list[int], list[int]]]) -> None:
    sequences = [np.array([*prompt, *rest], np.int32) for prompt, rest in parts]
    prompts = np.array([len(prompt) for prompt, _ in parts], np.int32)
    packed = pack_sequences(sequences, prompts, torch.device("cpu"))
    assert _sequences(packed, [len(s) for s in sequences]) == [s.tolist() for s in sequences]
    distinct = {tuple(prompt) for prompt, _ in parts}
    assert len(packed.tokens) == sum(map(len, distinct)) + sum(len(rest) for _, rest in parts)
    layout = packed.layout
    assert layout.source[layout.row, layout.column].tolist() == list(range(len(packed.tokens)))


@pytest.mark.parametrize("aggregation", ["token", "sequence"])
@given(counts=st.lists(st.integers(0, 20), min_size=1, max_size=12).filter(any))
def test_weights_make_a_mean(aggregation: str, counts: list[int]) -> None:
    weights = token_weights(np.array(counts, np.int64), aggregation)
    assert float((weights * counts).sum()) == pytest.approx(1.0, rel=1e-5)


def test_weights_of_tokens_and_of_sequences() -> None:
    counts = np.array([1, 3, 0], np.int64)
    assert token_weights(counts, "token").tolist() == pytest.approx([0.25, 0.25, 0.25])
    assert token_weights(counts, "sequence")[:2].tolist() == pytest.approx([1 / 2, 1 / 6])


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


@given(rows=st.lists(st.integers(0, 30), unique=True), size=st.integers(1, 12))
def test_micro_batches_keep_the_order_within_the_size(rows: list[int], size: int) -> None:
    cut = split_rows(np.array(rows, np.int64), size)
    assert [row for part in cut for row in part.tolist()] == rows
    assert all(1 <= len(part) <= size for part in cut)


@given(
    drawn=st.lists(st.tuples(st.sampled_from([[1], [2, 3], [4, 5, 6]]), st.integers(1, 6)), min_size=1, max_size=16),
    limit=st.integers(1, 30),
    padded=st.booleans(),
)
def test_micro_batches_keep_the_order_within_the_tokens(
    drawn: list[tuple[list[int], int]], limit: int, padded: bool
) -> None:
    prompts = np.array([len(prompt) for prompt, _ in drawn], np.int32)
    sequences = [np.array([*prompt, *range(10, 10 + size)], np.int32) for prompt, size in drawn]
    lengths = [len(sequence) for sequence in sequences]
    batch = SimpleNamespace(
        tokens=np.concatenate(sequences), offsets=np.cumsum([0, *lengths]), prompt_length=prompts
    )  # fmt: skip

    def computed(rows: Sequence[int]) -> int:
        if padded:
            return len(rows) * max(lengths[row] for row in rows)
        chosen = [sequences[row] for row in rows]
        return len(pack_sequences(chosen, prompts[list(rows)], torch.device("cpu")).tokens)

    rows = list(range(len(drawn)))
    parts = split_tokens(cast(TrajectoryBatch, batch), np.array(rows), limit, padded=padded)
    assert [row for part in parts for row in part.tolist()] == rows
    assert all(len(part) == 1 or computed(part.tolist()) <= limit for part in parts)
    # None of them has room for the first sequence of the next.
    for part, following in itertools.pairwise(parts):
        assert computed([*part.tolist(), int(following[0])]) > limit
