"""Readings of one row: values where no run of any scale is. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from rftfm_ray.detection.readings.base import AbsoluteReading, Columns, Floats, Row, Rule, first_known, first_known_of
from rftfm_ray.detection.stateful import Kind
from rftfm_ray.signals.logged import NOT_FINITE

# Rows whose values that are not finite are counted, the share of them that mixed precision may cost, and the chance of
# as many at that share from which they are a fault.
ROWS, BEARABLE, CHANCE = 100, 0.02, 1e-3
FEWEST_WRONG = 2


class Above(AbsoluteReading):
    """A value above its limit."""

    def excess(self, row: Row) -> tuple[float, float]:
        """Value over limit."""
        value = first_known(row, self.inputs)
        return max(0.0, value / self.rule.limit), value

    def excesses(self, columns: Columns) -> tuple[Floats, Floats]:
        """The same for all rows."""
        values = first_known_of(columns, self.inputs)
        return np.maximum(0.0, values / self.rule.limit), values

    def may_break(self, columns: Columns) -> bool:
        """Whether any value does."""
        return bool((self.excesses(columns)[0] >= 1.0).any())


class Below(Above):
    """A value below its limit, which is below 0: beyond it as one above a limit is."""


class AwayFromOne(AbsoluteReading):
    """A mean ratio that is this factor above or below 1."""

    def excess(self, row: Row) -> tuple[float, float]:
        """Its logarithm over that of the limit."""
        value = first_known(row, self.inputs)
        return (abs(math.log(value)) / math.log(self.rule.limit) if value > 0 else math.inf), value

    def may_break(self, columns: Columns) -> bool:
        """Whether any value is beyond the factor or near it: logarithms of numpy and math may differ by rounding."""
        values, near = first_known_of(columns, self.inputs), self.rule.limit ** (1 - 1e-9)
        return bool(((values >= near) | (values <= 1 / near)).any())


class SumAbove(AbsoluteReading):
    """A sum of shares above its limit, of those that are measured."""

    def excess(self, row: Row) -> tuple[float, float]:
        """Sum over limit."""
        shares = [row[name] for name in self.inputs if math.isfinite(row.get(name, math.nan))]
        return sum(shares) / self.rule.limit, sum(shares)

    def excesses(self, columns: Columns) -> tuple[Floats, Floats]:
        """The same for all rows."""
        shares = [np.nan_to_num(columns[name], nan=0.0) for name in self.inputs if name in columns]
        total = sum(shares[1:], shares[0])
        return total / self.rule.limit, total

    def may_break(self, columns: Columns) -> bool:
        """Whether any sum does."""
        return bool((self.excesses(columns)[0] >= 1.0).any())


class CertainButWrong(AbsoluteReading):
    """Next to no entropy, and few right answers: the policy has settled on something else than the task."""

    RIGHT = 0.5

    def excess(self, row: Row) -> tuple[float, float]:
        """Limit over entropy, where answers are wrong."""
        wrong = row["correct_rate"] < self.RIGHT
        return (self.rule.limit / max(row["entropy"], self.rule.limit / 100) if wrong else 0.0), row["entropy"]

    def may_break(self, columns: Columns) -> bool:
        """Whether any row has both."""
        return bool(((columns["entropy"] <= self.rule.limit) & (columns["correct_rate"] < self.RIGHT)).any())


class NotFiniteShare(AbsoluteReading):
    """Rows without finite values, too many of the last hundred for the single steps that mixed precision skips."""

    STATE: ClassVar[Mapping[str, Kind]] = {
        **AbsoluteReading.STATE, "_wrong": Kind.FLOATS,
    }  # fmt: skip

    def __init__(self, rule: Rule) -> None:
        super().__init__(rule)
        self._wrong: list[float] = []

    def excess(self, row: Row) -> tuple[float, float]:
        """1 where as many rows would not be wrong by chance at the bearable share."""
        self._wrong = [*self._wrong[-(ROWS - 1) :], row[NOT_FINITE]]
        count, rows = int(sum(self._wrong)), len(self._wrong)
        by_chance = chance_of(count, rows, self.rule.limit)
        broken = count > FEWEST_WRONG and by_chance < CHANCE
        return float(broken), count / rows

    def may_break(self, columns: Columns) -> bool:
        """Whether there are more such rows than a few."""
        return float(columns[NOT_FINITE].sum()) > FEWEST_WRONG

    def began(self, number: int) -> int:
        """The first of the rows that are not finite."""
        return number - (len(self._wrong) - 1 - self._wrong.index(1.0))


def chance_of(count: int, rows: int, share: float) -> float:
    """Probability of `count` or more events in `rows` independent rows of probability `share`."""
    if count <= 0:
        return 1.0
    below = sum(math.comb(rows, k) * share**k * (1 - share) ** (rows - k) for k in range(count))
    return max(0.0, 1.0 - below)
