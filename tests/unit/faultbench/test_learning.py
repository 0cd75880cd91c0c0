"""How a model of diagnoses is learnt: what separates faults, and how often a stated name is right."""

from __future__ import annotations

import builtins
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from rftfm_ray.diagnosis.features import Features
from rftfm_ray.diagnosis.model import CODES, EXACT, OWN_PAST, PROFILE, TELEMETRY, DiagnosisModel
from rftfm_ray.diagnosis.weighing import Case
from rftfm_ray.errors import DiagnosisModelError
from rftfm_ray.faultbench.teaching import learning as module
from rftfm_ray.faultbench.teaching.learning import (
    FOLDS,
    LEAST_IN_BIN,
    LEAST_SEEN,
    NOTHING_KNOWN,
    Lesson,
    Stated,
    calibrate,
    folds_of,
    isotonic,
    learn,
    names_seen,
    stated_by,
)
from rftfm_ray.faultbench.teaching.windows import Example
from rftfm_ray.verdicts import Evidence
from tests.unit.diagnosis.models import model_of, stump, window_of
from tests.unit.diagnosis.scripted import alarm

SEPARATES = {"RF-1": "golden_disagrees_on_half", "OD-1": "rate_not_declared", "": "golden_agrees"}


def example(code: str, *present: str, seed: int = 1, residual: float = 0.0, profiled: bool = True) -> Example:
    """A diagnosis of one run."""
    features = Features(present, window_of(residual, profiled=profiled))
    case = Case((alarm("staleness", evidence=Evidence.IDENTITY),), (), (), features)
    codes = (code,) if code else ()
    return Example(f"run-{seed}", seed, "addition", "grpo", "tiny", "", codes, "easy", 0, features, case)


def lesson(examples: Sequence[Example]) -> Lesson:
    """What is taught by some windows."""
    return Lesson(examples, "a command", "a hash", 1)


def separable(profiled: bool = True) -> list[Example]:
    """Windows in which each fault has a finding of its own."""
    return [example(code, name, seed=seed, profiled=profiled) for seed in range(20) for code, name in SEPARATES.items()]


def shares(model: DiagnosisModel, asked: Example) -> Mapping[str, float]:
    """Shares of the faults."""
    return dict(zip(CODES, model.shares(asked.features).tolist(), strict=True))


def test_finding_that_separates_faults_is_learnt() -> None:
    model = learn(lesson(separable()), trees=20)
    for code, name in SEPARATES.items():
        told = shares(model, example(code, name))
        assert all((share > 0.9) if fault == code else (share < 0.1) for fault, share in told.items()), (code, told)
    assert model.info.present == tuple(sorted(SEPARATES.values()))
    assert (model.info.examples, model.info.taught_on) == (60, "a hash")


def test_residual_that_separates_faults_is_learnt_for_each_kind_of_reference() -> None:
    rng = random.Random(1)
    found = [
        # Against a profile the fault raises the signal, and against a run's own past it lowers it.
        example(code, seed=seed, residual=rng.gauss((3 if profiled else -3) * bool(code), 1), profiled=profiled)
        for seed in range(60) for code in ("OD-1", "") for profiled in (True, False)
    ]  # fmt: skip
    model = learn(lesson(found), trees=20)
    for profiled in (True, False):
        high, low = (shares(model, example("", residual=size, profiled=profiled))["OD-1"] for size in (4.0, -4.0))
        assert (high > 0.8 > 0.3 > low) if profiled else (low > 0.8 > 0.3 > high)


def test_trees_of_the_other_kind_stand_in_where_there_are_no_examples() -> None:
    model = learn(lesson(separable(profiled=False)), trees=3)
    assert set(model.forests) == {PROFILE, OWN_PAST}
    assert shares(model, example("RF-1", SEPARATES["RF-1"], profiled=True))["RF-1"] > 0.9


def test_equal_lessons_teach_equal_models() -> None:
    one, other = (learn(lesson(separable()), trees=3) for _ in range(2))
    for against, forest in one.forests.items():
        for name, array in forest.arrays().items():
            assert array.tobytes() == other.forests[against].arrays()[name].tobytes()


