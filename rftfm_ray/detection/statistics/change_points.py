"""Sudden, lasting changes of signals against the run's own past, whatever its scale and trend. Pure; numpy.

A step is a candidate when a straight line through the steps before it and one through those after it do not meet: a
trend, however steep, does not jump. The gap is measured in what gaps of the run itself vary by, and has to be wider
than all that the signal did in the steps before; so learning that sets in gradually is none, and neither is one wild
step, because all but one of the steps after it must lie beyond half of the gap.

Everything is a function of the last `PAST` steps and a little more: O(1) memory, and a whole log at once gives the
same verdicts as its steps one by one.
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

Floats = NDArray[np.float64]

# Steps after and before a jump that the lines are laid through.
SCALES = ((4, 8), (4, 16), (8, 24))
FEWEST = sum(SCALES[0])
"""Steps before there is a verdict."""
LONGEST = max(after + before for after, before in SCALES)
# Steps that spreads remember, and how often they are taken anew once there are so many.
PAST, EVERY = 64, 8
# Spreads leave out the largest tenth of what they are made of: mean square of a normal variable within its 90 %.
TRIM, TRIMMED = 0.9, 0.623
# Gaps that a spread of them needs; they overlap.
ENOUGH = 16
# A step so many spreads from both of its neighbours' sides is a slip of its own, and no part of a trend.
WILD = 4.0
# Overlapping differences count half as degrees of freedom.
OVERLAP, LEAST_FREEDOM, MOST_FREEDOM = 2.0, 3.0, 40.0
HALF = 0.5
# Evidence for an alarm in a run's first steps, and what it grows by with the logarithm of time: a run of 20,000 steps
# must stay as silent as one of 40.
LEVEL, GROWTH, FIRST = 4.4, 0.3, 40


def levels_at(first: int, count: int) -> Floats:
    """What a score must reach (count) at places from `first` on (from 0) of a run for an alarm."""
    found: Floats = LEVEL + GROWTH * np.log(np.maximum(1.0, np.arange(first + 1, first + count + 1) / FIRST))
    return found


@dataclass(frozen=True, slots=True)
class Scored:
    """Steps of signals as they were judged.

    Attributes:
        score: (N, S) evidence for a jump that the step has made certain, as a standard normal residual; 0 for none.
        side: (N, S) +1 for one to above, -1 to below.
        lag: (N, S) steps since the first step beyond it.
        usual: (N, S) what the steps before it let expect there.
    """

    score: Floats
    side: Floats
    lag: NDArray[np.int64]
    usual: Floats


class _Filter:
    """The lines of one scale as weights of `after + before` values, the oldest first."""

    def __init__(self, after: int, before: int) -> None:
        self.after, self.before = after, before
        past = _line(np.arange(-before, 0, dtype=np.float64))
        self.expect = np.outer(past[0], np.ones(after)) + np.outer(past[1], np.arange(after))
        self.weights = np.concatenate([-past[0], _line(np.arange(after, dtype=np.float64))[0]])
        places = np.arange(-before, 0, dtype=np.float64)
        self.around = np.eye(before) - np.outer(past[0], np.ones(before)) - np.outer(past[1], places)
        # Spread of the gap when every value has one of 1.
        self.spread = float(np.sqrt((self.weights**2).sum()))


def _line(places: Floats) -> Floats:
    """Weights (2, N) of the values at some places that give the least-squares line: its value at 0, and its slope."""
    found: Floats = np.linalg.pinv(np.stack([np.ones(len(places)), places], 1))
    return found


class _Spread(Stateful):
    """Root mean square of the last `PAST` values of streams, without the largest, as it was `lag` values ago."""

    STATE: ClassVar[Mapping[str, Kind]] = {
        "_count": Kind.INT, "_values": Kind.ARRAY, "_found": Kind.ARRAY, "_last": Kind.ARRAY,
    }  # fmt: skip

    def __init__(self, lag: int, size: int) -> None:
        self._lag = lag
        self._count = 0
        self._values, self._found = np.zeros((0, size)), np.zeros((0, size))
        self._last = np.full(size, math.nan)

    def add(self, values: Floats) -> Floats:
        """Take the next values (N, S); the spreads (N, S), NaN where nothing was known so long ago."""
        known, new = np.concatenate([self._values, values]), len(values)
        places = np.arange(self._count, self._count + new)
        found = np.full(values.shape, math.nan)
        due = np.flatnonzero((places < PAST - 1) | (places % EVERY == EVERY - 1))
        if len(due):
            # What was never there is infinite, and so among the largest.
            padded = np.concatenate([np.full((PAST, known.shape[1]), math.inf), known])
            windows = sliding_window_view(padded, PAST, axis=0)[len(known) - new + 1 + due]
            found[due] = _trimmed(windows, np.minimum(places[due] + 1, PAST))
        every = np.concatenate([self._found, _held(found, self._last)])
        self._count += new
        self._values, self._last = known[-(PAST - 1) :], every[-1] if len(every) else self._last
        lost = np.full((max(0, self._lag + new - len(every)), known.shape[1]), math.nan)
        lagged: Floats = np.concatenate([lost, every])[:new]
        self._found = every[len(every) - min(self._lag, len(every)) :]
        return lagged

    def only(self, which: NDArray[np.int64]) -> _Spread:
        """Some of the streams, with their past."""
        found = _Spread(self._lag, len(which))
        found._count, found._last = self._count, self._last[which]
        found._values, found._found = self._values[:, which], self._found[:, which]
        return found


def _trimmed(windows: Floats, counts: NDArray[np.int64]) -> Floats:
    """Spreads (N, S) of the values of each window (N, S, L): the largest tenth of the squares is left out, and allowed
    for."""
    kept = np.maximum(1, (TRIM * counts).astype(np.int64))
    sums = np.cumsum(np.sort(windows**2, -1), -1)[np.arange(len(windows)), :, kept - 1]
    found: Floats = np.sqrt(sums / kept[:, None] / TRIMMED)
    return found


def _held(values: Floats, before: Floats) -> Floats:
    """Every row of NaN as the last one that was none."""
    last = np.maximum.accumulate(np.where(np.isnan(values[:, 0]), -1, np.arange(len(values))))
    found: Floats = np.where(last[:, None] >= 0, values[np.maximum(last, 0)], before)
    return found


class Jumps(Stateful):
    """Watches signals that are measured at the same steps.

    Args:
        floors: (S) the smallest spread that each is ever judged by, on the scale of its levels.
    """

    FILTERS = tuple(_Filter(*scale) for scale in SCALES)
    STATE: ClassVar[Mapping[str, Kind]] = {
        "_count": Kind.INT, "_levels": Kind.ARRAY, "_spreads": Kind.ARRAY, "_noise": Kind.PART, "_gaps": Kind.PARTS,
    }  # fmt: skip

    def __init__(self, floors: Floats) -> None:
        size = len(floors)
        self._floors = floors
        self._count = 0
        self._levels, self._spreads = np.zeros((0, size)), np.zeros((0, size))
        self._noise = _Spread(0, size)
        self._gaps = {place: _Spread(after, size) for place, (after, _) in enumerate(SCALES)}

    def only(self, which: NDArray[np.int64]) -> Jumps:
        """Some of the signals, with their past: those that go on being measured at the same steps."""
        found = Jumps(self._floors[which])
        found._count = self._count
        found._levels, found._spreads = self._levels[:, which], self._spreads[:, which]
        found._noise, found._gaps = (
            self._noise.only(which),
            {place: gaps.only(which) for place, gaps in self._gaps.items()},
        )
        return found

    def add(self, levels: Floats) -> Scored:
        """Take the next levels (N, S), all finite."""
        new = len(levels)
        known = np.concatenate([self._levels, levels])
        # What second differences of independent values vary by is the root of six times as much.
        bends = (known[2:] - 2 * known[1:-1] + known[:-2])[-new:] / math.sqrt(6) if new else levels
        none = np.full((new - len(bends), levels.shape[1]), math.nan)
        noise = np.concatenate([none, self._noise.add(bends)])
        spread = np.concatenate([self._spreads, np.fmax(noise, self._floors)])
        found = self._judge(known, spread, new)
        self._count += new
        self._levels, self._spreads = known[-LONGEST:], spread[-LONGEST:]
        return found

    def _judge(self, known: Floats, spread: Floats, new: int) -> Scored:
        shape = new, known.shape[1]
        best = Scored(np.zeros(shape), np.zeros(shape), np.zeros(shape, np.int64), np.zeros(shape))
        clean, first = _without_slips(known, spread), self._count + new - len(known)
        for own, lines in zip(self._gaps.values(), self.FILTERS, strict=True):
            length = lines.after + lines.before
            count = min(new, max(0, len(known) - length + 1))
            if not count:
                continue
            window = sliding_window_view(clean, length, axis=0)[-count:].copy()
            # Whether the newest step is a slip is not known yet.
            window[..., -1] = known[-count:]
            gaps, at = window @ lines.weights, np.arange(len(known) - count, len(known)) - lines.after
            usual = own.add(gaps)
            usual[first + at < length + ENOUGH] = math.nan
            # Noise that wanders hides from differences of neighbours, but not from the line through them.
            scale = np.fmax(lines.spread * np.maximum(spread[at], _around(window, lines)), usual)
            freedom = np.clip(np.minimum(first + at - 1, PAST) / OVERLAP, LEAST_FREEDOM, MOST_FREEDOM)[:, None]
            _keep(best, _score(window, gaps, normal_equivalents(gaps / scale, freedom), lines), new - count)
        return best


def _without_slips(known: Floats, spread: Floats) -> Floats:
    """Levels in which single wild values are as the middle one of three."""
    clean = known.copy()
    if len(known) >= 3:
        middle = np.median(np.stack([known[:-2], known[1:-1], known[2:]]), 0)
        wild = np.abs(known[1:-1] - middle) > WILD * spread[1:-1]
        clean[1:-1] = np.where(wild, middle, known[1:-1])
    return clean


def _around(window: Floats, lines: _Filter) -> Floats:
    """Spread of each window's earlier steps around their line."""
    squares = (window[..., : lines.before] @ lines.around) ** 2
    found: Floats = np.sqrt(squares.sum(-1) / (lines.before - 2))
    return found


def _score(window: Floats, gaps: Floats, evidence: Floats, lines: _Filter) -> Scored:
    before, after = window[..., : lines.before], window[..., lines.before :]
    expected, side = before @ lines.expect, np.sign(gaps)
    beyond = side[..., None] * (after - expected) >= HALF * np.abs(gaps)[..., None]
    wide = np.abs(gaps) >= np.ptp(before, axis=-1)
    lasting = beyond.sum(-1) >= lines.after - 1
    first = beyond.argmax(-1)
    usual = np.take_along_axis(expected, first[..., None], -1)[..., 0]
    return Scored(np.where(wide & lasting, np.abs(evidence), 0.0), side, lines.after - 1 - first, usual)


def _keep(best: Scored, other: Scored, start: int) -> None:
    better = other.score > best.score[start:]
    for name in Scored.__slots__:
        getattr(best, name)[start:][better] = getattr(other, name)[better]
