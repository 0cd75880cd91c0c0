"""What is so by construction: every break is found, dated and named, and what only looks like one is not."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from rftfm_ray.detection.detectors.identities import IDENTITIES, LEAST_RATE, Identity, IdentityDetector
from rftfm_ray.detection.monitor import Monitor
from rftfm_ray.detection.reference.mixture import Mode
from rftfm_ray.diagnosis.classify import diagnose
from rftfm_ray.signals.schema import INDEX
from rftfm_ray.verdicts import Diagnosis, Evidence, StepReport, Symptom
from tests.detecting import SETTINGS, Watched, reference, view_of

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
    "credit": (1.01e-5, "CA-2", 1e-5),
    "returns": (1.01e-5, "CA-1", 1e-5),
    "values": (1.01e-5, "CA-1", 1e-5),
    "samples": (1 / 4096, "CA-3", 0.0),
    "update_gain": (0.985, "OD-2", 1.005),
    # One token of a thousand, of one turn in 4096.
    "turn_limits": (-1e-3 / 4096 * 10, "TE-3", 0.0),
    "decoded_observations": (1 / 4096, "TE-2", 0.0),
}
every_identity = pytest.mark.parametrize("name", CASES)
DIRECTIONS = dict.fromkeys(CASES, 1) | dict.fromkeys(("updates_land", "update_gain", "turn_limits"), -1)
NOMINAL = {"update_gain": 1.0}
# Wrong credit alone, and wrong advantages alone, may be noise or another token's.
LEAST_SURE = {"staleness": 0.3, "credit": 0.6, "advantages": 0.6}
# Its signal is telemetry too: the same break is evidence of two kinds, and telemetry takes longer to be calm again.
TELEMETRY_TOO = ("updates_land",)


def watched(name: str) -> Watched:
    """The detector of one identity."""
    return Watched(IdentityDetector(BY_NAME[name]))


def observe(watching: Watched, make: Make, first: int, *values: float) -> list[Sequence[Symptom]]:
    """What is open after each of several steps in which the identity's signal has these values."""
    signal = BY_NAME[watching.detector.name.removeprefix("identity:")].signal
    reports = [make(step, **{signal: value}) for step, value in enumerate(values, first)]
    symptoms = watching.observe(reports)
    return [symptoms.get(report.id.step, []) for report in reports]


def onsets(symptoms: Sequence[Sequence[Symptom]]) -> list[list[int]]:
    """When each symptom began, step by step."""
    return [[symptom.onset for symptom in each] for each in symptoms]


def test_every_identity_has_a_case() -> None:
    assert list(CASES) == [identity.name for identity in IDENTITIES]
    assert len({identity.signal for identity in IDENTITIES}) == len(IDENTITIES)
    assert all(identity.signal in INDEX and identity.meaning for identity in IDENTITIES)


@every_identity
def test_smallest_break_is_an_alarm_of_its_step(make_report: Make, name: str) -> None:
    broken, _, sound = CASES[name]
    *before, (symptom,) = observe(watched(name), make_report, 1, *[sound] * 6, broken)
    assert not any(before)
    identity = BY_NAME[name]
    assert symptom == Symptom(
        detector=f"identity:{name}", signal=identity.signal, evidence=Evidence.IDENTITY, alarm=True,
        direction=DIRECTIONS[name], value=broken, reference=NOMINAL.get(name, 0.0), score=math.inf, onset=7,
        onset_low=7,
        reason=f"{identity.meaning} ({identity.signal} is {broken:.3g})",
    )  # fmt: skip


@every_identity
def test_break_in_the_first_step_needs_no_reference(make_report: Make, name: str) -> None:
    assert onsets(observe(watched(name), make_report, 1, CASES[name][0])) == [[1]]


@every_identity
def test_healthy_twin_stays_silent(make_report: Make, name: str) -> None:
    assert not any(observe(watched(name), make_report, 1, *[CASES[name][2]] * 40))


@every_identity
def test_break_is_dated_from_its_first_step_and_gone_with_its_last(make_report: Make, name: str) -> None:
    broken, _, sound = CASES[name]
    symptoms = observe(watched(name), make_report, 1, sound, broken, broken, sound, broken, broken)
    assert onsets(symptoms) == [[], [2], [2], [], [5], [5]]


