"""How far a recorded step is from the laws that its figures obey by definition of the algorithm. Pure.

One function for each `Law`: a residual that is 0 where the law holds, NaN where it says nothing of a step. All of them
go by the declared configuration, never by the settings that a step reports as in force.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rftfm_ray.config import RunConfig
from rftfm_ray.config.settings import nominal_settings
from rftfm_ray.faults.kinds import Law
from rftfm_ray.metrics import StepRow
from rftfm_ray.tasks.calculator import PRICE_PER_CALL

NAN = float("nan")
PRICES: Mapping[str, float] = {"addition": 0.0, "calculator": PRICE_PER_CALL}
"""What a tool call costs, by task: a right answer is worth 1."""
# Below this rate an update may leave a float32 weight unchanged.
LEAST_RATE = 1e-7

Residual = Callable[[StepRow, RunConfig], float]


@dataclass(frozen=True, slots=True)
class LawCheck:
    """One law: its residual, the largest one that rounding explains, and what is said by it."""

    residual: Residual
    tolerance: float
    meaning: str


def advantage_mean(row: StepRow, config: RunConfig) -> float:
    """Mean advantage. A clip takes more off one side; reinforce_pp has mean 0 over tokens, which are not recorded."""
    clipped = nominal_settings(config, row.id.step).advantage_clip is not None
    applies = config.algorithm.name in ("grpo", "rloo", "ppo") and not clipped
    return row.credit.advantage_mean if applies else NAN


def advantage_spread(row: StepRow, config: RunConfig) -> float:
    """Variance of the advantages less the one that normalisation gives them.

    Of n members of a group with different rewards it is (n - 1) / n, as each was divided by the sample deviation; of
    groups with equal rewards 0. With a critic it is (N - 1) / N over the N tokens of the step.
    """
    clipped = nominal_settings(config, row.id.step).advantage_clip is not None
    if clipped or not config.normalizes_std:
        return NAN
    variance, size = row.credit.advantage_std**2, config.algorithm.samples_per_prompt
    if config.algorithm.name == "ppo":
        tokens = row.batch.trajectory_count * row.batch.valid_rate * row.batch.length_mean
        return variance - (tokens - 1) / tokens if tokens else NAN
    mixed = 1 - row.batch.zero_variance_group_rate
    applies = config.algorithm.name == "grpo" and row.batch.valid_rate == 1 and mixed > 0
    return variance / mixed - (size - 1) / size if applies and not config.algorithm.group_filter else NAN


def returns(row: StepRow, config: RunConfig) -> float:
    """Discounted reward after the first chosen token less that after the last: nothing is discounted at gamma 1."""
    applies = nominal_settings(config, row.id.step).gamma == 1
    return row.credit.return_early - row.credit.return_late if applies else NAN


def loss(row: StepRow, config: RunConfig) -> float:
    """Loss less its declared parts, relative above 1; of one minibatch, whose tokens count the same."""
    settings = nominal_settings(config, row.id.step)
    one = settings.minibatches == 1 and config.algorithm.loss_aggregation == "token"
    if not one or settings.freeze_policy or row.update.vetoes:
        return NAN
    update, parts = row.update, row.update.policy_loss
    parts += settings.kl_coef * update.kl_ref - settings.entropy_coef * update.entropy
    if not math.isnan(update.value_loss):
        parts += config.critic.value_coef * update.value_loss
    return (update.loss - parts) / max(1.0, abs(update.loss))


def reward(row: StepRow, config: RunConfig) -> float:
    """Mean reward less what right answers and calls are worth by the task."""
    price = PRICES.get(config.task.name)
    if price is None:
        return NAN
    scale = config.at(row.id.step).task.reward_scale
    return row.batch.reward_mean - scale * (row.batch.correct_rate - price * row.batch.tool_calls_mean)


def rollout(row: StepRow, config: RunConfig) -> float:
    """KL divergence of what was sampled from and what the learner computes, nats a token."""
    del config
    return row.update.rollout_kl


def weights(row: StepRow, config: RunConfig) -> float:
    """Share of the weights that a step with an update left as they were."""
    update, settings = row.update, nominal_settings(config, row.id.step)
    made = update.vetoes == 0 and update.grad_norm > 0 and settings.lr >= LEAST_RATE and row.batch.valid_rate > 0
    return 1 - update.changed_rate if made else NAN


def tool_errors(row: StepRow, config: RunConfig) -> float:
    """Share of the calls that the tool failed; NaN without calls."""
    del config
    return row.batch.tool_error_rate


def turns(row: StepRow, config: RunConfig) -> float:
    """Turns less calls less the one that ends an episode."""
    del config
    return row.batch.turns_mean - row.batch.tool_calls_mean - 1


LAWS: Mapping[Law, LawCheck] = {
    Law.ADVANTAGE_MEAN: LawCheck(advantage_mean, 1e-5, "the mean advantage is 0"),
    Law.ADVANTAGE_SPREAD: LawCheck(advantage_spread, 5e-3, "advantages have the variance of their normalisation"),
    Law.RETURNS: LawCheck(returns, 1e-5, "undiscounted returns are equal at both ends"),
    Law.LOSS: LawCheck(loss, 1e-5, "the loss is the sum of its declared parts"),
    Law.REWARD: LawCheck(reward, 1e-5, "rewards follow from right answers and calls"),
    Law.ROLLOUT: LawCheck(rollout, 1e-8, "rollout and learner agree on log-probs"),
    Law.WEIGHTS: LawCheck(weights, 5e-3, "every weight changes"),
    Law.TOOL_ERRORS: LawCheck(tool_errors, 0.0, "tools do not fail"),
    Law.TURNS: LawCheck(turns, 1e-5, "every turn but the last makes a call"),
}
"""Every law. The tolerances are those of float32 and of normalisation with a small number below the root."""


def is_broken(law: Law, residual: float) -> bool:
    """Whether a residual is more than rounding; NaN is not."""
    return abs(residual) > LAWS[law].tolerance


def largest(rows: list[StepRow], config: RunConfig) -> dict[Law, float]:
    """By law, the residual of largest magnitude over steps; NaN where no step has one."""
    return {law: _largest([check.residual(row, config) for row in rows]) for law, check in LAWS.items()}


def _largest(residuals: list[float]) -> float:
    known = [residual for residual in residuals if not math.isnan(residual)]
    return max(known, key=abs) if known else NAN
