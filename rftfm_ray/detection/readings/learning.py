"""Readings of a run in which nothing is learnt: groups that agree, gradients of 0, a rate of 0, refused updates. Pure.

A run that has reached its ceiling learns nothing either, and is healthy: these readings are silent there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from rftfm_ray.detection.readings.base import LASTING, AbsoluteReading, Columns, Row, Rule, Smoothed, first_known
from rftfm_ray.detection.stateful import Kind, Stateful

# Share of right answers from which nothing is left to learn, and share of valid trajectories below which the right
# answers are only those that could be graded.
SOLVED, GRADED = 0.95, 0.9
# Rewards within this share of the run's range below its best are at its ceiling, where nobody says what is right.
NEAR_BEST = 0.05
# Rows that have learnt something before a run may be at a ceiling that only its own rewards show.
LEARNT = 5
# Share of right answers between which equal rewards do not follow from equal answers.
MIXED = (0.02, 0.98)
# Chance of a run of agreeing rows, given how often rows of the run agree, below which it is no accident.
ACCIDENT = 1e-4
MOST_ROWS = 200
# Rows from the first on without any difference that open an alarm, with at least this many trajectories a row, and
# where their number is not logged: one group of answers to a hard problem agrees more often than not.
TRAJECTORIES, WITH_MANY, WITHOUT_COUNT = 16, 10, 20
# A share of groups this close to 1, a spread and a norm this close to 0, are 1 and 0 but for rounding.
ROUNDING = 1e-9


class Ceiling(Stateful):
    """Whether a run has nothing left to learn."""

    STATE: ClassVar[Mapping[str, Kind]] = {
        "_reward": Kind.PART, "_best": Kind.ANY_FLOAT, "_lowest": Kind.ANY_FLOAT, "_learnt": Kind.INT,
    }  # fmt: skip
    READS = ("reward_mean", "correct_rate", "all_right_group_rate", "valid_rate")

    def __init__(self) -> None:
        self._reward = Smoothed(LASTING)
        self._best, self._lowest = -math.inf, math.inf
        self._learnt = 0

    def add(self, row: Row, *, learns: bool) -> bool:
        """Take a row, and whether something was learnt at it; returns whether the run is at its ceiling."""
        self._learnt += learns
        reward = row.get("reward_mean", math.nan)
        if math.isfinite(reward):
            level = self._reward.add(reward)
            self._best, self._lowest = max(self._best, level), min(self._lowest, level)
        valid = row.get("valid_rate", math.nan)
        right = max(first_known(row, ("correct_rate",)), first_known(row, ("all_right_group_rate",)), key=_known)
        if valid < GRADED:
            return False
        if math.isfinite(right):
            return right >= SOLVED
        near = self._reward.level >= self._best - NEAR_BEST * (self._best - self._lowest)
        return self._learnt >= LEARNT and self._best > self._lowest and near


def _known(value: float) -> float:
    return -math.inf if math.isnan(value) else value


class NothingDiffers(AbsoluteReading):
    """Rows without anything to learn from: all groups agree, or the gradient is 0.

    How many of them are no accident depends on the run: a log of one group a row has many by chance. Where answers
    differ in being right and their rewards do not, three suffice.
    """

    STATE: ClassVar[Mapping[str, Kind]] = {
        **AbsoluteReading.STATE, "_ceiling": Kind.PART, "_flat": Kind.INT, "_enough": Kind.INT,
    }  # fmt: skip
    extra = (*Ceiling.READS, "trajectory_count", "schedule_factor", "vetoes")

    def __init__(self, rule: Rule) -> None:
        super().__init__(rule)
        self._ceiling = Ceiling()
        self._flat, self._enough = 0, LASTING

    def is_flat(self, row: Row) -> bool:
        """Whether a row has nothing to learn from."""
        return all_agree(row) if self.rule.signal == "zero_variance_group_rate" else row["grad_norm"] <= ROUNDING

    def excess(self, row: Row) -> tuple[float, float]:
        """1 at a row without anything to learn from, below the ceiling."""
        # A declared schedule without a step is no fault, as in a critic's warm-up.
        flat = self.is_flat(row) and row.get("schedule_factor", math.nan) != 0
        at_ceiling = self._ceiling.add(row, learns=not flat)
        self._enough = self._rows_needed(row)
        self._flat += flat
        return float(flat and not at_ceiling), first_known(row, self.inputs)

    def may_break(self, columns: Columns) -> bool:
        """Whether any row is flat."""
        return bool(self.flat_rows(columns).any())

    def flat_rows(self, columns: Columns) -> NDArray[np.bool_]:
        """(N) which rows have nothing to learn from, whatever the schedule."""
        if self.rule.signal != "zero_variance_group_rate":
            return columns["grad_norm"] <= ROUNDING
        unknown = np.full(len(next(iter(columns.values()))), math.nan)
        share, spread = columns.get("zero_variance_group_rate", unknown), columns.get("reward_std", unknown)
        return np.where(np.isfinite(share), share >= 1 - ROUNDING, spread <= ROUNDING)

    def _rows_needed(self, row: Row) -> int:
        low, high = MIXED
        if low < row.get("correct_rate", math.nan) < high:
            return LASTING
        if self._flat < self._rows - 1:
            chance = (self._flat + 1) / (self._rows + 1)
            return min(MOST_ROWS, max(LASTING, math.ceil(math.log(ACCIDENT) / math.log(chance))))
        return WITH_MANY if row.get("trajectory_count", math.nan) >= TRAJECTORIES else WITHOUT_COUNT

    def lasting(self) -> int:
        """By what is known of the run: see `NothingDiffers`."""
        return self._enough


def all_agree(row: Row) -> bool:
    """Whether the rewards of each group of a row are equal."""
    share = row.get("zero_variance_group_rate", math.nan)
    return share >= 1 - ROUNDING if math.isfinite(share) else row["reward_std"] <= ROUNDING


class NothingYet(NothingDiffers):
    """The same from the very first row on, after three rows: too early to be sure, and worth a look."""

    def excess(self, row: Row) -> tuple[float, float]:
        """1 as long as no row had anything to learn from."""
        excess, value = super().excess(row)
        return (excess if self._flat == self._rows else 0.0), value

    def may_break(self, columns: Columns) -> bool:
        """Whether the first row is flat."""
        return bool(self.flat_rows(columns)[:1].any())

    def lasting(self) -> int:
        """Three rows."""
        return self.rule.lasting


class ZeroRate(AbsoluteReading):
    """A learning rate of 0 that no schedule declares."""

    extra = ("schedule_factor",)

    def excess(self, row: Row) -> tuple[float, float]:
        """1 at a rate of 0."""
        declared = row.get("schedule_factor", math.nan) == 0
        return float(row["lr"] == 0 and not declared), row["lr"]

    def may_break(self, columns: Columns) -> bool:
        """Whether any rate is 0."""
        return bool((columns["lr"] == 0).any())


class Refused(AbsoluteReading):
    """Rows whose updates are all refused, below the ceiling: without a difference there is nothing to apply at it."""

    STATE: ClassVar[Mapping[str, Kind]] = {**AbsoluteReading.STATE, "_ceiling": Kind.PART}
    extra = Ceiling.READS

    def __init__(self, rule: Rule) -> None:
        super().__init__(rule)
        self._ceiling = Ceiling()

    def excess(self, row: Row) -> tuple[float, float]:
        """1 at a row with a refused update."""
        refused = row["vetoes"] >= self.rule.limit
        at_ceiling = self._ceiling.add(row, learns=not refused)
        return float(refused and not at_ceiling), row["vetoes"]

    def may_break(self, columns: Columns) -> bool:
        """Whether any update is refused."""
        return bool((columns["vetoes"] >= self.rule.limit).any())
