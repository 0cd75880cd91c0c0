"""What a law is: a relation between logged figures, when it holds, and how far a step is from it. Pure; numpy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from rftfm_ray.config.declared import Declared

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]


class Figures(Protocol):
    """The figures of N steps."""

    @property
    def steps(self) -> Ints:
        """(N) their numbers, from 1."""

    def value(self, name: str) -> Floats:
        """(N) one figure; NaN where it was not measured."""


@dataclass(frozen=True, slots=True)
class Strength:
    """What a law reads off a break: by how much, in words.

    Attributes:
        what: the size that is measured, as a noun with its unit.
        measure: (N) it, by figures and what is declared; NaN where it cannot be told.
    """

    what: str
    measure: Callable[[Figures, Declared], Floats]


@dataclass(frozen=True, slots=True)
class Law:
    """One relation that holds by definition of the algorithm and the declared configuration.

    Attributes:
        name: of the law.
        signal: the figure that a break is reported under.
        columns: the other figures that it reads.
        states: what holds, as a sentence without a full stop.
        meaning: of a break, as a sentence without a full stop.
        tolerance: largest residual that is rounding; relative to the signal where that is larger than 1.
        reason: why the tolerance is that.
        applies: whether it must hold under what is declared.
        residual: (N) the signal less what the law gives for it, in the unit of the signal; NaN where the law says
            nothing of a step.
        strength: what it reads off a break; None where it measures nothing.
        direction: +1 where only too much breaks it, -1 where only too little does, 0 where both do.
    """

    name: str
    signal: str
    columns: tuple[str, ...]
    states: str
    meaning: str
    tolerance: float
    reason: str
    applies: Callable[[Declared], bool]
    residual: Callable[[Figures, Declared], Floats]
    strength: Strength | None = None
    direction: int = 0

    @property
    def directions(self) -> tuple[int, ...]:
        """The directions in which it can be broken."""
        return (self.direction,) if self.direction else (1, -1)

    def residuals(self, figures: Figures, declared: Declared) -> Floats:
        """(N) how far each step is from it; 0 at all of them where it need not hold. Figures may be infinite."""
        if not self.applies(declared):
            return np.zeros(len(figures.steps))
        return np.asarray(self.residual(figures, declared), np.float64)

    def excess(self, residual: Floats, figures: Figures) -> Floats:
        """(N) residuals in units of the tolerance."""
        size = np.fmax(1.0, np.abs(figures.value(self.signal)))
        return np.asarray(residual / (self.tolerance * size))


def outside(value: Floats, low: Floats, high: Floats) -> Floats:
    """(N) how far values are above the upper or below the lower bound; 0 between them, NaN where one is unknown."""
    above, below = np.maximum(value - high, 0.0), np.minimum(value - low, 0.0)
    return np.asarray(above + below)
