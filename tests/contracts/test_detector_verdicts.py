"""What every detector keeps to, shipped or the user's, in every mode: scores, healthy runs, faults, readable words."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rftfm_ray.detection.detectors.base import Detector, Scores
from rftfm_ray.detection.reference.mixture import Mode
from rftfm_ray.detection.reference.views import StepView, values_of
from rftfm_ray.detection.statistics.cusum import RECOVERED
from rftfm_ray.signals.groups import PROMPT_DEPENDENT
from rftfm_ray.signals.schema import INDEX
from rftfm_ray.verdicts import Evidence, StepReport, Symptom
from tests.contracts.detector_cases import (
    BY_REFERENCE,
    CASES,
    DISTINCT,
    FAULTS,
    FIRST_STEP,
    HEALTHY,
    NEW,
    RECORDED,
    Case,
    follow,
    fresh,
    identifier,
    pieces_of,
    renumbered,
    run_of,
    speaks,
)
from tests.detecting import SETTINGS, Watched, joined, make_report, reference, report_of_values

every_detector = pytest.mark.parametrize("case", CASES, ids=map(identifier, CASES))
every_detector_of_recorded_runs = pytest.mark.parametrize("case", RECORDED, ids=map(identifier, RECORDED))
every_distinct_detector = pytest.mark.parametrize("case", DISTINCT, ids=map(identifier, DISTINCT))
COURSES = ("calculator_od1", "arithmetic_od1", "calculator_te1", "calculator_rf1", "prompts", "wild-1", "wild-2")
# An identity and a share that is known beforehand need no reference, so that no declared change takes it away.
NO_REFERENCE = ("finite", "declared_rate", "identity:", "rate:", "law:")
# The law of rewards that a run shows by itself is learnt again.
LEARNT_AGAIN = ("law:own_reward",)
# What is exact is broken as long as it is broken, and held-out accuracy is lost until a probe shows that it is back.
NOT_SETTLED = ("finite", "declared_rate", "probe")


def watched(case: Case) -> Watched:
    """The detector of a case before the monitor's latch."""
    return Watched(fresh(case), reference(case[0]))


def symptoms_of(case: Case, run: str | Sequence[StepReport]) -> dict[int, list[Symptom]]:
    """What it says of a whole run, by step; the views of runs that have a name are worked out once."""
    if isinstance(run, str):
        return Watched(fresh(case)).see(pieces_of(case[0], run))
    return watched(case).observe(run)


def assert_readable(symptoms: dict[int, list[Symptom]], detector: Detector) -> None:
    """Everything that a diagnosis, a policy and a reader need of a symptom."""
    for step, each in symptoms.items():
        for one in each:
            assert one.detector == detector.name
            assert one.signal in INDEX
            assert one.direction in (-1, 1)
            assert one.evidence in Evidence
            assert 1 <= one.onset_low <= one.onset <= step
            assert one.reason.strip()
            assert "\n" not in one.reason
            assert one.score > RECOVERED, "an open alarm has a score, NaN is none"


@every_detector
def test_it_speaks_on_its_fault_and_every_word_can_be_read(case: Case) -> None:
    symptoms = symptoms_of(case, case[1])
    assert any(speaks(case, one) for each in symptoms.values() for one in each)
    assert_readable(symptoms, fresh(case))


@every_distinct_detector
@pytest.mark.parametrize("course", COURSES)
def test_every_word_on_any_course_can_be_read(case: Case, course: str) -> None:
    assert_readable(symptoms_of(case, course), fresh(case))


@every_detector_of_recorded_runs
def test_it_is_silent_on_healthy_runs(case: Case) -> None:
    """Notices may be wrong; an alarm may not, but for as many as are promised of what compares with a reference.

    A profile is one of runs of its own kind.
    """
    raised, steps = list[tuple[str, Symptom]](), 0
    for name in (*NEW, *(HEALTHY if case[0] is Mode.NONE else ())):
        steps += len(run_of(name))
        alarms = {step: [one for one in each if speaks(case, one)] for step, each in symptoms_of(case, name).items()}
        raised += [(name, each[0]) for step, each in alarms.items() if each and not alarms.get(step - 1)]
    promised = math.ceil(steps / SETTINGS.false_alarm_steps) if case[1] in BY_REFERENCE else 0
    assert len(raised) <= promised, raised


