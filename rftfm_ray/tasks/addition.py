"""`addition`: two-digit sums in one turn, `17+58=` -> `75`."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import ClassVar

from rftfm_ray.errors import TaskError
from rftfm_ray.tasks.api import Demonstration, Problem, Task, Transcript, Verdict, unit_hash

LOW, HIGH = 10, 99
HELDOUT_SHARE = 1 / 6
HELDOUT_SIZE = 1024


def problem(*operands: int) -> Problem:
    """The problem of adding `operands`."""
    prompt = "+".join(str(operand) for operand in operands) + "="
    return Problem(key=prompt, prompt=prompt, answer=str(sum(operands)))


def is_heldout(prompt: str, task: str) -> bool:
    """Whether a prompt belongs to the held-out part of `task`: decided by its hash, so nobody keeps a list."""
    return unit_hash("heldout", task, prompt) < HELDOUT_SHARE


def draw(rng: random.Random, operands: int, task: str, *, heldout: bool) -> Problem:
    """One problem with `operands` two-digit numbers from the asked part of `task`."""
    while True:
        candidate = problem(*(rng.randint(LOW, HIGH) for _ in range(operands)))
        if is_heldout(candidate.prompt, task) == heldout:
            return candidate


def draw_distinct(size: int, seed: str, operands: int, task: str, *, heldout: bool) -> tuple[Problem, ...]:
    """`size` different problems, the same for the same seed."""
    rng, problems = random.Random(seed), dict[str, Problem]()
    while len(problems) < size:
        candidate = draw(rng, operands, task, heldout=heldout)
        problems.setdefault(candidate.key, candidate)
    return tuple(problems.values())


def slip_rate(prompt: str) -> float:
    """How often a demonstration of `prompt` slips: logistic in its first and last digit, 0.55 on average."""
    lean = 0.4 * (int(prompt[0]) - 5) / 2.6 - 0.4 * (int(prompt[4]) - 4.5) / 2.9 - 0.3
    return 1 / (1 + math.exp(lean))


def carries(sum_of: Problem) -> float:
    """Number of columns of a sum that carry into the next one."""
    operands = [int(operand) for operand in sum_of.prompt.removesuffix("=").split("+")]
    count = carry = 0
    while any(operands):
        carry = (carry + sum(operand % 10 for operand in operands)) // 10
        operands = [operand // 10 for operand in operands]
        count += carry > 0
    return float(count)


class Addition(Task):
    """Reward 1 for the right sum, else 0."""

    name: ClassVar[str] = "addition"
    max_new_tokens: ClassVar[tuple[int, ...]] = (5,)
    max_pool: ClassVar[int] = 6000

    def pool(self, size: int, seed: int) -> Sequence[Problem]:
        if size > self.max_pool:
            raise TaskError(f"task.pool_size={size} is more than the {self.max_pool} of {self.name}; lower it.")
        return draw_distinct(size, f"pool/{seed}", 2, self.name, heldout=False)

    def heldout(self) -> Sequence[Problem]:
        return draw_distinct(HELDOUT_SIZE, "heldout", 2, self.name, heldout=True)

    def verify(self, problem: Problem, transcript: Transcript) -> Verdict:
        right = transcript.finished and transcript.turns[-1] == problem.answer
        return Verdict(reward=float(right), correct=right)

    def difficulty(self, problem: Problem) -> float:
        return carries(problem)

    def demonstration(self, rng: random.Random, *, slips: bool = True) -> Demonstration:
        """A right answer, or one with its carry forgotten or invented, to a problem that is not held out.

        How often the carry slips depends on the prompt, so that a model learns both ways and leans to one of them
        prompt by prompt: reinforcement then has a choice to sharpen, many small ones instead of one.
        """
        chosen = draw(rng, 2, self.name, heldout=False)
        ones = int(chosen.prompt[1]) + int(chosen.prompt[4])
        if slips and rng.random() < slip_rate(chosen.prompt):
            slipped = int(chosen.answer) + (-10 if ones > 9 else 10)
            return Demonstration(chosen, ((str(slipped), True),))
        return Demonstration(chosen, ((chosen.answer, True),))
