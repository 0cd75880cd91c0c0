"""How bad it is: closed form, what raises it, and what it says where nothing can be compared."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import fmean, stdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rftfm_ray.detection.statistics.bayes import TAU, log_bayes_factor
from rftfm_ray.incidents.severity import LARGEST_Z, severity
from rftfm_ray.verdicts import StepReport

Make = Callable[..., StepReport]
Series = Callable[..., list[StepReport]]

USUAL = [0.46, 0.54, 0.46, 0.54, 0.5]
FEW = [0.5, 0.55, 0.45]


@pytest.fixture(scope="module")
def series(make_report: Make) -> Series:
    """One report per value of every signal."""

    def make(**values: Sequence[float]) -> list[StepReport]:
        rows = [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]
        return [make_report(step, **row) for step, row in enumerate(rows, 1)]

    return make


def test_bayes_factor_is_the_ratio_of_two_normal_densities() -> None:
    """The sum of n residuals is N(0, n) without a shift and N(0, n + n^2 tau^2) with one; the rest cancels."""
    for residuals in ([0.3], [2.0, -1.0, 4.0], [0.0] * 5):
        n, total = len(residuals), sum(residuals)
        wide = n + n**2 * TAU**2
        by_density = -0.5 * math.log(wide / n) - total**2 / (2 * wide) + total**2 / (2 * n)
        assert log_bayes_factor(residuals) == pytest.approx(by_density)


def test_bayes_factor_of_no_residual_says_nothing() -> None:
    assert log_bayes_factor([]) == 0.0


def test_no_shift_speaks_against_one_the_more_the_longer_it_lasts() -> None:
    found = [log_bayes_factor([0.0] * n) for n in (1, 4, 16, 64)]
    assert found == sorted(found, reverse=True)
    assert found[0] < 0


def test_severity_is_its_closed_form(series: Series) -> None:
    found = [0.7, 0.8, 0.75]
    mean, spread = fmean(USUAL), stdev(USUAL)
    expected = log_bayes_factor([(x - mean) / spread for x in found])
    args = series(reward_mean=found), series(reward_mean=USUAL), ["reward_mean"]
    assert severity(*args) == pytest.approx(expected)
    assert expected > 5


def test_ratio_is_compared_by_its_logarithm(series: Series) -> None:
    usual, found = [1.0, 1.5, 0.7], [3.0, 4.0]
    logs = [math.log(x + 1e-3) for x in usual]
    expected = log_bayes_factor([(math.log(x + 1e-3) - fmean(logs)) / stdev(logs) for x in found])
    args = series(grad_norm=found), series(grad_norm=usual), ["grad_norm"]
    assert severity(*args) == pytest.approx(expected)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=2, unique=True), st.sampled_from([1, -1]))
def test_larger_shift_is_never_less_severe(series: Series, shifts: list[float], side: int) -> None:
    less, more = (
        severity(series(reward_mean=[0.5 + side * shift] * 3), series(reward_mean=USUAL), ["reward_mean"])
        for shift in sorted(shifts)
    )
    assert less <= more


def test_shift_to_either_side_is_as_severe(series: Series) -> None:
    up, down = (
        severity(series(reward_mean=[0.5 + shift] * 3), series(reward_mean=USUAL), ["reward_mean"])
        for shift in (0.2, -0.2)
    )
    assert up == pytest.approx(down)
    assert up > 0


def test_shift_that_lasts_is_more_severe(series: Series) -> None:
    usual = series(reward_mean=USUAL)
    found = [severity(series(reward_mean=[0.6] * n), usual, ["reward_mean"]) for n in (1, 2, 4, 8)]
    assert found == sorted(found)
    assert found[-1] > found[0] + 1


def test_one_wild_step_does_not_stand_for_a_window(series: Series) -> None:
    usual, names = series(reward_mean=USUAL), ["reward_mean"]
    wild = severity(series(reward_mean=[0.5, 0.5, 1e9]), usual, names)
    assert wild == pytest.approx(log_bayes_factor([0.0, 0.0, LARGEST_Z]))
    assert wild < severity(series(reward_mean=[1.0, 1.0, 1.0]), usual, names)


@pytest.mark.parametrize(
    ("name", "level", "spread"),
    [("reward_mean", 0.5, 0.02), ("reward_mean", 40.0, 0.4), ("tool_error_rate", 0.0, 0.01), ("lr_excess", 0.0, 1e-3)],
    ids=["of the signal", "1 % of the level", "one event of the batch", "1e-3"],
)
def test_constant_reference_is_given_its_smallest_spread(
    series: Series, name: str, level: float, spread: float
) -> None:
    found = severity(series(**{name: [level + 2 * spread] * 3}), series(**{name: [level] * 5}), [name])
    assert found == pytest.approx(log_bayes_factor([2.0] * 3))


def test_one_step_of_reference_is_enough(series: Series) -> None:
    found = severity(series(reward_mean=[0.6]), series(reward_mean=[0.5]), ["reward_mean"])
    assert found == pytest.approx(log_bayes_factor([5.0]))


def test_signals_are_averaged_by_their_factors(series: Series) -> None:
    found = series(reward_mean=[0.9] * 3, tool_error_rate=[0.5] * 3, reward_std=FEW)
    usual = series(reward_mean=USUAL, tool_error_rate=[0.0] * 5, reward_std=USUAL)
    names = ["reward_mean", "tool_error_rate", "reward_std"]
    one = [severity(found, usual, [name]) for name in names]
    expected = math.log(fmean(math.exp(factor) for factor in one))
    assert severity(found, usual, names) == pytest.approx(expected)
    # The worst one decides: by at most the logarithm of their number less than it.
    assert max(one) - math.log(3) <= expected < max(one)


def test_factors_beyond_the_largest_float_do_not_overflow(series: Series) -> None:
    found = series(reward_mean=[1e6] * 80, tool_error_rate=[1.0] * 80)
    usual = series(reward_mean=USUAL, tool_error_rate=[0.0] * 5)
    total = severity(found, usual, ["reward_mean", "tool_error_rate"])
    assert total == pytest.approx(log_bayes_factor([LARGEST_Z] * 80))
    assert total > 800


@pytest.mark.parametrize("gap", [math.nan, math.inf, -math.inf])
def test_nothing_to_compare_is_no_number(series: Series, gap: float) -> None:
    usual, names = series(reward_mean=USUAL), ["reward_mean"]
    assert math.isnan(severity(series(reward_mean=[gap] * 3), usual, names))
    assert math.isnan(severity(usual, series(reward_mean=[gap] * 3), names))
    assert math.isnan(severity([], usual, names))
    assert math.isnan(severity(usual, [], names))
    assert math.isnan(severity(usual, usual, []))


def test_what_cannot_be_judged_is_left_out(series: Series) -> None:
    found = series(reward_mean=[0.7, math.nan, 0.8], tool_error_rate=[math.nan] * 3)
    usual = series(reward_mean=USUAL, tool_error_rate=[math.nan] * 5)
    clean = severity(series(reward_mean=[0.7, 0.8]), usual, ["reward_mean"])
    assert severity(found, usual, ["reward_mean", "tool_error_rate"]) == pytest.approx(clean)


@pytest.mark.parametrize(("level", "side"), [(0.9, 1), (0.1, -1)])
def test_what_has_gone_the_other_way_is_no_harm(series: Series, level: float, side: int) -> None:
    found, usual, names = series(reward_mean=[level] * 3), series(reward_mean=USUAL), ["reward_mean"]
    both = severity(found, usual, names)
    assert severity(found, usual, names, {"reward_mean": 2.0 * side}) == both
    assert severity(found, usual, names, {"reward_mean": -0.5 * side}) == log_bayes_factor([0.0] * 3)
    assert severity(found, usual, names, {"kl_ref": -1.0}) == both, "a signal without a direction counts both ways"


def test_each_step_counts_as_far_as_it_has_gone_the_way(series: Series) -> None:
    usual = series(reward_mean=[0.5] * 5)
    found = severity(series(reward_mean=[0.54, 0.3, 0.56]), usual, ["reward_mean"], {"reward_mean": 1.0})
    assert found == pytest.approx(log_bayes_factor([2.0, 0.0, 3.0]))
