"""Levels of strengths, searched on synthetic responses: easy and hard by shifts, harm by losses. No Ray."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.calibrate_faults import (
    HARMS,
    INSTANT,
    LEARNED,
    seed_plan,
)  # fmt: skip
from rftfm_ray.faultbench.runs.calibrate import CalibrationCase
from rftfm_ray.faultbench.runs.levels import (
    CLOSE,
    HARM_AIM,
    HARM_LOSS,
    HARM_TRIES,
    LUCK,
    calibrate,
    calibrate_harm,
    harmful_strengths,
    is_decided,
)  # fmt: skip
from rftfm_ray.faults.calibration import HARM, Finding
from rftfm_ray.faults.kinds import Strength
from tests.unit.faultbench.responses import CASE, Response, losing

FACTOR = Strength("factor", 1.0, 100.0, 30.0, neutral=1.0)
WIDE = Strength("amount", 0.01, 1000.0, 2.0)


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


def test_strength_of_the_level_without_a_background_is_taken_where_it_has_it_with_one_too() -> None:
    bench = Response(losing(0.1, most=0.6), luck=0.02)
    row = calibrate_harm(bench, dataclasses.replace(CASE, dirty=True), HARMS, start=0.4)
    assert (row.strength, row.confirmed, row.dirty) == (0.4, True, True)
    assert {strength for strength, _ in bench.asked} == {0.4}, "nothing smaller is searched for"
    assert len(bench.asked) == 12
    searched = calibrate_harm(Response(losing(0.1, most=0.6), luck=0.02), CASE, HARMS, start=0.02)
    assert searched.confirmed
    assert searched.strength > 0.05, "where it does not have the level, the search goes on from it"


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
