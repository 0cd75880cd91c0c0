"""Other ways to name faults, on the same windows: learnt by scikit-learn, by fingerprints, and by configuration alone.

A baseline states probabilities that nothing has calibrated, so that it is asked without a least one: it never abstains,
which can only help it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rftfm_ray.diagnosis.model import DiagnosisModel
from rftfm_ray.errors import DiagnosisModelError
from rftfm_ray.faultbench.naming.named import Ranker, Ranking, ranker_of
from rftfm_ray.faultbench.teaching.windows import Example
from rftfm_ray.taxonomy import UNKNOWN

Floats = NDArray[np.float64]
Vector = Callable[[Any], Floats]
FINGERPRINTS, CONFIGURATION = "fingerprints", "configuration"


def baselines(model: DiagnosisModel, examples: Sequence[Example]) -> Iterator[tuple[str, Ranker]]:
    """The name of each baseline, and how it ranks faults.

    Args:
        model: whose numbers of a window they are given.
        examples: that they learn from; those of two faults are left out, because they say one name.

    Raises:
        DiagnosisModelError: when scikit-learn is missing.
    """
    single = [example for example in examples if len(example.codes) < 2]
    numbers = np.array([model.vector(example.features) for example in single])
    labels = [label_of(example) for example in single]
    for name, make in _classifiers().items():
        yield name, _ranker(make().fit(numbers, labels), model)
    yield FINGERPRINTS, ranker_of(None)
    yield CONFIGURATION, by_configuration(single)


def label_of(example: Example) -> str:
    """The fault of a window with one, or UNKNOWN."""
    return next(iter(example.codes), UNKNOWN)


def _classifiers() -> Mapping[str, Callable[[], Any]]:
    try:
        from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
        from sklearn.linear_model import SGDClassifier
        from sklearn.neighbors import KNeighborsClassifier
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
        from sklearn.tree import DecisionTreeClassifier
    except ImportError:
        raise DiagnosisModelError(
            "Baselines need scikit-learn; install it with `pip install 'rftfm_ray[bench]'`."
        ) from None
    return {
        "nearest_neighbour": lambda: make_pipeline(StandardScaler(), KNeighborsClassifier(1)),
        # The hinge loss makes it a support vector machine; descent is its solver.
        "linear_svm": lambda: make_pipeline(StandardScaler(), SGDClassifier(loss="hinge", tol=1e-2, random_state=0)),
        "decision_tree": lambda: DecisionTreeClassifier(min_samples_leaf=5, random_state=0),
        # Normal classes with one covariance: the likelihood ratio is linear. Shrunk, as numbers are many.
        "likelihood_ratio": lambda: make_pipeline(
            StandardScaler(), LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
        ),
    }


def _ranker(fitted: Any, model: DiagnosisModel) -> Ranker:
    """Ranks by the probabilities of a classifier, or by the exponential of its decisions where it has none."""
    classes = [str(name) for name in fitted.classes_]

    def shares(numbers: Floats) -> Floats:
        if hasattr(fitted, "predict_proba"):
            return np.asarray(fitted.predict_proba(numbers[None])[0], np.float64)
        decisions = np.atleast_1d(np.asarray(fitted.decision_function(numbers[None])[0], np.float64))
        weights = np.exp(decisions - decisions.max())
        normalised: Floats = weights / weights.sum()
        return normalised

    return lambda _, diagnosed: ranked(dict(zip(classes, shares(model.vector(diagnosed.case.features)), strict=True)))


def ranked(shares: Mapping[str, float]) -> Ranking:
    """Codes by their shares, the likeliest first, ties in the order of the alphabet."""
    return sorted(((code, float(share)) for code, share in shares.items()), key=lambda pair: (-pair[1], pair[0]))


def by_configuration(examples: Sequence[Example]) -> Ranker:
    """Ranks by task, algorithm and size alone: what is most frequent there. Where it is much better than chance, the
    plan of the benchmark gives faults away."""
    counts = dict[tuple[str, str, str], Counter[str]]()
    every = Counter(code for example in examples for code in example.codes)
    for example in examples:
        of_kind = counts.setdefault((example.task, example.algorithm, example.size), Counter())
        of_kind.update(example.codes)

    def ranking(entry_key: tuple[str, str, str]) -> Ranking:
        of_kind = counts.get(entry_key) or every
        total = sum(of_kind.values()) or 1
        return ranked({code: count / total for code, count in of_kind.items()})

    return lambda run, _: ranking((run.entry.task, run.entry.algorithm, run.entry.size))
