"""The driver's process as a run records it, so that a reader can tell a run that goes on from one that has died."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """A process: its number, its host, and when it started, so that a later process of the same number is not it.

    `started` counts clock ticks since the host booted, as /proc/PID/stat does; 0 where there is no such file.
    """

    pid: int
    host: str
    started: int


def this_process() -> ProcessIdentity:
    """The identity of this process."""
    return ProcessIdentity(os.getpid(), socket.gethostname(), _started(os.getpid()))


def is_running(process: ProcessIdentity) -> bool | None:
    """Whether a process still runs; None for one on another host, which cannot be seen from here."""
    if process.host != socket.gethostname():
        return None
    if process.started:
        return _started(process.pid) == process.started
    try:
        os.kill(process.pid, 0)
    except PermissionError:
        return True
    except OSError:
        return False
    return True


def _started(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    # The name of the program, in brackets, may hold blanks; the state and 19 further fields come after it.
    fields = text.rpartition(")")[2].split()
    # A zombie has ended; only its parent has not noticed.
    return 0 if fields[0] in ("Z", "X") else int(fields[19])
