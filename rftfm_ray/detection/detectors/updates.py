"""How far updates go, against what they did before. Pure; numpy."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Mapping
from typing import ClassVar

import numpy as np

from rftfm_ray.detection.detectors.base import Detector, Output, Reading, Scores
from rftfm_ray.detection.reference.views import Floats, StepView
from rftfm_ray.detection.stateful import Kind
from rftfm_ray.detection.statistics.cusum import Cusum, shift_ratio
from rftfm_ray.verdicts import Evidence

# A shift that is looked for, in spreads: smaller ones take longer.
SHIFT = 3.0


def declared_factors(view: StepView) -> Floats:
    """(N) the share of the learning rate that the schedule calls for at each step; NaN where it calls for none.

    A change that the schedule makes on purpose does not show in an update over it; one that a lever, or a fault, makes
    does.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        declared = view.value("schedule_factor") * np.exp(-view.value("schedule_excess"))
        return np.where(declared > 0, declared, math.nan)


class UpdateSizeDetector(Detector):
    """Updates more than twice as large as any of the last hundred steps: a CUSUM of the logarithm over that.

    The size of AdamW's updates falls when signal grows rare and comes back when it returns, threefold in a converged
    run; a mean would call that a fault. The maximum does not move, and no healthy run goes far beyond it, because an
    AdamW update of one weight is hardly ever larger than the rate. Twice, because a run that is resumed when it has
    converged may begin with small updates and know no others.

    Args:
        threshold: evidence for an alarm, in nats.
        warmup: steps before anything is judged.
    """

    name = "update_size"
    outputs = (Output("update_ratio", 1, Evidence.TELEMETRY),)
    WINDOW = 100
    SPREAD = 0.1
    FACTOR = 2.0
    STATE: ClassVar[Mapping[str, Kind]] = {"_seen": Kind.INT, "_sizes": Kind.FLOATS, "_cusum": Kind.PART}

    def __init__(self, threshold: float, warmup: int) -> None:
        self._threshold = threshold
        self._warmup = warmup
        self._seen = 0
        self._sizes: deque[float] = deque(maxlen=self.WINDOW)
        self._cusum = Cusum(threshold)

    def observe(self, view: StepView) -> Scores:
        """The evidence after each step with an update."""
        scores, declared = Scores.quiet(view, 1), declared_factors(view)
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            sizes = view.value("update_ratio") / declared
        scores.score[:] = math.nan
        for row in np.flatnonzero(sizes > 0).tolist():
            size, step = float(sizes[row]), int(view.steps[row])
            self._seen += 1
            largest = max(self._sizes, default=math.nan)
            if len(self._sizes) >= self._warmup:
                # Not capped: an update this far has been made, and one is enough.
                beyond = math.log(size) - math.log(largest) - math.log(self.FACTOR)
                self._cusum.add(shift_ratio(beyond / self.SPREAD, SHIFT), step)
            # The very first updates are the largest, before the optimizer's moments have settled.
            if self._seen > self._warmup and self._cusum.sum < self._threshold / 2 and math.isfinite(size):
                self._sizes.append(size)
            scores.score[row, 0] = self._cusum.sum / self._threshold
            scores.onset[row, 0], scores.reference[row, 0] = self._cusum.onset, largest * float(declared[row])
        return scores

    def reason(self, output: int, reading: Reading) -> str:
        """Says how many times the largest update before it is."""
        del output
        times = reading.value / reading.reference
        return f"updates are {times:.3g} times as large as the largest before step {reading.onset}"

    def forget(self, signals: Collection[str], step: int) -> Collection[int]:
        """The largest updates are not known any more."""
        del step
        if "update_ratio" not in signals:
            return ()
        self._sizes.clear()
        self._seen = 0
        self._cusum.clear()
        return (0,)

    def settle(self, signals: Collection[str]) -> Collection[int]:
        """Evidence begins anew."""
        if "update_ratio" not in signals:
            return ()
        self._cusum.clear()
        return (0,)
