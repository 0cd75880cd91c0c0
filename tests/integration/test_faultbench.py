"""The small benchmark, live: made in two goes, some of it made again, thresholds set, and scored."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rftfm_ray.faultbench.runs.dataset import TIMES, is_complete, read_bench, read_manifest
from rftfm_ray.faultbench.runs.generate import Job
from rftfm_ray.faultbench.runs.plan import Kind
from rftfm_ray.signals.schema import SIGNALS

pytestmark = pytest.mark.slow

# Two seeds at a time on two cores; a busy machine takes twice as long.
GENERATE_S = 900.0


def rftfm(*arguments: str) -> subprocess.Popen[str]:
    """A command of its own, with a Ray of its own."""
    command = [sys.executable, "-m", "rftfm_ray", "faultbench", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finished(process: subprocess.Popen[str], seconds: float) -> str:
    """What it has printed; it must have ended well."""
    out, err = process.communicate(timeout=seconds)
    assert process.returncode == 0, err[-2000:]
    return out


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small benchmark: begun, interrupted when a seed was there, and gone on with."""
    folder = tmp_path_factory.mktemp("bench")
    job, generate = Job(str(folder), "smoke", 1), ("generate", "--size", "smoke", "--data", str(folder))
    first, end = rftfm(*generate), time.monotonic() + GENERATE_S
    while first.poll() is None and not any(is_complete(job.parts / str(seed)) for seed in job.groups()):
        assert time.monotonic() < end
        time.sleep(0.5)
    first.terminate()
    first.communicate(timeout=60)
    kept = {seed for seed in job.groups() if is_complete(job.parts / str(seed))}
    assert kept
    said = finished(rftfm(*generate), GENERATE_S)
    assert not any(f"seed {seed}:" in said for seed in kept), "what is there is not made again"
    return folder


@pytest.mark.timeout(2 * GENERATE_S)
def test_all_runs_are_there_and_faults_have_their_effects(bench: Path) -> None:
    runs, manifest = read_bench(bench), read_manifest(bench)
    assert [run.entry for run in runs] == list(Job(str(bench), "smoke", 1).entries)
    assert manifest.runs == len(runs)
    assert all(len(run) == run.entry.steps for run in runs)
    faults = [run for run in runs if run.entry.kind is Kind.FAULT]
    assert all(run.outcome.effects == run.outcome.switched for run in faults if "ramp" not in run.entry.inject[0])
    assert all(not run.outcome.switched for run in runs if run.entry.kind in (Kind.HEALTHY, Kind.CONTROL))


def test_dirty_runs_show_their_background_and_clean_ones_do_not(bench: Path) -> None:
    # Weights are rounded on their way to the rollout, so that its log-probs differ from the learner's.
    healthy = [run for run in read_bench(bench) if run.entry.kind is Kind.HEALTHY]
    gaps = {
        dirty: [float(np.abs(run.signal("rollout_kl")).max()) for run in healthy if run.entry.dirty is dirty]
        for dirty in (False, True)
    }
    assert min(gaps[True]) > 10 * max(gaps[False])
    clipped = [
        run.signal(name) for name in ("clip_low_rate", "clip_high_rate") for run in healthy if not run.entry.dirty
    ]
    assert all(np.nansum(rate) == 0 for rate in clipped)


def test_forks_are_their_healthy_run_until_something_happens(bench: Path) -> None:
    """Forks begin at a checkpoint of their healthy run, up to some steps before their fault, also dirty ones."""
    runs = read_bench(bench)
    healthy = {run.entry.seed: run for run in runs if run.entry.kind is Kind.HEALTHY}
    names = [signal.name for signal in SIGNALS if signal.name not in TIMES]
    compared = set()
    for run in (run for run in runs if run.entry.inject and run.entry.fork + 1 < run.entry.onset):
        steps = slice(run.entry.fork, run.entry.onset - 1)
        for name in names:
            one, other = run.signal(name)[steps], healthy[run.entry.seed].signal(name)[steps]
            assert np.array_equal(one, other, equal_nan=True), (run.entry.name, name)
        compared.add(run.entry.dirty)
    assert compared == {False, True}


@pytest.mark.timeout(GENERATE_S)
def test_repeated_runs_have_the_same_rows_alarms_and_incidents(bench: Path) -> None:
    # Exit code 0: whatever differs would have made it 1.
    said = finished(rftfm("verify", "--data", str(bench), "--sample", "3", "--draw", "5"), GENERATE_S)
    assert said.count("equal bit for bit") == 3


@pytest.mark.timeout(GENERATE_S)
def test_it_is_tuned_and_scored(bench: Path) -> None:
    finished(rftfm("tune", "--data", str(bench)), GENERATE_S)
    found: dict[str, Any] = json.loads(finished(rftfm("score", "--data", str(bench), "--json"), GENERATE_S))
    assert found["runs"] == sum(run.entry.split == "report" for run in read_bench(bench))
    assert set(found["modes"]) == {"none", "three", "profile"}
    assert found["modes"]["none"]["actions_on_healthy"] == 0
    # So few runs say little of a detector; what is exact needs no runs to learn from.
    assert found["modes"]["none"]["recall"]["easy"]["all"]["rate"] >= 0.5
    cells = found["backgrounds"]["none"]["cells"]
    assert {cell["background"]: cell["recall"]["n"] for cell in cells if cell["onset"] == "any"} == {
        "clean": 5, "dirty": 5, "both": 10,
    }  # fmt: skip
