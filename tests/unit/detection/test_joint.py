"""The detector of how signals go together, on recorded runs of the real stack, and what a profile file keeps for it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rftfm_ray.detection.detectors.joint import NOTICE, NOTICED, JointDetector
from rftfm_ray.detection.monitor import Monitor
from rftfm_ray.detection.reference.correlation import CorrelationModel
from rftfm_ray.detection.reference.fitting import fit, series_of
from rftfm_ray.detection.reference.mixture import Basis, Mode, Reference, reference_of
from rftfm_ray.detection.reference.priors import NO_CRITIC, shipped
from rftfm_ray.detection.reference.profile import Profile, parse_profile
from rftfm_ray.detection.reference.residuals import COLUMNS
from rftfm_ray.diagnosis.classify import diagnose
from rftfm_ray.errors import ProfileError
from rftfm_ray.signals.groups import OF_UPDATES
from rftfm_ray.signals.schema import INDEX
from rftfm_ray.types import StepId
from rftfm_ray.verdicts import DeclaredChange, Evidence, StepReport, Symptom
from tests.detecting import (
    LEARNT,
    NO_REFERENCE,
    SETTINGS,
    Watched,
    healthy_runs,
    make_report,
    profile_of,
    recorded_faults,
    reference,
    tree,
)

ONSET = 20
# Healthy steps to a false alarm: eight runs have about a twentieth of them.
SELDOM = 10_000.0
# What other prompts look like.
PROMPT_SIGNALS = {"answer_length_mean": 0.4, "prompt_difficulty_mean": 0.6}
RUNS = healthy_runs()
NEW = RUNS[LEARNT[Mode.FULL] :]


@pytest.fixture(scope="module")
def profile() -> Profile:
    """Of twelve runs; the other eight are new to it."""
    return profile_of(LEARNT[Mode.FULL])


def fresh(known: Reference | None = None) -> Watched:
    """The detector of a run of the kind of the profile, or of another reference."""
    known = reference(Mode.FULL) if known is None else known
    return Watched(JointDetector(known, SELDOM), known)


def moved(run: list[StepReport], since: int = ONSET, **by: float) -> list[StepReport]:
    """A run with some signals moved from a step on."""

    def each() -> Iterator[StepReport]:
        for report in run:
            values = list(report.values)
            for name, size in by.items():
                values[INDEX[name]] += size if report.id.step >= since else 0.0
            yield replace(report, values=tuple(values))

    return list(each())


def alarms(watched: Watched, run: list[StepReport]) -> dict[int, Symptom]:
    """The alarm of each step at which one is open."""
    symptoms = watched.observe(run)
    found = {step: [symptom for symptom in each if symptom.alarm] for step, each in symptoms.items()}
    assert all(len(each) <= 1 for each in found.values())
    return {step: each[0] for step, each in found.items() if each}


def test_new_healthy_runs_are_left_alone() -> None:
    assert [run[0].id for run in NEW if alarms(fresh(), run)] == []


@pytest.mark.parametrize(
    ("by", "signals", "side"),
    [
        ({"reward_mean": 0.1}, {"reward_mean", "correct_rate"}, None),
        ({"length_mean": 0.3}, {"length_mean", "length_q10", "length_q50", "length_q90"}, None),
        ({"rollout_kl": 0.05}, {"rollout_kl"}, 1),
    ],
)
def test_what_departs_is_named_soon(by: dict[str, float], signals: set[str], side: int | None) -> None:
    late, dated = [], []
    for run in NEW:
        symptoms = alarms(fresh(), moved(run, ONSET, **by))
        first = min(symptoms)
        late.append(first - ONSET)
        symptom = symptoms[first]
        assert symptom.signal in signals
        assert symptom.direction == side or side is None
        assert symptom.evidence is Evidence.TELEMETRY
        assert symptom.onset <= first
        dated.append(symptom.onset)
        assert symptom.signal in symptom.reason
        assert f"step {symptom.onset}" in symptom.reason
    assert min(late) >= 0
    assert np.median(late) <= 7
    # A run that has been a little off from its first steps on seems to have begun there.
    assert sum(onset < ONSET - 2 for onset in dated) <= 1


def test_alarm_is_over_when_all_is_back() -> None:
    run = [*moved(RUNS[-1][: ONSET + 4], length_mean=0.6), *RUNS[-1][ONSET + 4 :]]
    symptoms = alarms(fresh(), run)
    assert min(symptoms) in range(ONSET, ONSET + 4)
    assert max(symptoms) <= ONSET + 12
    # What stays is not taken for over.
    assert max(alarms(fresh(), moved(RUNS[-1], length_mean=0.6))) == len(run)


def test_what_was_declared_is_no_departure() -> None:
    changed = moved(RUNS[-1], length_mean=1.0, length_q50=1.0, length_q90=1.0)
    watched = fresh()
    assert alarms(watched, changed[: ONSET - 1]) == {}
    watched.forget(("length_mean", "length_q50", "length_q90"), ONSET)
    assert alarms(watched, changed[ONSET - 1 :]) == {}


def without_updates(run: list[StepReport], vetoes: float) -> list[StepReport]:
    """A run in which from `ONSET` on nothing is learnt."""
    reports = []
    for report in run:
        values = list(report.values)
        if report.id.step >= ONSET:
            for name in OF_UPDATES:
                values[INDEX[name]] = 0.0
            values[INDEX["vetoes"]] = vetoes
        reports.append(replace(report, values=tuple(values)))
    return reports


def test_refused_updates_are_not_lost_ones() -> None:
    for run in NEW:
        assert alarms(fresh(), without_updates(run, vetoes=1.0)) == {}
        assert ONSET <= min(alarms(fresh(), without_updates(run, vetoes=0.0))) <= ONSET + 3


LONGER = {"length_mean": 0.5, "length_q50": 0.5, "length_q90": 0.5}


def codes(monitor: Monitor, run: list[StepReport]) -> list[str]:
    """What a run is diagnosed with, step by step."""
    diagnoses = [diagnose(seen.symptoms) for seen in monitor.observe(run)]
    return [diagnosis.code for diagnosis in diagnoses if diagnosis is not None]


def test_what_follows_other_prompts_opens_nothing_and_what_does_not_does() -> None:
    named = {}
    for asked in (True, False):
        run = moved(RUNS[-1], ONSET, **LONGER)
        named[asked] = codes(
            Monitor(SETTINGS, reference(Mode.FULL)), moved(run, ONSET - 1, **PROMPT_SIGNALS) if asked else run
        )
    assert named[True] == []
    assert "PG-3L" in named[False]


def test_prompts_go_back_with_the_run() -> None:
    monitor = Monitor(SETTINGS, reference(Mode.FULL))
    other = moved(RUNS[-1], ONSET, **PROMPT_SIGNALS)
    monitor.observe(other[: ONSET - 5])
    before = monitor.state_dict()
    monitor.observe(other[ONSET - 5 :])
    monitor.load_state_dict(before)
    # The same steps with the prompts of ever: against the profile again, which knows what is usual.
    assert codes(monitor, moved(RUNS[-1][ONSET - 5 :], ONSET, **LONGER))


def test_settled_evidence_begins_from_nothing() -> None:
    watched = fresh()
    assert alarms(watched, moved(RUNS[-1], length_mean=0.6)[: ONSET + 4])
    watched.settle(("parity_gap",))
    assert alarms(watched, RUNS[-1][ONSET + 4 : ONSET + 5])
    watched.settle(("length_mean",))
    assert alarms(watched, RUNS[-1][ONSET + 5 :]) == {}


def test_notices_tell_what_single_signals_do_and_open_nothing() -> None:
    symptoms = fresh().observe(moved(RUNS[-1], truncated_rate=0.5, length_mean=0.6))
    notices = [(step, one) for step, each in symptoms.items() for one in each if not one.alarm]
    assert {("truncated_rate", 1), ("length_mean", 1)} <= {(one.signal, one.direction) for _, one in notices}
    for step, one in notices:
        assert one.direction in NOTICED[one.signal]
        way = "above" if one.direction > 0 else "below"
        assert one.reason == f"{one.signal} is {one.value:.3g}, {way} what is usual since step {one.onset}"
        assert one.onset <= step


@pytest.mark.parametrize("run", ["calculator_od1", "arithmetic_od1"])
def test_an_open_notice_keeps_its_onset_while_its_evidence_goes(run: str) -> None:
    """Which explanation fits depends on whether a notice began with the alarm."""
    watched, symptoms = fresh(reference(Mode.NONE)), dict[int, list[Symptom]]()
    for report in recorded_faults()[run]:
        symptoms |= watched.observe([report])
    spells, fading = dict[tuple[str, int], tuple[int, int]](), 0
    for step, each in symptoms.items():
        for one in (one for one in each if not one.alarm):
            last, onset = spells.get((one.signal, one.direction), (0, 0))
            assert last < step - 1 or one.onset == onset
            spells[one.signal, one.direction] = step, one.onset
            fading += one.score < 1
    assert fading, "evidence has fallen below what raises a notice"


def test_notice_may_be_wrong_more_often_than_an_alarm() -> None:
    detector = fresh().detector
    assert isinstance(detector, JointDetector)
    assert 0 < NOTICE < 1
    assert [output.alarm for output in detector.outputs] == [True, *[False] * (len(detector.outputs) - 1)]
    wanted = {(name, side) for name, sides in NOTICED.items() for side in sides}
    noticed = {(output.signal, output.direction) for output in detector.outputs[1:]}
    assert noticed < wanted
    assert {name for name, _ in wanted - noticed} == {"tool_unparsable_rate"}, "these runs have no tool"


odd = st.sampled_from([math.nan, math.inf, -math.inf, 0.0, 1e308, -1e308]) | st.floats(-1e9, 1e9)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.dictionaries(st.sampled_from(COLUMNS), odd), min_size=1, max_size=12), st.integers(1, 60))
def test_no_value_makes_it_raise_or_blinds_it_for_good(changed: list[dict[str, float]], first: int) -> None:
    watched = fresh()
    reports, run = [], RUNS[-1]
    for step, wild in enumerate(changed, start=first):
        values = list(run[min(step, len(run)) - 1].values)
        for name, number in wild.items():
            values[INDEX[name]] = number
        reports.append(StepReport(StepId(0, step, step), step, tuple(values)))
    for each in watched.observe(reports).values():
        assert all(math.isfinite(symptom.score) for symptom in each)
    # Evidence that is no number would never grow again.
    sums = tree(watched.detector.state_dict())["cusums"]["cusums"]
    assert all(np.isfinite(model["sums"]).all() for model in sums.values())


def test_file_keeps_what_is_needed(profile: Profile) -> None:
    again = parse_profile(profile.to_json(), "it")
    assert again == profile
    run = moved(RUNS[-2], reward_mean=0.1)
    known = [reference_of(each, None) for each in (again, profile)]
    named = [[(step, one.signal) for step, one in alarms(fresh(each), run).items()] for each in known]
    assert named[0] == named[1] != []
    assert len(profile.to_json()) < 400_000


def test_profile_that_does_not_know_how_signals_go_together_leaves_that_to_the_priors() -> None:
    plain = fit([series_of(run) for run in RUNS[:7]])
    assert plain.joint is None
    assert reference_of(plain, None).models == ()
    assert [model.basis for model in reference_of(plain, shipped(NO_CRITIC)).models] == [Basis.OWN_PAST]


def test_without_a_model_there_is_nothing_to_say() -> None:
    known = NO_REFERENCE
    watched = fresh(known)
    assert watched.observe([make_report(step, reward_mean=0.5 if step < 30 else 90.0) for step in range(1, 60)]) == {}
    assert len(watched.detector.outputs) == 1
    watched.forget(["reward_mean"], 60)
    watched.settle(["reward_mean"])


def damage(tree: dict[str, Any], how: str) -> None:
    """Break the part of a profile's tree that says how signals go together."""
    if how == "sizes":
        tree["covariance"].pop()
    elif how == "signals":
        tree["signals"][0] = "loss_of_nerve"
    elif how == "covariance":
        tree["covariance"][0][0] = -1.0
    else:
        tree["levels"].pop()


@pytest.mark.parametrize("how", ["sizes", "signals", "covariance", "no level"])
def test_damaged_file_is_refused(profile: Profile, how: str) -> None:
    tree = json.loads(profile.to_json())
    damage(tree["joint"], how)
    damaged = parse_profile(json.dumps(tree), "it")
    assert damaged.joint is not None
    match = f"{how if how in ('sizes', 'signals', 'covariance') else 'level'}.*fit it"
    with pytest.raises(ProfileError, match=match):
        CorrelationModel.from_profile(damaged.joint)
    with pytest.raises(ProfileError, match=match):
        reference_of(damaged, None)


def test_declared_change_reaches_it_through_the_monitor() -> None:
    run = moved(RUNS[-1], length_mean=0.6)
    monitor = Monitor(SETTINGS, reference(Mode.FULL))
    assert any(seen.symptoms for seen in monitor.observe(run[: ONSET + 4]))
    monitor.declare(DeclaredChange("levers", ONSET + 5, (), "a remedy", ("length_mean",)))
    (seen,) = monitor.observe(run[ONSET + 4 : ONSET + 5])
    assert not any(symptom.detector == "joint" for symptom in seen.symptoms)
