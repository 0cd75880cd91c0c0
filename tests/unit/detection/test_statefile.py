"""States in files: what comes back is what went in, and every damaged or foreign file is a sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from rftfm_ray.detection import statefile
from rftfm_ray.detection.state import State
from rftfm_ray.detection.statefile import FORMAT, _digest, load_state, save_state
from rftfm_ray.errors import StateError

STATE: State = {
    "count": 3, "open": True, "name": "a\u00e9", "level": 0.1, "rest": float("inf"), "nothing": {},
    "part": {
        "numbers": np.array([1.5, np.nan, np.inf]), "empty": np.zeros((0, 4)), "whole": np.arange(6).reshape(2, 3),
        "flags": np.array([True, False]), "one": np.array(2.5), "deeper": {"count": -1, "numbers": np.array([2.5])},
    },
}  # fmt: skip


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with the state."""
    file = tmp_path / "state"
    save_state(file, STATE, "monitor")
    return file


def test_what_comes_back_is_what_went_in(path: Path) -> None:
    loaded = load_state(path, "monitor")
    np.testing.assert_equal(loaded, STATE)
    assert str(loaded) == str(STATE), "types as well"
    save_state(path, loaded, "monitor")
    np.testing.assert_equal(load_state(path, "monitor"), STATE)


def test_state_of_another_owner_is_refused(path: Path) -> None:
    with pytest.raises(StateError, match=r"is the state of 'monitor', not of 'manager'; remove it"):
        load_state(path, "manager")


def test_missing_file_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(StateError, match=r"nothing.* cannot be read \(No such file or directory\); check the path"):
        load_state(tmp_path / "nothing", "monitor")
    with pytest.raises(StateError, match="cannot be read"):
        load_state(tmp_path, "monitor")


def test_file_that_is_too_large_is_not_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statefile, "LARGEST_FILE", 100)
    with pytest.raises(StateError, match="larger than any state"):
        load_state(path, "monitor")


@pytest.mark.parametrize("size", [0, 1, 7, 8, 100, -1])
def test_truncated_file_is_damaged(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(StateError, match=f"{path.name} is .*; remove it"):
        load_state(path, "monitor")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(place=st.integers(0, 10_000), byte=st.integers(0, 255))
def test_changed_byte_is_noticed_and_raises_nothing_else(path: Path, place: int, byte: int) -> None:
    save_state(path, STATE, "monitor")
    content = bytearray(path.read_bytes())
    content[place % len(content)] = byte
    path.write_bytes(bytes(content))
    said, loaded = "", STATE
    try:
        loaded = load_state(path, "monitor")
    except StateError as error:
        said = str(error)
    np.testing.assert_equal(loaded, STATE)
    assert not said or str(path) in said


@pytest.mark.parametrize(
    "header",
    [
        {"format": "2", "owner": "monitor", "tree": "{}"},
        {"owner": "monitor", "tree": "{}"},
        {"format": FORMAT, "owner": "monitor"},
        {"format": FORMAT, "tree": "{}"},
        {"format": FORMAT, "owner": "monitor", "tree": "{"},
        {"format": FORMAT, "owner": "monitor", "tree": "[]"},
        {"format": FORMAT, "owner": "monitor", "tree": '{"a": {"__array__": "b"}}'},
        {"format": FORMAT, "owner": "monitor", "tree": '{"a": {"__array__": ["b"]}}'},
        {"format": FORMAT, "owner": "monitor", "tree": '{"a":' * 5_000 + "1" + "}" * 5_000},
    ],
    ids=["version", "no version", "no tree", "no owner", "no JSON", "no mapping", "no array", "no name", "deep"],
)
def test_foreign_file_of_the_same_kind_is_refused(tmp_path: Path, header: dict[str, str]) -> None:
    file = tmp_path / "state"
    arrays = {"x": np.zeros(1)}
    file.write_bytes(save(arrays, header | {"sha256": _digest(header.get("tree", ""), arrays)}))
    with pytest.raises(StateError, match="remove it"):
        load_state(file, "monitor")


def test_file_is_replaced_whole(path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(TypeError):
        save_state(path, {"a": object()}, "monitor")  # type: ignore[dict-item]
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("state", "told"),
    [
        ({"a": {"__array__": 3}}, "has the name '__array__', which stands for arrays in files; rename it"),
        ({"__array__": np.zeros(2)}, "has the name '__array__'"),
        ({"a": {"b": np.zeros(2, np.longdouble)}}, "b of a state is an array of .*; use float64"),
        ({"a": np.array(["x"])}, "a of a state is an array of <U1"),
    ],
)
def test_what_would_not_come_back_is_not_written(path: Path, state: State, told: str) -> None:
    before = path.read_bytes()
    with pytest.raises(StateError, match=told):
        save_state(path, state, "monitor")
    assert path.read_bytes() == before


def test_names_may_hold_dots(path: Path) -> None:
    state: State = {"a.b": np.array([1.0]), "a": {"b": np.array([2.0])}}
    save_state(path, state, "monitor")
    np.testing.assert_equal(load_state(path, "monitor"), state)
