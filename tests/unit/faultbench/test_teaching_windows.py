"""Windows that a model of diagnoses is taught on: an effect is moved to other healthy runs, and nothing else is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from rftfm_ray.detection.reference.residuals import COLUMNS
from rftfm_ray.diagnosis.features import FARTHEST, FIGURES, UNMEASURED, Features, Floats, Window
from rftfm_ray.diagnosis.findings import COLUMN_OF, READ
from rftfm_ray.diagnosis.weighing import Case
from rftfm_ray.faultbench.runs.plan import Entry, Kind, Split
from rftfm_ray.faultbench.teaching import windows as module
from rftfm_ray.faultbench.teaching.evidence import EvidenceScope, less_of
from rftfm_ray.faultbench.teaching.following import Diagnosed, Followed, first_diagnosed
from rftfm_ray.faultbench.teaching.windows import (
    ALARMED,
    OF_HEALTHY,
    OF_TWO,
    SIZES,
    TRANSPLANTED,
    Example,
    Windows,
    alarmed,
)
from rftfm_ray.signals.groups import TELEMETRY

STEPS, SWITCH = 40, 15
EFFECT = 4.0
HEALTHY = Entry("healthy", Kind.HEALTHY, Split.CALIBRATE, 1, "addition", "grpo", "tiny", STEPS)


def entry(code: str = "", seed: int = 1) -> Entry:
    """A healthy run, or one with a fault."""
    if not code:
        return replace(HEALTHY, name=f"healthy-{seed}", seed=seed)
    inject = (f"{code}@{SWITCH}:mechanism=gain",)
    return replace(
        HEALTHY, name=f"{code}-{seed}", seed=seed, kind=Kind.FAULT, inject=inject, level="easy", onset=SWITCH
    )


def course(seed: int) -> Floats:
    """Residuals of a healthy run."""
    return np.random.default_rng(seed).normal(size=(STEPS, len(COLUMNS)))


def run(
    code: str = "", seed: int = 1, column: int = 0, diagnosed: Sequence[int] = (), effect: float = EFFECT, **read: float
) -> Followed:
    """A run whose fault adds its effect to one signal, and that has these alarms and values."""
    residuals, values = course(seed), np.full((STEPS, len(READ)), np.nan)
    if code:
        residuals[SWITCH - 1 :, column] += effect
    for name, value in read.items():
        values[SWITCH - 1 :, COLUMN_OF[name]] = value
    begun = SWITCH if code else 0
    case = Case((), (), (), Features((), Window(residuals[:1], UNMEASURED, profiled=True)))
    return Followed(
        entry(code, seed), begun, begun, residuals, np.ones(STEPS, bool), values, ((),) * STEPS,
        tuple(Diagnosed(step, step, case) for step in diagnosed),
    )  # fmt: skip


HOSTS = [run(seed=seed) for seed in range(1, 9)]


def examples(*runs: Followed, seed: int = 1) -> list[Example]:
    """All windows of these runs beside healthy ones."""
    return list(Windows([*HOSTS, *runs], seed).all())


def of_fault(found: Sequence[Example], *codes: str) -> list[Example]:
    """Those of some faults."""
    return [each for each in found if each.codes == codes]


def newest(example: Example, column: int = 0) -> float:
    """The newest residual of a signal."""
    assert example.features.window is not None
    return float(example.features.window.residuals[-1, column])


def same(left: Sequence[Example], right: Sequence[Example]) -> bool:
    """Equal to the last number."""
    return len(left) == len(right) and all(
        one == other and one.features.window is not None and other.features.window is not None
        and np.array_equal(one.features.window.residuals, other.features.window.residuals, equal_nan=True)
        and np.array_equal(one.features.window.figures, other.features.window.figures)
        for one, other in zip(left, right, strict=True)
    )  # fmt: skip


def test_seed_decides_every_window() -> None:
    faulty = run("OD-1")
    assert same(examples(faulty), examples(faulty))
    assert same(examples(faulty), list(Windows([faulty, *reversed(HOSTS)], 1).all())), (
        "the order of runs does not count"
    )
    assert not same(examples(faulty), examples(faulty, seed=2))


def test_effect_is_added_to_the_courses_of_healthy_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    for size in (0.5, 1.0):
        monkeypatch.setattr(module, "SIZES", (size, size))
        monkeypatch.setattr(module, "TRANSPLANTED", 400)
        moved = of_fault(examples(run("OD-1")), "OD-1")
        assert len(moved) == 400
        # The last step may lie before the switch: an estimated onset misses the true one.
        values = np.array([newest(each) for each in moved])
        others = np.array([newest(each, 1) for each in moved])
        assert values.mean() == pytest.approx(size * EFFECT, abs=0.25)
        assert others.mean() == pytest.approx(0.0, abs=0.25)
        assert others.std() == pytest.approx(1.0, abs=0.15), "it is the course of a run, and not 0"


def test_course_is_not_always_that_of_the_own_seed() -> None:
    others = {round(newest(each, 1), 6) for each in of_fault(examples(run("OD-1")), "OD-1")}
    own = {round(float(value), 6) for value in course(1)[:, 1]}
    assert len(others - own) > TRANSPLANTED / 2


def test_unknown_residuals_add_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SIZES", (1.0, 1.0))
    faulty = run("OD-1")
    faulty.residuals[:, 2] = np.nan
    for host in (unknown := [run(seed=seed) for seed in range(1, 9)]):
        host.residuals[:, 1] = np.nan
    for example in of_fault(list(Windows([*unknown, faulty], 1).all()), "OD-1"):
        assert example.features.window is not None
        residuals = example.features.window.residuals
        assert np.isfinite(residuals).all()
        assert not residuals[:, 1].any(), "neither effect nor host is known"
        assert residuals[:, 2].any(), "the host is known"


def test_effect_beyond_what_counts_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SIZES", (1.0, 1.0))
    values = [newest(each) for each in of_fault(examples(run("OD-1", effect=1e6)), "OD-1")]
    assert max(values) < 2 * FARTHEST + 8


def test_run_without_a_healthy_one_of_its_seed_stays_as_it_is() -> None:
    faulty = run("OD-1", seed=99)
    rows = {tuple(row) for row in faulty.residuals.tolist()}
    for example in of_fault(examples(faulty), "OD-1"):
        assert example.features.window is not None
        assert {tuple(row) for row in example.features.window.residuals.tolist()} <= rows


def test_effects_of_two_runs_of_one_kind_are_put_together() -> None:
    first = run("OD-1", 1, 0, lr_excess=1.0, changed_rate=0.0)
    second = run("OD-3", 1, 1, changed_rate=1.0)
    other = run("CA-2", 2, 2)
    found = examples(first, second, replace(other, entry=replace(other.entry, algorithm="ppo")))
    both = [each for each in found if len(each.codes) == 2]
    assert {each.codes for each in both} == {("OD-1", "OD-3"), ("OD-3", "OD-1")}
    assert len(both) == 2 * OF_TWO
    whole = [each for each in both if each.features.window is not None and each.features.window.figures.any()]
    for column in (0, 1):
        assert np.mean([newest(each, column) for each in both]) > min(SIZES) * EFFECT / 2
    frozen = [each.features.window.figures[FIGURES.index("changed_rate")] for each in whole if each.features.window]
    assert 0.0 in frozen, "the figure that a fault has moved from healthy counts, and not the larger one"


def test_runs_without_a_fault_teach_that_there_is_none() -> None:
    control = replace(run(seed=3), entry=replace(entry(seed=3), name="a", kind=Kind.CONTROL, inject=("lr_step@12",)))
    found = examples(control)
    assert len(found) == (len(HOSTS) + 1) * OF_HEALTHY
    assert {(each.codes, each.mechanism, each.level, each.case) for each in found} == {((), "", "", None)}
    for each in found:
        assert each.features.window is not None
        assert 1 <= len(each.features.window.residuals) <= module.LONGEST


def test_fault_without_an_effect_in_time_is_not_taught() -> None:
    assert not of_fault(examples(replace(run("OD-1"), effect=0)), "OD-1")


def test_example_says_what_it_is_of() -> None:
    example = of_fault(examples(run("OD-1")), "OD-1")[0]
    assert (example.run, example.seed, example.mechanism, example.level) == ("OD-1-1", 1, "OD-1 gain", "easy")
    assert (example.after, example.case) == (-1, None)


def test_less_is_measured_elsewhere() -> None:
    figures = np.arange(1.0, len(FIGURES) + 1).astype(np.float64)
    names = ("alarm law:loss above", "notice floor:rollout above", "alarm weights_mismatch above", "golden_agrees")
    features = Features(names, Window(course(1)[:3], figures, profiled=True))
    telemetry, lawful = less_of(features, EvidenceScope.TELEMETRY), less_of(features, EvidenceScope.LAWS)
    assert telemetry.present == ()
    assert lawful.present == names[:2]
    for less in (telemetry, lawful):
        assert less.window is not None
        np.testing.assert_array_equal(less.window.residuals, course(1)[:3])
        is_logged = np.array([name in TELEMETRY for name in FIGURES])
        np.testing.assert_array_equal(less.window.figures, np.where(is_logged, figures, UNMEASURED))
        assert {True, False} == set(is_logged.tolist())
    assert less_of(Features(names), EvidenceScope.TELEMETRY) == Features(names)


def test_diagnoses_are_taught_some_steps_after_the_alarm() -> None:
    found = list(alarmed(run("OD-1", diagnosed=range(16, 41))))
    assert [each.after for each in found] == list(ALARMED)
    assert {each.codes for each in found} == {("OD-1",)}
    assert all(each.case is not None for each in found)


def test_false_alarm_is_of_no_fault_and_one_that_is_open_at_the_switch_is_left_out() -> None:
    both = list(alarmed(run("OD-1", diagnosed=[5, 6, 20])))
    assert [(each.after, each.codes) for each in both] == [(0, ()), (1, ()), (0, ("OD-1",))]
    opened = list(alarmed(run("OD-1", diagnosed=range(13, 20))))
    assert [(each.after, each.codes) for each in opened] == [(0, ()), (1, ())], "steps 13 and 14 are before the switch"
    assert [each.codes for each in alarmed(run(diagnosed=[20]))] == [()]
    forked = run("OD-1", diagnosed=[5, 20])
    forked = replace(forked, entry=replace(forked.entry, fork=10))
    assert [each.codes for each in alarmed(forked)] == [("OD-1",)], "what it shares with its healthy run is not its own"


def test_first_diagnoses_of_a_fault_are_those_after_its_switch() -> None:
    assert [each.step for each in first_diagnosed(run("OD-1", diagnosed=[5, 20, 21]))] == [20, 21]
    assert not first_diagnosed(run("OD-1", diagnosed=[14, 15, 16]))
    assert not first_diagnosed(run("OD-1"))
