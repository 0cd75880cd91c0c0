"""What a model of diagnoses is asked about: names of exact symptoms, residuals, and separating figures."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from rftfm_ray.detection.reference.residuals import COLUMNS
from rftfm_ray.diagnosis.features import (
    FARTHEST,
    FIGURES,
    NEWEST,
    NUMBERS,
    UNMEASURED,
    Features,
    Floats,
    Window,
    features_of,
    figures_in,
    is_exact,
    name_of,
    numbers_of,
)
from rftfm_ray.diagnosis.findings import COLUMN_OF, READ
from rftfm_ray.verdicts import Evidence, Symptom
from tests.unit.diagnosis.models import window_of
from tests.unit.diagnosis.scripted import alarm

LENGTH = len(COLUMNS)


def read(*rows: dict[str, float]) -> Floats:
    """Values that are read in some steps; unknown where none is given."""
    values = np.full((len(rows), len(READ)), np.nan)
    for row, given in enumerate(rows):
        for name, value in given.items():
            values[row, COLUMN_OF[name]] = value
    return values


def figure(name: str, *rows: dict[str, float]) -> float:
    """One figure of some steps."""
    return float(figures_in(read(*rows))[FIGURES.index(name)])


def numbers_for(window: Window) -> dict[str, float]:
    """Numbers by name."""
    return dict(zip(NUMBERS, numbers_of(window).tolist(), strict=True))


def test_numbers_have_one_name_each_in_their_order() -> None:
    assert len(set(NUMBERS)) == len(NUMBERS) == 4 * LENGTH + len(FIGURES)
    assert set(FIGURES) <= set(READ)
    assert NUMBERS[0] == f"since onset: {COLUMNS[0]}"
    assert NUMBERS[-1] == f"figure: {FIGURES[-1]}"


def test_residuals_are_means_since_the_onset_and_over_the_newest_steps() -> None:
    residuals = np.full((5, LENGTH), np.nan)
    residuals[:, 0] = [1.0, 2.0, math.nan, 50.0, -1.0]
    residuals[:, 1] = -50.0
    numbers = numbers_for(Window(residuals, np.zeros(len(FIGURES)), profiled=False))
    assert NEWEST == 3
    assert numbers[f"since onset: {COLUMNS[0]}"] == pytest.approx((1 + 2 + 0 + FARTHEST - 1) / 5)
    assert numbers[f"newest: {COLUMNS[0]}"] == pytest.approx((0 + FARTHEST - 1) / 3)
    assert numbers[f"since onset: {COLUMNS[1]}"] == -FARTHEST
    assert numbers[f"since onset: {COLUMNS[2]}"] == 0.0


def test_direction_has_length_one_and_a_weak_effect_has_that_of_a_strong_one() -> None:
    residuals = np.zeros((4, LENGTH))
    residuals[:, 0], residuals[:, 1] = 0.2, -0.1
    weak = numbers_for(Window(residuals, np.zeros(len(FIGURES)), profiled=False))
    strong = numbers_for(Window(2 * residuals, np.zeros(len(FIGURES)), profiled=False))
    names = [f"direction since onset: {name}" for name in COLUMNS]
    assert np.linalg.norm([weak[name] for name in names]) == pytest.approx(1)
    np.testing.assert_allclose([weak[name] for name in names], [strong[name] for name in names], atol=0.03)
    assert weak[names[0]] == pytest.approx(math.log1p(0.2) / math.hypot(math.log1p(0.2), math.log1p(0.1)))
    assert weak[names[1]] < 0
    none = numbers_for(Window(0 * residuals, np.zeros(len(FIGURES)), profiled=False))
    assert not any(none.values()), "without an effect there is no direction, and no division by 0"


def test_figure_is_the_newest_known_value_as_a_signed_logarithm() -> None:
    assert figure("lr_excess", {"lr_excess": 3.0}, {"lr_excess": -0.5}, {}) == pytest.approx(-math.log1p(50))
    assert figure("golden_mismatch_rate", {"golden_mismatch_rate": 0.5}, {}, {}) == pytest.approx(math.log1p(50))
    assert figure("tool_error_rate", {"tool_error_rate": 0.5}, {"tool_error_rate": 0.0}) == 0.0
    assert figure("tool_error_rate", {"tool_error_rate": math.inf}, {}) == 0.0, "an infinite value is not known"


@pytest.mark.parametrize("name", FIGURES)
def test_unknown_figure_looks_like_a_healthy_one_and_not_like_a_change(name: str) -> None:
    at_one = name in (
        "changed_rate", "turns_mean", "rollout_ratio_mean", "gap_slope", "gap_zero_share", "update_gain"
    )  # fmt: skip
    unknown = figure(name, {}, {})
    assert unknown == figure(name, {name: float(at_one)}) == UNMEASURED[FIGURES.index(name)]
    assert unknown != figure(name, {name: float(not at_one)})
    assert unknown == 0.0 or name in ("changed_rate", "turns_mean")


def test_share_of_changed_weights_is_near_zero_only_where_updates_go_nowhere() -> None:
    frozen, few, usual = (figure("changed_rate", {"changed_rate": share}) for share in (0.0, 0.5, 1.0))
    assert frozen == 0.0
    assert few > 0.8 * usual


def test_telemetry_is_left_out_and_exact_evidence_has_a_name_for_its_side() -> None:
    exact = [
        alarm("weights_mismatch", evidence=Evidence.IDENTITY),
        alarm("probe_accuracy", evidence=Evidence.CHANNEL, direction=-1),
        replace(alarm("regrade_error_mean", evidence=Evidence.CHANNEL), alarm=False),
        replace(alarm("loss", evidence=Evidence.LAW), detector="law:loss"),
        # A floor is telemetry, but its meaning is written.
        replace(alarm("rollout_kl"), detector="floor:rollout"),
    ]
    window = window_of()
    features = features_of([*exact, alarm("reward_mean"), exact[0]], ["golden_agrees"], window)
    assert features == Features((
        "alarm floor:rollout above", "alarm law:loss above", "alarm probe_accuracy below",
        "alarm weights_mismatch above", "notice regrade_error_mean above", "golden_agrees",
    ))  # fmt: skip
    assert features.window is window
    assert [is_exact(symptom) for symptom in (*exact, alarm("reward_mean"))] == [True] * 5 + [False]


@pytest.mark.parametrize(
    ("symptom", "name"),
    [
        (alarm("loss"), "alarm loss above"),
        (replace(alarm("loss", direction=-1), alarm=False), "notice loss below"),
        (replace(alarm("loss"), detector="law:loss"), "alarm law:loss above"),
        (replace(alarm("loss"), detector="another:loss"), "alarm loss above"),
    ],
)
def test_broken_law_is_another_feature_than_an_alarm_of_its_signal(symptom: Symptom, name: str) -> None:
    assert name_of(symptom) == name


def test_window_knows_signals_with_a_residual_at_any_step() -> None:
    window = window_of(0.0, signal="update_ratio")
    window.residuals[:2] = np.nan
    assert window.knows("update_ratio")
    assert not window.knows("entropy")
    assert not window.knows("weights_mismatch"), "it is no telemetry"
