"""What `rftfm train` says and returns at the end of a run: a good state, a bad one, a signal."""

from __future__ import annotations

import dataclasses
import json
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from rftfm_ray import planning
from rftfm_ray.cli import train as train_module
from rftfm_ray.cli.app import app
from rftfm_ray.cli.train import summary_table
from rftfm_ray.driver import run as run_module
from rftfm_ray.driver.loop import Listeners
from rftfm_ray.errors import TerminatedRunError
from rftfm_ray.faults.drill import Drill
from rftfm_ray.runs.advice import Advice
from rftfm_ray.types import EndingProblem, IncidentSummary, RunSummary

DROP = EndingProblem("below_best", "Held-out accuracy was 0.9 at step 5 and ended at 0.1.", before=0.9, after=0.1)
OPEN = EndingProblem("incident", "Incident #1 (OD-1, opened at step 3) was still open at the end.", incident=1)
GOOD = RunSummary(
    run_dir="/runs/a", seed=3, steps=40, reward_first=0.3, reward_last=0.9, probe_first=0.3, probe_last=0.9,
    probe_sampled_first=0.2, probe_sampled_last=0.8, step_time_s_median=0.2, first_step_s=12.3, vetoes=0,
    guard="act", incidents=(), remedies=0, paid_steps=40, guard_waits=0,
)  # fmt: skip
INCIDENT = IncidentSummary("OD-1", 3, 3, "escalated", (), None)
BAD = dataclasses.replace(GOOD, ending=(DROP, OPEN), incidents=(INCIDENT,))

Train = Callable[..., Result]


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Train:
    """`rftfm train` on a run that ends with this summary, or as `executed` says."""

    def command(summary: RunSummary, *arguments: str, executed: Callable[[Listeners], Any] | None = None) -> Result:
        def execute(_: object, listeners: Listeners, *__: object) -> RunSummary:
            if executed is not None:
                executed(listeners)
            return summary

        monkeypatch.setattr(planning, "plan", lambda *_, **__: SimpleNamespace(drill=Drill(), folder=tmp_path))
        monkeypatch.setattr(run_module, "execute", execute)
        (tmp_path / "run.yaml").write_text("steps: 40\n")
        return CliRunner().invoke(app, ["train", str(tmp_path / "run.yaml"), *arguments])

    return command


def test_run_that_ends_well_returns_0(train: Train) -> None:
    done = train(GOOD)
    assert (done.exit_code, "ended with a problem" in done.output) == (0, False)


def test_run_that_ends_badly_says_so_in_table_and_last_lines_and_returns_4(train: Train) -> None:
    done = train(BAD)
    assert done.exit_code == 4
    assert done.stderr.splitlines()[-2:] == [f"rftfm: {DROP.message}", f"rftfm: {OPEN.message}"]
    table = [line for line in done.stdout.splitlines() if "ended with a problem" in line]
    assert [line.split("│")[-2].strip() for line in table] == ["below best", "OD-1 escalated"]
    assert summary_table(GOOD).row_count == summary_table(BAD).row_count - 2


def test_run_that_is_only_observed_ends_with_what_a_guard_that_may_act_would_do(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    advised = Advice(("Incident #1 (OD-1): if it may act, the guard tries lower_rate.",), "rftfm train run.yaml")
    data = SimpleNamespace(entries=())
    monkeypatch.setattr(train_module, "read_run", lambda _: data)
    monkeypatch.setattr(train_module, "advice", lambda *_: advised)
    assert train(GOOD).stderr.splitlines()[-3:] == [
        "Nothing was done about it: guard.mode=observe.",
        *advised.sentences,
        "To train again, from the start, with a guard that may act: rftfm train run.yaml",
    ]
    assert "Nothing was done" not in train(GOOD, "guard.mode=act").stderr


def test_harm_may_be_only_said(train: Train) -> None:
    done = train(BAD, "guard.on_harm=warn")
    assert (done.exit_code, DROP.message in done.stderr) == (0, True)


def test_json_holds_the_problems_as_objects(train: Train) -> None:
    done = train(BAD, "--json")
    assert done.exit_code == 4
    assert json.loads(done.stdout)["ending"] == [
        {"kind": "below_best", "message": DROP.message, "before": 0.9, "after": 0.1, "incident": 0},
        {"kind": "incident", "message": OPEN.message, "before": None, "after": None, "incident": 1},
    ]
    assert json.loads(train(GOOD, "--json").stdout)["ending"] == []


def test_signal_ends_the_command_with_the_sentence_of_the_run(train: Train) -> None:
    before = signal.getsignal(signal.SIGTERM)

    def executed(listeners: Listeners) -> None:
        listeners.stop.defer()
        signal.raise_signal(signal.SIGTERM)
        listeners.stopped("Stopped by SIGTERM after step 3 of 40; go on with: rftfm train '/a b/config.yaml'")
        raise listeners.stop.error("Stopped.")

    done = train(GOOD, executed=executed)
    assert isinstance(done.exception, TerminatedRunError)
    lines = done.stderr.splitlines()
    assert lines[-1] == "rftfm: Stopped by SIGTERM after step 3 of 40; go on with: rftfm train '/a b/config.yaml'"
    assert done.stdout == ""
    assert signal.getsignal(signal.SIGTERM) is before
