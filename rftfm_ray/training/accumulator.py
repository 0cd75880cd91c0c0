"""Accumulates metrics over the chosen tokens of a step."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rftfm_ray.batch import TrajectoryBatch
from rftfm_ray.metrics import UpdateMetrics
from rftfm_ray.training.gaps import LogprobGaps, logprob_gaps
from rftfm_ray.training.losses import k3
from rftfm_ray.training.objective import Targets, Terms
from rftfm_ray.training.packing import MicroBatch
from rftfm_ray.types import Settings

NAN = float("nan")
# Log ratios are clipped at this: larger ones only show that the two distributions are unrelated.
LARGEST_LOG_RATIO = 20.0
_SUMS = (
    "policy_loss", "kl_ref", "kl_old", "entropy", "clip_low_rate", "clip_high_rate", "value_loss", "value_clip_rate",
    "rollout_kl", "rollout_ratio_mean",
)  # fmt: skip


class MetricAccumulator:
    """Accumulates the metrics of a step's micro batches.

    Args:
        comparable: whether the rollout's and the learner's log-probs belong to the same distribution.
    """

    def __init__(self, *, comparable: bool) -> None:
        self._comparable = comparable
        self._tokens = 0
        self._sums: NDArray[np.float64] = np.zeros(len(_SUMS))
        self._peaks: NDArray[np.float64] = np.array([1.0, -1.0, 0.0])
        self._entropies: list[Tensor] = []
        self._observed: list[Tensor] = []
        self.losses: list[float] = []
        self.norms: list[float] = []
        self.change = (0.0, 0.0)
        self.moved = (NAN, NAN)
        self.gain = NAN
        self._gaps = LogprobGaps()
        self._old: list[tuple[Tensor, Tensor, Tensor]] = []

    def add(
        self,
        micro: MicroBatch,
        settings: Settings,
        targets: Targets,
        parts: Terms,
        declared: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        """Add one micro batch, with one transfer from the device.

        Args:
            micro: the tokens.
            settings: in force.
            targets: of the tokens.
            parts: of their loss.
            declared: log-probs and entropy (A,) at the declared temperature, with which what was sampled is compared;
                None where the loss is at the same.
        """
        old, entropy = declared or (parts.old, parts.entropy)
        ratio, drift = parts.ratio, old - micro.sampled
        low = (ratio < 1 - settings.clip_low) & (targets.advantage < 0)
        high = (ratio > 1 + settings.clip_high) & (targets.advantage > 0)
        rollout_kl = k3(micro.sampled.clamp_min(-LARGEST_LOG_RATIO), old.clamp_min(-LARGEST_LOG_RATIO))
        rollout_ratio = drift.clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO).exp()
        columns = (parts.policy, parts.kl_ref, parts.kl_old, parts.entropy, low, high, parts.value, parts.value_clipped)
        sums = torch.stack([t.double().sum() for t in (*columns, rollout_kl, rollout_ratio)])
        peaks = torch.stack([ratio.max(), -ratio.min(), drift.abs().max()]).double()
        totals = torch.cat([sums, peaks]).tolist()
        self._tokens += len(micro.targets)
        self._sums += totals[: len(_SUMS)]
        # numpy's maximum keeps NaN, which is a finding; Python's max would drop it.
        self._peaks = np.maximum(self._peaks, totals[len(_SUMS) :])
        self._old.append((micro.chosen, old, entropy))
        self._entropies.append(parts.entropy)
        self._observed.append(parts.entropy[micro.observed])

    def compare(self, batch: TrajectoryBatch) -> None:
        """Measure the log-prob gaps of the tokens that were added, all of which belong to `batch`."""
        if not self._comparable:
            return
        learner, entropy = (np.full(int(batch.action.sum()), np.nan, np.float32) for _ in range(2))
        for chosen, *of_tokens in self._old:
            for values, known in zip((learner, entropy), of_tokens, strict=True):
                values[chosen.numpy()] = known.detach().cpu().numpy()
        self._gaps = logprob_gaps(batch, learner, entropy)

    def metrics(
        self, settings: Settings, factor: float, staleness: float, vetoes: int, *, critic: bool
    ) -> UpdateMetrics:
        """The step's metrics."""
        means = dict(zip(_SUMS, (self._sums / (self._tokens or NAN)).tolist(), strict=True))
        ratio_max, ratio_low, gap = self._peaks.tolist() if self._tokens else [NAN] * 3
        q10, q90 = _quantiles(self._entropies)
        observed = torch.cat(self._observed) if self._observed else torch.zeros(0)
        if not critic:
            means |= dict.fromkeys(("value_loss", "value_clip_rate"), NAN)
        if not self._comparable:
            means |= dict.fromkeys(("rollout_kl", "rollout_ratio_mean"), NAN)
        return UpdateMetrics(
            **means,
            **dataclasses.asdict(self._gaps),
            update_gain=self.gain,
            loss=_mean(self.losses),
            entropy_q10=q10,
            entropy_q90=q90,
            entropy_observed=float(observed.double().mean()) if len(observed) else NAN,
            ratio_min=-ratio_low,
            ratio_max=ratio_max,
            grad_norm=_mean(self.norms),
            update_ratio=self.change[0],
            changed_rate=self.change[1],
            step_kl=self.moved[0],
            step_ratio_max=self.moved[1],
            lr=settings.lr,
            critic_lr=settings.critic_lr if critic else NAN,
            schedule_factor=factor,
            kl_coef=settings.kl_coef,
            rollout_gap_max=gap if self._comparable else NAN,
            staleness=staleness,
            vetoes=vetoes,
        )


def change_of(before: Tensor, after: Tensor) -> tuple[float, float]:
    """Norm of the change over the norm before it, and the share of entries that changed."""
    norms = torch.linalg.vector_norm(torch.stack([after - before, before]).double(), dim=1)
    return float(norms[0] / norms[1]), float((before != after).double().mean())


def moved_by(before: Tensor, after: Tensor) -> tuple[float, float]:
    """Estimate (k3) of KL(before, after) in nats per token, and the largest probability ratio, of log-probs (A,)."""
    ratio = (after - before).clamp(max=LARGEST_LOG_RATIO).exp()
    floor = -LARGEST_LOG_RATIO
    return float(k3(before.clamp_min(floor), after.clamp_min(floor)).double().mean()), float(ratio.max())


def _quantiles(parts: Sequence[Tensor]) -> tuple[float, float]:
    if not parts:
        return NAN, NAN
    low, high = np.quantile(torch.cat(list(parts)).double().cpu().numpy(), (0.1, 0.9)).tolist()
    return low, high


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else NAN
