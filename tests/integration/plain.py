"""The learner's algorithm once more in plain torch, and the trajectories that both are tried on."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoModelForCausalLM

from rftfm_ray.batch import TrajectoryBatch
from rftfm_ray.config import RunConfig
from rftfm_ray.models import ASSETS
from rftfm_ray.types import Settings, StepId

TINY = ASSETS / "tiny"
ALPHABET = "0123456789+-=c;e"
# Prompt, then the samples: reward (None: masked) and text, in it ! for the end and [...] for an observation.
GROUPS: list[tuple[str, list[tuple[float | None, str]]]] = [
    ("12+34=", [(1.0, "46!"), (0.0, "36!"), (0.2, "4")]),
    ("98+76=", [(0.0, "164!"), (0.5, "174"), (1.0, "174!")]),
    ("12+34+56=", [(0.8, "c12+34+56;[102;]102!"), (1.0, "102!"), (None, "c12+3;[15;]92!")]),
    ("11+11=", [(0.0, "21!"), (0.0, "2"), (None, ""), (0.0, "32!")]),
]

UNUSED: dict[str, Any] = {"correct": np.bool_, "termination": np.int8, "turns": np.int8, "model_version": np.int64}
UNUSED |= {"live_reward": np.float32, "trusted_reward": np.float32, "refills": np.int8}
NONE: Any = np.zeros(0, np.int8)
EMPTY = ("shadow_ok", *(f"call_{name}" for name in ("trajectory", "turn", "status", "latency_s", "tries")))

Weights = dict[str, NDArray[Any]]
Group = tuple[str, list[tuple[float | None, str]]]


def make_batch(groups: list[Group]) -> TrajectoryBatch:
    """The trajectories of `groups` as columns, with made-up log-probs of sampling."""
    samples = [(g, k, p, *sample) for g, (p, drawn) in enumerate(groups) for k, sample in enumerate(drawn)]
    tokens: list[int] = []
    action: list[bool] = []
    offsets = [0]
    for _, _, prompt, _, text in samples:
        chosen = False
        for character in f"{prompt}]{text}":
            if character in "[]":
                chosen = character == "]"
            else:
                tokens.append(1 if character == "!" else 3 + ALPHABET.index(character))
                action.append(chosen)
        offsets.append(len(tokens))
    size, mask = len(samples), np.array(action)
    made_up = -np.random.default_rng(0).random(len(tokens), np.float32)
    rewards = [math.nan if reward is None else reward for *_, reward, _ in samples]
    return TrajectoryBatch(
        group=np.array([sample[0] for sample in samples], np.int32),
        sample=np.array([sample[1] for sample in samples], np.int32),
        offsets=np.array(offsets, np.int64),
        prompt_length=np.array([len(sample[2]) for sample in samples], np.int32),
        tokens=np.array(tokens, np.int32),
        action=mask,
        logprobs=np.where(mask, made_up, 0).astype(np.float32),
        reward=np.array(rewards, np.float32),
        valid=~np.isnan(rewards),
        keys=tuple(sample[2] for sample in samples),
        texts=tuple(sample[4] for sample in samples),
        **{name: np.zeros(size, kind) for name, kind in UNUSED.items()},
        **dict.fromkeys(EMPTY, NONE),
        call_requests=(),
        call_responses=(),
    )


def masked(groups: list[Group]) -> list[Group]:
    """The same samples, all of them masked."""
    return [(prompt, [(None, text) for _, text in samples]) for prompt, samples in groups]


BATCH, AT = make_batch(GROUPS), [StepId(0, step, step) for step in range(5)]
BETAS, DECAY = (0.8, 0.95), 0.1
ADAM = {"lr": 2e-4, "adam_betas": BETAS, "weight_decay": DECAY}
BASE: dict[str, dict[str, Any]] = {
    "algorithm": {"minibatches": 2, "clip_low": 0.002, "clip_high": 0.003, "kl_coef": 0.5},
    "learner": {**ADAM, "max_grad_norm": 0.5, "micro_batch_size": 4},
}


def configure(**changes: dict[str, Any]) -> RunConfig:
    """BASE with keys changed."""
    return RunConfig.model_validate({k: {**BASE.get(k, {}), **changes.get(k, {})} for k in {*BASE, *changes}})


def flat(weights: Weights) -> NDArray[np.float64]:
    """All weights in one row."""
    return np.concatenate([array.ravel() for array in weights.values()]).astype(np.float64)


class Plain:
    """The same algorithm in plain torch: whole sequences, one after another, no packing, no engine."""

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self.model: Any = AutoModelForCausalLM.from_pretrained(TINY).eval()
        self.frozen = copy.deepcopy(self.model)
        self._adam = torch.optim.AdamW(self.model.parameters(), betas=BETAS, weight_decay=DECAY)

    def look(self, model: Any, i: int, batch: TrajectoryBatch) -> tuple[Tensor, Tensor]:
        """Log-probs and entropies of the chosen tokens of trajectory `i`."""
        place = slice(int(batch.offsets[i]), int(batch.offsets[i + 1]))
        ids, chosen = torch.from_numpy(batch.tokens[place]).long(), torch.from_numpy(batch.action[place])[1:]
        logits = model(input_ids=ids[None]).logits[0, :-1] / self.config.rollout.temperature
        table = logits.log_softmax(-1)
        return table[torch.arange(len(ids) - 1), ids[1:]][chosen], -(table.exp() * table).sum(-1)[chosen]

    def advantages(self, batch: TrajectoryBatch) -> list[float]:
        """Reward less the group's mean, by the group's deviation."""
        found = []
        for group, reward, valid in zip(batch.group, batch.reward, batch.valid, strict=True):
            peers = batch.reward[(batch.group == group) & batch.valid].astype(float)
            spread = peers.std(ddof=1) + 1e-4 if self.config.algorithm.normalize_std else 1.0
            found.append(float((reward - peers.mean()) / spread) if valid else 0.0)
        return found

    def step(self, batch: TrajectoryBatch, now: Settings) -> dict[str, float]:
        """One step of learning; its metrics."""
        advantages, sums, losses, norms = self.advantages(batch), np.zeros(6), [], []
        rows = [i for i in range(len(batch)) if batch.valid[i] and batch.action_counts()[i]]
        with torch.no_grad():
            olds = {i: self.look(self.model, i, batch)[0] for i in rows}
        gap, peak, before = 0.0, 1.0, flat(self.weights())
        for chunk in np.array_split(np.unique(batch.group), now.minibatches):
            members = [i for i in rows if batch.group[i] in chunk]
            total = torch.zeros(())
            tokens = sum(len(olds[i]) for i in members)
            for i in members:
                logprobs, entropy = self.look(self.model, i, batch)
                with torch.no_grad():
                    reference = self.look(self.frozen, i, batch)[0]
                ratio, a = (logprobs - olds[i]).exp(), advantages[i]
                policy = -torch.minimum(ratio * a, ratio.clamp(1 - now.clip_low, 1 + now.clip_high) * a)
                kl = (reference - logprobs).exp() - (reference - logprobs) - 1
                per_token = policy + now.kl_coef * kl - now.entropy_coef * entropy
                by_token = self.config.algorithm.loss_aggregation == "token"
                total = total + (per_token.sum() / tokens if by_token else per_token.mean() / len(members))
                low, high = (ratio < 1 - now.clip_low) & (a < 0), (ratio > 1 + now.clip_high) & (a > 0)
                kl_old = (olds[i] - logprobs).exp() - (olds[i] - logprobs) - 1
                sums += [float(t.detach().sum()) for t in (policy, kl, kl_old, entropy, low, high)]
                place = slice(int(batch.offsets[i]), int(batch.offsets[i + 1]))
                sampled = torch.from_numpy(batch.logprobs[place][batch.action[place]])
                gap, peak = max(gap, float((olds[i] - sampled).abs().max())), max(peak, float(ratio.detach().max()))
            losses.append(float(total.detach()))
            self._adam.zero_grad()
            torch.autograd.backward(total)
            norms.append(float(torch.nn.utils.clip_grad_norm_(self.model.parameters(), now.max_grad_norm)))
            self._adam.param_groups[0]["lr"] = now.lr
            self._adam.step()
        names = ("policy_loss", "kl_ref", "kl_old", "entropy", "clip_low_rate", "clip_high_rate")
        means = dict(zip(names, sums / sum(map(len, olds.values())), strict=True))
        spread = {"advantage_std": float(np.std(advantages)), "advantage_max": max(map(abs, advantages))}
        loss = {"loss": math.fsum(losses) / len(losses), "grad_norm": math.fsum(norms) / len(norms)}
        used = {"lr": now.lr, "schedule_factor": 1.0, "kl_coef": now.kl_coef, "vetoes": 0}
        after = flat(self.weights())
        used["update_ratio"] = float(np.linalg.norm(after - before) / np.linalg.norm(before))
        used["changed_rate"] = float(np.mean(after != before))
        centred = np.array(advantages) - np.mean(advantages)
        used["advantage_kurtosis"] = float(np.mean(centred**4) / np.mean(centred**2) ** 2)
        return {**means, **spread, **loss, **used, "ratio_max": peak, "rollout_gap_max": gap}

    def weights(self) -> Weights:
        return {name: p.detach().numpy().copy() for name, p in self.model.named_parameters()}