@every_identity
def test_what_is_not_measured_is_no_finding_and_keeps_what_is_open(make_report: Make, name: str) -> None:
    broken, _, sound = CASES[name]
    values = [math.nan, math.nan, broken, math.nan, math.nan, broken, math.nan, sound, math.nan]
    symptoms = observe(watched(name), make_report, 1, *values)
    assert onsets(symptoms) == [[], [], [3], [3], [3], [3], [3], [], []]
    assert symptoms[3] == symptoms[2]


@every_identity
def test_what_has_been_done_about_must_be_seen_broken_again(make_report: Make, name: str) -> None:
    broken, _, sound = CASES[name]
    watching = watched(name)
    observe(watching, make_report, 1, broken)
    watching.settle([s for s in INDEX if s != BY_NAME[name].signal])
    assert onsets(observe(watching, make_report, 2, math.nan)) == [[1]], "nothing was done about it"
    watching.settle(["lr", BY_NAME[name].signal])
    assert onsets(observe(watching, make_report, 3, math.nan, sound)) == [[], []]
    watching.settle([BY_NAME[name].signal])
    assert onsets(observe(watching, make_report, 5, broken, broken)) == [[5], [5]]


@every_identity
def test_declared_change_excuses_no_break(make_report: Make, name: str) -> None:
    watching = watched(name)
    observe(watching, make_report, 1, CASES[name][0])
    watching.forget(list(INDEX), 2)
    assert onsets(observe(watching, make_report, 2, math.nan, CASES[name][0])) == [[1], [1]]


def diagnosed(name: str, make: Make, value: float, steps: range = range(20, 24)) -> list[Diagnosis | None]:
    """What the whole monitor leads to in a run in which one identity has this value in `steps`, step by step."""
    signal = BY_NAME[name].signal
    reports = [make(step, **({signal: value} if step in steps else {})) for step in range(1, 30)]
    return [diagnose(each.symptoms) for each in Monitor(SETTINGS, reference(Mode.NONE)).observe(reports)]


@every_identity
def test_monitor_names_a_break_and_nothing_before_or_after(make_report: Make, name: str) -> None:
    broken, code, sound = CASES[name]
    diagnoses = diagnosed(name, make_report, broken)
    codes = {step: diagnosis.code for step, diagnosis in enumerate(diagnoses, 1) if diagnosis}
    steps = [
        step for step, one in enumerate(diagnoses, 1)
        if one and any(symptom.detector == f"identity:{name}" for symptom in one.symptoms)
    ]  # fmt: skip
    assert steps == [20, 21, 22, 23]
    assert codes == dict.fromkeys(codes if name in TELEMETRY_TOO else steps, code)
    assert min(codes) == 20
    first = diagnoses[19]
    assert first is not None
    assert first.onset == 20
    assert first.onset_low == 20 or (name in TELEMETRY_TOO and first.onset_low == 19)
    assert [symptom.detector for symptom in first.symptoms if symptom.evidence is Evidence.IDENTITY] == [
        f"identity:{name}"
    ]
    assert len(first.symptoms) == 1 or name in TELEMETRY_TOO
    assert first.summary.startswith(f"Since about step 20: {BY_NAME[name].meaning} (")
    assert first.probability > LEAST_SURE.get(name, 0.8)
    twin = [one for one in diagnosed(name, make_report, sound) if one]
    assert not [s for one in twin for s in one.symptoms if s.evidence is Evidence.IDENTITY]
    assert not twin or name in TELEMETRY_TOO


@every_identity
def test_break_is_an_identity_to_whoever_needs_to_be_sure(make_report: Make, name: str) -> None:
    first = next(diagnosis for diagnosis in diagnosed(name, make_report, CASES[name][0]) if diagnosis)
    evidence = {symptom.evidence for symptom in first.symptoms if symptom.alarm}
    assert max(evidence) is Evidence.IDENTITY
    assert len(evidence) == 1 or name in TELEMETRY_TOO


