"""What needs no threshold: values are finite, and the rate in force is the one called for. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rftfm_ray.detection.detectors.base import Detector
from rftfm_ray.signals.scale import safe_exp
from rftfm_ray.signals.schema import value
from rftfm_ray.verdicts import Evidence, StepReport, Symptom


class FiniteDetector(Detector):
    """An identity: what an update is made of is finite. NaN is a finding, never a gap."""

    name = "finite"
    WATCHED = ("loss", "grad_norm", "kl_ref", "entropy")

    def observe(self, report: StepReport) -> Sequence[Symptom]:
        if not value(report, "valid_rate") > 0:
            # Nothing to learn from: the loss of no trajectory is no number, and no fault of the numbers.
            return ()
        wrong = [name for name in self.WATCHED if not math.isfinite(value(report, name))]
        wrong += ["reward_mean"] if not math.isfinite(value(report, "reward_mean")) else []
        step = report.id.step
        return [
            Symptom(
                self.name, name, Evidence.IDENTITY, alarm=True, direction=1, value=value(report, name), reference=0.0,
                score=math.inf, onset=step, onset_low=step, reason=f"{name} is {value(report, name)} at step {step}",
            )
            for name in wrong
        ]  # fmt: skip

    def forget(self, signals: Sequence[str], step: int) -> None:
        """An identity needs no reference."""
        del signals, step


class DeclaredRateDetector(Detector):
    """An identity: the learning rate in force is the one that configuration, schedule and levers call for."""

    name = "declared_rate"
    TOLERANCE = 1e-6

    def __init__(self) -> None:
        self._since: int | None = None

    def observe(self, report: StepReport) -> Sequence[Symptom]:
        excess, step = value(report, "lr_excess"), report.id.step
        if abs(excess) <= self.TOLERANCE or math.isnan(excess):
            self._since = None
            return ()
        self._since = step if self._since is None else self._since
        rate = value(report, "lr")
        return [
            Symptom(
                self.name, "lr_excess", Evidence.IDENTITY, alarm=True, direction=1 if excess > 0 else -1, value=excess,
                reference=0.0, score=math.inf, onset=self._since, onset_low=self._since,
                reason=f"the learning rate is {rate:.3g}, {safe_exp(excess):.3g} times the one called for",
            )
        ]  # fmt: skip

    def forget(self, signals: Sequence[str], step: int) -> None:
        """An identity needs no reference."""
        del signals, step
