"""Loggers of others: what they are handed, what stands in their files, and that none of them can end a run."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import wandb
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.proto import wandb_internal_pb2

from rftfm_ray import planning
from rftfm_ray.config import RunConfig, load_config
from rftfm_ray.driver.loggers.attached import OPEN, Loggers, figures_of, run_loggers
from rftfm_ray.driver.loggers.base import Note
from rftfm_ray.driver.loop import Listeners
from rftfm_ray.errors import ConfigError, RecordError
from rftfm_ray.incidents.state import Entry, EntryKind, Scalar
from rftfm_ray.metrics import Evaluation
from rftfm_ray.planning import RunPlan
from rftfm_ray.telemetry.records import RunRecords
from rftfm_ray.types import StepId
from tests.unit.doubles import step_row

K = EntryKind
NAMED: dict[str, Scalar] = {"code": "TE-1", "family": "TE", "onset": 2, "onset_low": 2, "probability": 0.9}


def entry(kind: EntryKind, consumed: int = 9, **fields: Scalar) -> Entry:
    """An entry about incident 1."""
    return Entry(1, kind, StepId(0, 8, consumed), 1, tuple(fields.items()))


STORY = (
    entry(K.OPENED, 3, **NAMED, reason="tools fail"),
    entry(K.APPLIED, 4, order=1, remedy="other_instance", role="remedy", seconds=0.1, restored=None),
    entry(K.OUTCOME, 6, order=1, remedy="other_instance", outcome="resolved", reason="tools answer again"),
    entry(K.CLOSED, 7, state="resolved", reason="resolved by other_instance", outcome="resolved"),
)


class Listening:
    """A logger that keeps what it is handed, and fails from one call on."""

    def __init__(self, fails_at: int = 99) -> None:
        self.rows: list[tuple[int, Mapping[str, float]]] = []
        self.notes: list[Note] = []
        self.closed = 0
        self._fails_at = fails_at

    def figures(self, values: Mapping[str, float], consumed: int) -> None:
        if len(self.rows) == self._fails_at:
            raise OSError("the disk is full")
        self.rows.append((consumed, values))

    def note(self, note: Note) -> None:
        self.notes.append(note)

    def close(self) -> None:
        self.closed += 1


class Records:
    """Records that keep events."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Mapping[str, Any]]] = []

    def event(self, kind: str, step: StepId | None, **fields: Any) -> None:
        self.events.append((kind, fields))


def planned(folder: Path, *overrides: str) -> RunPlan:
    """As much of a plan as loggers read."""
    folder.mkdir(exist_ok=True)
    return cast("RunPlan", SimpleNamespace(config=load_config(None, list(overrides)), folder=folder, name="a-run"))


def test_figures_are_named_by_their_part_and_finite() -> None:
    row = step_row(3)
    row = replace(row, checks=replace(row.checks, probe_accuracy=float("nan")))
    figures = figures_of(row)
    assert (figures["step"], figures["attempt"]) == (3, 0)
    assert figures["batch/reward_mean"] == figures["update/lr"] == figures["timings/step_s"] == 0.5
    assert "checks/probe_accuracy" not in figures


def test_rows_and_incidents_are_handed_on_over_the_consumed_step() -> None:
    logger, failed = Listening(), list[Any]()
    loggers = Loggers({"a": logger}, lambda *why: failed.append(why))
    for step in range(1, 9):
        for told in STORY:
            if told.id.paid_step == step:
                loggers.entry(told)
        loggers.row(step_row(step))
    assert [consumed for consumed, _ in logger.rows] == list(range(1, 9))
    assert [values[OPEN] for _, values in logger.rows] == [0, 0, 1, 1, 1, 1, 0, 0]
    assert [(n.consumed, n.step, n.incident, n.code, n.event) for n in logger.notes] == [
        (3, 8, 1, "TE-1", "opened"), (4, 8, 1, "TE-1", "applied"), (6, 8, 1, "TE-1", "outcome"),
        (7, 8, 1, "TE-1", "closed"),
    ]  # fmt: skip
    assert logger.notes[0].text.startswith("TE-1 #1: ")
    assert "tools fail" in logger.notes[0].text
    assert not failed


def test_entries_of_the_run_that_is_continued_are_known_and_not_marked() -> None:
    logger = Listening()
    loggers = Loggers({"a": logger}, lambda *_: None)
    loggers.learn(STORY[:2])
    loggers.row(step_row(5))
    loggers.entry(STORY[2])
    assert logger.rows[0][1][OPEN] == 1
    assert [(note.code, note.event) for note in logger.notes] == [("TE-1", "outcome")]


def test_a_logger_that_fails_is_left_out_and_recorded_and_the_others_go_on(tmp_path: Path) -> None:
    bad, good, failed = Listening(fails_at=1), Listening(), list[Any]()
    loggers = Loggers({"bad": bad, "good": good}, lambda *why: failed.append(why))
    for step in (1, 2, 3):
        loggers.row(step_row(step))
    loggers.close()
    assert failed == [("bad", "OSError: the disk is full")]
    assert (len(bad.rows), bad.closed, len(good.rows), good.closed) == (1, 0, 3, 1)