def test_every_recorded_fault_is_seen_by_the_detectors_that_are_made_for_it() -> None:
    seen = {}
    for run in ("calculator_od1", "arithmetic_od1", "calculator_te1", "calculator_rf1"):
        alarms = {case[1]: symptoms_of(case, run) for case in CASES if case[0] is Mode.NONE}
        seen[run] = {name for name, each in alarms.items() if any(one.alarm for some in each.values() for one in some)}
    assert "update_size" in seen["calculator_od1"]
    assert {"update_size", "blow_up:kl_ref", "probe"} <= seen["arithmetic_od1"]
    assert "rate:tool_error_rate" in seen["calculator_te1"]
    assert "rate:trained_mismatch_rate" in seen["calculator_rf1"]
    others = ("finite", "declared_rate", "identity:", "update_size")
    assert not [name for name in seen["calculator_te1"] if name.startswith(others)], "they speak of something else"


def assert_scores(scores: Scores, detector: Detector, steps: int) -> None:
    """Shapes, types, and no evidence that is less than nothing."""
    shape = steps, len(detector.outputs)
    assert (scores.score.shape, scores.onset.shape, scores.reference.shape) == (shape,) * 3
    assert scores.score.dtype == scores.reference.dtype == np.float64
    assert scores.onset.dtype == np.int64
    assert not (scores.score < 0).any()


@every_distinct_detector
def test_scores_are_a_table_of_steps_and_outputs(case: Case) -> None:
    for course in (*COURSES, case[1]):
        pieces = pieces_of(case[0], course)
        scores = joined(follow(fresh(case), pieces))
        assert_scores(scores, fresh(case), len(run_of(course)))
        steps = np.concatenate([piece.steps for piece in pieces])
        assert (scores.onset <= steps[:, None]).all()


RESTS = [math.nan, math.inf, -math.inf, 0.0, 1.0, -1.0, 1e308, -1e308, 5e-324]


@every_distinct_detector
@pytest.mark.parametrize("rest", RESTS)
def test_no_value_everywhere_makes_it_raise_or_blinds_it(case: Case, rest: float) -> None:
    usual = [make_report(step) for step in range(1, 15)]
    wild = [report_of_values(step, {}, rest) for step in range(15, 20)]
    watching = watched(case)
    symptoms = watching.observe([*usual, *wild])
    symptoms |= watching.observe([make_report(step) for step in range(20, 60)])
    assert_readable(symptoms, fresh(case))
    assert_readable(symptoms_of(case, renumbered(wild, 1)), fresh(case))
    # Its fault is found as ever, once it has been told that what was before is no reference.
    watching.forget(list(INDEX), 60)
    after = watching.observe(renumbered(run_of(case[1]), 60))
    assert case[1] in FIRST_STEP or any(speaks(case, one) for each in after.values() for one in each)


@every_detector_of_recorded_runs
def test_steps_without_any_value_are_no_alarm(case: Case) -> None:
    """Nothing was measured: there is no number to judge by."""
    usual = list(run_of("new-18"))[:30]
    nothing = [report_of_values(step, {}) for step in range(31, 60)]
    for run in ([*usual, *nothing], renumbered(nothing, 1)):
        assert not [one for each in symptoms_of(case, run).values() for one in each if one.alarm]


@every_detector_of_recorded_runs
def test_steps_whose_trajectories_were_all_masked_tell_of_that_alone(case: Case) -> None:
    usual = list(run_of("new-18"))[:30]
    masked = [report_of_values(step, {"valid_rate": (0.0, math.nan)[step % 2]}) for step in range(31, 60)]
    alarms = [one for each in symptoms_of(case, [*usual, *masked]).values() for one in each if one.alarm]
    assert {one.signal for one in alarms} <= {"valid_rate"}
    assert not [one for one in alarms if "nan" in one.reason.split()]


odd = st.sampled_from([math.nan, math.inf, -math.inf, 0.0, -0.0, 1.0, 1e308, -1e308, 5e-324])
rows = st.dictionaries(st.sampled_from(list(INDEX)), odd | st.floats(0, 1) | st.floats(-1e9, 1e9), max_size=20)


