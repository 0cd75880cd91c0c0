"""Our detector in cold mode on recorded runs: no healthy runs of their task, each is held against its own past."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rftfm_ray.detection.detectors.joint import growth
from rftfm_ray.detection.reference.correlation import FEWEST_RUNS, Together
from rftfm_ray.detection.reference.priors import TELLS, kind_with, learn_priors, own_residuals
from rftfm_ray.detection.reference.residuals import COLUMNS
from rftfm_ray.detection.statistics.change_points import Jumps, levels_at
from rftfm_ray.detection.statistics.trends import trends_of
from rftfm_ray.faultbench.detectors.strata import Floats, levels
from rftfm_ray.faultbench.runs.dataset import Recorded
from rftfm_ray.faultbench.runs.declared import references_gone
from rftfm_ray.faultbench.runs.plan import Kind
from rftfm_ray.signals.groups import TELEMETRY, WATCHED
from rftfm_ray.signals.schema import INDEX, SIGNALS

# Of a trend that no healthy run takes: above any threshold that jumps are given.
CERTAIN = 3.0
FLOORS = np.array([SIGNALS[INDEX[name]].floor for name in WATCHED])


class ColdScorer:
    """Score: the best evidence of any signal or direction over the level that is asked of it, or `CERTAIN` for a trend.

    How signals go together is learnt from healthy runs of the other tasks alone: a newcomer's task is none of ours.
    """

    name = "rftfm_cold"

    def __init__(self) -> None:
        self._others: dict[tuple[str, str], Together] = {}

    def fit(self, runs: Sequence[Recorded]) -> None:
        """Learn for each task from the healthy runs of the others; without any, signals are watched one by one."""
        sound = [run for run in runs if run.entry.kind is Kind.HEALTHY]
        self._others.clear()
        residuals = {run.entry.name: _residuals(run) for run in sound}
        for task, kind in {(run.entry.task, _kind(run)) for run in runs}:
            some = [residuals[r.entry.name] for r in sound if r.entry.task != task and _kind(r) == kind]
            if len(some) >= FEWEST_RUNS:
                self._others[task, kind] = learn_priors(some)

    def scores(self, run: Recorded) -> Floats:
        """Scores (N) of a run; 1 is where a jump or a direction is at its level."""
        together = self._others.get((run.entry.task, _kind(run)))
        one_by_one = _jumps_and_trends(run)
        if together is None:
            return one_by_one
        over = together.sums().over(together.adjusted(_residuals(run))) / together.levels
        asked = growth(np.arange(1, len(run) + 1))
        both: Floats = np.maximum(one_by_one, over.max(1) / asked)
        return both


def _kind(run: Recorded) -> str:
    return kind_with(name for name in (TELLS,) if np.isfinite(run.signal(name)).any())


def _residuals(run: Recorded) -> Floats:
    return own_residuals(levels(run, COLUMNS), references_gone(run.entry))


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
