"""Some symptoms of a step are diagnosed by themselves: what the others are about is not read, nor named."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from rftfm_ray.detection.observed import Observation
from rftfm_ray.detection.reference.residuals import COLUMNS
from rftfm_ray.diagnosis.assessor import Assessor
from rftfm_ray.diagnosis.classify import diagnose
from rftfm_ray.diagnosis.diagnoser import FaultDiagnoser
from rftfm_ray.diagnosis.readings import Readings
from rftfm_ray.verdicts import Evidence, StepReport
from tests.unit.diagnosis.scripted import ScriptedMonitor, alarm

Make = Callable[..., StepReport]
MISMATCH = alarm("replay_observation_mismatch_rate", 3, evidence=Evidence.IDENTITY)
UPDATES = alarm("update_ratio", 3)
BOTH = {3: [MISMATCH, UPDATES], 4: [MISMATCH], 5: [UPDATES]}


def test_rest_of_a_step_is_diagnosed_as_a_step_with_nothing_else(make_report: Make) -> None:
    reports = [make_report(step, replay_observation_mismatch_rate=0.5) for step in (1, 2, 3)]
    first = Assessor(ScriptedMonitor(BOTH), FaultDiagnoser(), 0, 0).assess(reports)[-1]
    alone = Assessor(ScriptedMonitor({3: [UPDATES]}), FaultDiagnoser(), 0, 0).assess(
        [make_report(step, replay_observation_mismatch_rate=math.nan) for step in (1, 2, 3)]
    )[-1]
    assert first.rediagnoser is not None
    rest = first.rediagnoser.rediagnose([UPDATES], [MISMATCH.signal], ())
    assert rest is not None
    assert rest == alone.diagnosis
    assert first.rediagnoser.rediagnose([], [], ()) is None


def test_later_steps_and_other_processes_leave_it_as_it_is(make_report: Make) -> None:
    assessor = Assessor(ScriptedMonitor(BOTH), FaultDiagnoser(), 0, 0)
    first = assessor.assess([make_report(step) for step in (1, 2, 3)])[-1]
    assert first.rediagnoser is not None
    before = first.rediagnoser.rediagnose([UPDATES], (), ())
    sent = pickle.loads(pickle.dumps(first))  # noqa: S301 - what was pickled one call earlier
    assessor.assess([make_report(step, lr_excess=1.0, changed_rate=0.0, tool_error_rate=1.0) for step in (4, 5)])
    assert first.rediagnoser.rediagnose([UPDATES], (), ()) == before
    assert sent.rediagnoser.rediagnose([UPDATES], (), ()) == before


def test_step_without_a_diagnosis_has_none(make_report: Make) -> None:
    assessments = Assessor(ScriptedMonitor(BOTH), FaultDiagnoser(), 0, 0).assess(
        [make_report(step) for step in range(1, 7)]
    )
    assert [a.rediagnoser is not None for a in assessments] == [a.diagnosis is not None for a in assessments]


def test_fault_that_is_excluded_is_neither_named_nor_a_rival() -> None:
    for readings in (None, Readings()):
        named = diagnose([UPDATES], readings)
        assert named is not None
        assert named.code == "OD-1"
        other = diagnose([UPDATES], readings, (), ["OD-1"])
        assert other is not None
        assert "OD-1" not in {other.code, *(rival.code for rival in other.rivals)}
    unnamed = diagnose([replace(UPDATES, signal="staleness")], None, (), ["UNKNOWN"])
    assert unnamed is not None
    assert unnamed.code == "UNKNOWN", "that it is something else is never ruled out"


@pytest.mark.parametrize("signal", ["regrade_mismatch_rate", "tool_error_rate", "lr_excess", "changed_rate"])
def test_signal_that_is_left_out_leaves_no_finding(make_report: Make, signal: str) -> None:
    readings = Readings()
    values = {"regrade_count": 32.0, "regrade_mismatch_rate": 0.5, "trained_mismatch_rate": 0.5}
    values |= {"regrade_error_mean": 0.5, "tool_error_rate": 0.5}
    residuals = np.ones(len(COLUMNS))
    for step in range(1, 9):
        report = make_report(step, **values, lr_excess=1.0, changed_rate=0.0)
        readings.observe(Observation(report, (), residuals=residuals))
    found, rest = set(readings.findings(1)), readings.without([signal])
    of_signal = {
        "regrade_mismatch_rate": {"regrade_disagrees", "regrade_pays_more"},
        "tool_error_rate": {"tool_error_rate_exceeded"},
        "lr_excess": {"rate_not_declared"},
        "changed_rate": {"nothing_changed"},
    }[signal]
    assert of_signal <= found
    assert set(rest.findings(1)) == found - of_signal
    known = [name for name in COLUMNS if rest.window(1).knows(name)]
    assert known == [name for name in COLUMNS if name != signal]
    assert all(readings.window(1).knows(name) for name in COLUMNS)
    assert set(readings.findings(1)) == found, "it is a copy"


def test_update_that_was_refused_stays_refused(make_report: Make) -> None:
    for loss, refused in ((math.nan, True), (0.5, False)):
        readings = Readings()
        readings.observe(Observation(make_report(1, vetoes=1.0, loss=loss, advantage_error=1.0), ()))
        assert readings.update_was_refused_unseen is refused
        assert readings.without(["loss", "vetoes", "advantage_max"]).update_was_refused_unseen is refused
