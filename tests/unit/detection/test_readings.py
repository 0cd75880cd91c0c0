"""Absolute readings: each on a sound and a broken course, its near misses, gaps, hysteresis, state, and first rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from rftfm_ray.detection.detectors.readings import ReadingDetector, reading_detectors
from rftfm_ray.detection.readings import drift, learning
from rftfm_ray.detection.readings.base import SOUND, AbsoluteReading, Family, Grade
from rftfm_ray.detection.readings.levels import chance_of
from rftfm_ray.detection.readings.table import BY_NAME, TABLE, beside_entries
from rftfm_ray.detection.reference.views import StepView, values_of
from rftfm_ray.signals.schema import INDEX
from rftfm_ray.verdicts import StepReport
from tests.detecting import make_report

Floats = NDArray[np.float64]
Course = Mapping[str, Sequence[float] | Floats]


def noise(size: int, spread: float, seed: int) -> Floats:
    """Normal values about 0."""
    return spread * np.random.default_rng(seed).standard_normal(size)


def follow(name: str | AbsoluteReading, course: Course) -> list[float]:
    """Scores of a reading over a course."""
    reading = BY_NAME[name].build() if isinstance(name, str) else name
    rows = zip(*course.values(), strict=True)
    return [reading.add(n, dict(zip(course, map(float, row), strict=True))).score for n, row in enumerate(rows, 1)]


def raised(name: str | AbsoluteReading, course: Course) -> int:
    """The row, from 1, at which an alarm opens; 0 for never."""
    return next((n for n, score in enumerate(follow(name, course), 1) if score >= 1.0), 0)


def rises(steps: int = 60, start: float = 0.2, end: float = 0.8, seed: int = 1) -> Floats:
    """A level that goes from one value to another, with noise."""
    level: Floats = np.linspace(start, end, steps) + noise(steps, 0.02, seed)
    return level


def hill(steps: int = 60, top: float = 0.8, end: float = 0.05) -> Floats:
    """A level that is learnt in the first half, and lost in the second."""
    half = steps // 2
    return np.concatenate([rises(half, 0.1, top), np.linspace(top, end, 8), np.full(steps - half - 8, end)])


def shaken(value: float, steps: int = 60, spread: float = 0.05, seed: int = 3) -> Floats:
    """A positive value with multiplicative noise."""
    level: Floats = value * np.exp(noise(steps, spread, seed))
    return level


def flat(value: float, steps: int = 60) -> Floats:
    """The same value at every row."""
    return np.full(steps, value)


def every_second_row() -> Floats:
    """Values that are not finite at every second row."""
    return (np.arange(60) % 2).astype(np.float64)


def breaks_at(row: int, before: float, after: float, seed: int) -> Floats:
    """A level that changes at one row."""
    level: Floats = np.where(np.arange(60) < row, before, after) * np.exp(noise(60, 0.05, seed))
    return level


def three(*rows: int) -> Course:
    """Three signals that change, each at a row of its own."""
    sizes = {"entropy": (0.5, 1.5), "grad_norm": (0.3, 3.0), "length_mean": (200.0, 60.0)}
    return {name: breaks_at(row, *sizes[name], seed=row) for name, row in zip(sizes, rows, strict=True)}


LONG = 400
Case = tuple[Course, Course, int]
"""A broken course, a sound one that comes near it, and the latest row at which the alarm must be open."""
CASES: Mapping[str, Callable[[], Case]] = {
    # Equal rewards of answers that differ in being right; a run that has solved its task has them too.
    "groups_agree": lambda: (
        {"zero_variance_group_rate": flat(1), "correct_rate": rises(), "reward_mean": flat(3)},
        {"zero_variance_group_rate": [0.2] * 20 + [1.0] * 40, "correct_rate": [0.5] * 20 + [1.0] * 40,
         "reward_mean": [0.5] * 20 + [1.0] * 40},
        3,
    ),
    "groups_agree_from_start": lambda: ({"reward_std": flat(0)}, {"reward_std": [0.0, 0.0, 0.3] + [0.0] * 57}, 3),
    "gradient_zero": lambda: (
        {"grad_norm": flat(0), "trajectory_count": flat(128)},
        {"grad_norm": [0.3, 0.0, 0.0] * 20, "trajectory_count": flat(128)},
        10,
    ),
    "rate_zero": lambda: ({"lr": flat(0)}, {"lr": [0.0, 0.0, *([1e-6] * 57), 0.0]}, 3),
    "updates_refused": lambda: (
        {"vetoes": flat(1), "correct_rate": flat(0.5)}, {"vetoes": flat(1), "correct_rate": flat(1.0)}, 5,
    ),
    "kl_impossible": lambda: ({"kl_ref": shaken(1e6)}, {"kl_ref": [0.1, 500.0, 0.1] * 20}, 3),
    "kl_large": lambda: ({"kl_ref": shaken(40)}, {"kl_ref": shaken(15)}, 3),
    "step_kl_impossible": lambda: ({"step_kl": shaken(30)}, {"kl_old": shaken(0.5)}, 3),
    "entropy_impossible": lambda: ({"entropy": shaken(20)}, {"entropy": shaken(9)}, 3),
    "entropy_huge": lambda: ({"entropy": shaken(9)}, {"entropy": shaken(3.4)}, 3),
    "certain_but_wrong": lambda: (
        {"entropy": shaken(0.003), "correct_rate": flat(0.1)},
        {"entropy": shaken(0.003), "correct_rate": flat(0.9)},
        10,
    ),
    "rollout_ratio": lambda: (
        {"rollout_ratio_mean": shaken(0.6)}, {"rollout_ratio_mean": shaken(0.95, spread=0.02)}, 3,
    ),
    "rollout_kl": lambda: ({"rollout_kl": shaken(0.3)}, {"rollout_kl": shaken(0.01)}, 3),
    "rollout_gap": lambda: ({"rollout_gap_mean": shaken(0.8)}, {"rollout_gap_mean": shaken(0.03)}, 3),
    "rollout_gap_max": lambda: ({"rollout_gap_max": shaken(8)}, {"rollout_gap_max": shaken(1.5)}, 3),
    "ratio_impossible": lambda: ({"ratio_max": shaken(5e8)}, {"ratio_max": shaken(20)}, 3),
    "clip_share": lambda: (
        {"clip_high_rate": flat(0.4), "clip_low_rate": flat(0.3)},
        {"clip_high_rate": flat(0.2), "clip_low_rate": flat(0.2)},
        5,
    ),
    "critic_worse_than_none": lambda: (
        {"explained_variance": flat(-3)}, {"explained_variance": [-3.0] * 9 + [-0.2] * 51}, 20,
    ),
    # An addition has answers of one length, and they end by themselves.
    "length_pinned": lambda: (
        {"length_mean": flat(512), "length_max": flat(512)},
        {"length_mean": flat(4), "length_max": flat(4), "truncated_rate": flat(0.0)},
        10,
    ),
    "not_finite_share": lambda: (
        {"not_finite": every_second_row()}, {"not_finite": [0.0] * 20 + [1.0] + [0.0] * 20 + [1.0] + [0.0] * 18}, 8,
    ),
    "reward_lost": lambda: ({"reward_mean": hill()}, {"reward_mean": hill(end=0.5)}, 50),
    "paid_for_wrong": lambda: (
        {"reward_mean": rises(start=1.7, end=19), "correct_rate": flat(0)},
        {"reward_mean": rises(start=1.7, end=19), "correct_rate": rises(start=0, end=0.3)},
        20,
    ),
    "right_answers_lost": lambda: (
        {"reward_mean": rises(), "correct_rate": rises(start=0.4, end=0.0)},
        # Both fall: that is no reward that pays for something else.
        {"reward_mean": rises(start=0.8, end=0.2), "correct_rate": rises(start=0.4, end=0.0)},
        50,
    ),
    "held_out_lost": lambda: (
        {"reward_mean": rises(20), "probe_accuracy": [0.9] * 8 + [0.6, 0.5, 0.4] + [0.3] * 9},
        {"reward_mean": rises(20), "probe_accuracy": rises(20, 0.9, 0.8)},
        16,
    ),
    "kl_without_gain": lambda: (
        {"reward_mean": rises(150, 0.8, 0.8), "kl_ref": np.geomspace(0.05, 4.0, 150)},
        {"reward_mean": rises(150, 0.2, 0.9), "kl_ref": np.geomspace(0.05, 4.0, 150)},
        149,
    ),
    "broke_together": lambda: (
        three(40, 40, 40),
        three(40, 45, 50),
        43,
    ),
    "drift_correct_rate": lambda: (
        {"correct_rate": rises(LONG, 0.9, 0.3)}, {"correct_rate": rises(LONG, 0.3, 0.9)}, 240,
    ),
    "drift_entropy": lambda: ({"entropy": rises(LONG, 0.4, 2.4)}, {"entropy": rises(LONG, 0.4, 0.9)}, 240),
    "drift_grad_norm": lambda: (
        {"grad_norm": np.geomspace(0.1, 10, LONG)}, {"grad_norm": np.geomspace(0.1, 0.5, LONG)}, 300,
    ),
    "drift_rollout_kl": lambda: (
        {"rollout_kl": np.linspace(0.001, 0.05, LONG)}, {"rollout_kl": np.linspace(0.001, 0.006, LONG)}, 240,
    ),
    "drift_rollout_gap_mean": lambda: (
        {"rollout_gap_mean": rises(LONG, 0.1, 0.5)}, {"rollout_gap_mean": shaken(0.01, LONG)}, 240,
    ),
    "drift_rollout_ratio_mean": lambda: (
        {"rollout_ratio_mean": np.linspace(1.0, 0.7, LONG)}, {"rollout_ratio_mean": shaken(1.0, LONG, 0.01)}, 300,
    ),
    "drift_truncated_rate": lambda: (
        {"truncated_rate": np.linspace(0, 0.8, LONG)}, {"truncated_rate": np.linspace(0, 0.2, LONG)}, 240,
    ),
    "drift_empty_rate": lambda: (
        {"empty_rate": np.linspace(0, 0.8, LONG)}, {"empty_rate": np.linspace(0, 0.1, LONG)}, 240,
    ),
    "drift_repeated_bigram_rate": lambda: (
        {"repeated_bigram_rate": np.linspace(0, 0.8, LONG)}, {"repeated_bigram_rate": np.linspace(0, 0.2, LONG)}, 240,
    ),
    "drift_failed_rate": lambda: (
        {"failed_rate": np.linspace(0, 0.4, LONG)}, {"failed_rate": np.linspace(0, 0.1, LONG)}, 240,
    ),
    "drift_tool_error_rate": lambda: (
        {"tool_error_rate": np.linspace(0, 0.4, LONG)}, {"tool_error_rate": np.linspace(0, 0.1, LONG)}, 240,
    ),
    "drift_clip_high_rate": lambda: (
        {"clip_high_rate": np.linspace(0, 0.8, LONG)}, {"clip_high_rate": np.linspace(0, 0.2, LONG)}, 240,
    ),
    "drift_clip_low_rate": lambda: (
        {"clip_low_rate": np.linspace(0, 0.8, LONG)}, {"clip_low_rate": np.linspace(0, 0.2, LONG)}, 240,
    ),
    "drift_explained_variance": lambda: (
        {"explained_variance": np.linspace(0.8, -0.4, LONG)}, {"explained_variance": np.linspace(-0.4, 0.8, LONG)}, 240,
    ),
}  # fmt: skip


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
