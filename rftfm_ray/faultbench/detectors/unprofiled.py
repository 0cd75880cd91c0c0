"""Our detector in cold mode on recorded runs: no healthy runs of their task, each is held against its own past."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rftfm_ray.detection.reference.joint import JointCusums
from rftfm_ray.detection.reference.mixture import reference_of
from rftfm_ray.detection.reference.residuals import Residuals, Usual
from rftfm_ray.detection.statistics.change_points import Jumps, levels_at
from rftfm_ray.detection.statistics.thresholds import FALSE_ALARM_STEPS
from rftfm_ray.detection.statistics.trends import trends_of
from rftfm_ray.faultbench.detectors.strata import Cells, Floats, cells_with, levels, view_of
from rftfm_ray.faultbench.runs.dataset import Recorded
from rftfm_ray.faultbench.runs.declared import references_gone
from rftfm_ray.signals.groups import TELEMETRY, WATCHED
from rftfm_ray.signals.schema import INDEX, SIGNALS

# Of a trend that no healthy run takes: above any threshold that jumps are given.
CERTAIN = 3.0
FLOORS = np.array([SIGNALS[INDEX[name]].floor for name in WATCHED])


class ColdScorer:
    """Score: the best evidence of any signal or contrast over its threshold, or `CERTAIN` for a trend.

    How signals go together is learnt from healthy runs of the other tasks alone: a newcomer's task is none of ours.
    """

    name = "rftfm_cold"

    def __init__(self) -> None:
        self._cells: Cells | None = None

    def fit(self, runs: Sequence[Recorded]) -> None:
        """Learn for each task from the healthy runs of the others; without any, signals are watched one by one."""
        self._cells = cells_with(tuple(runs))

    def scores(self, run: Recorded) -> Floats:
        """Scores (N) of a run; 1 is where a jump or a contrast is at its threshold."""
        if self._cells is None:
            raise ValueError("fit it first")
        cusums = JointCusums(reference_of(None, self._cells.priors(run.entry)), FALSE_ALARM_STEPS)
        joint = cusums.observe(view_of(run, Residuals(Usual()))).over.max(1, initial=0.0)
        both: Floats = np.maximum(_jumps_and_trends(run), joint)
        return both


def _jumps_and_trends(run: Recorded) -> Floats:
    """Evidence (N) of single signals."""
    found, known, gone = np.zeros(len(run)), levels(run, WATCHED), references_gone(run.entry)
    restarts = np.array([gone.get(name, 1) for name in WATCHED])
    measured = np.isfinite(known)
    # Signals that are measured at the same steps, and forget their past at the same one, are judged at once.
    for *mask, restart in np.unique(np.vstack([measured, restarts]), axis=1).T.tolist():
        steps = np.array(mask, bool)
        together = np.flatnonzero((measured == steps[:, None]).all(0) & (restarts == restart))
        there = np.flatnonzero(steps)
        for part in (there[there < restart - 1], there[there >= restart - 1]):
            if len(part):
                scored = Jumps(FLOORS[together]).add(known[np.ix_(part, together)]).score
                asked = levels_at(int(np.searchsorted(there, part[0])), len(part))
                found[part] = np.maximum(found[part], scored.max(1) / asked)
    for name in TELEMETRY:
        split = gone.get(name, 1) - 1
        values = run.signal(name)
        found = np.maximum(found, np.concatenate([_trending(name, values[:split]), _trending(name, values[split:])]))
    return found


def _trending(name: str, values: Floats) -> Floats:
    """`CERTAIN` (N) at steps at which a signal takes a trend that no healthy run takes."""
    found = np.zeros(len(values))
    for trend in trends_of(name):
        for place in np.flatnonzero(np.isfinite(values)).tolist():
            if trend.add(float(values[place])) is not None:
                found[place] = CERTAIN
    return found
