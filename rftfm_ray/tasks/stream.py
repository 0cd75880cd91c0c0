"""The order of training prompts: a pure function of seed and position, so a data cursor is one number."""

from __future__ import annotations

import random
from collections.abc import Sequence

from rftfm_ray.tasks.api import Problem


class PromptStream:
    """The pool, pass after pass, in an order drawn anew for every pass."""

    def __init__(self, pool: Sequence[Problem], seed: int) -> None:
        self._pool = pool
        self._seed = seed
        self._orders: dict[int, list[int]] = {}

    def take(self, cursor: int, count: int) -> tuple[Problem, ...]:
        """The `count` problems from position `cursor` (from 0) on."""
        return tuple(self._at(position) for position in range(cursor, cursor + count))

    def _at(self, position: int) -> Problem:
        number, place = divmod(position, len(self._pool))
        if number not in self._orders:
            order = list(range(len(self._pool)))
            random.Random(f"prompts/{self._seed}/{number}").shuffle(order)
            # At most two passes are in use at a time: one may end within a step.
            self._orders = {k: v for k, v in self._orders.items() if k >= number - 1} | {number: order}
        return self._pool[self._orders[number][place]]
