"""Sequential statistics: evidence that grows step by step, with a bound on how often it lies. Pure, O(1) a step."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

# Evidence beyond this many times the threshold is forgotten: a fault that has gone must be seen to go.
CAP = 1.5
# An alarm is over when the evidence has fallen to this share of the threshold.
RECOVERED = 0.25


class Cusum:
    """Page's cumulative sum of log-likelihood ratios, in nats, with the life cycle of an alarm.

    Restarted at zero, the sum's maximum is an e-CUSUM: with a threshold of ln(1/a) the mean time to a false alarm
    is at least 1/a steps when the ratios are true ones (Shin, Ramdas and Rinaldo, arXiv 2203.03532).
    """

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


@dataclass(frozen=True, slots=True)
class Reference:
    """What a value is compared with."""

    mean: float
    spread: float
    count: int


class Baseline:
    """The run's own recent past of one signal: a slow mean, and the spread of what it failed to foresee.

    The mean follows with `share` of each new value, `lag` steps late, so that a sudden change is seen against what
    was before it. The spread is taken from the signal's own surprises, which makes it a long-run one where the
    signal wanders.
    """

    def __init__(self, share: float, lag: int, warmup: int, floor: float) -> None:
        self._share = share
        self._warmup = warmup
        self._floor = floor
        self._waiting: deque[float] = deque(maxlen=lag)
        self._mean = 0.0
        self._variance = 0.0
        self.count = 0

    def reference(self) -> Reference | None:
        """Mean and spread as they are now, or None before the warm-up is over."""
        if self.count < self._warmup:
            return None
        return Reference(self._mean, max(self._floor, math.sqrt(self._variance)), self.count)

    def learn(self, value: float) -> None:
        """Take a value that is held to be healthy."""
        full = len(self._waiting) == self._waiting.maxlen
        oldest = self._waiting[0] if full else value
        self._waiting.append(value)
        if not full and self.count:
            return
        self.count += 1
        if self.count == 1:
            self._mean = oldest
            return
        surprise = oldest - self._mean
        # A plain mean at first, so that the warm-up counts in full.
        share = max(self._share, 1 / self.count)
        self._mean += share * surprise
        self._variance += share * (surprise**2 - self._variance)

    def restart(self) -> None:
        """Forget everything."""
        self._waiting.clear()
        self._mean, self._variance, self.count = 0.0, 0.0, 0
