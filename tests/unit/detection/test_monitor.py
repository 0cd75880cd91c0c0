"""The one assembly of detectors: failures of one, declared changes, other prompts, going back, states in files."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from rftfm_ray.detection import monitor as module
from rftfm_ray.detection.detectors.base import Scores
from rftfm_ray.detection.monitor import VIEWS
from rftfm_ray.detection.observed import EvidenceScores
from rftfm_ray.detection.reference.mixture import Mode
from rftfm_ray.detection.reference.views import StepView
from rftfm_ray.errors import DetectorError
from rftfm_ray.signals.schema import INDEX
from rftfm_ray.verdicts import DeclaredChange, StepReport
from tests.detecting import healthy_runs, make_report
from tests.unit.detection.scripted import Scripted, alarms, monitor_of, opened, usual


def _raises(view: StepView) -> Scores:
    raise ZeroDivisionError("no reference\n" + "!" * 400)


def _longer(view: StepView) -> Scores:
    return Scores.quiet(view.part(slice(0, 0)), 2)


def _texts(view: StepView) -> Any:
    scores = Scores.quiet(view, 2)
    return Scores(np.full(scores.score.shape, "high"), scores.onset, scores.reference)


FAILURES: Mapping[str, tuple[Callable[[StepView], Any], str]] = {
    "raises": (_raises, "ZeroDivisionError: no reference !!!"),
    "gives nothing": (lambda _: None, "TypeError: it observed a NoneType, not Scores"),
    "gives an array": (lambda view: np.zeros((len(view), 2)), "TypeError: it observed a ndarray, not Scores"),
    "other outputs": (lambda view: Scores.quiet(view, 3), "ValueError: its scores have shape (3, 3), and steps and"),
    "other steps": (_longer, "ValueError: its scores have shape (0, 2), and steps and outputs (3, 2)"),
    "texts": (_texts, "ValueError: could not convert string to float"),
    "dies": (lambda _: next(iter(())), "StopIteration: "),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_detector_that_fails_is_disabled_and_said_once_and_the_others_go_on(
    failure: str, caplog: pytest.LogCaptureFixture
) -> None:
    broken, other = Scripted("broken", {4: (2.0, 0.0)}), Scripted("other", {4: (2.0, 0.0), 8: (0.0, 3.0)})
    monitor = monitor_of(broken, other)
    shipped = monitor.active[:-2]
    assert opened(monitor.observe(usual(4)), "broken") == {4: ["entropy"]}
    fails, reason = FAILURES[failure]
    vars(broken)["observe"] = fails
    with caplog.at_level(logging.WARNING, module.__name__):
        observed = monitor.observe(usual(3, 5)) + monitor.observe(usual(3, 8))
    assert [len(seen.disabled) for seen in observed] == [1, 0, 0, 0, 0, 0]
    ((name, why),) = observed[0].disabled
    assert name == "broken"
    assert why.startswith(reason)
    assert len(why) <= 300
    assert "\n" not in why
    assert caplog.text.count("detector broken is disabled") == 1
    assert monitor.active == (*shipped, "other")
    assert opened(observed, "broken") == {}, "its alarms are over"
    assert opened(observed, "other") == {8: ["probe_accuracy"]}


def test_several_may_fail_at_once_and_nothing_is_left_to_fail() -> None:
    broken = [Scripted(name) for name in "abc"]
    for each in broken:
        vars(each)["observe"] = _raises
    monitor = monitor_of(*broken)
    for name in monitor.active[:-3]:
        vars(monitor._detectors[name])["observe"] = _raises
    first, second = monitor.observe(usual(2))
    assert [name for name, _ in first.disabled][-3:] == ["a", "b", "c"]
    assert monitor.active == ()
    assert (second.symptoms, second.disabled, second.scores) == ((), (), EvidenceScores())
    assert monitor.observe(usual(2, 3))[1].symptoms == ()


@pytest.mark.parametrize("method", ["reason", "signal_at", "symptom", "earliest"])
def test_detector_whose_words_fail_is_disabled_too(method: str) -> None:
    broken = Scripted("broken", {2: (2.0, 2.0)})
    setattr(broken, method, lambda *_: 1 / 0)
    observed = monitor_of(broken, Scripted("other", {2: (2.0, 0.0)})).observe(usual(3))
    assert [len(seen.disabled) for seen in observed] == [0, 1, 0]
    assert opened(observed, "broken") == {}
    assert opened(observed, "other") == {2: ["entropy"]}


@pytest.mark.parametrize("outputs", [(2,), (-3,), (0, 7), None, 3])
def test_detector_that_ends_alarms_of_others_is_disabled(outputs: Any) -> None:
    first, second = Scripted("first", {1: (1.0, 1.0)}), Scripted("second", {1: (1.0, 1.0), 2: (0.5, 0.5)})
    monitor = monitor_of(first, second)
    monitor.observe(usual(1))
    first.closes = outputs
    monitor.declare(DeclaredChange("levers", 2, ("lr",), "a lever"))
    (seen,) = monitor.observe(usual(1, 2))
    assert [name for name, _ in seen.disabled] == ["first"]
    assert opened([seen], "second") == {2: ["entropy", "probe_accuracy"]}


@pytest.mark.parametrize("name", ["joint", "finite", "change_point", "mine", VIEWS])
def test_two_of_one_name_are_refused(name: str) -> None:
    with pytest.raises(DetectorError, match=f"Two parts of the monitor are named '{name}'; rename the one in guard"):
        monitor_of(Scripted(name), Scripted("mine"), Scripted("other"), *([Scripted("mine")] * (name == "mine")))


def test_declared_change_reaches_every_detector_before_the_next_step() -> None:
    one, other = Scripted("one", {1: (1.0, 1.0), 2: (0.5, 0.5)}), Scripted("other", {1: (1.0, 1.0), 2: (0.5, 0.5)})
    monitor = monitor_of(one, other)
    monitor.observe(usual(1))
    one.closes = (1,)
    monitor.declare(DeclaredChange("levers", 2, ("kl_ref", "entropy"), "a lever", settled=("update_ratio",)))
    asked = [("forget", ("kl_ref", "entropy"), 2), ("settle", ("update_ratio",), 0)]
    assert (one.asked, other.asked) == (asked, asked)
    observed = monitor.observe(usual(1, 2))
    assert opened(observed, "one") == {2: ["entropy"]}, "what began from nothing must be raised again"
    assert opened(observed, "other") == {2: ["entropy", "probe_accuracy"]}


def test_evidence_against_settled_signals_restarts_again_after_the_step_under_way() -> None:
    settled = ("settle", ("update_ratio",), 0)
    change = DeclaredChange("levers", 2, (), "a remedy", settled=("update_ratio",))
    whole, stepwise = Scripted("mine"), Scripted("mine")
    watched = monitor_of(whole)
    watched.observe(usual(1))
    watched.declare(change)
    watched.observe(usual(3, 2))
    before = monitor_of(stepwise)
    before.observe(usual(1))
    before.declare(change)
    assert [one for one in stepwise.asked if one[0] == "settle"] == [settled]
    other = Scripted("mine")
    resumed = monitor_of(other)
    resumed.load_state_dict(before.state_dict())
    for step in (2, 3, 4):
        resumed.observe(usual(1, step))
    assert [one for one in whole.asked if one[0] == "settle"] == [settled, settled]
    assert [one for one in other.asked if one[0] == "settle"] == [settled], "once more, though it was saved between"


def test_alarm_of_failing_calls_does_not_outlast_the_remedy_that_ends_them() -> None:
    """The step under way has failed already: the evidence in it must not be what a remedy is judged by."""
    rates = {10: 0.83, 11: 0.79}
    monitor, open_at = monitor_of(), list[int]()
    for step in range(1, 17):
        (seen,) = monitor.observe([make_report(step, tool_call_count=96.0, tool_error_rate=rates.get(step, 0.0))])
        open_at += [step] * any(one.alarm and one.signal == "tool_error_rate" for one in seen.symptoms)
        if step == 10:
            change = DeclaredChange("levers", 11, (), "calls go to another instance", settled=("tool_error_rate",))
            monitor.declare(change)
    assert open_at == [10, 11]


def test_declared_change_takes_the_reference_of_its_signals() -> None:
    run = healthy_runs()[-1]
    longer = [make_longer(report) if report.id.step >= 20 else report for report in run]
    told, untold = monitor_of(mode=Mode.FULL), monitor_of(mode=Mode.FULL)
    for monitor in (told, untold):
        assert not alarms(monitor.observe(longer[:19]))
    told.declare(DeclaredChange("length", 20, ("length_mean", "length_q10", "length_q50", "length_q90"), "on purpose"))
    assert alarms(untold.observe(longer[19:])) > 10
    assert alarms(told.observe(longer[19:])) == 0


def make_longer(report: StepReport) -> StepReport:
    """A step whose answers are longer."""
    values = list(report.values)
    for name in ("length_mean", "length_q10", "length_q50", "length_q90"):
        values[INDEX[name]] += 1.0
    return replace(report, values=tuple(values))
