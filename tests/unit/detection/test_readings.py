"""Absolute readings: each on a sound and a broken course, its near misses, gaps, hysteresis, state, and first rows."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rftfm_ray.detection.detectors.readings import ReadingDetector, names_of, reading_detectors
from rftfm_ray.detection.readings import drift, learning
from rftfm_ray.detection.readings.base import SOUND, AbsoluteReading, Family, Grade
from rftfm_ray.detection.readings.levels import chance_of
from rftfm_ray.detection.readings.table import BY_NAME, TABLE, beside_entries
from rftfm_ray.detection.reference.views import StepView, values_of
from rftfm_ray.signals.schema import INDEX
from rftfm_ray.verdicts import StepReport
from tests.detecting import make_report
from tests.reading_courses import CASES, Course, Floats, flat, hill, noise, rises


def follow(name: str | AbsoluteReading, course: Course) -> list[float]:
    """Scores of a reading over a course."""
    reading = BY_NAME[name].build() if isinstance(name, str) else name
    rows = zip(*course.values(), strict=True)
    return [reading.add(n, dict(zip(course, map(float, row), strict=True))).score for n, row in enumerate(rows, 1)]


def raised(name: str | AbsoluteReading, course: Course) -> int:
    """The row, from 1, at which an alarm opens; 0 for never."""
    return next((n for n, score in enumerate(follow(name, course), 1) if score >= 1.0), 0)


def test_every_reading_has_a_case_a_family_a_source_and_signals_that_exist() -> None:
    assert set(CASES) == set(BY_NAME)
    for entry in TABLE:
        rule = entry.rule
        assert isinstance(rule.family, Family)
        assert rule.source
        assert rule.says
        assert rule.signal in rule.inputs
        assert rule.fewest >= 3
        if not rule.in_logs_only:
            assert {*rule.inputs, *entry.build().extra} <= set(INDEX)


@pytest.mark.parametrize("name", CASES)
def test_a_reading_finds_what_is_broken_in_time_and_leaves_what_only_looks_like_it(name: str) -> None:
    broken, sound, latest = CASES[name]()
    row = raised(name, broken)
    assert 3 <= row <= latest
    assert raised(name, sound) == 0


@pytest.mark.parametrize("name", CASES)
def test_missing_columns_and_gaps_are_no_finding_and_no_row(name: str) -> None:
    broken, _, _ = CASES[name]()
    reading, gaps = BY_NAME[name].build(), BY_NAME[name].build()
    for number in range(1, 20):
        assert math.isnan(reading.add(number, {"advantage_max": 1.0}).score)
        assert math.isnan(gaps.add(number, dict.fromkeys(broken, math.nan)).score)
    assert reading.rows == gaps.rows == 0
    # A gap changes nothing: the alarm comes after as many rows that were measured.
    spaced = {
        column: np.stack([np.asarray(values, np.float64), np.full(len(values), math.nan)], 1).ravel()
        for column, values in broken.items()
    }
    assert raised(name, spaced) == 2 * raised(name, broken) - 1


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("at", [2, 25])
def test_a_saved_state_goes_on_as_if_it_had_never_stopped(name: str, at: int) -> None:
    broken, _, _ = CASES[name]()
    whole = follow(name, broken)
    first, second = BY_NAME[name].build(), BY_NAME[name].build()
    begun = follow(first, {column: values[:at] for column, values in broken.items()})
    second.load_state_dict(first.state_dict())
    rest = [
        second.add(number, dict(zip(broken, map(float, row), strict=True))).score
        for number, row in enumerate(zip(*(values[at:] for values in broken.values()), strict=True), at + 1)
    ]
    assert np.array_equal(np.array([*begun, *rest]), np.array(whole), equal_nan=True)


def may_break(name: str, course: Course) -> bool:
    """Whether a whole log with this course may break a reading."""
    reading = BY_NAME[name].build()
    columns = {column: np.asarray(values, np.float64) for column, values in course.items()}
    needs = [[np.isfinite(columns[n]) for n in names if n in columns] for names in reading.rule.needs]
    rows = np.all([np.any(some, 0) for some in needs], 0)
    return reading.may_break({column: values[rows] for column, values in columns.items()})


@pytest.mark.parametrize("name", CASES)
def test_what_spares_the_rows_of_a_log_spares_no_broken_one(name: str) -> None:
    broken, sound, _ = CASES[name]()
    for course in (broken, sound, {column: np.asarray(values)[::-1] for column, values in broken.items()}):
        assert may_break(name, course) or not raised(name, course)
    assert may_break(name, broken)


@pytest.mark.parametrize("seed", range(40))
def test_it_spares_none_of_courses_without_a_sense(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for name in CASES:
        reading = BY_NAME[name].build()
        limit = reading.rule.limit or 1.0
        course = {
            column: rng.choice([0.0, 0.5, 1.0, 1.1, limit, -limit, 2 * limit, 1 / limit, math.nan], 300)
            * rng.choice([1.0, rng.lognormal()]) for column in names_of(reading)
        }  # fmt: skip
        assert may_break(name, course) or not raised(name, course), name


@pytest.mark.parametrize("size", [0.05, 0.15, 0.3])
@pytest.mark.parametrize("name", ["broke_together", *(name for name in CASES if name.startswith("drift_"))])
def test_it_is_the_same_for_windows_of_a_log_as_row_by_row(name: str, size: float) -> None:
    rule = BY_NAME[name].rule
    for seed in range(6):
        line = np.linspace(0, 3 * rule.limit * rule.direction, 437)
        course = {column: 0.5 + line + noise(437, size, seed + k) for k, column in enumerate(rule.inputs)}
        found = raised(name, course)
        assert may_break(name, course) is bool(found)


PROBED = np.arange(1, 61) % 5 == 0
"""Rows of a course at which a held-out score is measured."""


def seldom(end: float, reward: float) -> dict[str, Floats]:
    """A held-out score at every fifth row that is learnt and then goes to its end, and a noisy reward that does too."""
    score = np.interp(np.arange(60), [0, 15, 40, 60], [0.7, 0.9, end, end])
    rewards = np.interp(np.arange(60), [0, 15, 60], [0.95, 1.0, reward]) + noise(60, 0.05, 11)
    return {"reward_mean": rewards, "probe_accuracy": np.where(PROBED, score, math.nan)}


def test_a_score_that_is_known_seldom_is_compared_with_the_reward_of_all_rows() -> None:
    course = seldom(0.2, 1.15)
    assert 30 <= raised("held_out_lost", course) <= 45
    alone = {**course, "reward_mean": np.where(PROBED, course["reward_mean"], math.nan)}
    assert raised("held_out_lost", alone) == 0
    # A policy that is ruined loses both, and one that learns keeps both.
    assert raised("held_out_lost", seldom(0.2, 0.3)) == 0
    assert raised("held_out_lost", seldom(0.8, 1.15)) == 0


def test_a_guard_shows_a_reading_the_rows_that_it_follows_whatever_the_chunks() -> None:
    course = seldom(0.2, 1.15)
    expected = follow("held_out_lost", course)
    rows = zip(*course.values(), strict=True)
    reports = [make_report(n, **dict(zip(course, map(float, row), strict=True))) for n, row in enumerate(rows, 1)]
    for size in (1, 7, 60):
        detector = ReadingDetector(BY_NAME["held_out_lost"])
        views = [StepView.without_residuals(*values_of(reports[start : start + size])) for start in range(0, 60, size)]
        scores = np.concatenate([detector.observe(view).score[:, 0] for view in views])
        assert np.array_equal(scores, np.array(expected), equal_nan=True)
    assert max(score for score in expected if math.isfinite(score)) >= 1.0


def test_an_alarm_ends_after_some_sound_rows_and_flickering_is_one_alarm() -> None:
    flickering = [200.0] * 4 + [1.0, 200.0, 1.0, 1.0] * 5 + [1.0] * SOUND
    scores = follow("kl_impossible", {"kl_ref": flickering})
    opened = [score >= 1.0 for score in scores]
    assert opened[2:-SOUND] == [True] * (len(flickering) - SOUND - 2)
    assert not opened[-1]
    assert scores[-1] == 0.0


def test_two_broken_rows_are_no_state() -> None:
    assert raised("kl_impossible", {"kl_ref": [0.1, 0.1, 500.0, 500.0, 0.1, 500.0, 500.0, 0.1]}) == 0


def test_one_group_a_row_agrees_by_chance_and_needs_a_longer_run_of_rows() -> None:
    agree = (np.random.default_rng(5).random(400) < 0.6).astype(np.float64)
    course = {"zero_variance_group_rate": agree, "reward_mean": 0.3 + noise(400, 0.2, 6)}
    assert raised("groups_agree", course) == 0
    stopped = {"zero_variance_group_rate": np.concatenate([agree, np.ones(60)]), "reward_mean": np.zeros(460)}
    assert 400 < raised("groups_agree", stopped) <= 430


def test_answers_that_could_not_be_graded_are_no_ceiling() -> None:
    course = {
        "zero_variance_group_rate": flat(1.0, 12),
        "correct_rate": flat(1.0, 12),
        "trajectory_count": flat(32.0, 12),
    }
    assert raised("groups_agree", course) == 0
    assert 3 <= raised("groups_agree", {**course, "valid_rate": flat(0.6, 12)}) <= learning.WITH_MANY


def test_a_declared_schedule_without_a_step_is_no_fault() -> None:
    for name, column in (("rate_zero", "lr"), ("gradient_zero", "grad_norm")):
        assert raised(name, {column: flat(0), "schedule_factor": flat(0)}) == 0
        assert raised(name, {column: flat(0), "schedule_factor": flat(1)}) > 0


def test_a_part_of_the_reward_is_read_as_right_answers_are() -> None:
    (entry,) = beside_entries(["beside:accuracy"])
    course = {"reward_mean": rises(start=0.7, end=0.98), "beside:accuracy": rises(start=0.38, end=0.0)}
    assert entry.rule.name == "part_lost:accuracy"
    assert 20 <= raised(entry.build(), course) <= 50
    assert raised(entry.build(), {**course, "reward_mean": flat(0.7)}) == 0


def test_noise_with_a_memory_drifts_no_more_often_than_allowed() -> None:
    """Fewer than one in 4,000 rows: first-order memory of 0.9, and rates that are 0 nearly everywhere."""
    rng, alarms, rows = np.random.default_rng(7), 0, 0
    for _ in range(12):
        steps = noise(1000, 0.1, int(rng.integers(1 << 30)))
        wander = np.zeros(1000)
        for step in range(1, 1000):
            wander[step] = 0.9 * wander[step - 1] + steps[step]
        seldom = np.where(rng.random(1000) < 0.02, rng.random(1000), 0.0)
        courses = {
            "entropy": 1.0 + wander,
            "correct_rate": 0.5 + wander,
            "truncated_rate": seldom,
            "empty_rate": seldom,
        }
        for column, values in courses.items():
            alarms += raised(f"drift_{column}", {column: values}) > 0
        rows += 1000
    assert alarms / rows < 0.25 / 1000


def test_a_line_through_blocks_has_the_noise_of_the_rows_at_least() -> None:
    values = np.tile([0.0, 1.0], drift.ROWS // 2) + np.linspace(0, 0.01, drift.ROWS)
    line = drift.line_through(values, 0.01)
    # Between the blocks there is next to no noise, and within them it is a half.
    assert abs(line.t) < 1.0
    assert line.change == pytest.approx(0.009, rel=0.01)


def test_chance_of_many_rows_that_are_not_finite() -> None:
    assert chance_of(0, 10, 0.02) == 1.0
    assert chance_of(1, 1, 0.02) == pytest.approx(0.02)
    assert chance_of(3, 6, 0.02) == pytest.approx(1.53e-4, rel=0.02)
    assert chance_of(2, 100, 0.02) > 0.5


def reports(course: Course) -> list[StepReport]:
    """Steps of a guard with these values."""
    rows = zip(*course.values(), strict=True)
    return [make_report(step, **dict(zip(course, map(float, row), strict=True))) for step, row in enumerate(rows, 1)]


def test_only_a_critical_reading_raises_an_alarm_and_its_sentence_names_the_value() -> None:
    for detector in reading_detectors():
        grade = BY_NAME[detector.name.removeprefix("reading:")].rule.grade
        assert [output.alarm for output in detector.outputs] == [grade is Grade.CRITICAL]
    detector = ReadingDetector(BY_NAME["kl_impossible"])
    view = StepView.without_residuals(*values_of(reports({"kl_ref": [500.0] * 4})))
    scores = detector.observe(view)
    assert (scores.score[:, 0] >= 1).tolist() == [False, False, True, True]
    assert scores.onset[:, 0].tolist() == [1, 1, 1, 1]


def test_a_declared_change_restarts_what_a_reading_remembers() -> None:
    lost = hill()
    for declared in (False, True):
        detector = ReadingDetector(BY_NAME["reward_lost"])
        steps, values = values_of(reports({"reward_mean": lost}))
        view = StepView.without_residuals(steps, values)
        first = detector.observe(view.part(slice(0, 30)))
        assert first.score.max() < 1
        if declared:
            assert detector.forget(("reward_mean",), 31) == (0,)
            assert detector.forget(("entropy",), 31) == ()
        later = detector.observe(view.part(slice(30, 60))).score.max()
        assert (later >= 1) is not declared
