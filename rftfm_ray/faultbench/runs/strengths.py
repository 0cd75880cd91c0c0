"""What the calibration says of a fault at a level, in one combination of task, algorithm and background. Pure."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from rftfm_ray.faultbench.runs.calibrate import HARD_RANGE
from rftfm_ray.faultbench.runs.plan import BACKGROUNDS, Combination
from rftfm_ray.faults.calibration import HARM, Calibration, Finding, StrengthKey, calibration_of
from rftfm_ray.faults.kinds import CATALOGUE, Mechanism

CALLING = ("calculator",)
"""Tasks of the benchmark with a tool."""
LEAST_REACHED = 0.25
"""Least share of runs in which a learnt fault must have its effect in time."""


class CellState(StrEnum):
    """What has been measured."""

    CONFIRMED = "confirmed"
    """Fresh seeds lie in the range of the level."""
    SEEN = "seen"
    """Outside of that range, or harmful on some seeds alone, but healthy runs do not hide it."""
    BELOW = "below the background"
    """Healthy runs with the same background hide it at every strength."""
    UNREACHED = "no strength reaches the level"
    LATE = "no effect in time"
    NO_HARM = "no strength is harmful"
    UNSEARCHED = "not searched, as no strength has it without a background"
    """An assumption, and no measurement: it spares half of the searches."""
    UNMEASURED = "not measured"


@dataclass(frozen=True, slots=True)
class StrengthCell:
    """What has a strength of its own: a mechanism at a level, in runs of one task, algorithm and background."""

    code: str
    mechanism: str
    level: str
    task: str
    algorithm: str
    dirty: bool = False

    def __str__(self) -> str:
        background = BACKGROUNDS[self.dirty]
        return f"{self.code} by {self.mechanism}, {self.level}, {background}, {self.task} with {self.algorithm}"


NOWHERE = (CellState.NO_HARM, CellState.UNREACHED, CellState.LATE)
"""States of a cell in which no strength was measured to have the level."""
_STATES = {Finding.BELOW: CellState.BELOW, Finding.NO_HARM: CellState.NO_HARM}
StateOf = Callable[[StrengthCell], CellState]
"""Says what has been measured of a cell."""
FaultMechanism = tuple[str, Mechanism]


@functools.cache
def measured(cell: StrengthCell) -> CellState:
    """What the table that the package ships says of a cell, by the row that `calibrated` takes for it.

    A level that no strength has in runs without a background is not searched in those with one: whether the background
    would give it one is not known.
    """
    key = StrengthKey(cell.task, cell.algorithm, cell.code, cell.mechanism, cell.level, cell.dirty)
    row = calibration_of(key)
    if row is None:
        clean = measured(replace(cell, dirty=False)) if cell.dirty else CellState.UNMEASURED
        return CellState.UNSEARCHED if clean in NOWHERE else CellState.UNMEASURED
    # Harm is measured by accuracy alone. It is hidden where healthy runs hide even the largest strength.
    hard = calibration_of(replace(key, level="hard")) if cell.level == HARM else None
    if hard is not None and hard.finding is Finding.BELOW and row.finding not in _STATES:
        return CellState.BELOW
    return state_of(row)


def state_of(row: Calibration) -> CellState:
    """What a measured row says of its cell, taken by itself."""
    if row.finding in _STATES:
        return _STATES[row.finding]
    if row.confirmed:
        return CellState.CONFIRMED
    # Where entropy falls by itself, as on calculator, a fault that does nothing would also count as having an effect:
    # an effect must come often enough and be visible.
    if row.level == HARM or (row.d_fresh >= HARD_RANGE[0] and row.reached >= LEAST_REACHED):
        return CellState.SEEN
    return CellState.UNREACHED if row.reached >= LEAST_REACHED else CellState.LATE


def visible(cell: StrengthCell) -> CellState:
    """For a benchmark without calibrated strengths: every fault is taken to be visible."""
    del cell
    return CellState.SEEN


@dataclass(frozen=True, slots=True)
class Strengths:
    """What can be dealt to the runs of a benchmark.

    Attributes:
        combinations: tasks and algorithms of the benchmark.
        codes: its faults.
        mechanisms: by fault, the names of those that it has; all of a fault that is not named.
        state_of: what has been measured.
    """

    combinations: tuple[Combination, ...]
    codes: tuple[str, ...]
    mechanisms: Mapping[str, tuple[str, ...]]
    state_of: StateOf

    def mechanisms_of(self, code: str) -> list[Mechanism]:
        """The mechanisms that the benchmark has of a fault."""
        kind = CATALOGUE[code]
        return [kind.mechanism(name) for name in self.mechanisms[code]] if code in self.mechanisms else [
            *kind.mechanisms
        ]  # fmt: skip

    def possible(self, mechanism: Mechanism) -> list[Combination]:
        """Combinations that can have a mechanism."""
        return [
            (task, algorithm)
            for task, algorithm in self.combinations
            if algorithm in mechanism.algorithms and (task in CALLING or not mechanism.needs_tool)
        ]

    def with_state(self, fault: FaultMechanism, level: str, state: CellState, *, dirty: bool) -> list[Combination]:
        """Combinations in which a fault has this state."""
        code, mechanism = fault
        return [
            combination
            for combination in self.possible(mechanism)
            if self.state_of(StrengthCell(code, mechanism.name, level, *combination, dirty)) is state
        ]

    def is_seen_elsewhere(self, cell: StrengthCell) -> bool:
        """Whether a level of a mechanism has been found in some combination, so that a benchmark has it there."""
        fault = cell.code, CATALOGUE[cell.code].mechanism(cell.mechanism)
        return bool(self.combinations_for(cell.level, fault, dirty=cell.dirty))

    def combinations_for(self, level: str, *faults: FaultMechanism, dirty: bool) -> list[Combination]:
        """Combinations that all of the faults are dealt to: those in which the level is confirmed, else those in which
        they are seen."""

        def shared(*states: CellState) -> list[Combination]:
            by_fault = [
                {c for state in states for c in self.with_state(fault, level, state, dirty=dirty)} for fault in faults
            ]
            return [c for c in self.combinations if all(c in some for some in by_fault)]

        return shared(CellState.CONFIRMED) or shared(CellState.CONFIRMED, CellState.SEEN)

    def cells(self, levels: Sequence[str], backgrounds: Sequence[bool]) -> list[StrengthCell]:
        """Every cell that the benchmark could have."""
        return [
            StrengthCell(code, mechanism.name, level, *combination, dirty)
            for level in levels
            for dirty in backgrounds
            for code in self.codes
            for mechanism in self.mechanisms_of(code)
            for combination in self.possible(mechanism)
        ]
