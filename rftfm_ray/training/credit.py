"""Credit assignment: the advantages of a step's tokens, and their metrics. Pure numpy."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rftfm_ray.batch import TrajectoryBatch
from rftfm_ray.config import RunConfig
from rftfm_ray.metrics import CreditMetrics
from rftfm_ray.training.advantages import (
    gae,
    group_advantages,
    leave_one_out_advantages,
    mixed_groups,
    returns_to_go,
    whiten,
)
from rftfm_ray.types import Settings

NAN = float("nan")
# Largest lag, in tokens before the last, of `credit_lag`.
LAGS = 8
ROUNDING = 1e-6


@dataclass(frozen=True, slots=True)
class Rule:
    """How rewards become advantages: the estimator with its current settings."""

    estimator: str
    normalize_std: bool
    gamma: float
    gae_lambda: float
    clip: float | None
    group_filter: bool

    @property
    def critic(self) -> bool:
        """Whether values are needed."""
        return self.estimator == "ppo"


@dataclass(frozen=True, slots=True)
class Credit:
    """The credit that a step's update uses.

    Attributes:
        included: (B,) trajectories that take part.
        advantages: (A,) of every chosen token, 0 where its trajectory takes no part.
        returns: (A,) targets of the critic; empty without one.
    """

    included: NDArray[np.bool_]
    advantages: NDArray[np.float32]
    returns: NDArray[np.float32]


def rule_of(config: RunConfig, settings: Settings) -> Rule:
    """The rule under `settings`."""
    return Rule(
        config.algorithm.name, config.normalizes_std, settings.gamma, settings.gae_lambda, settings.advantage_clip,
        settings.group_filter,
    )  # fmt: skip


def members(batch: TrajectoryBatch, rule: Rule) -> NDArray[np.bool_]:
    """(B,) trajectories that take part in an update: valid, not empty, and not filtered out."""
    included = batch.valid & (batch.action_counts() > 0)
    if rule.group_filter:
        included = included & mixed_groups(batch.reward, batch.group, batch.valid)
    return included


def assign(batch: TrajectoryBatch, rule: Rule, values: NDArray[np.float32] | None = None) -> Credit:
    """Assign advantages to all chosen tokens; `values` (A,) are the critic's from before the step."""
    counts, included = batch.action_counts(), members(batch, rule)
    token_included, returns = np.repeat(included, counts), np.zeros(0, np.float32)
    reward = np.where(batch.valid, batch.reward, 0).astype(np.float32)
    if rule.critic:
        if values is None:
            raise ValueError("advantages of ppo need the critic's values")
        raw = gae(reward, values, counts, rule.gamma, rule.gae_lambda)
        returns = (raw + values).astype(np.float32)
        advantages = whiten(raw, token_included, normalize_std=rule.normalize_std)
    elif rule.estimator == "reinforce_pp":
        raw = np.repeat(reward, counts).astype(np.float64)
        advantages = whiten(raw, token_included, normalize_std=rule.normalize_std)
    else:
        relative = group_advantages if rule.estimator == "grpo" else leave_one_out_advantages
        advantages = np.repeat(relative(reward, batch.group, batch.valid, normalize_std=rule.normalize_std), counts)
    if rule.clip is not None:
        advantages = np.clip(advantages, -rule.clip, rule.clip)
    return Credit(included, np.where(token_included, advantages, 0).astype(np.float32), returns)


@dataclass(frozen=True, slots=True)
class CreditErrors:
    """How far credit is from what it should be, as `CreditMetrics` defines it; NaN where nothing was compared."""

    advantage_error: float = NAN
    credit_error: float = NAN
    credit_known_share: float = NAN
    return_error: float = NAN
    value_error: float = NAN
    sample_mismatch_rate: float = NAN


