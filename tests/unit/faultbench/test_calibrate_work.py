"""The work of calibrating strengths: its order, its workers, what is not made again, the table that it leads to."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections import Counter
from pathlib import Path
from typing import cast

import pytest

from benchmarks import calibrate_faults
from benchmarks.calibrate_faults import (
    HARMS,
    INSTANT,
    Stage,
    configure,
    generate,
    missing_of,
    read,
    stages,
    table_rows,
    with_loss,
)  # fmt: skip
from rftfm_ray.faultbench.runs.calibrate import Bench, CalibrationCase
from rftfm_ray.faultbench.runs.levels import (
    SeedPlan,
    calibrate,
    calibrate_harm,
)  # fmt: skip
from rftfm_ray.faultbench.runs.runner import ExperimentRunner
from rftfm_ray.faults.calibration import Calibration, Finding, table
from rftfm_ray.faults.kinds import CATALOGUE
from tests.unit.faultbench.responses import CASE, Response, losing


def test_work_is_ordered_clean_before_dirty_and_shifts_before_harm() -> None:
    work = stages()
    assert [s.name for s in work] == [
        "instant", "learned", "harm", "dirty-instant", "dirty-learned", "dirty-harm", "more", "dirty-more"
    ]  # fmt: skip
    every = {(kind.code, m.name) for kind in CATALOGUE.values() for m in kind.mechanisms}
    instant, learned, harm = ({*stage.cases} for stage in work[:3])
    assert harm == instant | learned
    assert not instant & learned
    assert {(case.code, case.mechanism) for case in harm} == every
    with_background, dirty_harm = ({dataclasses.replace(c, dirty=False) for c in s.cases} for s in (work[3], work[5]))
    assert with_background == instant
    assert dirty_harm <= harm
    assert all(case.dirty is stage.name.startswith("dirty") for stage in work for case in stage.cases)
    # Healthy runs are made once for each combination, and once more where one case a mechanism comes first.
    for stage in work:
        combinations = [key for key, _ in itertools.groupby((c.algorithm, c.task) for c in stage.cases)]
        assert len(combinations) <= len(set(combinations)) * (2 if stage.once else 1)


@pytest.mark.parametrize("name", ["instant", "dirty-instant"])
def test_every_mechanism_comes_first_in_some_combination(name: str) -> None:
    known = {stage.name: stage for stage in stages()}
    stage, rest = known[name], known[name.replace("instant", "more")]
    mechanisms = {(case.code, case.mechanism) for case in stage.cases}
    first = stage.cases[: len(mechanisms)]
    assert {(case.code, case.mechanism) for case in first} == mechanisms
    shares = Counter(case.task for case in first)
    assert min(shares.values()) > 0.35 * len(first), "both tasks have their part"
    assert set(stage.cases) == set(rest.cases)
    assert len(stage.cases) == len(rest.cases)


def test_configuration_of_a_case_has_its_background() -> None:
    clean, dirty = (configure(dataclasses.replace(CASE, dirty=is_dirty), 7) for is_dirty in (False, True))
    assert (clean.background.preset, dirty.background.preset, dirty.seed) == (None, "dirty", 7)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of data of its own."""
    monkeypatch.setattr(calibrate_faults, "DATA", tmp_path)
    return tmp_path


def counted(made: list[CalibrationCase]) -> Stage:
    """A stage whose cases are only counted."""
    cases = tuple(dataclasses.replace(CASE, mechanism=m.name) for m in CATALOGUE["RF-1"].mechanisms)

    def make(bench: Bench, case: CalibrationCase, plan: SeedPlan) -> list[Calibration]:
        made.append(case)
        return [dataclasses.replace(calibrate_harm(Response(losing(0.1)), CASE, HARMS), mechanism=case.mechanism)]

    return Stage("harm", cases, HARMS, make)


def test_workers_share_the_cases_and_what_is_done_is_not_made_again(folder: Path) -> None:
    made: list[CalibrationCase] = []
    stage, runner = counted(made), object.__new__(ExperimentRunner)
    parts = [missing_of(stage, worker, 2) for worker in (1, 2)]
    assert sorted(case.mechanism for part in parts for case in part) == sorted(case.mechanism for case in stage.cases)
    for worker in (1, 2, 1):
        generate(runner, stage, (worker, 2), math.inf)
    assert made == [*parts[0], *parts[1]]
    assert set(read(["harm"])) == set(stage.cases)
    # Another number of workers makes nothing again either.
    generate(runner, stage, (1, 1), math.inf)
    assert len(made) == len(stage.cases)
    assert {path.name for path in folder.iterdir()} == {"harm-1.jsonl", "harm-2.jsonl"}


