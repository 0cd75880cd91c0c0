"""Draws of injectors: hashes of a seed and an identity, so they do not depend on the number of actors."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rftfm_ray.faults.catalogue import FaultSpec
from rftfm_ray.rollout.channels import CallId, EpisodeId
from rftfm_ray.tasks.api import unit_hash


def draw(spec: FaultSpec, seed: int, *identity: object) -> float:
    """Draw a number in [0, 1) for an identity."""
    return unit_hash(spec.code, seed if spec.seed is None else spec.seed, *identity)


def strikes(spec: FaultSpec, seed: int, paid_step: int, *identity: object) -> bool:
    """Whether a fault whose strength is a probability strikes an identity."""
    return spec.active(paid_step) and draw(spec, seed, *identity) < spec.level(paid_step)


def episode_identity(episode: EpisodeId) -> tuple[object, ...]:
    """Identity of a trajectory, unique in its run."""
    return episode.step.paid_step, episode.key, episode.sample, episode.refill


def call_identity(call: CallId) -> tuple[object, ...]:
    """Identity of a try of a tool call, unique in its run."""
    return *episode_identity(call.episode), call.turn, call.tries


def corrupted(text: str, number: float) -> str:
    """`text` with one digit, or where it has none its first character, replaced by another digit.

    `number` in [0, 1) chooses which. An empty text stays.
    """
    indices = [i for i, character in enumerate(text) if character.isascii() and character.isdigit()] or [0][: len(text)]
    if not indices:
        return text
    choice = int(number * len(indices) * 9)
    index = indices[choice // 9]
    others = [digit for digit in "0123456789" if digit != text[index]]
    return text[:index] + others[choice % 9] + text[index + 1 :]


def heavy_tailed(spec: FaultSpec, seed: int, paid_step: int, size: int) -> Sequence[float]:
    """`size` draws of Student's t distribution with two degrees of freedom, by inverting it."""
    draws = []
    for index in range(size):
        centred = 2 * draw(spec, seed, paid_step, index) - 1
        # The quantile of t(2) at u is (2u - 1) sqrt(2 / (1 - (2u - 1)^2)).
        draws.append(centred * math.sqrt(2 / max(1 - centred * centred, 1e-12)))
    return draws
