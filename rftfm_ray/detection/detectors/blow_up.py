"""A quantity that explodes, told from one that is large for a step now and then. Pure."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from statistics import median

from rftfm_ray.detection.detectors.base import Detector
from rftfm_ray.signals.schema import value
from rftfm_ray.verdicts import Evidence, StepReport, Symptom

# A slow mean would follow an exponential ramp and never see it; what is so many steps old does not.
AGO = 5
WINDOW = 50
# In thirty of a thousand steps a converged policy samples a token that it has all but given up, and KL is ten times as
# large: what blows up is well above those too, for three steps or at once by far.
RARE, ABOVE_RARE = 0.95, 1.5
LASTING, BY_FAR = 3, math.log(15.0)
# Ratios need something above nothing.
LEAST = 1e-9


class BlowUpDetector(Detector):
    """A quantity that may grow while it is small: an alarm when it stays large and far above what it was.

    Args:
        signal: its name.
        large: below this it may be anything.
        factor: times its median that count as far above.
    """

    def __init__(self, signal: str, large: float, factor: float) -> None:
        self.name = f"blow_up:{signal}"
        self._signal, self._large, self._factor = signal, large, factor
        self._values = deque[float](maxlen=WINDOW)
        self._since: int | None = None
        self._high = list[float]()
        self._alarm = False

    def observe(self, report: StepReport) -> Sequence[Symptom]:
        found, step = value(report, self._signal), report.id.step
        if math.isnan(found):
            return ()
        earlier = sorted(list(self._values)[:-AGO] or list(self._values)[:1])
        usual = median(earlier) if earlier else math.inf
        rare = max(self._large, ABOVE_RARE * earlier[round(RARE * (len(earlier) - 1))]) if earlier else math.inf
        if not found > max(rare, self._factor * usual):
            self._over(found)
            return ()
        self._since = step if self._since is None else self._since
        self._high.append(found)
        by_far = len(self._high) > 1 and sum(math.log(one / rare) for one in self._high) >= BY_FAR
        self._alarm = self._alarm or by_far or len(self._high) >= LASTING
        return [self._symptom(found, usual, step, self._since)] if self._alarm else ()

    def _over(self, found: float) -> None:
        """What was large for a step is part of what is usual; what has blown up is nothing to compare with."""
        if not self._alarm:
            self._values.extend(self._high)
        self._values.append(found)
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._since, self._alarm = None, False
        self._high.clear()

    def _symptom(self, found: float, usual: float, step: int, since: int) -> Symptom:
        times = found / max(usual, LEAST)
        return Symptom(
            self.name, self._signal, Evidence.TELEMETRY, alarm=True, direction=1, value=found, reference=usual,
            score=math.log(times) * (step - since + 1), onset=since, onset_low=max(1, since - AGO),
            reason=f"{self._signal} is {found:.3g}, {times:.0f} times what it was before",
        )  # fmt: skip

    def forget(self, signals: Sequence[str], step: int) -> None:
        del step
        if self._signal in signals:
            self._values.clear()
            self._begin_anew()

    def settle(self, signals: Sequence[str]) -> None:
        if self._signal in signals:
            self._begin_anew()
