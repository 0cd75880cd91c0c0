"""Durable checkpoints: bitwise round trip, atomic appearance, and refusal of every kind of damage."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import pickle
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rftfm_ray.errors import CheckpointError
from rftfm_ray.training import checkpoints
from rftfm_ray.training.checkpoints import (
    Checkpoint,
    TrainerState,
    commit,
    newest_valid,
    prune,
    read_model,
    read_rank,
    stage,
    verify,
    write_model,
    write_rank,
)
from rftfm_ray.types import Levers, ProbeResult

FILES = ["manifest.json", "model/config.json", "model/model.safetensors", "rank-0.safetensors", "state.json"]
LISTED = [name for name in FILES if name != "manifest.json"]
STATE = TrainerState(
    attempt=0,
    step=40,
    paid_step=44,
    model_version=39,
    cursor=640,
    world_size=1,
    zero_stage=2,
    levers=Levers(lr_scale=0.5, minibatches=2),
    grad_norms=(0.1, 1 / 3, 1e-30),
    config_sha256="ab" * 32,
    quarantine=("3+4", "10+7"),
)
RANK: dict[str, NDArray[Any]] = {
    "master.0": np.array([[1 / 3, -0.0], [np.nan, np.inf]], np.float32),
    "optimizer.0.exp_avg": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    "rng.torch": np.arange(256, dtype=np.uint8),
}
MODEL: dict[str, NDArray[Any]] = {"model.embed.weight": np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)}


@pytest.fixture(scope="session")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory with configuration, weights, index and a folder."""
    folder = tmp_path_factory.mktemp("origin")
    (folder / "config.json").write_text('{"model_type": "tiny"}')
    for name in ("model.safetensors", "pytorch_model.bin", "model.safetensors.index.json", "old.pt"):
        (folder / name).write_text("old weights")
    (folder / "extra").mkdir()
    return folder


Make = Callable[..., Checkpoint]


@pytest.fixture
def make(tmp_path: Path, origin: Path) -> Make:
    """Commits a checkpoint below `tmp_path / "checkpoints"`, with fields of its state replaced."""

    def make(**changes: Any) -> Checkpoint:
        state = dataclasses.replace(STATE, **changes)
        staging = stage(tmp_path / "checkpoints", state.step)
        write_rank(staging, 0, RANK)
        write_model(staging, MODEL, origin)
        return commit(staging, state)

    return make


def _assert_bitwise(found: dict[str, NDArray[Any]], expected: dict[str, NDArray[Any]]) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape), name
        assert found[name].tobytes() == array.tobytes(), name


def _relist(path: Path) -> None:
    """Make the manifest true again after a file was changed."""
    files = {
        name: {"bytes": (path / name).stat().st_size, "sha256": hashlib.sha256((path / name).read_bytes()).hexdigest()}
        for name in LISTED
    }
    (path / "manifest.json").write_text(json.dumps({"format": 1, "files": files}))


def test_arrays_come_back_bitwise(make: Make) -> None:
    checkpoint = verify(make().path)
    _assert_bitwise(read_rank(checkpoint, 0), RANK)
    _assert_bitwise(read_model(checkpoint), MODEL)


def test_single_number_keeps_its_shape(tmp_path: Path) -> None:
    staging = stage(tmp_path, 1)
    write_rank(staging, 0, {"optimizer.0.step": np.array(7.0, np.float32)})
    found = read_rank(commit(staging, STATE), 0)["optimizer.0.step"]
    assert found.shape == ()
    assert found == 7.0


def test_state_comes_back_equal(make: Make) -> None:
    written = make()
    assert written.state == STATE
    assert verify(written.path) == written


def test_levers_that_are_not_set_stay_so(make: Make) -> None:
    assert verify(make(levers=Levers(), grad_norms=()).path).state.levers == Levers()


def test_model_directory_has_the_new_weights_only(make: Make) -> None:
    model = make().path / "model"
    assert sorted(path.name for path in model.iterdir()) == ["config.json", "model.safetensors"]
    assert (model / "config.json").read_text() == '{"model_type": "tiny"}'


def test_files_are_their_owners_only(make: Make) -> None:
    path = make().path
    for entry in (path.parent, path, *path.rglob("*")):
        assert stat.S_IMODE(entry.stat().st_mode) == (0o700 if entry.is_dir() else 0o600), entry


