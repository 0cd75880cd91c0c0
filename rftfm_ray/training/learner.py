"""One step of learning: advantages, losses, gate, updates. Everything that outlives a step is in `state`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rftfm_ray.batch import TrajectoryBatch
from rftfm_ray.config import RunConfig
from rftfm_ray.policies.levers import Schedule, config_schedule, effective, nominal_settings
from rftfm_ray.training.advantages import group_advantages
from rftfm_ray.training.engine import LearnerEngine
from rftfm_ray.training.forward import load_causal_lm, predict
from rftfm_ray.training.gate import CommitGate
from rftfm_ray.training.losses import clipped_policy_loss, k3, token_logprobs
from rftfm_ray.training.packing import MicroBatch, pack, pack_sequences, split_groups, split_rows, token_weights
from rftfm_ray.types import Levers, Settings, StepId, UpdateMetrics, Veto, VetoRecord

Gain = Callable[[StepId], float]
"""What the optimizer makes of the rate that it is told: 1 in a sound one."""


@dataclass(frozen=True, slots=True)
class UpdateReport:
    """What one step of learning did."""

    metrics: UpdateMetrics
    vetoes: tuple[VetoRecord, ...]


@dataclass(slots=True)
class _Tally:
    """Sums over the chosen tokens of a step, for the means of `UpdateMetrics`."""

    tokens: int = 0
    sums: NDArray[np.float64] = field(default_factory=lambda: np.zeros(6))
    ratio_max: float = 1.0
    gap_max: float = 0.0
    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    update_ratio: float = 0.0
    changed_rate: float = 0.0

    def add(
        self,
        micro: MicroBatch,
        settings: Settings,
        policy: Tensor,
        kl_ref: Tensor,
        kl_old: Tensor,
        entropy: Tensor,
        ratio: Tensor,
        old: Tensor,
    ) -> None:
        """Count one micro batch; all tensors are (A,). One transfer from the device."""
        low = (ratio < 1 - settings.clip_low) & (micro.advantage < 0)
        high = (ratio > 1 + settings.clip_high) & (micro.advantage > 0)
        sums = torch.stack([t.double().sum() for t in (policy, kl_ref, kl_old, entropy, low, high)])
        peaks = torch.stack([ratio.max(), (old - micro.sampled).abs().max()]).double()
        *totals, ratio_max, gap_max = torch.cat([sums, peaks]).tolist()
        self.tokens += len(micro.targets)
        self.sums += totals
        # numpy's maximum keeps NaN, which is a finding; Python's max would drop it.
        self.ratio_max = float(np.maximum(self.ratio_max, ratio_max))
        self.gap_max = float(np.maximum(self.gap_max, gap_max))


class Learner:
    """The policy that learns, its frozen reference, and the gate in front of every update."""

    def __init__(
        self, config: RunConfig, model_path: str, schedule: Schedule | None = None, gain: Gain | None = None
    ) -> None:
        self._config = config
        self._schedule = config_schedule(config) if schedule is None else schedule
        self._gain = gain
        self._nominal = nominal_settings(config)
        self.engine = LearnerEngine(config.model, model_path, config.learner)
        self._reference: Any = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="reference")
        if config.algorithm.kl_coef > 0:
            self._reference = load_causal_lm(model_path, config.model.dtype).to(self.engine.device)
            self._reference.requires_grad_(False)
        gate = config.gate
        self.gate = CommitGate(
            gate.grad_norm_factor, gate.grad_norm_window, gate.grad_norm_warmup, gate.advantage_tolerance
        )
        self.levers = Levers()

    def settings(self, step: StepId) -> Settings:
        """The values in force at `step`."""
        return effective(self._nominal, self._schedule(step), self.levers)

    def update(self, batch: TrajectoryBatch, step: StepId) -> UpdateReport:
        """Learn from one step's trajectories: as many updates as minibatches, less those that the gate refuses."""
        settings, factor = self.settings(step), self._schedule(step)
        gain = 1.0 if self._gain is None else self._gain(step)
        normalize_std = self._config.algorithm.normalize_std
        advantages = group_advantages(batch.reward, batch.group, batch.valid, normalize_std=normalize_std)
        # With top_p the rollout samples from a cut distribution, which the learner does not know.
        tally, vetoes = _Tally(gap_max=math.nan if self._config.rollout.top_p < 1 else 0.0), []
        refused = self._check_batch(batch, advantages)
        if refused is not None:
            return UpdateReport(_metrics(tally, settings, factor, advantages, 1), (refused,))
        minibatches = [
            self._micro_batches(batch, rows, advantages) for rows in split_groups(batch.group, settings.minibatches)
        ]
        # With one update the old policy is the one that learns; only later updates need its log-probs kept.
        before = self.engine.sample()
        olds = [[self._old(micro) for micro in micros] for micros in minibatches] if len(minibatches) > 1 else None
        for index, micros in enumerate(minibatches):
            record = self._one_update(index, micros, olds[index] if olds else None, settings, gain, tally)
            if record is not None:
                vetoes.append(record)
        tally.update_ratio, tally.changed_rate = _change(before, self.engine.sample())
        return UpdateReport(_metrics(tally, settings, factor, advantages, len(vetoes)), tuple(vetoes))

    def score(self, sequences: Sequence[Sequence[int]]) -> list[NDArray[np.float32]]:
        """Log-probs in nats of tokens 1.. of every sequence, at temperature 1; for the parity probe."""
        arrays = [np.array(s, dtype=np.int32) for s in sequences]
        packed = pack_sequences(arrays, np.zeros(len(arrays), dtype=np.int32), self.engine.device)
        counts = [len(s) - 1 for s in sequences]
        row = torch.from_numpy(np.repeat(np.arange(len(counts)), counts)).to(self.engine.device)
        column = torch.from_numpy(np.concatenate([np.arange(n) for n in counts])).to(self.engine.device)
        targets = torch.tensor([t for s in sequences for t in s[1:]], device=self.engine.device)
        with torch.no_grad():
            logprobs, _ = token_logprobs(self.engine.logits(packed, row, column), targets, 1.0, entropy_gradient=False)
        return np.split(logprobs.cpu().numpy(), np.cumsum(counts)[:-1])

    def _micro_batches(
        self, batch: TrajectoryBatch, rows: NDArray[np.int64], advantages: NDArray[np.float32]
    ) -> list[MicroBatch]:
        """Micro batches of one minibatch, without masked trajectories: they take no part and cost nothing."""
        counts = np.where(batch.valid, batch.action_counts(), 0)
        kept = rows[counts[rows] > 0]
        weights = np.zeros(len(batch), dtype=np.float32)
        weights[kept] = token_weights(counts[kept], self._config.algorithm.loss_aggregation)
        parts = split_rows(kept, self._config.learner.micro_batch_size)
        return [pack(batch, part, advantages, weights, self.engine.device) for part in parts]

    def _check_batch(self, batch: TrajectoryBatch, advantages: NDArray[np.float32]) -> VetoRecord | None:
        if not batch.valid.any():
            return VetoRecord(0, Veto.EMPTY_BATCH, "every trajectory of the step is masked")
        return self.gate.check_advantages(
            advantages.tolist(),
            batch.reward.tolist(),
            batch.group.tolist(),
            batch.valid.tolist(),
            normalize_std=self._config.algorithm.normalize_std,
        )

    def _logprobs(self, logits: Tensor, micro: MicroBatch, *, entropy_gradient: bool = False) -> tuple[Tensor, Tensor]:
        temperature = self._config.rollout.temperature
        return token_logprobs(logits, micro.targets, temperature, entropy_gradient=entropy_gradient)

    def _old(self, micro: MicroBatch) -> Tensor:
        with torch.no_grad():
            return self._logprobs(self.engine.logits(micro.packed, micro.row, micro.column), micro)[0]

    def _reference_logprobs(self, micro: MicroBatch) -> Tensor:
        """Runs in a thread: on a CPU the reference's pass overlaps with the policy's."""
        with torch.no_grad():
            return self._logprobs(predict(self._reference, micro.packed, micro.row, micro.column), micro)[0]

    def _one_update(
        self,
        index: int,
        micros: Sequence[MicroBatch],
        olds: Sequence[Tensor] | None,
        settings: Settings,
        gain: float,
        tally: _Tally,
    ) -> VetoRecord | None:
        if not micros:
            return VetoRecord(index, Veto.EMPTY_BATCH, "every trajectory of the minibatch is masked")
        references = [self._thread.submit(self._reference_logprobs, m) for m in micros] if self._reference else None
        total_loss = 0.0
        for i, micro in enumerate(micros):
            logits = self.engine.logits(micro.packed, micro.row, micro.column)
            logprobs, entropy = self._logprobs(logits, micro, entropy_gradient=settings.entropy_coef > 0)
            old = olds[i] if olds is not None else logprobs.detach()
            policy, ratio = clipped_policy_loss(logprobs, old, micro.advantage, settings.clip_low, settings.clip_high)
            kl_ref = k3(logprobs, references[i].result()) if references else torch.zeros_like(logprobs)
            loss = ((policy + settings.kl_coef * kl_ref - settings.entropy_coef * entropy) * micro.weight).sum()
            total_loss += float(loss.detach())
            self.engine.backward(loss, last=i == len(micros) - 1)
            with torch.no_grad():
                tally.add(micro, settings, policy, kl_ref, k3(logprobs, old), entropy, ratio, old)
        grad_norm = self.engine.grad_norm()
        tally.losses.append(total_loss)
        tally.norms.append(grad_norm)
        record = self.gate.check_update(index, total_loss, grad_norm)
        if record is not None:
            self.engine.discard()
            return record
        self.engine.commit(settings.lr * gain, settings.max_grad_norm)
        self.gate.accept(grad_norm)
        return None


