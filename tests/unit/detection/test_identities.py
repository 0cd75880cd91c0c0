"""What is so by construction: every break is found, dated and named, and what only looks like one is not."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from rftfm_ray.detection.detectors.identities import IDENTITIES, LEAST_RATE, Identity, IdentityDetector
from rftfm_ray.detection.suite import WatchSettings
from rftfm_ray.diagnosis.watch import Watch
from rftfm_ray.signals.schema import INDEX
from rftfm_ray.verdicts import Diagnosis, Evidence, StepReport, Symptom

Make = Callable[..., StepReport]
Recorded = dict[str, list[StepReport]]

BY_NAME = {identity.name: identity for identity in IDENTITIES}
# By identity: the smallest break that can come about, the code that it is called by, and the twin that is in order.
CASES: dict[str, tuple[float, str, float]] = {
    "advantages": (1.01e-5, "CA-2", 1e-5),
    "observations": (1 / 4096, "TE-2", 0.0),
    "replayed_observations": (1 / 128, "TE-2", 0.0),
    "replayed_terminations": (1 / 128, "TE-3", 0.0),
    "terminations": (1 / 4096, "TE-3", 0.0),
    "served_weights": (1.0, "OD-2", 0.0),
    "staleness": (1 / 128, "UNKNOWN", 0.0),
    # One weight of the sample has moved.
    "updates_land": (0.0, "OD-2", 1 / 65_536),
}
every_identity = pytest.mark.parametrize("name", CASES)
DIRECTIONS = dict.fromkeys(CASES, 1) | {"updates_land": -1}


def detector_of(name: str) -> IdentityDetector:
    """The detector of one identity."""
    return IdentityDetector(BY_NAME[name])


def observe(detector: IdentityDetector, make: Make, first: int, *values: float) -> list[Sequence[Symptom]]:
    """What stands after each of several steps in which the identity's signal has these values."""
    signal = BY_NAME[detector.name.removeprefix("identity:")].signal
    return [detector.observe(make(step, **{signal: value})) for step, value in enumerate(values, first)]


def onsets(found: Sequence[Sequence[Symptom]]) -> list[list[int]]:
    """When each symptom began, step by step."""
    return [[symptom.onset for symptom in symptoms] for symptoms in found]


def test_every_identity_has_a_case() -> None:
    assert list(CASES) == [identity.name for identity in IDENTITIES]
    assert len({identity.signal for identity in IDENTITIES}) == len(IDENTITIES)
    assert all(identity.signal in INDEX and identity.meaning for identity in IDENTITIES)


@every_identity
def test_smallest_break_is_an_alarm_of_its_step(make_report: Make, name: str) -> None:
    broken, _, sound = CASES[name]
    *before, (symptom,) = observe(detector_of(name), make_report, 1, *[sound] * 6, broken)
    assert not any(before)
    identity = BY_NAME[name]
    assert symptom == Symptom(
        detector=f"identity:{name}", signal=identity.signal, evidence=Evidence.IDENTITY, alarm=True,
        direction=DIRECTIONS[name], value=broken, reference=0.0, score=math.inf, onset=7, onset_low=7,
        reason=f"{identity.meaning} ({identity.signal} is {broken:.3g})",
    )  # fmt: skip


@every_identity
def test_break_in_the_first_step_needs_no_reference(make_report: Make, name: str) -> None:
    assert onsets(observe(detector_of(name), make_report, 1, CASES[name][0])) == [[1]]


@every_identity
def test_healthy_twin_stays_silent(make_report: Make, name: str) -> None:
    assert not any(observe(detector_of(name), make_report, 1, *[CASES[name][2]] * 40))


@every_identity
def test_break_is_dated_from_its_first_step_and_gone_with_its_last(make_report: Make, name: str) -> None:
    broken, _, sound = CASES[name]
    found = observe(detector_of(name), make_report, 1, sound, broken, broken, sound, broken, broken)
    assert onsets(found) == [[], [2], [2], [], [5], [5]]


@every_identity
def test_what_is_not_measured_is_no_finding_and_keeps_what_stood(make_report: Make, name: str) -> None:
    broken, _, sound = CASES[name]
    values = [math.nan, math.nan, broken, math.nan, math.nan, broken, math.nan, sound, math.nan]
    found = observe(detector_of(name), make_report, 1, *values)
    assert onsets(found) == [[], [], [3], [3], [3], [3], [3], [], []]
    assert found[3] == found[2]


@every_identity
def test_what_has_been_done_about_must_be_seen_broken_again(make_report: Make, name: str) -> None:
    broken, _, sound = CASES[name]
    detector = detector_of(name)
    observe(detector, make_report, 1, broken)
    detector.settle([s for s in INDEX if s != BY_NAME[name].signal])
    assert onsets(observe(detector, make_report, 2, math.nan)) == [[1]], "nothing was done about it"
    detector.settle(["lr", BY_NAME[name].signal])
    assert onsets(observe(detector, make_report, 3, math.nan, sound)) == [[], []]
    detector.settle([BY_NAME[name].signal])
    assert onsets(observe(detector, make_report, 5, broken, broken)) == [[5], [5]]


@every_identity
def test_declared_change_excuses_no_break(make_report: Make, name: str) -> None:
    detector = detector_of(name)
    observe(detector, make_report, 1, CASES[name][0])
    detector.forget(list(INDEX), 2)
    assert onsets(observe(detector, make_report, 2, math.nan, CASES[name][0])) == [[1], [1]]


