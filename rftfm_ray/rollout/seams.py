"""What stands between the parts of a rollout actor. What is here is sound: it hands on what it is given."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from rftfm_ray.rollout.channels import CallId, EpisodeId
from rftfm_ray.rollout.engine import TurnRequest, TurnResult
from rftfm_ray.rollout.termination import Limits
from rftfm_ray.types import Sampling


class Engine(Protocol):
    """What an episode needs of a generator."""

    def submit(self, request: TurnRequest, sampling: Sampling) -> None:
        """Queue a turn."""

    def step(self) -> Iterable[TurnResult]:
        """Advance; gives the turns that ended."""

    def busy(self) -> bool:
        """Whether turns are queued or running."""


class EpisodeSeams:
    """Between an episode, its limits and its environment. A fire drill puts one with faults in its place."""

    def limits(self, episode: EpisodeId, limits: Limits) -> Limits:
        """The limits that an episode goes by; who looks whether they were kept goes by the same."""
        del episode
        return limits

    def goes_on(self, episode: EpisodeId, turn: int) -> bool:
        """Whether a turn with which the model has ended the episode does not end it."""
        del episode, turn
        return False

    def read(self, call: CallId, text: str) -> str:
        """An observation as it is written into the prompt."""
        del call
        return text
