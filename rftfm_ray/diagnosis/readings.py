"""What a diagnosis reads beside symptoms: recent values, residuals, and how the reward channel errs. Pure; numpy."""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Mapping
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from rftfm_ray.detection.observed import Observation
from rftfm_ray.detection.reference.residuals import COLUMNS
from rftfm_ray.detection.stateful import Kind, Stateful
from rftfm_ray.diagnosis.features import SINCE_ONSET, Window, figures_in
from rftfm_ray.diagnosis.findings import COLUMN_OF, READ, findings_in, latest, values_of
from rftfm_ray.diagnosis.raised import COUNTED, NO_PAST, NONE_COUNTED, Past, counts_in
from rftfm_ray.signals.limits import ADVANTAGE_LIMIT

Floats = NDArray[np.float64]

WINDOW = 8
"""Steps whose values are read: the golden set is graded every five steps by default."""
# These say that an update was refused, whoever explains their alarms.
_OF_REFUSALS = ("vetoes", "loss", "advantage_max")

# Steps with disagreement before the verifier is called noisy, and the t value of their mean error below which it is as
# often too high as too low. Errors of a faulty channel have one side: their t value grows with the steps. A verifier
# that has been noisy stays so up to a higher one, because the t value of noise passes the lower one now and then.
FEWEST_STEPS, ONE_SIDED, CLEARLY_ONE_SIDED = 3, 2.5, 4.0
# Share of the evidence that the next step with an error leaves: a fault that comes late must not have to outweigh all
# the noise of the run before it. Fewer steps than about 30 would let noise pass the higher limit.
REMEMBERED = 1 - 1 / 30
# First step with a regraded verdict up to which "from the start" holds.
FROM_START = 3


_HAS_RESIDUAL = np.array([counted.share in COLUMNS for counted in COUNTED])
_OF_COUNTED = [COLUMNS.index(counted.share) if counted.share in COLUMNS else 0 for counted in COUNTED]


