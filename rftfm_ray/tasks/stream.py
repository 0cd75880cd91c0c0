"""The order of training prompts: a pure function of seed and position, so a data cursor is one number."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from rftfm_ray.tasks.api import Problem
from rftfm_ray.types import StepId

PAST_BATCHES = 10


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the pool from which a share of the prompts of some steps comes."""

    name: str
    problems: Sequence[Problem]
    share: Callable[[StepId], float]


class PromptStream:
    """The pool, pass after pass, in a new random order for every pass.

    Positions at which the share of a part rises by one give their place to the next problem of that part, which has
    passes of its own; all others hold what they would hold without parts. Of several parts the later one wins.

    `quarantine` are keys of problems that nobody is to learn from any more: positions that would hold one hold the next
    other problem of the pool instead.
    """

    def __init__(self, pool: Sequence[Problem], seed: int, parts: Sequence[Part] = ()) -> None:
        self.quarantine: frozenset[str] = frozenset()
        self._whole = _Passes(pool, f"prompts/{seed}")
        self._parts = [(part, _Passes(part.problems, f"prompts/{seed}/{part.name}")) for part in parts]

    def take(self, cursor: int, count: int, step: StepId | None = None) -> tuple[Problem, ...]:
        """The `count` problems from position `cursor` (from 0) on; with the parts that have a share at `step`."""
        taken = [self._whole.at(position) for position in range(cursor, cursor + count)]
        for part, passes in self._parts:
            share = 0.0 if step is None else part.share(step)
            if share > 0:
                _replace(taken, cursor, share, passes)
        return tuple(self._without_quarantine(taken, cursor) if self.quarantine else taken)

    def keep_out(self, keys: Iterable[str]) -> int:
        """Add problems to the quarantine, unless that would leave fewer than half of the pool; how many were added."""
        grown = self.quarantine | set(keys)
        if 2 * sum(problem.key in grown for problem in self._whole.problems) > self._whole.size:
            return 0
        added = len(grown) - len(self.quarantine)
        self.quarantine = frozenset(grown)
        return added

    def _without_quarantine(self, taken: list[Problem], cursor: int) -> Iterator[Problem]:
        """In place of what is kept out the next problems of the pool, without repeats while other ones are left."""
        seen = {problem.key for problem in taken} | self.quarantine
        for position, problem in enumerate(taken, start=cursor):
            if problem.key not in self.quarantine:
                yield problem
                continue
            # So many positions hold a whole pass, and so every problem.
            following = [self._whole.at(position + further) for further in range(1, 2 * self._whole.size)]
            fresh = (p for p in following if p.key not in seen)
            chosen = next(fresh, None) or next(p for p in following if p.key not in self.quarantine)
            seen.add(chosen.key)
            yield chosen

    def figures(
        self, cursor: int, count: int, step: StepId, difficulty: Callable[[Problem], float]
    ) -> tuple[float, float, float, float]:
        """Figures of the prompts of a step.

        Mean length of its prompts and of their right answers in characters, their mean difficulty, and the share of
        them that the ten batches before it hold too, as the data are drawn at this step.

        A function of seed, position and quarantine like the prompts themselves: a run that goes on from a checkpoint
        needs no past.
        """
        taken, starts = self.take(cursor, count, step), [cursor - count * back for back in range(1, PAST_BATCHES + 1)]
        batches = (self.take(max(0, start), count + min(0, start), step) for start in starts if start > -count)
        before = {problem.key for batch in batches for problem in batch}
        return (
            sum(len(problem.prompt) for problem in taken) / count,
            sum(len(problem.answer) for problem in taken) / count,
            sum(map(difficulty, taken)) / count,
            sum(problem.key in before for problem in taken) / count,
        )


def _replace(taken: list[Problem], cursor: int, share: float, passes: _Passes) -> None:
    """Put problems of a part at a share of the positions, without repeats while other problems are left."""
    indices = [index for index in range(len(taken)) if _rises(cursor + index, share)]
    taken_keys = {problem.key for index, problem in enumerate(taken) if index not in set(indices)}
    for index in indices:
        first = math.floor((cursor + index) * share)
        nearest = (passes.at(first + further) for further in range(passes.size))
        fresh = next((problem for problem in nearest if problem.key not in taken_keys), None)
        taken[index] = taken[index] if fresh is None else fresh
        taken_keys.add(taken[index].key)


def _rises(position: int, share: float) -> bool:
    return math.floor((position + 1) * share) > math.floor(position * share)


class _Passes:
    """Problems without end."""

    def __init__(self, problems: Sequence[Problem], name: str) -> None:
        self.problems = problems
        self._name = name
        self._orders: dict[int, list[int]] = {}

    @property
    def size(self) -> int:
        """Problems of one pass."""
        return len(self.problems)

    def at(self, position: int) -> Problem:
        """The problem at a position, from 0."""
        number, index = divmod(position, len(self.problems))
        if number not in self._orders:
            order = list(range(len(self.problems)))
            random.Random(f"{self._name}/{number}").shuffle(order)
            # At most two passes are in use at a time: one may end within a step.
            self._orders = {k: v for k, v in self._orders.items() if k >= number - 1} | {number: order}
        return self.problems[self._orders[number][index]]
