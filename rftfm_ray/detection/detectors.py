"""Detectors: each watches one thing and says which symptoms stand now. Pure.

A detector must not raise, and says nothing when it is unsure; one that raises is disabled and the run goes on.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import Protocol

from rftfm_ray.detection.sequential import Baseline, Cusum, Reference, bernoulli_ratio, shift_ratio
from rftfm_ray.detection.signals import INDEX, SIGNALS, Scale, Signal, value
from rftfm_ray.verdicts import Evidence, StepReport, Symptom

# Trajectories of one prompt fail together; half of the calls count (a Rao-Scott design effect of 2).
CLUSTERED = 2.0
# A shift that is looked for, in spreads: smaller ones take longer.
SHIFT = 3.0
SHARE, LAG = 0.15, 3
# Two units of the logarithm's argument below which a KL is as good as none, in nats per token.
SMALL: dict[str, float] = {"kl_ref": 0.05, "kl_old": 0.01, "grad_norm": 1e-3}


class Detector(Protocol):
    """Watches the reports of a run, one after the other."""

    name: str

    def observe(self, report: StepReport) -> Sequence[Symptom]:
        """Take one report; every symptom that stands now, alarms and notices."""

    def forget(self, signals: Sequence[str], step: int) -> None:
        """A change was declared: what depends on one of `signals` has no reference from `step` on."""

    def settle(self, signals: Sequence[str]) -> None:
        """Something has been done about `signals`: evidence against them begins anew, their reference stays.

        Nothing by default: an identity weighs no evidence.
        """
        del signals


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


class RateDetector(Detector):
    """A share of counted events that should be near `usual`: a binomial CUSUM against `faulty`."""

    def __init__(
        self, signal: str, count: str, evidence: Evidence, usual: float, faulty: float, threshold: float,
        clustered: float = CLUSTERED, companion: str | None = None, *, alarm: bool = True,
    ) -> None:  # fmt: skip
        self.name = f"rate:{signal}"
        self._signal = signal
        self._count = count
        self._evidence = evidence
        self._usual = usual
        self._faulty = faulty
        self._clustered = clustered
        self._companion = companion
        self._alarm = alarm
        self._cusum = Cusum(threshold)

    def observe(self, report: StepReport) -> Sequence[Symptom]:
        rate, count = value(report, self._signal), value(report, self._count)
        # Without an event nothing was learnt; the sum stays as it is.
        if count > 0 and math.isfinite(rate):
            self._cusum.add(bernoulli_ratio(rate, count / self._clustered, self._usual, self._faulty), report.id.step)
        if not self._cusum.alarm:
            return ()
        reason = f"{self._signal} is {rate:.3g} of {count:g}, where {self._usual:g} is usual"
        symptoms = [self._symptom(self._signal, 1, rate, self._usual, alarm=self._alarm, reason=reason)]
        beside = value(report, self._companion) if self._companion else math.nan
        if self._companion and beside != 0 and math.isfinite(beside):
            reason = f"{self._companion} is {beside:+.3g}"
            direction = 1 if beside > 0 else -1
            symptoms.append(self._symptom(self._companion, direction, beside, 0.0, alarm=False, reason=reason))
        return symptoms

    def _symptom(self, signal: str, direction: int, found: float, usual: float, *, alarm: bool, reason: str) -> Symptom:
        onset = self._cusum.onset
        return Symptom(
            self.name, signal, self._evidence, alarm, direction, found, usual, self._cusum.sum, onset, onset, reason
        )

    def forget(self, signals: Sequence[str], step: int) -> None:
        """Rates are judged against a fixed share, which no declared change moves."""
        del signals, step

    def settle(self, signals: Sequence[str]) -> None:
        if self._signal in signals:
            self._cusum.clear()


class ShiftDetector(Detector):
    """A signal against the run's own recent past: a CUSUM of standardised residuals, to one or to both sides.

    While evidence is growing the reference learns nothing, so a fault does not become the usual.
    """

    def __init__(self, signal: str, sides: Sequence[int], *, alarm: bool, threshold: float, warmup: int) -> None:
        self.name = f"shift:{signal}"
        self._signal = SIGNALS[INDEX[signal]]
        self._alarm = alarm
        self._threshold = threshold
        self._baseline = Baseline(SHARE, LAG, warmup, self._signal.floor)
        self._cusums = {side: Cusum(threshold) for side in sides}

    def observe(self, report: StepReport) -> Sequence[Symptom]:
        raw = value(report, self._signal.name)
        if not math.isfinite(raw):
            return self._standing(raw, None)
        level = level_of(self._signal, raw)
        reference = self._baseline.reference()
        if reference is not None:
            # One surprise says no more than any other: capped, so that a single blip is no alarm.
            most = capped(self._threshold)
            z = max(-most, min(most, (level - reference.mean) / reference.spread))
            for side, cusum in self._cusums.items():
                cusum.add(shift_ratio(side * z, SHIFT), report.id.step)
        if all(cusum.sum < self._threshold / 2 for cusum in self._cusums.values()):
            self._baseline.learn(level)
        return self._standing(raw, reference)

    def _standing(self, raw: float, reference: Reference | None) -> Sequence[Symptom]:
        found = []
        for side, cusum in self._cusums.items():
            if cusum.alarm:
                usual = math.nan if reference is None else raw_of(self._signal, reference.mean)
                way = "above" if side > 0 else "below"
                reason = f"{self._signal.name} is {raw:.3g}, far {way} its {usual:.3g} of before step {cusum.onset}"
                found.append(
                    Symptom(
                        self.name, self._signal.name, Evidence.TELEMETRY, self._alarm, side, raw, usual, cusum.sum,
                        cusum.onset, max(1, cusum.onset - 1), reason,
                    )
                )  # fmt: skip
        return found

    def forget(self, signals: Sequence[str], step: int) -> None:
        del step
        if self._signal.name in signals:
            self._baseline.restart()
            for cusum in self._cusums.values():
                cusum.clear()

    def settle(self, signals: Sequence[str]) -> None:
        if self._signal.name in signals:
            for cusum in self._cusums.values():
                cusum.clear()


def level_of(signal: Signal, raw: float) -> float:
    """A finite value on the scale that it is compared on: in nats for a ratio, else as it is."""
    if signal.scale is Scale.RATIO:
        return math.log(max(raw, 0.0) + SMALL.get(signal.name, 1e-12))
    return raw


def raw_of(signal: Signal, level: float) -> float:
    """The value that stands at a level."""
    return safe_exp(level) - SMALL.get(signal.name, 0.0) if signal.scale is Scale.RATIO else level


def safe_exp(exponent: float) -> float:
    """The exponential, and infinity where it would overflow."""
    return math.exp(exponent) if exponent < 700 else math.inf


def update_size(report: StepReport) -> float:
    """How far a step's updates went, in norms of the weights, over the share of the rate that the schedule calls for.

    A change that the schedule makes on purpose does not show in it; one that a lever, or a fault, makes does.
    """
    declared = value(report, "schedule_factor") * safe_exp(-value(report, "schedule_excess"))
    return value(report, "update_ratio") / declared if declared > 0 else math.nan


class UpdateSizeDetector(Detector):
    """Updates more than twice as large as any of the last hundred steps: a CUSUM of the logarithm over that.

    The size of AdamW's updates falls when signal grows rare and comes back when it returns, threefold in a converged
    run; a mean would call that a fault. The maximum does not move, and no healthy run goes far beyond it, because an
    AdamW update of one weight is hardly ever larger than the rate. Twice, because a run that is resumed when it has
    converged may begin with small updates and know no others.
    """

    name = "update_size"
    WINDOW = 100
    SPREAD = 0.1
    FACTOR = 2.0

    def __init__(self, threshold: float, warmup: int) -> None:
        self._threshold = threshold
        self._warmup = warmup
        self._seen = 0
        self._sizes: deque[float] = deque(maxlen=self.WINDOW)
        self._cusum = Cusum(threshold)

    def observe(self, report: StepReport) -> Sequence[Symptom]:
        size, step = update_size(report), report.id.step
        if not size > 0:
            return ()
        self._seen += 1
        largest = max(self._sizes, default=math.nan)
        if len(self._sizes) >= self._warmup:
            # Not capped: an update this far has been made, and one is enough.
            self._cusum.add(shift_ratio(math.log(size / (self.FACTOR * largest)) / self.SPREAD, SHIFT), step)
        # The very first updates are the largest, before the optimizer's moments have settled.
        if self._seen > self._warmup and self._cusum.sum < self._threshold / 2 and math.isfinite(size):
            self._sizes.append(size)
        if not self._cusum.alarm:
            return ()
        onset = self._cusum.onset
        reason = f"updates are {size / largest:.3g} times as large as the largest of before step {onset}"
        return [
            Symptom(
                self.name, "update_ratio", Evidence.TELEMETRY, alarm=True, direction=1,
                value=value(report, "update_ratio"), reference=largest, score=self._cusum.sum, onset=onset,
                onset_low=onset, reason=reason,
            )
        ]  # fmt: skip

    def forget(self, signals: Sequence[str], step: int) -> None:
        del step
        if "update_ratio" in signals:
            self._sizes.clear()
            self._seen = 0
            self._cusum.clear()

    def settle(self, signals: Sequence[str]) -> None:
        if "update_ratio" in signals:
            self._cusum.clear()


def capped(threshold: float, size: float = SHIFT) -> float:
    """The most that one residual may count, in spreads: two steps make an alarm, one does not.

    `size` is the shift that is looked for, in spreads.
    """
    return threshold / size * 0.75 + size / 2


class ProbeDetector(Detector):
    """Held-out accuracy against the best of the lineage: two binomial shares of the same problems."""

    name = "probe"
    SIGMAS = 4.0

    def __init__(self, size: int) -> None:
        self._size = size
        self._best, self._best_step = -1.0, 0
        self._standing: tuple[Symptom, ...] = ()

    def observe(self, report: StepReport) -> Sequence[Symptom]:
        accuracy, step = value(report, "probe_accuracy"), report.id.step
        if math.isnan(accuracy):
            return self._standing
        drop = probe_drop(self._best, accuracy, self._size)
        self._standing = ()
        if self._best >= 0 and drop > self.SIGMAS:
            reason = f"held-out accuracy is {accuracy:.3f}, and was {self._best:.3f} at step {self._best_step}"
            self._standing = (
                Symptom(
                    self.name, "probe_accuracy", Evidence.CHANNEL, alarm=True, direction=-1, value=accuracy,
                    reference=self._best, score=drop**2 / 2, onset=self._best_step + 1, onset_low=self._best_step,
                    reason=reason,
                ),
            )  # fmt: skip
        elif accuracy >= self._best:
            self._best, self._best_step = accuracy, step
        return self._standing

    def forget(self, signals: Sequence[str], step: int) -> None:
        del step
        if "probe_accuracy" in signals:
            self._best, self._standing = -1.0, ()


def probe_drop(before: float, after: float, size: int) -> float:
    """How many standard errors `after` lies below `before`, both shares of `size` problems; negative for a rise."""
    pooled = (before + after) / 2
    # One problem is the least that a share can be wrong by.
    error = math.sqrt(max(2 * pooled * (1 - pooled) / size, (1 / size) ** 2))
    return (before - after) / error
