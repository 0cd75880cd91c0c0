"""What tests of the guard share: step reports made by hand, and those of recorded runs.

`data/*.csv` holds the step rows of real runs of the shipped tiny model on the CPU (16 prompts x 8 samples a step),
cut down to the signals that detectors read, with five significant digits. An empty field is NaN.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from rftfm_ray.detection.monitor import MonitorPlan
from rftfm_ray.detection.suite import MonitorSettings
from rftfm_ray.verdicts import StepReport
from tests import detecting


@pytest.fixture(scope="session")
def make_report() -> Callable[..., StepReport]:
    """A report of one step: `make_report(step, signal=value, ...)`, the usual values where none is given."""
    return detecting.make_report


@pytest.fixture(scope="session")
def recorded() -> dict[str, list[StepReport]]:
    """Reports of the recorded runs by the name of the run."""
    return detecting.recorded_faults()


@pytest.fixture(scope="session")
def plan() -> MonitorPlan:
    """The monitor that the recorded runs call for."""
    settings = MonitorSettings(warmup=5, false_alarm_steps=1_000, noise=0.001, probe_size=256)
    return MonitorPlan(settings, keep_every=5, keep=4)


@pytest.fixture(scope="session")
def watch_settings() -> MonitorSettings:
    """The settings that the recorded runs call for."""
    return detecting.SETTINGS
