"""Thresholds and scores of a whole benchmark: healthy runs of the real stack, with simulated faults on top."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from rich.console import Console
from typer.testing import CliRunner

from rftfm_ray.cli.app import app
from rftfm_ray.detection.detectors.custom import load_detectors
from rftfm_ray.errors import BenchError
from rftfm_ray.faultbench.detectors.baselines import ThreeSigma
from rftfm_ray.faultbench.detectors.guard import GuardTrace, OpenedIncident
from rftfm_ray.faultbench.detectors.oracle import Oracle
from rftfm_ray.faultbench.detectors.peers import RlWatch
from rftfm_ray.faultbench.detectors.references import ReferenceMode, References
from rftfm_ray.faultbench.reproduce import Alarms, Difference, Reproduced
from rftfm_ray.faultbench.runs.dataset import NAMES, Outcome, Record, Recorded, Rows, read_bench, write_records
from rftfm_ray.faultbench.runs.drawing import Size
from rftfm_ray.faultbench.runs.generate import Job
from rftfm_ray.faultbench.runs.plan import Entry, Kind, Split
from rftfm_ray.faultbench.runs.sizes import FIRST_MECHANISMS, SIZES
from rftfm_ray.faultbench.scoring.frozen import FROZEN, freeze, read_frozen
from rftfm_ray.faultbench.scoring.guarding import GuardSetup
from rftfm_ray.faultbench.scoring.score import COLUMNS, ScoreOptions, score_benchmark
from rftfm_ray.faultbench.scoring.summary import summary_of
from rftfm_ray.faultbench.scoring.tables import show
from rftfm_ray.faultbench.scoring.thresholds import ScoredRun, tuned_threshold
from tests.unit.doubles import recorded_runs

MINE = f"{Path(__file__).parents[3] / 'examples' / 'custom_detector.py'}:RewardShift"
SIZE = Size(
    {"tiny": "CRTR" * 5}, long=0, faults={"easy": 32, "hard": 32}, controls=8, declared=0, pairs=4,
    steps=(30, 40),
    combinations=(("addition", "grpo"),), codes=("RF-1", "OD-3"), mechanisms=FIRST_MECHANISMS,
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


@pytest.fixture(scope="module", autouse=True)
def _five_runs_are_a_full_profile() -> Iterator[None]:
    """So that a benchmark of twenty seeds, five of them for calibrate, has all modes; and two draws will do."""
    with pytest.MonkeyPatch.context() as patch:
        for module in ("detectors.references", "scoring.guarding"):
            patch.setattr(f"rftfm_ray.faultbench.{module}.DRAWS", 2)
        patch.setattr("rftfm_ray.faultbench.detectors.references.FULL_RUNS", 5)
        yield


@pytest.fixture
def _little_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is compared with the guard is one rule, its columns are those of one trainer, its multipliers not tuned."""
    monkeypatch.setattr("rftfm_ray.faultbench.scoring.frozen.baselines", lambda: (ThreeSigma(),))
    monkeypatch.setattr("rftfm_ray.faultbench.scoring.frozen.tuned_multiplier", lambda _: 1.0)
    monkeypatch.setattr("rftfm_ray.faultbench.scoring.score.COLUMNS", {"trl": COLUMNS["trl"]})


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
def figures(bench: Path) -> dict[str, Any]:
    """The score, as it is printed."""
    summary = summary_of(score_benchmark(bench, lambda _: None))
    printed: dict[str, Any] = json.loads(json.dumps(summary, allow_nan=False))
    return printed


def with_key(printed: object, key: str) -> list[object]:
    """All that a key stands for anywhere in what is printed."""
    if isinstance(printed, Mapping):
        here = [printed[key]] if key in printed else []
        return [*here, *(one for value in printed.values() for one in with_key(value, key))]
    return [one for value in printed for one in with_key(value, key)] if isinstance(printed, list) else []


