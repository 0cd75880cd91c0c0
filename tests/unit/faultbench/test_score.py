"""Thresholds and scores of a whole benchmark: healthy runs of the real stack, with simulated faults on top."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from rftfm_ray.cli.app import app
from rftfm_ray.errors import BenchError
from rftfm_ray.faultbench.detectors.peers import RlWatch
from rftfm_ray.faultbench.reproduce import Again, Watching
from rftfm_ray.faultbench.runs.dataset import NAMES, Outcome, Record, Recorded, Rows, read_bench, write_records
from rftfm_ray.faultbench.runs.generate import Job
from rftfm_ray.faultbench.runs.plan import SIZES, Entry, Kind, Size, Split
from rftfm_ray.faultbench.scoring.frozen import FROZEN, freeze, read_frozen
from rftfm_ray.faultbench.scoring.score import evaluate
from rftfm_ray.faultbench.scoring.summary import figures
from tests.unit.doubles import recorded_runs

SIZE = Size(
    {"tiny": 20}, long=0, easy=16, hard=16, twins=8, declared=0, pairs=4, steps=(30, 40), cells=(("addition", "grpo"),),
    codes=("RF-1", "OD-3"),
)  # fmt: skip
# What each fault moves in this simulation, in units of the signal, at its easy level; hard is a quarter of it.
MOVES = {"RF-1": {"reward_mean": 0.3, "reward_max": 2.0}, "OD-3": {"entropy": -0.5, "sampling_logprob_mean": 0.3}}


def record(entry: Entry, rows: Rows) -> Record:
    """A record of an entry on the rows of its healthy run."""
    values = rows[entry.fork : entry.steps].copy()
    if entry.kind is not Kind.FAULT:
        switched = (entry.onset,) * (2 if entry.kind is Kind.TWO_FAULTS else 0)
        return Record(entry, Outcome(switched, switched), values)
    for name, size in MOVES[entry.code].items():
        since = max(0, entry.onset - 1 - entry.fork)
        values[since:, NAMES.index(name)] += size * (1.0 if entry.level == "easy" else 0.25)
    return Record(entry, Outcome((entry.onset,), (entry.onset,)), values)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete benchmark with thresholds."""
    folder = tmp_path_factory.mktemp("bench")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SIZES, "test", SIZE)
        job = Job(str(folder), "test", 1)
        job.parts.mkdir()
        runs = [run.values for run in recorded_runs(2)]
        for rows, (seed, entries) in zip(runs, job.groups().items(), strict=True):
            write_records(job.parts / str(seed), [record(entry, rows) for entry in entries])
        assert list(job.gather())
        job.finish()
    freeze(folder, lambda _: None)
    return folder


@pytest.fixture(scope="module")
def found(bench: Path) -> dict[str, Any]:
    """The score, as it is printed."""
    printed: dict[str, Any] = json.loads(json.dumps(figures(evaluate(bench, lambda _: None)), allow_nan=False))
    return printed


def test_score_has_the_form_that_is_promised(found: dict[str, Any], bench: Path) -> None:
    assert found["split"] == "report"
    assert found["thresholds_sha256"] == read_frozen(bench)[1]
    assert found["healthy_steps"] == found["false_alarms_per_1000"]["healthy"]["telemetry"]["steps"] > 300
    for evidence in ("telemetry", "all"):
        for kind in ("healthy", "benign"):
            assert {"rate", "upper95"} <= set(found["false_alarms_per_1000"][kind][evidence])
        for level in ("easy", "hard"):
            assert {"rate", "low95", "high95", "n"} <= set(found["recall"][level][evidence])
            assert {"median", "p90", "censored"} <= set(found["delay"][level][evidence])
    assert {row["by"] for row in found["by_fault"]} >= {"fault", "mechanism", "onset", "duration", "family"}
    assert set(found["baselines"]) == {"three_sigma", "shift_score", "isolation_forest", "local_outlier_factor"}
    assert set(found["cold"]) == {"false_alarms_per_1000", "recall", "delay", "by_fault"}
    assert found["paper"]["telemetry"]["easy"]["flag_everything"]["recall"] == 1.0


def test_what_is_plain_is_found_and_healthy_runs_are_left_alone(found: dict[str, Any]) -> None:
    assert found["recall"]["easy"]["telemetry"]["rate"] >= 0.9
    assert found["recall"]["easy"]["telemetry"]["rate"] >= found["recall"]["hard"]["telemetry"]["rate"]
    assert found["clairvoyant"]["easy"]["telemetry"]["rate"] >= 0.9
    assert found["actions_on_healthy"] == 0
    best = max(one["recall"]["hard"]["telemetry"]["rate"] for one in found["baselines"].values())
    # With five runs to learn from, how they go together is hardly known: one run of sixteen may be lost by it.
    assert found["recall"]["hard"]["telemetry"]["rate"] >= best - 1 / 16