def credit_metrics(
    batch: TrajectoryBatch, credit: Credit, rule: Rule, errors: CreditErrors, values: NDArray[np.float32] | None = None
) -> CreditMetrics:
    """Metrics of a step's credit; see `CreditMetrics`."""
    counts = batch.action_counts()
    token_included = np.repeat(credit.included, counts)
    ends = np.cumsum(counts)[credit.included]
    lasts, firsts = ends - 1, ends - counts[credit.included]
    reward = np.where(batch.valid, batch.reward, 0).astype(np.float32)
    returns = returns_to_go(reward, counts, rule.gamma)
    units = (credit.advantages[token_included] if rule.critic else credit.advantages[lasts]).astype(np.float64)
    value_error = _value_error(credit, reward, counts, values)
    correlation, lag = _placement(credit, reward - _group_mean(reward, batch), value_error, counts)
    groups, dropped = len(np.unique(batch.group)), batch.group[batch.valid & ~credit.included]
    lost = len(set(np.unique(dropped).tolist()) - set(np.unique(batch.group[credit.included]).tolist()))

    def mean(array: NDArray[np.generic] | None, at: NDArray[np.int64]) -> float:
        return float(array[at].mean()) if array is not None and len(at) else NAN

    return CreditMetrics(
        advantage_mean=float(units.mean()) if len(units) else NAN,
        advantage_std=float(units.std()) if len(units) else NAN,
        advantage_max=float(np.abs(units).max(initial=0.0)),
        advantage_kurtosis=_kurtosis(units),
        **dataclasses.asdict(errors),
        advantage_early=mean(credit.advantages, firsts),
        advantage_late=mean(credit.advantages, lasts),
        return_early=mean(returns, firsts),
        return_late=mean(returns, lasts),
        value_early=mean(values, firsts),
        value_late=mean(values, lasts),
        **_calibration(returns[token_included], None if values is None else values[token_included]),
        credit_correlation=correlation,
        credit_lag=lag,
        filtered_group_rate=lost / groups if groups else NAN,
    )


def _calibration(returns: NDArray[np.float64], values: NDArray[np.float32] | None) -> dict[str, float]:
    """Bias, slope of returns on values, and explained variance 1 - Var(return - value) / Var(return)."""
    result = dict.fromkeys(("value_bias", "value_slope", "explained_variance"), NAN)
    if values is None or not len(values):
        return result
    predicted = values.astype(np.float64)
    spread, variance = predicted.var(), returns.var()
    result["value_bias"] = float((predicted - returns).mean())
    if spread > 0:
        result["value_slope"] = float(((predicted - predicted.mean()) * (returns - returns.mean())).mean() / spread)
    if variance > 0:
        result["explained_variance"] = float(1 - (returns - predicted).var() / variance)
    return result


def _group_mean(reward: NDArray[np.float32], batch: TrajectoryBatch) -> NDArray[np.float64]:
    """(B,) mean reward of the valid members of a trajectory's group."""
    count = np.bincount(batch.group, weights=batch.valid)
    total = np.bincount(batch.group, weights=reward)
    mean: NDArray[np.float64] = (total / np.maximum(count, 1))[batch.group]
    return mean


def _value_error(
    credit: Credit, reward: NDArray[np.float32], counts: NDArray[np.int64], values: NDArray[np.float32] | None
) -> NDArray[np.float64]:
    """(B,) reward minus the critic's value before the last chosen token."""
    error = reward.astype(np.float64)
    if values is not None:
        error[credit.included] -= values[np.cumsum(counts)[credit.included] - 1]
    return error


def _placement(
    credit: Credit, reward: NDArray[np.float64], value_error: NDArray[np.float64], counts: NDArray[np.int64]
) -> tuple[float, float]:
    """Correlation of the last chosen token's advantage with the reward, and the lag of the last token's value error.

    The lag is the number of tokens before the last at which the advantage correlates most with that error. The error is
    used because a critic that predicts the end makes earlier tokens correlate better with the reward itself. All lags
    use the same trajectories, which are long enough for every lag, so that lengths do not matter.
    """
    lengths = counts[credit.included]
    if not len(lengths):
        return NAN, NAN
    lags = min(LAGS, max(1, int(np.quantile(lengths, 0.25))))
    long = credit.included & (counts >= lags)
    ends = np.cumsum(counts)[long]
    correlations = np.array([_correlation(credit.advantages[ends - 1 - lag], value_error[long]) for lag in range(lags)])
    if np.isnan(correlations).all():
        return NAN, NAN
    # The first of the lags whose correlations differ only by rounding.
    lag = int(np.argmax(correlations >= np.nanmax(correlations) - ROUNDING))
    return _correlation(credit.advantages[ends - 1], reward[long]), float(lag)


def _correlation(a: NDArray[np.float32], b: NDArray[np.float64]) -> float:
    x, y = a.astype(np.float64) - a.mean(dtype=np.float64), b - b.mean()
    scale = math.sqrt(float((x**2).sum()) * float((y**2).sum()))
    return float((x * y).sum()) / scale if scale > 0 else NAN


def _kurtosis(values: NDArray[np.float64]) -> float:
    """Fourth standardised moment, 3 for a normal distribution; NaN where all are equal."""
    if not len(values):
        return NAN
    centred = values - values.mean()
    variance = float(np.mean(centred**2))
    return float(np.mean(centred**4)) / variance**2 if variance > 0 else NAN
