"""Many directions in which a run can depart from healthy ones, watched at once. Pure; numpy.

A step is a vector of residuals against the profile. A direction is a weighted sum of them with a spread of at most
one in healthy runs, and a CUSUM that looks for a shift of it:

- `signal`: one residual, to either side;
- `relation`: what is left of one residual when all others are given. Rewards that rise where the share of right answers
  does not are within their own spread long after they are out of this one;
- `fault`: the matched filter of a known fault, the inverse correlation times its shift, to one side. A shift that is
  small in every signal is large along the line that joins them.

Each CUSUM has a level of its own, found from how healthy runs' sums are distributed, so that all are wrong equally
seldom; the score of a step is the largest sum over its level.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Shifts that are looked for, in spreads: of a signal or relation, and the most of a fault.
SIZE, LARGEST_SIZE = 2.0, 3.0
# A residual beyond this says no more than this: healthy ones are not normal that far out.
LARGEST = 8.0
# What a fault moves by less than this may be chance.
LEAST_SHIFT = 0.3
# A signal that healthy runs hardly move, against the spread that it is judged by: less would make an event an alarm.
LEAST_SPREAD = 0.3
# Share of the identity in a correlation: what is left of a signal when all others are given is never nothing.
SHRUNK = 0.1
# Sums beyond this many levels say no more.
CAP = 3.0
# Steps of a run that say how widely it varies; a surprise beyond so many spreads says no more than this.
MEMORY, WILD = 60, 3.0
# Neighbours that are more alike than this would never have departed from anything.
MOST_ALIKE, TINY = 0.8, 1e-9


class Sort(StrEnum):
    """Where a direction comes from."""

    SIGNAL = "signal"
    RELATION = "relation"
    FAULT = "fault"


@dataclass(frozen=True, slots=True)
class Template:
    """How a fault moves the residuals (signals), in spreads."""

    name: str
    shift: Floats


@dataclass(frozen=True, slots=True)
class Direction:
    """One of the directions: its sort, the signal or fault that it speaks of, and its side."""

    sort: Sort
    name: str
    side: int

    def __str__(self) -> str:
        return f"{self.sort}:{self.name}" + ("" if self.sort is Sort.FAULT else "+" if self.side > 0 else "-")


@dataclass(frozen=True, slots=True)
class Bank:
    """Directions (K) over signals (S).

    Attributes:
        signals: S names.
        directions: K of them.
        weights: (K, S), each of a spread of at most one in healthy runs.
        sizes: (K) the shift that each looks for, in spreads.
        covariance: (S, S) of healthy residuals; the identity where a signal is not measured.
    """

    signals: tuple[str, ...]
    directions: tuple[Direction, ...]
    weights: Floats
    sizes: Floats
    covariance: Floats

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        # Detectors are copied every few steps; what never changes need not be.
        del memo
        return self

    def along(self, residuals: Floats) -> Floats:
        """Steps' residuals (N, S) along the directions (N, K); a residual that is NaN says nothing."""
        found: Floats = self.filled(residuals) @ self.weights.T
        return found

    def filled(self, residuals: Floats) -> Floats:
        """Residuals (N, S), and where one is missing (NaN) what the others of its step make one expect.

        A gap is no zero: what goes together with the missing signal would seem to have left it behind.
        """
        known = np.isfinite(residuals)
        found: Floats = np.where(known, np.clip(residuals, -LARGEST, LARGEST), 0.0)
        for mask in np.unique(known, axis=0):
            if mask.any() and not mask.all():
                steps = np.flatnonzero((known == mask).all(1))
                share = np.linalg.solve(self.covariance[np.ix_(mask, mask)], self.covariance[np.ix_(mask, ~mask)])
                found[np.ix_(steps, np.flatnonzero(~mask))] = found[np.ix_(steps, np.flatnonzero(mask))] @ share
        return found


class Sums:
    """The CUSUMs of a bank over one run, in nats: O(1) memory, one product of a matrix a step.

    A bank that was learnt from runs of another kind does not know how widely those of this one vary, and for how long
    they stay on one side. A direction is then judged by what sums of it vary by in this run, where that is more than in
    the bank: its variance times (1 + r) / (1 - r), with r the correlation of neighbours.

    Args:
        bank: its directions.
        levels: (K) of them; no sum grows beyond `CAP` times its level, so that what has gone is seen to go. Without
            levels sums grow without end.
        believed: how many steps of the run the bank's spreads are worth; infinity for runs of the bank's own kind.
    """

    def __init__(self, bank: Bank, levels: Floats | None = None, believed: float = math.inf) -> None:
        self._bank, self._believed = bank, believed
        self._most = np.inf if levels is None else CAP * levels
        self._count = 0
        self._variance = np.ones(len(bank.directions))
        self._lagged, self._last, self.sums = (np.zeros(len(bank.directions)) for _ in range(3))

    def add(self, residuals: Floats) -> Floats:
        """Take a step's residuals (S); the sums (K)."""
        self.over(residuals[None])
        return self.sums

    def clear(self) -> None:
        """Begin anew; how widely the run varies stays known."""
        self.sums = np.zeros(len(self._bank.directions))

    def over(self, residuals: Floats) -> Floats:
        """The sums (N, K) of many steps (N, S), as `add` gives them one by one."""
        found, sizes = self._bank.along(residuals), self._bank.sizes
        measured = [bool(there.any()) for there in np.isfinite(residuals)]
        for place, along in enumerate(found):
            shift = np.clip(along / np.sqrt(self._long_run()), -LARGEST, LARGEST)
            self.sums = np.clip(self.sums + sizes * (shift - sizes / 2), 0.0, self._most)
            if measured[place]:
                self._learn(along)
            found[place] = self.sums
        return found

    def _long_run(self) -> Floats:
        alike = np.clip(self._lagged / np.maximum(self._variance, TINY), 0.0, MOST_ALIKE)
        found: Floats = np.maximum(1.0, self._variance) * (1 + alike) / (1 - alike)
        return found

    def _learn(self, along: Floats) -> None:
        limit = WILD * np.sqrt(self._variance)
        self._count = min(self._count + 1, MEMORY)
        share, surprise = 1 / (self._believed + self._count), np.clip(along, -limit, limit)
        self._variance = self._variance + share * (surprise**2 - self._variance)
        self._lagged = self._lagged + share * (surprise * self._last - self._lagged)
        self._last = surprise


