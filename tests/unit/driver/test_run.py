"""How a run ends other than well: what the user is told, and what goes on from there."""

from __future__ import annotations

import json
import pickle
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from rftfm_ray.config import load_config
from rftfm_ray.driver import run as run_module
from rftfm_ray.driver.loop import Curve, Listeners
from rftfm_ray.driver.run import execute
from rftfm_ray.driver.stopping import StopSignal
from rftfm_ray.errors import (
    CheckpointError,
    GuardHaltError,
    GuardLostError,
    HungUpRunError,
    LearnerError,
    PlacementError,
    RecordError,
    ResumeError,
    RftfmError,
    RolloutError,
    SavedRunError,
    SignalInterrupt,
    TerminatedRunError,
    VerifierError,
)
from rftfm_ray.planning import RunPlan
from rftfm_ray.telemetry.records import RunRecords
from rftfm_ray.types import StepId
from tests.unit.doubles import make_plan

CONFIG = load_config(None, ["steps=40", "guard.mode=off", "report.at_end=false", "preflight.mode=off"])


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunPlan:
    """A run on a cluster that is none."""
    monkeypatch.setattr(run_module, "connect", lambda *_, **__: False)
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


def test_full_disk_is_told_with_the_command_that_goes_on(plan: RunPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = SimpleNamespace(path=plan.checkpoints / "step-000005")
    monkeypatch.setattr(run_module, "newest_valid", lambda _: saved)
    for kind in (RecordError, CheckpointError):
        error, told = ended(plan, monkeypatch, kind("The disk is full."))
        command = f"rftfm train {plan.folder}/config.yaml --resume {saved.path}"
        assert (type(error), str(error), told) == (kind, f"The disk is full. Go on with: {command}", [])


@pytest.mark.parametrize("kind", [GuardHaltError, GuardLostError, VerifierError])
def test_run_that_ends_itself_is_told_with_the_checkpoint_that_it_has_written(
    plan: RunPlan, monkeypatch: pytest.MonkeyPatch, kind: type[SavedRunError]
) -> None:
    # After a rollback another one may be newer.
    error, told = ended(plan, monkeypatch, kind("It ends.", f"{plan.checkpoints}/step-000003"))
    command = f"rftfm train {plan.folder}/config.yaml --resume {plan.checkpoints}/step-000003"
    assert (type(error), str(error), told) == (kind, f"It ends. Go on with: {command}", [])
    without, _ = ended(plan, monkeypatch, kind("It ends."))
    assert str(without) == "It ends. There is no checkpoint yet."
    assert str(pickle.loads(pickle.dumps(error))) == str(error)  # noqa: S301 - what was pickled here


@pytest.mark.parametrize("kind", [ResumeError, PlacementError])
def test_other_errors_stay_as_they_are(plan: RunPlan, monkeypatch: pytest.MonkeyPatch, kind: type[RftfmError]) -> None:
    error = kind("It ends.")
    assert ended(plan, monkeypatch, error) == (error, [])


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


@pytest.mark.parametrize("is_created", [False, True])
def test_signal_while_a_resumed_run_starts_says_how_it_goes_on(
    plan: RunPlan, monkeypatch: pytest.MonkeyPatch, *, is_created: bool
) -> None:
    resumed = cast("Any", make_plan)(CONFIG, folder=plan.folder, resume=Path("/old/step-000007"))
    told: list[str] = []

    def fail(started: run_module.Started, *_: object) -> None:
        if is_created:
            (started.plan.folder / "config.yaml").write_text("")
        raise SignalInterrupt(signal.SIGHUP)

    monkeypatch.setattr(run_module, "_run", fail)
    with pytest.raises(HungUpRunError):
        execute(resumed, Listeners(stopped=told.append), 0.0)
    start = "Stopped by SIGHUP before the resumed run made a step; "
    command = f"go on with: rftfm train {plan.folder}/config.yaml --resume /old/step-000007"
    again = "it has written nothing, so the same command starts it again."
    assert told == [start + (command if is_created else again)]


def test_stop_is_told_before_anything_is_cleaned_up(plan: RunPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    group = SimpleNamespace(stop=lambda: order.append("actors ended"))
    monkeypatch.setattr(run_module, "start_group", lambda _: group)

    def fail(*_: object) -> None:
        raise SignalInterrupt(signal.SIGTERM)

    monkeypatch.setattr(run_module, "_run", fail)
    with pytest.raises(TerminatedRunError):
        execute(plan, Listeners(stopped=order.append), 0.0)
    assert order == ["Stopped by SIGTERM before the first step; nothing has been trained yet.", "actors ended"]


def test_rows_are_on_disk_before_the_stopped_run_waits_for_its_guard(
    plan: RunPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process may be ended while it waits."""
    order: list[str] = []
    flush = RunRecords.flush

    def flushed(records: RunRecords) -> None:
        flush(records)
        order.append("flushed")

    guard = SimpleNamespace(finish=lambda _: order.append("guard"))
    monkeypatch.setattr(RunRecords, "flush", flushed)
    monkeypatch.setattr(run_module, "_attach", lambda *_: guard)
    monkeypatch.setattr(run_module, "loop", lambda _: Curve(stopped=True, checkpoint="step-000003"))
    monkeypatch.setattr(run_module, "Session", lambda *_: SimpleNamespace(position=SimpleNamespace(id=StepId(0, 3, 3))))
    stop = StopSignal()
    stop.note(signal.SIGTERM)
    with pytest.raises(TerminatedRunError):
        execute(plan, Listeners(stopped=lambda _: order.append("told"), stop=stop), 0.0)
    assert order == ["flushed", "told", "guard"]


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
