"""Shares of counted events beside their healthy twins: what must be an alarm, and what only looks like it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest

from rftfm_ray.detection.detectors.rates import RateDetector
from rftfm_ray.detection.suite import SAFETY, SEQUENTIAL, MonitorSettings, build_detectors, rates
from rftfm_ray.verdicts import Evidence, Symptom
from tests.detecting import NO_REFERENCE, SETTINGS, Watched, make_report, view_of

Play = Callable[..., Mapping[int, Sequence[Symptom]]]

THRESHOLD = math.log(SEQUENTIAL * SAFETY * SETTINGS.false_alarm_steps)
MISMATCH, TOOLS = "rate:trained_mismatch_rate", "rate:tool_error_rate"
GOLDEN, CALLS = "rate:golden_mismatch_rate", "rate:known_call_error_rate"


def shipped(name: str, settings: MonitorSettings = SETTINGS) -> RateDetector:
    """A fresh one as it is shipped."""
    detector = next(each for each in build_detectors(settings, NO_REFERENCE) if each.name == name)
    assert isinstance(detector, RateDetector)
    return detector


@pytest.mark.parametrize(("error", "direction"), [(0.8, 1), (-0.3, -1)])
def test_spiked_reward_channel_is_an_alarm(play: Play, error: float, direction: int) -> None:
    mismatch, errors = [0.0] * 14 + [7 / 32] * 3, [0.0] * 14 + [error] * 3
    symptoms = play(shipped(MISMATCH), trained_mismatch_rate=mismatch, regrade_error_mean=errors)
    assert min(symptoms) == 15
    symptom, beside = symptoms[15]
    assert (symptom.signal, symptom.direction, symptom.onset, symptom.alarm) == ("trained_mismatch_rate", 1, 15, True)
    assert (symptom.evidence, symptom.onset_low, symptom.reference) == (Evidence.CHANNEL, 15, 0.001)
    assert symptom.reason == "trained_mismatch_rate is 0.219, where 0.001 is usual"
    assert (beside.signal, beside.direction, beside.alarm) == ("regrade_error_mean", direction, False)
    assert beside.reason == f"regrade_error_mean is {error:+.3g}"


def test_honest_reward_channel_with_its_noise_is_left_alone(play: Play) -> None:
    rng = np.random.default_rng(22)
    for _ in range(10):
        shares = (rng.binomial(32, 0.001, 1000) / 32).tolist()
        assert max(shares) > 0
        assert not play(shipped(MISMATCH), trained_mismatch_rate=shares)


def test_evidence_of_a_rare_mismatch_adds_up(play: Play) -> None:
    symptoms = play(shipped(MISMATCH), trained_mismatch_rate=[0.0] * 10 + [2 / 32] * 5)
    assert min(symptoms) == 12
    (symptom,) = symptoms[12]
    assert symptom.onset == 11
    one = 2 * math.log(0.1 / 0.001) + 30 * math.log(0.9 / 0.999)
    assert symptom.score == pytest.approx(2 * one / THRESHOLD)
    assert symptom.score > 1, "an error of nought tells nothing apart, and is no symptom of its own"


def test_tool_that_is_down_is_an_alarm_and_recovers(play: Play) -> None:
    symptoms = play(shipped(TOOLS), tool_error_rate=[0.01] * 9 + [0.8] * 4 + [0.0] * 10)
    assert list(symptoms) == [10, 11, 12, 13, 14]
    (symptom,) = symptoms[10]
    assert (symptom.signal, symptom.direction, symptom.onset, symptom.alarm) == ("tool_error_rate", 1, 10, True)
    assert symptom.evidence is Evidence.TELEMETRY
    assert symptom.reason == "tool_error_rate is 0.8, where 0.02 is usual"


def test_calls_of_one_trajectory_count_half() -> None:
    (symptom,) = Watched(shipped(TOOLS)).observe([make_report(1, tool_error_rate=0.12, tool_call_count=200.0)])[1]
    evidence = 100 * (0.12 * math.log(0.15 / 0.02) + 0.88 * math.log(0.85 / 0.98))
    assert symptom.score == pytest.approx(evidence / THRESHOLD)


def test_malformed_calls_of_the_policy_are_not_the_tools_fault(play: Play) -> None:
    unparsable = [0.0] * 10 + [min(0.9, 0.05 * step) for step in range(40)]
    for detector in build_detectors(SETTINGS, NO_REFERENCE):
        if detector.name not in ("joint", "change_point"):
            assert not play(detector, tool_unparsable_rate=unparsable, tool_error_rate=[0.0] * 50)


def test_few_calls_say_little(play: Play) -> None:
    watched, steps = Watched(shipped(TOOLS)), math.ceil(THRESHOLD / math.log(0.15 / 0.02))
    assert steps > 4
    assert list(play(watched, tool_error_rate=[1.0] * (steps + 1), tool_call_count=[2.0] * (steps + 1))) == [
        steps, steps + 1,
    ]  # fmt: skip


def test_step_without_a_call_changes_nothing(play: Play) -> None:
    watched = Watched(shipped(TOOLS))
    assert not play(watched, tool_error_rate=[math.nan] * 50, tool_call_count=[0.0] * 50)
    symptoms = play(watched, 51, tool_error_rate=[1.0, math.nan, 0.0], tool_call_count=[90.0, 0.0, math.nan])
    assert list(symptoms) == [51, 52, 53], "silence is no recovery"
    assert [each[0].value for each in symptoms.values()] == [1.0] * 3, "the reading is that of the newest call"


def test_side_of_an_error_ends_with_it_and_the_alarm_does_not(play: Play) -> None:
    mismatch, errors = [7 / 32] * 3, [0.8, math.nan, -0.8]
    symptoms = play(shipped(MISMATCH), trained_mismatch_rate=mismatch, regrade_error_mean=errors)
    beside = {step: [(one.signal, one.direction) for one in each[1:]] for step, each in symptoms.items()}
    assert beside == {1: [("regrade_error_mean", 1)], 2: [], 3: [("regrade_error_mean", -1)]}


def test_fixed_shares_stay_armed_after_a_declared_change(play: Play) -> None:
    for name, signal in ((MISMATCH, "trained_mismatch_rate"), (TOOLS, "tool_error_rate")):
        watched = Watched(shipped(name))
        for step in (1, 2):
            watched.forget([signal], step)
            assert list(play(watched, step, **{signal: [1.0]})) == [step]


def test_usual_share_of_mismatches_is_that_of_the_settings(play: Play) -> None:
    mismatch = {"trained_mismatch_rate": [1 / 32] * 40}
    assert play(shipped(MISMATCH), **mismatch)
    assert not play(shipped(MISMATCH, replace(SETTINGS, noise=0.04)), **mismatch)


@pytest.mark.parametrize(("name", "signal", "count"), [
    (GOLDEN, "golden_mismatch_rate", "golden_count"), (CALLS, "known_call_error_rate", "known_call_count"),
])  # fmt: skip
def test_source_that_fails_its_checks_is_an_alarm_until_the_next_ones(
    play: Play, name: str, signal: str, count: str
) -> None:
    watched = Watched(shipped(name))
    symptoms = play(watched, **{signal: [1.0] * 4, count: [16.0] * 4})
    (symptom,) = symptoms[4]
    assert (symptom.signal, symptom.direction, symptom.alarm) == (signal, 1, True)
    assert symptom.evidence is Evidence.CHANNEL
    assert list(play(watched, 5, **{signal: [math.nan], count: [0.0]})) == [5], "nothing was asked in between"


@pytest.mark.parametrize("budget", [300, 100_000])
def test_budget_sets_the_threshold(budget: int) -> None:
    view = view_of([make_report(1, tool_error_rate=0.12, tool_call_count=100.0)])
    usual, other = (
        shipped(TOOLS, settings).observe(view).score[0, 0]
        for settings in (SETTINGS, replace(SETTINGS, false_alarm_steps=budget))
    )
    assert other == pytest.approx(usual * THRESHOLD / math.log(SEQUENTIAL * SAFETY * budget))


def test_every_rate_is_of_a_count_and_looks_for_more_than_is_usual() -> None:
    for rate in rates(0.001):
        assert 0 < rate.usual < rate.faulty < 1
        assert rate.count.endswith("count")


def test_verifier_that_fails_now_and_then_is_an_alarm_and_a_single_failure_is_not(play: Play) -> None:
    failing = [0.0] * 5 + [1 / 32] * 5
    symptoms = play(shipped("rate:verifier_error_rate"), verifier_error_rate=failing, trajectory_count=[128.0] * 10)
    assert min(symptoms) == 6
    (symptom,) = symptoms[6]
    assert (symptom.signal, symptom.evidence, symptom.onset) == ("verifier_error_rate", Evidence.CHANNEL, 6)
    single = [0.0] * 5 + [1 / 128] + [0.0] * 4
    assert not play(shipped("rate:verifier_error_rate"), verifier_error_rate=single, trajectory_count=[128.0] * 10)
