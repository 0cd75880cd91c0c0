"""Teaching without a part, other ways to name faults, and runs with two: on windows that are made up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from rftfm_ray.diagnosis.findings import READ
from rftfm_ray.diagnosis.model import DiagnosisModel
from rftfm_ray.errors import DiagnosisModelError
from rftfm_ray.faultbench.detectors.references import ReferenceMode
from rftfm_ray.faultbench.naming.baselines import CONFIGURATION, baselines, by_configuration
from rftfm_ray.faultbench.naming.leaving import MECHANISM, MODE, Course, examples_without, leave_out, parts_of
from rftfm_ray.faultbench.naming.pairs import last_onset, pair_result
from rftfm_ray.faultbench.naming.score import NamingOptions, Source, evaluate
from rftfm_ray.faultbench.runs.plan import Kind, Split
from rftfm_ray.faultbench.teaching.evidence import EvidenceScope
from rftfm_ray.faultbench.teaching.following import Followed
from rftfm_ray.faultbench.teaching.learning import Lesson, Stated, isotonic, learn
from rftfm_ray.faultbench.teaching.windows import Windows
from rftfm_ray.verdicts import Evidence, Symptom
from tests.unit.faultbench.followed import alarm, alarmed, entry_of

SHOWN: dict[str, tuple[Symptom, ...]] = {
    "RF-1@16:hard,mechanism=wrong_answers": (alarm("golden", "golden_mismatch_rate", Evidence.CHANNEL),),
    "RF-2@16:hard,mechanism=zeroed": (alarm("regrade", "regrade_mismatch_rate", Evidence.CHANNEL),),
    # By a detector of a user's own: of the shipped identity it is written that this fault cannot break it.
    "RF-2@16:hard,mechanism=group_outage": (alarm("identity:mine", "weights_mismatch", Evidence.IDENTITY),),
    "TE-1@16:hard,mechanism=timeout": (alarm("tool", "known_call_error_rate", Evidence.CHANNEL),),
}
PAIR = ("RF-1@16:easy,mechanism=wrong_answers", "TE-1@20:easy,mechanism=timeout")


def runs(split: Split, seeds: Sequence[int]) -> list[Followed]:
    """A run of each mechanism for each seed, the last mechanism with another algorithm."""
    made = list[Followed]()
    for seed in seeds:
        made += [alarmed(entry_of(inject, seed=seed, split=split), *shown) for inject, shown in SHOWN.items()]
        made[-1] = replace(made[-1], entry=replace(made[-1].entry, algorithm="rloo"))
        made.append(replace(alarmed(entry_of("", seed=seed, split=split)), diagnosed=()))
    return made


def model_of(taught: Sequence[Followed]) -> DiagnosisModel:
    return learn(Lesson(list(Windows(taught, 1).all()), "a test", "nothing", 1), 20)


@pytest.fixture(scope="module")
def course() -> Course:
    taught = runs(Split.CALIBRATE, range(1, 5))
    judged = [run for run in runs(Split.TUNE, (11, 12)) if run.codes]
    return Course(taught, list(Windows(taught, 1).all()), judged, model_of(taught))


def test_part_that_is_left_out_teaches_nothing(course: Course) -> None:
    part = (MECHANISM, "RF-2 group_outage")
    assert part in parts_of(course)
    kept = examples_without(course, part)
    assert {example.mechanism for example in course.examples} - {example.mechanism for example in kept} == {part[1]}
    # A window of two faults may hold it, whatever its first fault is.
    assert any("RF-2" in example.codes for example in course.examples if len(example.codes) > 1)
    assert not any("RF-2" in example.codes for example in kept if len(example.codes) > 1)
    assert {example.algorithm for example in examples_without(course, ("algorithm", "rloo"))} == {"grpo"}
    # There is one size, so that nothing would remain without it.
    assert {kind for kind, _ in parts_of(course)} == {MECHANISM, "algorithm"}


@pytest.mark.parametrize("workers", [1, 2])
def test_left_out_runs_are_named_by_what_was_not_taught(course: Course, workers: int) -> None:
    parts = [(MECHANISM, "RF-2 group_outage"), ("algorithm", "rloo")]
    outage, rloo = leave_out(course, parts, workers)
    assert {run.entry.name for run in outage.runs} == {"RF-2-group_outage-11", "RF-2-group_outage-12"}
    assert [run.truth for run in rloo.runs] == ["TE-1", "TE-1"]
    # The model with everything names them; what is written of a broken identity does not.
    assert all(run.code != "RF-2" for run in outage.runs)


def test_baselines_learn_what_separates_faults_and_configuration_does_not(course: Course) -> None:
    names = {name: [ranker(run, run.diagnosed[0])[0][0] for run in course.judged]
             for name, ranker in baselines(course.model, course.examples)}  # fmt: skip
    truth = [run.codes[0] for run in course.judged]
    for name in ("nearest_neighbour", "linear_svm", "decision_tree", "likelihood_ratio"):
        assert names[name] == truth, name
    # The algorithm gives one of the faults away; of the others it says the most frequent.
    assert set(names[CONFIGURATION]) == {"RF-2", "TE-1"}
    assert sum(share for _, share in by_configuration(course.examples)(course.judged[0], course.judged[0].diagnosed[0])
               ) == pytest.approx(1)  # fmt: skip


def test_pair_is_judged_once_both_faults_are_on(course: Course) -> None:
    entry = replace(entry_of(), kind=Kind.TWO_FAULTS, inject=PAIR)
    assert last_onset(entry) == 20
    both = [
        each for inject in ("RF-1", "TE-1") for name, some in SHOWN.items() if name.startswith(inject) for each in some
    ]
    result = pair_result(alarmed(entry, *both), ReferenceMode.PROFILE, EvidenceScope.ALL, course.model)
    assert set(result.first) == {"RF-1", "TE-1"}
    assert result.are_first
    ended = replace(alarmed(entry, *both), diagnosed=alarmed(entry, *both).diagnosed[:2])
    assert not pair_result(ended, ReferenceMode.PROFILE, EvidenceScope.ALL, course.model).are_first


def test_evaluation_names_the_runs_of_its_split_in_every_scope(course: Course) -> None:
    followed = {MODE: [*course.taught, *runs(Split.TUNE, (11, 12))]}
    source, said = Source(Split.TUNE, 10, "", ""), list[str]()
    result = evaluate(followed, course.model, source, said.append, NamingOptions(Split.TUNE, 1))
    assert len(result.named) == len(course.judged) * len(EvidenceScope)
    assert {run.entry.split for run in result.named} == {Split.TUNE}
    by_all = [run for run in result.named if run.scope is EvidenceScope.ALL]
    assert all(run.is_right for run in by_all)
    # No alarm is of telemetry alone.
    assert {run.code for run in result.named if run.scope is EvidenceScope.TELEMETRY} == {"-"}
    assert {control.code for control in result.controls} == {""}
    assert set(result.unmeasured) == set(READ)
    assert {part.kind for part in result.left_out} == {MECHANISM, "algorithm"}
    assert all(len(runs) == len(course.judged) for runs in result.baselines.values())


def test_lesson_without_faults_teaches_nothing(course: Course) -> None:
    healthy = [example for example in course.examples if not example.codes]
    with pytest.raises(DiagnosisModelError, match="nothing to learn"):
        learn(Lesson(healthy, "", "", 1))


def test_calibration_is_the_share_of_right_names_and_rises() -> None:
    rng = np.random.default_rng(0)
    stated = [Stated(float(p), bool(rng.random() < p * p), "exact") for p in rng.random(2000)]
    points = isotonic(stated)
    shares = [share for _, share in points]
    assert shares == sorted(shares)
    assert all(abs(share - p * p) < 0.1 for p, share in points[1:-1])