@every_distinct_detector
@settings(max_examples=15, deadline=None)
@given(stream=st.lists(rows, max_size=15), healthy=st.integers(0, 12))
def test_no_stream_makes_it_raise(case: Case, stream: list[dict[str, float]], healthy: int) -> None:
    reports = [make_report(step) for step in range(1, healthy + 1)]
    reports += [make_report(step, **row) for step, row in enumerate(stream, healthy + 1)]
    if reports:
        assert_readable(symptoms_of(case, reports), fresh(case))


def open_at_its_fault(case: Case) -> tuple[Watched, int, Symptom]:
    """The detector while its alarm is open, the next step, and the symptom."""
    run = run_of(case[1])
    first = min(step for step, each in symptoms_of(case, case[1]).items() if any(speaks(case, one) for one in each))
    watching = watched(case)
    symptoms = watching.observe([report for report in run if report.id.step <= first])[first]
    return watching, first + 1, next(one for one in symptoms if speaks(case, one))


@every_detector
def test_declared_change_ends_the_alarms_that_lose_their_reference(case: Case) -> None:
    watching, step, symptom = open_at_its_fault(case)
    watching.forget(["no such signal"], step)
    watching.forget([], step)
    # A step at which nothing was measured shows what is open.
    gap = [report_of_values(step, {})]
    held = any(speaks(case, one) for one in watching.observe(gap).get(step, []))
    assert held or case[1] in ("finite", "declared_rate"), "a change of something else ends nothing"
    watching.forget(["lr", symptom.signal], step + 1)
    after = watching.observe([report_of_values(step + 1, {})]).get(step + 1, [])
    needs_none = case[1].startswith(NO_REFERENCE) and case[1] not in LEARNT_AGAIN
    assert held is not needs_none or any(speaks(case, one) for one in after) is held
    if not needs_none:
        assert not [one for one in after if speaks(case, one) and one.signal == symptom.signal]


@every_detector
def test_remedy_lets_its_alarms_be_raised_again(case: Case) -> None:
    watching, step, symptom = open_at_its_fault(case)
    watching.settle(["no such signal"])
    watching.settle([])
    held = watching.observe([report_of_values(step, {})]).get(step, [])
    watching.settle(["lr", symptom.signal])
    after = watching.observe([report_of_values(step + 1, {})]).get(step + 1, [])
    if case[1].startswith(NOT_SETTLED):
        assert [one.signal for one in after] == [one.signal for one in held]
    else:
        assert not [one for one in after if speaks(case, one) and one.signal == symptom.signal]


@every_distinct_detector
@settings(max_examples=20, deadline=None)
@given(asked=st.lists(st.tuples(st.booleans(), st.sets(st.sampled_from([*INDEX, "no such signal"]))), max_size=6))
def test_forgetting_and_settling_is_always_possible(case: Case, asked: list[tuple[bool, set[str]]]) -> None:
    detector, step = fresh(case), 1
    for forget, signals in asked:
        outputs = detector.forget(signals, step) if forget else detector.settle(signals)
        assert set(outputs) <= set(range(len(detector.outputs)))
        follow(detector, usual_steps(step, 4))
        step += 4
    assert_scores(joined(follow(detector, usual_steps(step, 3))), detector, 3)


def usual_steps(step: int, count: int) -> list[StepView]:
    """A view of some usual steps."""
    return [StepView.without_residuals(*values_of([make_report(each) for each in range(step, step + count)]))]


@every_distinct_detector
def test_what_follows_the_prompts_can_be_forgotten_at_any_step(case: Case) -> None:
    run = list(run_of("wild-1"))
    for cut in (1, 6, 20):
        watching = watched(case)
        symptoms = watching.observe(run[:cut])
        watching.forget(PROMPT_DEPENDENT, cut + 1)
        assert_readable(symptoms | watching.observe(run[cut:]), fresh(case))


def test_all_faults_are_as_long_as_they_need_to_be() -> None:
    assert max(len(run_of(name)) for name in FAULTS) <= 200
