"""Detectors as users write them, and what the adapter says of those that it refuses."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import numpy as np
import pytest

from rftfm_ray.detection.detectors.custom import KEY, CustomDetector
from rftfm_ray.detection.reference.views import Floats, StepView
from rftfm_ray.errors import DetectorError, RftfmError


class Shift:
    """Rewards against the mean of those before, which it keeps as plain attributes."""

    name = "shift"

    def __init__(self) -> None:
        self.count, self.total = 0, 0.0
        self.newest = list[float]()

    def observe(self, view: StepView) -> Floats:
        """Ten times how far the reward is above the mean of those before."""
        scores = np.full(len(view), math.nan)
        for row, value in enumerate(view.value("reward_mean").tolist()):
            if math.isfinite(value):
                scores[row] = 10 * (value - self.total / self.count) if self.count else 0.0
                self.count, self.total, self.newest = self.count + 1, self.total + value, [*self.newest, value][-3:]
        return scores


class Two:
    """Scores of two signals, as they come, with methods of its own for all that may have one."""

    name = "two"
    signals = ("kl_ref", "entropy")
    directions = (1, -1)

    def __init__(self) -> None:
        self.asked = list[tuple[str, tuple[str, ...], int]]()
        self.steps: dict[str, int] = {"seen": 0}

    def observe(self, view: StepView) -> Floats:
        """The signals themselves."""
        self.steps["seen"] += len(view)
        return np.stack([view.value("kl_ref"), -view.value("entropy")], axis=1)

    def forget(self, signals: Collection[str], step: int) -> None:
        """Remember what was asked."""
        self.asked.append(("forget", tuple(signals), step))

    def settle(self, signals: Collection[str]) -> None:
        """Remember what was asked."""
        self.asked.append(("settle", tuple(signals), 0))

    def state_dict(self) -> dict[str, Any]:
        """Steps, but not what was asked."""
        return {"steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on."""
        self.steps = {"seen": state["steps"]["seen"]}


def adapted(user: Any) -> CustomDetector:
    """As the monitor runs it."""
    return CustomDetector(user)


def refusal(user: Any) -> str:
    """The sentence that a class is refused with."""
    with pytest.raises(DetectorError) as raised:
        CustomDetector(user)
    return sentence(raised.value)


def sentence(error: RftfmError) -> str:
    """What an error says, which must be one sentence."""
    text = str(error)
    assert text.endswith(".")
    assert ". " not in text.replace(f"{KEY}=", "")
    assert "\n" not in text
    return text
