"""States of detectors as plain values: copied, handed on, written to a file and loaded again. Pure; numpy.

A state is a tree of numpy arrays and plain scalars, so that a monitor can go back to an earlier step, and another
process can go on where one has ended.
"""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Callable, Mapping, MutableMapping
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rftfm_ray.errors import StateError
from rftfm_ray.files import write_atomic

State: TypeAlias = Mapping[str, Any]
"""Names to numpy arrays, plain scalars (None, bool, int, float, str) and further states."""

FORMAT = "1"
LARGEST_FILE = 64 << 20
REMOVE = "remove it, and the monitor starts from the run's next step"
_ARRAY = "__array__"


class HasState(Protocol):
    """What can be saved and loaded."""

    def state_dict(self) -> State:
        """A copy of everything that later verdicts depend on."""

    def load_state_dict(self, state: State) -> None:
        """Go on from a state.

        Raises:
            StateError: when it is not a state of such an object; nothing has changed then.
        """


class Kind(StrEnum):
    """What an attribute holds."""

    BOOL = "bool"
    INT = "int"
    OPTIONAL_INT = "optional int"
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
        check_keys(state, names, type(self).__name__)
        loaded = {
            name: _loaded(self.STATE[name], getattr(self, name), state[key], f"{type(self).__name__}.{key}")
            for key, name in names.items()
        }
        for name, value in loaded.items():
            if value is not None or self.STATE[name] is Kind.OPTIONAL_INT:
                setattr(self, name, value)


def check_keys(state: object, wanted: Mapping[str, object], owner: str) -> None:
    """Refuse a state that lacks a key or has one that nobody knows.

    Raises:
        StateError: names the owner and the key.
    """
    if not isinstance(state, Mapping):
        raise StateError(f"The state of {owner} is {type(state).__name__}, not a mapping; {REMOVE}.")
    wrong = [key for key in wanted if key not in state] + [key for key in state if key not in wanted]
    if wrong:
        said = "lacks" if wrong[0] in wanted else "has an unknown"
        raise StateError(f"The state of {owner} {said} {str(wrong[0])[:60]!r}; {REMOVE}.")


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
    Kind.BOOL: (bool,), Kind.INT: (int,), Kind.OPTIONAL_INT: (int, type(None)), Kind.FLOAT: (float, int),
}  # fmt: skip


def _loaded(kind: Kind, current: Any, value: Any, where: str) -> Any:
    """The value as the attribute is to hold it; None where its parts were loaded in place."""
    if kind in _PLAIN:
        if not isinstance(value, _PLAIN[kind]) or (isinstance(value, bool) and kind is not Kind.BOOL):
            raise StateError(f"{where} of the saved state is {str(value)[:60]!r}, not of kind {kind}; {REMOVE}.")
        return float(value) if kind is Kind.FLOAT else value
    if kind is Kind.PART:
        current.load_state_dict(value)
        return None
    if kind is Kind.PARTS:
        check_keys(value, {str(key): None for key in current}, where)
        for key, part in current.items():
            part.load_state_dict(value[str(key)])
        return None
    return _array(kind, current, value, where)


def _array(kind: Kind, current: Any, value: Any, where: str) -> Any:
    wanted = np.dtype(np.float64) if kind is Kind.FLOATS else current.dtype
    axes = (0,) if kind is Kind.FLOATS else current.shape
    fits = isinstance(value, np.ndarray) and value.dtype == wanted and value.ndim == len(axes)
    if not fits or value.shape[1:] != axes[1:]:
        shape = getattr(value, "shape", type(value).__name__)
        raise StateError(f"{where} of the saved state has shape {shape}, which does not fit {axes}; {REMOVE}.")
    if kind is Kind.ARRAY:
        return value.copy()
    numbers = value.tolist()
    if isinstance(current, deque):
        if current.maxlen is not None and len(numbers) > current.maxlen:
            raise StateError(f"{where} of the saved state has {len(numbers)} values, not {current.maxlen}; {REMOVE}.")
        return deque(numbers, current.maxlen)
    return numbers


def save_state(path: Path, state: State, owner: str) -> None:
    """Write a state; a reader sees all of it or none. `owner` must be the same when it is loaded."""
    from safetensors.numpy import save

    arrays: dict[str, NDArray[Any]] = {}
    tree = _without_arrays(state, (), arrays)
    header = {"format": FORMAT, "owner": owner, "tree": json.dumps(tree)}
    write_atomic(path, save(arrays, header))


def load_state(path: Path, owner: str) -> State:
    """Read a state that `save_state` has written for the same owner.

    Raises:
        StateError: when the file cannot be read, is damaged, or belongs to somebody else; names it and the fix.
    """
    from safetensors import SafetensorError, safe_open

    try:
        if path.stat().st_size > LARGEST_FILE:
            raise StateError(f"{path} is larger than any state of a monitor; {REMOVE}.")
        with safe_open(path, "np") as file:
            header = dict(file.metadata() or {})
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        if header.get("format") != FORMAT:
            raise StateError(f"{path} is not a state that this version of rftfm_ray reads; {REMOVE}.")
        if header.get("owner") != owner:
            raise StateError(f"{path} is the state of {header.get('owner', '')[:80]!r}, not of {owner!r}; {REMOVE}.")
        tree = json.loads(header["tree"])
        return _with_arrays(tree, arrays)
    except OSError as error:
        raise StateError(f"{path} cannot be read ({error.strerror or error}); check the path.") from None
    except (SafetensorError, KeyError, ValueError, RecursionError, AttributeError) as error:
        raise StateError(f"{path} is damaged ({' '.join(str(error).split())[:120]}); {REMOVE}.") from None


def _without_arrays(state: State, path: tuple[str, ...], arrays: MutableMapping[str, NDArray[Any]]) -> dict[str, Any]:
    def plain(key: str, value: Any) -> Any:
        if isinstance(value, np.ndarray):
            name = ".".join((*path, key))
            arrays[name] = np.ascontiguousarray(value)
            return {_ARRAY: name}
        return _without_arrays(value, (*path, key), arrays) if isinstance(value, Mapping) else value

    return {key: plain(key, value) for key, value in state.items()}


def _with_arrays(tree: dict[str, Any], arrays: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    def whole(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return arrays[value[_ARRAY]] if set(value) == {_ARRAY} else _with_arrays(value, arrays)

    return {key: whole(value) for key, value in tree.items()}


def same_state(one: State, other: State) -> bool:
    """Whether two states are equal, NaN being equal to NaN."""
    if set(one) != set(other):
        return False
    return all(_same(one[key], other[key]) for key in one)


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Mapping):
        return isinstance(other, Mapping) and same_state(one, other)
    if isinstance(one, np.ndarray):
        equal: Callable[..., bool] = np.array_equal
        return isinstance(other, np.ndarray) and equal(one, other, equal_nan=one.dtype.kind == "f")
    if isinstance(one, float) and isinstance(other, float) and math.isnan(one):
        return math.isnan(other)
    return type(one) is type(other) and bool(one == other)
