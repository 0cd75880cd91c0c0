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

from rftfm_ray.config.data import ANSWER
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


@dataclass(frozen=True, slots=True)
class RightAnswers:
    """Which answers are right.

    Attributes:
        least: reward of the first function for a right answer at least, where no verifier and not the function itself
            says what is right.
        verifier: says what is right, whatever the functions pay; None for the first of them.
        solution: a right answer as the model would write it, with `{answer}` for what the row calls the answer; None
            where nobody knows one but verifiers that ship.
    """

    least: float = 1.0
    verifier: RewardPart | None = None
    solution: str | None = None


ONE_TURN, FIRST_FUNCTION = Turns(), RightAnswers()


class DataTask(Task):
    """Reward: the weighted sum of the parts that apply; right where the verifier or the first part says so.

    A part that gives None does not apply; where none applies, or one or the verifier fails, the answer is masked.

    Args:
        train: problems that are trained on.
        held: problems that are not.
        parts: reward functions.
        right: which answers are right.
        turns: of an episode.
    """

    name = NAME

    def __init__(
        self,
        train: Sequence[Problem],
        held: Sequence[Problem],
        parts: Sequence[RewardPart],
        right: RightAnswers = FIRST_FUNCTION,
        turns: Turns = ONE_TURN,
    ) -> None:
        self._train, self._held = tuple(train), tuple(held)
        self._parts, self._right = tuple(parts), right
        self._tools = turns.tools
        self.max_new_tokens = (turns.max_new_tokens,) * turns.most  # type: ignore[misc]
        self.stop = turns.stop  # type: ignore[misc]
        self.asks_at_end = turns.tools is not None and not turns.stop  # type: ignore[misc]
        self.parts = tuple(part.label for part in parts) if len(parts) > 1 else ()  # type: ignore[misc]
        asked = self._parts if right.verifier is None else (*self._parts, right.verifier)
        self.in_processes = not all(part.is_plain for part in asked)  # type: ignore[misc]
        solved = bool(parts) and all(part.is_solved for part in asked)
        self.knows_references = solved or right.solution is not None  # type: ignore[misc]

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
        verifier = self._right.verifier
        if verifier is not None:
            # One that is paid by too has been asked.
            same = next((given for part, given in zip(self._parts, graded, strict=True) if part is verifier), None)
            graded.append(verifier.graded(rows) if same is None else same)
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
        # Behind the parts stands the verifier, where there is one.
        judging = graded[0] if self._right.verifier is None else graded.pop()
        rewards = tuple(one.reward for one in graded)
        if all(reward is None for reward in rewards):
            return RewardError(f"No reward function applies to the row with the key {problem.key}.")
        total = sum(part.weight * (reward or 0.0) for part, reward in zip(self._parts, rewards, strict=True))
        return Verdict(total, self._is_right(judging), rewards if self.parts else ())

    def _is_right(self, judging: Graded) -> bool:
        if judging.is_right is not None:
            return judging.is_right
        return judging.reward is not None and judging.reward >= self._right.least

    def reference(self, problem: Problem) -> Transcript:
        """The right answer, as the configuration writes it or as a verifier that ships compares with it.

        Raises:
            TaskError: where reward functions alone know what is right.
        """
        if not self.knows_references:
            raise TaskError("Only the reward functions know what a right answer is.")
        solution = self._right.solution
        return Transcript(turns=(problem.answer if solution is None else solution.replace(ANSWER, problem.answer),))

    def difficulty(self, problem: Problem) -> float:
        """Length of the prompt in characters."""
        return float(len(problem.prompt))