class Readings(Stateful):
    """Follows the values of a run that separate faults with the same symptoms."""

    STATE: ClassVar[Mapping[str, Kind]] = {
        "_values": Kind.ANY_ARRAY, "_residuals": Kind.ANY_ARRAY, "_step": Kind.INT, "_graded": Kind.INT,
        "_first_error": Kind.INT, "_errors": Kind.ARRAY, "_before": Kind.ARRAY, "_noisy": Kind.INT,
        "_profiled": Kind.INT,
    }  # fmt: skip

    def __init__(self) -> None:
        self._values = np.full((WINDOW, len(READ)), np.nan)
        self._residuals = np.full((SINCE_ONSET, len(COLUMNS)), np.nan)
        self._step = 0
        # Steps with regraded verdicts; the first of them that had an error, counted from 1, 0 for none.
        self._graded, self._first_error = 0, 0
        # Over steps with errors of the reward channel: their number, and sums of the mean signed error and its square.
        self._errors = np.zeros(3)
        self._noisy = 0
        self._profiled = 0
        # Hits and events of steps that have left the window.
        self._before = NONE_COUNTED.copy()

    def observe(self, observation: Observation) -> None:
        """Take the next step of the run."""
        # What leaves the window while an alarm is open may be the fault's.
        if not any(symptom.alarm for symptom in observation.symptoms):
            self._before += counts_in(self._values[:1], COLUMN_OF)
        self._values[:-1] = self._values[1:]
        self._values[-1] = values_of(observation.report.values)
        self._residuals[:-1] = self._residuals[1:]
        residuals = observation.residuals
        self._residuals[-1] = np.nan if residuals is None else residuals
        self._profiled = int(observation.profiled)
        self._step = observation.report.id.step
        self._count_errors()

    def without(self, signals: Collection[str]) -> Readings:
        """A copy in which some signals were not measured, so that no finding or residual is about them."""
        other = copy.deepcopy(self)
        other._values[:, [name in signals and name not in _OF_REFUSALS for name in READ]] = np.nan
        other._residuals[:, [name in signals for name in COLUMNS]] = np.nan
        return other

    def _count_errors(self) -> None:
        count, rate, error = self._values[-1, :3].tolist()
        if not (count > 0 and math.isfinite(rate) and math.isfinite(error)):
            return
        self._graded += 1
        if rate > 0:
            self._first_error = self._first_error or self._graded
            size = error / rate
            self._errors = REMEMBERED * self._errors + (1.0, size, size * size)
            self._noisy = int(self._errs_both_ways(CLEARLY_ONE_SIDED if self._noisy else ONE_SIDED))

    def _errs_both_ways(self, one_sided: float) -> bool:
        """Whether the t value of the mean error over steps is below a limit, with errors from the start."""
        steps, total, squares = self._errors.tolist()
        # The newest of the steps counts 1, and each earlier one less.
        if steps < FEWEST_STEPS * REMEMBERED**FEWEST_STEPS or not 0 < self._first_error <= FROM_START:
            return False
        mean = total / steps
        variance = max(0.0, squares / steps - mean * mean) * steps / (steps - 1)
        return abs(mean) < one_sided * math.sqrt(variance / steps)

    @property
    def errs_both_ways_from_start(self) -> bool:
        """Whether live rewards have differed from the trusted verifier's from the start, as often up as down.

        A verifier that is not deterministic does that: grading the same answer twice gives exchangeable rewards, whose
        difference has mean 0 and no side. The test is a t test over steps, with hysteresis.
        """
        return bool(self._noisy)

    @property
    def disagreement(self) -> float:
        """Share of regraded verdicts in the window that differ from the trusted verifier's; NaN without any."""
        counts, shares = (np.nan_to_num(column) for column in self._values[:, :2].T)
        return float((counts * shares).sum() / counts.sum()) if counts.sum() > 0 else math.nan

    @property
    def update_was_refused_unseen(self) -> bool:
        """Whether the commit gate refused the newest update by its advantages, before a loss was computed.

        Loss, gradient norm, KL and entropy of such a step are NaN because nothing computed them. Either the advantages
        differ from their recomputation, or no trajectory took part and there was nothing to learn from. An update that
        is refused by its loss has advantages that agree; advantages that are not finite are a finding of their own.
        """
        vetoes, loss, error, largest = (
            float(self._values[-1, COLUMN_OF[name]]) for name in ("vetoes", "loss", "advantage_error", "advantage_max")
        )
        refused = vetoes > 0 and math.isnan(loss)
        return refused and (error > ADVANTAGE_LIMIT or (math.isnan(error) and math.isfinite(largest)))

    def latest(self, name: str, onset: int) -> float:
        """The newest value of a signal since step `onset`, as far as the window goes back; NaN without one."""
        return latest(self._since(onset), name)

    def unmeasured(self, onset: int) -> frozenset[str]:
        """Signals (`READ`) without a value since step `onset`, as far as the window goes back."""
        known = np.isfinite(self._since(onset)).sum(0)
        return frozenset(READ[column] for column in np.flatnonzero(known == 0).tolist())

    def findings(self, onset: int) -> tuple[str, ...]:
        """What holds since step `onset`, as far as the window goes back."""
        since = self._since(onset)
        before = self._before + counts_in(self._values[: WINDOW - len(since)], COLUMN_OF)
        return findings_in(since, Past(before, self._against_profile(onset)))

    def _against_profile(self, onset: int) -> Floats:
        if not self._profiled:
            return NO_PAST.against_profile
        each = self._residuals[-max(1, min(SINCE_ONSET, self._step - onset + 1)) :, _OF_COUNTED]
        known = np.isfinite(each)
        z: Floats = np.where(known, each, 0.0).sum(0) / np.sqrt(np.maximum(1, known.sum(0)))
        return np.where(known.any(0) & _HAS_RESIDUAL, z, np.nan)

    def window(self, onset: int) -> Window:
        """What features are made of: what is known since step `onset`, as far as it goes back."""
        # A copy: the next step moves the rows.
        residuals = self._residuals[-max(1, min(SINCE_ONSET, self._step - onset + 1)) :].copy()
        return Window(residuals, figures_in(self._since(onset)), bool(self._profiled))

    def _since(self, onset: int) -> Floats:
        return self._values[-max(1, min(WINDOW, self._step - onset + 1)) :]
