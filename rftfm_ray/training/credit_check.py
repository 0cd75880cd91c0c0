"""Credit as the loss gets it, against the declared rule. Pure numpy.

The commit gate recomputes what the estimator gives, under the settings in force. This is the other half: whatever lies
between estimator and loss, and settings that are not the declared ones, leave the gate silent and show here.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rftfm_ray.batch import TrajectoryBatch, seals
from rftfm_ray.training.credit import Credit, CreditErrors
from rftfm_ray.training.objective import Targets
from rftfm_ray.training.packing import MicroBatch

NAN = float("nan")
Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
# Advantages that differ by less are the same: both sides are computed alike, in float32.
DIFFERENT = 1e-5


def credit_in_loss(
    minibatches: Sequence[Sequence[MicroBatch]], targets: Sequence[Sequence[Targets]], like: Credit
) -> Credit:
    """The advantages and returns that stand in the targets of a loss, in the order of all chosen tokens; 0 elsewhere.

    Args:
        minibatches: of the step.
        targets: of their micro batches.
        like: credit of the same step, for its sizes and members.
    """
    advantages, returns = np.zeros_like(like.advantages), np.zeros_like(like.returns)
    for micros, parts in zip(minibatches, targets, strict=True):
        for micro, part in zip(micros, parts, strict=True):
            advantages[micro.chosen.numpy()] = part.advantage.cpu().numpy()
            if len(returns):
                returns[micro.chosen.numpy()] = part.returns.cpu().numpy()
    return Credit(like.included, advantages, returns)


def check_credit(expected: Credit, got: Credit, counts: NDArray[np.int64]) -> CreditErrors:
    """Compare credit with what the declared rule gives; the errors of estimator and values are left open.

    Args:
        expected: by the declared rule; what takes part by it or by `got` is compared.
        got: as the loss gets it.
        counts: (B,) chosen tokens of every trajectory.
    """
    members = np.repeat(expected.included | got.included, counts)
    if not members.any():
        return CreditErrors()
    wanted, given = expected.advantages[members], got.advantages[members]
    error = _error(wanted, given)
    differs = error > DIFFERENT
    # A copy of another token's advantage is that number bit for bit; noise hardly ever is any of them.
    known = float(np.isin(given[differs], wanted).mean()) if differs.any() else NAN
    returns = _error(expected.returns[members], got.returns[members]).max() if len(expected.returns) else NAN
    return CreditErrors(NAN, float(error.max()), known, float(returns))


def value_error(values: Floats, own: Floats, included: NDArray[np.bool_], counts: NDArray[np.int64]) -> float:
    """Largest difference (A,) between the values that the estimator got and the critic's own, of members; else NaN."""
    members = np.repeat(included, counts)
    return float(np.abs(values[members].astype(np.float64) - own[members]).max()) if members.any() else NAN


def sample_mismatch_rate(
    batch: TrajectoryBatch, included: NDArray[np.bool_], minibatches: Sequence[Sequence[MicroBatch]], asked: int
) -> float:
    """Share of a step's samples that do not reach the loss as the rollout made them: once, or not if they take no part.

    Args:
        batch: as the learner has it.
        included: (B,) trajectories that take part by the declared rule.
        minibatches: of the step.
        asked: samples that were asked for; NaN without any.
    """
    if not asked:
        return NAN
    chosen, owner = batch.tokens[batch.action], np.repeat(np.arange(len(batch)), batch.action_counts())
    times, other = np.zeros(len(chosen), np.int64), np.zeros(len(chosen), np.bool_)
    for micro in (micro for micros in minibatches for micro in micros):
        indices = micro.chosen.numpy()
        np.add.at(times, indices, 1)
        other[indices] |= chosen[indices] != micro.targets.cpu().numpy()
    odd = np.bincount(owner, weights=other | (times != included[owner]), minlength=len(batch)) > 0
    sound = ~odd & (seals(batch) == batch.seal)
    places = np.stack([batch.group, batch.sample], axis=1)[sound]
    distinct = len(np.unique(places, axis=0))
    # One too many is as wrong as one that is missing.
    return 1 - (distinct - (len(places) - distinct)) / max(asked, len(batch))


def _error(wanted: Floats, given: Floats) -> NDArray[np.float64]:
    """Differences, relative above 1."""
    error: NDArray[np.float64] = np.abs(given.astype(np.float64) - wanted) / np.maximum(1.0, np.abs(wanted))
    return error
