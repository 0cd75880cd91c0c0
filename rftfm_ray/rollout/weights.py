"""Weights on their way from learner to rollout: by value through the object store, checked on arrival."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rftfm_ray.errors import SyncError


@dataclass(frozen=True, slots=True)
class WeightsUpdate:
    """All weights of one model version, by Hugging Face name, with the checksum that the learner took."""

    version: int
    checksum: int
    arrays: Mapping[str, NDArray[Any]]


def checksum(arrays: Mapping[str, NDArray[Any]]) -> int:
    """CRC-32 over names, types, shapes and bytes: finds damage and mix-ups at a gigabyte a second."""
    value = 0
    for name in sorted(arrays):
        value = zlib.crc32(f"{name}/{arrays[name].dtype}/{arrays[name].shape}/".encode(), value)
        value = zlib.crc32(np.ascontiguousarray(arrays[name]).reshape(-1).view(np.uint8).data, value)
    return value


def pack_weights(version: int, arrays: Mapping[str, NDArray[Any]]) -> WeightsUpdate:
    """An update that can be checked on arrival."""
    return WeightsUpdate(version, checksum(arrays), arrays)


def check_weights(update: WeightsUpdate) -> None:
    """Compare what arrived with what was sent.

    Raises:
        SyncError: when they differ.
    """
    found = checksum(update.arrays)
    if found != update.checksum:
        raise SyncError(
            f"Weights of version {update.version} arrived with checksum {found:08x} instead of {update.checksum:08x}; "
            "they are not served."
        )
