"""Detectors of the user's in chunks of any size: what they say before they fail stands, as in a live run."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from rftfm_ray.detection.detectors.custom import MOST_BLANK, CustomDetector
from rftfm_ray.detection.monitor import Monitor
from rftfm_ray.detection.observed import Observation
from rftfm_ray.detection.reference.views import StepView
from rftfm_ray.verdicts import StepReport
from tests.detecting import NO_REFERENCE, SETTINGS, make_reports

RUN = make_reports(reward_mean=[0.5] * 300)
ALARMS = list(range(50, 60))
FAILS_AT = 200


class GoesBlank:
    """Raises an alarm, and gives no score at all later on."""

    name = "goes_blank"
    disabled_at = 59 + MOST_BLANK

    def __init__(self) -> None:
        self.count = 0

    def observe(self, view: StepView) -> list[float]:
        """One score for each step."""
        return [self.score() for _ in view.steps]

    def score(self) -> float:
        """Of the next step."""
        self.count += 1
        return math.nan if self.count >= 60 else 2.0 * (self.count >= 50)


class Fails(GoesBlank):
    """Raises an alarm, and fails later on."""

    name = "fails"
    disabled_at = FAILS_AT

    def score(self) -> float:
        self.count += 1
        if self.count == FAILS_AT:
            raise ValueError("no more")
        return 2.0 * (self.count in ALARMS)


class Widens(Fails):
    """Raises an alarm, and later gives scores of another shape."""

    name = "widens"

    def observe(self, view: StepView) -> list[Any]:
        self.count += len(view)
        return [[0.0, 0.0] if self.count >= FAILS_AT else 2.0 * (self.count in ALARMS)] * len(view)


class Sizes(GoesBlank):
    """Scores the number of steps that it is shown."""

    name = "sizes"

    def observe(self, view: StepView) -> list[float]:
        return [float(len(view))] * len(view)


CLASSES: list[type[GoesBlank]] = [GoesBlank, Fails, Widens]


def judged(users: Sequence[Callable[[], Any]], size: int, *, shipped: bool) -> list[Observation]:
    """What a monitor with these detectors makes of the run in chunks of a size."""
    monitor = Monitor(SETTINGS, NO_REFERENCE, [CustomDetector(make()) for make in users], shipped=shipped)
    return [one for start in range(0, len(RUN), size) for one in monitor.observe(RUN[start : start + size])]


def verdicts(observations: Sequence[Observation]) -> list[tuple[StepReport, str]]:
    """All that is made of each step."""
    return [(one.report, repr((one.symptoms, one.scores, one.disabled))) for one in observations]


@pytest.mark.parametrize("shipped", [False, True])
@pytest.mark.parametrize("users", [[one] for one in CLASSES] + [CLASSES], ids=lambda users: f"{len(users)}")
def test_chunks_change_nothing_for_detectors_that_fail(users: list[type[GoesBlank]], shipped: bool) -> None:
    by_step = judged(users, 1, shipped=shipped)
    for size in (7, 64, len(RUN)):
        assert verdicts(judged(users, size, shipped=shipped)) == verdicts(by_step), size


@pytest.mark.parametrize("user", CLASSES)
def test_alarms_before_a_failure_stand_and_the_failure_is_said_at_its_step(user: type[GoesBlank]) -> None:
    observations = judged([user], len(RUN), shipped=False)
    alarmed = [one.report.id.step for one in observations if one.symptoms]
    # Without a score an alarm stays open, until its detector is disabled.
    assert alarmed == (list(range(50, user.disabled_at)) if user is GoesBlank else ALARMS)
    said = [(one.report.id.step, name) for one in observations for name, _ in one.disabled]
    assert said == [(user.disabled_at, user.name)]


def test_it_is_shown_one_step_at_a_time() -> None:
    assert {one.scores.telemetry for one in judged([Sizes], len(RUN), shipped=False)} == {1.0}
