"""Values that are not finite and rates that nobody called for: breaks are dated, look-alikes are left alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest

from rftfm_ray.detection.detectors.exact import DeclaredRateDetector, FiniteDetector, onsets
from rftfm_ray.verdicts import Evidence, Symptom
from tests.detecting import Watched, make_report

Play = Callable[..., Mapping[int, Sequence[Symptom]]]


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["loss", "grad_norm", "kl_ref", "entropy", "reward_mean"])
def test_value_that_is_not_finite_is_an_identity(play: Play, name: str, wrong: float) -> None:
    symptoms = play(FiniteDetector(), **{name: [0.5, 0.5, wrong, 0.5]})
    assert list(symptoms) == [3], "a finite value ends it"
    (symptom,) = symptoms[3]
    assert (symptom.signal, symptom.direction, symptom.onset, symptom.onset_low) == (name, 1, 3, 3)
    assert (symptom.evidence, symptom.alarm) == (Evidence.IDENTITY, True)
    assert (symptom.score, symptom.reference) == (math.inf, 0.0)
    assert symptom.reason == f"{name} is {wrong} at step 3"


@pytest.mark.parametrize("share", [0.0, math.nan])
def test_empty_batch_has_no_loss_and_is_no_fault_of_the_numbers(play: Play, share: float) -> None:
    nothing = {name: [math.nan] for name in FiniteDetector.WATCHED}
    assert not play(FiniteDetector(), valid_rate=[share], **nothing)
    assert len(play(FiniteDetector(), valid_rate=[0.01], **nothing)[1]) == 5


def test_refused_update_has_no_loss_and_is_a_finding_of_its_advantages(play: Play) -> None:
    nothing = {name: [math.nan] for name in FiniteDetector.WATCHED}
    refused = play(FiniteDetector(), vetoes=[1.0], advantage_error=[1e-3], **nothing)
    assert [symptom.signal for symptom in refused[1]] == ["reward_mean"], "rewards are there before any update"
    for other in ({"vetoes": [0.0], "advantage_error": [1e-3]}, {"vetoes": [1.0], "advantage_error": [1e-7]}):
        assert len(play(FiniteDetector(), **other, **nothing)[1]) == 5, "another reason to refuse it"
    for unknown in (math.nan, math.inf):
        assert len(play(FiniteDetector(), vetoes=[1.0], advantage_error=[unknown], **nothing)[1]) == 5


@pytest.mark.parametrize(("times", "direction"), [(30.0, 1), (0.5, -1), (1.00001, 1)])
def test_rate_that_nobody_called_for_is_an_identity(play: Play, times: float, direction: int) -> None:
    excess = math.log(times)
    symptoms = play(DeclaredRateDetector(), lr_excess=[0.0, excess, excess, 0.0, excess], lr=[1e-4 * times] * 5)
    (symptom,) = symptoms[2]
    assert (symptom.signal, symptom.direction, symptom.alarm) == ("lr_excess", direction, True)
    assert (symptom.evidence, symptom.value, symptom.score) == (Evidence.IDENTITY, excess, math.inf)
    assert symptom.reason == f"the learning rate is {times:.3g} times the one that is called for"
    assert {step: [one.onset for one in each] for step, each in symptoms.items()} == {2: [2], 3: [2], 5: [5]}


def test_rate_that_follows_its_schedule_is_left_alone(play: Play) -> None:
    rates = [1e-4 * min(1.0, step / 10) for step in range(1, 60)]
    assert not play(DeclaredRateDetector(), lr=rates, lr_excess=[1e-8, -1e-8, math.nan] + [0.0] * 56)


def test_rate_that_turns_to_the_other_side_is_one_break_with_two_symptoms(play: Play) -> None:
    symptoms = play(DeclaredRateDetector(), lr_excess=[0.5, -0.5])
    assert [(step, one.direction, one.onset) for step, (one,) in symptoms.items()] == [(1, 1, 1), (2, -1, 1)]


@pytest.mark.parametrize("detector", [FiniteDetector, DeclaredRateDetector])
def test_nothing_that_is_declared_or_settled_excuses_a_break(
    detector: Callable[[], FiniteDetector | DeclaredRateDetector],
) -> None:
    watched, values = Watched(detector()), {"loss": math.nan, "lr_excess": 1.0}
    assert list(watched.observe([make_report(1, **values)])) == [1]
    watched.forget(list(values), 2)
    watched.settle(list(values))
    (symptom,) = watched.observe([make_report(2, **values)])[2]
    assert symptom.onset == (1 if symptom.signal == "lr_excess" else 2)


@pytest.mark.parametrize(
    ("broken", "since", "first", "left"),
    [
        ([], 3, [], 3),
        ([False, False], 3, [7, 8], 0),
        ([True, True, False], 3, [3, 3, 9], 0),
        ([False, True, True], 3, [7, 8, 8], 8),
        ([True], 0, [7], 7),
    ],
)
def test_breaks_are_dated_over_the_bounds_of_chunks(
    broken: list[bool], since: int, first: list[int], left: int
) -> None:
    steps = np.arange(7, 7 + len(broken))
    found, after = onsets(np.array(broken, bool), steps, since)
    assert (found.tolist(), after) == (first, left)
