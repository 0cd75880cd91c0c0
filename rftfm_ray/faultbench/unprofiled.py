"""Our detector in cold mode on recorded runs: no healthy runs, each is held against its own past."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rftfm_ray.detection.cold import WATCHED
from rftfm_ray.detection.evidence import TELEMETRY
from rftfm_ray.detection.jumps import Jumps, level_at
from rftfm_ray.detection.signals import INDEX, SIGNALS
from rftfm_ray.detection.trends import trends_of
from rftfm_ray.faultbench.cells import Floats, levels
from rftfm_ray.faultbench.dataset import Recorded
from rftfm_ray.faultbench.declared import references_gone

# Of a trend that no healthy run takes: above any threshold that jumps are given.
CERTAIN = 3.0
FLOORS = np.array([SIGNALS[INDEX[name]].floor for name in WATCHED])


class ColdScorer:
    """Score: the best evidence of any signal over the level that is asked of it, or `CERTAIN` for a trend."""

    name = "rftfm_cold"

    def fit(self, runs: Sequence[Recorded]) -> None:
        """It has nothing to learn from other runs."""
        del runs

    def scores(self, run: Recorded) -> Floats:
        """Scores (N) of a run; 1 is where a jump is at its level."""
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
                    asked = np.array([level_at(index) for index in np.searchsorted(there, part).tolist()])
                    found[part] = np.maximum(found[part], scored.max(1) / asked)
        for name in TELEMETRY:
            split = gone.get(name, 1) - 1
            values = run.signal(name)
            found = np.maximum(
                found, np.concatenate([_trending(name, values[:split]), _trending(name, values[split:])])
            )
        return found


def _trending(name: str, values: Floats) -> Floats:
    """`CERTAIN` (N) at steps at which a signal takes a trend that no healthy run takes."""
    found = np.zeros(len(values))
    for trend in trends_of(name):
        for place in np.flatnonzero(np.isfinite(values)).tolist():
            if trend.add(float(values[place])) is not None:
                found[place] = CERTAIN
    return found
