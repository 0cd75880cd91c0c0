"""Sudden, lasting changes of signals against the self-baseline, for any scale and trend. Pure; numpy.

A step is a candidate when straight lines through the steps before and after it leave a gap; a trend, however steep,
leaves none. The gap is measured in the standard deviation of the run's own gaps, and must exceed the signal's range in
the steps before. So gradual learning is not a jump. Nor is one outlier, because all but one of the steps after it
must lie beyond half of the gap.

All results depend on the last `PAST` steps and a few more: memory is O(1), and chunks of any length give the same
verdicts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from rftfm_ray.detection.stateful import Kind, Stateful
from rftfm_ray.detection.statistics.student import normal_equivalents
from rftfm_ray.detection.statistics.windows import of_windows

Floats = NDArray[np.float64]

# Steps after and before a jump that the lines are fitted to.
SCALES = ((4, 8), (4, 16), (8, 24))
FEWEST = sum(SCALES[0])
"""Steps before the first verdict."""
LONGEST = max(after + before for after, before in SCALES)
# Window of a spread in steps, and steps between its updates once the window is full.
PAST, EVERY = 64, 8
# Spreads leave out the largest tenth of the values; and the mean square of a normal variable within its 90 %.
TRIM, TRIMMED = 0.9, 0.623
# Gaps that a spread of gaps needs; gaps overlap.
ENOUGH = 16
# A step this many spreads from both neighbours is an outlier and not part of a trend.
WILD = 4.0
# Overlapping differences count half as degrees of freedom.
OVERLAP, LEAST_FREEDOM, MOST_FREEDOM = 2.0, 3.0, 40.0
HALF = 0.5
# A gap below this share of a signal's floor is rounding: constant signals have only such gaps.
NOTHING = 1e-6
# Threshold in a run's first steps, and its growth with the logarithm of time: a run of 20,000 steps must have no more
# false alarms than one of 40.
LEVEL, GROWTH, FIRST = 4.4, 0.3, 40


def levels_at(first: int, count: int) -> Floats:
    """Thresholds (count) of scores for the values of a run from `first` on, counted from 0."""
    levels: Floats = LEVEL + GROWTH * np.log(np.maximum(1.0, np.arange(first + 1, first + count + 1) / FIRST))
    return levels


@dataclass(frozen=True, slots=True)
class JumpScores:
    """Scores of N steps of S signals.

    Attributes:
        score: (N, S) evidence for a jump that the step makes certain, as a standard normal residual; 0 for none.
        side: (N, S) +1 for a jump up, -1 for one down.
        lag: (N, S) steps since the first step beyond the jump.
        usual: (N, S) the value that the steps before the jump predict there.
    """

    score: Floats
    side: Floats
    lag: NDArray[np.int64]
    usual: Floats


class _Filter:
    """The lines of one scale as weights of `after + before` values, the oldest first."""

    def __init__(self, after: int, before: int) -> None:
        self.after, self.before, self.length = after, before, after + before
        self.positions = np.arange(-before, 0, dtype=np.float64)
        self.past = _line(self.positions)
        self.weights = np.concatenate([-self.past[0], _line(np.arange(after, dtype=np.float64))[0]])
        # Spread of the gap when every value has one of 1.
        self.spread = float(np.sqrt((self.weights**2).sum()))


def _line(positions: Floats) -> Floats:
    """Weights (2, N) of values at some positions that give the least-squares line: its value at 0, and its slope."""
    weights: Floats = np.linalg.pinv(np.stack([np.ones(len(positions)), positions], 1))
    return weights


def _dot(windows: Floats, weights: Floats) -> Floats:
    """Weighted sums (...) of windows (..., L); not by BLAS, whose rounding depends on the number of windows."""
    sums: Floats = np.einsum("...l,l->...", windows, weights)
    return sums


def _windows(values: Floats, length: int, count: int) -> Floats:
    """A copy (count, S, length) of the last windows of values (N, S)."""
    if count == 1:
        return np.ascontiguousarray(values[-length:].T)[None]
    return sliding_window_view(values, length, axis=0)[len(values) - length + 1 - count :].copy()


class _Spread(Stateful):
    """Root mean square of the last `PAST` values of streams, without the largest, as it was `lag` values ago."""

    STATE: ClassVar[Mapping[str, Kind]] = {
        "_count": Kind.INT, "_values": Kind.ROWS, "_found": Kind.ANY_ROWS, "_last": Kind.ANY_ARRAY,
    }  # fmt: skip

    def __init__(self, lag: int, size: int) -> None:
        self._lag = lag
        self._count = 0
        self._values, self._found = np.zeros((0, size)), np.zeros((0, size))
        self._last = np.full(size, math.nan)

    def add(self, values: Floats) -> Floats:
        """Take the next values (N, S), and return the spreads (N, S), NaN in the first `lag` steps."""
        known, new = np.concatenate([self._values, values]), len(values)
        numbers = np.arange(self._count, self._count + new)
        due = np.flatnonzero((numbers < PAST - 1) | (numbers % EVERY == EVERY - 1))
        spreads = np.concatenate([self._found, self._newest(known, numbers, due)])
        self._count += new
        self._values, self._last = known[-(PAST - 1) :], spreads[-1] if len(spreads) else self._last
        unknown = np.full((max(0, self._lag + new - len(spreads)), known.shape[1]), math.nan)
        lagged: Floats = np.concatenate([unknown, spreads])[:new]
        self._found = spreads[len(spreads) - min(self._lag, len(spreads)) :]
        return lagged

    def _newest(self, known: Floats, numbers: NDArray[np.int64], due: NDArray[np.intp]) -> Floats:
        """Spreads (N, S) after each of the newest N values; they change at the due values only."""
        if not len(due):
            return np.repeat(self._last[None], len(numbers), axis=0) if len(numbers) > 1 else self._last[None]
        # Padding before the first value is infinite, and so among the largest.
        lacking = max(0, PAST - 1 + len(numbers) - len(known))
        padded = np.concatenate([np.full((lacking, known.shape[1]), math.inf), known])
        windows = sliding_window_view(padded, PAST, axis=0)[len(padded) - len(numbers) - PAST + 1 + due]
        spreads = np.concatenate([self._last[None], _trimmed(windows, np.minimum(numbers[due] + 1, PAST))])
        newest: Floats = spreads[np.searchsorted(due, np.arange(len(numbers)), "right")]
        return newest

    def select(self, which: NDArray[np.int64]) -> _Spread:
        """Some of the streams, with their past."""
        part = _Spread(self._lag, len(which))
        part._count, part._last = self._count, self._last[which]
        part._values, part._found = self._values[:, which], self._found[:, which]
        return part


def _trimmed(windows: Floats, counts: NDArray[np.int64]) -> Floats:
    """Spreads (N, S) of each window (N, S, L) without the largest tenth of the squares, corrected for the loss."""
    remaining = np.maximum(1, (TRIM * counts).astype(np.int64))
    sums = np.cumsum(np.sort(windows**2, -1), -1)[np.arange(len(windows)), :, remaining - 1]
    spreads: Floats = np.sqrt(sums / remaining[:, None] / TRIMMED)
    return spreads


class Jumps(Stateful):
    """Watches signals that are measured at the same steps.

    Args:
        floors: (S) lower bounds of the spreads, on the scale of the levels.
    """

    FILTERS = tuple(_Filter(*scale) for scale in SCALES)
    STATE: ClassVar[Mapping[str, Kind]] = {
        "_count": Kind.INT, "_levels": Kind.ROWS, "_spreads": Kind.ROWS, "_noise": Kind.PART, "_gaps": Kind.PARTS,
    }  # fmt: skip

    def __init__(self, floors: Floats) -> None:
        size = len(floors)
        self._floors = floors
        self._count = 0
        self._levels, self._spreads = np.zeros((0, size)), np.zeros((0, size))
        self._noise = _Spread(0, size)
        self._gaps = {number: _Spread(after, size) for number, (after, _) in enumerate(SCALES)}

    def select(self, which: NDArray[np.int64]) -> Jumps:
        """Some of the signals, with their past: those that are still measured at the same steps."""
        part = Jumps(self._floors[which])
        part._count = self._count
        part._levels, part._spreads = self._levels[:, which], self._spreads[:, which]
        part._noise = self._noise.select(which)
        part._gaps = {number: gaps.select(which) for number, gaps in self._gaps.items()}
        return part

    def add(self, levels: Floats) -> JumpScores:
        """Take the next levels (N, S), all finite."""
        new = len(levels)
        known = np.concatenate([self._levels, levels])
        # The standard deviation of second differences of independent values is sqrt(6) times theirs.
        bends = (known[2:] - 2 * known[1:-1] + known[:-2])[-new:] / math.sqrt(6) if new else levels
        noise = self._noise.add(bends)
        if len(bends) < new:
            noise = np.concatenate([np.full((new - len(bends), levels.shape[1]), math.nan), noise])
        spread = np.concatenate([self._spreads, np.fmax(noise, self._floors)])
        scored = self._judge(known, spread, new)
        self._count += new
        self._levels, self._spreads = known[-LONGEST:], spread[-LONGEST:]
        return scored

    def _judge(self, known: Floats, spread: Floats, new: int) -> JumpScores:
        shape = new, known.shape[1]
        best = JumpScores(np.zeros(shape), np.zeros(shape), np.zeros(shape, np.int64), np.zeros(shape))
        clean, first = _without_outliers(known, spread), self._count + new - len(known)
        for own, lines in zip(self._gaps.values(), self.FILTERS, strict=True):
            count = min(new, max(0, len(known) - lines.length + 1))
            if not count:
                continue
            windows = _windows(clean, lines.length, count)
            # The newest step cannot be recognized as an outlier yet.
            windows[..., -1] = known[-count:]
            gaps = _dot(windows, lines.weights)
            usual = own.add(gaps)
            size, past = np.abs(gaps), clean[len(known) - lines.length + 1 - count : len(known) - lines.after]
            usual_range = of_windows(np.maximum, past, lines.before) - of_windows(np.minimum, past, lines.before)
            rows, columns = np.nonzero((size >= usual_range) & (size > NOTHING * self._floors))
            if not len(rows):
                continue
            # Where each window's second line begins.
            at = len(known) - count + rows - lines.after
            usual = np.where(first + at < lines.length + ENOUGH, math.nan, usual[rows, columns])
            freedom = np.clip(np.minimum(first + at - 1, PAST) / OVERLAP, LEAST_FREEDOM, MOST_FREEDOM)
            wide = _WideGaps(windows[rows, columns], gaps[rows, columns], spread[at, columns], usual, freedom)
            _keep_best(best, (new - count + rows, columns), wide, lines)
        return best


@dataclass(frozen=True, slots=True)
class _WideGaps:
    """Windows whose gap exceeds the range of the steps before, with the values that judge it."""

    window: Floats
    gap: Floats
    noise: Floats
    usual: Floats
    freedom: Floats


def _without_outliers(known: Floats, spread: Floats) -> Floats:
    """Levels in which single outliers are replaced by the median of three."""
    clean = known.copy()
    if len(known) >= 3:
        left, middle, right = known[:-2], known[1:-1], known[2:]
        low, high = np.minimum(left, right), np.maximum(left, right)
        median = np.maximum(low, np.minimum(middle, high))
        np.copyto(clean[1:-1], median, where=np.abs(middle - median) > WILD * spread[1:-1])
    return clean


def _keep_best(
    best: JumpScores, where: tuple[NDArray[np.intp], NDArray[np.intp]], wide: _WideGaps, lines: _Filter
) -> None:
    """Score wide gaps, and keep those that beat the other scales at the same steps and signals."""
    before, after = wide.window[:, : lines.before], wide.window[:, lines.before :]
    level, slope = (_dot(before, weights)[:, None] for weights in lines.past)
    # Differences of neighbours do not show slowly wandering noise; residuals of the line do.
    residual_squares = ((before - level - slope * lines.positions) ** 2).sum(-1)
    noise = np.maximum(wide.noise, np.sqrt(residual_squares / (lines.before - 2)))
    evidence = normal_equivalents(wide.gap / np.fmax(lines.spread * noise, wide.usual), wide.freedom)
    expected, side = level + slope * np.arange(lines.after), np.sign(wide.gap)
    beyond = side[:, None] * (after - expected) >= HALF * np.abs(wide.gap)[:, None]
    score, first = np.abs(evidence), beyond.argmax(-1)
    better = (beyond.sum(-1) >= lines.after - 1) & (score > best.score[where])
    improved = where[0][better], where[1][better]
    best.score[improved], best.side[improved] = score[better], side[better]
    best.lag[improved] = lines.after - 1 - first[better]
    best.usual[improved] = expected[np.arange(len(first)), first][better]
