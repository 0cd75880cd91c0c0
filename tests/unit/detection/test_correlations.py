"""Correlations from residuals with gaps, mixed with what is known beforehand, on simulated residuals."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from rftfm_ray.detection.statistics.bayes import log_bayes_factor, shift_factors
from rftfm_ray.detection.statistics.correlations import (
    LARGEST,
    Moments,
    long_run_variances,
    mixed,
    ridge_slopes,
    shrunken,
)

Floats = NDArray[np.float64]
SIGNALS = 12


def truth() -> Floats:
    """Correlation of healthy residuals: the first two are nearly one, the next four go together."""
    correlation = np.eye(SIGNALS)
    correlation[0, 1] = correlation[1, 0] = 0.97
    correlation[2:6, 2:6] = 0.6
    np.fill_diagonal(correlation, 1.0)
    return correlation


ROOT = np.linalg.cholesky(truth())


def healthy(seed: int, steps: int = 40) -> Floats:
    """Residuals of a healthy run."""
    return np.random.default_rng(seed).normal(size=(steps, SIGNALS)) @ ROOT.T


def test_correlation_is_found_with_gaps_and_is_one_of_something() -> None:
    runs = [healthy(seed) for seed in range(60)]
    assert np.abs(Moments.of(runs).correlation() - truth()).max() < 0.12
    for place, run in enumerate(runs):
        run[place % 7 :: 3, place % 12] = np.nan
        run[:, 11] = np.nan
    gapped = shrunken(Moments.of(runs).correlation(), 0.1)
    assert np.abs(gapped - truth())[:11, :11].max() < 0.16
    assert (gapped[11] == np.eye(SIGNALS)[11]).all()
    assert np.linalg.eigvalsh(gapped).min() > 0


def test_moments_bound_wild_values_and_know_what_never_varies() -> None:
    run = healthy(0)
    run[3, 0], run[:, 5], run[:, 7] = 1e9, 0.0, np.nan
    moments = Moments.of([run])
    assert moments.squares.max() <= 40 * LARGEST**2
    assert moments.correlation()[5].tolist() == np.eye(SIGNALS)[5].tolist()
    assert moments.variances()[[5, 7]].tolist() == [0, 0]


@pytest.mark.parametrize("steps", [0, 20, 20_000])
def test_few_steps_are_mostly_the_prior_and_many_mostly_themselves(steps: int) -> None:
    prior = np.eye(SIGNALS)
    moments = Moments.of([healthy(0, steps)])
    mixture = mixed(moments.correlation(), moments.counts, prior, np.full((SIGNALS, SIGNALS), 100.0))
    expected = 0.97 * steps / (steps + 100)
    assert mixture[0, 1] == pytest.approx(expected, abs=0.02)
    assert (np.diag(mixture) == 1).all()
    nothing = mixed(np.zeros((2, 2)), np.zeros((2, 2)), np.zeros((2, 2)), np.zeros((2, 2)))
    assert nothing.tolist() == [[1, 0], [0, 1]]


def test_shrinking_leaves_no_direction_without_variance() -> None:
    impossible = np.array([[1.0, 0.9, -0.9], [0.9, 1.0, 0.9], [-0.9, 0.9, 1.0]])
    assert np.linalg.eigvalsh(impossible)[0] < 0
    fitting = shrunken(impossible, 0.1)
    assert np.linalg.eigvalsh(fitting)[0] > 0.01
    np.testing.assert_allclose(np.diag(fitting), 1.0)
    np.testing.assert_allclose(shrunken(truth(), 0.5), (truth() + np.eye(SIGNALS)) / 2)


def test_slopes_start_from_the_prior_and_follow_what_is_measured() -> None:
    rng = np.random.default_rng(1)
    explaining = rng.normal(size=(2000, 3))
    explained = np.stack([2 * explaining[:, 0], -explaining[:, 1], explaining[:, 2]], 1) + rng.normal(size=(2000, 3))
    explained[5:, 1] = np.nan
    explained[:, 2] = np.nan
    prior = np.full((3, 3), 0.5)
    slopes = ridge_slopes(explaining, explained, prior, 50.0)
    assert slopes[:, 0] == pytest.approx([2, 0, 0], abs=0.1)
    assert np.abs(slopes[:, 1] - 0.5).max() < 0.3, "five steps change little"
    assert slopes[:, 2].tolist() == [0.5] * 3


def test_long_run_variance_is_that_of_sums_and_never_below_one() -> None:
    rng = np.random.default_rng(2)
    runs = []
    for _ in range(40):
        noise = rng.normal(size=(60, 3))
        for step in range(1, 60):
            noise[step, 1] = 0.6 * noise[step - 1, 1] + 0.8 * noise[step, 1]
        noise[:, 2] *= 0.1
        runs.append(noise)
    ones = np.ones(3)
    found = long_run_variances(runs, 6, ones, 10.0)
    # Of sums of six: 1 + 2 sum (1 - j/6) 0.6^j, against 4 for endless ones.
    expected = 1 + 2 * sum((1 - lag / 6) * 0.6**lag for lag in range(1, 6))
    assert found == pytest.approx([1.0, expected, 1.0], rel=0.15)
    runs[0][:, 1] = np.nan
    assert long_run_variances([runs[0]], 6, 2 * ones, 10.0)[1] == 2.0, "nothing measured leaves what was expected"
    assert long_run_variances([run[:4] for run in runs], 6, ones, 10.0).tolist() == [1, 1, 1], "no whole block"


def test_factors_of_sums_are_those_of_their_residuals() -> None:
    residuals = [[0.5, -1.0, 2.0], [3.0, 3.0, 3.0], [0.0, 0.0, 0.0]]
    factors = shift_factors(np.array([sum(some) for some in residuals]), np.full(3, 3.0))
    assert factors == pytest.approx([log_bayes_factor(some) for some in residuals])
    assert log_bayes_factor([]) == 0.0
