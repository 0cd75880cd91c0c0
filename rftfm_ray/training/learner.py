"""One step of learning: advantages, losses, gate, updates. Everything that outlives a step is in `state`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rftfm_ray.batch import TrajectoryBatch
from rftfm_ray.config import RunConfig
from rftfm_ray.policies.levers import effective, schedule_factor
from rftfm_ray.training.advantages import group_advantages
from rftfm_ray.training.engine import LearnerEngine, load_causal_lm
from rftfm_ray.training.gate import CommitGate
from rftfm_ray.training.losses import clipped_policy_loss, k3, token_logprobs, token_weights
from rftfm_ray.training.packing import MicroBatch, pack, split_groups, split_rows
from rftfm_ray.types import Levers, Settings, UpdateMetrics, Veto, VetoRecord


@dataclass(frozen=True, slots=True)
class UpdateReport:
    """What one step of learning did."""

    metrics: UpdateMetrics
    vetoes: tuple[VetoRecord, ...]


@dataclass(slots=True)
class _Tally:
    """Sums over the action tokens of a step, for the means of `UpdateMetrics`."""

    tokens: float = 0.0
    policy: float = 0.0
    kl_ref: float = 0.0
    kl_old: float = 0.0
    entropy: float = 0.0
    clip_low: float = 0.0
    clip_high: float = 0.0
    ratio_max: float = 1.0
    gap_max: float = 0.0
    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)


def nominal_settings(config: RunConfig) -> Settings:
    """What the configuration says, before schedule and levers."""
    algorithm, learner = config.algorithm, config.learner
    return Settings(
        lr=learner.lr,
        kl_coef=algorithm.kl_coef,
        clip_low=algorithm.clip_low,
        clip_high=algorithm.clip_high,
        entropy_coef=algorithm.entropy_coef,
        max_grad_norm=learner.max_grad_norm,
        minibatches=algorithm.minibatches,
    )


class Learner:
    """The policy that learns, its frozen reference, and the gate in front of every update."""

    def __init__(self, config: RunConfig, model_path: str) -> None:
        self._config = config
        self._nominal = nominal_settings(config)
        self.engine = LearnerEngine(config.model, model_path, config.learner)
        self._reference = None
        if config.algorithm.kl_coef > 0:
            self._reference = load_causal_lm(model_path, config.model.dtype).to(self.engine.device)
            self._reference.requires_grad_(False)
        gate = config.gate
        self.gate = CommitGate(
            gate.grad_norm_factor, gate.grad_norm_window, gate.grad_norm_warmup, gate.advantage_tolerance
        )
        self.levers = Levers()

    def settings(self, step: int) -> Settings:
        """The values in force at `step`."""
        learner = self._config.learner
        factor = schedule_factor(learner.lr_schedule, step, self._config.steps, learner.warmup_steps)
        return effective(self._nominal, factor, self.levers)

    def update(self, batch: TrajectoryBatch, step: int) -> UpdateReport:
        """Learn from one step's trajectories: as many updates as minibatches, less those that the gate refuses."""
        settings = self.settings(step)
        normalize_std = self._config.algorithm.normalize_std
        advantages = group_advantages(batch.reward, batch.group, batch.valid, normalize_std=normalize_std)
        tally, vetoes = _Tally(), []
        refused = self._check_batch(batch, advantages)
        if refused is not None:
            return UpdateReport(_metrics(tally, settings, advantages, 1), (refused,))
        size = self._config.learner.micro_batch_size
        minibatches = [
            [pack(batch, part, advantages, self.engine.device) for part in split_rows(rows, batch.lengths(), size)]
            for rows in split_groups(batch.group, settings.minibatches)
        ]
        # With one update the old policy is the one that learns; only later updates need its log-probs kept.
        olds = [[self._old(micro) for micro in micros] for micros in minibatches] if len(minibatches) > 1 else None
        for index, micros in enumerate(minibatches):
            record = self._one_update(index, micros, olds[index] if olds else None, settings, tally)
            if record is not None:
                vetoes.append(record)
        return UpdateReport(_metrics(tally, settings, advantages, len(vetoes)), tuple(vetoes))

    def score(self, sequences: Sequence[Sequence[int]]) -> list[NDArray[np.float32]]:
        """Log-probs in nats of tokens 1.. of every sequence, at temperature 1; for the parity probe."""
        result = []
        with torch.no_grad():
            for sequence in sequences:
                tokens = torch.tensor([list(sequence)], device=self.engine.device)
                logits = self.engine.logits(tokens, 0)[:, :-1]
                logprobs, _ = token_logprobs(logits, tokens[:, 1:], 1.0, entropy_gradient=False)
                result.append(logprobs[0].cpu().numpy())
        return result

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

    def _forward(self, micro: MicroBatch, *, entropy_gradient: bool) -> tuple[Tensor, Tensor]:
        logits = self.engine.logits(micro.tokens, micro.first)[:, :-1]
        return token_logprobs(
            logits, micro.targets, self._config.rollout.temperature, entropy_gradient=entropy_gradient
        )

    def _old(self, micro: MicroBatch) -> Tensor:
        with torch.no_grad():
            return self._forward(micro, entropy_gradient=False)[0]

    def _reference_logprobs(self, micro: MicroBatch) -> Tensor | None:
        if self._reference is None:
            return None
        with torch.no_grad():
            keep = micro.tokens.shape[1] - micro.first
            logits = self._reference(input_ids=micro.tokens, use_cache=False, logits_to_keep=keep).logits[:, :-1]
            return token_logprobs(logits, micro.targets, self._config.rollout.temperature, entropy_gradient=False)[0]

    def _one_update(
        self, index: int, micros: Sequence[MicroBatch], olds: Sequence[Tensor] | None, settings: Settings, tally: _Tally
    ) -> VetoRecord | None:
        total_tokens = int(sum(float(micro.mask.sum()) for micro in micros))
        total_sequences = sum(int((micro.mask.sum(-1) > 0).sum()) for micro in micros)
        total_loss = 0.0
        for i, micro in enumerate(micros):
            logprobs, entropy = self._forward(micro, entropy_gradient=settings.entropy_coef > 0)
            old = olds[i] if olds is not None else logprobs.detach()
            policy, ratio = clipped_policy_loss(logprobs, old, micro.advantage, settings.clip_low, settings.clip_high)
            reference = self._reference_logprobs(micro)
            kl_ref = k3(logprobs, reference) if reference is not None else torch.zeros_like(logprobs)
            per_token = policy + settings.kl_coef * kl_ref - settings.entropy_coef * entropy
            weights = token_weights(micro.mask, self._config.algorithm.loss_aggregation, total_tokens, total_sequences)
            # where, not a product: a padded position may hold anything, and 0 times inf is NaN.
            loss = (torch.where(micro.mask > 0, per_token, 0.0) * weights).sum()
            total_loss += float(loss.detach())
            self.engine.backward(loss, last=i == len(micros) - 1)
            with torch.no_grad():
                _count(tally, micro, settings, policy, kl_ref, k3(logprobs, old), entropy, ratio, old)
        grad_norm = self.engine.grad_norm()
        tally.losses.append(total_loss)
        tally.norms.append(grad_norm)
        record = self.gate.check_update(index, total_loss, grad_norm)
        if record is not None:
            self.engine.discard()
            return record
        self.engine.commit(settings)
        self.gate.accept(grad_norm)
        return None


