"""`events.jsonl`: what happened in a run, one JSON object a line, in order."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

from rftfm_ray.errors import RecordError
from rftfm_ray.files import PRIVATE_FILE
from rftfm_ray.types import StepId

Scalar: TypeAlias = str | int | float | bool | None
RESERVED = ("time_s", "kind", "attempt", "step", "paid_step")


class EventLog:
    """Appends to an event log. Every line is written whole by one call, so a crash can cut only the last."""

    def __init__(self, path: Path) -> None:
        self._descriptor: int | None = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, PRIVATE_FILE)

    def append(self, kind: str, step: StepId | None, **fields: Scalar) -> None:
        """Write one event. `step` is None for what belongs to the run as a whole; NaN and infinity become null.

        Raises:
            RecordError: when the disk is full or gone.
            ValueError: for a field with a reserved name, or after `close`.
        """
        clash = [name for name in fields if name in RESERVED]
        if clash or self._descriptor is None:
            raise ValueError(f"event field {clash[0]} is reserved" if clash else "the event log is closed")
        event: dict[str, Scalar] = {"time_s": round(time.time(), 3), "kind": kind}
        if step is not None:
            event |= {"attempt": step.attempt, "step": step.step, "paid_step": step.paid_step}
        event |= {name: _finite(value) for name, value in fields.items()}
        line = (json.dumps(event, allow_nan=False) + "\n").encode()
        try:
            written = os.write(self._descriptor, line)
        except OSError as error:
            raise RecordError(f"The run's events cannot be written ({error.strerror}); make room.") from error
        if written < len(line):
            raise RecordError("The run's events cannot be written (no space is left); make room.")

    def close(self) -> None:
        """Make the log durable and close it. Safe to call twice."""
        if self._descriptor is not None:
            os.fsync(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = None


def _finite(value: Scalar) -> Scalar:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_events(path: Path) -> Iterator[dict[str, Scalar]]:
    """Events in order. A last line that is cut off is left out: its writer died in the middle of it.

    Raises:
        ValueError: names file and line when any other line is not an event.
    """
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        try:
            event = json.loads(line)
            if not isinstance(event, dict) or not isinstance(event.get("kind"), str):
                raise ValueError("not an object with a kind")
        except ValueError as error:
            if number == len(lines):
                return
            raise ValueError(f"{path} line {number} is not an event ({error}); the file has been altered.") from None
        yield event
