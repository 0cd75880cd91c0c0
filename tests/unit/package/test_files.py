"""Files appear whole or not at all, and are their owner's only."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from rftfm_ray import files
from rftfm_ray.files import write_atomic


def test_atomic_write_replaces_the_file_and_is_private(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    write_atomic(path, b"old")
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("failing", ["fsync", "open"])
def test_failing_write_leaves_the_old_file_and_no_other(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, failing: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "config.yaml"
    write_atomic(path, b"old")
    monkeypatch.setattr(os, failing, fail)
    with pytest.raises(OSError, match="No space left"):
        write_atomic(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_interrupted_write_leaves_the_old_file_and_no_other(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def interrupt(temporary: Path, final: Path) -> None:
        assert temporary.read_bytes() == b"new"
        assert final.read_bytes() == b"old"
        raise KeyboardInterrupt

    path = tmp_path / "config.yaml"
    write_atomic(path, b"old")
    monkeypatch.setattr(files, "publish", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
