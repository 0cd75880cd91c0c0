"""The commit gate: the last look at an update before it is made. Pure; shares no code with the learner's math."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from statistics import median

from rftfm_ray.types import Veto, VetoRecord


def recompute_advantages(
    rewards: Sequence[float], groups: Sequence[int], valid: Sequence[bool], *, normalize_std: bool
) -> list[float]:
    """Group-relative advantages once more, one member at a time with exact summation.

    Written apart from `training.advantages` on purpose: an error there must not hide itself here.
    """
    members: dict[int, list[float]] = {}
    for reward, group, keep in zip(rewards, groups, valid, strict=True):
        if keep:
            members.setdefault(group, []).append(reward)
    result: list[float] = []
    for reward, group, keep in zip(rewards, groups, valid, strict=True):
        peers = members.get(group, [])
        if not keep or len(peers) < 2:
            result.append(0.0)
            continue
        mean = math.fsum(peers) / len(peers)
        value = reward - mean
        if normalize_std:
            spread = math.sqrt(math.fsum((peer - mean) ** 2 for peer in peers) / (len(peers) - 1))
            value /= spread + 1e-4
        result.append(value)
    return result


class CommitGate:
    """Judges every update. Only accepted gradient norms enter the running median."""

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
        """Put back the state that `norms` gave."""
        self._norms.clear()
        self._norms.extend(norms)

    def check_advantages(
        self,
        advantages: Sequence[float],
        rewards: Sequence[float],
        groups: Sequence[int],
        valid: Sequence[bool],
        *,
        normalize_std: bool,
    ) -> VetoRecord | None:
        """Advantages must be finite and equal to the recompute from raw rewards."""
        for index, (reward, keep) in enumerate(zip(rewards, valid, strict=True)):
            if keep and not math.isfinite(reward):
                return VetoRecord(0, Veto.NON_FINITE_ADVANTAGE, f"reward of trajectory {index} is {reward}")
        expected = recompute_advantages(rewards, groups, valid, normalize_std=normalize_std)
        worst, place = 0.0, -1
        for index, (got, want) in enumerate(zip(advantages, expected, strict=True)):
            if not (math.isfinite(got) and math.isfinite(want)):
                reason = f"advantage of trajectory {index} is {got}, its recompute {want}"
                return VetoRecord(0, Veto.NON_FINITE_ADVANTAGE, reason)
            # Relative above 1: float32 cannot hold 1e-5 absolute on a large advantage.
            error = abs(got - want) / max(1.0, abs(want))
            if error > worst:
                worst, place = error, index
        if worst > self._tolerance:
            reason = f"advantage of trajectory {place} is {advantages[place]:.6g}, its recompute {expected[place]:.6g}"
            return VetoRecord(0, Veto.ADVANTAGE_MISMATCH, reason)
        return None

    def check_update(self, minibatch: int, loss: float, grad_norm: float) -> VetoRecord | None:
        """Loss and gradient norm must be finite, and the norm not far above its running median."""
        if not math.isfinite(loss):
            return VetoRecord(minibatch, Veto.NON_FINITE_LOSS, f"loss is {loss}")
        if not math.isfinite(grad_norm):
            return VetoRecord(minibatch, Veto.NON_FINITE_GRADIENT, f"gradient norm is {grad_norm}")
        if len(self._norms) >= self._warmup:
            usual = median(self._norms)
            if usual > 0 and grad_norm > self._factor * usual:
                reason = f"gradient norm {grad_norm:.4g} is {grad_norm / usual:.1f} times its median {usual:.4g}"
                return VetoRecord(minibatch, Veto.GRADIENT_SPIKE, reason)
        return None

    def accept(self, grad_norm: float) -> None:
        """Count an update that was made."""
        self._norms.append(grad_norm)
