"""What explodes is told from what grows, and from what is large now and then."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import pytest

from rftfm_ray.detection.detectors.blow_up import BlowUpDetector
from rftfm_ray.detection.suite import build_detectors
from rftfm_ray.verdicts import Evidence, Symptom
from tests.detecting import NO_REFERENCE, SETTINGS, Watched

Play = Callable[..., Mapping[int, Sequence[Symptom]]]


@pytest.fixture
def blow_up() -> BlowUpDetector:
    """As it is shipped."""
    return next(each for each in build_detectors(SETTINGS, NO_REFERENCE) if isinstance(each, BlowUpDetector))


def test_explosion_is_found_at_its_second_step(play: Play, blow_up: BlowUpDetector) -> None:
    symptoms = play(blow_up, kl_ref=[0.1] * 20 + [2.0] * 80)
    assert list(symptoms) == list(range(22, 101)), "what has blown up is nothing to compare with"
    (symptom,) = symptoms[22]
    assert (symptom.signal, symptom.direction, symptom.alarm) == ("kl_ref", 1, True)
    assert (symptom.evidence, symptom.onset_low, symptom.onset) == (Evidence.TELEMETRY, 16, 21)
    assert symptom.reason == "kl_ref is 2, 20 times its median of 0.1 in at most 50 steps before step 21"
    assert symptom.score == pytest.approx(2 * math.log(2.0 / 0.5) / math.log(15))


def test_exponential_ramp_is_found(play: Play, blow_up: BlowUpDetector) -> None:
    kl = [0.05] * 15 + [0.05 * 1.6**step for step in range(1, 12)]
    symptoms = play(blow_up, kl_ref=kl)
    step = min(symptoms)
    assert kl[step - 1] < 1.5
    assert symptoms[step][0].onset_low <= 16 <= symptoms[step][0].onset
    early = play(BlowUpDetector("kl_ref", 0.5, 3.0), kl_ref=[0.2 * 1.2**step for step in range(20)])
    assert min(early) <= 10, "also one in the first steps"


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_growth_while_it_is_small_is_left_alone(play: Play, blow_up: BlowUpDetector, power: float) -> None:
    assert not play(blow_up, kl_ref=[0.3 * (step / 300) ** power for step in range(300)])


@pytest.mark.parametrize("height", [0.6, 5.0, 1e6])
def test_one_high_step_is_left_alone(play: Play, blow_up: BlowUpDetector, height: float) -> None:
    assert not play(blow_up, kl_ref=([0.1] * 20 + [height]) * 3 + [0.1] * 5)


def test_rare_tokens_of_a_converged_policy_are_left_alone(play: Play, blow_up: BlowUpDetector) -> None:
    # Two such steps in a row, as healthy runs of 500 steps have had them.
    rare = [0.1] * 40 + [0.73, 0.77] + [0.1] * 10 + [0.85, 2.76] + [0.1] * 10 + [2.32, 0.6] + [0.1] * 10
    watched = Watched(blow_up)
    assert not play(watched, kl_ref=rare)
    assert play(watched, len(rare) + 1, kl_ref=[*rare, *[4.0] * 3])


def test_large_value_that_has_long_been_so_is_left_alone(play: Play, blow_up: BlowUpDetector) -> None:
    assert not play(blow_up, kl_ref=[0.005 * step for step in range(300)])


@pytest.mark.parametrize("level", [0.6, 5.0])
def test_kl_that_was_large_from_the_first_step_on_is_no_explosion(
    play: Play, blow_up: BlowUpDetector, level: float
) -> None:
    """A run that is resumed, or whose KL lost its reference to a lever, has nothing to have exploded from."""
    watched = Watched(blow_up)
    assert not play(watched, kl_ref=[level] * 39)
    assert 42 in play(watched, 40, kl_ref=[4 * level] * 3)


def test_explosion_that_goes_on_after_a_remedy_is_counted_from_there(play: Play, blow_up: BlowUpDetector) -> None:
    watched = Watched(blow_up)
    assert play(watched, kl_ref=[0.1] * 20 + [4.0] * 5)
    watched.settle(["kl_ref"])
    symptoms = play(watched, 26, kl_ref=[4.0, 4.0])
    assert {step: [one.onset for one in each] for step, each in symptoms.items()} == {27: [26]}


def test_declared_change_clears_what_depends_on_its_signals(play: Play, blow_up: BlowUpDetector) -> None:
    watched = Watched(blow_up)
    assert play(watched, kl_ref=[0.1] * 20 + [2.0] * 2)
    watched.forget(["lr", "length_mean"], 23)
    assert play(watched, 23, kl_ref=[2.0]), "what does not depend on it stays open"
    watched.forget(["lr", "kl_ref"], 24)
    assert not play(watched, 24, kl_ref=[0.2] * 30)
    assert play(watched, 54, kl_ref=[0.2] * 20 + [4.0] * 2), "it judges on"


@pytest.mark.parametrize("value", [1e308, -1e308, math.inf, math.nan])
@pytest.mark.parametrize("first", [1, 4, 7, 12])
def test_no_value_makes_it_raise_or_blinds_it(play: Play, blow_up: BlowUpDetector, value: float, first: int) -> None:
    """One wild step is part of what is usual, and a rare one at that."""
    kl = [0.1] * 30
    kl[first - 1] = value
    watched = Watched(blow_up)
    assert not play(watched, kl_ref=kl)
    assert play(watched, 31, kl_ref=[60.0] * 3), "it judges on"
