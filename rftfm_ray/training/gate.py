"""The commit gate: the last check of an update before it is made. Pure; shares no code with the learner's math."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from rftfm_ray.types import RejectedUpdate, Rejection


@dataclass(frozen=True, slots=True)
class RawStep:
    """The inputs of advantages as plain numbers: one entry per trajectory, and one list of `values` per trajectory."""

    rewards: Sequence[float]
    groups: Sequence[int]
    valid: Sequence[bool]
    lengths: Sequence[int]
    values: Sequence[Sequence[float]] | None = None


@dataclass(frozen=True, slots=True)
class Recipe:
    """How advantages are computed from a `RawStep`."""

    estimator: str
    normalize_std: bool
    gamma: float = 1.0
    gae_lambda: float = 1.0
    clip: float | None = None
    group_filter: bool = False


def recompute_advantages(raw: RawStep, recipe: Recipe) -> list[list[float]]:
    """Recompute advantages, one number at a time with exact summation: one list per trajectory.

    The code is independent of `training.advantages` on purpose, so that it does not repeat an error there. Where all
    tokens of a trajectory share their advantage, the list holds it once. A trajectory that takes no part has an empty
    list.
    """
    peers: dict[int, list[float]] = {}
    for reward, group, keep in zip(raw.rewards, raw.groups, raw.valid, strict=True):
        if keep:
            peers.setdefault(group, []).append(reward)
    part = [
        keep and length > 0 and not (recipe.group_filter and len(set(peers[group])) == 1)
        for keep, length, group in zip(raw.valid, raw.lengths, raw.groups, strict=True)
    ]
    if recipe.estimator in ("grpo", "rloo"):
        rows = [
            [_relative(reward, peers[group], recipe)] if takes else []
            for reward, group, takes in zip(raw.rewards, raw.groups, part, strict=True)
        ]
    else:
        rows = _whitened(raw, recipe, part)
    bound = math.inf if recipe.clip is None else recipe.clip
    return [[max(-bound, min(bound, advantage)) for advantage in row] for row in rows]


def recompute_returns(raw: RawStep, recipe: Recipe) -> list[list[float]]:
    """Recompute the targets of a critic's values, one list per trajectory: lambda-returns, before any standardising."""
    rows = raw.values or ()
    return [
        [estimate + value for estimate, value in zip(_estimates(reward, values, recipe), values, strict=True)]
        for reward, values in zip(raw.rewards, rows, strict=True)
    ]


def _relative(reward: float, peers: Sequence[float], recipe: Recipe) -> float:
    """One reward against the mean of its group, or of the other members."""
    if len(peers) < 2:
        return 0.0
    total = math.fsum(peers)
    mean = total / len(peers)
    value = reward - (mean if recipe.estimator == "grpo" else (total - reward) / (len(peers) - 1))
    if recipe.normalize_std:
        value /= math.sqrt(math.fsum((peer - mean) ** 2 for peer in peers) / (len(peers) - 1)) + 1e-4
    return value


def _whitened(raw: RawStep, recipe: Recipe, part: Sequence[bool]) -> list[list[float]]:
    """Advantages of tokens, standardised over all tokens of the step."""
    rows: list[list[float]] = []
    for index, takes in enumerate(part):
        if not takes:
            rows.append([])
        elif recipe.estimator == "ppo":
            rows.append(_estimates(raw.rewards[index], (raw.values or ())[index], recipe))
        else:
            rows.append([raw.rewards[index]] * raw.lengths[index])
    tokens = [advantage for row in rows for advantage in row]
    if not tokens:
        return rows
    mean = math.fsum(tokens) / len(tokens)
    scale = 1.0
    if recipe.normalize_std:
        squares = math.fsum((advantage - mean) ** 2 for advantage in tokens)
        scale = math.sqrt(squares / max(len(tokens) - 1, 1) + 1e-8)
    shown = 1 if recipe.estimator == "reinforce_pp" else None
    return [[(advantage - mean) / scale for advantage in row[:shown]] for row in rows]


def _estimates(reward: float, values: Sequence[float], recipe: Recipe) -> list[float]:
    """Each token's discounted sum of the temporal-difference errors from it on."""
    decay, carried, estimates = recipe.gamma * recipe.gae_lambda, 0.0, []
    for index in reversed(range(len(values))):
        last = index + 1 == len(values)
        carried = (reward if last else recipe.gamma * values[index + 1]) - values[index] + decay * carried
        estimates.append(carried)
    return estimates[::-1]


