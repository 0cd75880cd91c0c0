"""An absolute reading: a rule with a limit that no healthy run reaches, and the state that follows it row by row. Pure.

A reading needs no healthy run and no past of the run. It speaks from the third row on at the earliest, it says how many
rows it had, and it is not run where its inputs are missing. Its alarm has hysteresis: it opens after some broken rows
in a row, and ends after some sound ones.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from rftfm_ray.detection.stateful import Kind, Stateful
from rftfm_ray.detection.statistics.recursions import BLOCK, decayed_sums
from rftfm_ray.verdicts import Evidence

Floats = NDArray[np.float64]
Row = Mapping[str, float]
"""Values of one row by name; a name that is missing, or NaN, was not measured."""

Columns = Mapping[str, Floats]
"""(N) values of N rows by name; a name that is missing, or NaN, was not measured."""

LASTING = 3
"""Broken rows in a row that most readings need: one row may be an accident, and three are a state."""
SOUND = 5
"""Sound rows in a row that end an alarm, so that a value that crosses its limit back and forth is one alarm."""
MOST = 10.0
"""Largest score: how far beyond its limit a value is says nothing more from there on."""
# Score of an alarm that is about to open, below the level at which a latch opens and above the one at which it ends.
ABOUT = 0.5


class Grade(StrEnum):
    """How much a reading matters: only a critical one opens an incident, or makes a log faulty."""

    NOTE = "note"
    WARNING = "warning"
    CRITICAL = "critical"


class Family(StrEnum):
    """What a reading is about; a log is called healthy only where every family with columns was read."""

    REWARD = "reward"
    SPREAD = "reward_spread"
    KL = "kl"
    ENTROPY = "entropy"
    LENGTH = "length"
    GRADIENT = "gradient"
    UPDATE = "update"
    ROLLOUT = "rollout"
    CRITIC = "critic"
    FINITE = "finite"


@dataclass(frozen=True, slots=True)
class Rule:
    """What a reading is.

    Attributes:
        name: unique among the readings.
        family: what it is about.
        grade: how much it matters.
        signal: the one that it is about, and that its symptom names.
        direction: +1 where the signal is too high, -1 where it is too low.
        needs: its inputs: of each tuple one must be measured.
        fewest: rows with all inputs before it can say anything.
        limit: the value from which it breaks, in the unit of the signal.
        says: what a broken reading means, as the end of a sentence that begins with signal and value.
        source: where the limit comes from.
        lasting: broken rows in a row that open an alarm.
        evidence: kind of the evidence.
        in_logs_only: whether a guard beside the trainer has stronger evidence for the same, so that it leaves it out.
    """

    name: str
    family: Family
    grade: Grade
    signal: str
    direction: int
    needs: tuple[tuple[str, ...], ...]
    fewest: int
    limit: float
    says: str
    source: str
    lasting: int = LASTING
    evidence: Evidence = Evidence.TELEMETRY
    in_logs_only: bool = False

    @property
    def inputs(self) -> tuple[str, ...]:
        """All names that it may read."""
        return tuple(dict.fromkeys(name for names in self.needs for name in names))

    def has_inputs(self, row: Row) -> bool:
        """Whether a row has one of each of its inputs."""
        return all(any(math.isfinite(row.get(name, math.nan)) for name in names) for names in self.needs)


@dataclass(frozen=True, slots=True)
class Said:
    """What a reading says after one row.

    Attributes:
        score: 1 and more while its alarm is open, up to `MOST`; NaN where the row lacks its inputs.
        value: of the signal, or of what stands for it.
        since: the first row of the break, by its number; that of the row itself without a break.
    """

    score: float
    value: float
    since: int


class AbsoluteReading(Stateful, ABC):
    """Follows one rule.

    Args:
        rule: what it is.
    """

    STATE: ClassVar[Mapping[str, Kind]] = {
        "_rows": Kind.INT, "_broken": Kind.INT, "_sound": Kind.INT, "_since": Kind.INT, "_open": Kind.BOOL,
    }  # fmt: skip

    extra: ClassVar[tuple[str, ...]] = ()
    """Names that it reads where they are measured, and does without where they are not."""

    follows: ClassVar[tuple[str, ...]] = ()
    """Names of which it also takes the values at rows that lack an input."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.inputs = rule.inputs
        self._rows, self._broken, self._sound, self._since = 0, 0, 0, 0
        self._open = False

    @abstractmethod
    def excess(self, row: Row) -> tuple[float, float]:
        """How far a row with all inputs is beyond the limit, 1 at it, and the value that shows it.

        Called once for every such row, in their order.
        """

    def excesses(self, columns: Columns) -> tuple[Floats, Floats] | None:
        """`excess` for all rows (N) of a whole log at once, to the last digit; None where a row depends on others."""
        del columns
        return None

    def may_break(self, columns: Columns) -> bool:
        """Whether some row of a whole log may be beyond the limit; False spares its rows one by one.

        A bound that costs little: True where none would.

        Args:
            columns: (N) what the reading may read and the log has, at the rows that have all inputs or that it follows.
        """
        del columns
        return True

    def follow(self, row: Row) -> None:
        """Take a row that lacks an input, and has a value of what the reading follows."""
        del row

    def lasting(self) -> int:
        """Broken rows in a row that open an alarm, as far as the run is known."""
        return self.rule.lasting

    def began(self, number: int) -> int:
        """The row at which a break began that the row `number` is the first to show."""
        return number

    @property
    def rows(self) -> int:
        """Rows that had all inputs."""
        return self._rows

    def add(self, number: int, row: Row) -> Said:
        """Take a row, by its number, and say what it shows. Values are finite and no larger than `scale.LARGEST`."""
        if self.rule.has_inputs(row):
            return self.take(number, row)
        if any(math.isfinite(row.get(name, math.nan)) for name in self.follows):
            self.follow(row)
        return Said(math.nan, math.nan, self._since or number)

    def take(self, number: int, row: Row) -> Said:
        """The same for a row that is known to have all inputs."""
        self._rows += 1
        return self._judge(number, *self.excess(row))

    def take_measured(self, number: int, excess: float, value: float) -> Said:
        """The same for a row of which `excesses` has told how far it is beyond the limit."""
        self._rows += 1
        return self._judge(number, excess, value)

    def _judge(self, number: int, excess: float, value: float) -> Said:
        if math.isnan(excess):
            return Said(math.nan, value, self._since or number)
        if excess >= 1.0:
            self._since = self._since if self._broken or self._open else self.began(number)
            self._broken, self._sound = self._broken + 1, 0
        else:
            self._broken, self._sound = 0, self._sound + 1
        lasting = self.lasting()
        if not self._open:
            self._open = self._broken >= lasting and self._rows >= self.rule.fewest
        elif self._sound >= SOUND:
            self._open = False
        if not self._open:
            return Said(ABOUT * min(1.0, self._broken / lasting), value, self._since if self._broken else number)
        return Said(min(MOST, max(1.0, excess)), value, self._since)


