"""Readings of a run's own course: a reward that is lost, one that is paid for the wrong thing, a KL that buys nothing.

They compare a run with nothing but its own best rows, in its own noise. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from rftfm_ray.detection.readings.base import AbsoluteReading, Columns, Row, Rule, Smoothed, smoothed
from rftfm_ray.detection.stateful import Kind

# Values of the smoothing, and values before a level is one.
MEMORY = 10
# Standard deviations of the smoothed level that a rise or a fall must exceed, whatever its share.
CLEAR = 6.0
# Share of a reward's own size by which it must have risen, at least, to be called rising.
RISEN = 0.1
# Relative error of a mean by rounding.
ROUNDING = 1e-9
# Share of right answers that is as good as none.
NONE_RIGHT = 0.01
# Rows without a new best reward after which it has nothing left to gain, and share of its range that is no new best.
SETTLED, NEW_BEST = 50, 0.02
# Standard deviations of the smoothed reward that a new best is by chance.
BY_CHANCE = 3.0


class LostLevel(AbsoluteReading):
    """A reward that has lost most of its best smoothed level.

    What there is to lose is the best level less the lower of 0 and the level that it began with: a reward that came
    from -3 to -1 has lost half of what it had won at -2.
    """

    STATE: ClassVar[Mapping[str, Kind]] = {
        **AbsoluteReading.STATE, "_level": Kind.PART, "_best": Kind.ANY_FLOAT, "_first": Kind.ANY_FLOAT,
        "_noise": Kind.ANY_FLOAT,
    }  # fmt: skip

    def __init__(self, rule: Rule) -> None:
        super().__init__(rule)
        self._level = Smoothed(MEMORY)
        self._best, self._first, self._noise = -math.inf, math.inf, math.inf

    def excess(self, row: Row) -> tuple[float, float]:
        """Share of the best level that is lost, over the limit."""
        level = self._level.add(row[self.rule.signal])
        if self._level.count < MEMORY:
            return 0.0, level
        if level > self._best:
            # The noise of now would count the fall itself.
            self._best, self._noise = level, self._level.noise
        if self._level.count == MEMORY:
            self._first = level
        lost, owned = self._best - level, self._best - min(0.0, self._first)
        if owned <= 0 or lost < CLEAR * self._noise:
            return 0.0, level
        return lost / owned / self.rule.limit, level

    def may_break(self, columns: Columns) -> bool:
        """Whether any level does, whatever the noise."""
        levels = smoothed(columns[self.rule.signal], MEMORY)[MEMORY - 1 :]
        best = np.maximum.accumulate(levels)
        owned = best - np.minimum(0.0, levels[:1])
        return bool((best - levels >= self.rule.limit * owned * (1 - ROUNDING)).any())


class PartLost(AbsoluteReading):
    """A part of the reward, or a score beside it, that is lost while the trained reward rises.

    The reward is compared with its level at the part's best: what was lost since has been paid for. Its level is that
    of all rows, however seldom the part is known.

    Attributes:
        MEMORY: values of the part's smoothing.
        RISEN: standard errors and share of its size by which the reward must have risen.
    """

    STATE: ClassVar[Mapping[str, Kind]] = {
        **AbsoluteReading.STATE, "_part": Kind.PART, "_reward": Kind.PART, "_best": Kind.ANY_FLOAT,
        "_then": Kind.ANY_FLOAT, "_noise": Kind.ANY_FLOAT, "_reward_noise": Kind.ANY_FLOAT,
    }  # fmt: skip
    MEMORY: ClassVar[int] = MEMORY
    RISEN: ClassVar[tuple[float, float]] = CLEAR, RISEN
    follows = ("reward_mean",)

    def __init__(self, rule: Rule) -> None:
        super().__init__(rule)
        self._part, self._reward = Smoothed(self.MEMORY), Smoothed(MEMORY)
        self._best, self._then = -math.inf, math.nan
        self._noise, self._reward_noise = math.inf, math.inf

    def follow(self, row: Row) -> None:
        """Take a reward of a row without the part."""
        self._reward.add(row["reward_mean"])

    def excess(self, row: Row) -> tuple[float, float]:
        """Share of the part's best level that is lost, over the limit, where the reward has risen meanwhile."""
        part, reward = self._part.add(row[self.rule.signal]), self._reward.add(row["reward_mean"])
        if self._part.count < self.MEMORY:
            return 0.0, part
        if part > self._best:
            self._best, self._then = part, reward
            self._noise, self._reward_noise = self._part.noise, self._reward.noise
        lost, rise = self._best - part, reward - self._then
        errors, share = self.RISEN
        rises = rise > max(errors * self._reward_noise, share * abs(self._then))
        if self._best <= 0 or lost < CLEAR * self._noise or not rises:
            return 0.0, part
        return lost / self._best / self.rule.limit, part

    def may_break(self, columns: Columns) -> bool:
        """Whether any level of the part is that far below its best, whatever the noise and the reward."""
        part = columns[self.rule.signal]
        levels = smoothed(part[np.isfinite(part)], self.MEMORY)[self.MEMORY - 1 :]
        best = np.maximum.accumulate(levels)
        return bool(((best > 0) & (best - levels >= self.rule.limit * best * (1 - ROUNDING))).any())


class SeldomLost(PartLost):
    """The same for a score that is measured at few rows, on the same problems each time, as a held-out score is.

    A level of a few such scores is one, for most of their noise is that of the problems. They are few comparisons, and
    the loss is the evidence: that the reward has risen at all tells it from a policy that is ruined.
    """

    MEMORY = 3
    RISEN = 3.0, 0.0


class PaidForWrong(AbsoluteReading):
    """A reward that rises while no answer is right."""

    STATE: ClassVar[Mapping[str, Kind]] = {
        **AbsoluteReading.STATE, "_reward": Kind.PART, "_right": Kind.PART, "_lowest": Kind.ANY_FLOAT,
        "_noise": Kind.ANY_FLOAT,
    }  # fmt: skip

    def __init__(self, rule: Rule) -> None:
        super().__init__(rule)
        self._reward, self._right = Smoothed(MEMORY), Smoothed(MEMORY)
        self._lowest, self._noise = math.inf, math.inf

    def excess(self, row: Row) -> tuple[float, float]:
        """The reward over its lowest level, in units of the limit, where nothing is right."""
        reward, right = self._reward.add(row["reward_mean"]), self._right.add(row["correct_rate"])
        if self._reward.count < MEMORY:
            return 0.0, reward
        if reward < self._lowest:
            self._lowest, self._noise = reward, self._reward.noise
        rise = reward - self._lowest
        risen = rise > CLEAR * self._noise and rise >= (self.rule.limit - 1) * abs(self._lowest)
        return float(right <= NONE_RIGHT and risen), reward

    def may_break(self, columns: Columns) -> bool:
        """Whether any row has next to no right answers: a mean is no lower than the lowest of its values."""
        return bool((columns["correct_rate"] <= NONE_RIGHT * (1 + ROUNDING)).any())


class KlWithoutGain(AbsoluteReading):
    """A KL that grows and grows where the reward has nothing left to gain."""

    STATE: ClassVar[Mapping[str, Kind]] = {
        **AbsoluteReading.STATE, "_reward": Kind.PART, "_kl": Kind.PART, "_best": Kind.ANY_FLOAT,
        "_lowest": Kind.ANY_FLOAT, "_best_at": Kind.INT, "_settled": Kind.ANY_FLOAT,
    }  # fmt: skip
    # KL up to which nothing is said, in nats a token.
    SMALL = 0.1

    def __init__(self, rule: Rule) -> None:
        super().__init__(rule)
        self._reward, self._kl = Smoothed(MEMORY), Smoothed(MEMORY)
        self._best, self._lowest, self._settled = -math.inf, math.inf, math.nan
        self._best_at = 0

    def excess(self, row: Row) -> tuple[float, float]:
        """KL over that at which the reward settled, in units of the limit."""
        reward, kl = self._reward.add(row["reward_mean"]), self._kl.add(row["kl_ref"])
        self._lowest = min(self._lowest, reward)
        gained = max(NEW_BEST * (self._best - self._lowest), BY_CHANCE * self._reward.noise)
        if self._rows <= MEMORY or reward > self._best + gained:
            self._best, self._best_at, self._settled = reward, self._rows, math.nan
        elif self._rows - self._best_at == SETTLED:
            self._settled = kl
        if math.isnan(self._settled) or kl < self.SMALL:
            return 0.0, kl
        return kl / max(self._settled, self.SMALL / 2) / self.rule.limit, kl

    def may_break(self, columns: Columns) -> bool:
        """Whether the largest level of KL is that much larger than the smallest."""
        kl = smoothed(columns["kl_ref"], MEMORY)
        least = max(float(kl.min()), self.SMALL / 2) * self.rule.limit
        return float(kl.max()) >= max(least, self.SMALL) * (1 - ROUNDING)
