"""Seams between the parts of a rollout actor. The default seams pass everything on unchanged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from rftfm_ray.rollout.channels import CallId, EpisodeId, RewardChannel, ToolInstance
from rftfm_ray.rollout.engine import TurnRequest, TurnResult
from rftfm_ray.rollout.termination import Limits
from rftfm_ray.tasks.api import Problem
from rftfm_ray.types import Sampling, StepId


class Engine(Protocol):
    """The interface of a generator that an episode needs."""

    def submit(self, request: TurnRequest, sampling: Sampling) -> None:
        """Queue a turn."""

    def step(self) -> Iterable[TurnResult]:
        """Advance; gives the turns that ended."""

    def busy(self) -> bool:
        """Whether turns are queued or running."""


@dataclass(frozen=True, slots=True)
class Exposure:
    """How much of what a reward channel pays for the responses of a step hold: sum over `count` responses.

    `code` and `mechanism` name what is counted.
    """

    code: str
    mechanism: str
    total: float
    count: int


class EpisodeSeams:
    """Between an episode, its limits and its environment. Fault injection puts one with faults in its place."""

    def limits(self, episode: EpisodeId, limits: Limits) -> Limits:
        """The limits that an episode goes by; who looks whether they were kept goes by the same."""
        del episode
        return limits

    def prompt(self, episode: EpisodeId, problem: Problem) -> str:
        """The prompt as it is written for an episode."""
        del episode
        return problem.prompt

    def goes_on(self, episode: EpisodeId, turn: int) -> bool:
        """Whether a turn with which the model has ended the episode does not end it."""
        del episode, turn
        return False

    def read(self, call: CallId, text: str) -> str:
        """An observation as it is written into the prompt."""
        del call
        return text


class RolloutSeams:
    """Between a rollout actor's engine, tools, rewards and weights. Fault injection puts one with faults in its place.

    Built for one actor and one run; an actor that begins another run is given another.
    """

    def tools(self, instances: Sequence[ToolInstance]) -> tuple[ToolInstance, ...]:
        """The tool instances as training episodes reach them."""
        return tuple(instances)

    def reward(self, channel: RewardChannel) -> RewardChannel:
        """The live reward channel."""
        return channel

    def sampler(self, engine: Engine, eos_ids: Sequence[int]) -> Engine:
        """The engine as training episodes reach it; `eos_ids` are the tokens that end a turn."""
        del eos_ids
        return engine

    def episodes(self) -> EpisodeSeams:
        """The seams between episodes and their environment."""
        return EpisodeSeams()

    def arrived(self, arrays: Mapping[str, NDArray[Any]], paid_step: int) -> Mapping[str, NDArray[Any]]:
        """The weights that have arrived when `arrays` were sent after a paid step."""
        del paid_step
        return arrays

    def exposure(self, step: StepId) -> list[Exposure]:
        """Amount of the counted behaviour in the responses of a step."""
        del step
        return []
