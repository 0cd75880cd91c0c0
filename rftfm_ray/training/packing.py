"""From trajectory columns to the tensors of one forward pass: without padding, each shared prompt once.

The samples of a group begin with the same prompt. Packed, its tokens pass through the model's linear layers
once for the whole group; only attention works on whole sequences (`training.attention`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rftfm_ray.batch import TrajectoryBatch


@dataclass(frozen=True, slots=True)
class Layout:
    """Positions of the tokens of b sequences, the longest of L, among N packed tokens.

    Attributes:
        source: (b, L) packed index of every position; beyond a sequence's end any valid index.
        row: (N,) a sequence that packed token n belongs to; with a shared prompt any one of them.
        column: (N,) its position in that sequence.
    """

    source: Tensor
    row: Tensor
    column: Tensor


@dataclass(frozen=True, slots=True)
class Packed:
    """Token ids (N,) of sequences without padding, and their layout."""

    tokens: Tensor
    layout: Layout


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """One forward pass: packed sequences, and the A tokens in them that the model chose.

    Attributes:
        packed: the sequences.
        row: (A,) sequence of every chosen token.
        column: (A,) position of the token before it, whose logits predict it.
        targets: (A,) the chosen tokens.
        sampled: (A,) their log-probs at sampling.
        weight: (A,) share of each token in the loss of the whole minibatch.
        chosen: (A,) their indices among all chosen tokens of the step, on the CPU.
        observed: (A,) whether an observation is right before them.
    """

    packed: Packed
    row: Tensor
    column: Tensor
    targets: Tensor
    sampled: Tensor
    weight: Tensor
    chosen: Tensor
    observed: Tensor


def pack_sequences(
    sequences: Sequence[NDArray[np.int32]], prompt_lengths: NDArray[np.int32], device: torch.device
) -> Packed:
    """Pack sequences; those that begin with the same prompt share its tokens."""
    lengths = np.array([len(s) for s in sequences])
    prompts = [s[:n].tobytes() for s, n in zip(sequences, prompt_lengths.tolist(), strict=True)]
    owners = {prompt: row for row, prompt in reversed(list(enumerate(prompts)))}
    owner = np.array([owners[prompt] for prompt in prompts])
    # The owner's whole sequence is packed; of the others only the tokens after the prompt.
    packed_lengths = lengths - np.where(owner == np.arange(len(owner)), 0, prompt_lengths)
    starts = np.cumsum([0, *packed_lengths])
    rest = starts[:-1] + np.where(owner == np.arange(len(owner)), prompt_lengths, 0)
    column = np.arange(int(lengths.max()))[None, :]
    prompt_length = prompt_lengths[:, None]
    source = np.where(column < prompt_length, starts[owner][:, None] + column, rest[:, None] + column - prompt_length)
    inside = column < lengths[:, None]
    source = np.where(inside, source, 0)
    rows, columns = np.nonzero(inside)
    tokens, row_of, column_of = (np.empty(int(starts[-1]), dtype=np.int64) for _ in range(3))
    index = source[rows, columns]
    tokens[index] = np.concatenate(sequences)
    row_of[index], column_of[index] = rows, columns
    parts = (torch.from_numpy(part).to(device) for part in (source, row_of, column_of))
    return Packed(torch.from_numpy(tokens).to(device), Layout(*parts))


def pack(
    batch: TrajectoryBatch,
    rows: NDArray[np.int64],
    weights: NDArray[np.float32],
    device: torch.device,
) -> MicroBatch:
    """Build the micro batch of `rows` on `device`; `weights` (per token) are (B,)."""
    offsets = batch.offsets
    sequences = [batch.tokens[offsets[r] : offsets[r + 1]] for r in rows]
    actions = [np.flatnonzero(batch.action[offsets[r] : offsets[r + 1]]) for r in rows]
    row = np.repeat(np.arange(len(rows)), [len(a) for a in actions])
    column = np.concatenate(actions) - 1
    index = offsets[rows][row] + column + 1
    chosen = np.cumsum(batch.action, dtype=np.int64) - 1
    after_prompt = column + 1 > batch.prompt_length[rows][row]

    def tensor(values: NDArray[np.generic], dtype: torch.dtype) -> Tensor:
        return torch.from_numpy(np.array(values)).to(device, dtype)

    return MicroBatch(
        packed=pack_sequences(sequences, batch.prompt_length[rows], device),
        row=tensor(row, torch.int64),
        column=tensor(column, torch.int64),
        targets=tensor(batch.tokens[index], torch.int64),
        sampled=tensor(batch.logprobs[index], torch.float32),
        weight=tensor(weights[rows][row], torch.float32),
        chosen=torch.from_numpy(chosen[index]),
        observed=tensor(after_prompt & ~batch.action[index - 1], torch.bool),
    )


def token_weights(counts: NDArray[np.int64], aggregation: str) -> NDArray[np.float32]:
    """(B,) weight of each chosen token of a sequence, so that a weighted sum over all is the mean of the minibatch.

    `token`: each chosen token counts the same. `sequence`: each sequence counts the same.

    Args:
        counts: (B,) chosen tokens of every sequence; sequences without any have no share.
        aggregation: `token` or `sequence`.
    """
    if aggregation == "token":
        return np.full(len(counts), 1 / max(int(counts.sum()), 1), dtype=np.float32)
    return (1 / (np.maximum(counts, 1) * max(int((counts > 0).sum()), 1))).astype(np.float32)


def split_groups(group: NDArray[np.int32], parts: int) -> list[NDArray[np.int64]]:
    """Row indices of `parts` minibatches (fewer when there are fewer groups); no group is split."""
    names = np.unique(group)
    chunks = np.array_split(names, min(parts, len(names)))
    return [np.flatnonzero(np.isin(group, chunk)) for chunk in chunks]


def split_rows(rows: NDArray[np.int64], size: int) -> list[NDArray[np.int64]]:
    """Micro batches of at most `size` rows in order, so that groups stay together where possible."""
    return [rows[i : i + size] for i in range(0, len(rows), size)]


def split_tokens(
    batch: TrajectoryBatch, rows: NDArray[np.int64], tokens: int, *, padded: bool
) -> list[NDArray[np.int64]]:
    """Micro batches, in order, that a model computes on at most `tokens` tokens each; a longer sequence is alone.

    Args:
        batch: of the rows.
        rows: of one minibatch.
        tokens: at most; shared prompts count once, as they are packed.
        padded: whether the model works on padded sequences instead, each as long as the longest.
    """
    parts: list[list[int]] = [[]]
    prompts, total, longest = set[bytes](), 0, 0
    for row in rows.tolist():
        first, end = batch.offsets[row : row + 2].tolist()
        start = first + int(batch.prompt_length[row])
        prompt, length = batch.tokens[first:start].tobytes(), end - first
        packed = total + length - (start - first if prompt in prompts else 0)
        if parts[-1] and (max(longest, length) * (len(parts[-1]) + 1) if padded else packed) > tokens:
            parts.append([])
            prompts, packed, longest = set(), length, 0
        parts[-1].append(row)
        prompts.add(prompt)
        total, longest = packed, max(longest, length)
    return [np.array(part, dtype=np.int64) for part in parts if part]