def _count(
    tally: _Tally,
    micro: MicroBatch,
    settings: Settings,
    policy: Tensor,
    kl_ref: Tensor,
    kl_old: Tensor,
    entropy: Tensor,
    ratio: Tensor,
    old: Tensor,
) -> None:
    chosen = micro.mask > 0
    tally.tokens += float(chosen.sum())
    if not chosen.any():
        return
    up = micro.advantage.expand_as(ratio) > 0
    tally.policy += float(policy[chosen].sum())
    tally.kl_ref += float(kl_ref[chosen].sum())
    tally.kl_old += float(kl_old[chosen].sum())
    tally.entropy += float(entropy[chosen].sum())
    tally.clip_low += float(((ratio < 1 - settings.clip_low) & ~up & chosen).sum())
    tally.clip_high += float(((ratio > 1 + settings.clip_high) & up & chosen).sum())
    tally.ratio_max = max(tally.ratio_max, float(ratio[chosen].max()))
    tally.gap_max = max(tally.gap_max, float((old - micro.sampled)[chosen].abs().max()))


def _metrics(tally: _Tally, settings: Settings, advantages: NDArray[np.float32], vetoes: int) -> UpdateMetrics:
    tokens = tally.tokens or math.nan
    return UpdateMetrics(
        loss=_mean(tally.losses),
        policy_loss=tally.policy / tokens,
        kl_ref=tally.kl_ref / tokens,
        kl_old=tally.kl_old / tokens,
        entropy=tally.entropy / tokens,
        ratio_max=tally.ratio_max,
        clip_low_rate=tally.clip_low / tokens,
        clip_high_rate=tally.clip_high / tokens,
        advantage_std=float(np.std(advantages)),
        advantage_max=float(np.max(np.abs(advantages), initial=0.0)),
        grad_norm=_mean(tally.norms),
        lr=settings.lr,
        kl_coef=settings.kl_coef,
        rollout_gap_max=tally.gap_max,
        vetoes=vetoes,
    )


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan
