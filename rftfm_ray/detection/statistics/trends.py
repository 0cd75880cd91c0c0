"""Slow failures that healthy runs do not show; they need no run to compare with. Pure.

A trend alone is not a fault: policies learn, and lengths and entropies move for good reasons. A trend here is more: an
accelerating growth or fall, a reward that is lost again, or a failure rate that training cannot bear.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import ClassVar

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from rftfm_ray.detection.stateful import Kind as StateKind
from rftfm_ray.detection.stateful import Stateful

Floats = NDArray[np.float64]

# Relative error of a mean by rounding.
ROUNDING = 1e-9
# Steps to a mean, and means that are compared.
BLOCK, BLOCKS = 5, 4
# Floor of a denominator.
LEAST = 1e-9
# A KL above these, in nats per token, is large.
LARGE: Mapping[str, float] = {"kl_ref": 0.5, "kl_old": 0.3}
# Growth from mean to mean, and over all of them.
GROWN, GROWN_IN_ALL = math.log(1.6), math.log(6.0)
# A fall counts when it accelerates by this factor from mean to mean, has lost two thirds, and leaves a tenth.
FASTER, FALLEN, LEFT = 1.2, math.log(3.0), 0.1
COLLAPSING = ("entropy",)
# Steps of the smoothing, steps of the variance, and standard deviations below the best that make a decline.
SMOOTH, MEMORY, LOST = 9, 100, 10.0
# Steps that the loss must last: shorter ones are episodes.
LASTING = 10
DECLINING = ("reward_mean", "correct_rate", "probe_accuracy")
# Failure rates that training cannot bear for `BLOCK` steps.
UNBEARABLE: Mapping[str, float] = {
    "failed_rate": 0.3,
    "tool_error_rate": 0.5,
    "tool_timeout_rate": 0.5,
    "empty_rate": 0.5,
}


class TrendKind(StrEnum):
    """Kinds of trends that healthy runs do not show."""

    BLOW_UP = "blow_up"
    COLLAPSE = "collapse"
    DECLINE = "decline"
    UNBEARABLE = "unbearable"


class Trend(Stateful, ABC):
    """Watches one signal for one kind of trend, value by value.

    Attributes:
        kind: of the trend.
        direction: in which the signal goes wrong.
    """

    kind: ClassVar[TrendKind]
    direction: ClassVar[int]

    @abstractmethod
    def add(self, value: float) -> int | None:
        """Take a finite value; returns how many values ago the trend began, None without one."""

    def skip(self, values: Sequence[float]) -> bool:
        """Take finite values at once where none of them shows the trend; otherwise take none and return False.

        It saves time, so it may return False wherever that is not plain to see.
        """
        del values
        return False


class _Means(Stateful):
    """Means of the last blocks of values, the oldest first; optionally each without its largest value."""

    STATE: ClassVar[Mapping[str, StateKind]] = {"_values": StateKind.FLOATS}

    def __init__(self, *, without_largest: bool = False) -> None:
        self._values: deque[float] = deque(maxlen=BLOCK * BLOCKS)
        self._without_largest = without_largest

    def add(self, value: float) -> bool:
        """Take a value; returns whether all blocks are full."""
        self._values.append(value)
        return len(self._values) == BLOCK * BLOCKS

    def extend(self, values: Sequence[float]) -> None:
        """Take many values."""
        self._values.extend(values)

    def newest(self, values: Sequence[float]) -> Floats:
        """Means (N) of the newest block after each of the next values (N), to a few units in the last place.

        Infinite while the block is not full.
        """
        before = list(self._values)[-(BLOCK - 1) :]
        blocks = sliding_window_view(np.array([0.0] * (BLOCK - 1 - len(before)) + before + list(values)), BLOCK)
        blocks = np.sort(blocks, 1)[:, :-1] if self._without_largest else blocks
        full = len(before) + np.arange(1, len(values) + 1) >= BLOCK
        return np.where(full, blocks.mean(1), math.inf)

    def of(self, block: int) -> float:
        """Mean of one block, computed on demand."""
        values = list(itertools.islice(self._values, block * BLOCK, (block + 1) * BLOCK))
        if self._without_largest:
            values.remove(max(values))
        return sum(values) / len(values)

    @property
    def values(self) -> Sequence[float]:
        """Those of the last blocks, the oldest first."""
        return self._values

    def rises(self) -> list[float]:
        """Logarithms of the ratio of each mean to the one before."""
        return [math.log(after / before) for before, after in itertools.pairwise(map(self.of, range(BLOCKS)))]


class BlowUp(Trend):
    """A KL that grows exponentially until it is large.

    One very rare token makes the KL of its step a hundred times as large, so the growth must hold without the largest
    value of each mean.
    """

    kind = TrendKind.BLOW_UP
    direction = 1
    STATE: ClassVar[Mapping[str, StateKind]] = {"_means": StateKind.PART, "_since_large": StateKind.INT}

    def __init__(self, large: float) -> None:
        self._large = large
        self._means = _Means(without_largest=True)
        self._since_large = BLOCK

    def add(self, value: float) -> int | None:
        """See `Trend`."""
        full = self._means.add(max(value, LEAST))
        self._since_large = 0 if value >= self._large else self._since_large + 1
        # The newest block must contain a large value.
        if not full or self._since_large >= BLOCK or self._means.of(BLOCKS - 1) < self._large:
            return None
        rises = self._means.rises()
        growing = min(rises[-2:]) >= GROWN and sum(rises) >= GROWN_IN_ALL
        return 2 * BLOCK - 1 if growing else None

    def skip(self, values: Sequence[float]) -> bool:
        """See `Trend`: where no mean is large and that much larger than the one before."""
        floored = [max(value, LEAST) for value in values]
        newest = self._means.newest(floored)
        # The means before the first value are not known here; a mean of values is no smaller than all of them.
        before = np.concatenate([np.full(BLOCK, min([*self._means.values, *floored])), newest[:-BLOCK]])[: len(newest)]
        near = 1 - ROUNDING
        if bool(((newest >= near * self._large) & (newest >= near * math.exp(GROWN) * before)).any()):
            return False
        self._means.extend(floored)
        large = [index for index, value in enumerate(values) if value >= self._large]
        self._since_large = len(values) - 1 - large[-1] if large else self._since_large + len(values)
        return True


class Collapse(Trend):
    """An entropy that falls at an accelerating rate to near 0; when a policy converges the fall decelerates."""

    kind = TrendKind.COLLAPSE
    direction = -1
    STATE: ClassVar[Mapping[str, StateKind]] = {
        "_means": StateKind.PART, "_first": StateKind.ANY_FLOAT, "_since": StateKind.INT,
    }  # fmt: skip

    def __init__(self) -> None:
        self._means = _Means()
        self._first = math.nan
        self._since = -1

    def add(self, value: float) -> int | None:
        """See `Trend`."""
        if not self._means.add(max(value, LEAST)):
            return None
        self._first = self._means.of(0) if math.isnan(self._first) else self._first
        if self._means.of(BLOCKS - 1) > LEFT * self._first:
            self._since = -1
        elif self._since >= 0:
            self._since += 1
        else:
            rises = self._means.rises()
            if rises[-1] <= FASTER * rises[-2] < 0 and sum(rises) <= -FALLEN:
                self._since = 2 * BLOCK - 1
        return self._since if self._since >= 0 else None

    def skip(self, values: Sequence[float]) -> bool:
        """See `Trend`: where no mean is near 0."""
        floored = [max(value, LEAST) for value in values]
        if not bool((self._means.newest(floored) > (1 + ROUNDING) * LEFT * self._first).all()):
            return False
        self._means.extend(floored)
        self._since = -1
        return True


class Decline(Trend):
    """A reward that is lost again: for long far below the best of the run, in the run's own standard deviations."""

    kind = TrendKind.DECLINE
    direction = -1
    STATE: ClassVar[Mapping[str, StateKind]] = {
        "_count": StateKind.INT, "_below": StateKind.INT, "_level": StateKind.FLOAT, "_variance": StateKind.FLOAT,
        "_best": StateKind.ANY_FLOAT, "_newest": StateKind.FLOATS, "_levels": StateKind.FLOATS,
        "_spreads": StateKind.FLOATS,
    }  # fmt: skip

    def __init__(self) -> None:
        self._count, self._below = 0, 0
        self._level, self._variance = 0.0, 0.0
        self._best = -math.inf
        self._newest = deque[float](maxlen=3)
        self._levels, self._spreads = deque[float](maxlen=2 * SMOOTH + 1), deque[float](maxlen=2 * SMOOTH + 1)

    def add(self, value: float) -> int | None:
        """See `Trend`."""
        self._count += 1
        self._newest.append(value)
        # One outlier must not be the best of the run.
        value = sorted(self._newest)[len(self._newest) // 2]
        self._level += max(1 / self._count, 2 / (SMOOTH + 1)) * (value - self._level)
        self._levels.append(self._level)
        if len(self._levels) <= 2 * SMOOTH:
            return None
        # Variance of the smoothed level without its slope, from second differences.
        bend = self._levels[0] - 2 * self._levels[SMOOTH] + self._level
        share = max(1 / (self._count - 2 * SMOOTH), 1 / MEMORY)
        self._variance += share * (bend**2 / 6 - self._variance)
        self._spreads.append(math.sqrt(self._variance))
        self._best = max(self._best, self._level)
        # The standard deviation is from before the judged steps: a decline must not widen its own measure.
        if len(self._spreads) <= 2 * SMOOTH or self._best - self._level <= LOST * self._spreads[0]:
            self._below = 0
            return None
        self._below += 1
        return self._below - 1 if self._below >= LASTING else None


class Unbearable(Trend):
    """A failure rate that training cannot bear."""

    kind = TrendKind.UNBEARABLE
    direction = 1
    STATE: ClassVar[Mapping[str, StateKind]] = {"_values": StateKind.FLOATS, "_since": StateKind.INT}

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._values: deque[float] = deque(maxlen=BLOCK)
        self._since = -1

    def add(self, value: float) -> int | None:
        """See `Trend`."""
        self._values.append(value)
        if len(self._values) < BLOCK or sum(self._values) / BLOCK < self._limit:
            self._since = -1
        elif self._since < 0:
            # The mean may round up to a limit that none of the values reaches.
            first = next((index for index, number in enumerate(self._values) if number >= self._limit), 0)
            self._since = BLOCK - 1 - first
        else:
            self._since += 1
        return self._since if self._since >= 0 else None


def trends_of(signal: str) -> tuple[Trend, ...]:
    """The trends that a signal is watched for; empty for most."""
    trends: list[Trend] = []
    if signal in LARGE:
        trends.append(BlowUp(LARGE[signal]))
    if signal in COLLAPSING:
        trends.append(Collapse())
    if signal in DECLINING:
        trends.append(Decline())
    if signal in UNBEARABLE:
        trends.append(Unbearable(UNBEARABLE[signal]))
    return tuple(trends)
