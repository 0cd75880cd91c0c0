"""Synthetic responses to strengths, in place of a bench."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

from rftfm_ray.faultbench.runs.calibrate import CalibrationCase
from rftfm_ray.faultbench.runs.levels import (
    HARM_AIM,
)  # fmt: skip

CASE = CalibrationCase("addition", "grpo", "RF-1", "marked_right")


class Response:
    """Stands in for a bench: what each strength does, and luck that each seed has."""

    def __init__(self, response: Callable[[float], float], luck: float = 0.0) -> None:
        self._response = response
        self._luck = luck
        self.asked: list[tuple[float, int]] = []

    def shifts(self, case: CalibrationCase, strength: float, seeds: Sequence[int]) -> list[float]:
        """The response and luck, of each seed."""
        self.asked += [(strength, seed) for seed in seeds]
        return [self._response(strength) + self._luck * random.Random(seed).gauss(0, 1) for seed in seeds]

    def loss(self, case: CalibrationCase, strength: float, seeds: Sequence[int], steps: int) -> list[float]:
        """The same."""
        assert steps == 40
        return self.shifts(case, strength, seeds)


def losing(at: float, most: float = 0.5, slope: float = 3.0, neutral: float = 0.0) -> Callable[[float], float]:
    """A loss that is 0.17 at a strength and grows to `most`: a logistic curve in the logarithm."""
    offset = math.log(most / HARM_AIM - 1)

    def loss(strength: float) -> float:
        if strength <= neutral:
            return 0.0
        return most / (1 + math.exp(offset - slope * math.log((strength - neutral) / (at - neutral))))

    return loss
