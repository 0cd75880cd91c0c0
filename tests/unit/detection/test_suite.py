"""Which detectors watch a run, how they are set, and what the whole suite makes of recorded runs."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rftfm_ray.config import RunConfig, parse_config
from rftfm_ray.detection.detectors.change_point import ChangePointDetector
from rftfm_ray.detection.detectors.identities import IDENTITIES
from rftfm_ray.detection.detectors.joint import NOTICED, JointDetector
from rftfm_ray.detection.detectors.rates import RateDetector
from rftfm_ray.detection.detectors.readings import ReadingDetector, reading_detectors
from rftfm_ray.detection.detectors.trend import trend_detectors
from rftfm_ray.detection.laws.declaring import declared_course
from rftfm_ray.detection.laws.table import FLOOR_TABLE, LAWS
from rftfm_ray.detection.monitor import Monitor
from rftfm_ray.detection.reference.fitting import fit_profile, series_of
from rftfm_ray.detection.reference.mixture import Mode, Reference, reference_of
from rftfm_ray.detection.reference.priors import NO_CRITIC, shipped
from rftfm_ray.detection.statefile import save_state
from rftfm_ray.detection.suite import SAFETY, SEQUENTIAL, MonitorSettings, build_detectors, monitor_settings
from rftfm_ray.diagnosis.classify import diagnose
from rftfm_ray.signals.schema import INDEX
from rftfm_ray.verdicts import Evidence, StepReport
from tests.detecting import SETTINGS, make_report, recorded_faults, reference

HEALTHY = Path(__file__).parents[3] / "docs" / "healthy_runs.csv"
every_mode = pytest.mark.parametrize("mode", Mode)


@every_mode
def test_suite_is_the_same_but_for_what_compares_with_a_reference(mode: Mode) -> None:
    names = [detector.name for detector in build_detectors(SETTINGS, reference(mode))]
    assert names == [
        "finite", "declared_rate", *(f"identity:{identity.name}" for identity in IDENTITIES),
        *(f"law:{name}" for name in LAWS), "law:own_reward", *(f"floor:{name}" for name in FLOOR_TABLE),
        "rate:trained_mismatch_rate", "rate:tool_error_rate", "rate:verifier_error_rate", "rate:golden_mismatch_rate",
        "rate:known_call_error_rate", "floor:tool_error_rate",
        "probe", "update_size", "blow_up:kl_ref", *(detector.name for detector in trend_detectors()),
        *(detector.name for detector in reading_detectors()), "joint",
        *(["change_point"] if mode is not Mode.FULL else []),
    ]  # fmt: skip
    assert len(set(names)) == len(names)


@every_mode
def test_every_output_can_be_read(mode: Mode) -> None:
    for detector in build_detectors(SETTINGS, reference(mode)):
        assert detector.outputs
        for number, output in enumerate(detector.outputs):
            # The joint detector's alarm names another signal from step to step.
            assert output.signal in INDEX or (detector.name, number) == ("joint", 0)
            assert output.direction in (-1, 1) or (detector.name, number) == ("joint", 0)
            notices = isinstance(detector, JointDetector | ReadingDetector)
            assert output.alarm or notices or output.signal == "regrade_error_mean"


def test_what_is_exact_needs_no_threshold_and_nothing_else_is_an_identity() -> None:
    exact = ("finite", "declared_rate", "identity:")
    for detector in build_detectors(SETTINGS, reference(Mode.NONE)):
        identities = {output.evidence is Evidence.IDENTITY for output in detector.outputs}
        assert identities == {detector.name.startswith(exact)}


def test_settings_are_those_of_the_configuration() -> None:
    guard = {"warmup_steps": 9, "false_alarm_steps": 4321, "regrade_noise": 0.02}
    settings = monitor_settings(parse_config({"guard": guard, "probe": {"size": 32}}))
    declared = declared_course(RunConfig())
    assert settings == MonitorSettings(9, 4321, 0.02, 32, declared)
    assert [first for first, _ in declared] == [1]


def test_one_budget_sets_every_threshold(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = dict[str, tuple[float, ...]]()

    def remember(kind: type[Any]) -> Any:
        begin = kind.__init__

        def init(self: Any, *arguments: Any) -> None:
            asked[kind.__name__] = arguments
            begin(self, *arguments)

        return init

    for kind in (JointDetector, ChangePointDetector, RateDetector):
        monkeypatch.setattr(kind, "__init__", remember(kind))
    found = {}
    for budget in (1_000, 100_000):
        build_detectors(replace(SETTINGS, false_alarm_steps=budget), reference(Mode.NONE))
        found[budget] = asked["JointDetector"][1], asked["ChangePointDetector"][0], asked["RateDetector"][1]
    assert found[1_000][0] == SAFETY * 1_000
    assert found[100_000][0] == SAFETY * 100_000
    assert found[100_000][1] > found[1_000][1] > 0
    assert found[1_000][2] == pytest.approx(math.log(SEQUENTIAL * SAFETY * 1_000))
    assert found[100_000][2] - found[1_000][2] == pytest.approx(math.log(100))


def test_every_notice_is_of_a_signal_with_its_sides() -> None:
    assert all(name in INDEX and sides and set(sides) <= {1, -1} for name, sides in NOTICED.items())


@pytest.mark.parametrize(
    "run", ["calculator_300", "arithmetic_300", "calculator_1", "calculator_2", "arithmetic_1", "arithmetic_2"]
)
def test_recorded_healthy_run_has_no_alarm(run: str) -> None:
    reports = recorded_faults()[run]
    assert len(reports) == (300 if run.endswith("300") else 40)
    observed = Monitor(SETTINGS, reference(Mode.NONE)).observe(reports)
    assert [one for seen in observed for one in seen.symptoms if one.alarm] == []


@lru_cache(maxsize=1)
def documented_runs() -> Mapping[tuple[str, str], list[StepReport]]:
    """Six real runs of 40 steps by task and seed."""
    runs: dict[tuple[str, str], list[StepReport]] = {}
    with HEALTHY.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            key, step = (row.pop("task"), row.pop("seed")), int(row.pop("step"))
            runs.setdefault(key, []).append(make_report(step, **{name: float(text) for name, text in row.items()}))
    return runs


def small(*runs: list[StepReport]) -> Reference:
    """What a run is compared with whose profile was fitted to two others."""
    priors = shipped(NO_CRITIC)
    return reference_of(fit_profile([series_of(run) for run in runs], prior=priors.healthy), priors)


@pytest.mark.parametrize(("task", "seed"), documented_runs(), ids=lambda part: part)
def test_healthy_run_is_left_alone_beside_a_profile_of_two_others(task: str, seed: str) -> None:
    others = [run for (name, other), run in documented_runs().items() if name == task and other != seed]
    assert len(others) == 2
    observed = Monitor(SETTINGS, small(*others)).observe(documented_runs()[task, seed])
    assert [one for seen in observed for one in seen.symptoms if one.alarm] == []


@pytest.mark.parametrize(
    ("run", "others", "code"),
    [
        ("calculator_od1", ("calculator_1", "calculator_2"), "OD-1"),
        ("arithmetic_od1", ("arithmetic_1", "arithmetic_2"), "OD-1"),
        ("calculator_te1", ("calculator_1", "calculator_2"), "TE-1"),
    ],
)
def test_real_fault_is_seen_and_still_named_beside_a_small_profile(
    run: str, others: tuple[str, ...], code: str
) -> None:
    known = small(*(recorded_faults()[other] for other in others))
    assert known.mode is Mode.SMALL
    observed = Monitor(SETTINGS, known).observe(recorded_faults()[run])
    diagnoses = [diagnosis for seen in observed if (diagnosis := diagnose(seen.symptoms))]
    assert {diagnosis.code for diagnosis in diagnoses} == {code}
    compared = {one.detector for diagnosis in diagnoses for one in diagnosis.symptoms if one.alarm}
    assert "joint" in compared


def test_state_does_not_grow_with_the_run(tmp_path: Path) -> None:
    """Every identity is broken from the first step on: windows are full after 500 steps and stay as they are."""
    run, monitor, sizes = recorded_faults()["arithmetic_300"], Monitor(SETTINGS, reference(Mode.NONE)), {}
    broken = {INDEX[one.signal]: one.nominal + (one.direction or 1) * (one.limit + 0.1) for one in IDENTITIES}
    broken |= {INDEX["changed_rate"]: 0.0, INDEX["vetoes"]: 0.0}
    reports = []
    for step in range(1, 5001):
        source = run[100 + step % 200]
        values = tuple(broken.get(place, figure) for place, figure in enumerate(source.values))
        reports.append(replace(source, id=replace(source.id, step=step), values=values))
    for start in range(0, 5000, 500):
        (*_, seen) = monitor.observe(reports[start : start + 500])
        save_state(tmp_path / "state", monitor.state_dict(), "it")
        sizes[start + 500] = (tmp_path / "state").stat().st_size
    told = {one.signal for one in seen.symptoms if one.evidence is Evidence.IDENTITY}
    assert told == {identity.signal for identity in IDENTITIES}
    # Numbers take a few digits more in the text of the header, and that is padded.
    assert abs(sizes[5000] - sizes[500]) <= 200
    # One number kept for each step and detector would take a million bytes.
    assert sizes[5000] < 400_000
    assert np.isfinite(seen.scores.telemetry)
