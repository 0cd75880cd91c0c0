"""A task of your own: `rftfm train examples/addition.yaml task.name=examples/custom_task.py:LargeSums`.

Reinforcement can only strengthen what a model does now and then: the shipped one adds, with slips in the carry, so this
task asks it for larger sums. Where no answer in a group is better than another, a step teaches nothing; give another
task a model that solves some of it (`model.path`).
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from typing import ClassVar

from rftfm_ray import Problem, Task, Transcript, Verdict


def all_problems() -> list[Problem]:
    """`57+82=` -> `139`, for all pairs of numbers from 50 to 99, in a fixed random order."""
    pairs = list(itertools.product(range(50, 100), repeat=2))
    random.Random(0).shuffle(pairs)
    return [Problem(key=f"{a}+{b}", prompt=f"{a}+{b}=", answer=str(a + b)) for a, b in pairs]


class LargeSums(Task):
    """Half of the reward for the last digit alone, all of it for the right sum."""

    name: ClassVar[str] = "large_sums"
    max_new_tokens: ClassVar[tuple[int, ...]] = (5,)

    def pool(self, size: int, seed: int) -> Sequence[Problem]:
        return random.Random(seed).sample(all_problems()[1024:], size)

    def heldout(self) -> Sequence[Problem]:
        return all_problems()[:1024]

    def verify(self, problem: Problem, transcript: Transcript) -> Verdict:
        answer = transcript.turns[-1]
        right = transcript.finished and answer == problem.answer
        return Verdict(reward=1.0 if right else 0.5 * (answer[-1:] == problem.answer[-1]), correct=right)
