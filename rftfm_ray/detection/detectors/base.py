"""What a detector is: it watches one thing and scores what speaks for a fault in units of its threshold. Pure; numpy.

A detector takes steps in chunks of any size; their size changes no score. It must not raise, and scores 0 when it is
unsure; one that raises is disabled and the run goes on. Whether a score makes an alarm, and when that is over, is
decided by the monitor's latch and by nobody else.
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
from rftfm_ray.verdicts import Evidence, Symptom


@dataclass(frozen=True, slots=True)
class Output:
    """One of the things that a detector scores.

    Attributes:
        signal: that it speaks of.
        direction: +1 where the signal is too high, -1 where it is too low.
        evidence: kind of the evidence.
        alarm: False for a notice, which tells look-alikes apart and opens nothing.
    """

    signal: str
    direction: int
    evidence: Evidence
    alarm: bool = True


@dataclass(frozen=True, slots=True)
class Scores:
    """What a detector makes of N steps, by output (K).

    Attributes:
        score: (N, K) evidence in units of its threshold: at 1 an alarm is raised. Infinite for what needs no threshold,
            NaN where nothing was measured: what stood then stands.
        onset: (N, K) first step of the change, as estimated.
        reference: (N, K) what the value was compared with.
    """

    score: Floats
    onset: Ints
    reference: Floats

    @classmethod
    def quiet(cls, view: StepView, outputs: int) -> Scores:
        """No evidence: scores of 0, onsets at the steps themselves, references that are not known."""
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
        outputs: what it scores (K).
        needs_views: whether it judges levels or residuals: without them it has nothing to say.
        step_by_step: whether the monitor shows it one step at a time, however many it judges at once. A detector that
            fails then keeps the scores that it gave before, and chunks cannot change what it says.
    """

    name: str
    outputs: tuple[Output, ...]
    needs_views: ClassVar[bool] = False
    step_by_step: ClassVar[bool] = False

    @abstractmethod
    def observe(self, view: StepView) -> Scores:
        """Take the next steps; their scores (N, K)."""

    def reason(self, output: int, reading: Reading) -> str:
        """One sentence on what is seen."""
        name = self.outputs[output].signal
        return f"{name} is {reading.value:.3g}, where {reading.reference:.3g} is usual"

    def symptom(self, output: int, reading: Reading) -> Symptom:
        """The symptom of an output whose alarm or notice stands."""
        one = self.outputs[output]
        return Symptom(
            self.name, one.signal, one.evidence, one.alarm, one.direction, reading.value, reading.reference,
            reading.score, reading.onset, self.earliest(reading.onset), self.reason(output, reading),
        )  # fmt: skip

    def signal_at(self, output: int, step: int) -> str:
        """The signal that an output speaks of at one of the steps that were observed last."""
        del step
        return self.outputs[output].signal

    def earliest(self, onset: int) -> int:
        """The earliest step that a change may have begun with whose onset is estimated so."""
        return onset

    def forget(self, signals: Collection[str], step: int) -> Collection[int]:
        """A change was declared: what depends on one of `signals` has no reference from `step` on.

        Returns the outputs that begin anew: their alarms are over. None by default: an identity needs no reference.
        """
        del signals, step
        return ()

    def settle(self, signals: Collection[str]) -> Collection[int]:
        """Something has been done about `signals`: evidence against them begins anew, their reference stays.

        Returns the outputs that begin anew.
        """
        del signals
        return ()

    def speaking_of(self, signals: Collection[str]) -> list[int]:
        """Outputs that speak of one of `signals`."""
        return [place for place, output in enumerate(self.outputs) if output.signal in signals]


def measured(values: Floats) -> NDArray[np.intp]:
    """Rows at which a signal (N) has a finite value."""
    return np.flatnonzero(np.isfinite(values))
