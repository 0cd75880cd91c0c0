"""Several signals that break at one row, weighed together. Pure; numpy.

One signal that leaves its range by a little is nothing, and three at the same row are an event. Ranges, not standard
deviations: a signal in the middle of a steep trend has a wide range, and does not break.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from rftfm_ray.detection.readings.base import AbsoluteReading, Row, Rule
from rftfm_ray.detection.stateful import Kind
from rftfm_ray.signals.dictionary import DICTIONARY
from rftfm_ray.signals.scale import Scales

OF_AGREEING = ("reward_std", "grad_norm")
# Rows before and after a break.
BEFORE, AFTER = 24, 3
# Ranges beyond which a signal has left its own, the most that it weighs, and how many signals must have. Measured: in
# no recorded healthy run do three signals leave theirs by 0.3 of it at one row; two do, by 1.6 in all.
LEFT, MOST, FEWEST = 0.3, 3.0, 3


class BrokeTogether(AbsoluteReading):
    """Signals that all leave the range of the rows before at the same row, and stay beyond it for `AFTER` rows."""

    STATE: ClassVar[Mapping[str, Kind]] = {**AbsoluteReading.STATE, "_levels": Kind.ANY_ARRAY}

    def __init__(self, rule: Rule) -> None:
        super().__init__(rule)
        self._names = rule.inputs
        self._levels = np.full((BEFORE + AFTER, len(self._names)), math.nan)
        self._scales = Scales(self._names)
        self._of_agreeing = np.array([name in OF_AGREEING for name in self._names])
        self._floors = np.array([DICTIONARY[name].floor for name in self._names])

    def excess(self, row: Row) -> tuple[float, float]:
        """Sum over the signals of how far they have left their range, over the limit; and how many have."""
        # Exactly 0 where groups agree: that is one event, which readings of its own judge.
        values = np.array([row.get(name, math.nan) for name in self._names])
        values[self._of_agreeing & (values == 0)] = math.nan
        self._levels[:-1] = self._levels[1:]
        self._levels[-1] = self._scales.levels(values)
        before, after = self._levels[:BEFORE], self._levels[BEFORE:]
        # A range of few values is no range.
        whole = np.isfinite(self._levels).all(0)
        if whole.sum() < FEWEST:
            return 0.0, 0.0
        low, high = before[:, whole].min(0), before[:, whole].max(0)
        beyond = np.maximum(after[:, whole].min(0) - high, low - after[:, whole].max(0))
        sizes = beyond / np.maximum(high - low, 3 * self._floors[whole])
        left = sizes[sizes >= LEFT]
        return (float(np.minimum(left, MOST).sum()) / self.rule.limit if len(left) >= FEWEST else 0.0), len(left)

    def began(self, number: int) -> int:
        """The first of the rows after the break."""
        return number - AFTER + 1
