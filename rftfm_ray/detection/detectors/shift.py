"""A detector that holds a run against healthy runs of its kind, step by step. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rftfm_ray.detection.detectors.base import Detector
from rftfm_ray.detection.reference.profile import SignalProfile
from rftfm_ray.detection.statistics.cusum import Baseline, Cusum, Reference, shift_ratio
from rftfm_ray.signals.scale import level_of, raw_of
from rftfm_ray.signals.schema import INDEX, SIGNALS, value
from rftfm_ray.verdicts import Evidence, StepReport, Symptom

# A shift that is looked for, in long-run spreads. Smaller than that of a run against its own past, whose mean follows.
SIZE = 2.0


class ProfileDetector(Detector):
    """A signal against the same step of healthy runs: a CUSUM of residuals over their long-run spread, a side each.

    Neighbouring residuals are alike, so they are scaled by what a mean over many steps varies by; the scale comes from
    few runs, so each is made normal from Student's t; one surprise is capped, so that a single blip is no alarm.

    Where a declared change takes the reference away, `own` goes on alone: the run's own past, as without a profile.
    What begins beyond the last step of the profile is a notice at most: no healthy run has shown what is usual there.

    Args:
        profile: of the signal.
        alarms: sides (+1 above, -1 below) that open an incident.
        notices: sides that only tell look-alikes apart.
        threshold: evidence in nats for an alarm.
        notice: evidence in nats for a notice.
        own: the detector that takes over; its symptoms carry this one's name.
    """

    def __init__(
        self, profile: SignalProfile, *, alarms: Sequence[int], notices: Sequence[int], threshold: float, notice: float,
        own: ShiftDetector,
    ) -> None:  # fmt: skip
        self.name = f"profile:{profile.name}"
        self._signal = SIGNALS[INDEX[profile.name]]
        self._profile = profile
        self._alarms = tuple(alarms)
        levels = dict.fromkeys(alarms, threshold) | dict.fromkeys(notices, notice)
        # Two sides may alarm twice as often: ln 2 for their share of the budget.
        levels = {side: level + math.log(len(levels)) for side, level in levels.items()}
        self._cusums = {side: Cusum(level) for side, level in levels.items()}
        self._most = {side: capped(level, SIZE) for side, level in levels.items()}
        self._own = own
        self._own.name = self.name
        self._declared = False

    def observe(self, report: StepReport) -> Sequence[Symptom]:
        if self._declared:
            return self._own.observe(report)
        raw, step = value(report, self._signal.name), report.id.step
        if math.isfinite(raw):
            z = self._profile.surprise(step, level_of(self._signal, raw))
            for side, cusum in self._cusums.items():
                most = self._most[side]
                cusum.add(shift_ratio(max(-most, min(most, side * z)), SIZE), step)
        return [self._symptom(side, raw, step) for side, cusum in self._cusums.items() if cusum.alarm]

    def _symptom(self, side: int, raw: float, step: int) -> Symptom:
        cusum, expected, last = self._cusums[side], self._profile.expected(step), len(self._profile.mean)
        usual = raw_of(self._signal, expected.mean)
        where = f"step {last}, the last of the profile" if expected.beyond else f"step {step}"
        way = "above" if side > 0 else "below"
        reason = f"{self._signal.name} is {raw:.3g}, and has been {way} that of healthy runs since step {cusum.onset}"
        return Symptom(
            self.name, self._signal.name, Evidence.TELEMETRY, side in self._alarms and cusum.onset <= last, side, raw,
            usual, cusum.sum, cusum.onset, max(1, cusum.onset - 1), f"{reason} ({usual:.3g} at {where})",
        )  # fmt: skip

    def forget(self, signals: Sequence[str], step: int) -> None:
        if self._signal.name in signals:
            self._declared = True
            for cusum in self._cusums.values():
                cusum.clear()
        self._own.forget(signals, step)

    def settle(self, signals: Sequence[str]) -> None:
        if self._signal.name in signals:
            for cusum in self._cusums.values():
                cusum.clear()
        self._own.settle(signals)


# A shift that is looked for, in spreads: smaller ones take longer.
SHIFT = 3.0


SHARE, LAG = 0.15, 3


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


def capped(threshold: float, size: float = SHIFT) -> float:
    """The most that one residual may count, in spreads: two steps make an alarm, one does not.

    `size` is the shift that is looked for, in spreads.
    """
    return threshold / size * 0.75 + size / 2
