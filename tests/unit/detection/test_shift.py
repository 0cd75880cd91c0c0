"""Runs held against a profile of healthy ones: how often that lies, how soon it sees, and what it is quiet on."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import median

import numpy as np
import pytest

from rftfm_ray.config import parse_config
from rftfm_ray.detection.detectors.base import Detector
from rftfm_ray.detection.detectors.shift import ProfileDetector, ShiftDetector
from rftfm_ray.detection.reference.fitting import RunSeries, fit, series_of
from rftfm_ray.detection.reference.profile import SignalProfile
from rftfm_ray.detection.suite import ALARMED, NOTICE_NATS, NOTICED, WatchSettings, battery, watch_settings
from rftfm_ray.diagnosis.fingerprints import FINGERPRINTS
from rftfm_ray.diagnosis.watch import Watch
from rftfm_ray.types import StepId
from rftfm_ray.verdicts import StepReport, Symptom

Make = Callable[..., StepReport]
Recorded = dict[str, list[StepReport]]

STEPS, SD = 60, 0.1
THRESHOLD = math.log(10_000)
HEALTHY = Path(__file__).parents[3] / "docs" / "healthy_runs.csv"
COURSE = 1 - 0.5 * (1 - np.exp(-np.arange(1, STEPS + 1) / 15))


def runs(seed: int, count: int, rho: float) -> np.ndarray:
    """Healthy runs around the course, (count, STEPS)."""
    noise = np.random.default_rng(seed).standard_normal((count, STEPS))
    for step in range(1, STEPS):
        noise[:, step] = rho * noise[:, step - 1] + math.sqrt(1 - rho**2) * noise[:, step]
    return COURSE + SD * noise


def profile(seed: int, count: int, rho: float) -> SignalProfile:
    """Fitted to `count` of them."""
    found = fit([RunSeries(np.arange(1, STEPS + 1), {"entropy": row}) for row in runs(seed, count, rho)])
    return found.signals[0]


def own(alarm: bool = False) -> ShiftDetector:
    """What takes over after a declared change."""
    return ShiftDetector("entropy", (1, -1), alarm=alarm, threshold=NOTICE_NATS, warmup=5)


def detector(found: SignalProfile, alarms: Sequence[int] = (1, -1), notices: Sequence[int] = ()) -> ProfileDetector:
    """As the battery sets it."""
    return ProfileDetector(
        found, alarms=alarms, notices=notices, threshold=THRESHOLD, notice=NOTICE_NATS, own=own()
    )  # fmt: skip


def show(watcher: Detector, make_report: Make, levels: Sequence[float], first: int = 1) -> dict[int, Symptom]:
    """The symptom of each step that has one."""
    steps = {step: watcher.observe(make_report(step, entropy=float(x))) for step, x in enumerate(levels, first)}
    return {step: symptoms[0] for step, symptoms in steps.items() if symptoms}


def share_alarmed(make_report: Make, count: int, rho: float, plain: bool = False) -> float:
    """False alarms in 400 healthy runs, 20 to each of 20 profiles; `plain`: as if neighbouring steps were unlike."""
    alarms = 0
    for seed in range(20):
        found = profile(seed, count, rho)
        if plain:
            found = replace(found, long_run_variance=found.spread**2)
        alarms += sum(bool(show(detector(found), make_report, run)) for run in runs(1000 + seed, 20, rho))
    return alarms / 400


@pytest.mark.parametrize(("count", "rho"), [(2, 0.0), (2, 0.5), (3, 0.5), (10, 0.5), (10, 0.8)])
def test_healthy_runs_are_left_alone(make_report: Make, count: int, rho: float) -> None:
    """The budget is one alarm in 10,000 steps: 0.6 % of runs of 60 steps."""
    assert share_alarmed(make_report, count, rho) <= 0.01


def test_runs_that_learn_at_different_speeds_are_left_alone(make_report: Make) -> None:
    """Two runs say little of a third: how fast it falls varies by a fifth."""
    alarms = 0
    for seed in range(20):
        rng = np.random.default_rng(3000 + seed)
        speeds = 15 * np.exp(0.2 * rng.standard_normal((22, 1)))
        levels = 1 - 0.5 * (1 - np.exp(-np.arange(1, STEPS + 1) / speeds)) + 0.5 * (runs(4000 + seed, 22, 0.3) - COURSE)
        fitted = fit([RunSeries(np.arange(1, STEPS + 1), {"entropy": row}) for row in levels[:2]]).signals[0]
        assert fitted.freedom == 4
        alarms += sum(bool(show(detector(fitted), make_report, row)) for row in levels[2:])
    assert alarms / 400 <= 0.03


def test_plain_spread_would_alarm_in_healthy_runs(make_report: Make) -> None:
    """The reason for a long-run one; the bound above would not hold."""
    assert share_alarmed(make_report, 10, 0.8, plain=True) > 0.2


@pytest.mark.parametrize(
    ("count", "rho", "shift", "most"),
    [(10, 0.0, 3, 5), (10, 0.5, 3, 10), (10, 0.5, 5, 4), (3, 0.5, 5, 6), (2, 0.5, 5, 8)],
)
@pytest.mark.parametrize("side", [1, -1])
def test_shift_is_found_soon(make_report: Make, count: int, rho: float, shift: float, most: float, side: int) -> None:
    """Median delay in steps over 100 runs; onset at step 31, `shift` in standard deviations of a step."""
    delays = []
    for seed in range(20):
        found = profile(seed, count, rho)
        for run in runs(2000 + seed, 5, rho):
            levels = run + np.where(np.arange(STEPS) >= 30, side * shift * SD, 0)
            symptoms = show(detector(found), make_report, levels)
            late = [step for step in symptoms if step > 30]
            delays.append(late[0] - 30 if late else math.inf)
            assert not late or symptoms[late[0]].direction == side
    assert 1 < median(delays) <= most


@pytest.fixture(scope="module")
def flat() -> SignalProfile:
    """Entropy of exactly 0.5 over 20 steps, with a spread of 0.02."""
    return SignalProfile("entropy", (0.5,) * 20, (10,) * 20, (50,) * 20, 0.02, 0.0, 0.0004, 36.0, 200)


def test_symptom_says_what_is_seen(make_report: Make, flat: SignalProfile) -> None:
    found = show(detector(flat), make_report, [0.5] * 9 + [0.3] * 4)
    assert list(found) == [11, 12, 13], "one blip is no alarm, two are"
    symptom = found[11]
    assert (symptom.detector, symptom.signal, symptom.alarm, symptom.direction) == (
        "profile:entropy", "entropy", True, -1,
    )  # fmt: skip
    assert (symptom.value, symptom.reference, symptom.onset, symptom.onset_low) == (0.3, 0.5, 10, 9)
    assert symptom.reason == "entropy is 0.3, and has been below that of healthy runs since step 10 (0.5 at step 11)"


def test_single_blip_is_no_alarm_however_large(make_report: Make, flat: SignalProfile) -> None:
    for blip in (1e9, -1e300):
        assert not show(detector(flat), make_report, [0.5] * 5 + [blip] + [0.5] * 10)


def test_alarm_ends_when_the_run_is_back(make_report: Make, flat: SignalProfile) -> None:
    found = show(detector(flat), make_report, [0.5] * 4 + [0.3] * 3 + [0.5] * 12)
    assert min(found) == 6
    assert max(found) < 16
    assert all(later - step == 1 for step, later in pairwise(found))


def test_side_that_nobody_can_name_is_a_notice_and_comes_sooner(make_report: Make, flat: SignalProfile) -> None:
    slightly = [0.5] * 4 + [0.55] * 6
    noticed = show(detector(flat, alarms=(-1,), notices=(1,)), make_report, slightly)
    alarmed = show(detector(flat), make_report, slightly)
    assert not any(symptom.alarm for symptom in noticed.values())
    assert all(symptom.alarm for symptom in alarmed.values())
    assert min(noticed) < min(alarmed)


def test_two_sides_share_the_budget(make_report: Make, flat: SignalProfile) -> None:
    slightly = [0.5] * 4 + [0.53] * 40
    one, two = (min(show(detector(flat, alarms=sides), make_report, slightly)) for sides in ((1,), (1, -1)))
    assert one < two


def test_what_begins_beyond_the_last_step_opens_nothing(make_report: Make, flat: SignalProfile) -> None:
    beyond = show(detector(flat), make_report, [0.5] * 20 + [0.3] * 4)
    assert beyond
    assert not any(symptom.alarm for symptom in beyond.values())
    assert beyond[22].reason.endswith("since step 21 (0.5 at step 20, the last of the profile)")
    within = show(detector(flat), make_report, [0.5] * 18 + [0.3] * 4)
    assert all(symptom.alarm for symptom in within.values()), "it began where healthy runs are known"


def test_value_that_is_missing_changes_nothing(make_report: Make, flat: SignalProfile) -> None:
    whole = show(detector(flat), make_report, [0.5, 0.3, 0.3])
    gaps = show(detector(flat), make_report, [0.5, 0.3, math.nan, 0.3, math.inf])
    assert [symptom.score for symptom in gaps.values()] == [whole[3].score] * 2


def test_declared_change_hands_over_to_the_runs_own_past(make_report: Make, flat: SignalProfile) -> None:
    watcher, alone = detector(flat), own()
    assert show(watcher, make_report, [0.3] * 3)
    watcher.forget(["kl_ref"], 4)
    assert show(watcher, make_report, [0.3], 4), "another signal's change"
    watcher.forget(["entropy"], 5)
    levels = [0.3] * 12 + [0.9] * 3
    found, expected = (show(each, make_report, levels, 5) for each in (watcher, alone))
    assert list(found) == list(expected)
    assert min(found) > 16, "what was declared is the usual"
    assert {symptom.detector for symptom in found.values()} == {watcher.name}
    assert not any(symptom.alarm for symptom in found.values())
    watcher.forget(["entropy"], 20)
    assert not show(watcher, make_report, [0.1] * 5, 20), "and once more"


def test_evidence_begins_anew_after_a_remedy(make_report: Make, flat: SignalProfile) -> None:
    watcher = detector(flat)
    assert show(watcher, make_report, [0.3] * 3)
    watcher.settle(["kl_ref"])
    assert show(watcher, make_report, [0.5], 4)
    watcher.settle(["entropy"])
    assert not show(watcher, make_report, [0.5], 5)
    assert list(show(watcher, make_report, [0.3] * 2, 6)) == [7], "the profile stays"


def test_battery_without_a_profile_is_as_it_was(watch_settings: WatchSettings) -> None:
    assert watch_settings.profile is None
    assert not any(isinstance(d, ProfileDetector) for d in battery(watch_settings))


def test_battery_takes_the_profile_for_the_signals_that_it_has(watch_settings: WatchSettings) -> None:
    fitted = fit([RunSeries(np.arange(1, STEPS + 1), {"entropy": row, "loss": row}) for row in runs(1, 2, 0.0)])
    plain, profiled = battery(watch_settings), battery(replace(watch_settings, profile=fitted))
    names = [detector.name for detector in profiled]
    assert names == [d.name.replace("shift:entropy", "profile:entropy") for d in plain]


def test_settings_carry_the_profile() -> None:
    fitted = fit([RunSeries(np.arange(1, STEPS + 1), {"entropy": row}) for row in runs(1, 2, 0.0)])
    assert watch_settings(parse_config({})).profile is None
    assert watch_settings(parse_config({}), fitted).profile is fitted


@pytest.mark.parametrize(("name", "side"), [(name, side) for name, sides in ALARMED.items() for side in sides])
def test_every_alarm_of_a_profile_can_be_named(name: str, side: int) -> None:
    assert side in NOTICED[name]
    assert [code for code, fingerprint in FINGERPRINTS.items() if fingerprint.weights.get(name, 0) * side > 0]


def healthy_runs(make_report: Make) -> Mapping[tuple[str, str], list[StepReport]]:
    """Six real runs of 40 steps by task and seed."""
    found: dict[tuple[str, str], list[StepReport]] = {}
    with HEALTHY.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            key, step = (row.pop("task"), row.pop("seed")), int(row.pop("step"))
            found.setdefault(key, []).append(make_report(step, **{name: float(text) for name, text in row.items()}))
    return found


@pytest.mark.parametrize("task", ["addition", "calculator"])
@pytest.mark.parametrize("seed", ["1", "2", "3"])
def test_real_healthy_run_against_the_two_others_is_left_alone(
    make_report: Make, watch_settings: WatchSettings, task: str, seed: str
) -> None:
    found = healthy_runs(make_report)
    others = [run for (name, other), run in found.items() if name == task and other != seed]
    assert len(others) == 2
    settings = replace(watch_settings, profile=fit([series_of(run) for run in others]))
    watch = [d for d in battery(settings) if isinstance(d, ProfileDetector)]
    assert {"profile:reward_mean", "profile:kl_ref", "profile:entropy", "profile:length_mean"} <= {
        d.name for d in watch
    }
    assert not [s for report in found[task, seed] for d in watch for s in d.observe(report)]


@pytest.mark.parametrize(
    ("run", "others", "code", "by"),
    [
        ("calculator_od1", ("calculator_1", "calculator_2"), "OD-1", {"kl_ref", "truncated_rate"}),
        ("arithmetic_od1", ("arithmetic_1", "arithmetic_2"), "OD-1", {"kl_ref", "reward_mean"}),
        ("calculator_te1", ("calculator_1", "calculator_2"), "TE-1", {"reward_mean"}),
    ],
)
def test_real_fault_is_seen_and_still_named(
    recorded: Recorded, watch_settings: WatchSettings, run: str, others: tuple[str, ...], code: str, by: set[str]
) -> None:
    settings = replace(watch_settings, profile=fit([series_of(recorded[other]) for other in others]))
    watch = Watch(settings)
    diagnoses = [found for report in recorded[run] if (found := watch.assess(report).diagnosis)]
    assert {diagnosis.code for diagnosis in diagnoses} == {code}
    alarmed = {s.signal for d in diagnoses for s in d.symptoms if s.alarm and s.detector.startswith("profile:")}
    assert by <= alarmed


def test_report_of_another_attempt_is_held_against_its_step(flat: SignalProfile, make_report: Make) -> None:
    """After a rollback the step counts, not how many were paid for."""
    falling = replace(flat, mean=tuple(1 - 0.04 * step for step in range(20)))
    reports = [
        replace(make_report(step, entropy=1 - 0.04 * (step - 1)), id=StepId(1, step, step + 30))
        for step in range(1, 21)
    ]
    watcher = detector(falling)
    assert not [s for report in reports for s in watcher.observe(report)]
