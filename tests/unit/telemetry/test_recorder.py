"""Recorded steps and trajectories: parts, keys, retention, privacy of texts, sampling, and failing writers."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rftfm_ray import files
from rftfm_ray.batch import TrajectoryBatch
from rftfm_ray.config import RecordsConfig, TextPrivacy, load_config
from rftfm_ray.errors import RecordError
from rftfm_ray.metrics import BatchMetrics, CheckMetrics, CreditMetrics, StepRow, Timings, UpdateMetrics
from rftfm_ray.tasks.api import ToolStatus
from rftfm_ray.telemetry.parts import BackgroundWriter, PartFolder, read_parts
from rftfm_ray.telemetry.recorder import StepRecorder, TrajectoryRecorder, read_steps, read_trajectories, step_record
from rftfm_ray.telemetry.records import RunRecords, summary_json
from rftfm_ray.types import EndingProblem, IncidentSummary, RunSummary, StepId, Termination

MakeBatch = Callable[..., TrajectoryBatch]
SCHEMA = pa.schema([("value", pa.int64())])
ID = StepId(attempt=1, step=3, paid_step=5)
SECRETS = ["secret-key", "secret-text", "secret-request", "secret-response"]
SECRET_TOKENS = [770001, 770002, 770003]


@pytest.fixture
def writer() -> Iterator[BackgroundWriter]:
    """A background writer, ended after the test."""
    writer = BackgroundWriter()
    yield writer
    writer.close()


@pytest.fixture
def secret_batch(make_batch: MakeBatch) -> TrajectoryBatch:
    """Two trajectories of the same prompt and text, the first with a tool call; everything of them is secret."""
    return make_batch(
        [1.0, 0.5],
        roles=["paa", "ppa"],
        tokens=[SECRET_TOKENS, SECRET_TOKENS],
        terminations=[Termination.STOP, Termination.MAX_TOKENS],
        keys=["secret-key"] * 2,
        texts=["secret-text"] * 2,
        calls=[(0, 1, ToolStatus.ERROR, 0.25, "secret-request", "secret-response")],
        live=[4.0, 0.5],
        trusted=[1.0, math.nan],
        refills=[2, 0],
    )


def _drain(writer: BackgroundWriter) -> None:
    done = threading.Event()
    writer.submit(done.set)
    assert done.wait(30)


def _row(paid_step: int, value: float = 0.5) -> StepRow:
    def fill(kind: type[Any]) -> Any:
        values = {f.name: (value + i if f.type == "float" else i) for i, f in enumerate(dataclasses.fields(kind))}
        return kind(**values)

    step = StepId(1, paid_step - 2, paid_step)
    checks = CheckMetrics(math.nan, 0.75, 1e-7, 1.0, 0.25, -0.5, 6.0, 3.0, 1.5, 0.0625)
    return StepRow(step, 6, fill(BatchMetrics), fill(UpdateMetrics), fill(CreditMetrics), fill(Timings), checks)


def _record(folder: Path, batch: TrajectoryBatch, seed: int = 0, **config: Any) -> list[dict[str, Any]]:
    """The rows of one recorder that has been given `batch` once."""
    folder.mkdir(exist_ok=True)
    writer = BackgroundWriter()
    recorder = TrajectoryRecorder(folder / "trajectories", RecordsConfig(**config), seed, writer)
    recorder.add(ID, batch)
    recorder.close()
    writer.close()
    rows: list[dict[str, Any]] = read_trajectories(folder).to_pylist()
    return rows


def _values(value: object) -> Iterator[object]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _values(item)
    else:
        yield value


def test_part_appears_whole_under_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def watch(temporary: Path, final: Path) -> None:
        seen.append(read_parts(tmp_path / "rows", SCHEMA).num_rows)
        assert not final.exists()
        assert pq.read_table(temporary).num_rows == 2
        whole(temporary, final)

    whole = files.publish
    monkeypatch.setattr(files, "publish", watch)
    folder = PartFolder(tmp_path / "rows", SCHEMA)
    folder.write([{"value": 1}, {"value": 2}])
    folder.write([{"value": 3}, {"value": 4}])
    assert seen == [0, 2]
    assert sorted(path.name for path in (tmp_path / "rows").iterdir()) == ["part-00000.parquet", "part-00001.parquet"]
    assert read_parts(tmp_path / "rows", SCHEMA)["value"].to_pylist() == [1, 2, 3, 4]


def test_part_that_fails_half_way_cannot_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = PartFolder(tmp_path / "rows", SCHEMA)
    folder.write([{"value": 1}])

    def fail(table: pa.Table, file: Any, **_: object) -> None:
        file.write(b"PAR1 half")
        raise OSError("No space left on device")

    monkeypatch.setattr(pq, "write_table", fail)
    with pytest.raises(OSError, match="No space left"):
        folder.write([{"value": 2}])
    assert read_parts(tmp_path / "rows", SCHEMA)["value"].to_pylist() == [1]


def test_records_are_their_owners_only(tmp_path: Path) -> None:
    PartFolder(tmp_path / "rows", SCHEMA).write([{"value": 1}])
    assert stat.S_IMODE((tmp_path / "rows").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "rows" / "part-00000.parquet").stat().st_mode) == 0o600


def test_damaged_part_is_named(tmp_path: Path) -> None:
    PartFolder(tmp_path / "rows", SCHEMA).write([{"value": 1}])
    part = tmp_path / "rows" / "part-00000.parquet"
    part.write_bytes(part.read_bytes()[:-9])
    with pytest.raises(RecordError, match=r"part-00000\.parquet cannot be read"):
        read_parts(tmp_path / "rows", SCHEMA)


def test_no_part_yet_is_an_empty_table(tmp_path: Path) -> None:
    assert read_steps(tmp_path).num_rows == 0
    assert read_trajectories(tmp_path).num_rows == 0


def test_retention_removes_the_oldest_parts(tmp_path: Path) -> None:
    PartFolder(tmp_path / "one", SCHEMA).write([{"value": 0}])
    size = (tmp_path / "one" / "part-00000.parquet").stat().st_size
    folder = PartFolder(tmp_path / "rows", SCHEMA, 3 * size)
    for value in range(5):
        folder.write([{"value": value}])
    assert read_parts(tmp_path / "rows", SCHEMA)["value"].to_pylist() == [2, 3, 4]


def test_retention_never_removes_the_newest_part(tmp_path: Path) -> None:
    folder = PartFolder(tmp_path / "rows", SCHEMA, 1)
    for value in range(3):
        folder.write([{"value": value}])
        assert read_parts(tmp_path / "rows", SCHEMA)["value"].to_pylist() == [value]


def test_parts_are_ordered_by_their_number(tmp_path: Path) -> None:
    for retention, expected in ((None, [1, 2]), (1, [2])):
        folder = tmp_path / str(retention)
        parts = PartFolder(folder, SCHEMA, retention)
        parts._next = 99_999
        parts.write([{"value": 1}])
        parts.write([{"value": 2}])
        assert read_parts(folder, SCHEMA)["value"].to_pylist() == expected


def test_rows_so_far_can_be_written_before_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with RunRecords(tmp_path, "run", load_config(None, ["records.part_steps=50"])) as records:
        records._steps.add(_row(3))
        records.flush()
        assert read_steps(tmp_path)["paid_step"].to_pylist() == [3]
        records._steps.add(_row(4))
    assert read_steps(tmp_path)["paid_step"].to_pylist() == [3, 4]


def test_waiting_for_a_writer_that_has_failed_raises(writer: BackgroundWriter) -> None:
    def fail() -> None:
        time.sleep(0.1)
        raise OSError("no space")

    writer.submit(fail)
    with pytest.raises(RecordError, match="no space"):
        writer.wait()
    cast("Any", writer)._error = None


def test_steps_can_be_read_part_by_part_before_close(tmp_path: Path, writer: BackgroundWriter) -> None:
    recorder = StepRecorder(tmp_path, 2, writer)
    found = []
    for paid_step in range(5, 10):
        recorder.add(_row(paid_step))
        _drain(writer)
        found.append(read_steps(tmp_path)["paid_step"].to_pylist())
    assert found == [[], [5, 6], [5, 6], [5, 6, 7, 8], [5, 6, 7, 8]]
    recorder.close()
    recorder.close()
    _drain(writer)
    assert read_steps(tmp_path)["paid_step"].to_pylist() == [5, 6, 7, 8, 9]
    assert len(list((tmp_path / "steps").iterdir())) == 3


def test_step_row_comes_back_equal_with_its_key(tmp_path: Path, writer: BackgroundWriter) -> None:
    recorder = StepRecorder(tmp_path, 1, writer)
    recorder.add(_row(7, value=1 / 3))
    recorder.add(_row(8, value=math.nan))
    _drain(writer)
    rows = read_steps(tmp_path).to_pylist()
    np.testing.assert_equal(rows, [step_record(_row(7, value=1 / 3)), step_record(_row(8, value=math.nan))])
    assert [(row["attempt"], row["step"], row["paid_step"]) for row in rows] == [(1, 5, 7), (1, 6, 8)]
    assert rows[0]["model_version"] == 6
    assert math.isnan(rows[0]["probe_accuracy"])
    checks = ("probe_sampled_accuracy", "parity_gap", "weights_mismatch", "lr_excess", "schedule_excess")
    assert [rows[0][name] for name in checks] == [0.75, 1e-7, 1.0, 0.25, -0.5]
    credit = [rows[0][field.name] for field in dataclasses.fields(CreditMetrics)]
    assert credit == [1 / 3 + place for place in range(len(credit))]


def test_trajectory_comes_back_equal_with_its_key(tmp_path: Path, secret_batch: TrajectoryBatch) -> None:
    row, other = _record(tmp_path, secret_batch, text=TextPrivacy.FULL, trajectory_rate=1.0)
    assert row.pop("logprobs") == pytest.approx(secret_batch.logprobs[:3].tolist())
    assert row.pop("calls") == [
        {"turn": 1, "status": "error", "latency_s": 0.25, "request": "secret-request", "response": "secret-response"}
    ]
    key = {"attempt": 1, "step": 3, "paid_step": 5, "group": 0, "sample": 0}
    place = {"model_version": 7, "turns": 1, "prompt_length": 1, "termination": "stop"}
    worth = {"reward": 1.0, "live_reward": 4.0, "trusted_reward": 1.0, "correct": False, "valid": True, "refills": 2}
    texts = {"prompt_key": "secret-key", "text": "secret-text", "tokens": SECRET_TOKENS, "action": [False, True, True]}
    assert row == key | place | worth | texts
    assert (other["sample"], other["reward"], other["termination"]) == (1, 0.5, "max_tokens")
    assert (other["prompt_length"], other["calls"], other["refills"]) == (2, [], 0)
    assert (other["live_reward"], math.isnan(other["trusted_reward"])) == (0.5, True)


def test_masked_trajectory_is_recorded_without_reward(tmp_path: Path, make_batch: MakeBatch) -> None:
    (row,) = _record(tmp_path, make_batch([1.0], valid=[False]), trajectory_rate=1.0)
    assert row["valid"] is False
    assert math.isnan(row["reward"])
    assert math.isnan(row["live_reward"])


def test_trajectories_are_written_every_part_steps(
    tmp_path: Path, make_batch: MakeBatch, writer: BackgroundWriter
) -> None:
    config = RecordsConfig(trajectory_rate=1.0, part_steps=2)
    recorder = TrajectoryRecorder(tmp_path / "trajectories", config, 0, writer)
    counts = []
    for step in range(1, 4):
        recorder.add(StepId(0, step, step), make_batch([1.0, 0.0]))
        _drain(writer)
        counts.append(read_trajectories(tmp_path).num_rows)
    recorder.close()
    _drain(writer)
    assert [*counts, read_trajectories(tmp_path).num_rows] == [0, 4, 4, 6]


@pytest.mark.parametrize("privacy", [TextPrivacy.NONE, TextPrivacy.HASH])
def test_no_text_or_token_is_on_disk(tmp_path: Path, secret_batch: TrajectoryBatch, privacy: TextPrivacy) -> None:
    rows = _record(tmp_path, secret_batch, text=privacy, trajectory_rate=1.0)
    found = list(_values(rows))
    assert len(rows) == 2
    assert not set(SECRET_TOKENS) & {value for value in found if isinstance(value, int)}
    assert not [value for value in found if isinstance(value, str) and "secret" in value]
    for path in tmp_path.rglob("*.parquet"):
        assert b"secret" not in path.read_bytes()


def test_privacy_is_none_unless_asked_for(tmp_path: Path, secret_batch: TrajectoryBatch) -> None:
    for row in _record(tmp_path, secret_batch, trajectory_rate=1.0):
        assert row["prompt_key"] is row["text"] is row["tokens"] is None
        assert all(call["request"] is call["response"] is None for call in row["calls"])


def test_hashes_tell_equal_texts_of_one_recorder_only(tmp_path: Path, make_batch: MakeBatch) -> None:
    batch = make_batch([0.0] * 3, keys=["a", "a", "b"], texts=["x", "y", "x"])
    first, again = (
        _record(tmp_path / name, batch, text=TextPrivacy.HASH, trajectory_rate=1.0) for name in ("first", "again")
    )
    assert first[0]["prompt_key"] == first[1]["prompt_key"] != first[2]["prompt_key"]
    assert first[0]["text"] == first[2]["text"] != first[1]["text"]
    assert {row["prompt_key"] for row in first}.isdisjoint(row["prompt_key"] for row in again)


def test_hashes_are_keyed(tmp_path: Path, make_batch: MakeBatch) -> None:
    (row,) = _record(tmp_path, make_batch([0.0], texts=["yes"]), text=TextPrivacy.HASH, trajectory_rate=1.0)
    assert len(row["text"]) == 32
    assert row["text"] != hashlib.blake2b(b"yes", digest_size=16).hexdigest()


def test_sample_is_about_the_rate_and_the_same_for_the_same_seed(tmp_path: Path, make_batch: MakeBatch) -> None:
    size = 2000
    batch = make_batch(np.zeros(size), groups=np.arange(size) // 4)
    chosen = []
    for name, seed in (("one", 3), ("same", 3), ("other", 4)):
        rows = _record(tmp_path / name, batch, seed, trajectory_rate=0.25)
        chosen.append([(row["group"], row["sample"]) for row in rows])
    assert len(chosen[0]) == pytest.approx(size / 4, rel=0.2)
    assert chosen[0] == chosen[1] != chosen[2]


def test_samples_of_a_prompt_are_chosen_each_on_its_own(tmp_path: Path, make_batch: MakeBatch) -> None:
    rows = _record(tmp_path, make_batch(np.zeros(400), groups=np.arange(400) // 4), trajectory_rate=0.5)
    counts = np.bincount([row["group"] for row in rows], minlength=100)
    assert set(counts.tolist()) == {0, 1, 2, 3, 4}


@pytest.mark.parametrize(("rate", "count"), [(0.0, 0), (1.0, 40)])
def test_rate_of_nothing_and_of_all(tmp_path: Path, make_batch: MakeBatch, rate: float, count: int) -> None:
    assert len(_record(tmp_path, make_batch(np.zeros(40)), trajectory_rate=rate)) == count


def _fail() -> None:
    raise OSError("No space left on device")


def _submit_until_refused(writer: BackgroundWriter, late: list[int]) -> None:
    limit = time.monotonic() + 30
    while time.monotonic() < limit:
        writer.submit(lambda: late.append(1))
        time.sleep(0.001)


def test_failed_work_surfaces_at_a_later_call_and_at_close() -> None:
    writer = BackgroundWriter()
    late: list[int] = []
    writer.submit(_fail)
    with pytest.raises(RecordError, match=r"cannot be written \(No space left on device\)"):
        _submit_until_refused(writer, late)
    with pytest.raises(RecordError, match="No space left"):
        writer.close()
    writer.close()
    assert late == []


def test_recorder_surfaces_that_its_folder_is_gone(tmp_path: Path) -> None:
    writer = BackgroundWriter()
    recorder = StepRecorder(tmp_path, 1, writer)
    (tmp_path / "steps").rmdir()
    recorder.add(_row(5))
    with pytest.raises(RecordError, match="No such file"):
        writer.close()


def test_close_finishes_what_is_queued_in_order() -> None:
    writer = BackgroundWriter()
    done: list[int] = []
    for number in range(400):
        writer.submit(functools.partial(done.append, number))
    writer.close()
    assert done == list(range(400))


def test_summary_is_one_line_of_strict_json() -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    numbers = {field.name: 0.5 for field in dataclasses.fields(RunSummary) if field.type == "float"}
    numbers |= {"reward_last": math.nan, "probe_last": math.inf}
    summary = RunSummary(
        run_dir="/runs/ü\n1",
        seed=3,
        steps=40,
        vetoes=1,
        guard="act",
        incidents=(IncidentSummary("OD-1", 12, 11, "resolved", ("a", "b"), "cured"),),
        remedies=2,
        paid_steps=44,
        guard_waits=0,
        ending=(EndingProblem("incident", "Incident #1 was still open at the end.", incident=1),),
        guard_restarts=0,
        unguarded_steps=0,
        hook_failures=0,
        probe_size=1024,
        **numbers,
    )
    text = summary_json(summary)
    values = json.loads(text, parse_constant=refuse)
    assert "\n" not in text
    listed = {
        "fault": "OD-1", "alarm_step": 12, "onset": 11, "state": "resolved", "remedies": ["a", "b"], "outcome": "cured",
    }  # fmt: skip
    unknown = {"reward_last": None, "probe_last": None}
    problem = {
        "kind": "incident", "message": "Incident #1 was still open at the end.", "before": None, "after": None,
        "incident": 1,
    }  # fmt: skip
    assert values == dataclasses.asdict(summary) | unknown | {"incidents": [listed], "ending": [problem]}
