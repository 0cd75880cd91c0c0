"""The one latch: raised at 1, over at a quarter, NaN keeps what is open with its reading, closed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rftfm_ray.detection.detectors.base import Reading
from rftfm_ray.detection.latch import Latch
from rftfm_ray.detection.statistics.cusum import RECOVERED
from rftfm_ray.errors import StateError

Scores = list[float]
scores = st.lists(st.sampled_from([0.0, RECOVERED, 0.26, 0.5, 0.99, 1.0, 1.5, math.inf, math.nan]), max_size=30)


def opened(values: Scores, latch: Latch | None = None) -> list[bool]:
    """Whether the alarm of one output is open after each step."""
    column = np.array(values, np.float64)[:, None]
    states: list[bool] = (latch or Latch(1)).add(column)[:, 0].tolist()
    return states


def expected(values: Scores, *, is_open: bool = False) -> list[bool]:
    """The same, step by step."""
    states = []
    for value in values:
        is_open = (is_open and not value <= RECOVERED) or value >= 1.0
        states.append(is_open)
    return states


def test_alarm_is_raised_at_one_and_over_at_a_quarter() -> None:
    assert RECOVERED == 0.25
    below, above = math.nextafter(1.0, 0.0), math.nextafter(RECOVERED, 1.0)
    assert opened([0.0, below, 1.0, below, 0.3, above, RECOVERED, 0.9]) == [False] * 2 + [True] * 4 + [False] * 2
    assert opened([math.inf, 0.0, math.inf]) == [True, False, True]


def test_nan_keeps_what_is_open_and_what_is_not() -> None:
    nan = math.nan
    assert opened([nan, 0.9, nan, 1.0, nan, nan, 0.5, nan, 0.0, nan]) == [False] * 3 + [True] * 5 + [False] * 2
    assert opened([nan] * 5) == [False] * 5


@given(scores, st.lists(st.integers(0, 6), max_size=12))
def test_chunks_change_nothing(values: Scores, sizes: list[int]) -> None:
    assert opened(values) == expected(values)
    latch, states, rest = Latch(1), list[bool](), values
    for size in sizes:
        states += opened(rest[:size], latch)
        rest = rest[size:]
    assert states + opened(rest, latch) == expected(values)


@given(st.lists(st.tuples(*[st.sampled_from([0.0, 0.5, 1.0, math.nan])] * 3), min_size=1, max_size=20))
def test_outputs_are_latched_by_themselves(rows: list[tuple[float, float, float]]) -> None:
    table = Latch(3).add(np.array(rows))
    for column in range(3):
        assert table[:, column].tolist() == expected([row[column] for row in rows])


def test_reading_of_an_open_alarm_is_the_one_that_was_scored_last() -> None:
    latch = Latch(2)
    latch.add(np.array([[1.0, 0.0]]))
    scored = Reading(7, 0.5, 0.1, 1.2, 6)
    assert latch.reading(0, scored) == scored
    gap = Reading(8, math.nan, math.nan, math.nan, 8)
    assert latch.reading(0, gap) == scored
    later = Reading(9, 0.6, 0.1, 1.1, 6)
    assert latch.reading(0, later) == later
    assert latch.reading(0, gap) == later
    assert latch.reading(1, gap) is gap, "nothing was ever scored"


def test_closed_outputs_must_be_raised_again() -> None:
    latch = Latch(3)
    latch.add(np.array([[1.0, 1.0, 1.0]]))
    latch.close([0, 2])
    assert latch.add(np.array([[0.9, 0.9, math.nan]])).tolist() == [[False, True, False]]
    latch.close([])
    assert latch.add(np.array([[1.0, 0.9, 0.0]])).tolist() == [[True, True, False]]


def test_no_steps_change_nothing() -> None:
    latch = Latch(2)
    latch.add(np.array([[1.0, 0.0]]))
    assert latch.add(np.zeros((0, 2))).shape == (0, 2)
    assert latch.add(np.array([[0.5, 0.5]])).tolist() == [[True, False]]


def test_state_is_a_copy_and_goes_on_as_the_latch_would_have() -> None:
    latch, other = Latch(2), Latch(2)
    latch.add(np.array([[1.0, 0.0]]))
    scored = Reading(7, 0.5, 0.1, math.inf, 6)
    latch.reading(0, scored)
    saved = latch.state_dict()
    latch.add(np.array([[0.0, 1.0]]))
    latch.reading(1, scored)
    other.load_state_dict(saved)
    assert other.add(np.full((1, 2), math.nan)).tolist() == [[True, False]]
    gap = Reading(8, math.nan, math.nan, math.nan, 8)
    assert (other.reading(0, gap), other.reading(1, gap)) == (scored, gap)


@pytest.mark.parametrize("column", [0, 4])
def test_state_with_a_step_that_is_not_finite_is_refused(column: int) -> None:
    state = dict(Latch(2).state_dict())
    readings = np.full((2, 5), math.nan)
    readings[1, column] = math.inf
    with pytest.raises(StateError, match="not finite"):
        Latch(2).load_state_dict({**state, "readings": readings})


def test_state_of_other_outputs_is_refused() -> None:
    with pytest.raises(StateError, match=r"Latch.open .* shape \(3,\)"):
        Latch(2).load_state_dict(Latch(3).state_dict())
