"""Faults between an episode, its limits and its environment: TE-3 by limits, TE-2 by tokens. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from rftfm_ray.faults.catalogue import FaultSpec, of_code
from rftfm_ray.faults.draws import call_identity, corrupted, draw, episode_identity, strikes
from rftfm_ray.rollout.channels import CallId, EpisodeId
from rftfm_ray.rollout.seams import EpisodeSeams
from rftfm_ray.rollout.termination import Limits


class FaultySeams(EpisodeSeams):
    """Seams with the faults of `specs` in them."""

    def __init__(self, specs: Sequence[FaultSpec], seed: int) -> None:
        self._seed = seed
        self._limit = of_code(specs, "TE-3", "limit")
        self._never = of_code(specs, "TE-3", "never")
        self._tokens = of_code(specs, "TE-2", "tokens")

    def limits(self, episode: EpisodeId, limits: Limits) -> Limits:
        """Half the tokens, where a fault strikes the episode."""
        for spec in self._limit:
            if strikes(spec, self._seed, episode.step.paid_step, *episode_identity(episode)):
                halved = tuple(max(1, tokens // 2) for tokens in limits.turn_tokens)
                limits = dataclasses.replace(limits, turn_tokens=halved)
        return limits

    def goes_on(self, episode: EpisodeId, turn: int) -> bool:
        """True where a fault strikes the turn."""
        paid, identity = episode.step.paid_step, episode_identity(episode)
        return any(strikes(spec, self._seed, paid, *identity, turn) for spec in self._never)

    def read(self, call: CallId, text: str) -> str:
        """The text with another digit, where a fault strikes it. Its hash is not checked here."""
        paid, identity = call.episode.step.paid_step, call_identity(call)
        for spec in self._tokens:
            if strikes(spec, self._seed, paid, *identity):
                text = corrupted(text, draw(spec, self._seed, "digit", *identity))
        return text