@every_identity
def test_detector_can_be_kept_while_a_break_stands(make_report: Make, name: str) -> None:
    broken, _, sound = CASES[name]
    detector = detector_of(name)
    observe(detector, make_report, 1, sound, broken)
    kept = [copy.deepcopy(detector), pickle.loads(pickle.dumps(detector))]  # noqa: S301
    observe(detector, make_report, 3, sound)
    for copied in kept:
        assert onsets(observe(copied, make_report, 3, math.nan, broken)) == [[2], [2]]


def diagnosed(
    name: str, make: Make, settings: WatchSettings, value: float, steps: range = range(20, 24)
) -> list[Diagnosis | None]:
    """What a whole watch says of a run in which one identity has this value in `steps`, step by step."""
    watch, signal = Watch(settings), BY_NAME[name].signal
    reports = [make(step, **({signal: value} if step in steps else {})) for step in range(1, 30)]
    return [watch.assess(report).diagnosis for report in reports]


@every_identity
def test_watch_names_a_break_and_nothing_before_or_after(
    make_report: Make, watch_settings: WatchSettings, name: str
) -> None:
    broken, code, sound = CASES[name]
    found = diagnosed(name, make_report, watch_settings, broken)
    codes = {step: diagnosis.code for step, diagnosis in enumerate(found, 1) if diagnosis}
    assert codes == dict.fromkeys(range(20, 24), code)
    first = found[19]
    assert first is not None
    assert (first.onset, first.onset_low) == (20, 20)
    assert [symptom.detector for symptom in first.symptoms] == [f"identity:{name}"]
    assert first.summary.startswith(f"Since about step 20: {BY_NAME[name].meaning} (")
    assert first.probability > (0.3 if code == "UNKNOWN" else 0.8)
    assert not any(diagnosed(name, make_report, watch_settings, sound))


@every_identity
def test_break_is_an_identity_to_whoever_needs_to_be_sure(
    make_report: Make, watch_settings: WatchSettings, name: str
) -> None:
    first = next(found for found in diagnosed(name, make_report, watch_settings, CASES[name][0]) if found)
    assert {symptom.evidence for symptom in first.symptoms if symptom.alarm} == {Evidence.IDENTITY}


@pytest.mark.parametrize(
    "excuse",
    [
        {"vetoes": 1.0},
        {"vetoes": math.nan},
        {"grad_norm": 0.0},
        {"grad_norm": math.nan},
        {"lr": 0.0},
        {"lr": LEAST_RATE / 2},
        {"lr": math.nan},
        {"valid_rate": 0.0},
        {"valid_rate": math.nan},
    ],
    ids=lambda excuse: "=".join(map(str, *excuse.items())),
)
def test_weights_need_not_move_where_no_update_was_to_move_them(make_report: Make, excuse: dict[str, float]) -> None:
    detector = detector_of("updates_land")
    assert not detector.observe(make_report(1, changed_rate=0.0, **excuse))
    assert detector.observe(make_report(2, changed_rate=0.0)), "with nothing to excuse it, it is a break"
    assert not detector.observe(make_report(3, changed_rate=0.0, **excuse)), "and gone with the next that is none"


def test_smallest_rate_that_must_move_a_weight(make_report: Make) -> None:
    still = {"changed_rate": 0.0, "grad_norm": 1e-12, "valid_rate": 1 / 128}
    assert detector_of("updates_land").observe(make_report(1, lr=LEAST_RATE, **still))
    assert not detector_of("updates_land").observe(make_report(1, lr=LEAST_RATE * 0.99, **still))


def test_condition_of_an_identity_is_asked_of_the_same_step(make_report: Make) -> None:
    identity = Identity("mine", "lr", 0.5, "it is broken", applies=lambda report: report.id.step > 3)
    assert [identity.broken(make_report(step, lr=1.0)) for step in (3, 4)] == [False, True]
    assert not identity.broken(make_report(4, lr=0.5))
    assert not identity.broken(make_report(4, lr=math.nan))


SOUND = {INDEX[BY_NAME[name].signal]: sound for name, (_, _, sound) in CASES.items()} | {INDEX["vetoes"]: 0.0}


def measured(report: StepReport, **values: float) -> StepReport:
    """A recorded step in which every identity was measured too and found in order, but for `values`."""
    found = SOUND | {INDEX[signal]: value for signal, value in values.items()}
    return replace(report, values=tuple(found.get(place, figure) for place, figure in enumerate(report.values)))


FAULTY = ("calculator_od1", "arithmetic_od1", "calculator_te1", "calculator_rf1")


@pytest.mark.parametrize("run", [*FAULTY, "calculator_1"])
def test_recorded_fault_of_another_kind_breaks_no_identity(
    recorded: Recorded, watch_settings: WatchSettings, run: str
) -> None:
    watch, twin = Watch(watch_settings), Watch(watch_settings)
    for report in recorded[run]:
        found, plain = watch.assess(measured(report)).diagnosis, twin.assess(report).diagnosis
        assert repr(found) == repr(plain), "identities in order change no verdict"
        assert not [s for s in (found.symptoms if found else ()) if s.detector.startswith("identity:")]


@pytest.mark.parametrize("run", FAULTY)
@every_identity
def test_break_shows_beside_a_recorded_fault_too(
    recorded: Recorded, watch_settings: WatchSettings, run: str, name: str
) -> None:
    watch, (*reports, last) = Watch(watch_settings), recorded[run]
    found = [watch.assess(measured(report)).diagnosis for report in reports]
    found.append(watch.assess(measured(last, **{BY_NAME[name].signal: CASES[name][0]})).diagnosis)
    detectors = [symptom.detector for diagnosis in found if diagnosis for symptom in diagnosis.symptoms]
    assert [detector for detector in detectors if detector.startswith("identity:")] == [f"identity:{name}"]
