"""Faults between an episode and its prompt, limits and environment. Pure.

TE-3 by limits, TE-2 by tokens, PG-1 and PG-3S by prompts, PG-3L by end tokens.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence

from rftfm_ray.faults.catalogue import FaultSpec, of_code
from rftfm_ray.faults.draws import call_identity, corrupted, draw, episode_identity, strikes
from rftfm_ray.rollout.channels import CallId, EpisodeId
from rftfm_ray.rollout.seams import EpisodeSeams
from rftfm_ray.rollout.termination import Limits
from rftfm_ray.tasks.api import Problem

_NUMBER = re.compile(r"[0-9]+")


class FaultySeams(EpisodeSeams):
    """Seams with the faults of `specs` in them."""

    def __init__(self, specs: Sequence[FaultSpec], seed: int, answers: Sequence[str] = ()) -> None:
        self._seed = seed
        self._answers = answers
        self._answered = of_code(specs, "PG-1", "answered_prompt")
        self._begun = of_code(specs, "PG-3S", "begun_prompt")
        self._endless = of_code(specs, "PG-3L", "lost_end")
        self._limit = of_code(specs, "TE-3", "limit")
        self._all_limits = of_code(specs, "TE-3", "all_limits")
        self._never = of_code(specs, "TE-3", "never")
        self._tokens = of_code(specs, "TE-2", "tokens")
        self._crossed = of_code(specs, "TE-2", "crossed")

    def limits(self, episode: EpisodeId, limits: Limits) -> Limits:
        """Half the tokens, fewer tokens for all, or no end token, where a fault strikes the episode."""
        paid, identity = episode.step.paid_step, episode_identity(episode)
        for spec in self._limit:
            if strikes(spec, self._seed, paid, *identity):
                halved = tuple(max(1, tokens // 2) for tokens in limits.turn_tokens)
                limits = dataclasses.replace(limits, turn_tokens=halved)
        for spec in self._all_limits:
            lost, chance = spec.level(paid), draw(spec, self._seed, "limit", *identity)
            # A fraction of a token is lost by chance: limits of a few tokens have no strengths between them otherwise.
            fewer = tuple(max(1, tokens - math.floor(tokens * lost + chance)) for tokens in limits.turn_tokens)
            limits = dataclasses.replace(limits, turn_tokens=fewer) if lost else limits
        for spec in self._endless:
            if strikes(spec, self._seed, paid, *identity):
                limits = dataclasses.replace(limits, eos_ids=frozenset(), stop_ids=limits.stop_ids - limits.eos_ids)
        return limits

    def prompt(self, episode: EpisodeId, problem: Problem) -> str:
        """The prompt with its answer, or the beginning of it, where a fault strikes the episode."""
        paid, identity = episode.step.paid_step, episode_identity(episode)
        if any(strikes(spec, self._seed, paid, *identity) for spec in self._answered):
            return problem.prompt + problem.answer
        if any(strikes(spec, self._seed, paid, *identity) for spec in self._begun):
            return problem.prompt + problem.answer[:1]
        return problem.prompt

    def goes_on(self, episode: EpisodeId, turn: int) -> bool:
        """True where a fault strikes the turn."""
        paid, identity = episode.step.paid_step, episode_identity(episode)
        return any(strikes(spec, self._seed, paid, *identity, turn) for spec in self._never)

    def read(self, call: CallId, text: str) -> str:
        """The text with another digit or number, where a fault strikes it. Its hash is not checked here."""
        paid, identity = call.episode.step.paid_step, call_identity(call)
        for spec in self._tokens:
            if strikes(spec, self._seed, paid, *identity):
                text = corrupted(text, draw(spec, self._seed, "digit", *identity))
        for spec in self._crossed:
            if strikes(spec, self._seed, paid, "crossed", *identity):
                text = _NUMBER.sub(self._other(spec, identity), text, count=1)
        return text

    def _other(self, spec: FaultSpec, identity: Sequence[object]) -> str:
        """The answer of some problem of the pool: what its call would have given."""
        return self._answers[int(draw(spec, self._seed, "other", *identity) * len(self._answers))]