@pytest.mark.parametrize("mode", ["none", "three", "profile"])
def test_each_mode_has_the_form_that_is_promised(mode: str, figures: dict[str, Any]) -> None:
    one = figures["modes"][mode]
    assert one["runs"] == figures["runs"]
    assert one["draws"] == (2 if mode == "three" else 1)
    for evidence in ("telemetry", "all"):
        for kind in ("healthy", "benign"):
            assert {"rate", "upper95", "steps"} <= set(one["false_alarms_per_1000"][kind][evidence])
        for level in ("easy", "hard"):
            for what in ("recall", "recall_from_effect"):
                assert set(one[what][level][evidence]) == {"rate", "low95", "high95", "n"}
            assert set(one["delay"][level][evidence]) == {"median", "p90", "censored", "n"}
            from_effect, from_switch = (one[what][level][evidence] for what in ("recall_from_effect", "recall"))
            assert from_effect["n"] == from_switch["n"] == 16
            assert from_effect["rate"] <= from_switch["rate"]
    assert {row["by"] for row in one["by_fault"]} >= {"fault", "mechanism", "onset", "duration", "family"}
    assert {row["evidence"] for row in one["by_fault"]} == {"telemetry", "all"}
    assert {"name", "level", "recall", "recall_from_effect", "delay"} <= set(one["by_fault"][0])
    assert one["paper"]["telemetry"]["easy"]["flag_everything"]["recall"] == 1.0
    for what in ("recall", "recall_from_effect"):
        assert one["worst_draw"][what]["easy"]["all"] <= one[what]["easy"]["all"]["rate"] + 1e-6


def test_score_has_the_form_that_is_promised(figures: dict[str, Any], bench: Path) -> None:
    frozen, digest = read_frozen(bench)
    assert (figures["split"], figures["detector"]) == ("report", "rftfm")
    assert with_key(figures, "thresholds_sha256") == [digest], "once, as all modes have it from one file"
    assert figures["multipliers"] == frozen.multipliers
    assert set(frozen.multipliers) == {"none", "small", "full"}
    assert set(figures["modes"]) == {"none", "three", "profile"}
    rates = figures["modes"]["none"]["false_alarms_per_1000"]["healthy"]
    assert figures["healthy_steps"] == rates["telemetry"]["steps"] == rates["all"]["steps"] > 300
    assert set(figures["baselines"]) == {"three_sigma", "shift_score", "isolation_forest", "local_outlier_factor"}
    assert set(figures["shipped_priors"]) == {"false_alarms_per_1000", "recall", "recall_from_effect", "delay"}
    assert {name: set(modes) for name, modes in figures["columns"].items()} == {
        "trl": {"none", "profile"}, "verl": {"none", "profile"},
    }  # fmt: skip
    assert figures["disabled"] == {}
    assert "tuned" not in figures, "the guard has its own thresholds alone"


def test_what_is_plain_is_found_and_healthy_runs_are_left_alone(figures: dict[str, Any]) -> None:
    full = figures["modes"]["profile"]
    assert full["recall"]["easy"]["telemetry"]["rate"] >= 0.9
    # The rows of a control here are those of its healthy run: where a size of groups is declared, their credit is not
    # what was declared.
    assert {one["run"].split("-")[0] for one in full["actions"]} <= {"group_size"}
    assert full["actions_on_healthy"] == len(full["actions"])
    assert figures["oracle"]["easy"]["telemetry"]["recall"]["rate"] >= 0.9
    for mode in figures["modes"].values():
        assert mode["recall"]["easy"]["telemetry"]["rate"] >= mode["recall"]["hard"]["telemetry"]["rate"]
    best = max(one["recall"]["hard"]["telemetry"]["rate"] for one in figures["baselines"].values())
    # With five runs to learn from, how they go together is hardly known: one run of sixteen may be lost by it.
    assert full["recall"]["hard"]["telemetry"]["rate"] >= best - 1 / 16


