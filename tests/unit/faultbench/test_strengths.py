"""What the calibration says of a cell, read from rows as a search leaves them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import pytest

from rftfm_ray.faultbench.runs.strengths import CellState, StrengthCell, Strengths, measured
from rftfm_ray.faults.calibration import Calibration, Finding
from rftfm_ray.faults.kinds import CATALOGUE

CELL = StrengthCell("RF-1", "outliers", "hard", "addition", "grpo", dirty=True)
ROW = Calibration(
    "addition", "grpo", "RF-1", "outliers", "hard", 0.5, "reward_mean", d=1.4, d_fresh=1.5, seeds=10, seeds_fresh=10,
    reached=1.0, confirmed=True, dirty=True,
)  # fmt: skip
HARM = replace(ROW, level="harm", d=math.nan, d_fresh=math.nan, reached=math.nan, accuracy_loss=0.2, loss_fresh=0.18)
HARM_CELL = replace(CELL, level="harm")


class Table:
    """A table in place of the shipped one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._patch = monkeypatch

    def has(self, *rows: Calibration) -> None:
        """Put rows into it."""
        measured.cache_clear()
        self._patch.setattr("rftfm_ray.faults.calibration.table", lambda: rows)


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Iterator[Table]:
    yield Table(monkeypatch)
    measured.cache_clear()


@pytest.mark.parametrize(
    ("row", "state"),
    [
        (ROW, CellState.CONFIRMED),
        (replace(ROW, confirmed=False, d_fresh=2.5), CellState.SEEN),
        (replace(ROW, confirmed=False, d_fresh=2.5, finding=Finding.NEVER), CellState.SEEN),
        (replace(ROW, confirmed=False, d_fresh=0.9), CellState.UNREACHED),
        (replace(ROW, confirmed=False, d_fresh=0.0, reached=0.2), CellState.LATE),
        (replace(ROW, confirmed=False, d_fresh=0.4, finding=Finding.BELOW), CellState.BELOW),
        (replace(ROW, dirty=False), CellState.UNMEASURED),
        (replace(ROW, task="calculator"), CellState.UNMEASURED),
        (replace(ROW, algorithm="ppo"), CellState.CONFIRMED),
    ],
)
def test_a_cell_is_read_from_its_row(row: Calibration, state: CellState, table: Table) -> None:
    table.has(row)
    assert measured(CELL) is state


def test_harm_is_confirmed_by_fresh_seeds_seen_without_and_may_not_exist(table: Table) -> None:
    for row, state in (
        (HARM, CellState.CONFIRMED),
        (replace(HARM, confirmed=False), CellState.SEEN),
        (replace(HARM, confirmed=False, finding=Finding.NO_HARM), CellState.NO_HARM),
    ):
        table.has(ROW, row)
        assert measured(HARM_CELL) is state


def test_harm_that_healthy_runs_hide_at_every_strength_lies_below_the_background(table: Table) -> None:
    hidden = replace(ROW, confirmed=False, d_fresh=0.4, finding=Finding.BELOW)
    table.has(hidden, HARM)
    assert measured(HARM_CELL) is CellState.BELOW
    table.has(replace(hidden, dirty=False), ROW, HARM)
    assert measured(HARM_CELL) is CellState.CONFIRMED


def test_what_was_not_searched_with_a_background_is_never_called_measured(table: Table) -> None:
    nowhere = replace(HARM, confirmed=False, finding=Finding.NO_HARM, dirty=False)
    table.has(nowhere)
    assert measured(HARM_CELL) is CellState.UNSEARCHED
    table.has(replace(HARM, dirty=False))
    assert measured(HARM_CELL) is CellState.UNMEASURED, "where there is one it must be measured"
    table.has(nowhere, HARM)
    assert measured(HARM_CELL) is CellState.CONFIRMED, "what was measured counts"
    table.has(replace(ROW, dirty=False, confirmed=False, d_fresh=0.4, reached=0.2))
    assert measured(CELL) is CellState.UNSEARCHED
    assert measured(replace(CELL, dirty=False)) is CellState.LATE


def test_faults_are_dealt_where_a_level_is_confirmed_else_where_it_is_seen() -> None:
    seen = {"addition": CellState.SEEN, "calculator": CellState.SEEN}
    everywhere = (("addition", "grpo"), ("calculator", "grpo"))
    strengths = Strengths(everywhere, ("RF-1",), {}, lambda cell: seen[cell.task])
    fault = ("RF-1", CATALOGUE["RF-1"].mechanism("outliers"))
    assert strengths.combinations_for("hard", fault, dirty=True) == list(everywhere)
    seen["calculator"] = CellState.CONFIRMED
    assert strengths.combinations_for("hard", fault, dirty=True) == [("calculator", "grpo")]
    seen["calculator"] = CellState.BELOW
    assert strengths.combinations_for("hard", fault, dirty=True) == [("addition", "grpo")]
    assert strengths.with_state(fault, "hard", CellState.BELOW, dirty=True) == [("calculator", "grpo")]
