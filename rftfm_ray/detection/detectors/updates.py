"""How far updates go, against what they did before. Pure."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

from rftfm_ray.detection.detectors.base import Detector
from rftfm_ray.detection.detectors.shift import SHIFT
from rftfm_ray.detection.statistics.cusum import Cusum, shift_ratio
from rftfm_ray.signals.scale import safe_exp
from rftfm_ray.signals.schema import value
from rftfm_ray.verdicts import Evidence, StepReport, Symptom


def update_size(report: StepReport) -> float:
    """How far a step's updates went, in norms of the weights, over the share of the rate that the schedule calls for.

    A change that the schedule makes on purpose does not show in it; one that a lever, or a fault, makes does.
    """
    declared = value(report, "schedule_factor") * safe_exp(-value(report, "schedule_excess"))
    return value(report, "update_ratio") / declared if declared > 0 else math.nan


class UpdateSizeDetector(Detector):
    """Updates more than twice as large as any of the last hundred steps: a CUSUM of the logarithm over that.

    The size of AdamW's updates falls when signal grows rare and comes back when it returns, threefold in a converged
    run; a mean would call that a fault. The maximum does not move, and no healthy run goes far beyond it, because an
    AdamW update of one weight is hardly ever larger than the rate. Twice, because a run that is resumed when it has
    converged may begin with small updates and know no others.
    """

    name = "update_size"
    WINDOW = 100
    SPREAD = 0.1
    FACTOR = 2.0

    def __init__(self, threshold: float, warmup: int) -> None:
        self._threshold = threshold
        self._warmup = warmup
        self._seen = 0
        self._sizes: deque[float] = deque(maxlen=self.WINDOW)
        self._cusum = Cusum(threshold)

    def observe(self, report: StepReport) -> Sequence[Symptom]:
        size, step = update_size(report), report.id.step
        if not size > 0:
            return ()
        self._seen += 1
        largest = max(self._sizes, default=math.nan)
        if len(self._sizes) >= self._warmup:
            # Not capped: an update this far has been made, and one is enough.
            self._cusum.add(shift_ratio(math.log(size / (self.FACTOR * largest)) / self.SPREAD, SHIFT), step)
        # The very first updates are the largest, before the optimizer's moments have settled.
        if self._seen > self._warmup and self._cusum.sum < self._threshold / 2 and math.isfinite(size):
            self._sizes.append(size)
        if not self._cusum.alarm:
            return ()
        onset = self._cusum.onset
        reason = f"updates are {size / largest:.3g} times as large as the largest of before step {onset}"
        return [
            Symptom(
                self.name, "update_ratio", Evidence.TELEMETRY, alarm=True, direction=1,
                value=value(report, "update_ratio"), reference=largest, score=self._cusum.sum, onset=onset,
                onset_low=onset, reason=reason,
            )
        ]  # fmt: skip

    def forget(self, signals: Sequence[str], step: int) -> None:
        del step
        if "update_ratio" in signals:
            self._sizes.clear()
            self._seen = 0
            self._cusum.clear()

    def settle(self, signals: Sequence[str]) -> None:
        if "update_ratio" in signals:
            self._cusum.clear()
