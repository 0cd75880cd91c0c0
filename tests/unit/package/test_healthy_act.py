"""The campaign of healthy runs in `act`: what is drawn, how pairs are judged, and that rows survive their file."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from benchmarks.healthy_act import KINDS, RUNS, config_of, drawn
from benchmarks.healthy_act_page import Row, from_csv, page, targets, to_csv

HEALTHY = replace(
    drawn(1), code="c", twin="0.5000 0.7000 0.6500 0.9000 0.9000", twin_digest="d", held_out=0.9, digest="d"
)


def missed(*rows: Row) -> list[str]:
    """Names of the targets that rows miss."""
    return [name for name, _, _, good in targets(rows) if not good]


def test_campaign_has_every_kind_with_and_without_a_profile_and_seeds_of_its_own() -> None:
    rows = [drawn(index) for index in range(RUNS)]
    kinds = [(row.size, row.algorithm, row.task, row.profile) for row in rows]
    assert len(set(kinds)) == 2 * len(KINDS)
    assert max(map(kinds.count, kinds)) - min(map(kinds.count, kinds)) <= 1
    assert sum(row.profile for row in rows) == RUNS / 2
    assert len({row.seed for row in rows}) == RUNS


@pytest.mark.parametrize("index", range(0, RUNS, 7))
def test_configurations_are_within_their_bounds_and_determined_by_their_number(index: int) -> None:
    row = drawn(index)
    config = config_of(row)
    assert repr(drawn(index)) == repr(row)
    assert 8 <= row.prompts <= 32
    assert row.prompts % row.minibatches == 0
    assert 1 <= row.minibatches <= 4
    assert 0.7 <= config.rollout.temperature <= 1.2
    assert 0 <= config.algorithm.kl_coef <= 0.1
    default = 2e-4 if row.task == "addition" else 1e-4
    assert 0.5 <= config.learner.lr / default <= 2


def test_rows_survive_their_file() -> None:
    rows = [HEALTHY, replace(drawn(2), error='a "quoted", sentence', orders="3:a:b;4:c:d")]
    read = from_csv(to_csv(rows))
    assert list(read) == [1, 2]
    assert read[1] == HEALTHY
    assert repr(read[2]) == repr(rows[1])
    with pytest.raises(ValueError, match="another --out"):
        from_csv("index,task\n1,addition\n")


@pytest.mark.parametrize(
    ("twin", "healthy"),
    [
        ("0.5 0.7 0.9", True),
        ("0.5 0.9 0.8 0.9", True),
        ("0.5 0.9 0.79 0.9", False),  # Fell by more than 0.10 below its best.
        ("0.5 0.45 0.49", False),  # Ends below its start.
        ("0.5 0.5", True),
        ("", False),
    ],
)
def test_pair_is_healthy_by_its_twin(twin: str, healthy: bool) -> None:
    assert replace(HEALTHY, twin=twin).healthy is healthy


def test_healthy_pair_misses_nothing() -> None:
    assert missed(HEALTHY) == []


def test_harm_to_a_healthy_run_is_missed_and_harm_to_another_is_not() -> None:
    harmed = replace(HEALTHY, held_out=0.84, orders="5:rollback:resolved", rollbacks=1, freezes=1, halts=1, digest="x")
    assert len(missed(harmed)) == 4
    assert missed(replace(harmed, twin="0.9 0.5 0.2")) == []
    assert missed(replace(HEALTHY, held_out=0.86)) == []
    assert missed(*[replace(HEALTHY, orders="5:retry:resolved")] * 3) == []
    assert missed(*[replace(HEALTHY, orders="5:retry:resolved")] * 4) == ["runs with an order"]


def test_untouched_run_must_equal_its_twin() -> None:
    assert missed(replace(HEALTHY, digest="other")) == [
        "runs without an order that train on something else than their twin"
    ]


def test_run_that_does_not_start_is_missed_and_named() -> None:
    broken = replace(drawn(2), error="guard.profile cannot be used")
    assert missed(HEALTHY, broken) == ["runs that did not start or end"]
    assert "- run 2 (" in page([HEALTHY, broken], RUNS, "head")


def test_page_lists_orders_incidents_and_the_runs_apart() -> None:
    ordered = replace(HEALTHY, incidents="4:OD-1:0.97", orders="5:lower_rate:resolved")
    apart = replace(HEALTHY, index=9, twin="0.9 0.5 0.2", held_out=math.nan)
    text = page([ordered, apart], RUNS, "head")
    assert "2 of 300 pairs are finished: 1 healthy, 1 not." in text
    assert "5:lower_rate:resolved" in text
    assert "4:OD-1:0.97" in text
    assert "| 9 | " in text.partition("## Runs that are not healthy")[2]