def first_known(row: Row, names: tuple[str, ...]) -> float:
    """The first finite value of some names; NaN without one."""
    if len(names) == 1:
        return row.get(names[0], math.nan)
    return next((row[name] for name in names if math.isfinite(row.get(name, math.nan))), math.nan)


def first_known_of(columns: Columns, names: tuple[str, ...]) -> Floats:
    """The same for whole columns, of which at least one is there."""
    there = [columns[name] for name in names if name in columns]
    known = there[0]
    for column in there[1:]:
        known = np.where(np.isfinite(known), known, column)
    return known


class Smoothed(Stateful):
    """An exponential mean whose first values are a plain mean, and the noise of the values about it.

    The noise is the standard deviation of second differences over the square root of six: a trend adds nothing to it.

    Args:
        memory: values of the mean.
    """

    STATE: ClassVar[Mapping[str, Kind]] = {
        "_memory": Kind.INT, "_count": Kind.INT, "_level": Kind.FLOAT, "_variance": Kind.FLOAT, "_last": Kind.FLOAT,
        "_before": Kind.FLOAT,
    }  # fmt: skip

    def __init__(self, memory: int) -> None:
        self._memory, self._count = memory, 0
        self._level, self._variance = 0.0, 0.0
        self._last, self._before = 0.0, 0.0

    @property
    def count(self) -> int:
        """Values so far."""
        return self._count

    @property
    def level(self) -> float:
        """The mean; NaN without values."""
        return self._level if self._count else math.nan

    @property
    def noise(self) -> float:
        """Standard deviation of the mean about its trend; infinite while it is not known."""
        if self._count < 3:
            return math.inf
        return math.sqrt(self._variance / max(1.0, min(self._count, self._memory)))

    def add(self, value: float) -> float:
        """Take a finite value, and return the new mean."""
        self._count += 1
        self._level += (value - self._level) * max(1 / self._count, 1 / self._memory)
        if self._count >= 3:
            bend = value - 2 * self._last + self._before
            share = max(1 / (self._count - 2), 1 / (5 * self._memory))
            self._variance += share * (bend * bend / 6 - self._variance)
        self._before, self._last = self._last, value
        return self._level


def smoothed(values: Floats, memory: int) -> Floats:
    """The levels (N) of `Smoothed` for finite values (N) at once, to a few units in the last place."""
    levels = np.cumsum(values[:memory]) / np.arange(1, len(values[:memory]) + 1)
    parts = [levels]
    for start in range(memory, len(values), BLOCK):
        parts.append(decayed_sums(values[start : start + BLOCK] / memory, parts[-1][-1], 1 - 1 / memory))
    return np.concatenate(parts)
