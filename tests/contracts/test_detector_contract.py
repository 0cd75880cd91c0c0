"""What every shipped detector keeps to: it never raises, it is quiet on healthy runs, it can be kept and put back."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rftfm_ray.detection.battery import NOTICED, WatchSettings, battery
from rftfm_ray.detection.detectors import Detector
from rftfm_ray.detection.signals import INDEX, SIGNALS
from rftfm_ray.types import StepId
from rftfm_ray.verdicts import StepReport, Symptom

Make = Callable[..., StepReport]
Recorded = dict[str, list[StepReport]]

SETTINGS = WatchSettings(warmup=5, false_alarm_steps=10_000, noise=0.001, probe_size=256, keep_every=5, keep=4)
PLACES = range(len(battery(SETTINGS)))
READ = sorted(
    {*NOTICED, "loss", "lr", "lr_excess", "schedule_factor", "schedule_excess", "update_ratio", "trained_mismatch_rate"}
    | {"regrade_count", "regrade_error_mean", "tool_error_rate", "tool_call_count", "probe_accuracy"}
)
HEALTHY = ("calculator_300", "arithmetic_300", "calculator_1", "calculator_2", "arithmetic_1", "arithmetic_2")

every_detector = pytest.mark.parametrize("place", PLACES, ids=[detector.name for detector in battery(SETTINGS)])
odd = st.sampled_from([math.nan, math.inf, -math.inf, 0.0, -0.0, 1.0])
LOGARITHMS = ("lr_excess", "schedule_excess")
rows = st.fixed_dictionaries(
    {},
    optional={
        name: odd | st.floats(-700, 700) if name in LOGARITHMS else odd | st.floats(0, 1) | st.floats(-1e9, 1e9)
        for name in READ
    },
)


def _report(step: int, values: dict[str, float], rest: float = math.nan) -> StepReport:
    return StepReport(StepId(0, step, step), step, tuple(values.get(signal.name, rest) for signal in SIGNALS))


def _observe(detector: Detector, reports: Sequence[StepReport]) -> list[Sequence[Symptom]]:
    return [tuple(detector.observe(report)) for report in reports]


def test_battery_has_one_alarm_per_fault_and_notices_for_the_rest() -> None:
    names = [detector.name for detector in battery(SETTINGS)]
    assert names == [
        "finite", "declared_rate", "rate:trained_mismatch_rate", "rate:tool_error_rate", "probe", "update_size",
        "blow_up:kl_ref", *(f"shift:{name}" for name in NOTICED),
    ]  # fmt: skip
    assert len(set(names)) == len(names)


@every_detector
@pytest.mark.parametrize("rest", [math.nan, math.inf, -math.inf, 0.0, 1.0, -1.0])
def test_no_value_everywhere_makes_it_raise(make_report: Make, place: int, rest: float) -> None:
    detector = battery(SETTINGS)[place]
    reports = [make_report(step) for step in range(1, 15)]
    reports += [_report(step, {}, rest) for step in range(15, 20)]
    reports += [make_report(step) for step in range(20, 30)]
    _observe(detector, reports)
    _observe(battery(SETTINGS)[place], reports[14:])


@every_detector
def test_batch_without_anything_is_no_alarm(make_report: Make, place: int) -> None:
    """Every trajectory masked, or nothing measured at all: no number to judge by."""
    detector = battery(SETTINGS)[place]
    reports = [make_report(step) for step in range(1, 15)]
    reports += [_report(step, {"valid_rate": share}) for step, share in enumerate((0.0, math.nan, 0.0, math.nan), 15)]
    assert not any(s.alarm for symptoms in _observe(detector, reports) for s in symptoms)


@every_detector
@settings(max_examples=40, deadline=None)
@given(stream=st.lists(rows, max_size=25), healthy=st.integers(0, 12))
def test_no_stream_makes_it_raise(make_report: Make, place: int, stream: list[dict[str, float]], healthy: int) -> None:
    detector = battery(SETTINGS)[place]
    reports = [make_report(step) for step in range(1, healthy + 1)]
    reports += [make_report(step, **row) for step, row in enumerate(stream, healthy + 1)]
    for report in reports:
        for symptom in detector.observe(report):
            assert symptom.detector == detector.name
            assert symptom.signal in INDEX
            assert symptom.direction in (-1, 1)
            assert 0 <= symptom.onset_low <= symptom.onset <= report.id.step
            assert symptom.reason.startswith(("the learning rate", "updates are", "held-out", symptom.signal))
            assert "\n" not in symptom.reason


@every_detector
def test_it_is_silent_on_healthy_runs(recorded: Recorded, place: int) -> None:
    """Notices may be wrong; an alarm may not."""
    for run in HEALTHY:
        detector = battery(SETTINGS)[place]
        wrong = [s for symptoms in _observe(detector, recorded[run]) for s in symptoms if s.alarm]
        assert not wrong, (run, wrong[0])


@every_detector
@pytest.mark.parametrize("run", ["calculator_od1", "calculator_te1", "arithmetic_od1"])
def test_it_is_deterministic_and_can_be_kept(recorded: Recorded, place: int, run: str) -> None:
    """The same reports have the same symptoms, also from a copy made half-way, which the original does not touch."""
    reports = recorded[run]
    detector = battery(SETTINGS)[place]
    whole = _observe(battery(SETTINGS)[place], reports)
    found = _observe(detector, reports[:17])
    kept = [copy.deepcopy(detector), pickle.loads(pickle.dumps(detector))]  # noqa: S301
    found += _observe(detector, reports[17:])
    assert repr(found) == repr(whole)
    for copied in kept:
        assert copied.name == detector.name
        assert repr(_observe(copied, reports[17:])) == repr(whole[17:])


@every_detector
def test_forgetting_is_always_possible(make_report: Make, place: int) -> None:
    detector = battery(SETTINGS)[place]
    detector.forget(READ, 1)
    detector.settle(READ)
    _observe(detector, [make_report(step) for step in range(1, 12)])
    detector.forget([], 12)
    detector.forget(["no_such_signal"], 12)
    detector.settle([])
    detector.settle(["no_such_signal"])
    detector.forget(READ, 12)
    assert not any(_observe(detector, [make_report(step) for step in range(12, 30)]))


def test_every_fault_of_the_recorded_runs_is_seen_by_some_detector(recorded: Recorded) -> None:
    seen = {}
    for run in ("calculator_od1", "arithmetic_od1", "calculator_te1", "calculator_rf1"):
        found = {d.name: _observe(d, recorded[run]) for d in battery(SETTINGS)}
        seen[run] = {name for name, steps in found.items() if any(s.alarm for step in steps for s in step)}
    assert "update_size" in seen["calculator_od1"]
    assert {"update_size", "blow_up:kl_ref", "probe"} <= seen["arithmetic_od1"]
    assert seen["calculator_te1"] == {"rate:tool_error_rate"}
    assert seen["calculator_rf1"] == {"rate:trained_mismatch_rate"}
