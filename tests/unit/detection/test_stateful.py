"""Objects whose state is some of their attributes: copies on the way out, checks on the way in."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
import pytest

from rftfm_ray.detection.stateful import Kind, Stateful
from rftfm_ray.errors import StateError


class Part(Stateful):
    """One number."""

    STATE: ClassVar[Mapping[str, Kind]] = {"count": Kind.INT}

    def __init__(self, count: int = 0) -> None:
        self.count = count


class Whole(Stateful):
    """An attribute of every kind."""

    STATE: ClassVar[Mapping[str, Kind]] = {
        "_bool": Kind.BOOL, "_int": Kind.INT, "_float": Kind.FLOAT, "_any_float": Kind.ANY_FLOAT, "list": Kind.FLOATS,
        "_deque": Kind.FLOATS, "_array": Kind.ARRAY, "_any_array": Kind.ANY_ARRAY, "_rows": Kind.ROWS,
        "_any_rows": Kind.ANY_ROWS, "_part": Kind.PART, "_parts": Kind.PARTS,
    }  # fmt: skip

    def __init__(self) -> None:
        self._bool, self._int, self._float, self._any_float = True, 3, 0.5, -math.inf
        self.list, self._deque = [1.0, 2.0], deque([1.0, 2.0], 3)
        self._array, self._any_array = np.arange(3), np.array([[1.0, math.nan]])
        self._rows, self._any_rows = np.zeros((4, 2)), np.full((1, 2), math.inf)
        self._part, self._parts = Part(4), {0: Part(5), 1: Part(6)}


NAMES = [name.lstrip("_") for name in Whole.STATE]


def test_state_is_a_copy_under_public_names() -> None:
    whole = Whole()
    state = whole.state_dict()
    assert list(state) == NAMES
    whole._array[0], whole._rows[0, 0] = 9, 9.0
    whole.list.append(9.0)
    whole._deque.append(9.0)
    whole._part.count = whole._parts[1].count = 9
    np.testing.assert_equal(state, Whole().state_dict())


def test_loaded_object_is_as_the_saved_one_and_shares_nothing() -> None:
    saved, other = Whole(), Whole()
    saved._bool, saved._int, saved._float, saved._any_float = False, 7, 2.5, math.nan
    saved.list, saved._deque = [], deque([7.0, 8.0, 9.0], 3)
    saved._array, saved._rows = np.array([4, 5, 6]), np.ones((9, 2))
    saved._parts[1].count = 60
    state = saved.state_dict()
    other.load_state_dict(state)
    np.testing.assert_equal(other.state_dict(), state)
    assert isinstance(other._deque, deque)
    assert other._deque.maxlen == 3
    other._array[0] = 99
    np.testing.assert_equal(saved.state_dict(), state)


WRONG: dict[str, list[Any]] = {
    "bool": [1, 0.0, "True", None, np.array([True])],
    "int": [True, 1.0, "1", None, np.int64(3)],
    "float": [math.nan, math.inf, True, "1", None, np.array([1.0])],
    "any_float": [True, "nan", None, np.array([1.0])],
    "list": [[1.0], np.array([1]), np.array([[1.0]]), np.array([math.nan]), 1.0, None],
    "deque": [np.arange(4.0), np.array([math.inf]), np.array(1.0)],
    "array": [np.arange(4), np.arange(3.0), np.arange(3, dtype=np.int32), [0, 1, 2], np.zeros((3, 1), np.int64)],
    "any_array": [np.zeros(2), np.zeros((2, 2)), np.zeros((1, 2), np.float32)],
    "rows": [np.zeros((2, 3)), np.zeros(2), np.full((1, 2), math.nan), np.full((1, 2), math.inf)],
    "any_rows": [np.zeros((2, 3)), np.zeros((0,)), {"a": 1.0}],
    "part": [None, 4, {}, {"count": 4, "more": 1}, {"count": "4"}],
    "parts": [None, {"0": {"count": 1}}, {0: {"count": 1}, 1: {"count": 1}}, {"0": {"count": 1}, "1": {"count": 1.0}}],
}


@pytest.mark.parametrize(("name", "wrong"), [(name, wrong) for name, each in WRONG.items() for wrong in each])
def test_every_value_of_another_kind_is_refused_by_name(name: str, wrong: Any) -> None:
    state = {**Whole().state_dict(), name: wrong}
    with pytest.raises(StateError) as raised:
        Whole().load_state_dict(state)
    words = {"part": "count|part|more", "parts": "count|parts|'0'|'1'|0|1"}
    assert any(word in str(raised.value) for word in words.get(name, f"Whole.{name}").split("|"))
    assert str(raised.value).endswith(".")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("change", [lambda s: s.pop("int"), lambda s: s.update(more=1)], ids=["missing", "unknown"])
def test_missing_and_unknown_names_are_refused(change: Callable[[dict[str, Any]], object]) -> None:
    state = dict(Whole().state_dict())
    change(state)
    with pytest.raises(StateError, match=r"'int'|'more'"):
        Whole().load_state_dict(state)


def test_every_kind_has_a_case() -> None:
    assert set(Whole.STATE.values()) == set(Kind)
    assert set(WRONG) == set(NAMES)
