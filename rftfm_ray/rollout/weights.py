"""Weights on their way from learner to rollout: by value through the object store, checked on arrival."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rftfm_ray.errors import SyncError

# An update moves nearly all weights: a thousand of a tensor tell, and cost a learner next to nothing.
SAMPLE = 1024


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """CRC-32 of a tensor's sample as float32 bytes, and whether bfloat16 holds every value of the sample exactly."""

    crc: int
    bfloat16: bool


@dataclass(frozen=True, slots=True)
class WeightsUpdate:
    """All weights of one model version, by Hugging Face name, with the checksum that the learner took.

    `fingerprints` were taken by the learner as well, by the same names: what vLLM serves is compared with what the
    learner holds, not with what has arrived.
    """

    version: int
    checksum: int
    arrays: Mapping[str, NDArray[Any]]
    fingerprints: Mapping[str, Fingerprint]


@dataclass(frozen=True, slots=True)
class Served:
    """What a rollout actor serves after a load.

    Attributes:
        version: the model version.
        compared: how many tensors were compared with the learner's; 0 where it was not due, or none can be.
        mismatched: names of those that differ, and of those that had changed since the load before.
    """

    version: int
    compared: int
    mismatched: tuple[str, ...]


def checksum(arrays: Mapping[str, NDArray[Any]]) -> int:
    """CRC-32 over names, types, shapes and bytes: finds damage and mix-ups at a gigabyte a second."""
    value = 0
    for name in sorted(arrays):
        value = zlib.crc32(f"{name}/{arrays[name].dtype}/{arrays[name].shape}/".encode(), value)
        value = zlib.crc32(np.ascontiguousarray(arrays[name]).reshape(-1).view(np.uint8).data, value)
    return value


def pack_weights(version: int, arrays: Mapping[str, NDArray[Any]], dtype: str = "float32") -> WeightsUpdate:
    """An update that can be checked on arrival: the weights that are to be served, rounded to `dtype`.

    What is compared later is rounded too, so a served tensor that differs was not sent.
    """
    if dtype == "bfloat16":
        arrays = {name: to_bfloat16(array) for name, array in arrays.items()}
    return WeightsUpdate(version, checksum(arrays), arrays, {name: fingerprint(a) for name, a in arrays.items()})


def to_bfloat16(array: NDArray[Any]) -> NDArray[np.float32]:
    """float32 values rounded to the nearest bfloat16, ties to even, in float32, which holds them exactly."""
    bits = np.ascontiguousarray(array, dtype=np.float32).view(np.uint32)
    # The carry of a rounded mantissa raises the exponent, as it should; in a NaN it would make an infinity.
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    return np.where(np.isnan(array), array, rounded.view(np.float32)).astype(np.float32)


def stride(size: int) -> int:
    """Of a flat tensor of `size` entries every so many belong to its sample, from the first on."""
    return max(1, -(-size // SAMPLE))


def fingerprint(array: NDArray[Any]) -> Fingerprint:
    """Fingerprint of a tensor as the learner holds it; the sample has at most `SAMPLE` entries."""
    flat = array.reshape(-1)
    sample = np.ascontiguousarray(flat[:: stride(flat.size)], dtype=np.float32)
    return Fingerprint(zlib.crc32(sample.data), not (sample.view(np.uint32) & 0xFFFF).any())


def compare(update: WeightsUpdate, served: Mapping[str, tuple[str, int]], changed: Iterable[str] = ()) -> Served:
    """Compare fingerprints of what is served, each with the precision in which it is held, with the learner's.

    Values that the served precision cannot represent exactly are left out, because rounding is not a finding.
    `changed` are tensors that the engine has changed by itself since they were loaded.
    """
    compared, mismatched = 0, []
    for name, (precision, crc) in served.items():
        own = update.fingerprints[name]
        if precision == "float32" or (precision == "bfloat16" and own.bfloat16):
            compared += 1
            if crc != own.crc:
                mismatched.append(name)
    changed = tuple(changed)
    return Served(update.version, compared + len(changed), tuple(sorted({*mismatched, *changed})))


def check_weights(update: WeightsUpdate) -> None:
    """Compare what arrived with what was sent.

    Raises:
        SyncError: when they differ.
    """
    actual = checksum(update.arrays)
    if actual != update.checksum:
        raise SyncError(
            f"Weights of version {update.version} arrived with checksum {actual:08x} instead of {update.checksum:08x}; "
            "they are not served."
        )
