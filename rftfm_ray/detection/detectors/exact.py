"""Detectors without a threshold: values are finite, and the learning rate is the declared one. Pure; numpy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from rftfm_ray.detection.detectors.base import Detector, Output, Reading, Scores
from rftfm_ray.detection.reference.views import Ints, StepView
from rftfm_ray.detection.stateful import Kind
from rftfm_ray.signals.arithmetic import safe_exp
from rftfm_ray.signals.limits import ADVANTAGE_LIMIT
from rftfm_ray.signals.schema import INDEX
from rftfm_ray.verdicts import Evidence

# The replay starts from the clipped gradient and the master weights in float32, so clipping, weight decay, minibatches
# and a model in bfloat16 are no part of the error. What is left is the optimizer's own arithmetic in single precision,
# and the rounding of moves of a few dozen units in the last place, averaged over the sample: below 0.002.
GAIN_LIMIT = 0.01
# A limit of tokens is a whole number: one token of a million is less.
TOKEN_LIMIT = 1e-6
RATE_LIMIT = 1e-6


def onsets(broken: NDArray[np.bool_], steps: Ints, since: int) -> tuple[Ints, int]:
    """First steps (N) of the open breaks, and the first step of the break that is open at the end; 0 for none.

    Args:
        broken: (N) whether each step is broken.
        steps: (N) their numbers.
        since: first step of the break that was open before; 0 for none.
    """
    first = steps.copy()
    for row in np.flatnonzero(broken).tolist():
        before = since if row == 0 else (int(first[row - 1]) if broken[row - 1] else 0)
        first[row] = before or steps[row]
    if not len(steps):
        return first, since
    return first, int(first[-1]) if broken[-1] else 0


class FiniteDetector(Detector):
    """An identity: the values of an update are finite. NaN is a finding, never a gap.

    The commit gate rejects an update whose advantages differ from their recomputation, and such a step has no loss. The
    identity of the advantages reports that, not this detector.
    """

    name = "finite"
    OF_UPDATES = ("loss", "grad_norm", "kl_ref", "entropy")
    WATCHED = (*OF_UPDATES, "reward_mean")
    outputs = tuple(Output(name, 1, Evidence.IDENTITY) for name in WATCHED)
    _COLUMNS = np.array([INDEX[name] for name in WATCHED])

    def observe(self, view: StepView) -> Scores:
        """Infinite where a value is not finite though a trajectory was valid."""
        scores = Scores.quiet(view, len(self.outputs))
        wrong = ~np.isfinite(view.values[:, self._COLUMNS]) & (view.value("valid_rate") > 0)[:, None]
        if wrong.any():
            error = np.abs(view.value("advantage_error"))
            refused = (view.value("vetoes") > 0) & (error > ADVANTAGE_LIMIT) & np.isfinite(error)
            wrong[:, : len(self.OF_UPDATES)] &= ~refused[:, None]
            scores.score[wrong] = math.inf
        scores.reference[:] = 0.0
        return scores

    def reason(self, output: int, reading: Reading) -> str:
        """Names the value and the step."""
        return f"{self.outputs[output].signal} is {reading.value} at step {reading.step}"


class DeclaredRateDetector(Detector):
    """An identity: the applied learning rate is the one that configuration, schedule and levers give."""

    name = "declared_rate"
    TOLERANCE = RATE_LIMIT
    STATE: ClassVar[Mapping[str, Kind]] = {"_since": Kind.INT}
    outputs = (Output("lr_excess", 1, Evidence.IDENTITY), Output("lr_excess", -1, Evidence.IDENTITY))

    def __init__(self) -> None:
        self._since = 0

    def observe(self, view: StepView) -> Scores:
        """Infinite while the rate differs from the declared one by more than rounding."""
        excess = view.value("lr_excess")
        broken = np.abs(excess) > self.TOLERANCE
        scores = Scores.quiet(view, 2)
        first, self._since = onsets(broken, view.steps, self._since)
        if broken.any():
            for column, output in enumerate(self.outputs):
                scores.score[broken & (output.direction * excess > 0), column] = math.inf
            scores.onset[:] = first[:, None]
        scores.reference[:] = 0.0
        return scores

    def reason(self, output: int, reading: Reading) -> str:
        """Gives the ratio to the declared rate."""
        del output
        return f"the learning rate is {safe_exp(reading.value):.3g} times the one that is called for"
