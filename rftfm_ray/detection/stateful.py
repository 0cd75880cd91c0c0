"""Objects whose state is some of their attributes: saved as plain values, and checked on the way back. Pure; numpy."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, ClassVar

import numpy as np

from rftfm_ray.detection.state import State, check_keys, part_from
from rftfm_ray.errors import StateError


class Kind(StrEnum):
    """What an attribute holds."""

    BOOL = "bool"
    INT = "int"
    FLOAT = "float"
    FLOATS = "floats"
    ARRAY = "array"
    PART = "part"
    PARTS = "parts"


class Stateful:
    """An object whose state is some of its attributes.

    Attributes:
        STATE: what they hold, by name. `FLOATS` is a list or deque; `ARRAY` keeps its type and all axes but the first;
            `PART` has a state of its own, and `PARTS` is a mapping of such objects with the same keys.
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
    if kind is Kind.ARRAY:
        return value.copy()
    if kind is Kind.FLOATS:
        return np.array(list(value), np.float64)
    if kind is Kind.PART:
        return value.state_dict()
    if kind is Kind.PARTS:
        return {str(key): part.state_dict() for key, part in value.items()}
    return value


_PLAIN: Mapping[Kind, tuple[type, ...]] = {
    Kind.BOOL: (bool,), Kind.INT: (int,), Kind.FLOAT: (float, int),
}  # fmt: skip


def _loaded(kind: Kind, current: Any, value: Any, where: str) -> Any:
    """The value as the attribute is to hold it; None where its parts were loaded in place."""
    if kind in _PLAIN:
        if type(value) not in _PLAIN[kind]:
            raise StateError(f"{where} of the saved state is {str(value)[:60]!r}, not of kind {kind}.")
        return float(value) if kind is Kind.FLOAT else value
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


def _array(kind: Kind, current: Any, value: Any, where: str) -> Any:
    wanted = np.dtype(np.float64) if kind is Kind.FLOATS else current.dtype
    axes = (0,) if kind is Kind.FLOATS else current.shape
    fits = isinstance(value, np.ndarray) and value.dtype == wanted and value.ndim == len(axes)
    if not fits or value.shape[1:] != axes[1:]:
        shape = getattr(value, "shape", type(value).__name__)
        raise StateError(f"{where} of the saved state has shape {shape}, which does not fit {axes}.")
    if kind is Kind.ARRAY:
        return value.copy()
    numbers = value.tolist()
    if isinstance(current, deque):
        if current.maxlen is not None and len(numbers) > current.maxlen:
            raise StateError(f"{where} of the saved state has {len(numbers)} values, not {current.maxlen}.")
        return deque(numbers, current.maxlen)
    return numbers
