"""How a run ends other than well: what the user is told, and what goes on from there."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from rftfm_ray.config import load_config
from rftfm_ray.driver import run as run_module
from rftfm_ray.driver.loop import Listeners
from rftfm_ray.driver.run import execute
from rftfm_ray.driver.stopping import StopSignal
from rftfm_ray.errors import LearnerError, RecordError, RftfmError, RolloutError, SignalInterrupt, TerminatedRunError
from rftfm_ray.planning import RunPlan
from rftfm_ray.telemetry.records import RunRecords
from tests.unit.doubles import make_plan

CONFIG = load_config(None, ["steps=40", "guard.mode=off", "report.at_end=false"])


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunPlan:
    """A run on a cluster that is none."""
    monkeypatch.setattr(run_module, "connect", lambda _: False)
    monkeypatch.setattr(run_module, "check_shared", lambda _: None)
    monkeypatch.setattr(run_module, "start_group", lambda _: SimpleNamespace(stop=lambda: None))
    return make_plan(CONFIG, folder=tmp_path / "run")


def ended(
    plan: RunPlan, monkeypatch: pytest.MonkeyPatch, error: BaseException, stop: StopSignal | None = None
) -> tuple[BaseException, list[str]]:
    """The error that a run ends with, and what the user is told, when its loop raises this."""

    def fail(*_: object) -> None:
        raise error

    told: list[str] = []
    monkeypatch.setattr(run_module, "_run", fail)
    with pytest.raises((RftfmError, KeyboardInterrupt)) as caught:
        execute(plan, Listeners(stopped=told.append, stop=stop or StopSignal()), 0.0)
    return caught.value, told


@pytest.mark.parametrize("kind", [LearnerError, RolloutError])
def test_death_of_an_actor_is_told_with_the_command_that_goes_on(
    plan: RunPlan, monkeypatch: pytest.MonkeyPatch, kind: type[RftfmError]
) -> None:
    died = kind("learner-0 died while training: its process was killed.")
    error, told = ended(plan, monkeypatch, died)
    assert (type(error), str(error), told) == (kind, f"{died} There is no checkpoint yet.", [])
    saved = SimpleNamespace(path=plan.checkpoints / "step-000005")
    monkeypatch.setattr(run_module, "newest_valid", lambda folder: saved if folder == plan.checkpoints else None)
    error, _ = ended(plan, monkeypatch, died)
    assert str(error) == f"{died} Go on with: rftfm train {plan.folder}/config.yaml --resume {saved.path}"


def test_death_of_a_resumed_run_before_its_first_checkpoint_goes_on_from_the_old_one(
    plan: RunPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    resumed = cast("Any", make_plan)(CONFIG, folder=plan.folder, resume=Path("/old/step-000007"))
    error, _ = ended(resumed, monkeypatch, LearnerError("learner-0 died."))
    assert str(error).endswith("--resume /old/step-000007")


def test_other_errors_stay_as_they_are(plan: RunPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    full = RecordError("The disk is full.")
    assert ended(plan, monkeypatch, full) == (full, [])


def test_actor_that_the_signal_has_ended_too_counts_as_stopped(plan: RunPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    with StopSignal().installed() as stop:
        stop.defer()
        signal.raise_signal(signal.SIGTERM)
        error, told = ended(plan, monkeypatch, LearnerError("learner-0 died while training."), stop)
    assert type(error) is TerminatedRunError
    (message,) = told
    assert message == (
        "Stopped by SIGTERM, and the step in progress was lost: learner-0 died while training. There is no checkpoint "
        "yet."
    )


def test_signal_while_actors_start_ends_the_run_with_nothing_to_save(
    plan: RunPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(_: RunPlan) -> None:
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(run_module, "start_group", start)
    told: list[str] = []
    with StopSignal().installed() as stop, pytest.raises(TerminatedRunError):
        execute(plan, Listeners(stopped=told.append, stop=stop), 0.0)
    assert told == ["Stopped by SIGTERM before the first step; nothing has been trained yet."]


@pytest.mark.parametrize(
    ("error", "kinds"),
    [
        (LearnerError("x"), ["run_failed"]),
        (SignalInterrupt(signal.SIGTERM), ["run_stopped"]),
        # The run has recorded it, with its checkpoint.
        (TerminatedRunError("x"), []),
    ],
    ids=["error", "signal", "stopped"],
)
def test_records_tell_a_stopped_run_from_a_failed_one(tmp_path: Path, error: BaseException, kinds: list[str]) -> None:
    def fail() -> None:
        with RunRecords(tmp_path, "run", CONFIG):
            raise error

    with pytest.raises(type(error)):
        fail()
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [event["kind"] for event in events] == kinds
