"""The log of a run whose reader ends first: `rftfm train | head`, a dead `tee`, a terminal that was closed."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from rftfm_ray.cli.streams import LastingStream, lasting

ROOT = Path(__file__).parents[3]
TRAINING = """
import os, sys
from rich.console import Console
from rftfm_ray.cli.progress import progress
from rftfm_ray.cli.streams import lasting
from rftfm_ray.config import load_config
from rftfm_ray.incidents.state import Entry, EntryKind
from rftfm_ray.types import StepId

sys.stdin.readline()
console = Console(file=lasting(sys.stderr), force_terminal={terminal})
with progress(console, load_config(None, [])) as watched:
    for _ in range(3):
        watched.entry(Entry(1, EntryKind.LOST, StepId(0, 5, 5), 0, (("reason", "x"), ("judged", 4))))
print("at the end", file=sys.stderr)
sys.stderr.flush()
os.write(1, b"trained on")
"""


@pytest.mark.parametrize("terminal", [False, True])
def test_training_goes_on_when_the_reader_of_its_log_has_ended(*, terminal: bool) -> None:
    reader, writer = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", TRAINING.format(terminal=terminal)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=writer, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True,
    )  # fmt: skip
    os.close(writer)
    os.close(reader)
    said, _ = process.communicate("go\n", timeout=60)
    assert (said, process.returncode) == ("trained on", 0)


def test_a_command_whose_reader_has_ended_keeps_its_exit_code() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "rftfm_ray", "train", "absent.yaml"], stdout=writer, stderr=writer, cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=60, check=False,
    )  # fmt: skip
    os.close(writer)
    assert done.returncode == 2


class Full(io.TextIOWrapper):
    """A stream on a disk that is full until it is not."""

    is_full = True

    def write(self, text: str, /) -> int:
        """Refuse the text while the disk is full."""
        if self.is_full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(text)


def test_log_on_a_full_disk_goes_on_once_there_is_room(tmp_path: Path) -> None:
    path = tmp_path / "log"
    stream = Full(path.open("wb"), encoding="utf-8")
    console = Console(file=lasting(stream))
    console.print("lost")
    stream.is_full = False
    console.print("kept")
    stream.close()
    assert path.read_text() == "kept\n"


def test_stream_looks_like_the_one_behind_it(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w", encoding="ascii") as stream:
        lasting_stream = LastingStream(stream)
        assert lasting_stream.encoding == "ascii"
        assert (lasting_stream.isatty(), lasting_stream.fileno()) == (False, stream.fileno())
        assert lasting_stream.write("text") == 4
        lasting_stream.flush()
        assert (tmp_path / "log").read_text() == "text"
