"""The grounds on which a costly remedy may be given: a rollback, a frozen policy, or the end of the run. Pure.

Telemetry alone is no ground: a signal may leave its usual band in a healthy run, above all under another configuration
than that of its reference. While held-out accuracy stands or rises, nothing is but a broken identity that the diagnosed
fault explains, and that shows damage: another one is broken by something else, which the remedy of this fault does not
mend. The rule holds for the shipped playbook and for a policy of the user's alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from rftfm_ray.signals.arithmetic import safe_exp
from rftfm_ray.signals.held_out import LEAST_LOSS, probe_drop
from rftfm_ray.signals.limits import IMPOSSIBLE_KL, IMPOSSIBLE_STEP_KL
from rftfm_ray.signals.schema import value
from rftfm_ray.verdicts import Diagnosis, Evidence, StepReport, Symptom

# Standard errors by which held-out accuracy must have fallen to be a ground.
CONFIRMING_DROP = 2.0
# Fewest steps from before a fault that show how far updates of their gradient go.
FEWEST = 5
# An update is comparable where its gradient was at least this share of the judged one. AdamW's updates shrink without
# gradient, by their momentum, and a small one shows nothing of what a larger gradient leads to.
COMPARABLE = 0.1
# Signals of an independent channel that show no harm by themselves: what the probe says now counts, not its alarm of
# earlier, and a verdict that fails is not trained on.
NO_HARM = ("probe_accuracy", "verifier_error_rate")
# Identities that measure a cause and not what it has done: an optimizer that goes too far has hurt the policy where its
# held-out accuracy has fallen, and is held back by a lower rate where it stands.
NO_DAMAGE = ("update_gain",)
FINITE = "finite"
"""Name of the detector of values that are not finite."""


class GroundKind(StrEnum):
    """What allows a costly remedy.

    A broken identity; harm that an independent channel shows; a broken law; or a reading that no healthy run has,
    whatever its configuration.
    """

    IDENTITY = "identity"
    LAW = "law"
    CHANNEL = "channel"
    READING = "reading"


@dataclass(frozen=True, slots=True)
class Ground:
    """One ground, with the reason in words."""

    kind: GroundKind
    reason: str


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Held-out accuracy before the fault and now, on `size` problems; NaN where it is not known."""

    before: float
    now: float
    size: int

    @property
    def fell(self) -> bool:
        """Whether it fell by more than chance explains, and by enough to be called harm."""
        by_chance = probe_drop(self.before, self.now, self.size) <= CONFIRMING_DROP
        return self.before - self.now > LEAST_LOSS and not by_chance

    @property
    def stands(self) -> bool:
        """Whether it is known to stand or to rise."""
        return math.isfinite(self.before) and math.isfinite(self.now) and not self.fell


@dataclass(frozen=True, slots=True)
class ImpossibleValue:
    """A value that cannot be healthy, whatever the configuration.

    Attributes:
        bound: largest value that may be healthy.
        unit: of the value, after its number.
        why: why no healthy run comes near the bound.
        measure: the value at a step, from its report and those from before the fault; NaN where it is not known.
    """

    bound: float
    unit: str
    why: str
    measure: Callable[[StepReport, Sequence[StepReport]], float]


def _kl_ref(report: StepReport, earlier: Sequence[StepReport]) -> float:
    del earlier
    return value(report, "kl_ref")


def _step_kl(report: StepReport, earlier: Sequence[StepReport]) -> float:
    del earlier
    return value(report, "step_kl")


def _update_excess(report: StepReport, earlier: Sequence[StepReport]) -> float:
    """How many times as far an update went as the largest comparable one from before the fault, for its rate.

    The largest, not the mean: in a run that has converged gradient signal is rare, and most updates are small.
    """
    gains = [gain for r in earlier if is_comparable(r, report) and (gain := _gain(r)) > 0 and math.isfinite(gain)]
    return _gain(report) / max(gains) if len(gains) >= FEWEST else math.nan


def is_comparable(earlier: StepReport, report: StepReport) -> bool:
    """Whether an earlier update had enough gradient to show the usual size of the one of `report`."""
    gradient = value(earlier, "grad_norm")
    return gradient > 0 and gradient >= COMPARABLE * value(report, "grad_norm")


