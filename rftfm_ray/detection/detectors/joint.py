"""The joint (multivariate) CUSUM: it alarms on a shift of a signal or of its conditional residual. Pure; numpy.

The reference is healthy runs of the same kind, the self-baseline with the shipped priors, or both.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from rftfm_ray.detection.detectors.base import Detector, Output, Reading, Scores
from rftfm_ray.detection.reference.joint import JointContrast, JointCusums, JointEvidence
from rftfm_ray.detection.reference.mixture import Basis, Reference
from rftfm_ray.detection.reference.residuals import COLUMNS
from rftfm_ray.detection.reference.views import Floats, StepView
from rftfm_ray.detection.stateful import Kind
from rftfm_ray.detection.statistics.cusum import RECOVERED
from rftfm_ray.detection.statistics.matched_filters import Contrast, ContrastKind
from rftfm_ray.verdicts import Evidence, Symptom

# Steps in a row in which the open evidence must fall for an alarm to end: waiting until it is gone takes far longer.
BACK = 5
# Evidence, in thresholds, up to which a sum counts as zero for the onset: healthy steps reach it now and then.
FAINT = 0.05
# Share of the threshold at which the evidence of one signal is a notice; notices may be wrong more often than alarms.
NOTICE = 0.4
NOTICED: Mapping[str, tuple[int, ...]] = {
    "reward_mean": (1, -1),
    "reward_std": (1, -1),
    "reward_max": (1,),
    "length_mean": (1, -1),
    "entropy": (1, -1),
    "grad_norm": (1, -1),
    "kl_ref": (1,),
    "advantage_max": (1,),
    "repeated_bigram_rate": (1,),
    "empty_rate": (1,),
    "truncated_rate": (1,),
    "tool_unparsable_rate": (1,),
    "zero_variance_group_rate": (1,),
    "valid_rate": (-1,),
}
"""Sides of signals that separate rival causes."""


class JointDetector(Detector):
    """One alarm for all contrasts of a reference, and notices on single signals.

    The symptom of an open alarm names the contrast with the most evidence.

    Args:
        reference: what the run is compared with.
        false_alarm_steps: healthy steps to one false alarm.
    """

    name = "joint"
    needs_views = True
    STATE: ClassVar[Mapping[str, Kind]] = {
        "_cusums": Kind.PART, "_zero": Kind.ARRAY, "_raised": Kind.BOOL, "_falling": Kind.INT, "_before": Kind.ARRAY,
    }  # fmt: skip

    def __init__(self, reference: Reference, false_alarm_steps: float) -> None:
        self._cusums = JointCusums(reference, false_alarm_steps)
        self._basis = reference.models[0].basis if reference.models else Basis.OWN_PAST
        self._moved = reference.moved
        notices = [self._notice(name, side) for name, sides in NOTICED.items() for side in sides]
        self._notices = np.array([index for index in notices if index is not None], np.int64)
        contrasts = self._cusums.contrasts
        beside = [contrasts[index].contrast for index in self._notices.tolist()]
        self.outputs = (
            Output("", 0, Evidence.TELEMETRY),
            *(Output(contrast.signal, contrast.side, Evidence.TELEMETRY, alarm=False) for contrast in beside),
        )
        self._zero, self._before = np.zeros(len(contrasts), np.int64), np.zeros(len(contrasts))
        self._raised, self._falling = False, 0
        self._strongest: dict[int, tuple[int, float]] = {}

    def _notice(self, name: str, side: int) -> int | None:
        basis = Basis.OWN_PAST if name in self._moved else self._basis
        for index, followed in enumerate(self._cusums.contrasts):
            if followed.basis is basis and followed.contrast == Contrast(ContrastKind.SIGNAL, name, side):
                return index
        return None

    def observe(self, view: StepView) -> Scores:
        """The largest evidence of any contrast in thresholds; then that of single signals in thresholds of a notice."""
        scores = Scores.quiet(view, len(self.outputs))
        self._strongest.clear()
        start = 0
        while start < len(view):
            start += self._follow(view.part(slice(start, len(view))), scores, start)
        return scores

    def _follow(self, view: StepView, scores: Scores, start: int) -> int:
        """Take steps up to the one that ends an alarm, or all of them; returns their number."""
        before = self._cusums.state_dict() if len(view) > 1 else None
        evidence = self._cusums.observe(view)
        over, end = evidence.over, self._over_at(evidence)
        taken = len(view) if end is None else end + 1
        if end is not None:
            if before is not None and taken < len(view):
                self._cusums.load_state_dict(before)
                self._cusums.observe(view.part(slice(0, taken)))
            over = over[:taken].copy()
            over[-1] = 0.0
            self._cusums.clear()
            self._raised, self._falling = False, 0
            self._before = np.zeros(len(self._before))
        self._fill(view.part(slice(0, taken)), over[:taken], scores, start)
        return taken

    def _over_at(self, evidence: JointEvidence) -> int | None:
        """The row at which the open evidence has fallen for `BACK` steps; None when it has not."""
        over, raw = evidence.over, evidence.nats
        highest = over.max(1, initial=0.0)
        if not self._raised and not (highest >= 1.0).any():
            self._falling = 0
            self._before = raw[-1]
            return None
        for row in range(len(over)):
            standing = over[row] > RECOVERED
            falls = bool(raw[row, standing].sum() < self._before[standing].sum())
            self._falling = self._falling + 1 if falls and self._raised else 0
            self._before = raw[row]
            if self._raised and self._falling >= BACK:
                return row
            self._raised = bool(highest[row] >= 1.0 or (self._raised and highest[row] > RECOVERED))
        return None

    def _fill(self, view: StepView, over: Floats, scores: Scores, start: int) -> None:
        rows, steps = slice(start, start + len(view)), view.steps[:, None]
        highest = over.max(1, initial=0.0)
        scores.score[rows, 0] = highest
        scores.score[rows, 1:] = over[:, self._notices] / NOTICE
        # The onset is the step after the sum was last faint, and never after the step itself.
        zero = np.maximum.accumulate(np.where(over <= FAINT, steps, self._zero), axis=0)
        onset = np.minimum(zero + 1, steps)
        scores.onset[rows, 1:] = onset[:, self._notices]
        for row in np.flatnonzero(highest >= RECOVERED).tolist():
            strongest = int(over[row].argmax())
            self._strongest[int(view.steps[row])] = strongest, float(self._residuals(view, strongest)[row])
            scores.onset[start + row, 0] = onset[row, strongest]
        self._zero = zero[-1]

    def _residuals(self, view: StepView, index: int) -> Floats:
        followed = self._cusums.contrasts[index]
        table: NDArray[np.float64] = view.residuals if followed.basis is Basis.PROFILE else view.own
        return table[:, COLUMNS.index(followed.contrast.signal)]

    def symptom(self, output: int, reading: Reading) -> Symptom:
        """The symptom; an alarm names the contrast with the most evidence at the step."""
        if output:
            return super().symptom(output, reading)
        index, residual = self._strongest.get(reading.step, (0, math.nan))
        followed = self._cusums.contrasts[index]
        contrast = followed.contrast
        return Symptom(
            self.name, contrast.signal, Evidence.TELEMETRY, True, contrast.side, reading.value, math.nan,
            reading.score, reading.onset, self.earliest(reading.onset), _reason(followed, residual, reading.onset),
        )  # fmt: skip

    def reason(self, output: int, reading: Reading) -> str:
        """Gives the side on which a single signal is off."""
        described = self.outputs[output]
        way = "above" if described.direction > 0 else "below"
        return f"{described.signal} is {reading.value:.3g}, {way} what is usual since step {reading.onset}"

    def signal_at(self, output: int, step: int) -> str:
        """The signal of an output at a step."""
        if output:
            return self.outputs[output].signal
        return self._cusums.contrasts[self._strongest.get(step, (0, 0.0))[0]].contrast.signal

    def earliest(self, onset: int) -> int:
        """The evidence may have begun to grow a step late."""
        return max(1, onset - 1)

    def forget(self, signals: Collection[str], step: int) -> Collection[int]:
        """Restart all evidence, because contrasts of several signals have lost their reference."""
        del step
        return self.settle(signals)

    def settle(self, signals: Collection[str]) -> Collection[int]:
        """Restart all evidence."""
        if not any(name in COLUMNS for name in signals):
            return ()
        self._cusums.clear()
        self._before = np.zeros(len(self._before))
        self._raised, self._falling = False, 0
        return range(len(self.outputs))


def _reason(followed: JointContrast, residual: float, onset: int) -> str:
    way, name = "above" if followed.contrast.side > 0 else "below", followed.contrast.signal
    if followed.contrast.kind is ContrastKind.CONDITIONAL:
        return f"{name} has been {way} what the other signals predict since step {onset}"
    usual = "healthy runs" if followed.basis is Basis.PROFILE else "the run's own past"
    if math.isnan(residual):
        # The signal was not measured at the step: the message gives no number.
        return f"{name} has been {way} {usual} since step {onset}"
    return f"{name} is {abs(residual):.1f} standard deviations {way} {usual}, and has been {way} since step {onset}"
