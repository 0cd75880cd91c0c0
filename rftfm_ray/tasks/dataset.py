"""The task of a data set: its rows are the problems, and reward functions its verifier. Pure.

Without tools one turn: the model answers, and its answer is graded. With them a turn may call some and read what they
give, and the last turn is the answer.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rftfm_ray.errors import RewardError, TaskError
from rftfm_ray.tasks.api import Observation, Problem, Task, Transcript, Verdict
from rftfm_ray.tasks.reward_functions import Given, Graded, RewardPart, Row
from rftfm_ray.tasks.tools.tool import ToolBox, messages_of

NAME = "data"
"""What the task of a data set is called."""


@dataclass(frozen=True, slots=True)
class Turns:
    """The turns of an episode.

    Attributes:
        max_new_tokens: of each.
        most: turns at most, the answer among them.
        tools: that turns may call; None for none.
        stop: text that ends a turn which calls; empty where the model's end token does.
    """

    max_new_tokens: int = 256
    most: int = 1
    tools: ToolBox | None = None
    stop: str = ""


ONE_TURN = Turns()


class DataTask(Task):
    """Reward: the weighted sum of the parts that apply; right where the first part says so.

    A part that gives None does not apply; where none applies, or one fails, the answer is masked.

    Args:
        train: problems that are trained on.
        held: problems that are not.
        parts: reward functions.
        right: what the first part gives for a right answer at least, where it does not say itself what is right.
        turns: of an episode.
    """

    name = NAME

    def __init__(
        self,
        train: Sequence[Problem],
        held: Sequence[Problem],
        parts: Sequence[RewardPart],
        right: float = 1.0,
        turns: Turns = ONE_TURN,
    ) -> None:
        self._train, self._held = tuple(train), tuple(held)
        self._parts, self._right = tuple(parts), right
        self._tools = turns.tools
        self.max_new_tokens = (turns.max_new_tokens,) * turns.most  # type: ignore[misc]
        self.stop = turns.stop  # type: ignore[misc]
        self.asks_at_end = turns.tools is not None and not turns.stop  # type: ignore[misc]
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

    def instance(self, number: int) -> Task:
        same = copy.copy(self)
        if self._tools is not None:
            same._tools = self._tools.instance(number)
        return same

    def respond(self, problem: Problem, turn: int, text: str) -> Observation | None:
        # What the model has called with is all that its tools know of the problem.
        del problem
        return None if self._tools is None else self._tools.respond(turn, text)

    def verify(self, problem: Problem, transcript: Transcript) -> Verdict:
        (verdict,) = self.verify_all([(problem, transcript)])
        if isinstance(verdict, Exception):
            raise verdict
        return verdict

    def verify_all(self, asked: Sequence[tuple[Problem, Transcript]]) -> Sequence[Verdict | Exception]:
        rows = [self._row(problem, transcript) for problem, transcript in asked]
        graded = [part.graded(rows) for part in self._parts]
        return [self._verdict(row.problem, given) for row, given in zip(rows, zip(*graded, strict=True), strict=True)]

    def _row(self, problem: Problem, transcript: Transcript) -> Row:
        return Row(problem, transcript.turns[-1], () if self._tools is None else messages_of(transcript))

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