def covariance_of(residuals: Sequence[Floats], shrunk: float = SHRUNK) -> Floats:
    """Covariance (S, S) of healthy residuals (steps, S): their correlation, and spreads that are judged as at most 1,
    because a profile's spread holds, and as at least `LEAST_SPREAD`."""
    table = np.concatenate(residuals)
    known = np.isfinite(table)
    squares = np.where(known, table, 0.0) ** 2
    spreads = np.clip(np.sqrt(squares.sum(0) / np.maximum(known.sum(0), 1)), LEAST_SPREAD, 1.0)
    return correlation_of(residuals, shrunk) * np.outer(spreads, spreads)


def correlation_of(residuals: Sequence[Floats], shrunk: float = SHRUNK) -> Floats:
    """Correlation (S, S) of healthy residuals (steps, S), over the steps in which both were measured, shrunk a little
    towards none. Where a pair was never measured together, or does not vary, it is 0."""
    table = np.clip(np.concatenate(residuals), -LARGEST, LARGEST)
    known = np.isfinite(table)
    values = np.where(known, table, 0.0)
    products = values.T @ values
    counts = known.astype(np.float64).T @ known.astype(np.float64)
    squares = np.where(known, table**2, 0.0)
    # Spreads over the steps that a pair shares.
    both = squares.T @ known.astype(np.float64)
    scale = np.sqrt(both * both.T)
    found = np.divide(products, scale, out=np.zeros_like(products), where=scale > 1e-9 * np.maximum(counts, 1))
    found = (1 - shrunk) * found
    np.fill_diagonal(found, 1.0)
    return _positive(found, shrunk)


def _positive(matrix: Floats, shrunk: float) -> Floats:
    """The nearest correlation that has no negative variance anywhere: pairs with gaps of their own may not fit."""
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    if values[0] >= shrunk / 2:
        return matrix
    mended = (vectors * np.maximum(values, shrunk / 2)) @ vectors.T
    scale = np.sqrt(np.diag(mended))
    found: Floats = mended / np.outer(scale, scale)
    return found


def build(
    signals: Sequence[str], measured: NDArray[np.bool_], covariance: Floats, templates: Sequence[Template],
    like: Bank | None = None,
) -> Bank:  # fmt: skip
    """The bank of a run.

    Args:
        signals: S names.
        measured: (S) which of them the run has.
        covariance: (S, S) of healthy residuals.
        templates: of the faults that are known.
        like: a bank with the same directions; a template that it has is kept however small.
    """
    places = np.flatnonzero(measured)
    among, whole = covariance[np.ix_(places, places)], np.eye(len(signals))
    inverse = np.linalg.inv(among)
    whole[np.ix_(places, places)] = among
    directions, rows, sizes = list[Direction](), list[Floats](), list[float]()

    def add(direction: Direction, weights: Floats, size: float) -> None:
        row = np.zeros(len(signals))
        row[places] = weights
        directions.append(direction)
        rows.append(row)
        sizes.append(size)

    for place, at in enumerate(places.tolist()):
        own = np.zeros(len(places))
        own[place] = 1.0
        left = inverse[place] / np.sqrt(inverse[place, place])
        for side in (1, -1):
            add(Direction(Sort.SIGNAL, signals[at], side), side * own, SIZE)
            add(Direction(Sort.RELATION, signals[at], side), side * left, SIZE)
    for template in templates:
        shift = np.where(np.abs(template.shift) < LEAST_SHIFT, 0.0, template.shift)[places]
        weighted, direction = inverse @ shift, Direction(Sort.FAULT, template.name, 1)
        length = float(np.sqrt(weighted @ shift))
        wanted = length > LEAST_SHIFT if like is None else direction in like.directions
        if wanted:
            add(direction, weighted / length, min(length, LARGEST_SIZE))
    return Bank(tuple(signals), tuple(directions), np.stack(rows), np.array(sizes), whole)
