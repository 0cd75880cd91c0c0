"""The detector of how signals go together, on recorded runs of the real stack, and what a profile file keeps for it."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rftfm_ray.diagnosis.watch import PROMPTS, Watch

from rftfm_ray.detection.detectors.joint import DepartureDetector, growth
from rftfm_ray.detection.reference.correlation import restored
from rftfm_ray.detection.reference.fitting import fit, fit_together, series_of
from rftfm_ray.detection.reference.profile import Profile, parse_profile
from rftfm_ray.detection.reference.residuals import COLUMNS
from rftfm_ray.detection.suite import WatchSettings, battery
from rftfm_ray.errors import ProfileError
from rftfm_ray.signals.groups import OF_UPDATES
from rftfm_ray.signals.schema import INDEX
from rftfm_ray.types import StepId
from rftfm_ray.verdicts import DeclaredChange, StepReport, Symptom
from tests.unit.doubles import recorded_runs

LEARNT, ONSET = 12, 20
# What other prompts look like.
PROMPT_SIGNALS = {"answer_length_mean": 0.4, "prompt_difficulty_mean": 0.6}
RUNS = [list(run.reports()) for run in recorded_runs(2)]


@pytest.fixture(scope="module")
def profile() -> Profile:
    """Of twelve runs; the other eight are new to it."""
    series = [series_of(run) for run in RUNS[:LEARNT]]
    return replace(fit(series), together=fit_together(series))


def moved(run: list[StepReport], since: int = ONSET, **by: float) -> Iterator[StepReport]:
    """A run with some signals moved from a step on."""
    for report in run:
        values = list(report.values)
        for name, size in by.items():
            values[INDEX[name]] += size if report.id.step >= since else 0.0
        yield replace(report, values=tuple(values))


def told(detector: DepartureDetector, run: Iterator[StepReport] | list[StepReport]) -> dict[int, Symptom]:
    """The symptom of each step that has one."""
    found = {report.id.step: detector.observe(report) for report in run}
    return {step: symptoms[0] for step, symptoms in found.items() if symptoms}


def test_new_healthy_runs_are_left_alone(profile: Profile) -> None:
    alarmed = [run[0].id for run in RUNS[LEARNT:] if told(DepartureDetector.of(profile), run)]
    assert alarmed == []


@pytest.mark.parametrize(
    ("by", "signals", "side"),
    [
        ({"reward_mean": 0.1}, {"reward_mean", "correct_rate"}, None),
        ({"length_mean": 0.3}, {"length_mean", "length_q10", "length_q50", "length_q90"}, None),
        ({"rollout_kl": 0.05}, {"rollout_kl"}, 1),
    ],
)
def test_what_departs_is_named_soon(
    profile: Profile, by: dict[str, float], signals: set[str], side: int | None
) -> None:
    late = []
    for run in RUNS[LEARNT:]:
        found = told(DepartureDetector.of(profile), moved(run, ONSET, **by))
        first = min(found)
        late.append(first - ONSET)
        symptom = found[first]
        assert symptom.signal in signals
        assert symptom.direction == side or side is None
        assert symptom.alarm
        assert ONSET - 2 <= symptom.onset <= first
        assert symptom.signal in symptom.reason
        assert f"step {symptom.onset}" in symptom.reason
    assert min(late) >= 0
    assert np.median(late) <= 7


def test_alarm_is_over_when_all_is_back(profile: Profile) -> None:
    run = [*moved(RUNS[-1][: ONSET + 4], length_mean=0.6), *RUNS[-1][ONSET + 4 :]]
    found = told(DepartureDetector.of(profile), run)
    assert min(found) in range(ONSET, ONSET + 4)
    assert max(found) <= ONSET + 12
    # What stays is not taken for over.
    assert max(told(DepartureDetector.of(profile), moved(RUNS[-1], length_mean=0.6))) == len(run)


def test_what_was_declared_is_no_departure(profile: Profile) -> None:
    changed = list(moved(RUNS[-1], length_mean=1.0, length_q50=1.0, length_q90=1.0))
    detector = DepartureDetector.of(profile)
    assert told(detector, changed[: ONSET - 1]) == {}
    detector.forget(("length_mean", "length_q50", "length_q90"), ONSET)
    assert told(detector, changed[ONSET - 1 :]) == {}


def without_updates(run: list[StepReport], vetoes: float) -> Iterator[StepReport]:
    """A run in which from `ONSET` on nothing is learnt."""
    for report in run:
        values = list(report.values)
        if report.id.step >= ONSET:
            for name in OF_UPDATES:
                values[INDEX[name]] = 0.0
            values[INDEX["vetoes"]] = vetoes
        yield replace(report, values=tuple(values))


def test_refused_updates_are_no_lost_ones(profile: Profile) -> None:
    for run in RUNS[LEARNT:]:
        assert told(DepartureDetector.of(profile), without_updates(run, vetoes=1.0)) == {}
        assert ONSET <= min(told(DepartureDetector.of(profile), without_updates(run, vetoes=0.0))) <= ONSET + 3


def test_a_long_run_must_say_more() -> None:
    assert {growth(step) for step in range(1, 61)} == {1.0}
    assert [round(growth(step), 3) for step in (600, 6_000)] == [1.461, 1.921]


LONGER = {"length_mean": 0.5, "length_q50": 0.5, "length_q90": 0.5}
SETTINGS = WatchSettings(warmup=5, false_alarm_steps=10_000, noise=0.001, probe_size=256, keep_every=5, keep=8)


def test_what_follows_other_prompts_opens_nothing_and_what_does_not_does(profile: Profile) -> None:
    named = {}
    for asked in (True, False):
        watch = Watch(replace(SETTINGS, profile=profile))
        run = moved(RUNS[-1], ONSET, **LONGER)
        found = [
            watch.assess(report).diagnosis
            for report in (moved(list(run), ONSET - 1, **PROMPT_SIGNALS) if asked else run)
        ]
        named[asked] = [each.code for each in found if each is not None]
    assert named[True] == []
    assert "PG-3L" in named[False]


def test_prompts_go_back_with_the_run(profile: Profile) -> None:
    watch = Watch(replace(SETTINGS, profile=profile))
    for report in moved(RUNS[-1], ONSET, **PROMPT_SIGNALS):
        watch.assess(report)
    watch.rewind(ONSET - 5)
    # The same steps once more, as ever: against the profile again, which knows what is usual.
    found = [watch.assess(report).diagnosis for report in moved(RUNS[-1][ONSET - 5 :], ONSET, **LONGER)]
    assert any(each is not None for each in found)


@pytest.mark.parametrize("asking", ["add", "forget"])
def test_failure_to_follow_prompts_ends_that_and_not_the_guard(
    profile: Profile, monkeypatch: pytest.MonkeyPatch, asking: str
) -> None:
    watch = Watch(replace(SETTINGS, profile=profile))
    judged = [watch.assess(report) for report in RUNS[-1][:5]]
    with monkeypatch.context() as broken:
        # Those of the watch alone: the detector follows the prompts by itself.
        broken.setattr(watch._prompts, asking, lambda *_: 1 / 0)
        if asking == "forget":
            watch.declare(DeclaredChange("mix", 5, ("reward_mean",), "on purpose"))
        judged += [watch.assess(report) for report in moved(RUNS[-1][5:ONSET])]
    watch.rewind(10)
    # Far enough to be seen without the profile too, which the declared change has taken away.
    far = {name: 3 * size for name, size in LONGER.items()}
    judged += [watch.assess(report) for report in moved(RUNS[-1][10:], ONSET, **far)]
    assert [gone for each in judged for gone in each.disabled if gone[0] == PROMPTS] == [
        (PROMPTS, "ZeroDivisionError: division by zero")
    ], "said once, and a rollback does not bring it back"
    assert any(each.diagnosis is not None for each in judged), "the detectors go on"


def test_settled_evidence_begins_anew(profile: Profile) -> None:
    detector = DepartureDetector.of(profile)
    assert told(detector, list(moved(RUNS[-1], length_mean=0.6))[: ONSET + 4])
    detector.settle(("parity_gap",))
    assert told(detector, RUNS[-1][ONSET + 4 : ONSET + 5])
    detector.settle(("length_mean",))
    assert told(detector, RUNS[-1][ONSET + 5 :]) == {}


def test_copy_goes_its_own_way(profile: Profile) -> None:
    run = list(moved(RUNS[-1], length_mean=0.6))
    detector = DepartureDetector.of(profile)
    told(detector, run[: ONSET - 1])
    other = copy.deepcopy(detector)
    first = told(detector, run[ONSET - 1 :])
    assert repr(told(other, run[ONSET - 1 :])) == repr(first)
    assert other._together is detector._together


odd = st.sampled_from([math.nan, math.inf, -math.inf, 0.0, 1e308, -1e308]) | st.floats(-1e9, 1e9)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.dictionaries(st.sampled_from(COLUMNS), odd), min_size=1, max_size=12), st.integers(1, 60))
def test_no_value_makes_it_raise_or_blinds_it_for_good(
    profile: Profile, changed: list[dict[str, float]], first: int
) -> None:
    detector = DepartureDetector.of(profile)
    for step, wild in enumerate(changed, start=first):
        values = list(RUNS[-1][min(step, len(RUNS[-1])) - 1].values)
        for name, number in wild.items():
            values[INDEX[name]] = number
        for symptom in detector.observe(StepReport(StepId(0, step, step), step, tuple(values))):
            assert math.isfinite(symptom.score)
    assert np.isfinite(detector._sums.sums).all()


def test_file_keeps_what_is_needed(profile: Profile) -> None:
    again = parse_profile(profile.to_json(), "it")
    assert again == profile
    run = list(moved(RUNS[-2], reward_mean=0.1))
    found = [[(step, one.signal) for step, one in told(DepartureDetector.of(p), run).items()] for p in (again, profile)]
    assert found[0] == found[1] != []
    assert len(profile.to_json()) < 400_000


def test_few_runs_do_not_tell_how_signals_go_together() -> None:
    series = [series_of(run) for run in RUNS[:7]]
    assert fit_together(series) is None
    with pytest.raises(ValueError, match="does not know"):
        DepartureDetector.of(fit(series))


def damage(tree: dict[str, Any], how: str) -> None:
    """Break the part of a profile's tree that says how signals go together."""
    if how == "sizes":
        tree["covariance"].pop()
    elif how == "signals":
        tree["signals"][0] = "loss_of_nerve"
    elif how == "covariance":
        tree["covariance"][0][0] = -1.0
    else:
        tree["levels"].popitem()


@pytest.mark.parametrize("how", ["sizes", "signals", "covariance", "no level"])
def test_damaged_file_is_refused(profile: Profile, how: str) -> None:
    tree = json.loads(profile.to_json())
    damage(tree["together"], how)
    found = parse_profile(json.dumps(tree), "it")
    assert found.together is not None
    with pytest.raises(ProfileError, match=f"{how if how in ('sizes', 'signals', 'covariance') else 'level'}.*fit it"):
        restored(found.together)


@pytest.mark.parametrize("enough", [True, False])
def test_one_signals_own_evidence_opens_only_where_healthy_runs_were_few(profile: Profile, enough: bool) -> None:
    known = profile if enough else replace(profile, together=None)
    alarmed = set()
    for detector in battery(replace(SETTINGS, profile=known)):
        for report in moved(RUNS[-1], ONSET, **LONGER):
            alarmed |= {symptom.detector for symptom in detector.observe(report) if symptom.alarm}
    assert alarmed == {DepartureDetector.name if enough else "profile:length_mean"}
