"""`rftfm faultbench teach` on a small simulated benchmark: followed runs, and the file that it writes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from rftfm_ray.cli.app import app
from rftfm_ray.detection.reference.mixture import reference_of
from rftfm_ray.diagnosis.features import SINCE_ONSET
from rftfm_ray.diagnosis.model import OWN_PAST, PROFILE, read_model
from rftfm_ray.errors import BenchError, ConfigError, DiagnosisModelError
from rftfm_ray.faultbench.detectors.references import ReferenceMode
from rftfm_ray.faultbench.runs.dataset import (
    MANIFEST,
    Manifest,
    Record,
    Recorded,
    digest,
    shard_path,
    write_manifest,
    write_records,
)
from rftfm_ray.faultbench.runs.plan import Kind, Split
from rftfm_ray.faultbench.teaching import learning
from rftfm_ray.faultbench.teaching.following import follow
from rftfm_ray.faultbench.teaching.teach import follow_runs
from rftfm_ray.tasks import relations
from tests.unit.faultbench.simulated import ONSET, STEPS, simulated

HEALTHY = [simulated(seed) for seed in range(8)]
FAULTY = [simulated(seed, "template", size=3) for seed in range(4)]
OTHERS = [replace(run, entry=replace(run.entry, split=Split.TUNE)) for run in (simulated(100), simulated(101))]


@pytest.fixture(scope="module", autouse=True)
def _rewards_follow_nothing() -> Iterator[None]:
    """Simulated rewards follow the share of right answers closely, and not as the task says: that is no law here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(relations, "RELATIONS", {})
        yield


def benchmark(folder: Path, *runs: Recorded) -> Path:
    """A folder with these runs."""
    shard = shard_path(folder, 0)
    write_records(shard, [Record(run.entry, run.outcome, run.values) for run in runs])
    files = {path.name: digest(path) for path in (shard.with_suffix(".json"), shard.with_suffix(".parquet"))}
    steps = sum(map(len, runs))
    write_manifest(folder, Manifest("tiny", 1, len(runs), steps, "a command", {}, "a machine", 1.0, "", files))
    return folder


def test_run_is_followed_as_a_guard_sees_it() -> None:
    followed = follow(FAULTY[0], reference_of(None, None))
    assert (len(followed), followed.switch, followed.effect, followed.codes) == (STEPS, ONSET, ONSET, ("OD-1",))
    assert len(followed.residuals) == len(followed.values) == len(followed.symptoms) == len(followed.profiled) == STEPS
    assert not followed.profiled.any()
    for each in followed.diagnosed:
        # The features of a window are those that a diagnoser gets.
        features = followed.features(each.onset, each.step)
        window, wanted = features.window, each.case.features.window
        assert window is not None
        assert wanted is not None
        np.testing.assert_array_equal(window.residuals, wanted.residuals)
        np.testing.assert_array_equal(window.figures, wanted.figures)
    assert followed.diagnosed
    window = followed.window(1, STEPS)
    assert len(window.residuals) == SINCE_ONSET


def test_runs_of_the_asked_splits_are_followed_with_each_kind_of_reference() -> None:
    long = replace(HEALTHY[0], entry=replace(HEALTHY[0].entry, name="long", kind=Kind.LONG))
    by_mode = follow_runs([*HEALTHY, *FAULTY, *OTHERS, long], [Split.CALIBRATE])
    names = {run.entry.name for run in (*HEALTHY, *FAULTY)}
    for mode in (ReferenceMode.NONE, ReferenceMode.THREE):
        assert {run.entry.name for run in by_mode[mode]} == names
        assert all(run.profiled.any() == (mode is not ReferenceMode.NONE) for run in by_mode[mode])
    tuned = follow_runs([*HEALTHY, *OTHERS], [Split.TUNE])
    assert {run.entry.name for run in tuned[ReferenceMode.NONE]} == {run.entry.name for run in OTHERS}


def test_command_teaches_a_model_and_says_what_it_is_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learning, "FOLD_TREES", 2)
    data, out = benchmark(tmp_path, *HEALTHY, *FAULTY, *OTHERS), tmp_path / "out.npz"
    result = CliRunner().invoke(app, ["faultbench", "teach", "--data", str(data), "--out", str(out), "--workers", "1"])
    assert result.exit_code == 0, result.output
    assert f"sha256 {digest(out)}" in result.output
    assert "12 runs" in result.output, "the tune split does not teach"
    model = read_model(out)
    assert model.info.taught_on == digest(data / MANIFEST)
    assert model.info.command == "rftfm faultbench teach"
    assert set(model.forests) == {PROFILE, OWN_PAST}


def test_unknown_split_is_refused_with_those_that_there_are(tmp_path: Path) -> None:
    result = CliRunner().invoke(
        app, ["faultbench", "teach", "--data", str(tmp_path), "--split", "calibrate", "--split", "test"]
    )
    assert isinstance(result.exception, ConfigError)
    assert str(result.exception) == "Unknown split test; choose among calibrate, tune, report."


@pytest.mark.parametrize(("runs", "error"), [((), BenchError), (HEALTHY, DiagnosisModelError)])
def test_benchmark_that_teaches_nothing_is_refused(
    tmp_path: Path, runs: tuple[Recorded, ...], error: type[Exception]
) -> None:
    if runs:
        benchmark(tmp_path, *runs)
    out = tmp_path / "out.npz"
    result = CliRunner().invoke(
        app, ["faultbench", "teach", "--data", str(tmp_path), "--out", str(out), "--workers", "1"]
    )
    assert isinstance(result.exception, error)
    assert not out.exists()
