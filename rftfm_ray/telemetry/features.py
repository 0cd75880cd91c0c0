"""Figures of a step from its trajectories. Pure numpy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rftfm_ray.batch import TrajectoryBatch
from rftfm_ray.tasks.api import ToolStatus
from rftfm_ray.types import BatchMetrics, Termination

NAN = float("nan")
TRUNCATED = (Termination.MAX_TOKENS, Termination.MAX_TURNS)
STATUS_CODES = {status: code for code, status in enumerate(ToolStatus)}


def batch_metrics(batch: TrajectoryBatch) -> BatchMetrics:
    """Summarise one step's trajectories; see `BatchMetrics` for definitions."""
    valid = batch.valid
    if not valid.any():
        return BatchMetrics(
            reward_mean=NAN, reward_std=NAN, reward_min=NAN, reward_max=NAN, correct_rate=NAN, valid_rate=0.0,
            zero_variance_group_rate=NAN, length_mean=NAN, length_max=NAN, turns_mean=NAN, eos_rate=NAN,
            truncated_rate=NAN, empty_rate=NAN, tool_calls_mean=NAN, tool_unparsable_rate=NAN, tool_error_rate=NAN,
            sampling_logprob_mean=NAN,
        )  # fmt: skip
    reward = batch.reward[valid].astype(np.float64)
    length, termination = batch.action_counts()[valid], batch.termination[valid]
    calls = np.bincount(batch.call_trajectory, minlength=len(batch))[valid]
    chosen = batch.action & np.repeat(valid, batch.lengths())
    return BatchMetrics(
        reward_mean=float(reward.mean()),
        reward_std=float(reward.std()),
        reward_min=float(reward.min()),
        reward_max=float(reward.max()),
        correct_rate=float(batch.correct[valid].mean()),
        valid_rate=float(valid.mean()),
        zero_variance_group_rate=_zero_variance_rate(reward, batch.group[valid]),
        length_mean=float(length.mean()),
        length_max=float(length.max()),
        turns_mean=float(batch.turns[valid].mean()),
        eos_rate=float((termination == Termination.EOS).mean()),
        truncated_rate=float(np.isin(termination, TRUNCATED).mean()),
        # An answer that is only the end-of-sequence token counts as empty.
        empty_rate=float((length <= 1).mean()),
        tool_calls_mean=float(calls.mean()),
        tool_unparsable_rate=_status_rate(batch, ToolStatus.UNPARSABLE),
        tool_error_rate=_status_rate(batch, ToolStatus.ERROR),
        sampling_logprob_mean=float(batch.logprobs[chosen].mean()) if chosen.any() else NAN,
    )


def _zero_variance_rate(reward: NDArray[np.float64], group: NDArray[np.int32]) -> float:
    names, index = np.unique(group, return_inverse=True)
    low, high = np.full(len(names), np.inf), np.full(len(names), -np.inf)
    np.minimum.at(low, index, reward)
    np.maximum.at(high, index, reward)
    return float((low == high).mean())


def _status_rate(batch: TrajectoryBatch, status: ToolStatus) -> float:
    """Share of tool calls that ended so; NaN without a call. Calls of masked trajectories count: they were made."""
    return float((batch.call_status == STATUS_CODES[status]).mean()) if len(batch.call_status) else NAN
