"""`journal.jsonl`: what the guard saw, decided and did, one line before each act, durable before the act begins."""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from pathlib import Path
from typing import Any

from rftfm_ray.errors import RecordError
from rftfm_ray.files import PRIVATE_FILE
from rftfm_ray.incidents.aliases import current_fields
from rftfm_ray.incidents.state import Entry, EntryKind, Scalar
from rftfm_ray.types import StepId

JOURNAL = "journal.jsonl"
_FIXED = ("seq", "time_s", "kind", "attempt", "step", "paid_step", "incident")


class Journal:
    """Appends entries; each is on the disk before `write` returns."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, PRIVATE_FILE)

    def write(self, entry: Entry) -> None:
        """Append one entry.

        Raises:
            RecordError: when the disk is full or gone: what is not journalled is not done.
        """
        line = json.dumps(_to_json(entry), allow_nan=False).encode() + b"\n"
        length = os.fstat(self._descriptor).st_size
        try:
            written = os.write(self._descriptor, line)
            os.fsync(self._descriptor)
        except OSError as error:
            self._cut(length)
            raise RecordError(f"The journal {self._path} cannot be written ({error.strerror}); make room.") from error
        if written < len(line):
            self._cut(length)
            raise RecordError(f"The journal {self._path} cannot be written (no space is left); make room.")

    def drop_partial_line(self) -> None:
        """Remove a last line that a killed process left half written, so that the next entry can be read.

        Raises:
            RecordError: when the journal cannot be read.
        """
        try:
            content = self._path.read_bytes()
        except OSError as error:
            raise RecordError(f"The journal {self._path} cannot be read ({error.strerror}); check the disk.") from None
        self._cut(content.rfind(b"\n") + 1)

    def _cut(self, length: int) -> None:
        """Take back what was half written, so that a later entry can be read."""
        with contextlib.suppress(OSError):
            os.ftruncate(self._descriptor, length)


def read_journal(path: Path) -> tuple[tuple[Entry, ...], tuple[float, ...]]:
    """Entries in order and the times they were written at. A last line that is cut off is left out.

    Words of older versions come as those of today (`incidents.aliases`).

    Raises:
        RecordError: names file and line when any other line is not an entry, or is out of order.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise RecordError(f"The journal {path} cannot be read ({error.strerror}); check the run.") from None
    entries: list[Entry] = []
    times: list[float] = []
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        try:
            entry, written = _from_json(json.loads(line))
            if entry.seq != len(entries) + 1:
                raise ValueError(f"entry {entry.seq} comes as number {len(entries) + 1}")
        except (ValueError, KeyError, TypeError, RecursionError, OverflowError) as error:
            if number == len(lines):
                break
            raise RecordError(f"{path} line {number} is not a journal entry ({error}); it has been altered.") from None
        entries.append(entry)
        times.append(written)
    return tuple(entries), tuple(times)


def _to_json(entry: Entry) -> dict[str, Scalar]:
    fixed: dict[str, Scalar] = {
        "seq": entry.seq,
        "time_s": round(time.time(), 3),
        "kind": entry.kind.value,
        "attempt": entry.id.attempt,
        "step": entry.id.step,
        "paid_step": entry.id.paid_step,
        "incident": entry.incident,
    }
    return fixed | {name: _finite(value) for name, value in entry.fields}


def _from_json(values: Any) -> tuple[Entry, float]:
    if not isinstance(values, dict):
        raise ValueError("it is not an object")
    whole = [values[name] for name in ("seq", "attempt", "step", "paid_step", "incident")]
    if not all(isinstance(value, int) and not isinstance(value, bool) for value in whole):
        raise ValueError("a count is not a whole number")
    fields = current_fields({name: value for name, value in values.items() if name not in _FIXED})
    if not all(value is None or isinstance(value, str | int | float) for value in fields.values()):
        raise ValueError("a field is not a plain value")
    seq, attempt, step, paid_step, incident = whole
    entry = Entry(seq, EntryKind(values["kind"]), StepId(attempt, step, paid_step), incident, tuple(fields.items()))
    return entry, float(values["time_s"])


def _finite(value: Scalar) -> Scalar:
    return None if isinstance(value, float) and not math.isfinite(value) else value
