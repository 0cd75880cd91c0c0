"""Sequential statistics: evidence that accumulates over steps, with a bound on false alarms. Pure, O(1) a step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

from rftfm_ray.detection.stateful import Kind, Stateful

# Cap of the evidence, in thresholds: an alarm must end soon after its fault.
CAP = 1.5
# An alarm is over when the evidence has fallen to this share of the threshold.
RECOVERED = 0.25


class Cusum(Stateful):
    """Page's cumulative sum of log-likelihood ratios, in nats, with the life cycle of an alarm.

    Restarted at zero, the sum's maximum is an e-CUSUM: with a threshold of ln(1/a) the mean time to a false alarm
    is at least 1/a steps when the ratios are true ones (Shin, Ramdas and Rinaldo, arXiv 2203.03532).
    """

    STATE: ClassVar[Mapping[str, Kind]] = {
        "sum": Kind.FLOAT, "alarm": Kind.BOOL, "onset": Kind.INT, "_last_zero": Kind.INT,
    }  # fmt: skip

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self.sum = 0.0
        self.alarm = False
        self.onset = 0
        self._last_zero = 0

    def add(self, ratio: float, step: int) -> None:
        """Take one step's log-likelihood ratio in nats."""
        if self.sum == 0.0:
            self._last_zero = step - 1
        self.sum = min(max(0.0, self.sum + ratio), CAP * self._threshold)
        # The likeliest onset is the step after the sum was last zero; while an alarm is open it stays.
        if not self.alarm:
            self.onset = self._last_zero + 1
        if self.sum >= self._threshold:
            self.alarm = True
        elif self.sum <= RECOVERED * self._threshold:
            self.alarm = False

    def clear(self) -> None:
        """Forget everything."""
        self.sum, self.alarm, self._last_zero = 0.0, False, 0


def bernoulli_ratio(rate: float, count: float, usual: float, faulty: float) -> float:
    """Log-likelihood ratio of `count` trials with a share of `rate` hits: probability `faulty` against `usual`."""
    hit, miss = math.log(faulty / usual), math.log((1 - faulty) / (1 - usual))
    return count * (rate * hit + (1 - rate) * miss)


def shift_ratio(z: float, size: float) -> float:
    """Log-likelihood ratio of a standard normal residual `z`: mean `size` against mean 0."""
    return size * (z - size / 2)
