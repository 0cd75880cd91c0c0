"""How injectors decide: by a hash of a seed and the identity of what they touch, whatever the number of actors."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rftfm_ray.faults.catalogue import FaultSpec
from rftfm_ray.rollout.channels import CallId, EpisodeId
from rftfm_ray.tasks.api import unit_hash


def draw(spec: FaultSpec, seed: int, *place: object) -> float:
    """A number in [0, 1) for what stands at `place`."""
    return unit_hash(spec.code, seed if spec.seed is None else spec.seed, *place)


def strikes(spec: FaultSpec, seed: int, paid_step: int, *place: object) -> bool:
    """Whether a fault whose strength is a probability strikes what stands at `place`."""
    return spec.active(paid_step) and draw(spec, seed, *place) < spec.level(paid_step)


def episode_place(episode: EpisodeId) -> tuple[object, ...]:
    """What tells a trajectory from every other one of its run."""
    return episode.step.paid_step, episode.key, episode.sample, episode.refill


def call_place(call: CallId) -> tuple[object, ...]:
    """What tells a try of a tool call from every other one."""
    return *episode_place(call.episode), call.turn, call.tries


def corrupted(text: str, number: float) -> str:
    """`text` with one digit, or where it has none its first character, replaced by another digit.

    `number` in [0, 1) chooses which. An empty text stays.
    """
    places = [i for i, character in enumerate(text) if character.isascii() and character.isdigit()] or [0][: len(text)]
    if not places:
        return text
    choice = int(number * len(places) * 9)
    place = places[choice // 9]
    others = [digit for digit in "0123456789" if digit != text[place]]
    return text[:place] + others[choice % 9] + text[place + 1 :]


def heavy_tailed(spec: FaultSpec, seed: int, paid_step: int, size: int) -> Sequence[float]:
    """`size` draws of Student's t distribution with two degrees of freedom, by inverting it."""
    found = []
    for index in range(size):
        centred = 2 * draw(spec, seed, paid_step, index) - 1
        # The quantile of t(2) at u is (2u - 1) sqrt(2 / (1 - (2u - 1)^2)).
        found.append(centred * math.sqrt(2 / max(1 - centred * centred, 1e-12)))
    return found