def test_manifest_lists_size_and_hash_of_every_other_file(make: Make) -> None:
    path = make().path
    written = (path / "manifest.json").read_text()
    _relist(path)
    assert json.loads(written) == json.loads((path / "manifest.json").read_text())


def test_name_holds_the_step_and_a_later_attempt(make: Make) -> None:
    assert make().path.name == "step-000040"
    assert make(attempt=2).path.name == "step-000040-a2"
    assert make(step=1234567).path.name == "step-1234567"


def test_existing_checkpoint_is_never_overwritten(make: Make) -> None:
    first = make()
    with pytest.raises(CheckpointError, match="step-000040 exists already; it is never overwritten"):
        make(cursor=1)
    assert verify(first.path).state == STATE


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("place", [0, -1])
def test_altered_byte_is_refused(make: Make, name: str, place: int) -> None:
    path = make().path
    data = bytearray((path / name).read_bytes())
    data[place] ^= 0x81
    (path / name).write_bytes(data)
    with pytest.raises(CheckpointError, match=f"step-000040/{name}"):
        verify(path)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("length", [0, -1])
def test_truncated_file_is_refused(make: Make, name: str, length: int) -> None:
    path = make().path
    (path / name).write_bytes((path / name).read_bytes()[:length])
    with pytest.raises(CheckpointError, match=f"step-000040/{name}"):
        verify(path)


@pytest.mark.parametrize("name", FILES)
def test_missing_file_is_refused(make: Make, name: str) -> None:
    path = make().path
    (path / name).unlink()
    with pytest.raises(CheckpointError, match=f"step-000040/{name} (is missing|cannot be read)"):
        verify(path)


@pytest.mark.parametrize("name", ["rank-1.safetensors", "model/tokenizer.json", ".hidden"])
def test_file_that_is_not_listed_is_refused(make: Make, name: str) -> None:
    path = make().path
    (path / name).write_text("{}")
    with pytest.raises(CheckpointError, match=f"step-000040/{name} is not in its manifest"):
        verify(path)


@pytest.mark.parametrize("text", ["", "{", "\x00\x01", "[]", "7", "{}", '{"files": []}', '{"files": {}}'])
def test_manifest_that_lists_nothing_is_refused(make: Make, text: str) -> None:
    path = make().path
    (path / "manifest.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"step-000040/manifest\.json"):
        verify(path)


@pytest.mark.parametrize("entry", [None, "x", {"bytes": 3}, {"sha256": "0" * 64}])
def test_manifest_entry_without_size_and_hash_is_refused(make: Make, entry: object) -> None:
    path = make().path
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"]["state.json"] = entry
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match=r"step-000040/state\.json"):
        verify(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("step", "40"),
        ("cursor", 1.5),
        ("attempt", True),
        ("world_size", None),
        ("levers", [0.5]),
        ("levers", {"minibatches": "2"}),
        ("grad_norms", 1.0),
        ("grad_norms", ["0.1"]),
        ("config_sha256", 5),
    ],
)
def test_state_with_a_wrong_type_is_refused(make: Make, key: str, value: object) -> None:
    path = make().path
    state = json.loads((path / "state.json").read_text())
    (path / "state.json").write_text(json.dumps({**state, key: value}))
    _relist(path)
    with pytest.raises(CheckpointError, match=rf"step-000040/state\.json has a wrong value for {key}"):
        verify(path)


LATER = ("probe", "policy", "quarantine")


@pytest.mark.parametrize("key", [field.name for field in dataclasses.fields(TrainerState) if field.name not in LATER])
def test_state_without_a_key_is_refused(make: Make, key: str) -> None:
    path = make().path
    state = json.loads((path / "state.json").read_text())
    del state[key]
    (path / "state.json").write_text(json.dumps(state))
    _relist(path)
    with pytest.raises(CheckpointError, match=rf"state\.json has a wrong value for {key}"):
        verify(path)