def test_name_counts_from_a_few_examples_on() -> None:
    found = [example("RF-1", "often")] * LEAST_SEEN + [example("RF-1", "rarely")] * (LEAST_SEEN - 1)
    assert names_seen(found) == ("often",)


@pytest.mark.parametrize("found", [[], [example("", "golden_agrees")]])
def test_without_a_fault_there_is_nothing_to_learn(found: list[Example]) -> None:
    with pytest.raises(DiagnosisModelError, match="nothing to learn"):
        learn(lesson(found))


def test_missing_scikit_learn_is_said_with_its_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    imported = builtins.__import__

    def without(name: str, *args: object, **kwargs: object) -> object:
        if name.startswith("sklearn"):
            raise ImportError(name)
        return imported(name, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(
        DiagnosisModelError, match=r"needs scikit-learn; install it with `pip install 'rftfm_ray\[bench\]'`"
    ):
        learn(lesson(separable()), trees=1)


def test_calibration_is_the_share_of_right_names_and_rises() -> None:
    rng = random.Random(1)
    # A model that is too sure: of those it is sure of by p, only p * p are right.
    stated = [Stated(p, rng.random() < p * p, EXACT) for p in (rng.random() for _ in range(6000))]
    points = isotonic(stated)
    for values in zip(*points, strict=True):
        assert list(values) == sorted(values)
    assert (points[0][0], points[-1][0]) == (0.0, 1.0)
    model = model_of(stump({}), calibration=points)
    for probability in (0.3, 0.6, 0.9):
        assert model.calibrated(probability, EXACT) == pytest.approx(probability**2, abs=0.06)


def test_neighbours_that_fall_are_merged() -> None:
    many = 4 * LEAST_IN_BIN
    falling = [Stated(n / many, n < many / 2, EXACT) for n in range(many)]
    points = isotonic(falling)
    shares_of_right = [right for _, right in points]
    assert shares_of_right == sorted(shares_of_right)
    assert max(shares_of_right) == pytest.approx(0.5, abs=0.03)


def test_too_few_diagnoses_teach_no_calibration() -> None:
    few = [Stated(0.5, True, EXACT)] * (LEAST_IN_BIN - 1)
    assert isotonic(few) == NOTHING_KNOWN
    assert isotonic([*few, few[0]]) != NOTHING_KNOWN
    assert max(right for _, right in isotonic([few[0]] * 200)) < 1, "nothing is always right"


def test_folds_are_by_seed() -> None:
    found = [example("RF-1", seed=seed) for seed in (*range(12), *range(12))]
    folds = folds_of(found)
    assert len(folds) == FOLDS
    assert sorted(seed for fold in folds for seed in fold) == list(range(12))
    assert len(folds_of(found[:2])) == 2


def test_no_run_is_judged_by_a_model_that_it_has_taught(monkeypatch: pytest.MonkeyPatch) -> None:
    taught, judged = list[set[int]](), list[int]()

    def learnt(given: Lesson, *_: object) -> DiagnosisModel:
        taught.append({each.seed for each in given.examples})
        return model_of(stump({"RF-1": 1.0}))

    def stated(_: DiagnosisModel, asked: Example) -> Stated:
        assert asked.seed not in taught[-1]
        judged.append(asked.seed)
        return Stated(0.9, "RF-1" in asked.codes, EXACT)

    monkeypatch.setattr(module, "learn", learnt)
    monkeypatch.setattr(module, "stated_by", stated)
    calibration = calibrate(lesson(separable()))
    assert sorted(judged) == sorted(each.seed for each in separable())
    assert calibration[TELEMETRY] == NOTHING_KNOWN
    assert calibration[EXACT][-1][1] == pytest.approx(1 / 3, abs=0.05), "a third of the names are right"


def test_what_is_stated_is_the_leading_name() -> None:
    model = model_of(stump({"RF-1": 0.9}))
    right, wrong = stated_by(model, example("RF-1")), stated_by(model, example("OD-1"))
    assert right is not None
    assert wrong is not None
    assert (right.is_right, wrong.is_right, right.evidence) == (True, False, EXACT)
    assert 0.5 < right.probability == wrong.probability < 1
    assert stated_by(model_of(stump({})), example("RF-1")) is None, "nothing is named"
    assert stated_by(model, replace(example("RF-1"), case=None)) is None, "it is no diagnosis"