def _difference(index: int, got: float, want: float) -> str:
    return f"advantage of trajectory {index} is {got:.6g}, its recompute {want:.6g}"


class CommitGate:
    """Checks every update. Only accepted gradient norms enter the running median."""

    def __init__(self, factor: float, window: int, warmup: int, tolerance: float) -> None:
        self._factor = factor
        self._warmup = warmup
        self._tolerance = tolerance
        self._norms: deque[float] = deque(maxlen=window)

    @property
    def norms(self) -> tuple[float, ...]:
        """Accepted gradient norms, oldest first: the state to save and to restore."""
        return tuple(self._norms)

    def restore(self, norms: Sequence[float]) -> None:
        """Restore the state that `norms` gave."""
        self._norms.clear()
        self._norms.extend(norms)

    def check_advantages(
        self, advantages: Sequence[Sequence[float]], included: Sequence[bool], raw: RawStep, recipe: Recipe
    ) -> tuple[float, RejectedUpdate | None]:
        """Check that advantages are finite and equal to their recomputation from rewards, values and members.

        Args:
            advantages: one list per trajectory, compared with the recomputed ones.
            included: which trajectories have a weight in the loss.
            raw: the inputs of the advantages.
            recipe: how they are computed.

        Returns:
            The largest difference, relative above 1, and the rejection where it is too large. Infinite where different
            trajectories or tokens take part, NaN where a number is not finite.
        """
        for index, (reward, keep) in enumerate(zip(raw.rewards, raw.valid, strict=True)):
            if keep and not math.isfinite(reward):
                return math.nan, RejectedUpdate(
                    0, Rejection.NON_FINITE_ADVANTAGE, f"reward of trajectory {index} is {reward}"
                )
        expected = recompute_advantages(raw, recipe)
        worst, mismatch = 0.0, (0, 0.0, 0.0)
        for index, (got_row, want_row) in enumerate(zip(advantages, expected, strict=True)):
            if bool(want_row) != included[index]:
                status = "takes part" if included[index] else "is left out"
                reason = f"trajectory {index} {status}, its recompute says otherwise"
                return math.inf, RejectedUpdate(0, Rejection.ADVANTAGE_MISMATCH, reason)
            # A trajectory that takes no part must have advantages of 0.
            wanted = want_row if len(want_row) > 1 else (want_row or [0.0]) * len(got_row)
            if len(wanted) != len(got_row) or (want_row and not got_row):
                reason = f"trajectory {index} has {len(got_row)} advantages, its recompute {len(want_row)}"
                return math.inf, RejectedUpdate(0, Rejection.ADVANTAGE_MISMATCH, reason)
            for got, want in zip(got_row, wanted, strict=True):
                if not (math.isfinite(got) and math.isfinite(want)):
                    return math.nan, RejectedUpdate(0, Rejection.NON_FINITE_ADVANTAGE, _difference(index, got, want))
                # Relative above 1: float32 cannot hold 1e-5 absolute on a large advantage.
                error = abs(got - want) / max(1.0, abs(want))
                if error > worst:
                    worst, mismatch = error, (index, got, want)
        return worst, RejectedUpdate(
            0, Rejection.ADVANTAGE_MISMATCH, _difference(*mismatch)
        ) if worst > self._tolerance else None

    def check_update(self, minibatch: int, loss: float, grad_norm: float) -> RejectedUpdate | None:
        """Check that loss and gradient norm are finite, and that the norm is not far above its running median."""
        if not math.isfinite(loss):
            return RejectedUpdate(minibatch, Rejection.NON_FINITE_LOSS, f"loss is {loss}")
        if not math.isfinite(grad_norm):
            return RejectedUpdate(minibatch, Rejection.NON_FINITE_GRADIENT, f"gradient norm is {grad_norm}")
        if len(self._norms) >= self._warmup:
            usual = median(self._norms)
            if usual > 0 and grad_norm > self._factor * usual:
                reason = f"gradient norm {grad_norm:.4g} is {grad_norm / usual:.1f} times its median {usual:.4g}"
                return RejectedUpdate(minibatch, Rejection.GRADIENT_SPIKE, reason)
        return None

    def accept(self, grad_norm: float) -> None:
        """Add the gradient norm of an update that was made."""
        self._norms.append(grad_norm)