@pytest.mark.parametrize("changed", [{"format": 2}, {"format": "1"}, {}])
def test_state_of_an_unknown_format_is_refused(make: Make, changed: dict[str, object]) -> None:
    path = make().path
    state = {k: v for k, v in json.loads((path / "state.json").read_text()).items() if k != "format"}
    (path / "state.json").write_text(json.dumps(state | changed))
    _relist(path)
    with pytest.raises(CheckpointError, match=r"step-000040/state\.json is not of format 1"):
        verify(path)


@pytest.mark.parametrize("text", ["", "[1]", "not json"])
def test_state_that_is_no_object_is_refused(make: Make, text: str) -> None:
    path = make().path
    (path / "state.json").write_text(text)
    _relist(path)
    with pytest.raises(CheckpointError, match=r"step-000040/state\.json"):
        verify(path)


def test_directory_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(CheckpointError, match=r"manifest\.json cannot be read"):
            verify(path)


def test_rank_file_that_is_a_pickle_is_refused_unread(make: Make, tmp_path: Path) -> None:
    class Touch:
        def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
            return Path.touch, (tmp_path / "executed",)

    path = make().path
    (path / "rank-0.safetensors").write_bytes(pickle.dumps(Touch()))
    _relist(path)
    with pytest.raises(CheckpointError, match=r"rank-0\.safetensors is not a readable safetensors file"):
        read_rank(verify(path), 0)
    assert not (tmp_path / "executed").exists()


def test_rank_that_was_not_saved_is_refused(make: Make) -> None:
    with pytest.raises(CheckpointError, match="saved by 1 learner ranks and has no rank 1"):
        read_rank(make(), 1)


@pytest.mark.parametrize("failing", ["_fingerprint", "publish"])
def test_crash_before_the_rename_leaves_no_checkpoint(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints, failing, crash)
    with pytest.raises(KeyboardInterrupt):
        make()
    monkeypatch.undo()
    folder = tmp_path / "checkpoints"
    assert newest_valid(folder) is None
    assert not list(folder.glob("step-*"))
    assert verify(make(step=45).path).state.step == 45
    assert [path.name for path in folder.iterdir()] == ["step-000045"]


def test_newest_valid_is_by_attempt_and_then_by_step(make: Make, tmp_path: Path) -> None:
    for attempt, step in [(0, 20), (10, 5), (2, 40), (10, 15)]:
        make(attempt=attempt, step=step)
    found = newest_valid(tmp_path / "checkpoints")
    assert found is not None
    assert found.path.name == "step-000015-a10"


def test_newest_valid_skips_damaged_ones(make: Make, tmp_path: Path) -> None:
    good = make(step=10)
    (make(step=20).path / "state.json").write_text("{}")
    (make(step=30).path / "manifest.json").unlink()
    assert newest_valid(tmp_path / "checkpoints") == good


def test_newest_valid_of_nothing_is_none(tmp_path: Path) -> None:
    assert newest_valid(tmp_path) is None
    assert newest_valid(tmp_path / "missing") is None


def test_prune_keeps_the_newest_by_attempt_and_step(make: Make, tmp_path: Path) -> None:
    for attempt, step in [(0, 1000000), (0, 999999), (1, 5), (1, 10)]:
        make(attempt=attempt, step=step)
    (tmp_path / "checkpoints" / "step-000001-mine").mkdir()
    prune(tmp_path / "checkpoints", 3)
    left = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert left == {"step-1000000", "step-000005-a1", "step-000010-a1", "step-000001-mine"}
    prune(tmp_path / "checkpoints", 9)
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == left


def test_answers_of_a_probe_in_progress_come_back(make: Make) -> None:
    parts = (ProbeResult(38, 38, 0.5, 51, math.nan, 0, 0.25), ProbeResult(39, 39, 1 / 3, 51, 0.25, 12, 0.5))
    first, second = verify(make(probe=parts).path).state.probe
    assert second == parts[1]
    assert dataclasses.replace(first, sampled_accuracy=0.0) == dataclasses.replace(parts[0], sampled_accuracy=0.0)
    assert math.isnan(first.sampled_accuracy)


def test_state_of_an_earlier_version_has_no_probe(make: Make) -> None:
    path = make().path
    state = json.loads((path / "state.json").read_text())
    assert state.pop("probe") == []
    (path / "state.json").write_text(json.dumps(state))
    _relist(path)
    assert verify(path).state == STATE
