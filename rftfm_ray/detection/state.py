"""The state of detectors as arrays and plain scalars, with the checks on loading. Pure; numpy.

`state_dict()` copies: its result does not change with the detector. `load_state_dict()` raises `StateError` for
anything that `state_dict()` of the same class, made with the same arguments, would not have returned.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from rftfm_ray.errors import StateError

Value: TypeAlias = "NDArray[np.float64] | NDArray[np.int64] | NDArray[np.bool_] | float | int | bool | str"
State: TypeAlias = "Mapping[str, Value | State]"
"""Arrays, plain scalars and states of parts, by name."""
ARRAY_KEY = "__array__"
"""What stands for an array in a file; nothing in a state may have this name."""
# Of the numbers that a file can hold; a long double is wider.
_WIDEST_BYTES = 8
DType = TypeVar("DType", bound=np.generic)
Scalar = TypeVar("Scalar", int, float, bool, str)


def can_be_saved(value: object) -> bool:
    """Whether a value of a state is written to a file, and read back as it was."""
    if isinstance(value, Mapping):
        return all(isinstance(name, str) and name != ARRAY_KEY and can_be_saved(part) for name, part in value.items())
    return type(value) in (bool, int, float, str) or (isinstance(value, np.ndarray) and has_savable_type(value))


def has_savable_type(value: NDArray[Any] | np.generic) -> bool:
    """Whether an array or a scalar of numpy is of numbers that a file can hold."""
    return value.dtype.kind in "biuf" and value.dtype.itemsize <= _WIDEST_BYTES


def check_keys(state: State, names: tuple[str, ...]) -> None:
    """Refuse a state that does not have exactly these names.

    Raises:
        StateError: names the first key that is unknown or missing.
    """
    wrong = sorted(set(state) ^ set(names), key=str)
    if wrong:
        raise StateError(f"The saved state {'lacks' if wrong[0] in names else 'has an unknown'} {wrong[0]!r}.")


def array_from(state: State, name: str, like: NDArray[DType], *, finite: bool = True) -> NDArray[DType]:
    """A copy of an array of the state, with the shape and type of `like`.

    Raises:
        StateError: when it is missing, has another shape or type, or is not finite where it must be.
    """
    value = state.get(name)
    if not isinstance(value, np.ndarray) or value.dtype != like.dtype or value.shape != like.shape:
        raise StateError(f"The saved state's {name!r} is not an array {like.dtype} {like.shape}.")
    if finite and not np.isfinite(value).all():
        raise StateError(f"The saved state's {name!r} has values that are not finite.")
    copy: NDArray[DType] = value.astype(like.dtype, copy=True)
    return copy


def scalar_from(state: State, name: str, kind: type[Scalar]) -> Scalar:
    """A plain scalar of the state.

    Raises:
        StateError: when it is missing or of another type.
    """
    value = state.get(name)
    if type(value) is not kind:
        raise StateError(f"The saved state's {name!r} is not of type {kind.__name__}.")
    return value


def part_from(state: State, name: str) -> State:
    """The state of a part.

    Raises:
        StateError: when it is missing.
    """
    value = state.get(name)
    if not isinstance(value, Mapping):
        raise StateError(f"The saved state's {name!r} is not the state of a part.")
    return value
