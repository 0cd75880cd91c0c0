"""The run directory: its default place, what is refused, and who may read it."""

from __future__ import annotations

import errno
import stat
import tempfile
from pathlib import Path

import pytest

from rftfm_ray.errors import RunDirError
from rftfm_ray.telemetry.rundir import check_run_dir, create_run_dir, default_run_dir


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_default_is_below_the_named_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RFTFM_HOME", str(tmp_path))
    assert default_run_dir("addition-1") == tmp_path / "addition-1"


@pytest.mark.parametrize("value", [None, ""])
def test_default_without_one_is_below_the_users_home(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, value: str | None
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RFTFM_HOME", raising=False)
    if value is not None:
        monkeypatch.setenv("RFTFM_HOME", value)
    assert default_run_dir("addition-1") == tmp_path / "rftfm_runs" / "addition-1"


def test_directory_that_holds_something_is_refused_and_untouched(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text("{}")
    with pytest.raises(RunDirError, match=r"exists already and is not empty.*--run-dir"):
        create_run_dir(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["summary.json"]


def test_file_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    with pytest.raises(RunDirError, match="exists already"):
        check_run_dir(tmp_path / "run")


def test_path_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RunDirError, match=r"would lie below the file .*/file"):
        check_run_dir(tmp_path / "file" / "a" / "run")


def test_check_creates_nothing(tmp_path: Path) -> None:
    check_run_dir(tmp_path / "a" / "run")
    assert list(tmp_path.iterdir()) == []


def test_place_that_cannot_be_written_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(**_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(RunDirError, match=r"is not writable \(Permission denied\).*RFTFM_HOME"):
        check_run_dir(tmp_path / "run")


def test_directory_that_cannot_be_made_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(RunDirError, match=r"cannot be created \(No space left on device\)"):
        create_run_dir(tmp_path / "run")


def test_new_directory_is_its_owners_only(tmp_path: Path) -> None:
    create_run_dir(tmp_path / "a" / "run")
    assert _mode(tmp_path / "a" / "run") == 0o700


def test_empty_directory_is_used_and_closed_to_others(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run").chmod(0o755)
    create_run_dir(tmp_path / "run")
    assert _mode(tmp_path / "run") == 0o700
