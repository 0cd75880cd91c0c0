"""What every shipped detector keeps to: it never raises, it is quiet on healthy runs, it can be kept and put back."""

from __future__ import annotations

import copy
import csv
import math
import pickle
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rftfm_ray.detection.detectors.shift import ProfileDetector

from rftfm_ray.detection.detectors.base import Detector
from rftfm_ray.detection.detectors.identities import IDENTITIES
from rftfm_ray.detection.reference.fitting import RunSeries, fit
from rftfm_ray.detection.reference.profile import Profile
from rftfm_ray.detection.suite import NOTICED, WatchSettings, battery
from rftfm_ray.signals.schema import INDEX, SIGNALS
from rftfm_ray.types import StepId
from rftfm_ray.verdicts import StepReport, Symptom

Make = Callable[..., StepReport]
Recorded = dict[str, list[StepReport]]

SETTINGS = WatchSettings(warmup=5, false_alarm_steps=10_000, noise=0.001, probe_size=256, keep_every=5, keep=4)
READ = sorted(
    {*NOTICED, "loss", "lr", "lr_excess", "schedule_factor", "schedule_excess", "update_ratio", "trained_mismatch_rate"}
    | {"regrade_count", "regrade_error_mean", "tool_error_rate", "tool_call_count", "probe_accuracy"}
    | {"golden_mismatch_rate", "golden_count", "known_call_error_rate", "known_call_count", "vetoes"}
    | {identity.signal for identity in IDENTITIES}
)
REASONS = ("the learning rate", "updates are", "held-out", *(identity.meaning for identity in IDENTITIES))
DATA = Path(__file__).parents[1] / "data"
HEALTHY = ("calculator_300", "arithmetic_300", "calculator_1", "calculator_2", "arithmetic_1", "arithmetic_2")


