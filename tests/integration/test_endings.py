"""Runs of `rftfm train` in processes of their own, ended by a signal."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from rftfm_ray.runs.reader import read_run
from rftfm_ray.runs.verdict import progress_of
from rftfm_ray.telemetry.recorder import read_steps
from rftfm_ray.training.checkpoints import verify

ROOT = Path(__file__).parents[2]
START_S = 120.0
SMALL = (
    "steps=400", "probe.final_size=16", "probe.size=16", "task.pool_size=32", "algorithm.prompts_per_step=8",
    "algorithm.samples_per_prompt=4", "checkpoints.every=2", "report.at_end=false",
)  # fmt: skip


def start(run_dir: Path, *arguments: str) -> subprocess.Popen[str]:
    """A run of `rftfm train` with its texts in a pipe; without `RAY_ADDRESS` it has a Ray of its own."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return subprocess.Popen(
        [sys.executable, "-m", "rftfm_ray", "train", *arguments, "--run-dir", str(run_dir)],
        cwd=ROOT, env=environment | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, start_new_session=True,
    )  # fmt: skip


def wait_until(process: subprocess.Popen[str], is_so: Callable[[], bool]) -> None:
    """Wait while the process lives."""
    end = time.monotonic() + START_S
    while not is_so():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end, "the run does not get that far"
        time.sleep(0.05)


def events(run_dir: Path) -> list[dict[str, object]]:
    """The events of a run so far."""
    file = run_dir / "events.jsonl"
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def saved(run_dir: Path, count: int) -> bool:
    """Whether the run has written so many checkpoints."""
    return sum(event["kind"] == "checkpoint" for event in events(run_dir)) >= count


def test_run_that_sigterm_ends_is_continued_by_the_command_that_it_prints(tmp_path: Path) -> None:
    run_dir = tmp_path / "first run"
    process = start(run_dir, "examples/addition.yaml", *SMALL)
    wait_until(process, lambda: saved(run_dir, 1))
    assert "libtorch" not in Path(f"/proc/{process.pid}/maps").read_text(), (
        "a driver waits seconds for what it never uses"
    )
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    text, _ = process.communicate(timeout=60)
    assert process.returncode == 143, text
    assert time.monotonic() - began <= 10, text
    (sentence,) = [line for line in text.splitlines() if line.startswith("rftfm: Stopped")]
    words, _, command = sentence.partition("; go on with: rftfm train ")
    step = len(read_steps(run_dir))
    assert words == f"rftfm: Stopped by SIGTERM after step {step} of 400"
    assert "SIGTERM received" not in text, "not the handler of Ray"
    configuration, option, checkpoint = shlex.split(command)
    assert (configuration, option) == (str(run_dir / "config.yaml"), "--resume")
    assert verify(Path(checkpoint)).state.step == step
    assert progress_of(read_run(run_dir))[0] == "stopped"

    steps = str(step + 7)
    resumed = start(tmp_path / "second", configuration, option, checkpoint, f"steps={steps}")
    alone = start(tmp_path / "alone", "examples/addition.yaml", *SMALL, f"steps={steps}")
    for other in (resumed, alone):
        text, _ = other.communicate(timeout=240)
        assert other.returncode == 0, text
    both = pa.concat_tables([read_steps(run_dir), read_steps(tmp_path / "second")])
    expected = read_steps(tmp_path / "alone")
    timed = {name for name in expected.column_names if name.endswith("_s")}
    for name in set(expected.column_names) - timed:
        assert np.array_equal(both[name].to_numpy(), expected[name].to_numpy(), equal_nan=True), name


def descendants(pid: int) -> list[int]:
    """Processes that a process and its children have started and that have not ended."""
    own = [int(n) for file in Path(f"/proc/{pid}/task").glob("*/children") for n in file.read_text().split()]
    return [*own, *(further for child in own for further in descendants(child))]


def is_alive(pid: int) -> bool:
    """Whether a process has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.mark.parametrize("is_training", [False, True], ids=["start", "mid-run"])
def test_signal_to_every_process_of_a_job_ends_the_run_with_its_state(tmp_path: Path, *, is_training: bool) -> None:
    """Slurm and systemd send SIGTERM to Ray and the actors too, and `timeout` twice to the run."""
    run_dir = tmp_path / "run"
    process = start(run_dir, "examples/addition.yaml", *SMALL)
    wait_until(process, lambda: saved(run_dir, 1) if is_training else len(descendants(process.pid)) > 1)
    began, others = time.monotonic(), descendants(process.pid)
    for pid in others:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    process.terminate()
    os.killpg(process.pid, signal.SIGTERM)
    text, _ = process.communicate(timeout=60)
    assert process.returncode == 143, text
    assert time.monotonic() - began <= 10, text
    (sentence,) = [line for line in text.splitlines() if line.startswith("rftfm: Stopped")]
    if is_training:
        assert verify(Path(shlex.split(sentence)[-1])).state.step == len(read_steps(run_dir)) > 0
    else:
        assert sentence.endswith("before the first step; nothing has been trained yet.")
    end = time.monotonic() + 60
    # Ray's own agents look for their node every few seconds.
    while left := [pid for pid in others if is_alive(pid)]:
        assert time.monotonic() < end, left
        time.sleep(0.2)
