"""The changes: what the trainers of the stories did, each in a few lines where they did it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from benchmarks.stories.trainers import LearnerChange, RolloutChange, StoryRollout, Undo
from rftfm_ray.batch import TrajectoryBatch, seals
from rftfm_ray.rollout.weights import WeightsUpdate
from rftfm_ray.training import credit, loss_credit
from rftfm_ray.training.credit import Credit, Rule
from rftfm_ray.training.learner import Learner
from rftfm_ray.types import Termination

PER_TRAJECTORY = (
    "group", "sample", "prompt_length", "reward", "live_reward", "trusted_reward", "trusted_correct", "refills",
    "correct", "valid", "termination", "turns", "model_version", "termination_ok", "replayed", "replay_observation_ok",
    "replay_termination_ok", "seal",
)  # fmt: skip
Floats = NDArray[np.float32]


def _patched(target: object, name: str, new: object) -> Undo:
    patcher = patch.object(target, name, new)
    patcher.start()

    def undo() -> None:
        patcher.stop()

    return undo


def rows_of(batch: TrajectoryBatch, rows: Sequence[int]) -> TrajectoryBatch:
    """Some trajectories of a batch, without their tool calls, which no learner reads."""
    spans = [np.arange(batch.offsets[row], batch.offsets[row + 1]) for row in rows]
    index = np.concatenate(spans)
    columns: dict[str, Any] = {name: getattr(batch, name)[list(rows)] for name in PER_TRAJECTORY}
    columns |= {name: getattr(batch, name)[index] for name in ("tokens", "action", "logprobs")}
    columns |= {name: tuple(getattr(batch, name)[row] for row in rows) for name in ("keys", "texts")}
    columns["offsets"] = np.cumsum([0, *map(len, spans)])
    return dataclasses.replace(batch, **columns)


class ShuffledRewards(LearnerChange):
    """Dynamic batching sorts the sequences by length, and not the rewards."""

    def batch(self, batch: TrajectoryBatch) -> TrajectoryBatch:
        """Rewards and masks stay where they were, and everything else is sorted."""
        order = np.argsort(batch.lengths(), kind="stable")
        moved = rows_of(batch, order.tolist())
        return dataclasses.replace(moved, reward=batch.reward, valid=batch.valid)


class LostGroup(LearnerChange):
    """Of the groups that have finished one is dropped on the way to the learner."""

    def batch(self, batch: TrajectoryBatch) -> TrajectoryBatch:
        """All but the last group."""
        return rows_of(batch, np.flatnonzero(batch.group != batch.group.max()).tolist())


class RejectedInBaseline(LearnerChange):
    """Samples that must not train count as rewards of 0 in the mean of their group."""

    def install(self, learner_: Learner) -> Undo:
        """The estimator sees everybody, and the update only who takes part."""
        del learner_
        plain = credit.assign

        def assign(batch: TrajectoryBatch, rule: Rule, values: Floats | None = None) -> Credit:
            rewards = np.nan_to_num(batch.reward)
            everyone = dataclasses.replace(batch, reward=rewards, valid=np.ones(len(batch), np.bool_))
            included = credit.members(batch, rule)
            found = plain(everyone, rule, values)
            kept = np.where(np.repeat(included, batch.action_counts()), found.advantages, 0)
            return Credit(included, kept.astype(np.float32), found.returns)

        return _patched(loss_credit, "assign", assign)


class FirstOfGroup(LearnerChange):
    """Advantages come from the first rollout of a group alone: its reward is what the others are compared with."""

    def install(self, learner_: Learner) -> Undo:
        """The baseline of a group is its first reward."""
        del learner_

        def relative(reward: Floats, group: NDArray[np.int32], valid: NDArray[np.bool_], **_: bool) -> Floats:
            del valid
            first = np.array([reward[group == g][0] for g in group])
            found: Floats = (reward - first).astype(np.float32)
            return found

        return _patched(credit, "group_advantages", relative)


class Overflow(LearnerChange):
    """Half precision overflows in some step, and the loss is infinite from there on."""

    def install(self, learner_: Learner) -> Undo:
        """Every loss is infinite."""
        engine, plain = learner_.engine, learner_.engine.backward

        def backward(loss: Any, *, last: bool) -> None:
            plain(loss * math.inf, last=last)

        return _patched(engine, "backward", backward)


class WrongOldLogprobs(LearnerChange):
    """Log-probs of the old policy are those of another tokenization: some tokens have next to none."""

    BY = 20.0

    def install(self, learner_: Learner) -> Undo:
        """One token in a hundred is 20 nats less likely to the old policy than it was."""
        plain: Callable[..., Any] = learner_._forwards_before

        def forwards(minibatches: Any, settings: Any) -> Any:
            found, precomputed = plain(minibatches, dataclasses.replace(settings))
            before = found or [[learner_._forward(micro) for micro in micros] for micros in minibatches]
            wrong = [[self._wrong(each) for each in forwards_] for forwards_ in before]
            return wrong, precomputed if found is None and precomputed is not None else None

        return _patched(learner_, "_forwards_before", forwards)

    def _wrong(self, forward: Any) -> Any:
        logprobs = forward.logprobs.detach().clone()
        logprobs[::100] -= self.BY
        return dataclasses.replace(forward, logprobs=logprobs)


class BaseWeights(RolloutChange):
    """After each sleep of the engine the weights of the base model are in it again."""

    def loaded(self, actor: StoryRollout, update: WeightsUpdate) -> None:
        """The sync was right, and what wakes up is not what was synced."""
        if update.version == 0:
            self._base = {name: array.copy() for name, array in update.arrays.items()}
        elif update.version >= self.first - 1:
            actor.load_engine(self._base)


class HiddenTruncation(RolloutChange):
    """Answers that a limit cuts off are reported as finished."""

    def begin(self, actor: StoryRollout) -> Undo:
        """Whatever ended a turn, it is called the end of the answer."""
        episodes: Any = actor.episodes
        plain = episodes._take_turn

        def take_turn(batch: Any, result: Any) -> None:
            plain(batch, result)
            episode = batch.episodes[result.id]
            if batch.step.paid_step >= self.first and episode.termination is Termination.MAX_TOKENS:
                episode.termination = Termination.EOS

        return _patched(episodes, "_take_turn", take_turn)


class FailuresGraded(RolloutChange):
    """An episode that the infrastructure failed is graded as an answer that is wrong."""

    def begin(self, actor: StoryRollout) -> Undo:
        """A failure is a reward of 0 that trains."""
        episodes: Any = actor.episodes
        plain = episodes._columns

        def columns(batch: Any) -> TrajectoryBatch:
            made: TrajectoryBatch = plain(batch)
            if batch.step.paid_step < self.first:
                return made
            failed = made.termination == Termination.FAILED
            reward = np.where(failed, np.float32(0), made.reward)
            graded = dataclasses.replace(made, valid=made.valid | failed, reward=reward)
            return dataclasses.replace(graded, seal=seals(graded))

        return _patched(episodes, "_columns", columns)


class OtherNorm(RolloutChange):
    """A new release of the engine normalises with another epsilon than the trainer."""

    EPSILON = 0.05

    def begin(self, actor: StoryRollout) -> Undo:
        """The engine's model with the other epsilon."""
        before = actor.change_model(partial(set_epsilons, [self.EPSILON]))

        def undo() -> None:
            actor.change_model(partial(set_epsilons, before))

        return undo


def set_epsilons(values: Sequence[float], model: Any) -> list[float]:
    """Set the epsilons of a model's norms to values, the last of them for all further ones; returns those before."""
    norms = [module for module in model.modules() if hasattr(module, "variance_epsilon")]
    before = [float(norm.variance_epsilon) for norm in norms]
    for index, norm in enumerate(norms):
        norm.variance_epsilon = values[min(index, len(values) - 1)]
    return before