def _profile() -> Profile:
    """Of runs of both tasks, so that the healthy runs of either are usual."""
    runs: dict[str, dict[str, list[float]]] = {}
    with (DATA / "healthy_short.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            columns = runs.setdefault(row.pop("run"), {})
            for name, text in row.items():
                columns.setdefault(name, []).append(float(text) if text else math.nan)
    return fit(
        [
            RunSeries(np.array(columns.pop("step"), np.int64), {name: np.array(v) for name, v in columns.items()})
            for columns in runs.values()
        ]
    )


PROFILED = replace(SETTINGS, profile=_profile())


def _detectors() -> tuple[Detector, ...]:
    """Those of a run that is held against its own past, and those that a profile puts in the place of some."""
    return (*battery(SETTINGS), *(d for d in battery(PROFILED) if isinstance(d, ProfileDetector)))


every_detector = pytest.mark.parametrize(
    "place", range(len(_detectors())), ids=[detector.name for detector in _detectors()]
)
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


def test_profile_takes_the_place_of_every_notice() -> None:
    names = [detector.name for detector in battery(PROFILED)]
    assert names[-len(NOTICED) :] == [f"profile:{name}" for name in NOTICED]
    assert len(names) == len(battery(SETTINGS))


def test_battery_has_one_alarm_per_fault_and_notices_for_the_rest() -> None:
    names = [detector.name for detector in battery(SETTINGS)]
    assert names == [
        "finite", "declared_rate", *(f"identity:{identity.name}" for identity in IDENTITIES),
        "rate:trained_mismatch_rate", "rate:tool_error_rate", "rate:golden_mismatch_rate", "rate:known_call_error_rate",
        "probe", "update_size", "blow_up:kl_ref", *(f"shift:{name}" for name in NOTICED),
    ]  # fmt: skip
    assert len(set(names)) == len(names)


@every_detector
@pytest.mark.parametrize("rest", [math.nan, math.inf, -math.inf, 0.0, 1.0, -1.0])
def test_no_value_everywhere_makes_it_raise(make_report: Make, place: int, rest: float) -> None:
    detector = _detectors()[place]
    reports = [make_report(step) for step in range(1, 15)]
    reports += [_report(step, {}, rest) for step in range(15, 20)]
    reports += [make_report(step) for step in range(20, 30)]
    _observe(detector, reports)
    _observe(_detectors()[place], reports[14:])


@every_detector
def test_batch_without_anything_is_no_alarm(make_report: Make, place: int) -> None:
    """Every trajectory masked, or nothing measured at all: no number to judge by."""
    detector = _detectors()[place]
    reports = [make_report(step) for step in range(1, 15)]
    reports += [_report(step, {"valid_rate": share}) for step, share in enumerate((0.0, math.nan, 0.0, math.nan), 15)]
    assert not any(s.alarm for symptoms in _observe(detector, reports) for s in symptoms)


@every_detector
@settings(max_examples=40, deadline=None)
@given(stream=st.lists(rows, max_size=25), healthy=st.integers(0, 12))
def test_no_stream_makes_it_raise(make_report: Make, place: int, stream: list[dict[str, float]], healthy: int) -> None:
    detector = _detectors()[place]
    reports = [make_report(step) for step in range(1, healthy + 1)]
    reports += [make_report(step, **row) for step, row in enumerate(stream, healthy + 1)]
    for report in reports:
        for symptom in detector.observe(report):
            assert symptom.detector == detector.name
            assert symptom.signal in INDEX
            assert symptom.direction in (-1, 1)
            assert 0 <= symptom.onset_low <= symptom.onset <= report.id.step
            assert symptom.reason.startswith((*REASONS, symptom.signal))
            assert "\n" not in symptom.reason


@every_detector
def test_it_is_silent_on_healthy_runs(recorded: Recorded, place: int) -> None:
    """Notices may be wrong; an alarm may not."""
    for run in HEALTHY:
        detector = _detectors()[place]
        wrong = [s for symptoms in _observe(detector, recorded[run]) for s in symptoms if s.alarm]
        assert not wrong, (run, wrong[0])


@every_detector
@pytest.mark.parametrize("run", ["calculator_od1", "calculator_te1", "arithmetic_od1"])
def test_it_is_deterministic_and_can_be_kept(recorded: Recorded, place: int, run: str) -> None:
    """The same reports have the same symptoms, also from a copy made half-way, which the original does not touch."""
    reports = recorded[run]
    detector = _detectors()[place]
    whole = _observe(_detectors()[place], reports)
    found = _observe(detector, reports[:17])
    kept = [copy.deepcopy(detector), pickle.loads(pickle.dumps(detector))]  # noqa: S301
    found += _observe(detector, reports[17:])
    assert repr(found) == repr(whole)
    for copied in kept:
        assert copied.name == detector.name
        assert repr(_observe(copied, reports[17:])) == repr(whole[17:])


@every_detector
def test_forgetting_is_always_possible(make_report: Make, place: int) -> None:
    detector = _detectors()[place]
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


@pytest.mark.parametrize(
    ("name", "signal", "usual", "faulty"),
    [
        ("rate:trained_mismatch_rate", "trained_mismatch_rate", 0.0, 0.3),
        ("rate:tool_error_rate", "tool_error_rate", 0.0, 0.8),
        ("rate:golden_mismatch_rate", "golden_mismatch_rate", 0.0, 0.5),
        ("rate:known_call_error_rate", "known_call_error_rate", 0.0, 1.0),
        ("update_size", "update_ratio", 1e-3, 3e-2),
        ("blow_up:kl_ref", "kl_ref", 0.1, 4.0),
        ("shift:length_mean", "length_mean", 20.0, 40.0),
    ],
)
def test_evidence_begins_anew_after_a_remedy_and_the_reference_stays(
    make_report: Make, name: str, signal: str, usual: float, faulty: float
) -> None:
    def show(first: int, *values: float) -> list[bool]:
        counts = {"golden_count": 16.0, "known_call_count": 8.0}
        reports = [make_report(step, **counts, **{signal: value}) for step, value in enumerate(values, first)]
        return [bool(symptoms) for symptoms in _observe(detector, reports)]

    detector = next(d for d in battery(SETTINGS) if d.name == name)
    assert not any(show(1, *[usual] * 30))
    assert show(31, *[faulty] * 4)[-1]
    detector.settle(["lr", "advantage_std"])
    assert show(35, faulty) == [True], "nothing was done about it"
    detector.settle([signal])
    assert show(36, usual) == [False], "the harm has gone, and at once so has the alarm"
    assert show(37, faulty, faulty)[-1], "it is found again without a new warm-up"


def test_explosion_that_goes_on_after_a_remedy_is_counted_anew(make_report: Make) -> None:
    detector = next(d for d in battery(SETTINGS) if d.name == "blow_up:kl_ref")
    _observe(detector, [make_report(step, kl_ref=0.1 if step <= 20 else 4.0) for step in range(1, 26)])
    detector.settle(["kl_ref"])
    before, after = _observe(detector, [make_report(step, kl_ref=4.0) for step in (26, 27)])
    assert not before
    assert [symptom.onset for symptom in after] == [26]


def test_what_is_not_finite_or_not_declared_is_not_settled(make_report: Make) -> None:
    for detector, values in zip(battery(SETTINGS)[:2], ({"loss": math.nan}, {"lr_excess": 1.0}), strict=True):
        assert detector.observe(make_report(1, **values))
        detector.settle(list(values))
        (symptom,) = detector.observe(make_report(2, **values))
        assert symptom.onset == (1 if "lr_excess" in values else 2)


@pytest.mark.parametrize(
    ("signal", "count"), [("golden_mismatch_rate", "golden_count"), ("known_call_error_rate", "known_call_count")]
)
def test_source_that_fails_its_checks_is_noticed_and_opens_nothing(make_report: Make, signal: str, count: str) -> None:
    detector = next(d for d in battery(SETTINGS) if d.name == f"rate:{signal}")
    found = _observe(detector, [make_report(step, **{signal: 1.0, count: 16.0}) for step in (1, 2, 3, 4)])
    (symptom,) = found[-1]
    assert (symptom.signal, symptom.direction, symptom.alarm) == (signal, 1, False)
    # A step in which nothing was asked leaves it as it stands.
    assert detector.observe(make_report(5, **{signal: math.nan, count: 0.0}))


@pytest.mark.parametrize(
    ("name", "signal"), [("update_size", "update_ratio"), ("blow_up:kl_ref", "kl_ref"), ("shift:kl_ref", "kl_ref")]
)
@pytest.mark.parametrize("place", [1, 4, 7, 12])
def test_infinite_value_is_no_reference(make_report: Make, name: str, signal: str, place: int) -> None:
    """Found by hand: an infinite update became the largest of a hundred, and every later one had no logarithm."""
    values = [0.1] * 30
    values[place - 1] = math.inf
    detector = next(d for d in battery(SETTINGS) if d.name == name)
    found = _observe(detector, [make_report(step, **{signal: value}) for step, value in enumerate(values, 1)])
    assert not any(found[place + 3 :])
    after = [make_report(step, **{signal: 60.0}) for step in (31, 32)]
    assert _observe(detector, after)[1], "it judges on"


@pytest.mark.parametrize("level", [0.6, 5.0])
def test_kl_that_was_large_from_the_first_step_on_is_no_explosion(make_report: Make, level: float) -> None:
    """A run that is resumed, or whose KL lost its reference to a lever, has nothing to have exploded from."""
    detector = next(d for d in battery(SETTINGS) if d.name == "blow_up:kl_ref")
    assert not any(_observe(detector, [make_report(step, kl_ref=level) for step in range(1, 40)]))
    assert _observe(detector, [make_report(step, kl_ref=4 * level) for step in (40, 41, 42)])[2]
