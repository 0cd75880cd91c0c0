"""Our own detector on recorded runs: the bank of directions against profiles, with everything fitted on one split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rftfm_ray.detection.bank import LEAST_SPREAD, Bank, Sums, Template, build, correlation_of
from rftfm_ray.detection.evidence import TELEMETRY
from rftfm_ray.detection.limits import level_for, peaks
from rftfm_ray.errors import BenchError
from rftfm_ray.faultbench.cells import Cells, Floats, cell_of
from rftfm_ray.faultbench.dataset import Recorded
from rftfm_ray.faultbench.plan import Kind
from rftfm_ray.faultbench.shifts import Kinds, kind_of, mean_shifts

# Steps to a block of a run whose peaks are counted, and healthy steps to one false alarm of all directions together.
BLOCK, FALSE_ALARM_STEPS = 10, 2000.0

Measured = tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class Learnt:
    """What healthy runs of one kind have shown: the correlation of their residuals, and their spreads."""

    correlation: Floats
    spreads: Floats


class BankScorer:
    """Score: the largest sum of evidence of any direction, over the level that it seldom reaches in healthy runs.

    How signals go together depends on task and algorithm, and hardly on the size of the model: advantages follow
    rewards otherwise with a critic than without one.
    """

    name = "rftfm"

    def __init__(self) -> None:
        self._cells: Cells | None = None
        self._learnt: dict[Kinds, Learnt] = {}
        self._templates: tuple[Template, ...] = ()
        self._levels: dict[Kinds, dict[str, float]] = {}
        self._banks: dict[tuple[Kinds, Measured], Bank] = {}

    def fit(self, runs: Sequence[Recorded]) -> None:
        """Learn profiles, correlations, templates of faults, and levels from the calibrate split."""
        sound = [run for run in runs if run.entry.kind is Kind.HEALTHY]
        self._cells = Cells(sound)
        self._banks.clear()
        kinds = sorted({kind_of(run.entry) for run in sound})
        left_out = {kind: self._left_out([run for run in sound if kind_of(run.entry) == kind]) for kind in kinds}
        empty = [kind for kind, found in left_out.items() if not found]
        if empty:
            raise BenchError(f"There are no three healthy runs of {' with '.join(empty[0])} to learn from; make more.")
        self._learnt = {kind: _learnt(found) for kind, found in left_out.items()}
        self._templates = tuple(
            Template(" ".join(fault), shift) for fault, shift in mean_shifts(runs, self._cells.residuals).items()
        )
        self._levels = {kind: self._fitted_levels(kind, found) for kind, found in left_out.items()}

    def _left_out(self, sound: Sequence[Recorded]) -> list[Floats]:
        """Residuals of healthy runs, each against the profile of the others of its cell, as a new run has them."""
        found = []
        for run in sound:
            others = [one for one in sound if one is not run and cell_of(one.entry) == cell_of(run.entry)]
            if len(others) >= 2:
                found.append(Cells(others).residuals(run))
        return found

    def _residuals(self, run: Recorded) -> Floats:
        if self._cells is None:
            raise ValueError("fit it first")
        return self._cells.residuals(run)

    def _bank(self, kind: Kinds, residuals: Floats) -> Bank:
        measured = np.isfinite(residuals[0])
        key = kind, tuple(measured.tolist())
        if key not in self._banks:
            learnt = self._learnt[kind]
            self._banks[key] = build(TELEMETRY, measured, learnt.spreads, learnt.correlation, self._templates)
        return self._banks[key]

    def _sums(self, kind: Kinds, residuals: Floats) -> tuple[Bank, Floats]:
        bank = self._bank(kind, residuals)
        watch = Sums(bank)
        return bank, np.stack([watch.add(step) for step in residuals])

    def _fitted_levels(self, kind: Kinds, healthy: Sequence[Floats]) -> dict[str, float]:
        found: dict[str, list[Floats]] = {}
        for residuals in healthy:
            bank, sums = self._sums(kind, residuals)
            highest = peaks(sums, BLOCK)
            for place, direction in enumerate(bank.directions):
                found.setdefault(str(direction), []).append(highest[:, place])
        per_step = 1 / FALSE_ALARM_STEPS / max(1, len(found))
        return {name: level_for(np.concatenate(some), BLOCK, per_step) for name, some in found.items()}

    def scores(self, run: Recorded) -> Floats:
        """Scores (N) of a run; 1 is where a direction is at its level."""
        return self.evidence(run)[0]

    def evidence(self, run: Recorded) -> tuple[Floats, list[str]]:
        """Scores (N), and what gave each."""
        kind = kind_of(run.entry)
        bank, sums = self._sums(kind, self._residuals(run))
        names, levels = [str(direction) for direction in bank.directions], self._levels[kind]
        # What no healthy run of the kind has measured from its first step on has no level of its own.
        usual = max(levels.values())
        over = sums / np.array([levels.get(name, usual) for name in names])
        return over.max(1), [names[place] for place in over.argmax(1).tolist()]


def _learnt(residuals: Sequence[Floats]) -> Learnt:
    table = np.concatenate(residuals)
    known = np.isfinite(table)
    squares = np.where(known, table, 0.0) ** 2
    spreads = np.sqrt(squares.sum(0) / np.maximum(known.sum(0), 1))
    return Learnt(correlation_of(residuals), np.clip(spreads, LEAST_SPREAD, 1.0))
