"""Log-prob gaps by kind of token: what a sampler did shows in the figure that is about it, and in no other."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from rftfm_ray.batch import TrajectoryBatch
from rftfm_ray.training.gaps import SAME, LogprobGaps, logprob_gaps
from rftfm_ray.types import Termination

MakeBatch = Callable[..., TrajectoryBatch]
ENTROPY = np.full(11, 0.7, np.float32)
END = 0
# Prompt 5 5; the prompt's tokens do not count as said before.
TOKENS = [[5, 5, 7, 8, 7, END], [5, 5, 5, 8, 8, 8], [5, 5, 9, END], [5, 5, 7]]
AGAIN = [False, False, True, False, False, False, True, True, False, False, False]
IS_END = [False, False, False, True] + [False] * 4 + [False, True] + [False]
ENDINGS = [Termination.EOS, Termination.MAX_TOKENS, Termination.EOS, Termination.MAX_TOKENS]


@pytest.fixture
def batch(make_batch: MakeBatch) -> TrajectoryBatch:
    """Eleven chosen tokens with log-probs of -0.1, -0.2 and so on at sampling."""
    made = make_batch([0.0] * 4, roles=["pp" + "a" * (len(row) - 2) for row in TOKENS], tokens=TOKENS,
                      terminations=ENDINGS)  # fmt: skip
    logprobs = np.zeros(len(made.tokens), np.float32)
    logprobs[made.action] = -0.1 * np.arange(1, 12)
    return dataclasses.replace(made, logprobs=logprobs)


def learner(batch: TrajectoryBatch, gap: NDArray[np.float64]) -> NDArray[np.float32]:
    """The learner's log-probs that leave these gaps."""
    return (batch.logprobs[batch.action] - gap).astype(np.float32)


def gaps_of(batch: TrajectoryBatch, **by_kind: float) -> LogprobGaps:
    """The figures where tokens of a kind have a gap."""
    is_end, again = np.array(IS_END), np.array(AGAIN)
    kinds = {"end": is_end, "again": ~is_end & again, "new": ~is_end & ~again}
    gap = sum((kinds[name] * size for name, size in by_kind.items()), np.zeros(11))
    return logprob_gaps(batch, learner(batch, gap), ENTROPY)


def test_engines_that_agree_have_no_gap(batch: TrajectoryBatch) -> None:
    found = gaps_of(batch)
    assert dataclasses.astuple(found) == pytest.approx((0, 0, 0, 0, 1, 1), abs=1e-6)


@pytest.mark.parametrize("size", [0.5, -0.5])
def test_each_kind_of_token_has_its_own_figure(batch: TrajectoryBatch, size: float) -> None:
    end = gaps_of(batch, end=size)
    assert (end.gap_end, end.gap_rest, end.gap_again, end.gap_new) == pytest.approx((size, 0, 0, 0), abs=1e-6)
    assert end.gap_zero_share == pytest.approx(9 / 11)
    again = gaps_of(batch, again=size)
    assert (again.gap_end, again.gap_again, again.gap_new) == pytest.approx((0, size, 0), abs=1e-6)
    assert again.gap_rest == pytest.approx(size * 3 / 9)
    new = gaps_of(batch, new=size)
    assert (new.gap_end, new.gap_again, new.gap_new) == pytest.approx((0, 0, size), abs=1e-6)


def sharpened(make_batch: MakeBatch, exponent: float, certain: float) -> float:
    """The slope where a sampler sharpens distributions over 30 tokens, a share of which are nearly certain of one."""
    rng, count = np.random.default_rng(0), 3000
    logits = rng.normal(size=(count, 30)) * 2
    logits[rng.random(count) < certain, 0] += 8
    own = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    real = exponent * own
    real -= np.log(np.exp(real).sum(1, keepdims=True))
    # By the inverse of the cumulative distribution, so that exponents next to each other draw the same tokens.
    drawn = np.minimum((np.exp(real).cumsum(1) < rng.random((count, 1))).sum(1), 29)
    rows = np.arange(count)
    batch = make_batch([0.0], roles=["p" + "a" * count])
    logprobs = np.zeros(len(batch.tokens), np.float32)
    logprobs[batch.action] = real[rows, drawn]
    entropy = -(np.exp(own) * own).sum(1)
    return logprob_gaps(dataclasses.replace(batch, logprobs=logprobs), own[rows, drawn], entropy).gap_slope


