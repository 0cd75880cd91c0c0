"""What a diagnosis reads beside symptoms: recent values, residuals, and how the reward channel errs. Pure; numpy."""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Mapping, Sequence
from operator import itemgetter
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from rftfm_ray.detection.detectors.exact import ADVANTAGE_LIMIT, CREDIT_LIMIT
from rftfm_ray.detection.monitor import Observation
from rftfm_ray.detection.reference.residuals import COLUMNS
from rftfm_ray.detection.stateful import Kind, Stateful
from rftfm_ray.diagnosis.places import SEPARATING
from rftfm_ray.signals.schema import INDEX

Floats = NDArray[np.float64]

WINDOW = 8
"""Steps whose values are read: the golden set is graded every five steps by default."""
RESIDUAL_STEPS = 3
"""Steps over which residuals are averaged."""
# A residual beyond this many standard deviations says no more about the cause than one at it.
FARTHEST = 6.0

# Share of verdicts beyond which the reward channel disagrees with the trusted verifier, and from which all of them do.
DISAGREES, ALL = 0.005, 0.97
# Reward below which a mean error of golden answers counts as zero.
ZERO_ERROR = 1e-3
# Golden responses are right ones and as many wrong ones, so that a channel that pays every wrong answer errs on half.
HALF = (0.45, 0.55)
# Relative difference up to which the channel errs on as many answers as are wrong.
AS_MANY = 0.25
# Share of wrong advantages that another token has, from which credit is misplaced: noise makes no number that exists.
KNOWN = 0.5
# Training accuracy less held-out accuracy that healthy runs do not reach, above and below.
GAPS = (0.15, -0.3)

# Signals with a limit of their own, which no healthy run exceeds for long.
LIMITS: Mapping[str, float] = {
    "observation_mismatch_rate": 0.0,
    "replay_observation_mismatch_rate": 0.0,
    "replay_termination_mismatch_rate": 0.0,
    "termination_mismatch_rate": 0.0,
    "weights_mismatch": 0.5,
    "advantage_error": ADVANTAGE_LIMIT,
    "credit_lag": 0.0,
    "tool_error_rate": 0.05,
    "known_call_error_rate": 0.0,
    "tool_shadow_error_rate": 0.0,
    "tool_retry_rate": 0.0,
}
_READ = (
    "regrade_count", "regrade_mismatch_rate", "regrade_error_mean", "correct_rate", "golden_mismatch_rate",
    "golden_right_error", "golden_wrong_error", "sampled_gap", "probe_gap", "lr_excess", "changed_rate", "vetoes",
    "loss", "advantage_max", "credit_error", "credit_known_share", "return_error", *LIMITS, *SEPARATING,
)  # fmt: skip
# These say that an update was refused, whoever explains their alarms.
_OF_REFUSALS = ("vetoes", "loss", "advantage_max")
_PICK = itemgetter(*(INDEX[name] for name in _READ))
_COLUMN = {name: column for column, name in enumerate(_READ)}

REGRADE_FINDINGS = (
    "regrade_disagrees", "regrade_agrees", "regrade_pays_more", "regrade_pays_less", "regrade_disagrees_on_all",
    "regrade_disagrees_on_as_many_as_are_wrong", "golden_agrees", "golden_disagrees_on_some",
    "golden_disagrees_on_half", "golden_disagrees_on_most", "golden_right_paid_more", "golden_right_paid_less",
    "golden_wrong_alone_paid_more",
)  # fmt: skip
FINDINGS = (
    *REGRADE_FINDINGS, "accuracy_above_held_out", "accuracy_below_held_out", "rate_not_declared", "nothing_changed",
    "credit_of_other_tokens", "credit_of_no_token", "credit_by_another_rule", *(f"{name}_exceeded" for name in LIMITS),
)  # fmt: skip
"""Names of everything that `Readings.findings` may find."""

# Steps with disagreement before the verifier is called noisy, and the t value of their mean error below which it is as
# often too high as too low. Errors of a faulty channel have one side: their t value grows with the steps. A verifier
# that has been noisy stays so up to a higher one, because the t value of noise passes the lower one now and then.
FEWEST_STEPS, ONE_SIDED, CLEARLY_ONE_SIDED = 3, 2.5, 4.0
# Share of the evidence that the next step with an error leaves: a fault that comes late must not have to outweigh all
# the noise of the run before it. Fewer steps than about 30 would let noise pass the higher limit.
REMEMBERED = 1 - 1 / 30
# First step with a regraded verdict up to which "from the start" holds.
FROM_START = 3


