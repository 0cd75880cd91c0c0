"""Our own detector on recorded runs: the bank of directions against profiles, with everything fitted on one split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rftfm_ray.detection.asked import ASKED
from rftfm_ray.detection.bank import LARGEST, Bank, Sums, Template, build, correlation_of
from rftfm_ray.detection.evidence import TELEMETRY
from rftfm_ray.detection.limits import level_for, peaks
from rftfm_ray.errors import BenchError
from rftfm_ray.faultbench.cells import Cells, Floats, cell_of
from rftfm_ray.faultbench.dataset import Recorded
from rftfm_ray.faultbench.plan import Kind
from rftfm_ray.faultbench.shifts import Kinds, kind_of, mean_shifts

# Steps to a block of a run whose peaks are counted, and healthy steps to one false alarm of all directions together.
BLOCK, FALSE_ALARM_STEPS = 10, 2000.0
# Steps' worth of prompts that change nothing: what few runs show of how residuals follow them is not all true.
RIDGE = 50.0


@dataclass(frozen=True, slots=True)
class Learnt:
    """What healthy runs of one kind have shown.

    Attributes:
        slopes: (`ASKED`, `TELEMETRY`) how residuals follow those of the prompts.
        bank: the directions of what can be measured in them.
        levels: of each direction.
    """

    slopes: Floats
    bank: Bank
    levels: Floats

    def adjusted(self, residuals: Floats) -> Floats:
        """Residuals (N, `TELEMETRY`) less what the prompts of each step explain, from (N, `COLUMNS`)."""
        return _adjusted(residuals, self.slopes)


class BankScorer:
    """Score: the largest sum of evidence of any direction, over the level that it seldom reaches in healthy runs.

    How signals go together depends on task and algorithm, and hardly on the size of the model: advantages follow
    rewards otherwise with a critic than without one.
    """

    name = "rftfm"

    def __init__(self) -> None:
        self._cells: Cells | None = None
        self._learnt: dict[Kinds, Learnt] = {}

    def fit(self, runs: Sequence[Recorded]) -> None:
        """Learn profiles, correlations, templates of faults, and levels from the calibrate split."""
        sound = [run for run in runs if run.entry.kind is Kind.HEALTHY]
        self._cells = Cells(sound)
        templates = [Template(" ".join(fault), at) for fault, at in mean_shifts(runs, self._cells.residuals).items()]
        self._learnt.clear()
        for kind in sorted({kind_of(run.entry) for run in sound}):
            found = self._left_out([run for run in sound if kind_of(run.entry) == kind])
            if not found:
                raise BenchError(f"There are no three healthy runs of {' with '.join(kind)} to learn from; make more.")
            self._learnt[kind] = _learnt(found, templates)

    def _left_out(self, sound: Sequence[Recorded]) -> list[Floats]:
        """Residuals of healthy runs, each against the profile of the others of its cell, as a new run has them."""
        found = []
        for run in sound:
            others = [one for one in sound if one is not run and cell_of(one.entry) == cell_of(run.entry)]
            if len(others) >= 2:
                found.append(Cells(others).all_residuals(run))
        return found

    def scores(self, run: Recorded) -> Floats:
        """Scores (N) of a run; 1 is where a direction is at its level."""
        return self.evidence(run)[0]

    def evidence(self, run: Recorded) -> tuple[Floats, list[str]]:
        """Scores (N), and what gave each."""
        if self._cells is None:
            raise ValueError("fit it first")
        learnt = self._learnt[kind_of(run.entry)]
        over = Sums(learnt.bank).over(learnt.adjusted(self._cells.all_residuals(run))) / learnt.levels
        names = [str(direction) for direction in learnt.bank.directions]
        return over.max(1), [names[place] for place in over.argmax(1).tolist()]


def _learnt(residuals: Sequence[Floats], templates: Sequence[Template]) -> Learnt:
    """From residuals (N, `COLUMNS`) of healthy runs, each against the profile of others."""
    slopes = _slopes(np.concatenate(residuals))
    adjusted = [_adjusted(each, slopes) for each in residuals]
    table = np.concatenate(adjusted)
    known = np.isfinite(table)
    squares = np.where(known, table, 0.0) ** 2
    spreads = np.sqrt(squares.sum(0) / np.maximum(known.sum(0), 1))
    bank = build(TELEMETRY, np.asarray(known.any(0)), spreads, correlation_of(adjusted), templates)
    highest = np.concatenate([peaks(Sums(bank).over(each), BLOCK) for each in adjusted])
    per_step = 1 / FALSE_ALARM_STEPS / len(bank.directions)
    levels = [level_for(highest[:, place], BLOCK, per_step) for place in range(len(bank.directions))]
    return Learnt(slopes, bank, np.array(levels))


def _slopes(table: Floats) -> Floats:
    """Ridge regression (`ASKED`, `TELEMETRY`) of residuals on those of the prompts, over the steps that have both."""
    asked = np.clip(np.nan_to_num(table[:, len(TELEMETRY) :], nan=0.0), -LARGEST, LARGEST)
    found = np.zeros((len(ASKED), len(TELEMETRY)))
    for place in range(len(TELEMETRY)):
        there = np.isfinite(table[:, place])
        x, y = asked[there], np.clip(table[there, place], -LARGEST, LARGEST)
        found[:, place] = np.linalg.solve(x.T @ x + RIDGE * np.eye(len(ASKED)), x.T @ y)
    return found


def _adjusted(residuals: Floats, slopes: Floats) -> Floats:
    own, asked = residuals[:, : len(TELEMETRY)], residuals[:, len(TELEMETRY) :]
    explained: Floats = np.clip(np.nan_to_num(asked, nan=0.0), -LARGEST, LARGEST) @ slopes
    return own - explained
