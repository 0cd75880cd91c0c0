"""Log-prob gaps of rollout and learner by kind of token: which tokens the sampler made likelier than it says. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rftfm_ray.batch import TrajectoryBatch
from rftfm_ray.types import Termination

NAN = float("nan")
# Larger gaps only show that the two distributions are unrelated.
LARGEST_GAP = 20.0
# Two engines in float32 agree to 3e-5 nats on one token; what a sampler changes moves a token by more than this.
SAME = 1e-3
# Mean square in square nats below which all tokens are as likely as the learner expects, and no slope can be told.
LEAST_VARIANCE = 1e-6


@dataclass(frozen=True, slots=True)
class LogprobGaps:
    """Means in nats, a slope and a share, as `UpdateMetrics` defines them; NaN without such tokens."""

    gap_end: float = NAN
    gap_rest: float = NAN
    gap_again: float = NAN
    gap_new: float = NAN
    gap_slope: float = NAN
    gap_zero_share: float = NAN


def logprob_gaps(batch: TrajectoryBatch, learner: NDArray[np.floating], entropy: NDArray[np.floating]) -> LogprobGaps:
    """Gaps of the log-probs at sampling to the learner's.

    Args:
        batch: with A chosen tokens in all.
        learner: (A,) log-probs in nats of these tokens by the weights that sampled them; NaN where they were not
            computed, and such tokens do not count.
        entropy: (A,) of the learner's distribution at each of them, in nats.
    """
    tokens, owner = batch.tokens[batch.action], np.repeat(np.arange(len(batch)), batch.action_counts())
    known = np.isfinite(learner)
    if not known.any():
        return LogprobGaps()
    own = np.maximum(learner.astype(np.float64), -LARGEST_GAP)
    sampled = np.maximum(batch.logprobs[batch.action].astype(np.float64), -LARGEST_GAP)
    gap, is_end = sampled - own, np.isin(tokens, _end_tokens(batch, tokens))
    again = _occurred_before(tokens, owner)
    rest = known & ~is_end

    def mean(of: NDArray[np.bool_]) -> float:
        return float(gap[of].mean()) if of.any() else NAN

    return LogprobGaps(
        gap_end=mean(known & is_end),
        gap_rest=mean(rest),
        gap_again=mean(rest & again),
        gap_new=mean(rest & ~again),
        gap_slope=_sharpness(gap[known], own[known] + entropy.astype(np.float64)[known]),
        gap_zero_share=float((np.abs(gap[known]) <= SAME).mean()),
    )


def _end_tokens(batch: TrajectoryBatch, tokens: NDArray[np.int32]) -> NDArray[np.int32]:
    """The token ids with which trajectories of the batch have ended themselves."""
    counts = batch.action_counts()
    ended = (batch.termination == Termination.EOS) & (counts > 0)
    return np.unique(tokens[np.cumsum(counts)[ended] - 1])


def _occurred_before(tokens: NDArray[np.int32], owner: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(A,) whether a token occurs earlier among the chosen tokens of its trajectory."""
    # Token ids are less than 2^32.
    _, first = np.unique(owner << 32 | tokens, return_index=True)
    again = np.ones(len(tokens), np.bool_)
    again[first] = False
    return again


def _sharpness(gap: NDArray[np.float64], excess: NDArray[np.float64]) -> float:
    """Exponent b by which the sampler sharpens the learner's p, to first order; NaN where nothing tells it.

    Of the distribution in proportion to p^b, the derivative of log p_b(x) by b at b = 1 is log p(x) + H(p), whatever
    the other tokens are, so that b - 1 is the least-squares slope of the gap on it through the origin. A regression of
    one log-prob on the other would take the normalisers of sure and unsure places for slopes. At b = 2 it gives about
    1.6, and at 3.3 about 1.7: what is far away looks nearer.

    Args:
        gap: (A,) log-prob at sampling less the learner's.
        excess: (A,) the learner's log-prob plus the entropy of its distribution.
    """
    size = float((excess**2).mean())
    return 1.0 + float((excess * gap).mean()) / size if size > LEAST_VARIANCE else NAN
