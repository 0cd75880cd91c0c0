"""A quantity that blows up, as opposed to one that is large for single steps. Pure; numpy."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from statistics import median
from typing import ClassVar

from rftfm_ray.detection.detectors.base import Detector, Output, Reading, Scores, measured
from rftfm_ray.detection.reference.views import StepView
from rftfm_ray.detection.stateful import Kind
from rftfm_ray.verdicts import Evidence

# Age of the values to compare with: a running mean would follow an exponential ramp and never alarm.
AGO = 5
WINDOW = 50
# In 30 of 1,000 steps a converged policy samples a very rare token, and KL is ten times as large. A blow-up is well
# above those values too, for three steps, or by a large factor at once.
RARE, ABOVE_RARE = 0.95, 1.5
LASTING, BY_FAR = 3, math.log(15.0)
# Floor of a denominator.
LEAST = 1e-9


class BlowUpDetector(Detector):
    """A quantity that may grow while it is small; it alarms when it stays large and far above its former values.

    Args:
        signal: its name.
        large: values up to this never alarm.
        factor: multiple of its median that counts as far above.
    """

    STATE: ClassVar[Mapping[str, Kind]] = {
        "_values": Kind.FLOATS, "_high": Kind.FLOATS, "_since": Kind.INT, "_raised": Kind.BOOL,
    }  # fmt: skip

    def __init__(self, signal: str, large: float, factor: float) -> None:
        self.name = f"blow_up:{signal}"
        self.outputs = (Output(signal, 1, Evidence.TELEMETRY),)
        self._signal, self._large, self._factor = signal, large, factor
        self._values = deque[float](maxlen=WINDOW)
        self._high = list[float]()
        self._since = 0
        self._raised = False

    def observe(self, view: StepView) -> Scores:
        """1 and more while it has blown up: the share of the duration or of the height that makes it certain."""
        scores, values = Scores.quiet(view, 1), view.value(self._signal)
        scores.score[:] = math.nan
        rows = measured(values)
        if len(rows) > 1 and self._skip(values[rows].tolist()):
            scores.score[rows] = 0.0
            return scores
        for row in rows.tolist():
            value, step = float(values[row]), int(view.steps[row])
            if value <= self._large:
                # A shortcut for most steps of most runs.
                self._end(value)
                scores.score[row, 0] = 0.0
                continue
            usual, rare = self._limits()
            scores.score[row, 0] = self._add(value, step, usual, rare)
            if self._since:
                scores.reference[row, 0], scores.onset[row, 0] = usual, self._since
        return scores

    def _skip(self, values: Sequence[float]) -> bool:
        """Take values at once where none of them can be far above its median, which is no smaller than all of them."""
        highest = max(values)
        if self._since or not (highest <= self._large or highest <= self._factor * min([*self._values, *values])):
            return False
        self._values.extend(values)
        return True

    def _limits(self) -> tuple[float, float]:
        """The median, and the limit of a rare event, of the values that are old enough to compare with."""
        known = list(self._values)
        earlier = sorted(known[:-AGO] or known[:1])
        if not earlier:
            return math.inf, math.inf
        rare = ABOVE_RARE * earlier[round(RARE * (len(earlier) - 1))]
        return median(earlier), max(self._large, rare)

    def _add(self, value: float, step: int, usual: float, rare: float) -> float:
        if not value > max(rare, self._factor * usual):
            self._end(value)
            return 0.0
        self._since = self._since or step
        self._high.append(value)
        height = sum(math.log(high / rare) for high in self._high) / BY_FAR if len(self._high) > 1 else 0.0
        share = max(height, len(self._high) / LASTING)
        self._raised = self._raised or share >= 1.0
        return max(share, 1.0) if self._raised else share

    def _end(self, value: float) -> None:
        """End an episode: short-lived large values join the history; those of a blow-up do not."""
        if not self._raised:
            self._values.extend(self._high)
        self._values.append(value)
        self._since, self._raised = 0, False
        self._high.clear()

    def reason(self, output: int, reading: Reading) -> str:
        """Gives the ratio to the median from before the episode, that median, and the step at which it began."""
        times, usual = reading.value / max(reading.reference, LEAST), f"{reading.reference:.3g}"
        ratio = f"{times:.0f} times its median of {usual} in at most {WINDOW} steps before step {reading.onset}"
        return f"{self.outputs[output].signal} is {reading.value:.3g}, {ratio}"

    def earliest(self, onset: int) -> int:
        """Exponential growth begins before the value is large."""
        return max(1, onset - AGO)

    def forget(self, signals: Collection[str], step: int) -> Collection[int]:
        """Clear the history of the signal."""
        del step
        if self._signal not in signals:
            return ()
        self._values.clear()
        return self.settle(signals)

    def settle(self, signals: Collection[str]) -> Collection[int]:
        """Restart the count of large values."""
        if self._signal not in signals:
            return ()
        self._since, self._raised = 0, False
        self._high.clear()
        return (0,)
