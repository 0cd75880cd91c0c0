"""Objects whose state is some of their attributes: saved as plain values, and checked on the way back. Pure; numpy."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, ClassVar

import numpy as np

from rftfm_ray.detection.state import State, check_keys, part_from
from rftfm_ray.errors import StateError


class Kind(StrEnum):
    """What an attribute holds. Numbers are finite, but for `ANY_FLOAT`, `ANY_ARRAY` and `ANY_ROWS`.

    `FLOATS` is a list or deque of numbers. `ARRAY` keeps its type and shape, `ROWS` its type and axes but the first.
    `PART` is an object with a state of its own, and `PARTS` a mapping of such objects with the same keys.
    """

    BOOL = "bool"
    INT = "int"
    FLOAT = "float"
    ANY_FLOAT = "any float"
    FLOATS = "floats"
    ARRAY = "array"
    ANY_ARRAY = "any array"
    ROWS = "rows"
    ANY_ROWS = "any rows"
    PART = "part"
    PARTS = "parts"


_ARRAYS = (Kind.ARRAY, Kind.ANY_ARRAY, Kind.ROWS, Kind.ANY_ROWS)
_FINITE = (Kind.FLOAT, Kind.FLOATS, Kind.ARRAY, Kind.ROWS)


class Stateful:
    """An object whose state is some of its attributes.

    Attributes:
        STATE: what they hold, by name.
    """

    STATE: ClassVar[Mapping[str, Kind]] = {}

    def state_dict(self) -> State:
        """A copy of the attributes in `STATE`."""
        return {name.lstrip("_"): _saved(kind, getattr(self, name)) for name, kind in self.STATE.items()}

    def load_state_dict(self, state: State) -> None:
        """Take the attributes in `STATE` from a state.

        Raises:
            StateError: names the attribute that is missing, unknown or of another kind.
        """
        names = {name.lstrip("_"): name for name in self.STATE}
        check_keys(state, tuple(names))
        loaded = {
            name: _loaded(self.STATE[name], getattr(self, name), state[key], f"{type(self).__name__}.{key}")
            for key, name in names.items()
        }
        for name, value in loaded.items():
            if value is not None:
                setattr(self, name, value)


def _saved(kind: Kind, value: Any) -> Any:
    if kind in _ARRAYS:
        return value.copy()
    if kind is Kind.FLOATS:
        return np.array(list(value), np.float64)
    if kind is Kind.PART:
        return value.state_dict()
    if kind is Kind.PARTS:
        return {str(key): part.state_dict() for key, part in value.items()}
    return value


_PLAIN: Mapping[Kind, tuple[type, ...]] = {
    Kind.BOOL: (bool,), Kind.INT: (int,), Kind.FLOAT: (float, int), Kind.ANY_FLOAT: (float, int),
}  # fmt: skip


def _loaded(kind: Kind, current: Any, value: Any, where: str) -> Any:
    """The value as the attribute is to hold it; None where its parts were loaded in place."""
    if kind in _PLAIN:
        return _scalar(kind, value, where)
    if kind in (Kind.PART, Kind.PARTS) and not isinstance(value, Mapping):
        raise StateError(f"{where} of the saved state is not the state of a part.")
    if kind is Kind.PART:
        current.load_state_dict(value)
        return None
    if kind is Kind.PARTS:
        check_keys(value, tuple(map(str, current)))
        for key, part in current.items():
            part.load_state_dict(part_from(value, str(key)))
        return None
    return _array(kind, current, value, where)


def _scalar(kind: Kind, value: Any, where: str) -> Any:
    if type(value) not in _PLAIN[kind]:
        raise StateError(f"{where} of the saved state is {str(value)[:60]!r}, which is not of kind {kind}.")
    if kind is Kind.FLOAT and not math.isfinite(value):
        raise StateError(f"{where} of the saved state is {value}, which is not finite.")
    return value if kind in (Kind.BOOL, Kind.INT) else float(value)


def _array(kind: Kind, current: Any, value: Any, where: str) -> Any:
    dtype = np.dtype(np.float64) if kind is Kind.FLOATS else current.dtype
    shape = (0,) if kind is Kind.FLOATS else current.shape
    if not isinstance(value, np.ndarray) or value.dtype != dtype:
        raise StateError(f"{where} of the saved state is not an array of {dtype}.")
    fixed = 1 if kind in (Kind.ROWS, Kind.ANY_ROWS, Kind.FLOATS) else 0
    if value.ndim != len(shape) or value.shape[fixed:] != shape[fixed:]:
        raise StateError(f"{where} of the saved state has shape {value.shape}, which does not fit {shape}.")
    if kind in _FINITE and not np.isfinite(value).all():
        raise StateError(f"{where} of the saved state has values that are not finite.")
    if kind is not Kind.FLOATS:
        return value.copy()
    numbers = value.tolist()
    if isinstance(current, deque):
        if current.maxlen is not None and len(numbers) > current.maxlen:
            raise StateError(f"{where} of the saved state has {len(numbers)} values, more than {current.maxlen}.")
        return deque(numbers, current.maxlen)
    return numbers
