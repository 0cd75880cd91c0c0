"""Trees as arrays: they are walked as scikit-learn walks them, and what is not a forest is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.ensemble import ExtraTreesRegressor

from rftfm_ray.diagnosis.forest import WHOLE, Forest
from rftfm_ray.diagnosis.model import CODES
from rftfm_ray.errors import DiagnosisModelError
from rftfm_ray.faultbench.teaching.learning import forest_of

Floats = NDArray[np.float64]
NUMBERS, FAULTS, NODES = 4, 3, 6


@st.composite
def forests(draw: st.DrawFn) -> Forest:
    """Random trees, whose nodes beyond the reachable ones are valid as well."""
    trees, leaves = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    feature, left, right = (np.zeros((trees, NODES), np.int16) for _ in range(3))
    threshold = np.zeros((trees, NODES), np.float32)
    for tree in range(trees):
        for node in range(NODES):
            child = st.integers(-leaves, -1) | st.integers(node + 1, NODES - 1) if node + 1 < NODES else st.just(-1)
            left[tree, node], right[tree, node] = draw(child), draw(child)
            feature[tree, node] = draw(st.integers(0, NUMBERS - 1))
            threshold[tree, node] = draw(st.integers(-2, 2)) / 2
    shares = draw(st.lists(st.integers(0, WHOLE), min_size=trees * leaves * FAULTS, max_size=trees * leaves * FAULTS))
    return Forest(feature, threshold, left, right, np.array(shares, np.uint8).reshape(trees, leaves, FAULTS))


def leaf_of(forest: Forest, tree: int, node: int, numbers: Floats) -> int:
    """The leaf that a walk down one tree reaches."""
    if node < 0:
        return -1 - node
    side = forest.left if numbers[forest.feature[tree, node]] <= forest.threshold[tree, node] else forest.right
    return leaf_of(forest, tree, int(side[tree, node]), numbers)


@given(forests(), st.lists(st.integers(-3, 3), min_size=NUMBERS, max_size=NUMBERS))
def test_every_tree_is_walked_to_its_leaf(forest: Forest, halves: list[int]) -> None:
    forest.check(NUMBERS, FAULTS)
    numbers = np.array(halves) / 2
    trees = range(len(forest.feature))
    wanted = np.mean([forest.shares[tree, leaf_of(forest, tree, 0, numbers)] for tree in trees], 0) / WHOLE
    np.testing.assert_allclose(forest.of(numbers), wanted, rtol=1e-12)


@given(st.integers(0, 10_000), st.integers(2, 12), st.sampled_from([1, 3]))
@settings(max_examples=15, deadline=None)
def test_answers_are_those_of_scikit_learn(seed: int, leaves: int, least: int) -> None:
    rng = np.random.default_rng(seed)
    numbers = rng.normal(size=(40, NUMBERS)).astype(np.float32)
    truth = (rng.random((40, len(CODES))) < 0.3).astype(np.float64)
    learnt = ExtraTreesRegressor(3, max_leaf_nodes=leaves, min_samples_leaf=least, random_state=seed).fit(
        numbers, truth
    )
    forest = forest_of([tree.tree_ for tree in learnt.estimators_])
    forest.check(NUMBERS, len(CODES))
    thresholds = forest.threshold.ravel()
    # Also numbers exactly at thresholds and right beside them: there an inexact threshold shows.
    at = rng.choice(thresholds, (60, NUMBERS))
    beside = np.nextafter(at, rng.choice(np.array([-np.inf, np.inf], np.float32), at.shape))
    asked = np.concatenate([numbers, at, beside]).astype(np.float32)
    mine = np.array([forest.of(row.astype(np.float64)) for row in asked])
    np.testing.assert_allclose(mine, learnt.predict(asked), atol=1 / WHOLE)


def test_tree_that_is_one_leaf_answers_as_well() -> None:
    learnt = ExtraTreesRegressor(2, random_state=0).fit(np.zeros((5, NUMBERS)), np.full((5, len(CODES)), 0.4))
    forest = forest_of([tree.tree_ for tree in learnt.estimators_])
    forest.check(NUMBERS, len(CODES))
    np.testing.assert_allclose(forest.of(np.ones(NUMBERS)), 0.4)


GOOD = Forest(
    np.array([[0, 1]], np.int16), np.array([[0.0, 0.5]], np.float32), np.array([[1, -1]], np.int16),
    np.array([[-2, -3]], np.int16), np.zeros((1, 3, FAULTS), np.uint8),
)  # fmt: skip
NOT_A_FOREST = {
    "a node is its own child": (replace(GOOD, left=np.array([[0, -1]], np.int16)), "later node"),
    "a child is an earlier node": (replace(GOOD, right=np.array([[-2, 0]], np.int16)), "later node"),
    "a child beyond the nodes": (replace(GOOD, left=np.array([[2, -1]], np.int16)), "later node"),
    "a leaf beyond the leaves": (replace(GOOD, right=np.array([[-4, -3]], np.int16)), "neither a leaf"),
    "the least child": (replace(GOOD, right=np.array([[-32768, -3]], np.int16)), "neither a leaf"),
    "a feature beyond the numbers": (replace(GOOD, feature=np.array([[0, NUMBERS]], np.int16)), "another number"),
    "a feature below 0": (replace(GOOD, feature=np.array([[0, -1]], np.int16)), "another number"),
    "a threshold without a value": (replace(GOOD, threshold=np.array([[np.nan, 0]], np.float32)), "another number"),
    "an infinite threshold": (replace(GOOD, threshold=np.array([[np.inf, 0]], np.float32)), "another number"),
    "thresholds of another kind": (replace(GOOD, threshold=GOOD.threshold.astype(np.float64)), "'threshold' is not"),
    "children of another kind": (replace(GOOD, left=GOOD.left.astype(np.int64)), "'left' is not an array of int16"),
    "features of floats": (replace(GOOD, feature=GOOD.feature.astype(np.float32)), "'feature' is not"),
    "shares of another kind": (replace(GOOD, shares=GOOD.shares.astype(np.int8)), "'shares' is not"),
    "shares without trees": (replace(GOOD, shares=GOOD.shares[0]), "in 3 dimensions"),
    "no trees": (replace(GOOD, feature=GOOD.feature[:0]), "'feature' is not"),
    "fewer thresholds": (replace(GOOD, threshold=GOOD.threshold[:, :1]), "as many thresholds"),
    "shares of fewer faults": (replace(GOOD, shares=GOOD.shares[..., :2]), "shares of 3 faults"),
    "shares of more trees": (replace(GOOD, shares=np.zeros((2, 3, FAULTS), np.uint8)), "shares of 3 faults"),
}


@pytest.mark.parametrize("case", list(NOT_A_FOREST))
def test_what_is_not_a_forest_is_refused(case: str) -> None:
    GOOD.check(NUMBERS, FAULTS)
    forest, reason = NOT_A_FOREST[case]
    with pytest.raises(DiagnosisModelError, match=reason):
        forest.check(NUMBERS, FAULTS)
