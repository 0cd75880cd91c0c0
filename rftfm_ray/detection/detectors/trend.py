"""Slow failures that healthy runs do not show, one signal at a time. Pure; numpy."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Mapping
from typing import ClassVar

import numpy as np

from rftfm_ray.detection.detectors.base import Detector, Output, Reading, Scores, measured
from rftfm_ray.detection.reference.views import StepView
from rftfm_ray.detection.stateful import Kind
from rftfm_ray.detection.statistics.trends import BLOCK, BLOCKS, LASTING, Trend, TrendKind, trends_of
from rftfm_ray.signals.scale import LARGEST
from rftfm_ray.signals.schema import SIGNALS
from rftfm_ray.verdicts import Evidence

# Above the threshold of all other telemetry: healthy runs do not show such a trend, so it is nearly certain.
CERTAIN = 3.0
# The longest duration of a trend when it becomes certain.
LONGEST = max(BLOCK * BLOCKS, LASTING)
_PHRASES: Mapping[TrendKind, str] = {
    TrendKind.BLOW_UP: "grows exponentially",
    TrendKind.COLLAPSE: "falls ever faster, to next to nothing",
    TrendKind.DECLINE: "has lost most of what it had reached, for long",
    TrendKind.UNBEARABLE: "is a share of failures too high for training to succeed",
}


class TrendDetector(Detector):
    """Watches one signal for one trend.

    Args:
        signal: its name.
        trend: a new trend.
    """

    STATE: ClassVar[Mapping[str, Kind]] = {"_trend": Kind.PART, "_steps": Kind.FLOATS, "_onset": Kind.INT}

    def __init__(self, signal: str, trend: Trend) -> None:
        self.name = f"trend:{trend.kind}:{signal}"
        self.outputs = (Output(signal, trend.direction, Evidence.TELEMETRY),)
        self._signal, self._trend = signal, trend
        self._steps = deque[float](maxlen=LONGEST + 1)
        self._onset = 0

    def observe(self, view: StepView) -> Scores:
        """`CERTAIN` while the signal shows the trend, NaN where it was not measured."""
        scores, values = Scores.quiet(view, 1), view.value(self._signal)
        rows = measured(values)
        scores.score[:] = math.nan
        scores.score[rows] = 0.0
        known = np.clip(values[rows], -LARGEST, LARGEST).tolist()
        if len(known) > 1 and self._trend.skip(known):
            self._steps.extend(view.steps[rows].tolist())
            self._onset = 0
            return scores
        for row, step, value in zip(rows.tolist(), view.steps[rows].tolist(), known, strict=True):
            self._steps.append(step)
            lag = self._trend.add(value)
            if lag is None:
                self._onset = 0
                continue
            self._onset = self._onset or int(self._steps[max(0, len(self._steps) - 1 - lag)])
            scores.score[row, 0], scores.onset[row, 0] = CERTAIN, self._onset
        return scores

    def reason(self, output: int, reading: Reading) -> str:
        """Gives the trend and the newest value."""
        return f"{self.outputs[output].signal} {_PHRASES[self._trend.kind]} ({reading.value:.3g} now)"

    def forget(self, signals: Collection[str], step: int) -> Collection[int]:
        """Restart the trend after a declared change."""
        del step
        if self._signal not in signals:
            return ()
        which = [type(trend) for trend in trends_of(self._signal)].index(type(self._trend))
        self._trend = trends_of(self._signal)[which]
        self._steps.clear()
        self._onset = 0
        return (0,)

    def settle(self, signals: Collection[str]) -> Collection[int]:
        """Restart: the trend must be seen again."""
        return self.forget(signals, 0)


def trend_detectors() -> list[TrendDetector]:
    """A detector for every trend of every signal that has one."""
    return [TrendDetector(signal.name, trend) for signal in SIGNALS for trend in trends_of(signal.name)]
