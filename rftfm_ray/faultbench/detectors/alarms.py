"""Alarms of a detector in one run, by its latch or by its scores and a threshold. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# An alarm ends when the score falls to this share of the threshold.
RECOVERED = 0.25


@dataclass(frozen=True, slots=True)
class Alarm:
    """One alarm: the step that raised it, and the last one at which it was open."""

    raised: int
    last: int


def alarms_while(open_at: Iterable[bool]) -> tuple[Alarm, ...]:
    """Alarms of a run by whether one is open at each step, from step 1 on."""
    alarms, since, step = list[Alarm](), 0, 0
    for step, is_open in enumerate(open_at, start=1):
        if is_open and not since:
            since = step
        elif not is_open and since:
            alarms.append(Alarm(since, step - 1))
            since = 0
    return (*alarms, *([Alarm(since, step)] if since else []))


def alarms_of(scores: NDArray[np.float64], threshold: float) -> tuple[Alarm, ...]:
    """Alarms of a run by its scores (N), from step 1 on; NaN says nothing, and leaves an open alarm open."""
    alarms, since = list[Alarm](), 0
    for step, score in enumerate(scores.tolist(), start=1):
        if not since and score >= threshold:
            since = step
        elif since and score <= RECOVERED * threshold:
            alarms.append(Alarm(since, step - 1))
            since = 0
    return (*alarms, *([Alarm(since, len(scores))] if since else []))
