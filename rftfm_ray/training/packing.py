"""From packed trajectory columns to the padded tensors of one forward pass."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rftfm_ray.batch import TrajectoryBatch


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """b sequences of one forward pass, right-padded to their longest.

    Padding stands on the right, where a causal model's real tokens never look, so no attention mask is needed.

    Attributes:
        tokens: (b, L) input ids; padding is 0.
        first: the first position whose prediction matters: predictions are of tokens `first + 1 ..`.
        targets: (b, T) predicted tokens, T = L - 1 - first.
        mask: (b, T) 1.0 where the model chose the target in a valid trajectory.
        sampled: (b, T) log-probs at sampling.
        advantage: (b, 1).
        rows: (b,) indices into the step's batch.
    """

    tokens: Tensor
    first: int
    targets: Tensor
    mask: Tensor
    sampled: Tensor
    advantage: Tensor
    rows: NDArray[np.int64]


def pack(
    batch: TrajectoryBatch, rows: NDArray[np.int64], advantages: NDArray[np.float32], device: torch.device
) -> MicroBatch:
    """Build the micro batch of `rows` on `device`."""
    lengths = batch.lengths()[rows]
    longest = int(lengths.max())
    first = int(batch.prompt_length[rows].min()) - 1
    # (b, L): position within the packed columns, and whether there is a token at all.
    inside = np.arange(longest)[None, :] < lengths[:, None]
    source = np.where(inside, batch.offsets[rows][:, None] + np.arange(longest)[None, :], 0)
    tokens = np.where(inside, batch.tokens[source], 0).astype(np.int64)
    action = inside & batch.action[source] & batch.valid[rows][:, None]
    sampled = np.where(action, batch.logprobs[source], 0.0).astype(np.float32)
    return MicroBatch(
        tokens=torch.from_numpy(tokens).to(device),
        first=first,
        targets=torch.from_numpy(tokens[:, first + 1 :].copy()).to(device),
        mask=torch.from_numpy(action[:, first + 1 :].astype(np.float32)).to(device),
        sampled=torch.from_numpy(sampled[:, first + 1 :].copy()).to(device),
        advantage=torch.from_numpy(advantages[rows].copy()).unsqueeze(-1).to(device),
        rows=rows,
    )


def split_groups(group: NDArray[np.int32], parts: int) -> list[NDArray[np.int64]]:
    """Row indices of `parts` minibatches (fewer when there are fewer groups); no group is split."""
    names = np.unique(group)
    chunks = np.array_split(names, min(parts, len(names)))
    return [np.flatnonzero(np.isin(group, chunk)) for chunk in chunks]


def split_rows(rows: NDArray[np.int64], lengths: NDArray[np.int64], size: int) -> list[NDArray[np.int64]]:
    """Micro batches of at most `size` rows; like lengths go together, so that little is padding."""
    if len(rows) <= size:
        return [rows]
    ordered = rows[np.argsort(lengths[rows], kind="stable")]
    return [ordered[i : i + size] for i in range(0, len(ordered), size)]
