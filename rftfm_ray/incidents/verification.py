"""Did the remedy work, and may its levers go back? Pure functions of reports."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rftfm_ray.detection.detectors.probe import probe_drop
from rftfm_ray.diagnosis.fingerprints import FINGERPRINTS
from rftfm_ray.incidents.severity import severity
from rftfm_ray.incidents.state import Incident
from rftfm_ray.signals.schema import value
from rftfm_ray.verdicts import Diagnosis, Outcome, OutcomeKind, StepReport

REFERENCE_STEPS = 10
# Severity must fall by this much, in nats, unless nothing is left of it.
MUST_FALL = 1.0
# Standard errors by which held-out accuracy must have fallen for a remedy to be called harmful.
HARMFUL_DROP = 3.0
# The same for confirming what the telemetry says already, and the probability that needs no confirming.
CONFIRMING_DROP = 2.0
CERTAIN = 0.8
# A source is active while this is exceeded; a lever must not hide it.
SOURCE_RATE = 0.05
SOURCE_RATIO = 1.5
HONEST_SHARE = 0.005


CONTAINING: Mapping[str, tuple[str, ...]] = {
    "RF-1": ("regrade_rate",),
    "OD-1": ("lr_scale",),
    "TE-1": ("tool_instance", "tool_retries", "refill_rounds"),
}
"""Levers that keep a fault's harm away while its source is there. Any other lever that was moved for it only helped
recovery, and goes back as soon as the remedy is verified."""


@dataclass(frozen=True, slots=True)
class Case:
    """The reports that speak about one remedy: from before the fault, from under it, and from under the remedy."""

    reference: tuple[StepReport, ...]
    under_fault: tuple[StepReport, ...]
    after: tuple[StepReport, ...]


def last_probe(reports: Sequence[StepReport]) -> float:
    """The newest held-out accuracy; NaN when there is none."""
    known = [v for r in reports if not math.isnan(v := value(r, "probe_accuracy"))]
    return known[-1] if known else math.nan


def judge(incident: Incident, case: Case, *, alarm_stands: bool, probe_size: int, window: int) -> Outcome | None:
    """The outcome of an incident's last remedy, or None while that cannot be said yet.

    Severity over the signals of the fault's harm must have fallen and no alarm of it may stand, and the held-out
    probe, which no reward channel reaches, must not have fallen since the remedy. A fall is said at once.
    """
    known = FINGERPRINTS.get(incident.code)
    harm, ways = (known.harm, known.weights) if known else ((), {})
    before = severity(case.under_fault, case.reference, harm, ways)
    after = severity(case.after[-window:], case.reference, harm, ways)
    probe_before, probe_after = last_probe((*case.reference, *case.under_fault)), last_probe(case.after)
    first = [v for r in case.after if not math.isnan(v := value(r, "probe_accuracy"))][:1]
    # The first probe under a remedy still shows what the fault has done; only what is lost after it is the remedy's.
    fell = bool(first) and probe_drop(first[0], probe_after, probe_size) > HARMFUL_DROP

    def outcome(kind: OutcomeKind, reason: str) -> Outcome:
        return Outcome(kind, before, after, probe_before, probe_after, reason)

    if fell:
        return outcome(OutcomeKind.WORSE, f"held-out accuracy fell from {first[0]:.3f} to {probe_after:.3f} under it")
    if len(case.after) < window:
        return None
    if alarm_stands:
        return outcome(OutcomeKind.INEFFECTIVE, f"after {window} steps the alarm still stands")
    # A fault from the first step on, or one that nobody has described, has nothing to be measured against: then the
    # alarm's silence must do.
    measured = not (math.isnan(before) or math.isnan(after))
    if math.isnan(after) and not math.isnan(before):
        return outcome(OutcomeKind.INEFFECTIVE, "what it harmed cannot be measured any more")
    if measured and after > max(0.0, before - MUST_FALL):
        return outcome(OutcomeKind.INEFFECTIVE, f"severity went from {before:.1f} to {after:.1f} nats, not far enough")
    fell_to = f"severity fell from {before:.1f} to {after:.1f} nats" if measured else "the alarm is silent"
    if source_active(incident.code, case.after[-window:], case.reference):
        return outcome(OutcomeKind.CONTAINED, f"{fell_to}; the source persists, so the levers stay")
    return outcome(OutcomeKind.CURED, f"{fell_to} and the source is silent")


def confirmed(diagnosis: Diagnosis | None, before: float, now: float, size: int) -> tuple[bool, str]:
    """Whether something costly may be done: held-out accuracy has fallen, or the evidence needs no second opinion.

    Args:
        diagnosis: what it is done about.
        before: held-out accuracy before the fault.
        now: held-out accuracy of a probe made for this question.
        size: problems of a probe.
    """
    if probe_drop(before, now, size) > CONFIRMING_DROP:
        return True, f"held-out accuracy fell from {before:.3f} to {now:.3f}"
    if diagnosis is not None and diagnosis.probability >= CERTAIN:
        return True, f"the evidence is clear ({diagnosis.probability:.0%}), though held-out accuracy is {now:.3f} still"
    return False, f"held-out accuracy is {now:.3f}, was {before:.3f}, and the evidence alone is not enough"


def source_active(code: str, reports: Sequence[StepReport], reference: Sequence[StepReport]) -> bool:
    """Whether what caused a fault is still there, looked at past the levers that keep its harm away.

    RF: the live reward channel against the trusted verifier. OD-1: the schedule's factor, and how far updates go for
    the rate that they are given. TE-1: the idle tool instance asked about known calls, and calls that needed retries.
    """
    if code in ("RF-1", "RF-2"):
        graded = [(value(r, "regrade_mismatch_rate"), value(r, "regrade_count")) for r in reports]
        counted = [(rate * count, count) for rate, count in graded if rate * count >= 0]
        wrong, asked = math.fsum(w for w, _ in counted), math.fsum(count for _, count in counted)
        # An honest channel may disagree now and then.
        return wrong > 1 and wrong > HONEST_SHARE * asked
    if code == "TE-1":
        names = ("tool_shadow_error_rate", "tool_retry_rate", "tool_error_rate")
        return any(value(r, name) > SOURCE_RATE for r in reports for name in names)
    if code == "OD-1":
        usual = [_gain(r) for r in reference if math.isfinite(_gain(r))]
        excess = any(abs(value(r, "schedule_excess")) > 0.01 for r in reports)
        return excess or (bool(usual) and any(_gain(r) > SOURCE_RATIO * max(usual) for r in reports))
    return False


def _gain(report: StepReport) -> float:
    """How far updates go for the rate that they are given."""
    rate = value(report, "lr")
    return value(report, "update_ratio") / rate if rate > 0 else math.nan
