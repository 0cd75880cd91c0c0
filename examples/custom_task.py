"""A task of your own: `rftfm train examples/addition.yaml task.name=examples/custom_task.py:Subtraction`."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from typing import ClassVar

from rftfm_ray import Problem, Task, Transcript, Verdict


def all_problems() -> list[Problem]:
    """`57-12=` -> `45`, for all two-digit numbers of which the first is the larger one, in a fixed random order."""
    pairs = [(a, b) for a, b in itertools.product(range(10, 100), repeat=2) if a > b]
    random.Random(0).shuffle(pairs)
    return [Problem(key=f"{a}-{b}", prompt=f"{a}-{b}=", answer=str(a - b)) for a, b in pairs]


class Subtraction(Task):
    """Half of the reward for the first digit alone, all of it for the right difference."""

    name: ClassVar[str] = "subtraction"
    max_new_tokens: ClassVar[tuple[int, ...]] = (4,)

    def pool(self, size: int, seed: int) -> Sequence[Problem]:
        return random.Random(seed).sample(all_problems()[1024:], size)

    def heldout(self) -> Sequence[Problem]:
        return all_problems()[:1024]

    def verify(self, problem: Problem, transcript: Transcript) -> Verdict:
        answer = transcript.turns[-1]
        right = transcript.finished and answer == problem.answer
        return Verdict(reward=1.0 if right else 0.5 * (answer[:1] == problem.answer[0]), correct=right)