def _gain(report: StepReport) -> float:
    """Size of an update over the declared learning rate: what lies between them is not the configuration's."""
    declared = value(report, "lr") * safe_exp(-value(report, "lr_excess"))
    return value(report, "update_ratio") / declared if declared > 0 else math.nan


IMPOSSIBLE: Mapping[str, ImpossibleValue] = {
    "kl_ref": ImpossibleValue(
        IMPOSSIBLE_KL, "nats a token between policy and reference",
        "a token of a vocabulary of 150,000 that is as likely as any other is 12 nats away", _kl_ref,
    ),
    "step_kl": ImpossibleValue(
        IMPOSSIBLE_STEP_KL, "nats a token in a single step",
        "the clip of the objective keeps a step within a fraction of a nat", _step_kl,
    ),
    # The largest of 36,239 recorded steps without a fault is 4.2. The first updates of a run are its largest, so an
    # update of 30 times the usual size may be no more than 9 times as large as they.
    "update_ratio": ImpossibleValue(
        6.0, "times the size that the learning rate explains",
        "an update of AdamW moves no weight by much more than the learning rate", _update_excess,
    ),
}  # fmt: skip
"""Values that cannot be healthy whatever the configuration. Values that are not finite are an identity already."""


def ground_for(
    diagnosis: Diagnosis | None, reports: Sequence[StepReport], held_out: HeldOut, explained: Collection[str]
) -> Ground | None:
    """The strongest ground for a costly remedy; None where only telemetry speaks for one.

    A broken identity is a ground where the diagnosed fault explains it; the only one while held-out accuracy stands. A
    broken law goes by what a trainer logs and declares of itself, so that it yields to held-out accuracy that stands.

    Args:
        diagnosis: that the remedy is for; None where it is not known.
        reports: of the lineage, newest last.
        held_out: accuracy before the fault and now. That an alarm of the probe was raised earlier is no ground: the
            accuracy of now is.
        explained: signals of the diagnosis that its fault moves as they have moved.
    """
    alarms = [symptom for symptom in diagnosis.symptoms if symptom.alarm] if diagnosis is not None else []
    broken = [symptom for symptom in alarms if symptom.evidence is Evidence.IDENTITY and symptom.signal in explained]
    if held_out.stands:
        broken = [s for s in broken if s.signal not in NO_DAMAGE and not _was_refused(s, reports)]
    if broken:
        return Ground(GroundKind.IDENTITY, broken[0].reason)
    if held_out.stands:
        return None
    if held_out.fell:
        return Ground(GroundKind.CHANNEL, f"held-out accuracy fell from {held_out.before:.3f} to {held_out.now:.3f}")
    for symptom in alarms:
        if symptom.evidence is Evidence.LAW and symptom.signal in explained:
            return Ground(GroundKind.LAW, symptom.reason)
        if symptom.evidence is Evidence.CHANNEL and symptom.signal not in NO_HARM:
            return Ground(GroundKind.CHANNEL, symptom.reason)
    return None if diagnosis is None else _reading(reports, diagnosis)


def _was_refused(symptom: Symptom, reports: Sequence[StepReport]) -> bool:
    """Whether every update with values that are not finite was refused: no weight has learnt from it."""
    since = [report for report in reports if report.id.step >= symptom.onset]
    broken = [report for report in since if not math.isfinite(value(report, symptom.signal))]
    return symptom.detector == FINITE and bool(broken) and all(value(report, "vetoes") > 0 for report in broken)


def _reading(reports: Sequence[StepReport], diagnosis: Diagnosis) -> Ground | None:
    earlier = [report for report in reports if report.id.step < diagnosis.onset_low]
    since = [report for report in reports if report.id.step >= diagnosis.onset_low]
    for name, rule in IMPOSSIBLE.items():
        largest = max((v for r in since if not math.isnan(v := rule.measure(r, earlier))), default=math.nan)
        if largest > rule.bound:
            return Ground(GroundKind.READING, f"{name} shows {largest:.3g} {rule.unit}, and {rule.why}")
    return None
