"""Rows that are alike: as numpy's own sorting finds them."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from rftfm_ray.detection.statistics.kinds import kinds_of


@given(arrays.arrays(np.bool_, st.tuples(st.integers(1, 20), st.integers(1, 20))))
def test_kinds_are_those_of_sorted_unique_rows(mask: np.ndarray[tuple[int, int], np.dtype[np.bool_]]) -> None:
    expected = np.unique(mask, axis=0, return_inverse=True)[1].ravel()
    assert kinds_of(mask).tolist() == expected.tolist()


def test_no_rows_have_no_kinds() -> None:
    assert kinds_of(np.zeros((0, 3), np.bool_)).tolist() == []
