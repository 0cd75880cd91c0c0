"""What explodes is told from what grows, and from what is large now and then."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import pytest

from rftfm_ray.detection.detectors.base import Detector
from rftfm_ray.detection.detectors.blow_up import BlowUpDetector
from rftfm_ray.detection.suite import WatchSettings, battery
from rftfm_ray.verdicts import Evidence, Symptom

Play = Callable[..., Mapping[int, Sequence[Symptom]]]


@pytest.fixture
def blow_up(watch_settings: WatchSettings) -> Detector:
    """As it is shipped."""
    return next(detector for detector in battery(watch_settings) if isinstance(detector, BlowUpDetector))


def test_explosion_is_found_at_its_second_step(play: Play, blow_up: Detector) -> None:
    found = play(blow_up, kl_ref=[0.1] * 20 + [2.0] * 80)
    symptom = found[22][0]
    assert (symptom.signal, symptom.direction, symptom.alarm) == ("kl_ref", 1, True)
    assert (symptom.evidence, symptom.onset_low, symptom.onset) == (Evidence.TELEMETRY, 16, 21)
    assert symptom.reason == "kl_ref is 2, 20 times what it was before"
    assert symptom.score == pytest.approx(2 * math.log(20))
    assert list(found) == list(range(22, 101)), "what has blown up is nothing to compare with"


def test_exponential_ramp_is_found(play: Play, blow_up: Detector) -> None:
    kl = [0.05] * 15 + [0.05 * 1.6**step for step in range(1, 12)]
    found = play(blow_up, kl_ref=kl)
    step = min(found)
    assert kl[step - 1] < 1.5
    assert found[step][0].onset_low <= 16 <= found[step][0].onset
    early = play(BlowUpDetector("kl_ref", 0.5, 3.0), kl_ref=[0.2 * 1.2**step for step in range(20)])
    assert min(early) <= 10, "also one in the first steps"


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_growth_while_it_is_small_is_none(play: Play, blow_up: Detector, power: float) -> None:
    assert not play(blow_up, kl_ref=[0.3 * (step / 300) ** power for step in range(300)])


@pytest.mark.parametrize("height", [0.6, 5.0, 1e6])
def test_one_high_step_is_none(play: Play, blow_up: Detector, height: float) -> None:
    assert not play(blow_up, kl_ref=([0.1] * 20 + [height]) * 3 + [0.1] * 5)


def test_rare_tokens_of_a_converged_policy_are_none(play: Play, blow_up: Detector) -> None:
    # Two such steps in a row, as healthy runs of 500 steps have had them.
    rare = [0.1] * 40 + [0.73, 0.77] + [0.1] * 10 + [0.85, 2.76] + [0.1] * 10 + [2.32, 0.6] + [0.1] * 10
    assert not play(blow_up, kl_ref=rare)
    assert play(blow_up, kl_ref=[*rare, *[4.0] * 3])


def test_large_value_that_has_long_been_so_is_none(play: Play, blow_up: Detector) -> None:
    assert not play(blow_up, kl_ref=[0.005 * step for step in range(300)])