@pytest.mark.usefixtures("_little_else")
def test_peers_are_compared_with_when_asked(bench: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rftfm_ray.faultbench.scoring.frozen.peers", lambda: (RlWatch(),))
    asked = ScoreOptions(with_peers=True)
    with pytest.raises(BenchError, match="no threshold of rlwatch"):
        score_benchmark(bench, lambda _: None, asked)
    folder = shutil.copytree(bench, tmp_path / "bench")
    freeze(folder, lambda _: None, with_peers=True)
    theirs: Any = summary_of(score_benchmark(folder, lambda _: None, asked))["baselines"]
    shipped, tuned = theirs["rlwatch_as_shipped"], theirs["rlwatch"]
    # What is tuned to the budget says less, and is wrong less often.
    rates = [one["false_alarms_per_1000"]["healthy"]["telemetry"]["rate"] for one in (shipped, tuned)]
    assert rates[0] > 2 * rates[1]
    monkeypatch.setattr("rftfm_ray.faultbench.scoring.frozen.missing", lambda: ("rlwatch",))
    with pytest.raises(BenchError, match=r"rlwatch cannot be compared with; `pip install rftfm_ray\[peers\]`"):
        score_benchmark(bench, lambda _: None, asked)


def test_thresholds_of_other_runs_are_refused(bench: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(bench, tmp_path / "bench")
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"minutes": 0.0', '"minutes": 0.5'))
    with pytest.raises(BenchError, match="made from other runs"):
        score_benchmark(folder, lambda _: None)
    (folder / FROZEN).write_text("{}")
    with pytest.raises(BenchError, match="damaged"):
        read_frozen(folder)
    (folder / FROZEN).unlink()
    with pytest.raises(BenchError, match="has no frozen"):
        read_frozen(folder)


def test_a_repeated_run_is_the_same_by_rows_alarms_and_incidents() -> None:
    equal, apart = Difference("", 0.0, is_exact=True), Difference("entropy from step 3 on", 2.0, is_exact=False)
    alarms, other = (Alarms(ReferenceMode.NONE, (12,), live) for live in ((12,), (13,)))
    incident = (OpenedIncident(12, "RF-1"),)
    assert Reproduced("run", equal, (alarms,), incident, incident).is_same
    assert Reproduced("run", equal, (), (), ()).is_same
    assert not Reproduced("run", apart, (alarms,), incident, incident).is_same
    assert not Reproduced("run", equal, (alarms, other), incident, incident).is_same
    assert not Reproduced("run", equal, (alarms,), incident, ()).is_same
    assert not Reproduced("run", equal, (alarms,), incident, (OpenedIncident(12, "OD-3"),)).is_same


def scored_from_the_command_line(bench: Path, detector: str) -> dict[str, Any]:
    """What `rftfm faultbench score --json` prints for a detector of the user's."""
    arguments = ["faultbench", "score", "--data", str(bench), "--detector", detector, "--workers", "1", "--json"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    printed: dict[str, Any] = json.loads(done.stdout)
    return printed


@pytest.mark.usefixtures("_little_else")
def test_a_detector_of_one_s_own_is_scored_from_the_command_line(bench: Path) -> None:
    printed = scored_from_the_command_line(bench, MINE)
    assert (printed["detector"], printed["disabled"]) == ("reward_shift", {})
    full = printed["modes"]["profile"]
    rows = [row for row in full["by_fault"] if row["by"] == "fault" and row["level"] == "easy"]
    shown = {row["name"]: row["recall"]["rate"] for row in rows}
    assert shown["RF-1"] > shown["OD-3"], "it watches rewards alone"
    assert set(printed["tuned"]) == set(printed["modes"])
    assert printed["tuned"]["profile"]["threshold"] > 0
    assert not {"shipped_priors", "columns"} & set(printed), "they are the guard's"


@pytest.mark.usefixtures("_little_else")
def test_a_detector_that_raises_is_reported_as_disabled(bench: Path, tmp_path: Path) -> None:
    lines = (
        "class Fragile:",
        "    name = 'fragile'",
        "    def observe(self, view):",
        "        raise OSError('no disk')",
    )
    file = tmp_path / "fragile_detector.py"
    file.write_text("\n".join(lines) + "\n")
    printed = scored_from_the_command_line(bench, f"{file}:Fragile")
    assert list(printed["disabled"]) == ["fragile"]
    assert "no disk" in printed["disabled"]["fragile"]
    assert printed["modes"]["none"]["recall"]["easy"]["all"]["rate"] == 0
    console = Console(file=StringIO(), width=200)
    show(printed, console)
    assert isinstance(console.file, StringIO)
    assert "Detector fragile was disabled in" in console.file.getvalue()


@pytest.mark.usefixtures("_little_else")
def test_score_is_shown_in_the_terminal(bench: Path) -> None:
    done = CliRunner().invoke(app, ["faultbench", "score", "--data", str(bench)], env={"COLUMNS": "160"})
    assert done.exit_code == 0, done.output
    for name in ("oracle", "three_sigma", "no profile", "profile of 3 runs", "trl columns"):
        assert name in done.stdout


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


@pytest.mark.usefixtures("_little_else")
@pytest.mark.parametrize("entry_point", ["tune", "score"])
def test_a_detector_learns_from_calibrate_and_its_threshold_from_tune_alone(
    entry_point: str, bench: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy, folder = Spy(), shutil.copytree(bench, tmp_path / "bench")
    monkeypatch.setattr("rftfm_ray.faultbench.scoring.score.COLUMNS", {})
    monkeypatch.setattr("rftfm_ray.faultbench.scoring.frozen.baselines", lambda: (spy,))
    threshold = freeze(folder, lambda _: None).thresholds["spy"]
    if entry_point == "score":
        spy.learned_from.clear()
        (one,) = score_benchmark(folder, lambda _: None).compared
        assert {scored.run.entry.split for scored in one.scored} == {Split.REPORT}
        assert one.threshold == threshold
    assert set(spy.learned_from) == {Split.CALIBRATE}
    assert len(spy.learned_from) == sum(run.entry.split is Split.CALIBRATE for run in read_bench(bench))
    # Between the scores of tune and those of report: runs that are reported had no say in it.
    assert SPY_SCORES[Split.TUNE] < threshold < SPY_SCORES[Split.REPORT] / 1.5


class Watched:
    """Notes the splits of what the guard's references are learnt from, and of the runs that it judges."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.learned_from, self.judged = set[Split](), set[Split]()
        learn, trace = References.__init__, GuardSetup.trace

        def learning(references: References, calibrate: Sequence[Recorded], **how: Any) -> None:
            self.learned_from |= {run.entry.split for run in calibrate}
            learn(references, calibrate, **how)

        def tracing(setup: GuardSetup, run: Recorded, draw: int) -> GuardTrace:
            self.judged.add(run.entry.split)
            return trace(setup, run, draw)

        monkeypatch.setattr(References, "__init__", learning)
        monkeypatch.setattr(GuardSetup, "trace", tracing)
        monkeypatch.setattr("rftfm_ray.faultbench.scoring.guarding.workers_by_default", lambda: 1)


def test_multipliers_of_the_guard_are_set_on_tune_and_reported_on_report(
    bench: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rftfm_ray.faultbench.scoring.frozen.baselines", tuple)
    monkeypatch.setattr("rftfm_ray.faultbench.scoring.score.COLUMNS", {})
    folder, watched = shutil.copytree(bench, tmp_path / "bench"), Watched(monkeypatch)
    assert freeze(folder, lambda _: None).multipliers == read_frozen(bench)[0].multipliers
    assert (watched.learned_from, watched.judged) == ({Split.CALIBRATE}, {Split.TUNE})
    watched.judged.clear()
    score_benchmark(folder, lambda _: None)
    assert (watched.learned_from, watched.judged) == ({Split.CALIBRATE}, {Split.REPORT})


class WatchedOracle:
    """Notes the splits of what the oracle learns from, and of the runs that it reads after that."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.learned_from, self.read = set[Split](), set[Split]()
        learn, residuals = Oracle.__init__, Oracle.residuals
        learnt = list[Oracle]()

        def learning(oracle: Oracle, runs: Sequence[Recorded]) -> None:
            self.learned_from |= {run.entry.split for run in runs}
            learn(oracle, runs)
            learnt.append(oracle)

        def reading(oracle: Oracle, run: Recorded) -> NDArray[np.float64]:
            if oracle in learnt:
                self.read.add(run.entry.split)
            return residuals(oracle, run)

        monkeypatch.setattr(Oracle, "__init__", learning)
        monkeypatch.setattr(Oracle, "residuals", reading)


@pytest.mark.usefixtures("_little_else")
def test_the_oracle_learns_from_calibrate_and_its_thresholds_from_tune_alone(
    bench: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, watched = shutil.copytree(bench, tmp_path / "bench"), WatchedOracle(monkeypatch)
    assert freeze(folder, lambda _: None).oracle
    assert (watched.learned_from, watched.read) == ({Split.CALIBRATE}, {Split.TUNE})


@pytest.mark.usefixtures("_little_else")
def test_score_tunes_a_detector_of_one_s_own_on_tune_and_reads_the_oracle_on_report(
    bench: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched, tuned_on = WatchedOracle(monkeypatch), set[Split]()

    def tuning(draws: Sequence[Sequence[ScoredRun]]) -> float:
        tuned_on.update(scored.run.entry.split for draw in draws for scored in draw)
        return tuned_threshold(draws)

    monkeypatch.setattr("rftfm_ray.faultbench.scoring.score.tuned_threshold", tuning)
    found = score_benchmark(bench, lambda _: None, ScoreOptions(load_detectors([MINE]), workers=1))
    assert set(found.tuned) == set(ReferenceMode)
    assert tuned_on == {Split.TUNE}
    assert (watched.learned_from, watched.read) == ({Split.CALIBRATE}, {Split.REPORT})
