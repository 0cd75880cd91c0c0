"""Linear recursions in blocks against their definitions."""

from __future__ import annotations

import numpy as np
import pytest

from rftfm_ray.detection.statistics.recursions import BLOCK, decayed_sums, lagged


@pytest.mark.parametrize("steps", [1, 2, BLOCK])
@pytest.mark.parametrize("kept", [0.0, 0.5, 0.95, 1.0])
def test_decayed_sums_are_what_single_steps_give(steps: int, kept: float) -> None:
    rng = np.random.default_rng(steps)
    values, now = rng.normal(size=(steps, 2, 3)), rng.normal(size=(2, 3))
    sums = decayed_sums(values, now, kept)
    for row in range(steps):
        now = kept * now + values[row]
        np.testing.assert_allclose(sums[row], now, atol=1e-12)


def test_lagged_begins_with_what_was_before() -> None:
    values = np.array([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]])
    assert lagged(values, np.array([8.0, 9.0])).tolist() == [[8, 9], [0, 1], [2, 3]]