def _metrics(
    tally: _Tally, settings: Settings, factor: float, advantages: NDArray[np.float32], vetoes: int
) -> UpdateMetrics:
    means = (tally.sums / (tally.tokens or math.nan)).tolist()
    policy_loss, kl_ref, kl_old, entropy, clip_low_rate, clip_high_rate = means
    return UpdateMetrics(
        loss=_mean(tally.losses),
        policy_loss=policy_loss,
        kl_ref=kl_ref,
        kl_old=kl_old,
        entropy=entropy,
        ratio_max=tally.ratio_max if tally.tokens else math.nan,
        clip_low_rate=clip_low_rate,
        clip_high_rate=clip_high_rate,
        advantage_std=float(np.std(advantages)),
        advantage_max=float(np.max(np.abs(advantages), initial=0.0)),
        advantage_kurtosis=_kurtosis(advantages),
        grad_norm=_mean(tally.norms),
        update_ratio=tally.update_ratio,
        changed_rate=tally.changed_rate,
        lr=settings.lr,
        schedule_factor=factor,
        kl_coef=settings.kl_coef,
        rollout_gap_max=tally.gap_max if tally.tokens else math.nan,
        vetoes=vetoes,
    )


def _change(before: Tensor, after: Tensor) -> tuple[float, float]:
    """Norm of the change over the norm before it, and the share of entries that changed."""
    norms = torch.linalg.vector_norm(torch.stack([after - before, before]).double(), dim=1)
    return float(norms[0] / norms[1]), float((before != after).double().mean())


def _kurtosis(values: NDArray[np.float32]) -> float:
    """Fourth standardised moment, 3 for a normal distribution; NaN where all are equal."""
    centred = values.astype(np.float64) - values.mean()
    variance = float(np.mean(centred**2))
    return float(np.mean(centred**4)) / variance**2 if variance > 0 else math.nan


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan
