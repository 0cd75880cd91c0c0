"""`calculator`: three two-digit numbers to add, with a calculator that costs a little.

Turn one is a call, `c12+34+56;`, or a direct answer. The environment appends the result, `102;`, or `e;`
for a call that it cannot read. Turn two is the answer.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import ClassVar

from rftfm_ray.errors import TaskError
from rftfm_ray.tasks.addition import HELDOUT_SIZE, carries, draw, draw_distinct
from rftfm_ray.tasks.api import Demonstration, Observation, Problem, Task, ToolCall, ToolStatus, Transcript, Verdict
from rftfm_ray.tasks.arithmetic import ExpressionError, evaluate

CALL = "c"
END = ";"
UNREADABLE = "e"
PRICE_PER_CALL = 0.2


class Calculator(Task):
    """Reward 1 for the right sum, less 0.2 for every call."""

    name: ClassVar[str] = "calculator"
    max_new_tokens: ClassVar[tuple[int, ...]] = (12, 5)
    stop: ClassVar[str] = END
    max_pool: ClassVar[int] = 100_000

    def pool(self, size: int, seed: int) -> Sequence[Problem]:
        if size > self.max_pool:
            raise TaskError(f"task.pool_size={size} is more than the {self.max_pool} of {self.name}; lower it.")
        return draw_distinct(size, f"pool/{seed}", 3, self.name, heldout=False)

    def heldout(self) -> Sequence[Problem]:
        return draw_distinct(HELDOUT_SIZE, "heldout", 3, self.name, heldout=True)

    def respond(self, problem: Problem, turn: int, text: str) -> Observation | None:
        del problem
        if turn > 0 or not (text.startswith(CALL) and text.endswith(END)):
            return None
        request = text[len(CALL) : -len(END)]
        try:
            response, status = str(evaluate(request)), ToolStatus.OK
        except ExpressionError:
            response, status = UNREADABLE, ToolStatus.UNPARSABLE
        return Observation(response + END, ToolCall(turn, self.name, request, response, status))

    def verify(self, problem: Problem, transcript: Transcript) -> Verdict:
        right = transcript.finished and transcript.turns[-1] == problem.answer
        return Verdict(reward=float(right) - PRICE_PER_CALL * len(transcript.calls), correct=right)

    def reference(self, problem: Problem) -> Transcript:
        call = CALL + problem.prompt.removesuffix("=") + END
        observed = self.respond(problem, 0, call)
        return Transcript(turns=(call, problem.answer), calls=(observed.call,) if observed else ())

    def difficulty(self, problem: Problem) -> float:
        return carries(problem)

    def demonstration(self, rng: random.Random) -> Demonstration:
        """A worked episode of mixed quality, for a start that leaves something to learn.

        Whether the calculator is called depends on the prompt: with one shared habit, accuracy would jump
        from the first few updates. Of the calls, 20 % hold a wrong digit, 10 % are followed by a
        wrong copy of the result, and 5 % meet an unreadable answer.
        """
        chosen = draw(rng, 3, self.name, heldout=False)
        expression = chosen.prompt.removesuffix("=")
        lean = 1.1 * (int(chosen.prompt[0]) - 5) / 2.6 - 1.1 * (int(expression[-1]) - 4.5) / 2.9 - 0.3
        if rng.random() >= 1 / (1 + math.exp(-lean)):
            return Demonstration(chosen, ((chosen.answer, True),))
        if rng.random() < 0.2:
            expression = _with_wrong_digit(rng, expression)
        result = UNREADABLE if rng.random() < 0.05 else str(evaluate(expression))
        answer = chosen.answer if result == UNREADABLE else result
        if rng.random() < 0.1:
            answer = _with_wrong_digit(rng, answer)
        return Demonstration(chosen, ((CALL + expression + END, True), (result + END, False), (answer, True)))


def _with_wrong_digit(rng: random.Random, text: str) -> str:
    index = rng.choice([i for i, character in enumerate(text) if character.isdigit()])
    wrong = rng.choice([d for d in "0123456789" if d != text[index]])
    return text[:index] + wrong + text[index + 1 :]
