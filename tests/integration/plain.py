"""The learner's algorithm once more in plain torch, and the trajectories that both are tried on."""

from __future__ import annotations

import copy
import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoModelForCausalLM

from rftfm_ray.batch import TrajectoryBatch, seals
from rftfm_ray.config import RunConfig
from rftfm_ray.models import ASSETS
from rftfm_ray.training.critic import value_head
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
UNUSED |= {f"{name}_ok": np.bool_ for name in ("termination", "replay_observation", "replay_termination")}
UNUSED |= {"masked": np.bool_, "replayed": np.bool_, "trusted_correct": np.bool_}
NONE: Any = np.zeros(0, np.int8)
CALLS = ("trajectory", "turn", "status", "latency_s", "tries")
CHECKS = (
    "shadow_ok",
    "known_ok",
    "observation_ok",
    "observation_decode_ok",
    "turn_limit_excess",
    "turn_cut_short",
    "golden_right",
    "golden_live",
    "golden_again",
    "golden_trusted",
)
EMPTY = (*CHECKS, *(f"call_{name}" for name in CALLS))

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
    made = TrajectoryBatch(
        group=np.array([sample[0] for sample in samples], np.int32),
        sample=np.array([sample[1] for sample in samples], np.int32),
        offsets=np.array(offsets, np.int64),
        prompt_length=np.array([len(sample[2]) for sample in samples], np.int32),
        tokens=np.array(tokens, np.int32),
        action=mask,
        logprobs=np.where(mask, made_up, 0).astype(np.float32),
        reward=np.array(rewards, np.float32),
        reward_parts=np.zeros((size, 0), np.float32),
        valid=~np.isnan(rewards),
        keys=tuple(sample[2] for sample in samples),
        texts=tuple(sample[4] for sample in samples),
        **{name: np.zeros(size, kind) for name, kind in UNUSED.items()},
        **dict.fromkeys(EMPTY, NONE),
        call_requests=(),
        call_responses=(),
        seal=np.zeros(size, np.uint32),
    )
    return dataclasses.replace(made, seal=seals(made))


def masked(groups: list[Group]) -> list[Group]:
    """The same samples, all of them masked."""
    return [(prompt, [(None, text) for _, text in samples]) for prompt, samples in groups]


BATCH, AT = make_batch(GROUPS), [StepId(0, step, step) for step in range(5)]
BETAS, DECAY = (0.8, 0.95), 0.1
ADAM = {"lr": 2e-4, "adam_betas": BETAS, "weight_decay": DECAY}
BASE: dict[str, dict[str, Any]] = {
    "algorithm": {"minibatches": 2, "clip_low": 0.002, "clip_high": 0.003, "kl_coef": 0.5},
    "learner": {**ADAM, "max_grad_norm": 0.5, "micro_batch_size": 4, "step_kl_samples": 1},
    "critic": {"lr": 0.01, "gamma": 0.9, "gae_lambda": 0.8, "value_coef": 0.3, "value_clip": 0.01},
}


def configure(**changes: dict[str, Any]) -> RunConfig:
    """BASE with keys changed."""
    return RunConfig.model_validate({k: {**BASE.get(k, {}), **changes.get(k, {})} for k in {*BASE, *changes}})


def flat(weights: Weights) -> NDArray[np.float64]:
    """All weights in one row."""
    return np.concatenate([array.ravel() for array in weights.values()]).astype(np.float64)


@dataclass(frozen=True)
class Seen:
    """What a policy makes of the T chosen tokens of one trajectory; all (T,)."""

    logprobs: Tensor
    entropy: Tensor
    values: Tensor


