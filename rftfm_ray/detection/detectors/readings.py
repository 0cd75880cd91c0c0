"""A detector for each absolute reading. Pure; numpy."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import ClassVar

import numpy as np

from rftfm_ray.detection.detectors.base import Detector, Output, Reading, Scores
from rftfm_ray.detection.readings.base import AbsoluteReading, Grade
from rftfm_ray.detection.readings.table import TABLE, Entry
from rftfm_ray.detection.reference.views import Floats, StepView
from rftfm_ray.detection.stateful import Kind
from rftfm_ray.signals.scale import LARGEST
from rftfm_ray.signals.schema import INDEX

PREFIX = "reading:"
"""Before the name of a reading, in that of its detector."""


class ReadingDetector(Detector):
    """Shows the rows of a run to one reading. Only a critical reading raises an alarm; the others are notices.

    Args:
        entry: of the table.
    """

    STATE: ClassVar[Mapping[str, Kind]] = {"_reading": Kind.PART}

    def __init__(self, entry: Entry) -> None:
        rule = entry.rule
        self.name = f"{PREFIX}{rule.name}"
        self.outputs = (Output(rule.signal, rule.direction, rule.evidence, alarm=rule.grade is Grade.CRITICAL),)
        self._entry = entry
        self._reading = entry.build()
        self._names = names_of(self._reading)
        self._columns = np.array([INDEX[name] for name in self._names])
        self._follows = [self._names.index(name) for name in self._reading.follows]
        self._needs = [[self._names.index(name) for name in names] for names in rule.needs]

    def observe(self, view: StepView) -> Scores:
        """What the reading says after each row; NaN where it lacked an input."""
        scores = Scores.quiet(view, 1)
        scores.score[:] = math.nan
        scores.reference[:] = self._entry.rule.limit
        known = usable(view.values[:, self._columns])
        measured = np.isfinite(known)
        complete = np.all([measured[:, columns].any(1) for columns in self._needs], 0)
        rows = np.flatnonzero(complete | measured[:, self._follows].any(1))
        shown = zip(
            rows.tolist(), complete[rows].tolist(), view.steps[rows].tolist(), known[rows].tolist(), strict=True
        )
        for row, has_inputs, step, values in shown:
            named = dict(zip(self._names, values, strict=True))
            if not has_inputs:
                self._reading.follow(named)
                continue
            said = self._reading.take(step, named)
            scores.score[row, 0], scores.onset[row, 0] = said.score, said.since
        return scores

    def reason(self, output: int, reading: Reading) -> str:
        """Signal, value and meaning."""
        del output
        return sentence(self._entry.rule.signal, reading.value, self._entry.rule.says)

    def forget(self, signals: Collection[str], step: int) -> Collection[int]:
        """Restart a reading that has a past of its own: what it has seen of these signals is no measure any more."""
        del step
        if not set(signals) & set(self._entry.rule.inputs):
            return ()
        self._reading = self._entry.build()
        return (0,)

    def settle(self, signals: Collection[str]) -> Collection[int]:
        """Restart a reading of these signals, so that it speaks of what follows the remedy."""
        return self.forget(signals, 0) if self._entry.rule.signal in signals else ()


def usable(values: Floats) -> Floats:
    """Values of any shape as readings take them: finite, and so small that their squares do not overflow."""
    return np.where(np.isfinite(values), np.clip(values, -LARGEST, LARGEST), np.nan)


def names_of(reading: AbsoluteReading) -> tuple[str, ...]:
    """Everything that a reading may read."""
    return tuple(dict.fromkeys((*reading.rule.inputs, *reading.extra, *reading.follows)))


def sentence(name: str, value: float, says: str) -> str:
    """What a reading says in words."""
    return f"{name} is {value:.3g}: {says}"


def reading_detectors() -> list[ReadingDetector]:
    """A detector for every reading of a guard beside the trainer."""
    return [ReadingDetector(entry) for entry in TABLE if not entry.rule.in_logs_only]
