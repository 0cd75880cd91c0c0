"""Slow drifts: a trend over hundreds of rows, tested with a long-run variance. Pure; numpy.

Rows of a run depend on each other, so a trend test that takes them for independent finds one in every run. Here the
last `ROWS` rows become `BLOCKS` means of consecutive rows, and a straight line through these is tested with Student's
t: where a block is longer than the memory of the noise its mean is as good as independent (batch means, Schmeiser 1982;
few group estimators and a t test, Ibragimov and Mueller 2010). A block mean is never taken to be more exact than its
own rows say, so that a series that is 0 nearly everywhere has the noise of the rows in which it is not.

Policies learn, so most trends are no fault. A drift counts to the wrong side only, where healthy runs do not go, and
only where it has come far: `rule.limit` is the least change over the window, on the drift's own scale.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from rftfm_ray.detection.readings.base import AbsoluteReading, Columns, Floats, Row, Rule, first_known, first_known_of
from rftfm_ray.detection.stateful import Kind
from rftfm_ray.signals.dictionary import DICTIONARY, Scale
from rftfm_ray.signals.scale import TINY

BLOCK, BLOCKS = 20, 10
ROWS = BLOCK * BLOCKS
"""Rows of the window; a drift is looked for after each `BLOCK` of them."""
# Student's t with 8 degrees of freedom passes this once in 10,000 tests to one side: fifty tests in 1,000 rows of each
# of about 14 drifts are 0.07 false alarms, a third of what is allowed.
CERTAIN = 6.44
# What is this near to breaking is judged row by row.
NEAR = 1 - 1e-6


class Way(StrEnum):
    """How a drift's values are compared: as they are, by their logarithm, or by the magnitude of their logarithm."""

    PLAIN = "plain"
    RATIO = "ratio"
    AWAY = "away"


@dataclass(frozen=True, slots=True)
class Line:
    """A straight line through block means: its change over the window, and Student's t of its slope."""

    change: float
    t: float


class Drift(AbsoluteReading):
    """A trend of one signal to the wrong side.

    Args:
        rule: what it is; its limit is the least change over the window.
        way: how values are compared.
    """

    STATE: ClassVar[Mapping[str, Kind]] = {
        **AbsoluteReading.STATE, "_values": Kind.FLOATS, "_excess": Kind.FLOAT, "_due": Kind.INT,
    }  # fmt: skip

    def __init__(self, rule: Rule, way: Way) -> None:
        super().__init__(rule)
        self._way = way
        self._values: deque[float] = deque(maxlen=ROWS)
        self._excess, self._due = 0.0, 0

    def excess(self, row: Row) -> tuple[float, float]:
        """The smaller of t and change over what they must be; it changes once a block."""
        value = first_known(row, self.inputs)
        self._values.append(self._level(value))
        self._due += 1
        if self._due >= BLOCK and len(self._values) == ROWS:
            self._due = 0
            line = line_through(np.array(self._values), self._floor)
            side = self.rule.direction
            self._excess = max(0.0, min(side * line.t / CERTAIN, side * line.change / self.rule.limit))
        return self._excess, value

    def may_break(self, columns: Columns) -> bool:
        """Whether the line of any window does, or comes near; logarithms of numpy and math may differ by rounding."""
        values = self._levels(first_known_of(columns, self.inputs))
        if len(values) < ROWS:
            return False
        changes, ts = lines_through(*blocks_of(values), self._floor)
        side = self.rule.direction
        return bool((np.minimum(side * ts / CERTAIN, side * changes / self.rule.limit) >= NEAR).any())

    def began(self, number: int) -> int:
        """The start of the window."""
        return max(1, number - ROWS + 1)

    @property
    def _floor(self) -> float:
        """Least spread of a row's value: the dictionary's where it is on this scale, else a twentieth of the limit."""
        signal = DICTIONARY.get(self.rule.signal)
        fits = signal is not None and (signal.scale is Scale.RATIO) is (self._way is Way.RATIO)
        return signal.floor if signal is not None and fits and self._way is not Way.AWAY else self.rule.limit / 20

    def _level(self, value: float) -> float:
        if self._way is Way.PLAIN:
            return value
        logarithm = math.log(max(value, TINY))
        return abs(logarithm) if self._way is Way.AWAY else logarithm

    def _levels(self, values: Floats) -> Floats:
        """The same for whole columns."""
        if self._way is Way.PLAIN:
            return values
        logarithms: Floats = np.log(np.maximum(values, TINY))
        return np.abs(logarithms) if self._way is Way.AWAY else logarithms


def line_through(values: Floats, floor: float) -> Line:
    """The least-squares line through the block means of values (ROWS), with its t.

    Args:
        values: the newest `ROWS`, the oldest first.
        floor: least standard deviation of one value.
    """
    changes, ts = lines_through(*blocks_of(values), floor)
    return Line(float(changes[0]), float(ts[0]))


def blocks_of(values: Floats) -> tuple[Floats, Floats]:
    """Means (B) and variances (B) of the whole blocks of values (N)."""
    blocks = values[: len(values) // BLOCK * BLOCK].reshape(-1, BLOCK)
    return blocks.mean(1), blocks.var(1, ddof=1)


def lines_through(means: Floats, variances: Floats, floor: float) -> tuple[Floats, Floats]:
    """Change (W) and t (W) of the lines through each window of `BLOCKS` of the blocks (B >= BLOCKS).

    Args:
        means: (B) of the blocks.
        variances: (B) of the blocks.
        floor: least standard deviation of one value.
    """
    windows, positions = sliding_window_view(means, BLOCKS), np.arange(BLOCKS) - (BLOCKS - 1) / 2
    squares = float((positions**2).sum())
    slopes = (positions * windows).sum(1) / squares
    residuals = windows - windows.mean(1, keepdims=True) - slopes[:, None] * positions
    between = (residuals**2).sum(1) / (BLOCKS - 2)
    within = np.maximum(sliding_window_view(variances, BLOCKS).mean(1), floor * floor) / BLOCK
    return slopes * (BLOCKS - 1), slopes / np.sqrt(np.maximum(between, within) / squares)
