"""Objects whose state is some or all of their attributes: saved as plain values, and checked on loading. Pure."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any, ClassVar

import numpy as np

from rftfm_ray.detection.state import ARRAY_KEY, State, check_keys, has_savable_type, part_from
from rftfm_ray.errors import StateError


class Kind(StrEnum):
    """What an attribute holds. Numbers are finite, except in `ANY_FLOAT`, `ANY_ARRAY` and `ANY_ROWS`.

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
        STATE: the kind of each such attribute, by name.
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
    """The checked value of the attribute; None where its parts were loaded in place."""
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


_SEQUENCES: Mapping[str, type[Any]] = {"list": list, "tuple": tuple, "deque": deque}
_DTYPES: Mapping[type, type[Any]] = {bool: np.bool_, int: np.int64, float: np.float64}


def attributes_of(owner: object) -> State:
    """A copy of an object's attributes, as the state of a class that does not declare one.

    Each value is stored with its kind, so that loading restores its type: a plain scalar, None, an array or scalar of
    numpy, or a list, tuple or deque of numbers.

    Raises:
        StateError: names an attribute that is anything else, or a class whose attributes are in slots.
    """
    return {name: _attribute(f"{type(owner).__name__}.{name}", value) for name, value in _attributes(owner).items()}


def _attributes(owner: object) -> dict[str, Any]:
    """The attributes of an object themselves, by name."""
    for class_ in type(owner).__mro__:
        slots = class_.__dict__.get("__slots__", ())
        if set((slots,) if isinstance(slots, str) else slots) - {"__dict__", "__weakref__"}:
            raise StateError(f"Class {class_.__name__} has __slots__, and attributes in slots cannot be saved.")
    attributes = vars(owner) if hasattr(owner, "__dict__") else {}
    if ARRAY_KEY in attributes:
        raise StateError(f"{type(owner).__name__}.{ARRAY_KEY} has the name that stands for arrays in files.")
    return attributes


def set_attributes(owner: object, state: State) -> None:
    """Give an object the attributes that `attributes_of` has copied, and remove all others.

    Raises:
        StateError: names an attribute that `attributes_of` would not have given; the object is then unchanged.
    """
    values = {name: _from_attribute(f"{type(owner).__name__}.{name}", part_from(state, name)) for name in state}
    for name in set(_attributes(owner)) - set(values):
        delattr(owner, name)
    for name, value in values.items():
        setattr(owner, name, value)


def _attribute(where: str, value: Any) -> dict[str, Any]:
    if value is None:
        return {"kind": "none"}
    if type(value) in (bool, int, float, str):
        return {"kind": "plain", "value": value}
    if isinstance(value, np.generic | np.ndarray):
        if not has_savable_type(value):
            raise StateError(f"{where} is of numpy's type {value.dtype}, which cannot be saved as numbers of 64 bits.")
        scalar = isinstance(value, np.generic)
        return {"kind": "scalar" if scalar else "array", "value": np.array([value]) if scalar else value.copy()}
    for kind, sequence in _SEQUENCES.items():
        if type(value) is sequence:
            return {"kind": kind, "value": _numbers(where, value)} | (
                {"most": -1 if value.maxlen is None else value.maxlen} if kind == "deque" else {}
            )
    raise StateError(f"{where} is a {type(value).__name__}, which cannot be saved as a number or an array of numbers.")


def _numbers(where: str, values: Iterable[Any]) -> Any:
    kinds = {type(value) for value in values}
    dtype = _DTYPES.get(next(iter(kinds))) if len(kinds) == 1 else np.float64
    if not kinds <= {bool, int, float} or dtype is None or (bool in kinds and len(kinds) > 1):
        raise StateError(f"{where} has {' and '.join(sorted(kind.__name__ for kind in kinds))} in it, and not numbers.")
    try:
        array = np.array(list(values), dtype)
    except OverflowError:
        raise StateError(f"{where} has integers that are too large to be saved.") from None
    if len(kinds) > 1 and any(type(value) is int and int(float(value)) != value for value in values):
        raise StateError(f"{where} has integers that are too large to be saved beside fractions.")
    return array


def _from_attribute(where: str, part: State) -> Any:
    kind, value = part.get("kind"), part.get("value")
    if kind == "none":
        return None
    if kind == "plain" and type(value) in (bool, int, float, str):
        return value
    if isinstance(value, np.ndarray):
        if kind == "array":
            return value.copy()
        if kind == "scalar" and value.shape == (1,):
            return value[0]
        if kind in ("list", "tuple") and value.ndim == 1:
            return _SEQUENCES[str(kind)](value.tolist())
        most = part.get("most")
        if kind == "deque" and value.ndim == 1 and type(most) is int:
            return deque(value.tolist(), None if most < 0 else most)
    raise StateError(f"{where} of the saved state is not as it was saved.")
