"""The faulty components: each takes the place of one instance and calls through to it. Pure.

An injector decides by a hash of the run's seed and the identity of what it touches, so a run with a fault is as
repeatable as one without, whatever the number of actors. It runs on the clock of paid steps, and nothing but its
own duration ends it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import cast

from rftfm_ray.faults.catalogue import FaultSpec, of_code
from rftfm_ray.rollout.channels import CallId, EpisodeId, RewardChannel, ToolInstance
from rftfm_ray.tasks.api import Observation, Problem, Transcript, Verdict, unit_hash
from rftfm_ray.types import StepId

OUTLIER_SHARE = 0.3


class ToolOutageError(RuntimeError):
    """What a tool instance raises that is down."""


class FaultyTool:
    """TE-1: a tool instance whose calls fail with a probability."""

    def __init__(self, inner: ToolInstance, specs: Sequence[FaultSpec], seed: int, instance: int) -> None:
        self._inner = inner
        self._specs = specs
        self._seed = seed
        self._instance = instance

    def __call__(self, call: CallId, problem: Problem, text: str) -> Observation | None:
        observation = self._inner(call, problem, text)
        for spec in self._specs:
            if observation is not None and self._strikes(spec, call):
                if spec.mechanism == "error":
                    raise ToolOutageError("the tool is down")
                # What a broken proxy hands on: not an answer at all.
                return cast("Observation", "<html>502</html>")
        return observation

    def _strikes(self, spec: FaultSpec, call: CallId) -> bool:
        episode = call.episode
        place = (episode.step.paid_step, episode.key, episode.sample, episode.refill, call.turn, call.tries)
        drawn = unit_hash("TE-1", self._seed, self._instance, *place)
        return spec.active(episode.step.paid_step) and drawn < spec.strength


def faulty_tools(instances: Sequence[ToolInstance], specs: Sequence[FaultSpec], seed: int) -> tuple[ToolInstance, ...]:
    """Tool instances with TE-1 in the first of them, or in all of them."""
    wanted = of_code(specs, "TE-1", "error", "malformed")
    found: list[ToolInstance] = []
    for index, instance in enumerate(instances):
        hit = [spec for spec in wanted if index == 0 or spec.all_instances]
        found.append(FaultyTool(instance, hit, seed, index) if hit else instance)
    return tuple(found)


class FaultyReward:
    """RF-1: a reward channel that adds to some rewards. What is right and wrong it leaves alone."""

    def __init__(self, inner: RewardChannel, specs: Sequence[FaultSpec], seed: int) -> None:
        self._inner = inner
        self._specs = specs
        self._seed = seed

    def __call__(self, episode: EpisodeId, problem: Problem, transcript: Transcript) -> Verdict:
        verdict = self._inner(episode, problem, transcript)
        for spec in self._specs:
            if spec.active(episode.step.paid_step) and self._strikes(spec, episode, verdict):
                verdict = dataclasses.replace(verdict, reward=verdict.reward + spec.strength)
        return verdict

    def _strikes(self, spec: FaultSpec, episode: EpisodeId, verdict: Verdict) -> bool:
        if spec.mechanism == "wrong_answers":
            return not verdict.correct
        place = (episode.step.paid_step, episode.key, episode.sample, episode.refill)
        return unit_hash("RF-1", self._seed, *place) < OUTLIER_SHARE


def faulty_reward(channel: RewardChannel, specs: Sequence[FaultSpec], seed: int) -> RewardChannel:
    """The live reward channel with RF-1 in it."""
    wanted = of_code(specs, "RF-1", "outliers", "wrong_answers")
    return FaultyReward(channel, wanted, seed) if wanted else channel


def faulty_schedule(inner: Callable[[StepId], float], specs: Sequence[FaultSpec]) -> Callable[[StepId], float]:
    """A learning-rate schedule with OD-1 in it: its factor is too large, and the rate that is reported shows it."""
    wanted = of_code(specs, "OD-1", "schedule")
    return _scaled(inner, wanted) if wanted else inner


def faulty_gain(specs: Sequence[FaultSpec]) -> Callable[[StepId], float] | None:
    """An optimizer with OD-1 in it: it steps further than it is told, whatever the reported rate."""
    wanted = of_code(specs, "OD-1", "gain")
    return _scaled(lambda _: 1.0, wanted) if wanted else None


def _scaled(inner: Callable[[StepId], float], specs: Sequence[FaultSpec]) -> Callable[[StepId], float]:
    def scaled(step: StepId) -> float:
        factor = inner(step)
        for spec in specs:
            factor *= spec.strength if spec.active(step.paid_step) else 1.0
        return factor

    return scaled