def test_peers_are_compared_with_when_asked(bench: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rftfm_ray.faultbench.scoring.frozen.peers", lambda: (RlWatch(),))
    with pytest.raises(BenchError, match="no threshold of rlwatch"):
        evaluate(bench, lambda _: None, with_peers=True)
    for file in bench.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    freeze(tmp_path, lambda _: None, with_peers=True)
    theirs = figures(evaluate(tmp_path, lambda _: None, with_peers=True))["baselines"]
    shipped, tuned = theirs["rlwatch_as_shipped"], theirs["rlwatch"]
    # What is tuned to our budget says less, and is wrong less often.
    rates = [one["false_alarms_per_1000"]["healthy"]["telemetry"]["rate"] for one in (shipped, tuned)]
    assert rates[0] > 2 * rates[1]
    monkeypatch.setattr("rftfm_ray.faultbench.scoring.frozen.missing", lambda: ("rlwatch",))
    with pytest.raises(BenchError, match=r"rlwatch cannot be compared with; `pip install rftfm_ray\[peers\]`"):
        evaluate(bench, lambda _: None, with_peers=True)


def test_thresholds_of_other_runs_are_refused(bench: Path, tmp_path: Path) -> None:
    for file in bench.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    manifest = tmp_path / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"minutes": 0.0', '"minutes": 0.5'))
    with pytest.raises(BenchError, match="made from other runs"):
        evaluate(tmp_path, lambda _: None)
    (tmp_path / FROZEN).write_text("{}")
    with pytest.raises(BenchError, match="damaged"):
        read_frozen(tmp_path)
    (tmp_path / FROZEN).unlink()
    with pytest.raises(BenchError, match="has no frozen"):
        read_frozen(tmp_path)


def test_a_run_made_once_more_is_compared_by_its_alarms_too(bench: Path) -> None:
    runs = read_bench(bench)
    watching = Watching(bench, runs)
    healthy = {run.entry.seed: run.values for run in runs if run.entry.kind is Kind.HEALTHY}
    run = next(run for run in runs if run.entry.level == "easy" and run.entry.onset > 10 and watching.alarms(run))
    name, raised = run.entry.name, watching.alarms(run)
    assert watching.alarms(replace(run, values=healthy[run.entry.seed])) != raised
    assert Again(name, "", 0.0, (raised, raised)).is_same
    assert not Again(name, "", 0.0, (raised, ())).is_same
    assert not Again(name, "its steps, 8 and 7", 0.0, None).is_same


def test_a_detector_of_one_s_own_is_scored_from_the_command_line(bench: Path) -> None:
    mine = f"{Path(__file__).parents[3] / 'examples' / 'custom_detector.py'}:RewardShift"
    done = CliRunner().invoke(app, ["faultbench", "score", "--data", str(bench), "--detector", mine, "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["detector"] == "reward_shift"
    rows = [row for row in found["by_fault"] if row["by"] == "fault" and row["level"] == "easy"]
    shown = {row["name"]: row["recall"]["rate"] for row in rows}
    assert shown["RF-1"] > shown["OD-3"]


def test_score_is_shown_in_the_terminal(bench: Path) -> None:
    done = CliRunner().invoke(app, ["faultbench", "score", "--data", str(bench)], env={"COLUMNS": "160"})
    assert done.exit_code == 0, done.output
    assert "the bound" in done.stdout
    assert "three_sigma" in done.stdout
    assert "no profile" in done.stdout


SPY_SCORES = {Split.CALIBRATE: 4.0, Split.TUNE: 1.0, Split.REPORT: 2.0}


@dataclass
class Spy:
    """A detector that notes what it learns from, and whose score gives the split of a run away."""

    name = "spy"
    learned_from: list[Split] = field(default_factory=list)

    def fit(self, runs: Sequence[Recorded]) -> None:
        """Note the splits of the runs."""
        self.learned_from += [run.entry.split for run in runs]

    def scores(self, run: Recorded) -> NDArray[np.float64]:
        """The same for all steps of a split."""
        return np.full(len(run), SPY_SCORES[run.entry.split])


@pytest.mark.parametrize("entry_point", ["tune", "score"])
def test_a_detector_learns_from_calibrate_and_its_threshold_from_tune_alone(
    entry_point: str, bench: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy = Spy()
    if entry_point == "tune":
        folder = shutil.copytree(bench, tmp_path / "bench")
        monkeypatch.setattr("rftfm_ray.faultbench.scoring.frozen.baselines", lambda: (spy,))
        threshold = freeze(folder, lambda _: None).thresholds["spy"]
    else:
        threshold = evaluate(bench, lambda _: None, lambda: spy).ours.threshold
    assert set(spy.learned_from) == {Split.CALIBRATE}
    assert len(spy.learned_from) == sum(run.entry.split is Split.CALIBRATE for run in read_bench(bench))
    # Between the scores of tune and those of report: runs that are reported had no say in it.
    assert SPY_SCORES[Split.TUNE] < threshold < SPY_SCORES[Split.REPORT] / 1.5
