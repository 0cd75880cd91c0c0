"""Figures of a step from its trajectories. Pure numpy."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rftfm_ray.batch import TrajectoryBatch
from rftfm_ray.metrics import BatchMetrics, RewardPart
from rftfm_ray.tasks.api import FAILURES, ToolStatus
from rftfm_ray.types import Termination

NAN = float("nan")
TRUNCATED = (Termination.MAX_TOKENS, Termination.MAX_TURNS)
QUANTILES = (0.1, 0.5, 0.9)
# Rewards travel as float32.
MISMATCH = 1e-5
_NAMES = tuple(field.name for field in dataclasses.fields(BatchMetrics))
STATUS_CODES = {status: code for code, status in enumerate(ToolStatus)}
FAILURE_CODES = [STATUS_CODES[status] for status in FAILURES]
# An answer of so many tokens has no content: one token, and the end of the sequence.
SHORT_TOKENS = 2
LONG_SHARE = 0.8
# Wrong rewards below which their correlation with anything is an accident.
LEAST_ERRORS = 4
# An odd multiplier of 64 bits, with both kinds of bits all over it: the golden ratio's.
_MIX = np.uint64(0x9E3779B97F4A7C15)


def batch_metrics(batch: TrajectoryBatch, token_limit: int, *, texts: bool = True) -> BatchMetrics:
    """Summarise one step's trajectories; see `BatchMetrics` for definitions.

    `token_limit` is how many tokens the model may choose in a trajectory, over all its turns; `texts` asks for the
    figures of their variety too.
    """
    valid = batch.valid
    figures = dict.fromkeys(_NAMES, NAN) | _tool_figures(batch) | _regrade_figures(batch)
    figures |= _golden_figures(batch) | _transcript_figures(batch)
    figures |= {
        "trajectory_count": float(len(batch)),
        "valid_rate": float(valid.mean()),
        "failed_rate": float(((batch.termination == Termination.FAILED) | batch.masked).mean()),
    }
    if valid.any():
        figures |= _reward_figures(batch) | _length_figures(batch, token_limit)
        figures |= _text_figures(batch) if texts else {}
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


def _length_figures(batch: TrajectoryBatch, token_limit: int) -> dict[str, float]:
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
        "stop_rate": float((termination == Termination.STOP).mean()),
        "truncated_rate": float(np.isin(termination, TRUNCATED).mean()),
        "turn_limit_rate": float((termination == Termination.MAX_TURNS).mean()),
        # An answer that is only the end-of-sequence token counts as empty.
        "empty_rate": float((length <= 1).mean()),
        "short_rate": float((length <= SHORT_TOKENS).mean()),
        "long_rate": float((length > LONG_SHARE * token_limit).mean()),
        "refilled_rate": float((batch.refills[batch.valid] > 0).mean()),
    }


def _text_figures(batch: TrajectoryBatch) -> dict[str, float]:
    """Variety of what the model wrote in its valid trajectories, and its mean log-prob.

    Bigrams and trigrams lie within a trajectory, across its observations. Compressed are the chosen tokens in the
    order of the batch, as int32 in little-endian order, by zlib at level 1.
    """
    owner = np.repeat(np.arange(len(batch)), batch.lengths())
    chosen = batch.action & batch.valid[owner]
    tokens, owner = batch.tokens[chosen], owner[chosen]
    figures = {"distinct_sample_rate": _distinct_samples(batch, tokens)}
    if not len(tokens):
        return figures
    # Keys of 64 bits instead of rows: sums of products that wrap around are equal for equal rows, and in practice
    # different for different ones.
    ids, owners = tokens.astype(np.uint64), owner.astype(np.uint64)
    pairs, triples = owner[1:] == owner[:-1], owner[2:] == owner[:-2]
    bigrams = ids[:-1] * _MIX + ids[1:]
    trigrams = (bigrams[:-1] * _MIX + ids[2:])[triples] + owners[2:][triples] * _MIX**3
    raw = tokens.astype("<i4").tobytes()
    return figures | {
        "unique_token_rate": _distinct(ids + owners * _MIX),
        "repeated_bigram_rate": 1 - _distinct((bigrams + owners[1:] * _MIX**2)[pairs]),
        "repeated_trigram_rate": 1 - _distinct(trigrams),
        "distinct_bigram_rate": _distinct(bigrams[pairs]),
        "compress_ratio": len(zlib.compress(raw, 1)) / len(raw),
        "sampling_logprob_mean": float(batch.logprobs[chosen].mean()),
    }


def _distinct(keys: NDArray[np.uint64]) -> float:
    """Distinct keys over keys; NaN without one."""
    return len(np.unique(keys)) / len(keys) if len(keys) else NAN


def _distinct_samples(batch: TrajectoryBatch, tokens: NDArray[np.int32]) -> float:
    """Mean over groups of the share of different sequences among the valid members: 1 when no two are the same.

    `tokens` are the chosen ones of the valid trajectories, in their order.
    """
    counts, group = batch.action_counts()[batch.valid], batch.group[batch.valid]
    keys = np.zeros(len(counts), np.uint64)
    if len(tokens):
        starts = np.cumsum(counts) - counts
        powers = np.cumprod(np.full(int(counts.max()), _MIX))
        terms = (tokens.astype(np.uint64) + np.uint64(1)) * powers[np.arange(len(tokens)) - np.repeat(starts, counts)]
        # Rows without a token keep 0; to reduceat an empty row would be its neighbour's first token.
        keys[counts > 0] = np.add.reduceat(terms, starts[counts > 0])
    order = np.lexsort((keys, group))
    keys, group = keys[order], group[order]
    first = np.r_[True, group[1:] != group[:-1]]
    fresh = first | np.r_[True, keys[1:] != keys[:-1]]
    begins = np.flatnonzero(first)
    sizes = np.diff(np.r_[begins, len(group)])
    return float((np.add.reduceat(fresh.astype(np.int64), begins) / sizes).mean())


def _tool_figures(batch: TrajectoryBatch) -> dict[str, float]:
    """Calls of masked trajectories count: they were made."""
    calls = np.bincount(batch.call_trajectory, minlength=len(batch))
    latency = batch.call_latency_s.astype(np.float64)
    failed = np.isin(batch.call_status, FAILURE_CODES)
    return {
        "tool_call_count": float(len(batch.call_trajectory)),
        "tool_calls_mean": float(calls[batch.valid].mean()) if batch.valid.any() else NAN,
        "tool_unparsable_rate": _share(batch.call_status == STATUS_CODES[ToolStatus.UNPARSABLE]),
        "tool_error_rate": _share(failed),
        "tool_timeout_rate": _share(batch.call_status == STATUS_CODES[ToolStatus.TIMEOUT]),
        "tool_retry_rate": _share(batch.call_tries > 1),
        "tool_shadow_error_rate": _share(~batch.shadow_ok),
        "known_call_count": float(len(batch.known_ok)),
        "known_call_error_rate": _share(~batch.known_ok),
        "tool_latency_s": _mean(latency),
        "tool_latency_max_s": float(latency.max()) if len(latency) else NAN,
        "tool_error_latency_s": _mean(latency[failed]),
    }


def _transcript_figures(batch: TrajectoryBatch) -> dict[str, float]:
    """Identities of transcripts, masked ones included: they were made by the same tools and rules."""
    replayed = batch.replayed
    return {
        "observation_count": float(len(batch.observation_ok)),
        "observation_mismatch_rate": _share(~batch.observation_ok),
        "observation_decode_mismatch_rate": _share(~batch.observation_decode_ok),
        "limit_excess": _mean(batch.turn_limit_excess.astype(np.float64)),
        "cut_short_rate": _share(batch.turn_cut_short),
        "termination_mismatch_rate": _share(~batch.termination_ok),
        "replay_count": float(np.count_nonzero(replayed)),
        "replay_observation_mismatch_rate": _share(~batch.replay_observation_ok[replayed]),
        "replay_termination_mismatch_rate": _share(~batch.replay_termination_ok[replayed]),
    }


def _golden_figures(batch: TrajectoryBatch) -> dict[str, float]:
    """The live reward channel against what known-right and known-wrong responses are worth."""
    error = batch.golden_live.astype(np.float64) - batch.golden_trusted
    # A verdict that failed is no wrong verdict.
    came = ~np.isnan(error)
    change = np.abs(batch.golden_again.astype(np.float64) - batch.golden_live)
    error, right = error[came], batch.golden_right[came]
    return {
        "golden_count": float(len(error)),
        "golden_mismatch_rate": _share(np.abs(error) > MISMATCH),
        "golden_right_error": _mean(error[right]),
        "golden_wrong_error": _mean(error[~right]),
        "golden_repeat_mismatch_rate": _share(change[~np.isnan(change)] > MISMATCH),
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
        **_error_split(batch, asked, live),
    }


def _error_split(batch: TrajectoryBatch, asked: NDArray[np.bool_], error: NDArray[np.float64]) -> dict[str, float]:
    """Which answers the live channel is wrong about.

    Args:
        batch: of the step.
        asked: (B,) trajectories that the trusted verifier graded, n of them.
        error: (n,) live less trusted reward of these.
    """
    hit = np.where(np.abs(error) > MISMATCH, np.sign(error), 0.0)
    right = batch.trusted_correct[asked]
    # The end of the sequence is no content.
    content = (batch.action_counts() - (batch.termination == Termination.EOS))[asked].astype(np.float64)
    figures = {"regrade_hit_right": _mean(hit[right]), "regrade_hit_wrong": _mean(hit[~right])}
    if not hit.any():
        return figures
    figures["regrade_empty"] = _share(content[hit != 0] < 1)
    if np.count_nonzero(hit) >= LEAST_ERRORS:
        figures["regrade_by_length"] = _correlation(error, content)
        figures["regrade_by_repetition"] = _correlation(error, _repeated_shares(batch)[asked])
    if hit[~right].any():
        by_first, by_last = (_explained(hit[~right], form[asked][~right]) for form in _outer_tokens(batch))
        figures["regrade_by_form"] = float(np.fmax(by_first, by_last))
    return figures


def _outer_tokens(batch: TrajectoryBatch) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(B,) first and last token that the policy chose in the last turn of each trajectory; -1 without any.

    A token that has ended the trajectory is none of its answer.
    """
    before = np.concatenate([[False], batch.action[:-1]])
    before[batch.offsets[:-1][batch.offsets[:-1] < len(before)]] = False
    begins, first, last = batch.action & ~before, np.full(len(batch), -1), np.full(len(batch), -1)
    ended = batch.termination == Termination.EOS
    for row, (start, end) in enumerate(zip(batch.offsets[:-1], batch.offsets[1:], strict=True)):
        chosen = np.flatnonzero(batch.action[start:end])
        chosen = chosen[: len(chosen) - bool(ended[row])]
        if len(chosen):
            turns = np.flatnonzero(begins[start : start + chosen[-1] + 1])
            first[row], last[row] = batch.tokens[start + turns[-1]], batch.tokens[start + chosen[-1]]
    return first, last


