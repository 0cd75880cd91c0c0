"""Weights in transit: whatever differs from what was sent is found on arrival."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rftfm_ray.errors import SyncError
from rftfm_ray.rollout.weights import check_weights, checksum, pack_weights


def weights() -> dict[str, NDArray[np.float32]]:
    """Two arrays of one shape, and a third."""
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=(8, 4)).astype(np.float32) for name in ("a", "b", "c")}


def test_checksum_does_not_depend_on_the_order_of_names_or_the_layout_in_memory() -> None:
    arrays = weights()
    assert checksum(dict(reversed(arrays.items()))) == checksum(arrays)
    assert checksum({name: np.asfortranarray(array) for name, array in arrays.items()}) == checksum(arrays)


@given(name=st.sampled_from("abc"), place=st.integers(0, 127), bit=st.integers(0, 7))
@settings(max_examples=50, deadline=None)
def test_checksum_finds_a_flipped_bit_anywhere(name: str, place: int, bit: int) -> None:
    update = pack_weights(3, weights())
    update.arrays[name].view(np.uint8).reshape(-1)[place] ^= 1 << bit
    with pytest.raises(SyncError, match="version 3"):
        check_weights(update)


def test_checksum_finds_swapped_renamed_and_missing_arrays() -> None:
    arrays = weights()
    update = pack_weights(3, arrays)
    check_weights(update)
    swapped = {**arrays, "a": arrays["b"], "b": arrays["a"]}
    renamed = {"d" if name == "c" else name: array for name, array in arrays.items()}
    missing = {name: arrays[name] for name in ("a", "b")}
    for wrong in (swapped, renamed, missing, {}):
        with pytest.raises(SyncError):
            check_weights(dataclasses.replace(update, arrays=wrong))