def test_one_confirmed_case_of_a_mechanism_is_enough_where_the_stage_says_so(folder: Path) -> None:
    """The first mechanism is confirmed on its first task, the second one nowhere."""
    first, second = (m.name for m in CATALOGUE["RF-1"].mechanisms[:2])
    cases = [
        dataclasses.replace(CASE, task=t, mechanism=m) for t in ("addition", "calculator") for m in (first, second)
    ]
    made: list[CalibrationCase] = []

    def make(bench: Bench, case: CalibrationCase, plan: SeedPlan) -> list[Calibration]:
        made.append(case)
        row = calibrate_harm(Response(losing(0.1)), CASE, HARMS)
        return [dataclasses.replace(row, task=case.task, mechanism=case.mechanism, confirmed=case.mechanism == first)]

    stage, runner = Stage("harm", tuple(cases), HARMS, make, once=True), object.__new__(ExperimentRunner)
    # Parts go by names: "outliers" stands before "wrong_answers".
    assert missing_of(stage, 1, 2) == [cases[1], cases[3]], "a worker makes all cases of a mechanism"
    for worker in (1, 2):
        generate(runner, stage, (worker, 2), math.inf)
    assert made == [cases[1], cases[3], cases[0]]
    assert not missing_of(stage, 1, 1)


def test_a_case_without_a_background_stands_for_none_with_one(folder: Path) -> None:
    rows = calibrate(Response(lambda s: 50 * s), CASE, INSTANT)
    (folder / "instant-1.jsonl").write_text(json.dumps([row.to_json() for row in rows]) + "\n")
    known = {stage.name: stage for stage in stages()}
    for name, count in (("instant", 0), ("dirty-instant", 2), ("more", 1), ("dirty-more", 2)):
        left = [c for c in missing_of(known[name], 1, 1) if (c.code, c.mechanism) == (CASE.code, CASE.mechanism)]
        assert len(left) == count, name


def test_background_is_added_only_where_a_level_was_found_without_or_may_be(folder: Path) -> None:
    """Harm by two mechanisms on two tasks: found, found nowhere, and not searched."""
    first, second = (m.name for m in CATALOGUE["RF-1"].mechanisms[:2])
    found = calibrate_harm(Response(losing(0.1)), CASE, HARMS)
    none = calibrate_harm(Response(lambda s: 0.0), CASE, HARMS)
    assert (found.confirmed, none.finding) == (True, Finding.NO_HARM)
    rows = [
        dataclasses.replace(row, task=task, mechanism=mechanism)
        for row, task, mechanism in (
            (none, "addition", first),
            (found, "calculator", first),
            (none, "addition", second),
        )
    ]
    (folder / "harm-1.jsonl").write_text("".join(json.dumps([row.to_json()]) + "\n" for row in rows))
    (stage,) = (stage for stage in stages() if stage.name == "dirty-harm")
    left = [(c.task, c.mechanism) for c in stage.cases if c.code == "RF-1" and c.algorithm == "grpo"]
    assert left[0] == ("calculator", first), "what was found comes first"
    assert ("addition", first) not in left
    assert ("addition", second) not in left
    assert ("calculator", second) in left, "it may have a level there"


def test_time_that_is_over_begins_no_case(folder: Path) -> None:
    made: list[CalibrationCase] = []
    generate(object.__new__(ExperimentRunner), counted(made), (1, 1), 0.0)
    assert made == []


def test_later_rows_of_a_case_replace_earlier_ones_and_losses_are_added(folder: Path) -> None:
    first, second = (dataclasses.replace(row, strength=s) for row, s in zip(table()[:1] * 2, (1.0, 2.0), strict=True))
    bare = [dataclasses.replace(r, accuracy_loss=None, loss_seeds=0, harmful=None) for r in (first, second)]
    for name, row in (("instant-1", bare[0]), ("again-1", bare[1]), ("loss-1", with_loss(bare[1], [0.2, 0.1]))):
        (folder / f"{name}.jsonl").write_text(json.dumps([row.to_json()]) + "\n")
    (row,) = [Calibration.from_json(one) for one in table_rows()]
    assert (row.strength, row.accuracy_loss, row.loss_seeds, row.harmful) == (2.0, 0.15, 2, True)


def test_shipped_table_is_made_of_the_stored_rows() -> None:
    rows = [Calibration.from_json(row) for row in table_rows()]
    assert {repr(row) for row in table()} <= {repr(row) for row in rows}


def test_search_with_a_background_begins_where_the_one_without_ended(folder: Path) -> None:
    clean = dataclasses.replace(CASE, dirty=False)
    rows = calibrate(Response(lambda s: 50 * s), clean, INSTANT)
    (folder / "instant-1.jsonl").write_text(json.dumps([row.to_json() for row in rows]) + "\n")
    made = {}
    for name, case in (("instant", clean), ("dirty-instant", dataclasses.replace(CASE, dirty=True))):
        (stage,) = (s for s in stages() if s.name == name)
        bench = Response(lambda s: 40 * s)
        levels = stage.make(cast("Bench", bench), case, stage.plan)
        assert all(row.confirmed for row in levels)
        made[name] = bench.asked[0][0]
    assert made == {"instant": clean.kind.strength.default, "dirty-instant": rows[0].strength}