@pytest.mark.parametrize(
    ("name", "value", "direction", "code"),
    [
        ("update_gain", 4.7, 1, "OD-1"), ("update_gain", 1.011, 1, "OD-1"), ("update_gain", 0.0, -1, "OD-2"),
        ("update_gain", -1.0, -1, "OD-2"), ("turn_limits", 0.7, 1, "UNKNOWN"), ("turn_limits", -0.7, -1, "TE-3"),
    ],
)  # fmt: skip
def test_what_both_directions_break_says_which(
    make_report: Make, name: str, value: float, direction: int, code: str
) -> None:
    ((symptom,),) = observe(watched(name), make_report, 1, value)
    assert (symptom.direction, symptom.value) == (direction, value)
    diagnosis = diagnosed(name, make_report, value)[19]
    assert diagnosis is not None
    assert diagnosis.code == code


def test_other_side_of_a_break_opens_its_own_alarm(make_report: Make) -> None:
    symptoms = observe(watched("update_gain"), make_report, 1, 1.0, 2.0, math.nan, 0.5, 1.0)
    assert [[symptom.direction for symptom in each] for each in symptoms] == [[], [1], [1], [-1], []]


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
    reports = [
        make_report(1, changed_rate=0.0, **excuse), make_report(2, changed_rate=0.0),
        make_report(3, changed_rate=0.0, **excuse),
    ]  # fmt: skip
    assert list(watched("updates_land").observe(reports)) == [2], "with nothing to excuse it, it is a break"


def test_smallest_rate_that_must_move_a_weight(make_report: Make) -> None:
    still = {"changed_rate": 0.0, "grad_norm": 1e-12, "valid_rate": 1 / 128}
    assert watched("updates_land").observe([make_report(1, lr=LEAST_RATE, **still)])
    assert not watched("updates_land").observe([make_report(1, lr=LEAST_RATE * 0.99, **still)])


def test_condition_of_an_identity_is_asked_of_the_same_step(make_report: Make) -> None:
    identity = Identity("mine", "lr", 0.5, "it is broken", applies=lambda view: np.asarray(view.steps > 3))
    view = view_of(
        [make_report(3, lr=1.0), make_report(4, lr=1.0), make_report(5, lr=0.5), make_report(6, lr=math.nan)]
    )
    assert identity.broken(view).tolist() == [False, True, False, False]


SOUND = {INDEX[BY_NAME[name].signal]: sound for name, (_, _, sound) in CASES.items()} | {INDEX["vetoes"]: 0.0}


def measured(report: StepReport, **values: float) -> StepReport:
    """A recorded step in which every identity was measured too and found in order, but for `values`."""
    known = SOUND | {INDEX[signal]: value for signal, value in values.items()}
    return replace(report, values=tuple(known.get(place, figure) for place, figure in enumerate(report.values)))


FAULTY = ("calculator_od1", "arithmetic_od1", "calculator_te1", "calculator_rf1")


@pytest.mark.parametrize("run", [*FAULTY, "calculator_1"])
def test_recorded_fault_of_another_kind_breaks_no_identity(recorded: Recorded, run: str) -> None:
    sound = [measured(report) for report in recorded[run]]
    for seen in Monitor(SETTINGS, reference(Mode.NONE)).observe(sound):
        assert not [symptom for symptom in seen.symptoms if symptom.evidence is Evidence.IDENTITY]
        assert seen.scores.identity == 0.0


@pytest.mark.parametrize("run", FAULTY)
@every_identity
def test_break_shows_beside_a_recorded_fault_too(recorded: Recorded, run: str, name: str) -> None:
    *reports, last = recorded[run]
    broken = measured(last, **{BY_NAME[name].signal: CASES[name][0]})
    observed = Monitor(SETTINGS, reference(Mode.NONE)).observe([*map(measured, reports), broken])
    detectors = [symptom.detector for seen in observed for symptom in seen.symptoms]
    assert [detector for detector in detectors if detector.startswith("identity:")] == [f"identity:{name}"]
    assert [seen.scores.identity for seen in observed] == [*[0.0] * len(reports), math.inf]