@pytest.mark.parametrize("certain", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("exponent", [0.9, 0.97, 1.0, 1.03, 1.1])
def test_slope_is_the_exponent_near_one(make_batch: MakeBatch, exponent: float, certain: float) -> None:
    found = sharpened(make_batch, exponent, certain)
    assert found - 1 == pytest.approx(exponent - 1, rel=0.15, abs=1e-5)


@pytest.mark.parametrize("certain", [0.0, 0.5, 0.9])
def test_slope_grows_with_the_exponent_whatever_the_policy_is_sure_of(make_batch: MakeBatch, certain: float) -> None:
    found = [sharpened(make_batch, exponent, certain) for exponent in (0.5, 0.8, 1.0, 1.3, 2.0)]
    assert found == sorted(found)
    assert found[0] < 0.65
    assert 1.2 < found[3] < 1.35
    # A regression of one log-prob on the other says less than 1.1 at places that are unsure.
    assert found[4] > 1.4
    assert sharpened(make_batch, 3.3, certain) > 1.4


def test_slope_needs_tokens_that_differ_from_what_is_expected(batch: TrajectoryBatch) -> None:
    certain = logprob_gaps(batch, np.full(11, -0.3, np.float32), np.full(11, 0.3, np.float32))
    assert math.isnan(certain.gap_slope)


def test_tokens_without_the_learners_log_prob_do_not_count(batch: TrajectoryBatch) -> None:
    gap = np.where(np.array(IS_END), 1.0, 0.0)
    own = learner(batch, gap)
    own[3] = np.nan
    own[9] = np.nan
    found = logprob_gaps(batch, own, ENTROPY[: len(own)])
    assert math.isnan(found.gap_end)
    assert found.gap_zero_share == 1
    nothing = logprob_gaps(batch, np.full(11, np.nan, np.float32), ENTROPY)
    assert all(math.isnan(figure) for figure in dataclasses.astuple(nothing))


def test_end_that_does_not_end_its_trajectory_is_an_end_token(make_batch: MakeBatch) -> None:
    rows = [[5, END, 7, END], [5, END, 8]]
    batch = make_batch([0.0] * 2, roles=["paaa", "paa"], tokens=rows,
                       terminations=[Termination.EOS, Termination.MAX_TOKENS])  # fmt: skip
    own = batch.logprobs[batch.action] - np.array([1, 0, 1, 1, 0], np.float32)
    found = logprob_gaps(batch, own, ENTROPY[: len(own)])
    assert (found.gap_end, found.gap_rest) == pytest.approx((1, 0), abs=1e-6)


def test_batch_that_never_ends_itself_has_no_end_tokens(batch: TrajectoryBatch) -> None:
    endless = dataclasses.replace(batch, termination=np.full(4, Termination.MAX_TOKENS, np.int8))
    assert math.isnan(logprob_gaps(endless, learner(batch, np.zeros(11)), ENTROPY).gap_end)


def test_rounding_of_two_engines_is_no_gap(batch: TrajectoryBatch) -> None:
    noise = np.random.default_rng(0).normal(size=11) * 3e-5
    assert np.abs(noise).max() < SAME
    assert logprob_gaps(batch, learner(batch, noise), ENTROPY).gap_zero_share == 1


def test_token_that_cannot_be_is_bounded(batch: TrajectoryBatch) -> None:
    own = batch.logprobs[batch.action].copy()
    own[0] = -1000.0
    found = logprob_gaps(batch, own, ENTROPY[: len(own)])
    assert found.gap_new < 20
    assert math.isfinite(found.gap_slope)
