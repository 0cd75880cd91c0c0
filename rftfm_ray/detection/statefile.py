"""A state in a file: written atomically, and read with checks. Nothing is unpickled."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rftfm_ray.detection.state import ARRAY_KEY, State, has_savable_type
from rftfm_ray.errors import StateError
from rftfm_ray.files import write_atomic

FORMAT = "7"
LARGEST_FILE = 64 << 20
REMOVE = "remove it, and the monitor starts afresh from the run's next step"


def save_state(path: Path, state: State, owner: str) -> None:
    """Write a state; readers never see a part of it. `owner` must be the same when it is loaded.

    Raises:
        StateError: when something in it would not come back as it was; then nothing is written.
    """
    from safetensors.numpy import save

    arrays: dict[str, NDArray[Any]] = {}
    tree = _without_arrays(state, arrays)
    text = json.dumps(tree)
    header = {"format": FORMAT, "owner": owner, "tree": text, "sha256": _digest(text, arrays)}
    write_atomic(path, save(arrays, header))


def load_state(path: Path, owner: str) -> State:
    """Read a state that `save_state` has written for the same owner.

    Raises:
        StateError: when the file cannot be read, is damaged, or belongs to another owner; names it and the fix.
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
        if header["sha256"] != _digest(header["tree"], arrays):
            raise StateError(f"{path} is damaged (its contents are not those that were written); {REMOVE}.")
        return _with_arrays(json.loads(header["tree"]), arrays)
    except OSError as error:
        raise StateError(f"{path} cannot be read ({error.strerror or error}); check the path.") from None
    except (SafetensorError, KeyError, TypeError, ValueError, RecursionError, AttributeError) as error:
        raise StateError(f"{path} is damaged ({' '.join(str(error).split())[:120]}); {REMOVE}.") from None


def _digest(tree: str, arrays: Mapping[str, NDArray[Any]]) -> str:
    """SHA-256 of a state's tree and arrays: a flipped bit in a number would else load as another number."""
    digest = hashlib.sha256(tree.encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _without_arrays(state: State, arrays: MutableMapping[str, NDArray[Any]]) -> dict[str, Any]:
    if ARRAY_KEY in state:
        raise StateError(f"A state has the name {ARRAY_KEY!r}, which stands for arrays in files; rename it.")

    def plain(key: str, value: Any) -> Any:
        if isinstance(value, np.ndarray):
            if not has_savable_type(value):
                raise StateError(f"{key} of a state is an array of {value.dtype}, which no file holds; use float64.")
            # Numbered, because names of parts may hold any character.
            name = str(len(arrays))
            # `ascontiguousarray` gives an array without axes one axis; `reshape` removes it.
            arrays[name] = np.ascontiguousarray(value).reshape(value.shape)
            return {ARRAY_KEY: name}
        return _without_arrays(value, arrays) if isinstance(value, Mapping) else value

    return {key: plain(key, value) for key, value in state.items()}


def _with_arrays(tree: dict[str, Any], arrays: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    def filled(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return arrays[value[ARRAY_KEY]] if set(value) == {ARRAY_KEY} else _with_arrays(value, arrays)

    return {key: filled(value) for key, value in tree.items()}