def test_failure_in_a_run_is_one_event(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rftfm_ray.driver.loggers.attached._open", lambda *_: Listening(fails_at=0))
    records = Records()
    with run_loggers(planned(tmp_path, "logging.to=[tensorboard]"), cast("RunRecords", records)) as loggers:
        loggers.row(step_row(1))
        loggers.row(step_row(2))
    assert records.events == [("logger_failed", {"logger": "tensorboard", "reason": "OSError: the disk is full"})]


def test_records_that_fail_too_do_not_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(Records):
        def event(self, kind: str, step: StepId | None, **fields: Any) -> None:
            raise RecordError("full")

    monkeypatch.setattr("rftfm_ray.driver.loggers.attached._open", lambda *_: Listening(fails_at=0))
    with run_loggers(planned(tmp_path, "logging.to=[tensorboard]"), cast("RunRecords", Full())) as loggers:
        loggers.row(step_row(1))


def test_listeners_are_told_before_the_loggers() -> None:
    order: list[str] = []

    def listening(name: str) -> Listeners:
        def heard(kind: str) -> Callable[[object], None]:
            return lambda _: order.append(f"{kind} {name}")

        return Listeners(row=heard("row"), entry=heard("entry"), learn=heard("learn"), evaluated=heard("evaluated"))

    listeners = listening("first").beside(listening("second"))
    listeners.row(step_row(1))
    listeners.entry(STORY[0])
    listeners.learn(STORY)
    listeners.evaluated(Evaluation("a", StepId(0, 1, 1), 1, 1, 1, 1.0, (), 0, 0.0))
    kinds = ("row", "entry", "learn", "evaluated")
    assert order == [f"{kind} {name}" for kind in kinds for name in ("first", "second")]


def run_of(folder: Path, name: str) -> None:
    """Three steps and an incident, logged to one logger."""
    records = Records()
    with run_loggers(planned(folder, f"logging.to=[{name}]", "seed=7"), cast("RunRecords", records)) as loggers:
        loggers.row(step_row(1))
        loggers.row(step_row(2))
        for told in STORY:
            loggers.entry(told)
        loggers.row(step_row(3))
    assert records.events == []


def test_tensorboard_reads_what_was_logged(tmp_path: Path) -> None:
    run_of(tmp_path, "tensorboard")
    read = EventAccumulator(str(tmp_path / "tensorboard"))
    read.Reload()
    assert [(event.step, event.value) for event in read.Scalars("batch/reward_mean")] == [(1, 0.5), (2, 0.5), (3, 0.5)]
    assert [event.step for event in read.Scalars("step")] == [1, 2, 3]
    texts = read.Tensors("incident 1/text_summary")
    assert [event.step for event in texts] == [3, 4, 6, 7]
    assert b"tools fail" in texts[0].tensor_proto.string_val[0]
    (configuration,) = read.Tensors("configuration/text_summary")
    assert b"seed: 7" in configuration.tensor_proto.string_val[0]


def records_of_wandb(file: Path) -> Iterator[Any]:
    """The records of an offline run: LevelDB's log format behind a header of seven bytes, in blocks of 32 KiB."""
    data, place, whole = file.read_bytes(), 7, b""
    while place + 7 <= len(data):
        left = 32_768 - place % 32_768
        if left < 7:
            place += left
            continue
        length, kind = struct.unpack("<HB", data[place + 4 : place + 7])
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        if place > len(data):
            return
        # 1: a whole record, 2 and 3: its first and a middle part, 4: its last.
        if kind in (1, 4):
            record = cast("Any", wandb_internal_pb2).Record()
            record.ParseFromString(whole)
            yield record
            whole = b""


def test_weights_and_biases_offline_holds_what_was_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    run_of(tmp_path, "wandb")
    (file,) = (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")
    # Its own process may write the last block after it has answered that the run is over.
    ends = time.monotonic() + 20
    while not any(record.WhichOneof("record_type") == "exit" for record in records_of_wandb(file)):
        assert time.monotonic() < ends
        time.sleep(0.05)
    history, config = list[dict[str, Any]](), dict[str, Any]()
    for record in records_of_wandb(file):
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            history.append({"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in items})
        elif record.WhichOneof("record_type") == "run" and record.run.config.update:
            config |= {u.key: json.loads(u.value_json) for u in record.run.config.update}
            project, name = record.run.project, record.run.display_name
    rows = [row for row in history if "batch/reward_mean" in row]
    assert [(row["consumed_step"], row["batch/reward_mean"]) for row in rows] == [(1, 0.5), (2, 0.5), (3, 0.5)]
    told = [(row["consumed_step"], row["guard/event"].split(":")[0]) for row in history if "guard/event" in row]
    assert told == [(3, "opened"), (4, "applied"), (6, "outcome"), (7, "closed")]
    assert any(row.get("guard/incidents/nrows") == 4 for row in history)
    assert (project, name, config["seed"]) == ("rftfm", tmp_path.name, 7)


def test_a_logger_that_cannot_be_started_is_refused_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(**_: Any) -> None:
        raise wandb.errors.UsageError("No API key configured. Use `wandb login` to log in.")

    monkeypatch.setattr(wandb, "init", refused)
    sentence = r"^logging\.to=wandb cannot be started: No API key configured.*WANDB_MODE=offline\.$"
    with (
        pytest.raises(ConfigError, match=sentence),
        run_loggers(planned(tmp_path, "logging.to=[wandb]"), cast("RunRecords", Records())),
    ):
        pass


def test_a_package_that_is_not_installed_is_said_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "PACKAGES", {"tensorboard": "no_such_package", "wandb": "wandb"})
    with pytest.raises(ConfigError, match="pip install no_such_package"):
        planning.plan(load_config(None, ["logging.to=[tensorboard]"]))


def test_a_logger_that_is_not_known_is_refused() -> None:
    assert RunConfig().logging.to == ()
    with pytest.raises(ConfigError, match=r"logging\.to"):
        load_config(None, ["logging.to=[mlflow]"])
