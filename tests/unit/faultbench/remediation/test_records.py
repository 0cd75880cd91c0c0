"""Finished runs on disk: written whole, read strictly, and told apart by policy."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from rftfm_ray.errors import BenchError
from rftfm_ray.faultbench.remediation.campaign import FinishedRuns
from rftfm_ray.faultbench.remediation.command import label_of
from rftfm_ray.faultbench.remediation.pairs import Role
from rftfm_ray.faultbench.remediation.records import OUTCOMES, Store, file_of, record_of
from rftfm_ray.faultbench.runs.runner import RunHistory
from rftfm_ray.signals.schema import value
from tests.unit.faultbench.remediation.made import HELPED, PAIR, record


def test_what_is_kept_is_read_back(tmp_path: Path) -> None:
    guarded = record(PAIR.arm(Role.GUARDED), 0.8, given=(HELPED,), alarm=10, effects=(9, None), early=("OD-1",))
    lost = record(PAIR.arm(Role.ALONE), None, error="out of memory")
    store = Store(tmp_path)
    store.add("unit", guarded)
    store.add("clean", lost)
    again = Store(tmp_path)
    assert again.ended == {guarded.arm: guarded, lost.arm: lost}
    assert math.isnan(again.ended[lost.arm].outcome.accuracy)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "runs-unit.json").write_text("[{}]")
    with pytest.raises(BenchError, match=r"runs-unit\.json is damaged .* remove it"):
        Store(tmp_path)


def test_clean_forks_lie_beside_the_units_that_share_them() -> None:
    assert file_of(PAIR.clean(1), "harm-OD-1-clean") == "clean-addition-grpo-clean"
    assert file_of(PAIR.arm(Role.ALONE), "harm-OD-1-clean") == "harm-OD-1-clean"


def test_runs_of_another_policy_are_not_taken_for_the_shipped_ones(tmp_path: Path) -> None:
    shipped = FinishedRuns(tmp_path)
    alone, guarded = PAIR.arm(Role.ALONE), PAIR.arm(Role.GUARDED)
    shipped.add("unit", alone, record(alone, 0.5))
    shipped.add("unit", guarded, record(guarded, 0.9))
    mine = FinishedRuns(tmp_path, "Mine-00000000")
    assert set(mine.ended) == {alone.name}
    mine.add("unit", guarded, record(guarded, 0.6))
    assert FinishedRuns(tmp_path, "Mine-00000000").ended[guarded.name].accuracy == 0.6
    assert FinishedRuns(tmp_path).ended[guarded.name].accuracy == 0.9


def test_the_label_of_a_policy_follows_its_source(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    text = "class Mine:\n    def decide(self, ctx):\n        raise ValueError\n"
    path.write_text(text)
    first = label_of(f"{path}:Mine")
    path.write_text(text + "\n# Changed.\n")
    assert first.startswith("Mine-")
    assert label_of(f"{path}:Mine") != first
    assert label_of("adaptive_kl") == "adaptive_kl"
    assert label_of("") == ""


def test_reports_carry_the_outcome_signals_at_their_consumed_steps() -> None:
    run = record(PAIR.arm(Role.GUARDED), 0.9)
    reports = run.reports()
    assert [report.id.paid_step for report in reports] == list(range(8, 41))
    assert value(reports[1], OUTCOMES[0]) == pytest.approx(0.901)
    assert [report.id.paid_step for report in run.reports(until=10)] == [8, 9]


def test_a_run_without_a_step_is_kept_with_its_error() -> None:
    kept = record_of(PAIR.arm(Role.GUARDED), RunHistory((), (), (), math.nan, "no memory"))
    assert (kept.error, kept.accuracy, kept.alarm, kept.reports()) == ("no memory", None, None, [])