class Plain:
    """The same algorithms in plain torch: whole sequences, one after another, no packing, no engine."""

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self.model: Any = AutoModelForCausalLM.from_pretrained(TINY).eval()
        self.frozen = copy.deepcopy(self.model)
        groups: list[dict[str, Any]] = [{"params": list(self.model.parameters()), "weight_decay": DECAY}]
        self.head: Any = None
        if config.algorithm.name == "ppo":
            self.head = value_head(self.model.config.hidden_size, torch.float32)
            groups.append({"params": list(self.head.parameters()), "weight_decay": 0.0})
        self._adam = torch.optim.AdamW(groups, betas=BETAS)
        self._detached = False

    def look(self, model: Any, i: int, batch: TrajectoryBatch) -> Seen:
        """Log-probs, entropies and values of the chosen tokens of trajectory `i`."""
        place = slice(int(batch.offsets[i]), int(batch.offsets[i + 1]))
        ids, chosen = torch.from_numpy(batch.tokens[place]).long(), torch.from_numpy(batch.action[place])[1:]
        output = model(input_ids=ids[None], output_hidden_states=True)
        table = (output.logits[0, :-1] / self.config.rollout.temperature).log_softmax(-1)
        hidden = output.hidden_states[-1][0, :-1]
        hidden = hidden.detach() if self._detached else hidden
        values = torch.zeros(len(hidden)) if self.head is None else self.head(hidden)[:, 0]
        logprobs, entropy = table[torch.arange(len(ids) - 1), ids[1:]], -(table.exp() * table).sum(-1)
        return Seen(logprobs[chosen], entropy[chosen], values[chosen])

    def members(self, batch: TrajectoryBatch, now: Settings) -> list[int]:
        """Trajectories that take part."""
        mixed = {g for g in batch.group if len(set(batch.reward[(batch.group == g) & batch.valid])) > 1}
        counts = batch.action_counts()
        usual = [i for i in range(len(batch)) if batch.valid[i] and counts[i]]
        return [i for i in usual if not now.group_filter or batch.group[i] in mixed]

    def advantages(self, batch: TrajectoryBatch, now: Settings, olds: dict[int, Seen]) -> dict[int, NDArray[Any]]:
        """Advantages of the chosen tokens of every trajectory that takes part."""
        name, scaled = self.config.algorithm.name, self.config.normalizes_std
        found: dict[int, NDArray[Any]] = {}
        for i, old in olds.items():
            reward, length = float(batch.reward[i]), len(old.values)
            peers = batch.reward[(batch.group == batch.group[i]) & batch.valid].astype(float)
            if name in ("grpo", "rloo"):
                baseline = peers.mean() if name == "grpo" else (peers.sum() - reward) / (len(peers) - 1)
                spread = peers.std(ddof=1) + 1e-4 if scaled else 1.0
                found[i] = np.full(length, (reward - baseline) / spread)
            elif name == "reinforce_pp":
                found[i] = np.full(length, reward)
            else:
                ahead = np.append(old.values[1:].numpy(), 0.0) * now.gamma
                surprise = ahead - old.values.numpy() + np.append(np.zeros(length - 1), reward)
                decay = (now.gamma * now.gae_lambda) ** np.arange(length)
                found[i] = np.array([(surprise[t:] * decay[: length - t]).sum() for t in range(length)])
        if name in ("ppo", "reinforce_pp"):
            tokens = np.concatenate(list(found.values()))
            spread = np.sqrt(tokens.var(ddof=1) + 1e-8) if scaled else 1.0
            found = {i: (row - tokens.mean()) / spread for i, row in found.items()}
        bound = math.inf if now.advantage_clip is None else now.advantage_clip
        return {i: row.clip(-bound, bound) for i, row in found.items()}

    def returns(self, batch: TrajectoryBatch, now: Settings, olds: dict[int, Seen]) -> dict[int, Tensor]:
        """What the critic learns: lambda-returns, before anything is standardised."""
        found = {}
        for i, old in olds.items():
            values, ahead, row = [*old.values.tolist(), 0.0], 0.0, []
            for t in reversed(range(len(old.values))):
                last = t + 1 == len(old.values)
                # The mix of what is expected and what comes of it, backwards.
                mixed = (1 - now.gae_lambda) * values[t + 1] + now.gae_lambda * ahead
                ahead = float(batch.reward[i]) if last else now.gamma * mixed
                row.append(ahead)
            found[i] = torch.tensor(row[::-1])
        return found

    def step(self, batch: TrajectoryBatch, now: Settings) -> tuple[dict[str, float], dict[str, float]]:
        """One step of learning; figures of its updates and of its credit."""
        self._detached = now.freeze_policy
        rows = self.members(batch, now)
        with torch.no_grad():
            olds = {i: self.look(self.model, i, batch) for i in rows}
        advantages, returns = self.advantages(batch, now, olds), self.returns(batch, now, olds)
        parts: dict[str, list[Tensor]] = {}
        losses, norms, before = [], [], flat(self.weights())
        for chunk in np.array_split(np.unique(batch.group), now.minibatches):
            total, members = torch.zeros(()), [i for i in rows if batch.group[i] in chunk]
            tokens = sum(len(olds[i].logprobs) for i in members)
            for i in members:
                per_token, columns = self.terms(i, batch, now, olds[i], torch.from_numpy(advantages[i]), returns[i])
                by_token = self.config.algorithm.loss_aggregation == "token"
                total = total + (per_token.sum() / tokens if by_token else per_token.mean() / len(members))
                for name, column in columns.items():
                    parts.setdefault(name, []).append(column.detach().double())
            losses.append(float(total.detach()))
            norms.append(self.update(total, now))
        after, count = flat(self.weights()), self.config.learner.step_kl_samples
        first = np.array_split(np.unique(batch.group), now.minibatches)[0]
        sample = [i for i in rows if batch.group[i] in first][: self.config.learner.micro_batch_size][:count]
        with torch.no_grad():
            moved = torch.cat([self.look(self.model, i, batch).logprobs - olds[i].logprobs for i in sample])
        figures = self.figures({name: torch.cat(columns) for name, columns in parts.items()}, now)
        figures |= {"loss": math.fsum(losses) / len(losses), "grad_norm": math.fsum(norms) / len(norms)}
        figures["update_ratio"] = float(np.linalg.norm(after - before) / np.linalg.norm(before))
        figures["changed_rate"] = float(np.mean(after != before))
        figures["step_kl"], figures["step_ratio_max"] = (
            float((moved.exp() - 1 - moved).mean()),
            float(moved.exp().max()),
        )
        return figures, self.credit(batch, now, olds, advantages)

    def terms(
        self, i: int, batch: TrajectoryBatch, now: Settings, old: Seen, a: Tensor, target: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss per token of trajectory `i`, and what is to be counted."""
        seen = self.look(self.model, i, batch)
        with torch.no_grad():
            reference = self.look(self.frozen, i, batch).logprobs
        d = reference - seen.logprobs
        ratio = (seen.logprobs - old.logprobs).exp()
        policy = -torch.minimum(ratio * a, ratio.clamp(1 - now.clip_low, 1 + now.clip_high) * a)
        kl = d.exp() - d - 1 if self.config.algorithm.kl_coef else torch.zeros_like(policy)
        per_token = policy + now.kl_coef * kl - now.entropy_coef * seen.entropy
        plain, clip = (seen.values - target) ** 2, self.config.critic.value_clip or math.inf
        clipped = (old.values + (seen.values - old.values).clamp(-clip, clip) - target) ** 2
        far = (seen.values - old.values).abs() > clip
        value = torch.where(far, torch.maximum(plain, clipped), plain) / 2
        if now.freeze_policy:
            per_token = torch.zeros_like(per_token)
        if self.head is not None:
            per_token = per_token + self.config.critic.value_coef * value
        place = slice(int(batch.offsets[i]), int(batch.offsets[i + 1]))
        action = batch.action[place]
        late = np.arange(len(action)) > batch.prompt_length[i]
        observed = (late & ~np.roll(action, 1))[action]
        drift = old.logprobs - torch.from_numpy(batch.logprobs[place][action])
        return per_token, {
            "policy_loss": policy, "kl_ref": kl, "kl_old": 1 / ratio - 1 + ratio.log(), "entropy": seen.entropy,
            "clip_low_rate": (ratio < 1 - now.clip_low) & (a < 0),
            "clip_high_rate": (ratio > 1 + now.clip_high) & (a > 0),
            "value_loss": value, "value_clip_rate": far & (clipped > plain), "ratio": ratio, "drift": drift,
            "observed": torch.from_numpy(observed),
        }  # fmt: skip

    def update(self, loss: Tensor, now: Settings) -> float:
        """One update; the norm of its gradient. A frozen policy has none, and the optimizer passes it by."""
        self._adam.zero_grad()
        torch.autograd.backward(loss)
        if now.freeze_policy:
            self.model.zero_grad()
        every = [p for group in self._adam.param_groups for p in group["params"]]
        norm = float(torch.nn.utils.clip_grad_norm_(every, now.max_grad_norm))
        for group, rate in zip(self._adam.param_groups, (now.lr, now.critic_lr), strict=False):
            group["lr"] = rate
        self._adam.step()
        return norm

    def figures(self, parts: dict[str, Tensor], now: Settings) -> dict[str, float]:
        """Figures of all chosen tokens."""
        ratio, drift, observed = (parts.pop(name) for name in ("ratio", "drift", "observed"))
        found = {name: float(column.mean()) for name, column in parts.items()}
        if self.head is None:
            found |= dict.fromkeys(("value_loss", "value_clip_rate"), math.nan)
        low, high = torch.quantile(parts["entropy"], torch.tensor([0.1, 0.9]).double()).tolist()
        return {
            **found, "ratio_min": min(1.0, float(ratio.min())), "ratio_max": max(1.0, float(ratio.max())),
            "entropy_q10": low, "entropy_q90": high,
            "entropy_observed": float(parts["entropy"][observed.bool()].mean()),
            "rollout_gap_max": float(drift.abs().max()), "rollout_kl": float((drift.exp() - 1 - drift).mean()),
            "rollout_ratio_mean": float(drift.exp().mean()), "lr": now.lr, "schedule_factor": 1.0,
            "critic_lr": math.nan if self.head is None else now.critic_lr, "kl_coef": now.kl_coef, "staleness": 0.0,
            "vetoes": 0,
        }  # fmt: skip

    def credit(
        self, batch: TrajectoryBatch, now: Settings, olds: dict[int, Seen], advantages: dict[int, NDArray[Any]]
    ) -> dict[str, float]:
        """Figures of a step's credit, but for where it went."""
        rows = list(advantages.values())
        units = np.concatenate(rows) if self.head is not None else np.array([row[-1] for row in rows])
        centred = units - units.mean()
        found = {
            "advantage_mean": float(units.mean()), "advantage_std": float(units.std()),
            "advantage_max": float(abs(units).max()), "advantage_error": 0.0,
            "advantage_kurtosis": float((centred**4).mean() / (centred**2).mean() ** 2),
            "advantage_early": float(np.mean([row[0] for row in rows])),
            "advantage_late": float(np.mean([row[-1] for row in rows])),
        }  # fmt: skip
        if self.head is None:
            return found
        values = [old.values.double().numpy() for old in olds.values()]
        returns = [batch.reward[i] * now.gamma ** np.arange(len(old.values))[::-1] for i, old in olds.items()]
        every, said = np.concatenate(returns), np.concatenate(values)
        return found | {
            "value_early": float(np.mean([row[0] for row in values])),
            "value_late": float(np.mean([row[-1] for row in values])),
            "return_early": float(np.mean([row[0] for row in returns])), "value_bias": float((said - every).mean()),
            "explained_variance": float(1 - (every - said).var() / every.var()),
        }  # fmt: skip

    def weights(self) -> Weights:
        """A copy of the policy's weights by name."""
        return {name: p.detach().numpy().copy() for name, p in self.model.named_parameters()}
