"""Learns a model of diagnoses from windows: randomised trees and their calibration. numpy and scikit-learn.

Extremely randomised trees (Geurts, Ernst, Wehenkel 2006) of scikit-learn, one output for each fault.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rftfm_ray.diagnosis.features import NUMBERS
from rftfm_ray.diagnosis.forest import WHOLE, Forest
from rftfm_ray.diagnosis.model import (
    CODES,
    EXACT,
    FORMAT,
    OWN_PAST,
    PROFILE,
    TELEMETRY,
    DiagnosisModel,
    ModelInfo,
)
from rftfm_ray.diagnosis.weighing import alarms_in, level_of, ranked_by
from rftfm_ray.errors import DiagnosisModelError
from rftfm_ray.faultbench.teaching.windows import Example
from rftfm_ray.taxonomy import UNKNOWN

Floats = NDArray[np.float64]

TREES, LEAVES = 60, 256
"""Trees for each kind of reference, and leaves of a tree: both forests together stay below a megabyte."""
FOLDS, FOLD_TREES = 5, 30
"""Folds by seed from which calibration is learnt, and the trees of each."""
# Share of the numbers among which a split is chosen, and examples in a leaf at least. Chosen on the tune split.
TRIED, LEAST_IN_LEAF = 0.2, 2
# Bins of equal size from which the calibration starts; neighbours that fall are merged.
BINS, LEAST_IN_BIN = 12, 20
# Windows in which a symptom or finding must have been seen for the trees to know what it means.
LEAST_SEEN = 3
NOTHING_KNOWN = ((0.0, 0.0), (1.0, 1.0))
"""The calibration where there is nothing to learn one from."""


@dataclass(frozen=True, slots=True)
class Stated:
    """A diagnosis: the probability of the model, whether it was right, and its kind of evidence."""

    probability: float
    is_right: bool
    evidence: str


@dataclass(frozen=True, slots=True)
class Lesson:
    """What a model is taught.

    Attributes:
        examples: windows of runs, those of both kinds of reference.
        command: that teaches it.
        taught_on: hash of what the examples are from.
        seed: of its randomness.
    """

    examples: Sequence[Example]
    command: str
    taught_on: str
    seed: int


def learn(lesson: Lesson, trees: int = TREES, workers: int = 1, base: DiagnosisModel | None = None) -> DiagnosisModel:
    """Learn a model without a calibration.

    Args:
        lesson: what is taught.
        trees: for each kind of reference.
        workers: threads that share the work.
        base: a model whose trees are kept beside the new ones, with its calibration.

    Raises:
        DiagnosisModelError: when scikit-learn is missing, or there is nothing to learn from.
    """
    examples = lesson.examples
    if not any(example.codes and example.features.window is not None for example in examples):
        raise DiagnosisModelError("No run has a fault with an effect in time, so there is nothing to learn.")
    # The trees of a base have seen its names in their order.
    known = () if base is None else base.info.present
    info = ModelInfo(
        FORMAT, lesson.command, lesson.taught_on, lesson.seed, len(examples), NUMBERS,
        (*known, *(name for name in names_seen(examples) if name not in known)),
        dict.fromkeys((TELEMETRY, EXACT), NOTHING_KNOWN) if base is None else base.info.calibration,
    )  # fmt: skip
    # Its vectors are made before its trees are known.
    blank = DiagnosisModel(info, {})
    by_profile = {against: [e for e in examples if _is_against(e, against)] for against in (PROFILE, OWN_PAST)}
    learnt = {
        against: _forest(blank, of_kind, trees, lesson.seed, workers)
        for against, of_kind in by_profile.items()
        if of_kind
    }
    # Where no run was compared in one of the two ways, the trees of the other are the best that there is.
    some = next(iter(learnt.values()))
    forests = {against: learnt.get(against, some) for against in by_profile}
    if base is not None:
        forests = {against: base.forests[against].joined(forest) for against, forest in forests.items()}
    return DiagnosisModel(info, forests)


def _is_against(example: Example, against: str) -> bool:
    window = example.features.window
    return window is not None and window.profiled == (against == PROFILE)


def names_seen(examples: Iterable[Example]) -> tuple[str, ...]:
    """Symptoms and findings that enough examples have."""
    counts: dict[str, int] = {}
    for example in examples:
        for name in example.features.present:
            counts[name] = counts.get(name, 0) + 1
    return tuple(sorted(name for name, count in counts.items() if count >= LEAST_SEEN))


def _forest(model: DiagnosisModel, examples: Sequence[Example], trees: int, seed: int, workers: int) -> Forest:
    try:
        from sklearn.ensemble import ExtraTreesRegressor
    except ImportError:
        raise DiagnosisModelError(
            "Teaching needs scikit-learn; install it with `pip install 'rftfm_ray[bench]'`."
        ) from None
    numbers = np.array([model.vector(example.features) for example in examples], np.float32)
    truth = np.array([[code in example.codes for code in CODES] for example in examples], np.float64)
    learnt = ExtraTreesRegressor(
        trees, max_leaf_nodes=LEAVES, max_features=TRIED, min_samples_leaf=LEAST_IN_LEAF, random_state=seed,
        n_jobs=workers,
    ).fit(numbers, truth)  # fmt: skip
    return forest_of([tree.tree_ for tree in learnt.estimators_])


def forest_of(trees: Sequence[Any]) -> Forest:
    """The arrays of trees of scikit-learn."""
    inner = [np.flatnonzero(tree.children_left >= 0) for tree in trees]
    leaves = [np.flatnonzero(tree.children_left < 0) for tree in trees]
    # A tree that is one leaf gets a node whose children are both that leaf.
    nodes, most = max(1, *map(len, inner)), max(map(len, leaves))
    feature, threshold, left, right = (
        np.zeros((len(trees), nodes), kind) for kind in (np.int16, np.float32, np.int16, np.int16)
    )
    left[:], right[:] = -1, -1
    shares = np.zeros((len(trees), most, len(CODES)), np.uint8)
    for row, (tree, inside, ends) in enumerate(zip(trees, inner, leaves, strict=True)):
        place = np.zeros(tree.node_count, np.int64)
        place[inside], place[ends] = np.arange(len(inside)), -1 - np.arange(len(ends))
        count = len(inside)
        feature[row, :count] = tree.feature[inside]
        threshold[row, :count] = _rounded_down(tree.threshold[inside])
        left[row, :count], right[row, :count] = place[tree.children_left[inside]], place[tree.children_right[inside]]
        shares[row, : len(ends)] = np.rint(np.clip(tree.value[ends, :, 0], 0, 1) * WHOLE)
    return Forest(feature, threshold, left, right, shares)


def _rounded_down(threshold: Floats) -> NDArray[np.float32]:
    """Thresholds in single precision that part single-precision numbers as the double ones do."""
    rounded = threshold.astype(np.float32)
    return np.where(rounded > threshold, np.nextafter(rounded, np.float32(-np.inf)), rounded).astype(np.float32)


def calibrate(lesson: Lesson, workers: int = 1) -> dict[str, tuple[tuple[float, float], ...]]:
    """Learn the calibration from folds by seed, so that no run is judged by a model that it has taught.

    Args:
        lesson: what is taught; only its diagnoses are judged.
        workers: processes that share the work.
    """
    stated = list[Stated]()
    for held_out in folds_of(lesson.examples):
        taught = [example for example in lesson.examples if example.seed not in held_out]
        if not any(example.codes for example in taught):
            continue
        model = learn(replace(lesson, examples=taught), FOLD_TREES, workers)
        asked = [example for example in lesson.examples if example.seed in held_out]
        stated += [answer for example in asked if (answer := stated_by(model, example)) is not None]
    return {level: isotonic([each for each in stated if each.evidence == level]) for level in (TELEMETRY, EXACT)}


def stated_by(model: DiagnosisModel, example: Example) -> Stated | None:
    """What a model says of a diagnosis; None for another window, or where it names nothing."""
    if example.case is None:
        return None
    (code, probability), *_ = ranked_by(example.case, model)
    if code == UNKNOWN:
        return None
    return Stated(probability, code in example.codes, level_of(alarms_in(example.case.symptoms)))


def folds_of(examples: Iterable[Example]) -> list[Collection[int]]:
    """Seeds in `FOLDS` parts, or fewer where there are fewer seeds."""
    seeds = sorted({example.seed for example in examples})
    return [set(seeds[fold::FOLDS]) for fold in range(min(FOLDS, len(seeds)))]


def isotonic(stated: Sequence[Stated]) -> tuple[tuple[float, float], ...]:
    """Isotonic regression over bins, by pooling neighbours that fall (pool adjacent violators)."""
    ordered = sorted(stated, key=lambda each: each.probability)
    if len(ordered) < LEAST_IN_BIN:
        return NOTHING_KNOWN
    # Laplace's rule: no bin is always right or always wrong.
    blocks = list[list[float]]()
    for part in np.array_split(np.arange(len(ordered)), min(BINS, len(ordered) // LEAST_IN_BIN)):
        items = [ordered[index] for index in part.tolist()]
        right, count = 1 + sum(item.is_right for item in items), 2 + len(items)
        blocks.append([sum(item.probability for item in items), len(items), right, count])
        while len(blocks) > 1 and blocks[-2][2] / blocks[-2][3] >= blocks[-1][2] / blocks[-1][3]:
            last = blocks.pop()
            blocks[-1] = [a + b for a, b in zip(blocks[-1], last, strict=True)]
    points = [(round(p / n, 4), round(right / count, 4)) for p, n, right, count in blocks]
    return (((0.0, round(points[0][1] / 2, 4))), *points, (1.0, points[-1][1]))
