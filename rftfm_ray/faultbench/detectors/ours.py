"""Our own detector on recorded runs: all contrasts against profiles, with everything fitted on one split."""

from __future__ import annotations

from collections.abc import Sequence

from rftfm_ray.detection.reference.joint import JointCusums
from rftfm_ray.detection.reference.mixture import Reference, reference_of
from rftfm_ray.detection.reference.residuals import Residuals, Usual
from rftfm_ray.detection.statistics.thresholds import FALSE_ALARM_STEPS
from rftfm_ray.faultbench.detectors.strata import CellName, Cells, Floats, cell_of, cells_with, view_of
from rftfm_ray.faultbench.runs.dataset import Recorded


class BankScorer:
    """Score: the largest evidence of any contrast over its threshold, against a profile of the run's own kind that
    starts from what the other tasks show."""

    name = "rftfm"

    def __init__(self) -> None:
        self._cells: Cells | None = None
        self._references: dict[CellName, Reference] = {}

    def fit(self, runs: Sequence[Recorded]) -> None:
        """Learn profiles and priors from the calibrate split."""
        self._cells = cells_with(tuple(runs))
        self._references.clear()

    def scores(self, run: Recorded) -> Floats:
        """Scores (N) of a run; 1 is where a contrast is at its threshold."""
        return self.evidence(run)[0]

    def evidence(self, run: Recorded) -> tuple[Floats, list[str]]:
        """Scores (N), and what gave each."""
        if self._cells is None:
            raise ValueError("fit it first")
        cell = cell_of(run.entry)
        if cell not in self._references:
            priors = self._cells.priors(run.entry)
            self._references[cell] = reference_of(self._cells.whole_profile(run.entry), priors)
        reference = self._references[cell]
        cusums = JointCusums(reference, FALSE_ALARM_STEPS)
        over = cusums.observe(view_of(run, Residuals(Usual(reference.profile)))).over
        names = [str(one.contrast) for one in cusums.contrasts]
        return over.max(1), [names[column] for column in over.argmax(1).tolist()]
