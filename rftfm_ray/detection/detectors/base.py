"""The interface of a detector: it scores the evidence for a fault in units of its threshold. Pure; numpy.

A detector takes steps in chunks of any size; the size does not change the scores. It must not raise, and scores 0 when
it is unsure. A detector that raises is disabled, and the run continues. The monitor's latch alone decides when a score
opens an alarm and when the alarm ends.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from rftfm_ray.detection.reference.views import Floats, Ints, StepView
from rftfm_ray.detection.stateful import Stateful
from rftfm_ray.types import Levers
from rftfm_ray.verdicts import Evidence, Symptom


@dataclass(frozen=True, slots=True)
class Output:
    """One score of a detector.

    Attributes:
        signal: the signal that it is about.
        direction: +1 where the signal is too high, -1 where it is too low.
        evidence: kind of the evidence.
        alarm: False for a notice, which separates rival causes and opens no incident.
    """

    signal: str
    direction: int
    evidence: Evidence
    alarm: bool = True


@dataclass(frozen=True, slots=True)
class Scores:
    """A detector's result for N steps, by output (K).

    Attributes:
        score: (N, K) evidence in units of its threshold: 1 raises an alarm. Infinite where no threshold is needed, NaN
            where nothing was measured: an open alarm then stays open.
        onset: (N, K) first step of the change, as estimated.
        reference: (N, K) what the value was compared with.
    """

    score: Floats
    onset: Ints
    reference: Floats

    @classmethod
    def quiet(cls, view: StepView, outputs: int) -> Scores:
        """No evidence: scores of 0, onsets at the steps themselves, and unknown references."""
        shape = len(view), outputs
        onset, reference = np.empty(shape, np.int64), np.empty(shape)
        onset[:], reference[:] = view.steps[:, None], math.nan
        return cls(np.zeros(shape), onset, reference)

    def part(self, rows: slice) -> Scores:
        """Those of some of the steps, in the same memory."""
        return Scores(self.score[rows], self.onset[rows], self.reference[rows])


@dataclass(frozen=True, slots=True)
class Reading:
    """One output at one step: its value, what that was compared with, its score, and the onset of the change."""

    step: int
    value: float
    reference: float
    score: float
    onset: int


class Detector(Stateful, ABC):
    """Watches the steps of a run.

    Attributes:
        name: unique among the detectors of a monitor.
        outputs: its scores (K).
        needs_views: whether it judges levels or residuals, and is disabled without them.
        step_by_step: whether the monitor shows it one step at a time, however many it judges at once. A detector that
            fails then keeps the scores that it gave before, and chunks cannot change what it says.
    """

    name: str
    outputs: tuple[Output, ...]
    needs_views: ClassVar[bool] = False
    step_by_step: ClassVar[bool] = False

    @abstractmethod
    def observe(self, view: StepView) -> Scores:
        """Take the next steps, and return their scores (N, K)."""

    def reason(self, output: int, reading: Reading) -> str:
        """One sentence on the evidence."""
        name = self.outputs[output].signal
        return f"{name} is {reading.value:.3g}, where {reading.reference:.3g} is usual"

    def symptom(self, output: int, reading: Reading) -> Symptom:
        """The symptom of an output whose alarm or notice is open."""
        described = self.outputs[output]
        return Symptom(
            self.name, described.signal, described.evidence, described.alarm, described.direction, reading.value,
            reading.reference, reading.score, reading.onset, self.earliest(reading.onset), self.reason(output, reading),
        )  # fmt: skip

    def signal_at(self, output: int, step: int) -> str:
        """The signal of an output at one of the steps that were observed last."""
        del step
        return self.outputs[output].signal

    def earliest(self, onset: int) -> int:
        """The earliest step at which a change with this estimated onset may have begun."""
        return onset

    def forget(self, signals: Collection[str], step: int) -> Collection[int]:
        """Take a declared change: what depends on one of `signals` has no reference from `step` on.

        Returns the outputs that restart; their alarms are closed. None by default: an identity needs no reference.
        """
        del signals, step
        return ()

    def settle(self, signals: Collection[str]) -> Collection[int]:
        """Take a remedy for `signals`: evidence against them restarts, and their reference stays.

        Returns the outputs that restart.
        """
        del signals
        return ()

    def adopt(self, levers: Levers) -> Collection[int]:
        """Take the levers that are in force from the next step on.

        Returns the outputs that restart. None by default: only what goes by declared settings depends on levers.
        """
        del levers
        return ()

    def outputs_of(self, signals: Collection[str]) -> list[int]:
        """Outputs whose signal is one of `signals`."""
        return [index for index, output in enumerate(self.outputs) if output.signal in signals]


def measured(values: Floats) -> NDArray[np.intp]:
    """Rows at which a signal (N) has a finite value."""
    return np.flatnonzero(np.isfinite(values))
