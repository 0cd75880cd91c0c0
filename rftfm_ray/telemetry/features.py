"""Figures of a step from its trajectories. Pure numpy."""

from __future__ import annotations

import dataclasses

import numpy as np

from rftfm_ray.batch import TrajectoryBatch
from rftfm_ray.tasks.api import ToolStatus
from rftfm_ray.types import BatchMetrics, Termination

NAN = float("nan")
TRUNCATED = (Termination.MAX_TOKENS, Termination.MAX_TURNS)
QUANTILES = (0.1, 0.5, 0.9)
# Rewards travel as float32.
MISMATCH = 1e-5
_NAMES = tuple(field.name for field in dataclasses.fields(BatchMetrics))
STATUS_CODES = {status: code for code, status in enumerate(ToolStatus)}


def batch_metrics(batch: TrajectoryBatch) -> BatchMetrics:
    """Summarise one step's trajectories; see `BatchMetrics` for definitions."""
    valid = batch.valid
    figures = dict.fromkeys(_NAMES, NAN) | _tool_figures(batch) | _regrade_figures(batch)
    figures |= {
        "trajectory_count": float(len(batch)),
        "valid_rate": float(valid.mean()),
        "failed_rate": float((batch.termination == Termination.FAILED).mean()),
    }
    if valid.any():
        figures |= _reward_figures(batch) | _length_figures(batch) | _text_figures(batch)
    return BatchMetrics(**figures)


def _reward_figures(batch: TrajectoryBatch) -> dict[str, float]:
    reward, group = batch.reward[batch.valid].astype(np.float64), batch.group[batch.valid]
    correct = batch.correct[batch.valid]
    q10, q50, q90 = np.quantile(reward, QUANTILES).tolist()
    names, index = np.unique(group, return_inverse=True)
    low, high = np.full(len(names), np.inf), np.full(len(names), -np.inf)
    np.minimum.at(low, index, reward)
    np.maximum.at(high, index, reward)
    flat, right = low == high, np.bincount(index, weights=correct) / np.bincount(index)
    return {
        "reward_mean": float(reward.mean()),
        "reward_std": float(reward.std()),
        "reward_min": float(reward.min()),
        "reward_q10": q10,
        "reward_q50": q50,
        "reward_q90": q90,
        "reward_max": float(reward.max()),
        "correct_rate": float(correct.mean()),
        "zero_variance_group_rate": float(flat.mean()),
        "all_right_group_rate": float((flat & (right == 1)).mean()),
        "all_wrong_group_rate": float((flat & (right == 0)).mean()),
    }


def _length_figures(batch: TrajectoryBatch) -> dict[str, float]:
    length, termination = batch.action_counts()[batch.valid], batch.termination[batch.valid]
    q10, q50, q90 = np.quantile(length, QUANTILES).tolist()
    return {
        "length_mean": float(length.mean()),
        "length_q10": q10,
        "length_q50": q50,
        "length_q90": q90,
        "length_max": float(length.max()),
        "turns_mean": float(batch.turns[batch.valid].mean()),
        "eos_rate": float((termination == Termination.EOS).mean()),
        "truncated_rate": float(np.isin(termination, TRUNCATED).mean()),
        # An answer that is only the end-of-sequence token counts as empty.
        "empty_rate": float((length <= 1).mean()),
        "refilled_rate": float((batch.refills[batch.valid] > 0).mean()),
    }


def _text_figures(batch: TrajectoryBatch) -> dict[str, float]:
    """Variety of what the model wrote, over trajectories with at least one bigram, and its mean log-prob."""
    owner = np.repeat(np.arange(len(batch)), batch.lengths())
    chosen = batch.action & batch.valid[owner]
    tokens, owner = batch.tokens[chosen].astype(np.int64), owner[chosen]
    if not len(tokens):
        return {}
    span = int(tokens.max()) + 1
    together = owner[1:] == owner[:-1]
    bigrams = ((owner[:-1] * span + tokens[:-1]) * span + tokens[1:])[together]
    distinct = len(np.unique(owner * span + tokens))
    return {
        "unique_token_rate": distinct / len(tokens),
        "repeated_bigram_rate": 1 - len(np.unique(bigrams)) / len(bigrams) if len(bigrams) else NAN,
        "sampling_logprob_mean": float(batch.logprobs[chosen].mean()),
    }


def _tool_figures(batch: TrajectoryBatch) -> dict[str, float]:
    """Calls of masked trajectories count: they were made."""
    calls = np.bincount(batch.call_trajectory, minlength=len(batch))
    shadow = batch.shadow_ok
    return {
        "tool_call_count": float(len(batch.call_trajectory)),
        "tool_calls_mean": float(calls[batch.valid].mean()) if batch.valid.any() else NAN,
        "tool_unparsable_rate": _status_rate(batch, ToolStatus.UNPARSABLE),
        "tool_error_rate": _status_rate(batch, ToolStatus.ERROR),
        "tool_retry_rate": float((batch.call_tries > 1).mean()) if len(batch.call_tries) else NAN,
        "tool_shadow_error_rate": float((~shadow).mean()) if len(shadow) else NAN,
        "tool_latency_s": float(batch.call_latency_s.mean()) if len(batch.call_latency_s) else NAN,
    }


def _regrade_figures(batch: TrajectoryBatch) -> dict[str, float]:
    """The live reward channel, and what trains, against the trusted verifier where it was asked."""
    asked = ~np.isnan(batch.trusted_reward)
    count = int(asked.sum())
    if not count:
        return {"regrade_count": 0.0}
    trusted = batch.trusted_reward[asked].astype(np.float64)
    live, trains = batch.live_reward[asked] - trusted, batch.reward[asked] - trusted
    return {
        "regrade_count": float(count),
        "regrade_mismatch_rate": float((np.abs(live) > MISMATCH).mean()),
        "regrade_error_mean": float(live.mean()),
        "trained_mismatch_rate": float((np.abs(trains) > MISMATCH).mean()),
    }


def _status_rate(batch: TrajectoryBatch, status: ToolStatus) -> float:
    """Share of tool calls that ended so; NaN without a call."""
    return float((batch.call_status == STATUS_CODES[status]).mean()) if len(batch.call_status) else NAN
