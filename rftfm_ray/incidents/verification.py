"""Verifies remedies and confirms costly ones. Pure functions of reports."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rftfm_ray.detection.detectors.probe import probe_drop
from rftfm_ray.diagnosis.fingerprints import FINGERPRINTS
from rftfm_ray.incidents.severity import severity
from rftfm_ray.incidents.state import Incident
from rftfm_ray.policies.playbook import plan_of
from rftfm_ray.signals.schema import value
from rftfm_ray.verdicts import Diagnosis, Outcome, OutcomeKind, StepReport, as_percent

# Nats that severity must fall by, unless it falls to 0.
MUST_FALL = 1.0
# Standard errors by which held-out accuracy must have fallen for a remedy to be called harmful.
HARMFUL_DROP = 3.0
# Standard errors that confirm a diagnosis from telemetry, and the probability that needs no confirmation.
CONFIRMING_DROP = 2.0
CERTAIN = 0.8


@dataclass(frozen=True, slots=True)
class Case:
    """The reports that one remedy is judged by: from before the fault, under the fault, and under the remedy."""

    reference: tuple[StepReport, ...]
    under_fault: tuple[StepReport, ...]
    after: tuple[StepReport, ...]


def last_probe(reports: Sequence[StepReport]) -> float:
    """The newest held-out accuracy; NaN when there is none."""
    measured = [v for r in reports if not math.isnan(v := value(r, "probe_accuracy"))]
    return measured[-1] if measured else math.nan


def judge(incident: Incident, case: Case, *, alarm_active: bool, probe_size: int, window: int) -> Outcome | None:
    """The outcome of an incident's last remedy, or None while it is too early to say.

    Severity over the signals of the fault's harm must have fallen, no alarm of it may be active, and the held-out
    probe, which no reward channel reaches, must not have fallen since the remedy. A fall is reported at once.

    Args:
        incident: the one whose remedy is verified.
        case: the reports that it is judged by.
        alarm_active: whether an alarm of the fault is active.
        probe_size: problems of a held-out probe.
        window: number of steps under the remedy that are needed.
    """
    fingerprint = FINGERPRINTS.get(incident.code)
    harm, directions = (fingerprint.harm, fingerprint.weights) if fingerprint else ((), {})
    before = severity(case.under_fault, case.reference, harm, directions)
    after = severity(case.after[-window:], case.reference, harm, directions)
    probe_before, probe_after = last_probe((*case.reference, *case.under_fault)), last_probe(case.after)
    # The first probe under a remedy still shows the fault's effect; only a later loss is due to the remedy.
    first = [v for r in case.after if not math.isnan(v := value(r, "probe_accuracy"))][:1]

    def outcome(kind: OutcomeKind, reason: str) -> Outcome:
        return Outcome(kind, before, after, probe_before, probe_after, reason)

    if first and probe_drop(first[0], probe_after, probe_size) > HARMFUL_DROP:
        reason = f"held-out accuracy fell from {first[0]:.3f} to {probe_after:.3f} under the remedy"
        return outcome(OutcomeKind.HARMFUL, reason)
    if len(case.after) < window:
        return None
    if alarm_active:
        return outcome(OutcomeKind.INEFFECTIVE, f"the alarm is still active after {window} steps")
    # A fault from the first step on, or one without a fingerprint, has no reference: the cleared alarm then suffices.
    measured = not (math.isnan(before) or math.isnan(after))
    if math.isnan(after) and not math.isnan(before):
        return outcome(OutcomeKind.INEFFECTIVE, "the signals that the fault harmed can no longer be measured")
    if measured and after > max(0.0, before - MUST_FALL):
        reason = f"severity went from {_nats(before)} to {_nats(after)} nats, which is not enough"
        return outcome(OutcomeKind.INEFFECTIVE, reason)
    fell = f"severity fell from {_nats(before)} to {_nats(after)} nats" if measured else "the alarm has cleared"
    if source_active(incident.code, case.after[-window:], case.reference):
        return outcome(OutcomeKind.MITIGATED, f"{fell}; its cause is still active, so the levers stay")
    return outcome(OutcomeKind.RESOLVED, f"{fell} and its cause is no longer active")


def _nats(severity: float) -> str:
    """A severity with one decimal, never -0.0."""
    return f"{severity:z.1f}"


def confirmed(diagnosis: Diagnosis | None, before: float, now: float, size: int) -> tuple[bool, str]:
    """Whether a costly remedy may be applied: held-out accuracy has fallen, or the evidence needs no confirmation.

    Args:
        diagnosis: that the remedy is for.
        before: held-out accuracy before the fault.
        now: held-out accuracy of a probe made for this check.
        size: problems of a probe.
    """
    if probe_drop(before, now, size) > CONFIRMING_DROP:
        return True, f"held-out accuracy fell from {before:.3f} to {now:.3f}"
    if diagnosis is not None and diagnosis.probability >= CERTAIN:
        return (
            True,
            f"the evidence is clear ({as_percent(diagnosis.probability)}), though held-out accuracy is still {now:.3f}",
        )
    return False, f"held-out accuracy is {now:.3f}, was {before:.3f}, and the evidence alone is not enough"


def source_active(code: str, reports: Sequence[StepReport], reference: Sequence[StepReport]) -> bool:
    """Whether the cause of a fault is still active, even where levers contain its harm.

    Args:
        code: of the fault.
        reports: of the window.
        reference: from before the fault.
    """
    return plan_of(code).source_active(reports, reference)
