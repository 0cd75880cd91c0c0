"""The healthy runs of the priors: what is run, that the campaign goes on where it was, and the check task by task."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from hashlib import sha256
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks import healthy_act, healthy_set, priors, priors_runs
from benchmarks.priors_runs import ALGORITHMS, LENGTHS, SIZES, TASKS, Campaign, Cell, cells, config_of, makeable
from rftfm_ray.actors.warm import WarmActors
from rftfm_ray.models import BUILTIN_NAMES
from rftfm_ray.signals.schema import SIGNALS
from tests.unit.doubles import HEALTHY


def rows(cell: Cell, number: int) -> pa.Table:
    """Rows of a run of three steps."""
    return pa.table({
        "run": [f"{cell.name}-{cell.first + number}"] * 3,
        "step": pa.array([1, 2, 3], pa.int32()),
        "entropy": pa.array([0.5, float("nan"), number], pa.float32()),
    })  # fmt: skip


class Scripted(Campaign):
    """A campaign whose runs take no time."""

    def make_run(self, cell: Cell, number: int, warm: WarmActors | None) -> pa.Table:
        return rows(cell, number)


def test_campaign_has_400_runs_of_every_combination_with_a_seed_each() -> None:
    every = cells()
    assert len(every) * len(LENGTHS) >= 400
    combinations = itertools.product(SIZES, TASKS, ALGORITHMS, (False, True))
    assert {(c.size, c.task, c.algorithm, c.background) for c in every} == set(combinations)
    seeds = [cell.first + number for cell in every for number in range(len(LENGTHS))]
    assert len(set(seeds)) == len(seeds)
    assert len(set(LENGTHS)) >= 5


def test_seeds_are_those_of_no_other_healthy_runs() -> None:
    seeds = {cell.first + number for cell in cells() for number in range(len(LENGTHS))}
    others = {arm.seed for arm in healthy_set.arms()}
    others |= {healthy_act.FIRST_SEED + number for number in range(1000)}
    others |= {healthy_act.FIRST_PROFILE_SEED + number for number in range(1000)}
    assert not seeds & others


@pytest.mark.parametrize("cell", [cell for cell in cells() if not cell.background], ids=lambda cell: cell.name)
def test_every_run_has_a_valid_configuration_of_its_cell(cell: Cell, tmp_path: Path) -> None:
    for number, steps in enumerate(LENGTHS):
        config = config_of(cell, number, tmp_path)
        assert (config.seed, config.steps, config.algorithm.name) == (cell.first + number, steps, cell.algorithm)
        assert config.task.name.removeprefix("reasoning_gym:") == cell.task
    is_shipped = cell.task in priors_runs.SHARED or cell.size == "tiny"
    assert (config.model.path in BUILTIN_NAMES) == is_shipped
    assert is_shipped or config.model.path == str(tmp_path / f"{cell.task}-small")


def test_background_is_an_override_where_its_key_is_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given: list[list[str]] = []
    monkeypatch.setattr(priors_runs, "load_config", lambda path, overrides: given.append(overrides))
    for background in (False, True):
        config_of(Cell("tiny", "addition", "grpo", background, 1), 0, tmp_path)
    assert ["background.preset=dirty" in overrides for overrides in given] == [False, True]
    monkeypatch.setattr(priors_runs, "known_keys", lambda: ["seed"])
    assert {cell.background for cell in makeable()} == {False}
    monkeypatch.setattr(priors_runs, "known_keys", lambda: ["seed", "background.preset"])
    assert makeable() == cells()


def test_campaign_goes_on_with_the_cells_that_are_missing(tmp_path: Path) -> None:
    campaign, wanted = Scripted(tmp_path, tmp_path, runs=2), [cell for cell in cells() if not cell.background][:3]
    campaign.make(wanted[1], WarmActors())
    assert campaign.missing(wanted) == [wanted[0], wanted[2]]
    priors_runs.work(campaign, campaign.missing(wanted), itertools.count(), float("inf"))
    assert campaign.missing(wanted) == []
    priors_runs.work(campaign, cells(), itertools.count(), 0.0)
    assert len(list(tmp_path.glob("*.parquet"))) == 3


def test_file_of_a_cell_holds_its_rows_in_full(tmp_path: Path) -> None:
    campaign, cell = Scripted(tmp_path, tmp_path, runs=2), cells()[0]
    campaign.make(cell, WarmActors())
    stored, expected = pq.read_table(campaign.path(cell)), pa.concat_tables([rows(cell, 0), rows(cell, 1)])
    assert stored["entropy"].to_numpy().tobytes() == expected["entropy"].to_numpy().tobytes()
    assert stored.select(["run", "step"]).equals(expected.select(["run", "step"]))
    assert campaign.verified(2, 0)


def test_verification_finds_a_figure_that_differs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    campaign, cell = Scripted(tmp_path, tmp_path, runs=2), cells()[0]
    campaign.make(cell, WarmActors())
    monkeypatch.setattr(Scripted, "make_run", lambda self, cell, number, warm: rows(cell, number + 1))
    assert not campaign.verified(2, 0)


def test_manifest_counts_runs_and_steps_and_hashes_files(tmp_path: Path) -> None:
    campaign = Scripted(tmp_path, tmp_path, runs=2)
    for cell in cells()[:2]:
        campaign.make(cell, WarmActors())
    campaign.write_manifest()
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert (manifest["runs"], manifest["steps"]) == (4, 12)
    assert manifest["sha256"] == {p.name: sha256(p.read_bytes()).hexdigest() for p in tmp_path.glob("*.parquet")}


def test_recorded_runs_are_read_with_their_task_and_stratum() -> None:
    every = list(priors.runs(HEALTHY))
    assert len(every) == 100
    assert Counter(map(priors.task_of, every)) == {"addition": 50, "calculator": 50}
    assert priors.stratum_of(every[0]) == every[0].name.rsplit("-", 1)[0]
    assert sum(len(group) for groups in priors.by_kind(every).values() for group in groups) == 100
    lines = priors.basis_lines(priors.by_kind(every))
    assert any(line.startswith("| critic | own_past | 4 | 50 | 2000 |") for line in lines)


def test_reports_hold_what_the_rows_hold() -> None:
    run = next(priors.runs(HEALTHY))
    reports = priors.reports_of(run)
    assert [report.id.step for report in reports] == run.steps.tolist()
    for place, signal in enumerate(SIGNALS):
        values = np.array([report.values[place] for report in reports])
        np.testing.assert_array_equal(values, run.values.get(signal.name, np.full(len(reports), np.nan)))


def test_every_task_is_judged_by_priors_of_the_others() -> None:
    every = [run for run in priors.runs(HEALTHY) if "-grpo-tiny-" in run.name]
    some = [run for run in every if int(run.name.rpartition("-")[2]) % 5 < 2]
    judged = list(priors.judge_others(some))
    assert [(one.task, one.kind) for one in judged] == [("addition", "no_critic"), ("calculator", "no_critic")]
    for one in judged:
        assert (one.runs, one.steps, one.prior_runs, one.prior_steps) == (8, 320, 8, 320)
        assert one.alarms <= 3
        assert 0 < one.threshold < 10
    lines = priors.judged_lines(judged)
    assert lines[2].startswith("| addition | no_critic | 8 | 320 | 8 | 320 |")
    assert f"{max(one.threshold for one in judged):.3f}" in lines[-1]


@pytest.mark.parametrize(("allowed", "expected"), [(0, 3.0), (1, 2.0), (2, 0.5), (3, 0.5)])
def test_threshold_is_the_smallest_within_the_budget(allowed: int, expected: float) -> None:
    nothing = float("nan")
    scores = [np.array([0.0, 0.5]), np.array([3.0, nothing]), np.array([2.0, 0.0, 0.0, nothing])]
    threshold = priors.threshold_within(scores, 1000 * allowed / 8)
    assert priors.count_alarms(scores, threshold) <= allowed
    assert threshold == pytest.approx(expected)


def test_threshold_without_scores_is_the_one_in_force() -> None:
    assert priors.threshold_within([np.zeros(5)], 0.5) == 1.0
    assert priors.threshold_within([], 0.5) == 1.0
