"""Randomised trees as arrays: a yes/no answer for each of the sixteen faults. Pure; numpy.

Trees are learnt with scikit-learn (`faultbench.teaching`) and walked here, so that a guard does not need it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from rftfm_ray.errors import DiagnosisModelError

Floats = NDArray[np.float64]
Number = TypeVar("Number", bound=np.generic)
WHOLE = 255
"""What a share of 1 is stored as."""


@dataclass(frozen=True, slots=True, eq=False)
class Forest:
    """T trees with at most N inner nodes and L leaves each, for K faults.

    A child that is at least 0 is an inner node, which comes after its parent; leaf k is -1 - k. Trees with fewer nodes
    are filled up with nodes that nothing leads to.

    Attributes:
        feature: (T, N) int16, the number that a node compares.
        threshold: (T, N) float32; a value up to it goes left.
        left: (T, N) int16, a child.
        right: (T, N) int16, the other child.
        shares: (T, L, K) uint8, of `WHOLE`: how many of the examples of a leaf have each fault.
    """

    feature: NDArray[np.int16]
    threshold: NDArray[np.float32]
    left: NDArray[np.int16]
    right: NDArray[np.int16]
    shares: NDArray[np.uint8]

    def of(self, numbers: Floats) -> Floats:
        """Shares (K) of the faults at some numbers, the mean over trees."""
        # Trees are learnt on numbers of this precision: others could fall on the other side of a threshold.
        values = numbers.astype(np.float32)
        trees = np.arange(len(self.feature))
        at = np.zeros(len(trees), np.int64)
        while (inner := at >= 0).any():
            nodes = np.maximum(at, 0)
            goes_left = values[self.feature[trees, nodes]] <= self.threshold[trees, nodes]
            child = np.where(goes_left, self.left[trees, nodes], self.right[trees, nodes])
            at = np.where(inner, child, at)
        mean: Floats = self.shares[trees, -1 - at].mean(0) / WHOLE
        return mean

    def joined(self, other: Forest) -> Forest:
        """The trees of both; each of them counts the same."""
        nodes = max(self.feature.shape[1], other.feature.shape[1])
        leaves = max(self.shares.shape[1], other.shares.shape[1])
        feature, threshold, left, right = (
            np.concatenate([_filled(getattr(each, name), nodes, unused) for each in (self, other)])
            for name, unused in (("feature", 0), ("threshold", 0), ("left", -1), ("right", -1))
        )
        shares = np.concatenate([_filled(each.shares, leaves, 0) for each in (self, other)])
        return Forest(feature, threshold, left, right, shares)

    def check(self, numbers: int, faults: int) -> None:
        """Check that every walk ends in a leaf.

        Args:
            numbers: that there are.
            faults: that there are shares of.

        Raises:
            DiagnosisModelError: when it does not, or an array is of another kind.
        """
        for name, kind, dimensions in (
            ("feature", np.int16, 2), ("threshold", np.float32, 2), ("left", np.int16, 2), ("right", np.int16, 2),
            ("shares", np.uint8, 3),
        ):  # fmt: skip
            array = getattr(self, name)
            if array.dtype != kind or array.ndim != dimensions or not array.size:
                raise DiagnosisModelError(f"'{name}' is not an array of {kind.__name__} in {dimensions} dimensions")
        trees, nodes = self.feature.shape
        if any(getattr(self, name).shape != (trees, nodes) for name in ("threshold", "left", "right")):
            raise DiagnosisModelError("its trees do not have as many thresholds and children as nodes")
        if len(self.shares) != trees or self.shares.shape[2] != faults:
            raise DiagnosisModelError(f"its leaves do not have shares of {faults} faults for each tree")
        if not np.isfinite(self.threshold).all() or not ((self.feature >= 0) & (self.feature < numbers)).all():
            raise DiagnosisModelError(f"a node compares another number than one of the {numbers}")
        parents = np.arange(nodes)
        for children in (self.left, self.right):
            is_leaf = (children < 0) & (-1 - children.astype(np.int64) < self.shares.shape[1])
            if not (is_leaf | ((children > parents) & (children < nodes))).all():
                raise DiagnosisModelError("a node has a child that is neither a leaf nor a later node")

    def arrays(self) -> Mapping[str, NDArray[np.generic]]:
        """The arrays by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def _filled(array: NDArray[Number], size: int, unused: int) -> NDArray[Number]:
    """An array of trees with so many nodes, or leaves, each."""
    widths = [(0, 0)] * array.ndim
    widths[1] = (0, size - array.shape[1])
    return np.pad(array, widths, constant_values=unused)
