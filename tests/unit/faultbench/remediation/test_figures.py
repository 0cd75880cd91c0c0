"""Figures, targets, page and JSON of the remediation benchmark."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from rftfm_ray.faultbench.remediation.campaign import Benchmark
from rftfm_ray.faultbench.remediation.drawing import RemediationSize
from rftfm_ray.faultbench.remediation.figures import figures_of, score
from rftfm_ray.faultbench.remediation.healthy import healthy_runs
from rftfm_ray.faultbench.remediation.page import as_json, write_page
from rftfm_ray.faultbench.remediation.pairs import FORKS, Cell, Injected, Pair, Role, Trunk, Unit
from rftfm_ray.faultbench.remediation.records import OUTCOMES, RunRecord
from rftfm_ray.faultbench.remediation.show import show
from rftfm_ray.faultbench.remediation.targets import most, rate, targets_of
from tests.unit.faultbench.remediation.made import HELPED, PAIR, ended, pairs, record, unit

ROLES = (Role.GUARDED, Role.PROFILED, Role.ALONE_AGAIN, Role.FROZEN, Role.TOLD)


def bench(*units: Unit, healthy: int = 0) -> Benchmark:
    """A benchmark of some units."""
    size = RemediationSize(harm=1, baselines=1, levels=0, transient=0, two_faults=0, first_step=0, healthy=healthy)
    return Benchmark(size, 1, units, healthy_runs(healthy))


def finished(pair: Pair, guarded: float, **changes: object) -> dict[str, RunRecord]:
    """All runs of a pair that harms."""
    accuracies: dict[Role, float | None] = {**dict.fromkeys(ROLES, 0.9), Role.ALONE: 0.5, Role.ALONE_AGAIN: 0.5}
    return ended(pair, 0.9, {**accuracies, Role.GUARDED: guarded}, alarm=10, **changes)


def test_a_rate_is_over_harmful_pairs_that_can_be_mended() -> None:
    biased = Pair(PAIR.trunk, (Injected("CA-1", "biased_values", 56.2, 9),), "harm")
    runs = finished(PAIR, 0.9) | finished(biased, 0.5, asked=True)
    figures = figures_of(score(bench(unit((PAIR, biased), 2, ROLES)), runs))
    assert figures["pairs"]["harm"] == 2
    assert figures["recovered"]["harm, none"]["n"] == 1
    assert figures["recovered"]["harm, none"]["rate"] == 1.0
    assert figures["contained"]["n"] == 1
    assert figures["contained"]["rate"] == 0.0
    assert figures["contained"]["said"]["rate"] == 1.0
    assert figures["by_mechanism"]["CA-1 biased_values"]["mendable"] is False


def test_only_pairs_whose_runs_are_all_made_count() -> None:
    runs = finished(PAIR, 0.9)
    del runs[PAIR.arm(Role.TOLD).name]
    assert figures_of(score(bench(unit((PAIR,), 1, ROLES)), runs))["pairs"]["harm"] == 0


def test_baselines_stand_beside_the_guard_on_the_same_pairs() -> None:
    one, other = pairs(2)
    runs = finished(one, 0.9) | finished(other, 0.5)
    plain = Unit(Cell.HARM, "plain", (other,), 1, lambda _: (Role.GUARDED, Role.PROFILED))
    figures = figures_of(score(bench(unit((one,), 1, ROLES), plain), runs))
    assert figures["recovered"]["harm, none"]["n"] == 2
    assert figures["baselines"]["guarded"]["recovered"]["n"] == 1
    assert figures["baselines"]["told"]["recovered"]["rate"] == 1.0
    assert figures["against_told"]["guarded"]["rate"] == 1.0


def test_misses_are_listed_with_what_went_wrong() -> None:
    figures = figures_of(score(bench(unit((PAIR,), 1, ROLES)), finished(PAIR, 0.5, named="RF-1")))
    (miss,) = figures["misses"]
    assert (miss["pair"], miss["mode"], miss["reason"]) == (PAIR.name, "none", "named RF-1")


def test_transient_faults_are_compared_with_what_luck_does_to_clean_runs() -> None:
    runs = finished(PAIR, 0.5)
    runs |= {run.arm: run for run in [record(PAIR.clean(FORKS + 1), 0.84)]}
    transient = Unit(Cell.TRANSIENT, "transient", (PAIR,), 1, lambda _: ROLES, forks=FORKS + 1)
    row = figures_of(score(bench(transient), runs))["transient_not_recovered"]
    # Both guarded runs of the pair count, and each is beside the clean run that is 0.06 below the mean.
    assert row == {"guarded": 1, "n": 2, "clean": 2, "n_clean": 2}


def test_healthy_runs_are_harmed_only_where_the_guard_did_something() -> None:
    planned = bench(healthy=2)
    one, other = planned.healthy
    runs = [record(one.guarded(), 0.1), record(one.clean(1), 0.1)]
    runs += [record(other.guarded(), 0.7, given=(HELPED,), early=("OD-1",))]
    runs += [record(other.clean(number), 0.9) for number in range(1, FORKS + 1)]
    null = figures_of(score(planned, {run.arm: run for run in runs}))["null"]
    assert (null["runs"], null["incidents"], null["remedies"], null["rollbacks"], null["harmed"]) == (2, 1, 1, 1, 1)
    assert (null["checked"], null["differ"]) == (1, 0)
    assert null["touched"][0]["remedies"] == ["rollback"]


def test_a_healthy_run_that_trains_on_something_else_without_a_remedy_is_told() -> None:
    planned = bench(healthy=1)
    (run,) = planned.healthy
    runs = [record(run.guarded(), 0.8), record(run.clean(1), 0.9)]
    null = figures_of(score(planned, {run.arm: run for run in runs}))["null"]
    assert (null["checked"], null["differ"]) == (1, 1)


def test_a_configuration_that_falls_by_itself_is_apart_where_the_guard_acted() -> None:
    planned = bench(healthy=2)
    _, run = planned.healthy
    falling = tuple(0.9 - 0.02 * step for step in range(33))
    runs = [record(run.guarded(), 0.2, given=(HELPED,))]
    runs += [record(run.clean(n), 0.26, series=dict.fromkeys(OUTCOMES, falling)) for n in range(1, FORKS + 1)]
    null = figures_of(score(planned, {run.arm: run for run in runs}))["null"]
    assert (null["runs"], null["not_healthy"], null["rollbacks"], null["harmed"]) == (1, 1, 0, 0)
    assert null["touched"][0]["healthy"] is False


@pytest.mark.parametrize(
    ("row", "reached"),
    [
        ({"rate": 0.86, "low95": 0.8, "high95": 0.9, "n": 100}, True),
        ({"rate": 0.85, "low95": 0.8, "high95": 0.9, "n": 100}, False),
        ({"rate": 0.87, "low95": 0.86, "high95": 0.875, "n": 100}, False),
        ({"rate": None, "low95": None, "high95": None, "n": 0}, None),
    ],
)
def test_a_rate_is_reached_within_two_points_and_its_interval(row: dict[str, float], reached: bool | None) -> None:
    assert rate("recovered", 0.88, row).reached is reached


def test_a_quantile_without_an_end_is_missed() -> None:
    assert most("steps", 3, {"median": None, "p90": None, "n": 4}, "median").reached is False
    assert most("steps", 3, {"median": 3.0, "p90": 8.0, "n": 4}, "median").reached is True
    assert most("steps", 3, {"median": None, "p90": None, "n": 0}, "median").reached is None


def test_page_and_json_say_the_same_and_nothing_is_called_reached_without_runs(tmp_path: Path) -> None:
    empty = score(bench(), {})
    assert all(target.reached is None for target in targets_of(figures_of(empty)))
    write_page(tmp_path / "empty.md", empty, "rftfm faultbench remediate")
    assert "| reached |\n" not in (tmp_path / "empty.md").read_text().replace("| | target | reached |  |", "")
    scored = score(bench(unit((PAIR,), 1, ROLES), healthy=0), finished(PAIR, 0.9, given=(HELPED,), is_named=True))
    write_page(tmp_path / "page.md", scored, "rftfm faultbench remediate --size full")
    text = (tmp_path / "page.md").read_text()
    assert "rftfm faultbench remediate --size full" in text
    assert "OD-1 gain" in text
    assert "<svg" in (tmp_path / "page" / "forks-OD.svg").read_text()
    assert "<svg" in (tmp_path / "page" / "baselines.svg").read_text()
    loaded = json.loads(as_json(scored))
    assert loaded["recovered"]["harm, none"]["rate"] == 1.0


def test_the_terminal_tells_every_target() -> None:
    console = Console(record=True, width=200)
    scored = score(bench(unit((PAIR,), 1, ROLES)), finished(PAIR, 0.9))
    show(scored, console)
    text = console.export_text()
    assert all(target.name in text for target in targets_of(figures_of(scored)))


def test_a_background_has_a_row_of_its_own() -> None:
    dirty = Pair(Trunk("addition", "grpo", 810_001, dirty=True), PAIR.faults, "harm")
    runs = finished(PAIR, 0.9) | finished(dirty, 0.5)
    rows = figures_of(score(bench(unit((PAIR, dirty), 2, ROLES)), runs))["by_background"]
    assert rows["none"]["clean"]["rate"] == 1.0
    assert rows["none"]["dirty"]["rate"] == 0.0
