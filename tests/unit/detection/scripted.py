"""A detector whose scores are written down, and what tests of the monitor ask of a monitor."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import ClassVar

from rftfm_ray.detection.detectors.base import Detector, Output, Scores
from rftfm_ray.detection.monitor import Monitor
from rftfm_ray.detection.observed import Observation
from rftfm_ray.detection.reference.mixture import Mode
from rftfm_ray.detection.reference.views import StepView
from rftfm_ray.detection.stateful import Kind
from rftfm_ray.verdicts import Evidence, StepReport
from tests.detecting import SETTINGS, make_report, reference

TWO = (Output("entropy", 1, Evidence.TELEMETRY), Output("probe_accuracy", -1, Evidence.CHANNEL))


class Scripted(Detector):
    """Scores that are written down by step; all others are 0. Counts its steps, and remembers what it was asked."""

    STATE: ClassVar[Mapping[str, Kind]] = {"count": Kind.INT}

    def __init__(
        self, name: str, scores: Mapping[int, Sequence[float]] | None = None, outputs: tuple[Output, ...] = TWO
    ) -> None:
        self.name, self.outputs = name, outputs
        self.scores = scores or {}
        self.count = 0
        self.asked = list[tuple[str, tuple[str, ...], int]]()
        self.closes: Collection[int] = ()

    def observe(self, view: StepView) -> Scores:
        """As it is written down."""
        scores = Scores.quiet(view, len(self.outputs))
        for row, step in enumerate(view.steps.tolist()):
            self.count += 1
            scores.score[row] = self.scores.get(step, 0.0)
        return scores

    def forget(self, signals: Collection[str], step: int) -> Collection[int]:
        """Remember what was asked."""
        self.asked.append(("forget", tuple(signals), step))
        return self.closes

    def settle(self, signals: Collection[str]) -> Collection[int]:
        """Remember what was asked."""
        self.asked.append(("settle", tuple(signals), 0))
        return self.closes


def monitor_of(*detectors: Detector, mode: Mode = Mode.NONE) -> Monitor:
    """The shipped detectors, and some beside them."""
    return Monitor(SETTINGS, reference(mode), detectors)


def usual(count: int, first: int = 1) -> list[StepReport]:
    """Steps on which no shipped detector has anything to say."""
    return [make_report(step) for step in range(first, first + count)]


def said(observed: Sequence[Observation]) -> str:
    """All that was said, by step; NaN equals NaN in it."""
    return "\n".join(f"{seen.report.id.step} {seen.symptoms} {seen.scores} {seen.disabled}" for seen in observed)


def opened(observed: Sequence[Observation], name: str) -> dict[int, list[str]]:
    """Signals that a detector speaks of, by step."""
    found = {
        seen.report.id.step: [one.signal for one in seen.symptoms if one.detector == name] for seen in observed
    }  # fmt: skip
    return {step: signals for step, signals in found.items() if signals}


def alarms(observed: Sequence[Observation]) -> int:
    """Steps at which an alarm is open."""
    return sum(any(one.alarm for one in seen.symptoms) for seen in observed)
