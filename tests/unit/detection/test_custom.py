"""Detectors of the user's as the monitor runs them: scores, what is no score, declared changes, failures."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from rftfm_ray.config import parse_config
from rftfm_ray.detection.detectors.custom import MOST_BLANK, CustomDetector
from rftfm_ray.detection.monitor import Monitor, monitor_plan
from rftfm_ray.detection.reference.mixture import Mode
from rftfm_ray.detection.reference.views import Floats, StepView
from rftfm_ray.errors import DetectorError
from rftfm_ray.verdicts import DeclaredChange, Evidence
from tests.detecting import SETTINGS, Watched, make_reports, reference, view_of
from tests.unit.detection.user_detectors import Shift, Two, adapted, sentence


def test_scores_of_one_signal_are_latched_and_dated() -> None:
    rewards = [0.5] * 4 + [0.55, 0.7, math.nan, 0.7, 0.5]
    symptoms = Watched(adapted(Shift())).show(reward_mean=rewards)
    assert list(symptoms) == [6, 7, 8]
    (symptom,) = symptoms[6]
    assert (symptom.detector, symptom.signal, symptom.direction) == ("shift", "reward_mean", 1)
    assert (symptom.evidence, symptom.alarm) == (Evidence.TELEMETRY, True)
    assert symptom.score == pytest.approx(10 * (0.7 - 0.51))
    # Evidence has not come down since step 5.
    assert (symptom.onset, symptom.onset_low) == (5, 5)
    assert symptom.reason == "reward_mean is 0.7, which shift scores 1.9 times its threshold"
    assert repr(symptoms[7]) == repr(symptoms[6]), "nothing was measured"
    assert symptoms[8][0].onset == 5


def test_scores_of_several_signals_each_have_their_own_output() -> None:
    detector = adapted(Two())
    assert [(one.signal, one.direction) for one in detector.outputs] == [("kl_ref", 1), ("entropy", -1)]
    symptoms = Watched(detector).show(kl_ref=[0.0, 2.0, 2.0, 0.0], entropy=[0.0, 0.0, -3.0, -3.0])
    told = {step: [(one.signal, one.score, one.onset) for one in each] for step, each in symptoms.items()}
    kl, entropy = ("kl_ref", 2.0, 2), ("entropy", 3.0, 3)
    assert told == {2: [kl], 3: [kl, entropy], 4: [entropy]}


@pytest.mark.parametrize(
    ("returned", "score"),
    [
        (lambda n: [1] * n, 1.0),
        (lambda n: np.ones(n, np.float32), 1.0),
        (lambda n: np.ones((n, 1), bool), 1.0),
        (lambda n: np.full(n, -math.inf), 0.0),
        (lambda n: np.full(n, -3.0), 0.0),
        (lambda n: np.full(n, math.inf), math.inf),
    ],
)
def test_any_numbers_are_scores(returned: Callable[[int], Any], score: float) -> None:
    class Mine(Shift):
        def observe(self, view: StepView) -> Floats:
            found: Floats = returned(len(view))
            return found

    scores = adapted(Mine()).observe(view_of(make_reports(reward_mean=[0.5] * 3)))
    assert scores.score.tolist() == [[score]] * 3
    assert scores.score.dtype == np.float64


@pytest.mark.parametrize(
    ("returned", "told"),
    [
        (lambda n: np.zeros(n + 1), "returned scores of shape (4,) for 3 steps and 1 signals; return shape (3,)"),
        (lambda n: np.zeros((n, 2)), "returned scores of shape (3, 2)"),
        (lambda n: np.zeros((1, n)), "returned scores of shape (1, 3)"),
        (lambda n: 0.5, "returned scores of shape ()"),
        (lambda n: None, "returned a NoneType; return an array of numbers"),
        (lambda n: ["high"] * n, "returned a list; return an array of numbers"),
        (lambda n: np.full(n, "high"), "returned an array of <U4; return an array of numbers"),
        (lambda n: np.zeros(n, complex), "returned an array of complex128"),
        (lambda n: [[1], [1, 2], [3]], "returned a list; return an array of numbers"),
        (lambda n: 1 / 0, "observe of Mine raised ZeroDivisionError: division by zero"),
        (lambda n: sys.exit("two\nlines"), "observe of Mine raised SystemExit: two lines."),
    ],
)
def test_what_is_no_score_is_said(returned: Callable[[int], Any], told: str) -> None:
    class Mine(Shift):
        def observe(self, view: StepView) -> Floats:
            found: Floats = returned(len(view))
            return found

    with pytest.raises(DetectorError) as raised:
        adapted(Mine()).observe(view_of(make_reports(reward_mean=[0.5] * 3)))
    assert told in sentence(raised.value)


def test_detector_that_never_scores_what_was_measured_is_said() -> None:
    class Blank(Shift):
        def observe(self, view: StepView) -> Floats:
            return np.full(len(view), math.nan)

    detector = adapted(Blank())
    gaps = make_reports(reward_mean=[math.nan] * (2 * MOST_BLANK))
    detector.observe(view_of(gaps))
    detector.observe(view_of(make_reports(reward_mean=[0.5] * (MOST_BLANK - 1))))
    with pytest.raises(DetectorError, match=f"NaN at the last {MOST_BLANK} steps .* return 0 where"):
        detector.observe(view_of(make_reports(MOST_BLANK, reward_mean=[0.5])))


def test_a_score_now_and_then_is_enough() -> None:
    class Seldom(Shift):
        def observe(self, view: StepView) -> Floats:
            return np.where(view.steps % (MOST_BLANK - 1) == 0, 0.0, math.nan)

    adapted(Seldom()).observe(view_of(make_reports(reward_mean=[0.5] * (5 * MOST_BLANK))))


def test_steps_cannot_be_written_to() -> None:
    class Vandal(Shift):
        def observe(self, view: StepView) -> Floats:
            view.values[:] = 0.0
            return np.zeros(len(view))

    view = view_of(make_reports(reward_mean=[0.5] * 3))
    with pytest.raises(DetectorError, match=r"observe of Vandal raised ValueError.*read-only"):
        adapted(Vandal()).observe(view)
    assert view.values.flags.writeable
    assert (view.value("reward_mean") == 0.5).all()


def test_without_a_method_it_starts_afresh_when_one_of_its_signals_is_forgotten() -> None:
    user = Shift()
    watched = Watched(CustomDetector(user))
    assert watched.show(reward_mean=[0.5] * 4 + [0.9] * 2)
    watched.forget(["lr", "entropy"], 7)
    assert watched.show(7, reward_mean=[0.9]), "no signal of its own"
    watched.forget(["lr", "reward_mean"], 8)
    assert (user.count, user.total, user.newest) == (0, 0.0, [])
    assert watched.show(8, reward_mean=[0.9] * 4) == {}
    assert watched.show(12, reward_mean=[1.5]), "it judges on"


def test_without_a_method_a_remedy_lets_its_alarm_be_raised_again() -> None:
    user = Shift()
    watched = Watched(CustomDetector(user))
    assert watched.show(reward_mean=[0.5] * 4 + [0.9])
    watched.settle(["reward_mean"])
    assert user.count == 5, "what is usual stays known"
    assert watched.show(6, reward_mean=[0.65]) == {}, "half a threshold would have kept it open"
    assert watched.show(7, reward_mean=[0.9])[7][0].onset == 6


def test_methods_are_asked_whatever_the_signals() -> None:
    user = Two()
    detector = CustomDetector(user)
    watched = Watched(detector)
    assert watched.show(kl_ref=[2.0], entropy=[-2.0])
    assert list(detector.forget(["lr"], 2)) == []
    assert list(detector.forget({"kl_ref": 1}, 3)) == [0]
    assert list(detector.settle(("entropy", "kl_ref"))) == [0, 1]
    assert user.asked == [("forget", ("lr",), 2), ("forget", ("kl_ref",), 3), ("settle", ("entropy", "kl_ref"), 0)]


@pytest.mark.parametrize("method", ["forget", "settle", "state_dict"])
def test_method_that_raises_is_named(method: str) -> None:
    user = Two()
    detector = CustomDetector(user)
    setattr(user, method, lambda *_: 1 / 0)
    asked = {"forget": lambda: detector.forget(["lr"], 1), "settle": lambda: detector.settle(["lr"])}
    with pytest.raises(DetectorError, match=f"{method} of Two raised ZeroDivisionError: division by zero"):
        asked.get(method, detector.state_dict)()


def test_it_opens_symptoms_and_counts_among_telemetry() -> None:
    monitor = Monitor(SETTINGS, reference(Mode.NONE), [adapted(Two())])
    assert monitor.active[-1] == "two"
    quiet, loud = monitor.observe(make_reports(kl_ref=[0.1, 0.1], entropy=[1.0, -2.0]))
    assert not quiet.symptoms
    assert [one.detector for one in loud.symptoms] == ["two"]
    assert loud.scores.telemetry == 2.0


def test_plan_gives_every_monitor_a_copy() -> None:
    detector = adapted(Shift())
    plan = monitor_plan(parse_config({}), None, [detector])
    first, second = plan.build(), plan.build()
    first.observe(make_reports(reward_mean=[0.5] * 5))
    parts = second.state_dict()["parts"]
    assert isinstance(parts, Mapping)
    np.testing.assert_equal(parts["shift"], detector.state_dict())


@pytest.mark.parametrize("fails", ["forget", "settle", "observe", "state_dict"])
def test_failure_of_any_method_disables_it_with_its_sentence(fails: str) -> None:
    user = Two()
    monitor = Monitor(SETTINGS, reference(Mode.NONE), [adapted(user)])
    monitor.observe(make_reports(kl_ref=[2.0], entropy=[1.0]))
    setattr(user, fails, lambda *_: 1 / 0)
    if fails in ("forget", "settle"):
        monitor.declare(DeclaredChange("levers", 2, ("lr",), "a lever", ("lr",)))
    if fails == "state_dict":
        assert "two" not in monitor.state_dict()["parts"]  # type: ignore[operator]
    seen, after = monitor.observe(make_reports(2, kl_ref=[2.0, 2.0], entropy=[1.0, 1.0]))
    assert seen.disabled == (("two", f"{fails} of Two raised ZeroDivisionError: division by zero."),)
    assert not seen.symptoms
    assert (after.disabled, after.symptoms, "two" in monitor.active) == ((), (), False)
