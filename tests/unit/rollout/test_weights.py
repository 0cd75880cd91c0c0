"""Weights in transit: whatever differs from what was sent is found on arrival."""

from __future__ import annotations

import dataclasses
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rftfm_ray.errors import SyncError
from rftfm_ray.rollout.weights import (
    SAMPLE,
    Served,
    check_weights,
    checksum,
    compare,
    fingerprint,
    pack_weights,
    stride,
    to_bfloat16,
)


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


def bfloat16(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """`values` as PyTorch casts them to bfloat16 and back."""
    result: NDArray[np.float32] = torch.from_numpy(values).to(torch.bfloat16).float().numpy()
    return result


@given(st.lists(st.floats(width=32), min_size=1, max_size=40))
def test_rounding_is_that_of_pytorch(values: list[float]) -> None:
    array = np.array(values, np.float32)
    np.testing.assert_array_equal(to_bfloat16(array), bfloat16(array))


def test_ties_are_rounded_to_even_and_a_not_a_number_stays_one() -> None:
    bits = np.array([0x3F808000, 0x3F818000, 0x7FC00001, 0x7F800001, 0x7F7FFFFF], np.uint32).view(np.float32)
    rounded = to_bfloat16(bits.reshape(5, 1))
    assert rounded.shape == (5, 1)
    assert rounded.reshape(-1)[:2].view(np.uint32).tolist() == [0x3F800000, 0x3F820000]
    assert np.isnan(rounded.reshape(-1)[2:4]).all()
    assert np.isinf(rounded.reshape(-1)[4])


def test_rounded_weights_are_compared_with_what_was_sent_and_a_tensor_that_was_not_is_found() -> None:
    arrays = weights()
    update = pack_weights(3, arrays, "bfloat16")
    check_weights(update)
    assert all(np.array_equal(update.arrays[name], bfloat16(array)) for name, array in arrays.items())
    assert not np.array_equal(update.arrays["a"], arrays["a"])
    served = {name: ("float32", fingerprint(array).crc) for name, array in update.arrays.items()}
    assert compare(update, served) == Served(3, 3, ())
    # What was served before stays where a tensor is lost.
    older = pack_weights(2, {name: array + 1 for name, array in arrays.items()}, "bfloat16")
    lost = served | {"b": ("float32", fingerprint(older.arrays["b"]).crc)}
    assert compare(update, lost) == Served(3, 3, ("b",))
    # The unrounded ones are not what was sent either.
    plain = {name: ("float32", fingerprint(array).crc) for name, array in arrays.items()}
    assert compare(update, plain).mismatched == ("a", "b", "c")


def crc(values: NDArray[np.float32]) -> int:
    """CRC-32 of the bytes of an array."""
    return zlib.crc32(values.tobytes())


def test_learner_takes_the_fingerprint_of_every_tensor() -> None:
    arrays = weights()
    update = pack_weights(3, arrays)
    assert update.fingerprints == {name: fingerprint(array) for name, array in arrays.items()}
    assert all(update.fingerprints[name].crc == crc(array) for name, array in arrays.items())


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=40))
@settings(max_examples=200)
def test_what_bfloat16_holds_is_what_pytorch_leaves_alone(values: list[float]) -> None:
    array = np.array(values, np.float32)
    assert fingerprint(array).bfloat16 == (array.tobytes() == bfloat16(array).tobytes())
    assert fingerprint(bfloat16(array)).bfloat16


@pytest.mark.parametrize(("size", "step"), [(0, 1), (1, 1), (SAMPLE, 1), (SAMPLE + 1, 2), (10**7, 9766)])
def test_sample_is_spread_over_the_tensor_and_bounded(size: int, step: int) -> None:
    assert stride(size) == step
    assert size / step <= SAMPLE


def test_sample_of_a_large_tensor_follows_its_stride() -> None:
    array = np.random.default_rng(0).normal(size=(50, 80)).astype(np.float32)
    assert fingerprint(array).crc == crc(array.reshape(-1)[::4].copy())
    changed = array.copy()
    changed[0, 1] += 1
    assert fingerprint(changed) == fingerprint(array)
    changed[0, 4] += 1
    assert fingerprint(changed) != fingerprint(array)


def test_served_weights_are_compared_in_the_precision_in_which_they_are_held() -> None:
    arrays = weights()
    arrays["b"] = bfloat16(arrays["b"])
    update = pack_weights(3, arrays)
    served = {"a": ("float32", crc(arrays["a"])), "b": ("bfloat16", crc(arrays["b"]))}
    assert compare(update, served) == Served(3, 2, ())
    stale = {name: bfloat16(array + np.float32(0.5)) for name, array in arrays.items()}
    wrong = {"b": ("bfloat16", crc(stale["b"])), "a": ("float32", crc(stale["a"]))}
    assert compare(update, wrong) == Served(3, 2, ("a", "b"))
    assert compare(update, {**served, "c": ("float32", crc(stale["c"]))}) == Served(3, 3, ("c",))
    # Values that had to be rounded, and precisions of which nothing is known here.
    assert compare(update, {"a": ("bfloat16", crc(bfloat16(arrays["a"])))}) == Served(3, 0, ())
    assert compare(update, {"a": ("float8_e4m3fn", 0), "b": ("float16", 0)}) == Served(3, 0, ())
    assert compare(update, {}) == Served(3, 0, ())


def test_what_arrives_damaged_is_not_what_the_learner_holds() -> None:
    arrays = weights()
    update = pack_weights(3, arrays)
    arrays["b"][0, 0] += 1
    assert compare(update, {name: ("float32", crc(array)) for name, array in arrays.items()}) == Served(3, 3, ("b",))


def test_a_tensor_that_changed_since_the_load_before_is_found_though_this_load_is_right() -> None:
    update = pack_weights(3, weights())
    held = {name: ("float32", own.crc) for name, own in update.fingerprints.items()}
    assert compare(update, held) == Served(3, 3, ())
    found = compare(update, held, ["c"])
    assert found.mismatched == ("c",)
    assert found.compared > 0
    # Also where this load was not due for a comparison.
    assert compare(update, {}, ["a", "b"]) == Served(3, 2, ("a", "b"))
