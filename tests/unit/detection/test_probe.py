"""Held-out accuracy: what has been lost, and what two binomial shares differ by."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest

from rftfm_ray.detection.detectors.probe import ProbeDetector
from rftfm_ray.signals.held_out import probe_drop
from rftfm_ray.verdicts import Evidence, Symptom
from tests.detecting import Watched

Play = Callable[..., Mapping[int, Sequence[Symptom]]]
GAP = math.nan


def test_drop_of_held_out_accuracy_is_an_alarm_and_dated_after_the_best(play: Play) -> None:
    symptoms = play(ProbeDetector(256), probe_accuracy=[0.5, GAP, 0.8, GAP, 0.78, GAP, 0.5, GAP, 0.75, GAP])
    assert list(symptoms) == [7, 8], "it stays open until the next probe, which ends it"
    (symptom,) = symptoms[7]
    assert (symptom.signal, symptom.direction, symptom.alarm) == ("probe_accuracy", -1, True)
    assert (symptom.onset, symptom.onset_low) == (4, 3)
    assert (symptom.evidence, symptom.reference) == (Evidence.CHANNEL, 0.8)
    assert symptom.reason == "held-out accuracy is 0.500, and was 0.800 after step 2"
    assert symptom.score == pytest.approx(probe_drop(0.8, 0.5, 256) / ProbeDetector.SIGMAS)
    assert symptoms[8] == symptoms[7]


def test_rise_and_binomial_noise_of_probes_are_left_alone(play: Play) -> None:
    rng = np.random.default_rng(24)
    assert not play(ProbeDetector(256), probe_accuracy=(rng.binomial(256, 0.6, 40) / 256).tolist())
    assert not play(ProbeDetector(256), probe_accuracy=[step / 20 for step in range(21)])


def test_alarm_ends_with_a_probe_that_is_only_somewhat_below(play: Play) -> None:
    """Between probes there is no other evidence: one drop of four standard errors is needed for each."""
    below = next(a / 256 for a in range(256) if 0 < probe_drop(0.8, a / 256, 256) < ProbeDetector.SIGMAS)
    assert list(play(ProbeDetector(256), probe_accuracy=[0.8, 0.5, below])) == [2]


def test_small_probes_say_less() -> None:
    assert probe_drop(0.8, 0.5, 256) == pytest.approx(0.3 / math.sqrt(2 * 0.65 * 0.35 / 256))
    assert probe_drop(0.8, 0.5, 64) == pytest.approx(probe_drop(0.8, 0.5, 256) / 2)
    assert probe_drop(0.5, 0.8, 256) < 0
    assert probe_drop(1.0, 1.0, 256) == 0.0


def test_declared_change_forgets_the_best(play: Play) -> None:
    watched = Watched(ProbeDetector(256))
    assert play(watched, probe_accuracy=[0.9, 0.5])
    watched.forget(["lr", "length_mean"], 3)
    assert play(watched, 3, probe_accuracy=[0.5]), "what does not depend on it stays open"
    watched.forget(["lr", "probe_accuracy"], 4)
    assert not play(watched, 4, probe_accuracy=[0.5] * 4)
    assert play(watched, 8, probe_accuracy=[0.5] * 20 + [0.0, 0.0]), "it judges on"


def test_remedy_keeps_the_best(play: Play) -> None:
    """What was lost must come back: the next probe decides, and not that something was done."""
    watched = Watched(ProbeDetector(256))
    assert play(watched, probe_accuracy=[0.9, 0.5])
    watched.settle(["probe_accuracy"])
    assert list(play(watched, 3, probe_accuracy=[GAP, 0.5, 0.9])) == [3, 4]