def _explained(values: NDArray[np.float64], groups: NDArray[np.int64]) -> float:
    """Share of the variance of some values that their groups explain, less what groups explain by chance (Ezekiel).

    NaN where values do not vary, or hardly any group has two of them.
    """
    _, index, counts = np.unique(groups, return_inverse=True, return_counts=True)
    left, total = len(values) - len(counts), float(((values - values.mean()) ** 2).sum())
    if left < LEAST_ERRORS or total == 0:
        return NAN
    means = np.bincount(index, values) / counts
    within = float(((values - means[index]) ** 2).sum())
    return 1 - (within / left) / (total / (len(values) - 1))


def _repeated_shares(batch: TrajectoryBatch) -> NDArray[np.float64]:
    """(B,) share of the chosen tokens of each trajectory that occur earlier in it; 0 without any."""
    counts = batch.action_counts()
    owner = np.repeat(np.arange(len(batch)), counts)
    # Token ids are less than 2^32.
    pairs = np.unique(owner << 32 | batch.tokens[batch.action])
    distinct = np.bincount(pairs >> 32, minlength=len(batch))
    shares: NDArray[np.float64] = 1 - distinct / np.maximum(counts, 1)
    return np.where(counts > 0, shares, 0.0)


def _correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Pearson's correlation; NaN where one of the two does not vary."""
    x, y = a - a.mean(), b - b.mean()
    scale = float(np.sqrt((x**2).sum() * (y**2).sum()))
    return float((x * y).sum()) / scale if scale > 0 else NAN


def _share(found: NDArray[np.bool_]) -> float:
    """Share of what is True; NaN of nothing."""
    return float(found.mean()) if len(found) else NAN


def _mean(values: NDArray[np.float64]) -> float:
    """Mean; NaN of nothing."""
    return float(values.mean()) if len(values) else NAN


def part_figures(batch: TrajectoryBatch, names: Sequence[str]) -> tuple[RewardPart, ...]:
    """What each part of the reward came to in a step; `names` are those of the columns of `batch.reward_parts`."""
    valid = batch.reward_parts[batch.valid].astype(np.float64)
    found = []
    for name, column in zip(names, valid.T, strict=True):
        applies = np.isfinite(column)
        mean = float(column[applies].mean()) if applies.any() else NAN
        found.append(RewardPart(name, mean, float(applies.mean()) if len(column) else NAN))
    return tuple(found)
