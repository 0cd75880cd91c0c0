"""Several signals that break at one row, weighed together. Pure; numpy.

One signal that leaves its range by a little is nothing, and three at the same row are an event. Ranges, not standard
deviations: a signal in the middle of a steep trend has a wide range, and does not break.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from rftfm_ray.detection.readings.base import AbsoluteReading, Columns, Floats, Row, Rule
from rftfm_ray.detection.stateful import Kind
from rftfm_ray.detection.statistics.windows import of_windows
from rftfm_ray.signals.dictionary import DICTIONARY
from rftfm_ray.signals.scale import Scales

OF_AGREEING = ("reward_std", "grad_norm")
# Rows before and after a break.
BEFORE, AFTER = 24, 3
ROWS = BEFORE + AFTER
# Rows of a whole log that are judged at once.
PART = 10_000
# Ranges beyond which a signal has left its own, the most that it weighs, and how many signals must have. Measured: in
# no recorded healthy run do three signals leave theirs by 0.3 of it at one row; two do, by 1.6 in all.
LEFT, MOST, FEWEST = 0.3, 3.0, 3


class BrokeTogether(AbsoluteReading):
    """Signals that all leave the range of the rows before at the same row, and stay beyond it for `AFTER` rows."""

    STATE: ClassVar[Mapping[str, Kind]] = {**AbsoluteReading.STATE, "_levels": Kind.ANY_ARRAY}

    def __init__(self, rule: Rule) -> None:
        super().__init__(rule)
        self._names = rule.inputs
        self._levels = np.full((ROWS, len(self._names)), math.nan)
        self._scales = Scales(self._names)
        self._of_agreeing = np.array([name in OF_AGREEING for name in self._names])
        self._floors = np.array([DICTIONARY[name].floor for name in self._names])

    def excess(self, row: Row) -> tuple[float, float]:
        """Sum over the signals of how far they have left their range, over the limit; and how many have."""
        # Exactly 0 where groups agree: that is one event, which readings of its own judge.
        values = np.array([row.get(name, math.nan) for name in self._names])
        self._levels[:-1] = self._levels[1:]
        self._levels[-1] = self._levels_of(values)
        excesses, counts = self._broke(self._levels)
        return float(excesses[0]), float(counts[0])

    def may_break(self, columns: Columns) -> bool:
        """Whether any row does."""
        unknown = np.full(len(next(iter(columns.values()))), math.nan)
        values = np.stack([columns.get(name, unknown) for name in self._names], axis=1)
        levels = self._levels_of(values)
        # In parts that overlap by what a row needs before it, so that memory does not grow with the log.
        parts = (levels[max(0, start - ROWS + 1) : start + PART] for start in range(0, len(levels), PART))
        return any(bool((self._broke(part)[0] >= 1.0).any()) for part in parts if len(part) >= ROWS)

    def _levels_of(self, values: Floats) -> Floats:
        """Levels (..., S) of values (..., S)."""
        return self._scales.levels(np.where(self._of_agreeing & (values == 0), math.nan, values))

    def _broke(self, levels: Floats) -> tuple[Floats, Floats]:
        """For each window of `ROWS` of levels (N, S): how far signals left their range, over the limit; how many did.

        A signal with a gap in the window counts as one that stayed: a range of few values is no range.
        """
        before, after = levels[:-AFTER], levels[BEFORE:]
        low, high = (of_windows(extreme, before, BEFORE) for extreme in (np.minimum, np.maximum))
        beyond = np.maximum(of_windows(np.minimum, after, AFTER) - high, low - of_windows(np.maximum, after, AFTER))
        sizes = beyond / np.maximum(high - low, 3 * self._floors)
        # NaN compares as false.
        left = sizes >= LEFT
        counts = left.sum(1)
        weights = np.where(left, np.minimum(sizes, MOST), 0.0).sum(1)
        return np.where(counts >= FEWEST, weights / self.rule.limit, 0.0), counts.astype(np.float64)

    def began(self, number: int) -> int:
        """The first of the rows after the break."""
        return number - AFTER + 1