class Readings(Stateful):
    """Follows the values of a run that separate faults with the same symptoms."""

    STATE: ClassVar[Mapping[str, Kind]] = {
        "_values": Kind.ANY_ARRAY, "_residuals": Kind.ANY_ARRAY, "_step": Kind.INT, "_graded": Kind.INT,
        "_first_error": Kind.INT, "_errors": Kind.ARRAY, "_noisy": Kind.INT,
    }  # fmt: skip

    def __init__(self) -> None:
        self._values = np.full((WINDOW, len(_READ)), np.nan)
        self._residuals = np.full((RESIDUAL_STEPS, len(COLUMNS)), np.nan)
        self._step = 0
        # Steps with regraded verdicts; the first of them that had an error, counted from 1, 0 for none.
        self._graded, self._first_error = 0, 0
        # Over steps with errors of the reward channel: their number, and sums of the mean signed error and its square.
        self._errors = np.zeros(3)
        self._noisy = 0

    def observe(self, observation: Observation) -> None:
        """Take the next step of the run."""
        self._values[:-1] = self._values[1:]
        self._values[-1] = _PICK(observation.report.values)
        self._residuals[:-1] = self._residuals[1:]
        residuals = observation.residuals
        self._residuals[-1] = np.nan if residuals is None else residuals
        self._step = observation.report.id.step
        self._count_errors()

    def without(self, signals: Collection[str]) -> Readings:
        """A copy in which some signals were not measured, so that no finding or residual is about them."""
        other = copy.deepcopy(self)
        other._values[:, [name in signals and name not in _OF_REFUSALS for name in _READ]] = np.nan
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
            float(self._values[-1, _COLUMN[name]]) for name in ("vetoes", "loss", "advantage_error", "advantage_max")
        )
        refused = vetoes > 0 and math.isnan(loss)
        return refused and (error > ADVANTAGE_LIMIT or (math.isnan(error) and math.isfinite(largest)))

    def latest(self, name: str, onset: int) -> float:
        """The newest value of a signal since step `onset`, as far as the window goes back; NaN without one."""
        return _latest(self._values[-max(1, min(WINDOW, self._step - onset + 1)) :], name)

    def findings(self, onset: int) -> tuple[str, ...]:
        """What holds since step `onset`, as far as the window goes back."""
        since = self._values[-max(1, min(WINDOW, self._step - onset + 1)) :]
        return (*_regrade_findings(since), *_gap_findings(since), *_limit_findings(since))

    def residuals(self, onset: int) -> Floats:
        """Mean residual (`COLUMNS`) of the newest steps since `onset`, in standard deviations; 0 where unknown."""
        since = np.clip(self._residuals[-max(1, min(RESIDUAL_STEPS, self._step - onset + 1)) :], -FARTHEST, FARTHEST)
        known = np.isfinite(since)
        mean: Floats = np.where(known, since, 0.0).sum(0) / np.maximum(1, known.sum(0))
        return mean


def _column(values: Floats, name: str) -> Floats:
    return values[:, _COLUMN[name]]


def _latest(values: Floats, name: str) -> float:
    """The newest finite value; NaN without one."""
    column = _column(values, name)
    finite = column[np.isfinite(column)]
    return float(finite[-1]) if len(finite) else math.nan


def _regrade_findings(values: Floats) -> Sequence[str]:
    """On which answers, and to which side, the reward channel disagrees with the trusted verifier."""
    counts, shares, errors = (np.nan_to_num(column) for column in values[np.isfinite(values[:, 1]), :3].T)
    count = float(counts.sum())
    if count == 0:
        return ()
    rate, error = float((counts * shares).sum()) / count, float((counts * errors).sum())
    if rate <= DISAGREES:
        return ("regrade_agrees",)
    found = ["regrade_disagrees"]
    if error:
        found.append("regrade_pays_more" if error > 0 else "regrade_pays_less")
    correct = _column(values, "correct_rate")
    correct = correct[np.isfinite(correct)]
    wrong = 1 - float(correct.mean()) if len(correct) else math.nan
    if rate > ALL:
        found.append("regrade_disagrees_on_all")
    if abs(rate - wrong) < AS_MANY * wrong:
        found.append("regrade_disagrees_on_as_many_as_are_wrong")
    return [*found, *_golden_findings(values)]


def _golden_findings(values: Floats) -> Sequence[str]:
    """On which known responses the channel errs, once it is known to disagree."""
    rate = _latest(values, "golden_mismatch_rate")
    right, wrong = _latest(values, "golden_right_error"), _latest(values, "golden_wrong_error")
    if math.isnan(rate):
        return ()
    if rate == 0:
        return ("golden_agrees",)
    low, high = HALF
    share = "some" if rate < low else "half" if rate <= high else "most"
    found = [f"golden_disagrees_on_{share}"]
    if right > ZERO_ERROR:
        found.append("golden_right_paid_more")
    if right < -ZERO_ERROR:
        found.append("golden_right_paid_less")
    if abs(right) <= ZERO_ERROR < wrong:
        found.append("golden_wrong_alone_paid_more")
    return found


def _gap_findings(values: Floats) -> Sequence[str]:
    """Whether training accuracy is far from held-out accuracy; sampled answers are compared where they were probed."""
    gap = _latest(values, "sampled_gap")
    gap = _latest(values, "probe_gap") if math.isnan(gap) else gap
    high, low = GAPS
    if gap > high:
        return ("accuracy_above_held_out",)
    return ("accuracy_below_held_out",) if gap < low else ()


def _limit_findings(values: Floats) -> Sequence[str]:
    """Signals beyond their own limit in one of the last three steps."""
    recent = values[-RESIDUAL_STEPS:]
    found = [f"{name}_exceeded" for name, limit in LIMITS.items() if bool((_column(recent, name) > limit).any())]
    if abs(float(values[-1, _COLUMN["lr_excess"]])) > 1e-6:
        found.append("rate_not_declared")
    if float(values[-1, _COLUMN["changed_rate"]]) < 1e-9:
        found.append("nothing_changed")
    known = _latest(recent, "credit_known_share")
    if not math.isnan(known) and _latest(recent, "credit_error") > CREDIT_LIMIT:
        other_rule = _latest(recent, "return_error") > CREDIT_LIMIT
        of_tokens = "credit_of_other_tokens" if known > KNOWN else "credit_of_no_token"
        found.append("credit_by_another_rule" if other_rule else of_tokens)
    return found
