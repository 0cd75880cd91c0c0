"""Credit taken at the loss: recomputed by the commit gate's code from rewards and the critic's own output. Pure numpy.

Nothing that lies between critic, estimator, buffer and loss touches it, and no code of the estimator makes it.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from rftfm_ray.batch import TrajectoryBatch
from rftfm_ray.training.credit import Credit, Rule
from rftfm_ray.training.gate import RawStep, Recipe, recompute_advantages, recompute_returns
from rftfm_ray.types import CreditSource

Floats = NDArray[np.float32]


def raw_step(batch: TrajectoryBatch, values: Floats | None) -> RawStep:
    """A step as the commit gate takes it; `values` (A,) are those of a critic."""
    counts = batch.action_counts()
    rows = None if values is None else [row.tolist() for row in np.split(values, np.cumsum(counts)[:-1])]
    return RawStep(batch.reward.tolist(), batch.group.tolist(), batch.valid.tolist(), counts.tolist(), rows)


def recipe_of(rule: Rule) -> Recipe:
    """A rule as the commit gate takes it."""
    return Recipe(rule.estimator, rule.normalize_std, rule.gamma, rule.gae_lambda, rule.clip, rule.group_filter)


def rule_at_loss(source: CreditSource, declared: Rule) -> Rule:
    """The rule by which a source other than the learner's own gives advantages."""
    return dataclasses.replace(declared, estimator="grpo") if source is CreditSource.GROUP else declared


def credit_at_loss(source: CreditSource, batch: TrajectoryBatch, declared: Rule, own: Floats | None) -> Credit:
    """The credit of a step by a source other than the learner's own.

    Args:
        source: of the advantages. A critic's targets are those of the declared rule whatever it is.
        batch: trajectories of the step.
        declared: the rule by configuration and levers.
        own: (A,) the critic's own output from before the step; None without a critic.
    """
    counts, raw = batch.action_counts(), raw_step(batch, own)
    rows = recompute_advantages(raw, recipe_of(rule_at_loss(source, declared)))
    included = np.array([bool(row) for row in rows], np.bool_)
    returns = np.zeros(0, np.float32)
    if own is not None:
        # The reward of a masked trajectory is NaN, which must not stand beside those that are learnt.
        rewards = [reward if keep else 0.0 for reward, keep in zip(raw.rewards, raw.valid, strict=True)]
        targets = recompute_returns(dataclasses.replace(raw, rewards=rewards), recipe_of(declared))
        returns = np.array([target for row in targets for target in row], np.float32)
    spread = [
        row * (count if len(row) == 1 else 1) if row else [0.0] * count
        for row, count in zip(rows, counts.tolist(), strict=True)
    ]
    return Credit(included, np.array([one for row in spread for one in row], np.float32), returns)
