"""Readings of answers that are cut off: at a limit of tokens, or of the length that no answer exceeds. Pure.

A run may learn while its answers are cut off, where its reward does not need their end: these readings are silent while
the reward has risen and is near its best.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from rftfm_ray.detection.readings.base import AbsoluteReading, Columns, Row, Rule, Smoothed
from rftfm_ray.detection.stateful import Kind, Stateful
from rftfm_ray.signals.scale import TINY

# Values of the smoothing, standard deviations of a level that a rise must exceed, and share of the rise that may be
# lost again before the run is no longer near its best.
MEMORY, CLEAR, LOST = 10, 6.0, 0.25


class Progress(Stateful):
    """Whether the reward has risen and is near its best."""

    STATE: ClassVar[Mapping[str, Kind]] = {
        "_reward": Kind.PART, "_best": Kind.ANY_FLOAT, "_lowest": Kind.ANY_FLOAT,
    }  # fmt: skip
    READS = ("reward_mean",)

    def __init__(self) -> None:
        self._reward = Smoothed(MEMORY)
        self._best, self._lowest = -math.inf, math.inf

    def add(self, row: Row) -> bool:
        """Take a row; a row without a reward says nothing new."""
        reward = row.get("reward_mean", math.nan)
        if math.isfinite(reward):
            level = self._reward.add(reward)
            self._best, self._lowest = max(self._best, level), min(self._lowest, level)
        rise = self._best - self._lowest
        if self._reward.count < MEMORY or not rise > CLEAR * self._reward.noise:
            return False
        # A reward that fell and stays down is far below its best.
        return self._reward.level >= self._best - LOST * rise


class CutOff(AbsoluteReading):
    """Nearly all answers are cut off, and the reward does not rise."""

    STATE: ClassVar[Mapping[str, Kind]] = {**AbsoluteReading.STATE, "_progress": Kind.PART}
    extra = Progress.READS

    def __init__(self, rule: Rule) -> None:
        super().__init__(rule)
        self._progress = Progress()

    def excess(self, row: Row) -> tuple[float, float]:
        """Share over limit, without progress."""
        rises, cut = self._progress.add(row), row["truncated_rate"]
        return (0.0 if rises else cut / self.rule.limit), cut

    def may_break(self, columns: Columns) -> bool:
        """Whether any share does."""
        return bool((columns["truncated_rate"] / self.rule.limit >= 1.0).any())


class Pinned(AbsoluteReading):
    """Answers as long as they may be: their mean is their maximum, and they do not end by themselves.

    A task whose answers all have the same length is told apart by answers that end.
    """

    CUT = 0.5
    # Shortest maximum that is taken for a limit where nobody says whether answers were cut off.
    LONG = 64.0
    extra = ("truncated_rate", *Progress.READS)
    STATE: ClassVar[Mapping[str, Kind]] = {**AbsoluteReading.STATE, "_most": Kind.FLOAT, "_progress": Kind.PART}

    def __init__(self, rule: Rule) -> None:
        super().__init__(rule)
        self._most = 0.0
        self._progress = Progress()

    def excess(self, row: Row) -> tuple[float, float]:
        """Mean over maximum, in units of the limit, where answers are cut off or the maximum has never moved."""
        mean, longest, cut = row["length_mean"], row["length_max"], row.get("truncated_rate", math.nan)
        moved, self._most = 0.0 < self._most != longest, max(self._most, longest)
        rises = self._progress.add(row)
        at_limit = cut >= self.CUT if math.isfinite(cut) else longest >= self.LONG and not moved
        return (mean / longest / self.rule.limit if at_limit and longest > 0 and not rises else 0.0), mean

    def may_break(self, columns: Columns) -> bool:
        """Whether any mean is as long as the maximum."""
        mean, longest = columns["length_mean"], columns["length_max"]
        return bool(((longest > 0) & (mean / np.maximum(longest, TINY) / self.rule.limit >= 1.0)).any())
