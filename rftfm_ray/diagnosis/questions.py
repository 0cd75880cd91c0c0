"""What to ask where two explanations are close: the cheapest check that tells them apart. Written, not learnt. Pure.

Checks are made at a cadence. A question makes one at once, so that a fault need not wait for its name until the next
time: the answer is a column of the next steps, and speaks like any other.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from rftfm_ray.diagnosis.classify import SURE
from rftfm_ray.taxonomy import UNKNOWN
from rftfm_ray.types import Check
from rftfm_ray.verdicts import Diagnosis

SEEN_BY: Mapping[Check, frozenset[str]] = {
    # By what factor an update has moved sampled weights, past the optimizer that made it.
    Check.UPDATE_REPLAY: frozenset({"OD-1", "OD-2"}),
    # Calls whose answers are known, to the tool instance that is asked first.
    Check.KNOWN_CALLS: frozenset({"TE-1"}),
    # Responses whose rewards are known, through the live channel: to which side it errs, and on which.
    Check.GOLDEN: frozenset({"RF-1", "RF-2", "RF-3"}),
}
"""Faults that a check sees, and so tells from all others; the cheapest check first."""
ANSWERED_IN: Mapping[Check, str] = {
    Check.UPDATE_REPLAY: "update_gain",
    Check.KNOWN_CALLS: "known_call_error_rate",
    Check.GOLDEN: "golden_mismatch_rate",
}
"""The signal that a check is answered in."""
CLOSE = 0.1
"""Probability from which an explanation is worth a question."""


@dataclass(frozen=True, slots=True)
class Question:
    """A check, and the two explanations that it is to tell apart."""

    check: Check
    between: tuple[str, str]


def question_of(diagnosis: Diagnosis, asked: Collection[Check] = ()) -> Question | None:
    """The cheapest check that tells the two likeliest explanations apart; None where there is none, or no need.

    Args:
        diagnosis: the newest one of an incident.
        asked: checks that have been made for it already.
    """
    shares = [(diagnosis.code, diagnosis.probability), *((r.code, r.probability) for r in diagnosis.rivals)]
    likely = [code for code, share in sorted(shares, key=lambda pair: -pair[1]) if share >= CLOSE]
    if len(likely) < 2 or (likely[0] != UNKNOWN and max(share for _, share in shares) >= SURE):
        return None
    first, second = likely[:2]
    answered = {symptom.signal for symptom in diagnosis.symptoms}
    for check, seen in SEEN_BY.items():
        if check not in asked and ANSWERED_IN[check] not in answered and seen & {first, second}:
            return Question(check, (first, second))
    return None
