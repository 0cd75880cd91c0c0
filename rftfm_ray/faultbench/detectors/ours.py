"""Our own detector on recorded runs: the bank of directions against profiles, with everything fitted on one split."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rftfm_ray.detection.detectors.joint import growth
from rftfm_ray.detection.reference.correlation import FEWEST_RUNS, Together, learn
from rftfm_ray.detection.statistics.matched_filters import Template
from rftfm_ray.errors import BenchError
from rftfm_ray.faultbench.detectors.shifts import Kinds, kind_of, mean_shifts
from rftfm_ray.faultbench.detectors.strata import Cells, Floats, cell_of, cells_with
from rftfm_ray.faultbench.runs.dataset import Recorded
from rftfm_ray.faultbench.runs.plan import Kind


class BankScorer:
    """Score: the largest sum of evidence of any direction, over the level that it seldom reaches in healthy runs.

    How signals go together depends on task and algorithm, and hardly on the size of the model: advantages follow
    rewards otherwise with a critic than without one.
    """

    name = "rftfm"

    def __init__(self) -> None:
        self._cells: Cells | None = None
        self._learnt: dict[Kinds, Together] = {}

    def fit(self, runs: Sequence[Recorded]) -> None:
        """Learn profiles, correlations, templates of faults, and levels from the calibrate split."""
        sound = [run for run in runs if run.entry.kind is Kind.HEALTHY]
        self._cells = cells_with(tuple(runs))
        templates = [Template(" ".join(fault), at) for fault, at in mean_shifts(runs, self._cells.residuals).items()]
        self._learnt.clear()
        for kind in sorted({kind_of(run.entry) for run in sound}):
            found = self._left_out([run for run in sound if kind_of(run.entry) == kind])
            if len(found) < FEWEST_RUNS:
                raise BenchError(f"There are no three healthy runs of {' with '.join(kind)} to learn from; make more.")
            self._learnt[kind] = learn(found, templates)

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
        asked = growth(np.arange(1, len(run) + 1))[:, None]
        over = learnt.sums().over(learnt.adjusted(self._cells.all_residuals(run))) / learnt.levels / asked
        names = [str(direction) for direction in learnt.bank.directions]
        return over.max(1), [names[place] for place in over.argmax(1).tolist()]
