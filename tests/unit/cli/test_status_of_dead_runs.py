"""A run that goes on is told from one that has died, and from one that a signal has stopped."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from rftfm_ray.cli.status import standing, status
from rftfm_ray.config import load_config
from rftfm_ray.report import write_report
from rftfm_ray.runs.reader import RunData, read_run
from rftfm_ray.runs.verdict import progress_of, verdict
from rftfm_ray.telemetry.events import EventLog, Scalar
from rftfm_ray.telemetry.parts import PartFolder
from rftfm_ray.telemetry.process import this_process
from rftfm_ray.telemetry.recorder import STEP_SCHEMA
from rftfm_ray.types import StepId
from tests.unit.doubles import row

MakeRun = Callable[..., Path]


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Writes the directory of a run that has made seven steps."""

    def make(name: str = "run") -> Path:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.yaml").write_text(load_config(None, ["steps=20"]).to_yaml())
        PartFolder(folder / "steps", STEP_SCHEMA).write([row(StepId(0, n, n)) for n in range(1, 8)])
        return folder

    return make


def shown(run: Path) -> str:
    """What `rftfm status` says of a run."""
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(status)
    return CliRunner().invoke(app, [str(run)]).output


def started(run: Path, **process: Scalar) -> RunData:
    """The run with the process that drives it in its records."""
    EventLog(run / "events.jsonl").append("run_started", None, run="run-1", **process)
    return read_run(run)


def test_run_whose_process_is_gone_is_dead(make_run: MakeRun) -> None:
    here = this_process()
    alive = started(make_run("alive"), pid=here.pid, host=here.host, process_started=here.started)
    assert progress_of(alive)[0] == "going on"
    reused = started(make_run("reused"), pid=here.pid, host=here.host, process_started=here.started + 1)
    assert progress_of(reused) == (
        "dead", f"The run has died: process {here.pid} is gone, and it has recorded no end.",
    )  # fmt: skip
    assert verdict(reused, (), ())[0] == "bad"
    ended = subprocess.Popen([sys.executable, "-c", ""])
    identity = dataclasses.asdict(this_process()) | {"pid": ended.pid}
    ended.wait()
    gone = started(make_run("gone"), pid=ended.pid, host=identity["host"], process_started=identity["started"])
    facts = standing(gone)
    assert facts["state"] == "dead"
    assert "dead, newest record" in shown(gone.run_dir)
    assert f"process {ended.pid} is gone" in shown(gone.run_dir)
    assert f"process {ended.pid} is gone" in write_report(gone.run_dir).read_text()


def test_run_on_another_host_is_judged_by_its_silence(make_run: MakeRun) -> None:
    away = started(make_run(), pid=1, host="elsewhere", process_started=5)
    assert away.running is None
    for silent_s, step_s, state in (
        (500.0, 1.0, "going on"), (700.0, 1.0, "dead"), (700.0, 60.0, "going on"), (3000.0, 60.0, "dead"),
        (700.0, math.nan, "dead"), (500.0, math.nan, "going on"),
    ):  # fmt: skip
        steps = dataclasses.replace(away.steps, columns={"step_s": (step_s,) * len(away.steps.ids)})
        data = dataclasses.replace(away, steps=steps, read_s=away.newest_s + silent_s)
        assert progress_of(data)[0] == state, (silent_s, step_s)
    assert (
        "probably died: its last record is 50 minutes old"
        in progress_of(dataclasses.replace(away, read_s=away.newest_s + 3000))[1]
    )


def test_stopped_run_says_by_what_and_how_to_go_on(make_run: MakeRun) -> None:
    run = make_run()
    EventLog(run / "events.jsonl").append("run_stopped", StepId(0, 7, 7), signal="SIGTERM", checkpoint="step-000007")
    assert progress_of(read_run(run)) == ("stopped", "The run was stopped by SIGTERM after step 7.")
    assert "state        stopped\n" in shown(run)
