"""The task of a data set: its rows are the problems, and reward functions its verifier. Pure.

One turn: the model answers, and its answer is graded.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from rftfm_ray.errors import RewardError, TaskError
from rftfm_ray.tasks.api import Problem, Task, Transcript, Verdict
from rftfm_ray.tasks.reward_functions import Given, Graded, RewardPart

NAME = "data"
"""What the task of a data set is called."""


class DataTask(Task):
    """Reward: the weighted sum of the parts that apply; right where the first part says so.

    A part that gives None does not apply; where none applies, or one fails, the answer is masked.

    Args:
        train: problems that are trained on.
        held: problems that are not.
        parts: reward functions.
        right: what the first part gives for a right answer at least, where it does not say itself what is right.
        max_new_tokens: of an answer.
    """

    name = NAME

    def __init__(
        self,
        train: Sequence[Problem],
        held: Sequence[Problem],
        parts: Sequence[RewardPart],
        right: float = 1.0,
        max_new_tokens: int = 256,
    ) -> None:
        self._train, self._held = tuple(train), tuple(held)
        self._parts, self._right = tuple(parts), right
        self.max_new_tokens = (max_new_tokens,)  # type: ignore[misc]
        self.parts = tuple(part.label for part in parts) if len(parts) > 1 else ()  # type: ignore[misc]
        self.in_processes = not all(part.is_plain for part in parts)  # type: ignore[misc]
        self.knows_references = bool(parts) and all(part.is_solved for part in parts)  # type: ignore[misc]

    def __getstate__(self) -> dict[str, Any]:
        # Actors grade answers and draw no problems: a data set may be larger than what a message carries.
        return self.__dict__ | {"_train": (), "_held": ()}

    @property
    def size(self) -> int:
        """Problems that are trained on."""
        return len(self._train)

    def pool(self, size: int, seed: int) -> Sequence[Problem]:
        if size >= len(self._train):
            return self._train
        return tuple(random.Random(f"pool/{seed}").sample(self._train, size))

    def heldout(self) -> Sequence[Problem]:
        return self._held

    def verify(self, problem: Problem, transcript: Transcript) -> Verdict:
        (verdict,) = self.verify_all([(problem, transcript)])
        if isinstance(verdict, Exception):
            raise verdict
        return verdict

    def verify_all(self, asked: Sequence[tuple[Problem, Transcript]]) -> Sequence[Verdict | Exception]:
        rows = [(problem, transcript.turns[-1]) for problem, transcript in asked]
        graded = [part.graded(rows) for part in self._parts]
        return [
            self._verdict(problem, given) for (problem, _), given in zip(rows, zip(*graded, strict=True), strict=True)
        ]

    def _verdict(self, problem: Problem, given: Sequence[Given]) -> Verdict | RewardError:
        """What the parts come to; the first failure of one is that of all."""
        graded = list[Graded]()
        for one in given:
            if isinstance(one, RewardError):
                return one
            graded.append(one)
        rewards = tuple(one.reward for one in graded)
        if all(reward is None for reward in rewards):
            return RewardError(f"No reward function applies to the row with the key {problem.key}.")
        total = sum(part.weight * (reward or 0.0) for part, reward in zip(self._parts, rewards, strict=True))
        return Verdict(total, self._is_right(graded[0]), rewards if self.parts else ())

    def _is_right(self, first: Graded) -> bool:
        if first.is_right is not None:
            return first.is_right
        return first.reward is not None and first.reward >= self._right

    def reference(self, problem: Problem) -> Transcript:
        """The right answer, where a verifier that ships compares with it.

        Raises:
            TaskError: where reward functions alone know what is right.
        """
        if not self.knows_references:
            raise TaskError("Only the reward functions know what a right answer is.")
        return Transcript(turns=(problem.answer,))

    def difficulty(self, problem: Problem) -> float:
        """Length of the prompt in characters."""
        return float(len(problem.prompt))
