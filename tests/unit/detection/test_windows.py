"""Extremes of windows against their definition."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from rftfm_ray.detection.statistics.windows import of_windows


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 16, 24, 40])
@pytest.mark.parametrize("gaps", [0.0, 0.05])
def test_extremes_are_those_of_every_window(size: int, gaps: float) -> None:
    rng = np.random.default_rng(size)
    values = np.where(rng.random((40, 3)) < gaps, np.nan, rng.standard_normal((40, 3)))
    windows = sliding_window_view(values, size, axis=0)
    assert np.array_equal(of_windows(np.minimum, values, size), windows.min(-1), equal_nan=True)
    assert np.array_equal(of_windows(np.maximum, values, size), windows.max(-1), equal_nan=True)
