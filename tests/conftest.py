"""What tests of the guard share: step reports made by hand, and those of recorded runs.

`data/*.csv` holds the step rows of real runs of the shipped tiny model on the CPU (16 prompts x 8 samples a step),
cut down to the signals that detectors read, with five significant digits. An empty field is NaN.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from rftfm_ray.detection.monitor import MonitorPlan
from rftfm_ray.detection.suite import MonitorSettings
from rftfm_ray.signals.schema import SIGNALS
from rftfm_ray.types import StepId
from rftfm_ray.verdicts import StepReport

DATA = Path(__file__).parent / "data"

# A step with nothing the matter; every signal that is not named is NaN.
USUAL: Mapping[str, float] = {
    "valid_rate": 1.0,
    "loss": 0.1,
    "grad_norm": 1.0,
    "kl_ref": 0.1,
    "entropy": 1.0,
    "reward_mean": 0.5,
    "update_ratio": 1e-3,
    "changed_rate": 0.9,
    "vetoes": 0.0,
    "staleness": 0.0,
    "advantage_error": 1e-7,
    "weights_mismatch": 0.0,
    "observation_mismatch_rate": 0.0,
    "replay_observation_mismatch_rate": 0.0,
    "termination_mismatch_rate": 0.0,
    "replay_termination_mismatch_rate": 0.0,
    "lr": 1e-4,
    "lr_excess": 0.0,
    "schedule_factor": 1.0,
    "schedule_excess": 0.0,
    "tool_call_count": 100.0,
    "tool_error_rate": 0.0,
    "tool_unparsable_rate": 0.0,
    "regrade_count": 32.0,
    "trained_mismatch_rate": 0.0,
    "regrade_error_mean": 0.0,
}


def _report(step: int, values: Mapping[str, float]) -> StepReport:
    return StepReport(StepId(0, step, step), step - 1, tuple(values.get(s.name, math.nan) for s in SIGNALS))


@pytest.fixture(scope="session")
def make_report() -> Callable[..., StepReport]:
    """A report of one step: `make_report(step, signal=value, ...)`, the usual values where none is given."""

    def make(step: int, **values: float) -> StepReport:
        unknown = set(values) - {signal.name for signal in SIGNALS}
        assert not unknown, f"no such signal: {unknown}"
        return _report(step, {**USUAL, **values})

    return make


@pytest.fixture(scope="session")
def recorded() -> dict[str, list[StepReport]]:
    """Reports of the recorded runs by the name of the run."""
    runs: dict[str, list[StepReport]] = {}
    for path in sorted(DATA.glob("*.csv")):
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                run, step = row.pop("run"), int(row.pop("step"))
                values = {name: float(text) if text else math.nan for name, text in row.items()}
                runs.setdefault(run, []).append(_report(step, values))
    return runs


@pytest.fixture(scope="session")
def plan() -> MonitorPlan:
    """The monitor that the recorded runs call for."""
    settings = MonitorSettings(warmup=5, false_alarm_steps=10_000, noise=0.001, probe_size=256)
    return MonitorPlan(settings, keep_every=5, keep=4)
