"""One step of learning: credit, losses, gate, updates. Everything that outlives a step is in `state`."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rftfm_ray.batch import TrajectoryBatch
from rftfm_ray.config import RunConfig
from rftfm_ray.config.settings import config_schedule, effective, nominal_settings
from rftfm_ray.training.accumulator import MetricAccumulator, change_of, moved_by
from rftfm_ray.training.credit import credit_metrics, members, rule_of
from rftfm_ray.training.credit_check import sample_mismatch_rate
from rftfm_ray.training.engine import LearnerEngine
from rftfm_ray.training.forward import load_causal_lm, predict
from rftfm_ray.training.gate import CommitGate
from rftfm_ray.training.loss_credit import CreditPath, CreditRules
from rftfm_ray.training.losses import token_logprobs
from rftfm_ray.training.objective import Anchors, Forward, LossWeights, Targets, terms
from rftfm_ray.training.packing import (
    MicroBatch,
    pack,
    pack_sequences,
    split_groups,
    split_rows,
    split_tokens,
    token_weights,
)
from rftfm_ray.training.replay import AdamW
from rftfm_ray.training.seams import LearnerSeams
from rftfm_ray.training.update_report import UpdateReport
from rftfm_ray.types import Check, CreditSource, GuardMode, Levers, RejectedUpdate, Rejection, Settings, StepId


@dataclass(slots=True)
class _Step:
    """One step in progress: its inputs, and forward passes from before its first update."""

    id: StepId
    batch: TrajectoryBatch
    settings: Settings
    minibatches: list[list[MicroBatch]]
    old_forwards: list[list[Forward]] | None
    precomputed: Forward | None
    targets: list[list[Targets]]
    metrics: MetricAccumulator
    replayed: AdamW | None


@dataclass(slots=True)
class _Sample:
    """A few trajectories of a step, and their log-probs (A,) before its first update."""

    micro: MicroBatch
    before: Tensor | None = None


class Learner:
    """The policy that learns, with or without a critic, its frozen reference, and the gate in front of every update."""

    def __init__(self, config: RunConfig, model_path: str, seams: LearnerSeams | None = None) -> None:
        critic = config.critic if config.algorithm.name == "ppo" else None
        self._critic = critic is not None
        self.engine = LearnerEngine(config.model, model_path, config.learner, critic)
        self._reference: Any = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="reference")
        if config.algorithm.kl_coef > 0:
            self._reference = load_causal_lm(model_path, config.model.dtype).to(self.engine.device)
            self._reference.requires_grad_(False)
        self.begin(config, seams)

    def begin(self, config: RunConfig, seams: LearnerSeams | None = None) -> None:
        """Begin a run under `config`, which must use the same engine; the caller restores the engine's state."""
        self._config = config
        self._reference_done = 0.0
        self._watched = config.guard.mode is not GuardMode.OFF
        self._schedule = config_schedule(config)
        self._seams = LearnerSeams() if seams is None else seams
        self._temperature = self._declared_temperature = config.rollout.temperature
        gate = config.gate
        self.gate = CommitGate(
            gate.grad_norm_factor, gate.grad_norm_window, gate.grad_norm_warmup, gate.advantage_tolerance
        )
        self.levers = Levers()
        self.asked: frozenset[Check] = frozenset()

    def close(self) -> None:
        """End the thread of the reference model; the learner makes no further update."""
        self._thread.shutdown(cancel_futures=True)

    def settings(self, step: StepId) -> Settings:
        """The settings at `step`."""
        nominal = nominal_settings(self._config, step.step)
        return self._seams.settings(step, effective(nominal, self._factor(step), self.levers))

    def _declared(self, step: StepId) -> Settings:
        """The settings that configuration, schedule and levers call for at `step`, past every seam."""
        return effective(nominal_settings(self._config, step.step), self._schedule(step), self.levers)

    def _rules(self, step: StepId, settings: Settings) -> CreditRules:
        """The rules of credit at `step`; its source is past every seam as well."""
        declared = self._declared(step)
        return CreditRules(declared.credit_source, rule_of(self._config, settings), rule_of(self._config, declared))

    def _temperature_at(self, step: StepId) -> float:
        """The temperature at which log-probs are computed.

        Where levers ask the sampler for declared terms, the learner goes by the declared one past every seam.
        """
        declared = self._config.at(step.step).rollout.temperature
        is_asked = self.levers.temperature_scale is not None or bool(self.levers.rollout_path)
        return declared if is_asked else self._seams.temperature(step, declared)

    def _replayed(self, step: StepId) -> AdamW | None:
        """The optimizer as it is declared, where an update of this step is made again; None where none is."""
        every, learner = self._config.channels.update_replay_every, self._config.learner
        is_asked, self.asked = Check.UPDATE_REPLAY in self.asked, frozenset()
        if not (self._watched and every and (is_asked or step.step % every == 0)):
            return None
        return AdamW(self._declared(step).lr, learner.adam_betas, learner.weight_decay)

    def _factor(self, step: StepId) -> float:
        return self._seams.factor(step, self._schedule(step))

    def update(self, batch: TrajectoryBatch, step: StepId, model_version: int | None = None) -> UpdateReport:
        """Learn from one step's trajectories: one update per minibatch, except those that the gate rejects.

        `model_version` is the version of the learning weights, for the staleness of the trajectories.
        """
        began, self._reference_done = time.perf_counter(), 0.0
        settings, factor = self.settings(step), self._factor(step)
        self._temperature = self._temperature_at(step)
        self._declared_temperature = self._config.at(step.step).rollout.temperature
        rules = self._rules(step, settings)
        included = rules.members(batch)
        # With top_p the rollout samples from a truncated distribution, whose log-probs the learner does not compute.
        metrics = MetricAccumulator(comparable=self._config.rollout.top_p >= 1)
        # Credit without a critic must not be undone by its loss, which would go on through the shared trunk.
        self.engine.detach_critic(settings.freeze_policy or rules.source is CreditSource.GROUP)
        minibatches = [self._pack(batch, rows, included) for rows in split_groups(batch.group, settings.minibatches)]
        old_forwards, precomputed = self._forwards_before(minibatches, settings)
        own = self._values(batch, minibatches, old_forwards, precomputed)
        got = CreditPath(self._seams, self.gate, self._watched).credit(step, batch, rules, minibatches, own)
        mismatch = self._sample_mismatch_rate(step, batch, minibatches)
        errors = dataclasses.replace(got.errors, sample_mismatch_rate=mismatch)
        if got.rejection is None:
            vetoes = self._updates(
                _Step(
                    step, batch, settings, minibatches, old_forwards, precomputed, got.targets, metrics,
                    self._replayed(step),
                )
            )  # fmt: skip
        else:
            vetoes = [got.rejection]
        stale = float(np.mean(model_version - batch.model_version)) if model_version is not None else 0.0
        if self._watched:
            metrics.compare(batch)
        figures = metrics.metrics(settings, factor, stale, len(vetoes), critic=self._critic)
        reference_s = max(0.0, self._reference_done - began)
        credited = credit_metrics(batch, got.credit, rules.at_loss, errors, got.values)
        return UpdateReport(figures, credited, tuple(vetoes), reference_s)

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

    def _pack(self, batch: TrajectoryBatch, rows: NDArray[np.int64], included: NDArray[np.bool_]) -> list[MicroBatch]:
        """Micro batches of one minibatch, only with trajectories that take part, to save time."""
        counts = np.where(included, batch.action_counts(), 0)
        chosen = rows[included[rows]]
        weights = np.zeros(len(batch), dtype=np.float32)
        weights[chosen] = token_weights(counts[chosen], self._config.algorithm.loss_aggregation)
        learner = self._config.learner
        parts = split_rows(chosen, learner.micro_batch_size)
        if learner.micro_batch_tokens is not None:
            padded = not self.engine.packs
            parts = [s for part in parts for s in split_tokens(batch, part, learner.micro_batch_tokens, padded=padded)]
        return [pack(batch, part, weights, self.engine.device) for part in parts]

    def _forwards_before(
        self, minibatches: Sequence[Sequence[MicroBatch]], settings: Settings
    ) -> tuple[list[list[Forward]] | None, Forward | None]:
        """Old-policy forwards, from before the step's first update, where their log-probs or values are needed later.

        A step of one update in one micro batch uses its own forward, with its graph, instead of a second one.
        """
        if not self._critic and len(minibatches) <= 1:
            return None, None
        if len(minibatches) == 1 and len(minibatches[0]) == 1:
            return None, self._forward(minibatches[0][0], entropy_gradient=settings.entropy_coef != 0)
        with torch.no_grad():
            return [[self._forward(micro) for micro in micros] for micros in minibatches], None

    def _forward(self, micro: MicroBatch, *, entropy_gradient: bool = False) -> Forward:
        logits, values = self.engine.forward(micro.packed, micro.row, micro.column)
        logprobs, entropy = token_logprobs(logits, micro.targets, self._temperature, entropy_gradient=entropy_gradient)
        declared = None
        if self._watched and self._declared_temperature != self._temperature:
            # What the sampler draws is compared with what was declared, and not with what the learner is told.
            with torch.no_grad():
                temperature = self._declared_temperature
                declared = token_logprobs(logits.detach(), micro.targets, temperature, entropy_gradient=False)
        return Forward(logprobs, entropy, values, declared)

    def _values(
        self,
        batch: TrajectoryBatch,
        minibatches: Sequence[Sequence[MicroBatch]],
        old_forwards: Sequence[Sequence[Forward]] | None,
        precomputed: Forward | None,
    ) -> NDArray[np.float32] | None:
        """(A,) the critic's values before the step, 0 for tokens that take no part; None without a critic."""
        if not self._critic:
            return None
        result = np.zeros(int(batch.action.sum()), np.float32)
        seen = [[precomputed]] if precomputed is not None else old_forwards or []
        for micros, forwards in zip(minibatches, seen, strict=False):
            for micro, forward in zip(micros, forwards, strict=True):
                if forward.values is not None:
                    result[micro.chosen.numpy()] = forward.values.detach().cpu().numpy()
        return result

    def _sample_mismatch_rate(
        self, step: StepId, batch: TrajectoryBatch, minibatches: Sequence[Sequence[MicroBatch]]
    ) -> float:
        """See `sample_mismatch_rate`; NaN with the guard off."""
        if not self._watched:
            return math.nan
        algorithm = self._config.at(step.step).algorithm
        included = members(batch, rule_of(self._config, self._declared(step)))
        asked = algorithm.prompts_per_step * algorithm.samples_per_prompt
        return sample_mismatch_rate(batch, included, minibatches, asked)

    def _reference_logprobs(self, micro: MicroBatch) -> Tensor:
        """Log-probs of the reference. Runs in a thread, so that on a CPU it overlaps with the policy's pass."""
        with torch.no_grad():
            logits = predict(self._reference, micro.packed, micro.row, micro.column)
            result = token_logprobs(logits, micro.targets, self._temperature, entropy_gradient=False)[0]
        self._reference_done = self._reference_done or time.perf_counter()
        return result

    def _updates(self, step: _Step) -> list[RejectedUpdate]:
        """Make all updates of a step; returns those that the gate rejected."""
        before, vetoes = self.engine.sample() if self._watched else None, list[RejectedUpdate]()
        sample = self._sample(step)
        for index in range(len(step.minibatches)):
            record = self._update_minibatch(index, step, sample)
            if record is not None:
                vetoes.append(record)
        step.metrics.change = (math.nan, math.nan) if before is None else change_of(before, self.engine.sample())
        if sample is not None and sample.before is not None:
            with torch.no_grad():
                step.metrics.moved = moved_by(sample.before, self._forward(sample.micro).logprobs)
        return vetoes

    def _sample(self, step: _Step) -> _Sample | None:
        """The first trajectories of the step's first micro batch, to be evaluated again after the last update."""
        size = self._config.learner.step_kl_samples
        first = next((micros[0] for micros in step.minibatches if micros), None)
        if not (self._watched and size) or first is None:
            return None
        rows = np.unique(np.repeat(np.arange(len(step.batch)), step.batch.action_counts())[first.chosen.numpy()])[:size]
        return _Sample(pack(step.batch, rows, np.zeros(len(step.batch), np.float32), self.engine.device))

    def _update_minibatch(self, index: int, step: _Step, sample: _Sample | None) -> RejectedUpdate | None:
        micros, settings, metrics = step.minibatches[index], step.settings, step.metrics
        if not micros:
            return RejectedUpdate(index, Rejection.EMPTY_BATCH, "no trajectory of the minibatch takes part")
        references = [self._thread.submit(self._reference_logprobs, m) for m in micros] if self._reference else None
        total_loss, critic = 0.0, self._config.critic
        weights = LossWeights(settings, critic.value_coef, critic.value_clip)
        for i, micro in enumerate(micros):
            now = step.precomputed or self._forward(micro, entropy_gradient=settings.entropy_coef != 0)
            before = now if step.old_forwards is None else step.old_forwards[index][i]
            old = before.logprobs.detach()
            if sample is not None and sample.before is None:
                sample.before = old[: len(sample.micro.targets)]
            reference = references[i].result() if references else None
            targets = step.targets[index][i]
            parts = terms(micro, now, Anchors(old, reference), targets, weights)
            total_loss += float(parts.loss.detach())
            self.engine.backward(parts.loss, last=i == len(micros) - 1)
            with torch.no_grad():
                metrics.add(micro, settings, targets, parts, _declared(before, now))
        grad_norm = self.engine.grad_norm()
        metrics.losses.append(total_loss)
        metrics.norms.append(grad_norm)
        record = self.gate.check_update(index, total_loss, grad_norm)
        if record is not None:
            self.engine.discard()
            return record
        # The first update of the step tells the factor of all of them.
        replayed = step.replayed if math.isnan(metrics.gain) else None
        if replayed is not None:
            self.engine.watch_commit()
        frozen = self.engine.keep(self._seams.frozen_share(step.id))
        self.engine.disturb(self._seams.forgotten_share(step.id), self._seams.epsilon(step.id))
        self.engine.commit(settings.lr * self._seams.gain(step.id), settings.max_grad_norm, settings.critic_lr)
        self.engine.put_back(frozen)
        if replayed is not None:
            metrics.gain = self.engine.update_gain(replayed)
        # The gradient norm of the head alone must not enter the median of the policy's.
        if not settings.freeze_policy:
            self.gate.accept(grad_norm)
        return None


def _declared(before: Forward, now: Forward) -> tuple[Tensor, Tensor] | None:
    """Log-probs from before the step, and the entropy now, at the declared temperature; None where it is the same."""
    if before.declared is None or now.declared is None:
        return None
    return before.declared[0], now.declared[1]
