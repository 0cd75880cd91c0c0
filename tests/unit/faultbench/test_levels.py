"""Levels of strengths, searched on synthetic responses: easy and hard by shifts, harm by losses. No Ray."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import calibrate_faults
from benchmarks.calibrate_faults import (
    HARMS,
    INSTANT,
    LEARNED,
    Stage,
    configure,
    generate,
    missing_of,
    read,
    seed_plan,
    stages,
    table_rows,
    with_loss,
)  # fmt: skip
from rftfm_ray.faultbench.runs.calibrate import Bench, CalibrationCase
from rftfm_ray.faultbench.runs.levels import (
    CLOSE,
    HARM_AIM,
    HARM_LOSS,
    HARM_TRIES,
    LUCK,
    SeedPlan,
    calibrate,
    calibrate_harm,
    harmful_strengths,
    is_decided,
)  # fmt: skip
from rftfm_ray.faultbench.runs.runner import ExperimentRunner
from rftfm_ray.faults.calibration import HARM, Calibration, Finding, table
from rftfm_ray.faults.kinds import CATALOGUE, Strength

CASE = CalibrationCase("addition", "grpo", "RF-1", "marked_right")
FACTOR = Strength("factor", 1.0, 100.0, 30.0, neutral=1.0)
WIDE = Strength("amount", 0.01, 1000.0, 2.0)


class Response:
    """Stands in for a bench: what each strength does, and luck that each seed has."""

    def __init__(self, response: Callable[[float], float], luck: float = 0.0) -> None:
        self._response = response
        self._luck = luck
        self.asked: list[tuple[float, int]] = []

    def shifts(self, case: CalibrationCase, strength: float, seeds: Sequence[int]) -> list[float]:
        """The response and luck, of each seed."""
        self.asked += [(strength, seed) for seed in seeds]
        return [self._response(strength) + self._luck * random.Random(seed).gauss(0, 1) for seed in seeds]

    def loss(self, case: CalibrationCase, strength: float, seeds: Sequence[int], steps: int) -> list[float]:
        """The same."""
        assert steps == 40
        return self.shifts(case, strength, seeds)


@settings(deadline=None, max_examples=60)
@given(st.floats(2, 60), st.floats(0.4, 1.5))
def test_levels_of_a_response_that_reaches_them_are_found_and_confirmed(scale: float, power: float) -> None:
    rows = calibrate(Response(lambda s: scale * s**power, 0.05), CASE, INSTANT)
    assert [row.level for row in rows] == ["easy", "hard"]
    easy, hard = rows
    if scale > 5 and scale * 0.001**power < 1.5:
        assert easy.confirmed
        assert hard.confirmed
        assert easy.strength > hard.strength
        assert {row.finding for row in rows} == {Finding.REACHED}
    assert all((row.seeds >= 10, row.seeds_fresh) == (True, 10) for row in rows)


@pytest.mark.parametrize(
    ("most", "dirty", "easy", "hard"),
    [
        (3.0, False, Finding.NEVER, Finding.REACHED),
        (3.0, True, Finding.NEVER, Finding.REACHED),
        (0.6, False, Finding.NEVER, Finding.NEVER),
        (0.6, True, Finding.BELOW, Finding.BELOW),
        (9.0, True, Finding.REACHED, Finding.REACHED),
    ],
)
def test_level_out_of_reach_is_a_result(most: float, dirty: bool, easy: Finding, hard: Finding) -> None:
    rows = calibrate(Response(lambda s: most * s), dataclasses.replace(CASE, dirty=dirty), INSTANT)
    assert [row.finding for row in rows] == [easy, hard]
    assert [row.confirmed for row in rows] == [not finding for finding in (easy, hard)]
    assert {row.dirty for row in rows} == {dirty}
    assert rows[0].strength == 1.0 or not easy


def test_seeds_that_misled_a_search_are_outvoted_and_no_run_is_made_twice() -> None:
    class Misleading(Response):
        """The seeds that search see half as much more."""

        def shifts(self, case: CalibrationCase, strength: float, seeds: Sequence[int]) -> list[float]:
            shifts = super().shifts(case, strength, seeds)
            return [d * 1.5 if seed in INSTANT.searched else d for d, seed in zip(shifts, seeds, strict=True)]

    bench = Misleading(lambda s: 20 * s)
    rows = calibrate(bench, CASE, INSTANT)
    assert all(row.confirmed for row in rows)
    assert len(bench.asked) == len(set(bench.asked))


def test_runs_without_an_effect_are_left_out_and_counted() -> None:
    class Late(Response):
        """Half of the seeds never have an effect."""

        def shifts(self, case: CalibrationCase, strength: float, seeds: Sequence[int]) -> list[float]:
            shifts = super().shifts(case, strength, seeds)
            return [math.nan if seed % 2 else d for d, seed in zip(shifts, seeds, strict=True)]

    case = CalibrationCase("addition", "grpo", "RF-3", "accepted_ending")
    for row in calibrate(Late(lambda s: 8 * s), case, LEARNED):
        assert row.reached == 0.5
        assert row.confirmed


def losing(at: float, most: float = 0.5, slope: float = 3.0, neutral: float = 0.0) -> Callable[[float], float]:
    """A loss that is 0.17 at a strength and grows to `most`: a logistic curve in the logarithm."""
    offset = math.log(most / HARM_AIM - 1)

    def loss(strength: float) -> float:
        if strength <= neutral:
            return 0.0
        return most / (1 + math.exp(offset - slope * math.log((strength - neutral) / (at - neutral))))

    return loss


@pytest.mark.parametrize("bounds", [WIDE, FACTOR, Strength("share", 0.001, 1.0, 0.5), Strength("share", 0.01, 1, 1)])
@settings(deadline=None, max_examples=40)
@given(st.floats(0.01, 0.99))
def test_smallest_harmful_strength_is_found_from_above_within_few_tries(bounds: Strength, share: float) -> None:
    low, high = bounds.low - bounds.neutral or 0.5, bounds.high - bounds.neutral
    at = bounds.neutral + math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
    response, asked = losing(at, neutral=bounds.neutral), list[float]()

    def measure(strength: float) -> float:
        asked.append(strength)
        return response(strength)

    tried = harmful_strengths(measure, bounds)
    assert len(asked) <= HARM_TRIES
    assert all(bounds.low <= strength <= bounds.high for strength in asked)
    assert tried == sorted(tried)
    assert tried
    assert response(tried[0]) >= HARM_AIM
    # Every try halves the logarithm that is left.
    width = max(math.log(high / (bounds.default - bounds.neutral)), math.log((bounds.default - bounds.neutral) / 1e-6))
    left = (tried[0] - bounds.neutral) / (at - bounds.neutral)
    assert math.log(left) <= max(math.log(CLOSE), width / 2 ** (HARM_TRIES - 2)) + 0.02


@pytest.mark.parametrize(("start", "at", "most"), [(0.1, 0.1, 3), (0.1, 0.07, 4), (0.1, 0.15, 3), (0.1, 0.9, 6)])
def test_search_for_harm_near_a_known_one_takes_few_tries(start: float, at: float, most: int) -> None:
    asked: list[float] = []

    def measure(strength: float) -> float:
        asked.append(strength)
        return losing(at)(strength)

    tried = harmful_strengths(measure, Strength("share", 0.001, 1.0, 0.5), start)
    assert losing(at)(tried[0]) >= HARM_AIM
    assert tried[0] / at < CLOSE or at > 0.5
    assert len(asked) <= most
    assert asked[0] == start


def test_search_near_a_known_harm_asks_for_the_largest_strength_before_it_says_that_there_is_none() -> None:
    asked: list[float] = []

    def measure(strength: float) -> float:
        asked.append(strength)
        return 0.05

    assert harmful_strengths(measure, WIDE, 0.5) == []
    assert asked == [0.5, 0.8, 1000.0]


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


def test_search_for_harm_asks_for_the_largest_strength_before_it_says_that_there_is_none() -> None:
    asked: list[float] = []

    def measure(strength: float) -> float:
        asked.append(strength)
        return 0.05

    assert harmful_strengths(measure, WIDE) == []
    assert asked == [2.0, 1000.0]


@pytest.mark.parametrize(("most", "tried"), [(HARM_LOSS - 0.001, []), (HARM_LOSS, [1.0]), (HARM_AIM - 0.001, [1.0])])
@pytest.mark.parametrize("default", [0.5, 1.0])
def test_what_costs_enough_at_its_largest_strength_only_is_harmful_there(
    default: float, most: float, tried: list[float]
) -> None:
    def measure(strength: float) -> float:
        return most if strength == 1.0 else 0.0

    assert harmful_strengths(measure, Strength("share", 0.001, 1.0, default)) == tried


@given(st.lists(st.floats(-0.2, 0.8), min_size=2, max_size=6))
def test_few_seeds_decide_only_what_luck_does_not_explain(losses: list[float]) -> None:
    mean, count = sum(losses) / len(losses), len(losses)
    assert is_decided(losses) is (abs(mean - HARM_AIM) > 3 * LUCK / math.sqrt(count))


def test_harm_is_confirmed_on_seeds_that_had_no_part_in_the_search() -> None:
    bench = Response(losing(0.1, most=0.6), luck=0.02)
    row = calibrate_harm(bench, CASE, HARMS)
    assert (row.level, row.confirmed, row.finding, row.harmful) == (HARM, True, Finding.REACHED, True)
    assert (row.seeds, row.seeds_fresh, row.loss_seeds) == (6, 6, 6)
    assert 0.09 <= row.strength <= 0.15
    assert (row.accuracy_loss or 0) >= HARM_LOSS
    assert (row.loss_fresh or 0) >= HARM_LOSS
    assert len(bench.asked) == len(set(bench.asked))
    # Strengths that are far from the level are asked of two seeds alone.
    asked = {strength: sum(1 for s, _ in bench.asked if s == strength) for strength, _ in bench.asked}
    assert min(asked.values()) == 2
    assert asked[row.strength] == 12


def test_harm_that_fresh_seeds_do_not_confirm_is_measured_again_at_a_larger_strength() -> None:
    class Lucky(Response):
        """The seeds that search lose more than the others."""

        def shifts(self, case: CalibrationCase, strength: float, seeds: Sequence[int]) -> list[float]:
            losses = super().shifts(case, strength, seeds)
            return [d + (0.05 if seed in HARMS.calibrated else 0) for d, seed in zip(losses, seeds, strict=True)]

    row = calibrate_harm(Lucky(losing(0.1)), CASE, HARMS)
    assert (row.seeds, row.seeds_fresh, row.confirmed) == (12, 6, True)


def test_that_nothing_is_harmful_is_a_result_at_the_largest_strength() -> None:
    row = calibrate_harm(Response(lambda s: 0.03), dataclasses.replace(CASE, dirty=True), HARMS)
    assert (row.finding, row.confirmed, row.strength, row.dirty) == (Finding.NO_HARM, False, 1.0, True)
    assert (row.accuracy_loss, row.loss_fresh, row.seeds_fresh, row.harmful) == (0.03, None, 0, False)
    assert math.isnan(row.d_fresh)


def test_seeds_that_search_are_not_those_that_confirm() -> None:
    for plan in (INSTANT, LEARNED, HARMS, seed_plan(2, 4, 3, 1)):
        assert set(plan.searched) <= set(plan.calibrated)
        assert len(set(plan.all)) == len(plan.all) == len(plan.calibrated) + len(plan.fresh) + len(plan.fresher)
    assert (len(INSTANT.calibrated), len(INSTANT.fresh)) == (10, 10)
    assert (len(HARMS.calibrated), len(HARMS.fresh)) == (6, 6)


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
