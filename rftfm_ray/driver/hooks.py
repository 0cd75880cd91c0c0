"""`guard.on_incident`: tells a command or a URL of the events of incidents, in a thread of its own.

The run never waits for it: events are queued up to a bound and dropped beyond it. A call has a time limit and is made
again a few times, each after a longer pause. The first event that cannot be told is journalled, and all are counted.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import os
import queue
import shlex
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rftfm_ray.actors.guards import GuardGroup
from rftfm_ray.errors import RecordError
from rftfm_ray.incidents.requests import Wish
from rftfm_ray.incidents.state import Entry, EntryKind, carries_remedy
from rftfm_ray.planning import RunPlan
from rftfm_ray.telemetry.records import RunRecords
from rftfm_ray.telemetry.rundir import answer_command

logger = logging.getLogger(__name__)

VERSION = 1
EVENTS: Mapping[EntryKind, str] = {
    EntryKind.OPENED: "opened",
    EntryKind.DIAGNOSED: "named",
    EntryKind.ADVISED: "waiting",
    EntryKind.APPROVED: "approved",
    EntryKind.REJECTED: "rejected",
    EntryKind.PAUSED: "paused",
    EntryKind.APPLIED: "applied",
    EntryKind.OUTCOME: "outcome",
    EntryKind.CLOSED: "closed",
}
"""Journal entries that are told, with the name of the event."""

# Fields of an entry that an event carries: names, figures of the run and the guard's own sentences.
FIELDS = (
    "onset", "probability", "summary", "remedy", "reason", "by", "outcome", "severity_before", "severity_after",
    "probe_before", "probe_after", "restore_step", "state", "waited_s",
)  # fmt: skip
# Answers of a server that are worth another try, beside all from 500 on.
TRANSIENT = (408, 425, 429)


@dataclass(frozen=True, slots=True)
class HookLimits:
    """Bounds of a hook.

    Attributes:
        call_s: time limit of one call.
        pauses_s: before each further try of an event.
        queued: events that may wait.
        end_s: time that waiting events get at the end of the run.
    """

    call_s: float = 10.0
    pauses_s: tuple[float, ...] = (0.5, 2.0, 8.0)
    queued: int = 256
    end_s: float = 3.0


@dataclass(slots=True)
class HookTotals:
    """Events that were told, that could not be told, and that were dropped because too many waited."""

    sent: int = 0
    failed: int = 0
    dropped: int = 0


class HookError(Exception):
    """One call of a hook has failed; `again` says whether another try may help."""

    def __init__(self, message: str, *, again: bool = True) -> None:
        super().__init__(message)
        self.again = again


class IncidentHook:
    """Tells of the events of incidents.

    Args:
        target: `guard.on_incident`.
        run: name of the run.
        run_dir: its directory, named in the commands that answer a decision.
        failed: called once, from the hook's thread, with the hook's name and why the first event could not be told.
        limits: bounds.
    """

    def __init__(
        self,
        target: str,
        run: str,
        run_dir: Path,
        failed: Callable[[str, str], None],
        limits: HookLimits | None = None,
    ) -> None:
        self._call = _caller(target)
        self._name = name_of(target)
        self._run, self._run_dir, self._failed = run, run_dir, failed
        self._limits = limits or HookLimits()
        self._queue: queue.Queue[bytes | None] = queue.Queue(self._limits.queued)
        self._faults: dict[int, tuple[str, str]] = {}
        self._condition = threading.Condition()
        self._pending = 0
        self._is_ending = threading.Event()
        self.totals = HookTotals()
        self._thread = threading.Thread(target=self._work, name="rftfm-hook", daemon=True)
        self._thread.start()

    def learn(self, entries: Iterable[Entry]) -> None:
        """Take in which faults incidents have, from entries that are not told, of the run that this one continues."""
        for entry in entries:
            if entry.kind in (EntryKind.OPENED, EntryKind.DIAGNOSED):
                self._faults[entry.incident] = entry.text("code"), entry.text("family")

    def offer(self, entry: Entry) -> None:
        """Queue the event of an entry, if it has one. Never waits."""
        self.learn((entry,))
        told = entry.kind in EVENTS and (entry.kind is not EntryKind.APPLIED or carries_remedy(entry))
        if not told:
            return
        event = json.dumps(self._event(entry), allow_nan=False).encode()
        with self._condition:
            try:
                self._queue.put_nowait(event)
                self._pending += 1
            except queue.Full:
                self.totals.dropped += 1

    def drain(self) -> None:
        """Give what waits its time at the end of the run."""
        with self._condition:
            self._condition.wait_for(lambda: not self._pending, self._limits.end_s)

    def close(self) -> HookTotals:
        """End after what waits was told, or its time is over; what is left then counts as dropped."""
        self.drain()
        self._is_ending.set()
        with contextlib.suppress(queue.Full):
            self._queue.put_nowait(None)
        with self._condition:
            totals = self.totals
            return HookTotals(totals.sent, totals.failed, totals.dropped + self._pending)

    def _event(self, entry: Entry) -> dict[str, Any]:
        code, family = self._faults.get(entry.incident, ("", ""))
        event: dict[str, Any] = {
            "version": VERSION, "event": EVENTS[entry.kind], "run": self._run, "run_dir": str(self._run_dir),
            "time_s": round(time.time(), 3), "incident": entry.incident, "code": code, "family": family,
            "attempt": entry.id.attempt, "step": entry.id.step, "paid_step": entry.id.paid_step,
        }  # fmt: skip
        values = dict(entry.fields)
        event |= {name: _finite(values[name]) for name in FIELDS if values.get(name) is not None}
        if entry.kind in (EntryKind.ADVISED, EntryKind.PAUSED):
            event |= {wish.value: answer_command(self._run_dir, wish, entry.incident) for wish in Wish}
        return event

    def _work(self) -> None:
        while (event := self._queue.get()) is not None:
            if self._is_ending.is_set():
                return
            self._tell(event)
            with self._condition:
                self._pending -= 1
                self._condition.notify_all()

    def _tell(self, event: bytes) -> None:
        for pause_s in (*self._limits.pauses_s, None):
            try:
                self._call(event, self._limits.call_s)
            except HookError as error:
                if pause_s is not None and error.again and not self._is_ending.wait(pause_s):
                    continue
                self._note_failure(str(error))
                return
            except Exception as error:  # noqa: BLE001 - a hook must not end the run, whatever it meets
                self._note_failure(repr(error))
                return
            self.totals.sent += 1
            return

    def _note_failure(self, why: str) -> None:
        self.totals.failed += 1
        if self.totals.failed == 1:
            logger.warning("guard.on_incident=%s could not be told of an event: %s", self._name, why)
            self._failed(self._name, why)


@contextlib.contextmanager
def incident_hook(planned: RunPlan, guards: GuardGroup | None, records: RunRecords) -> Iterator[IncidentHook | None]:
    """The hook of a run, until the run ends; None where it has none. What came of it is recorded."""
    target = planned.config.guard.on_incident
    if target is None or guards is None:
        yield None
        return
    hook = IncidentHook(target, planned.name, planned.folder, guards.note_hook_failed)
    try:
        yield hook
    finally:
        totals = hook.close()
        with contextlib.suppress(RecordError):
            records.event(
                "incident_hook", None, hook=name_of(target), sent=totals.sent, failed=totals.failed,
                dropped=totals.dropped,
            )  # fmt: skip


def name_of(target: str) -> str:
    """A hook as it is named in journal and log: without what may be secret, such as the path of a URL."""
    if _is_url(target):
        parts = urlsplit(target)
        return f"{parts.scheme}://{parts.hostname or ''}" + (f":{parts.port}" if parts.port else "")
    return shlex.split(target)[0]


def _is_url(target: str) -> bool:
    return target.startswith(("http://", "https://"))


def _finite(value: object) -> object:
    return None if isinstance(value, float) and not abs(value) < float("inf") else value


def _caller(target: str) -> Callable[[bytes, float], None]:
    if _is_url(target):
        return lambda event, limit_s: _post(target, event, limit_s)
    command = shlex.split(target)
    return lambda event, limit_s: _run(command, event, limit_s)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A POST that is sent elsewhere would become a GET."""

    def redirect_request(self, *_: object) -> None:
        return None


def _post(url: str, event: bytes, limit_s: float) -> None:
    """POST an event.

    Raises:
        HookError: when the server cannot be reached, is late, or refuses it.
    """
    request = urllib.request.Request(url, event, {"Content-Type": "application/json"}, method="POST")  # noqa: S310
    try:
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=limit_s):
            return
    except urllib.error.HTTPError as error:
        again = error.code >= 500 or error.code in TRANSIENT
        raise HookError(f"the server answered {error.code}", again=again) from None
    except TimeoutError:
        raise HookError(f"no answer within {limit_s:g} s") from None
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise HookError(f"it cannot be reached ({str(reason) or type(error).__name__})") from None


def _run(command: list[str], event: bytes, limit_s: float) -> None:
    """Run a command with an event on its standard input.

    Raises:
        HookError: when it cannot be started, fails, or is late; it is then ended with all that it has started.
    """
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
    except OSError as error:
        raise HookError(f"it cannot be started ({error.strerror})", again=False) from None
    try:
        process.communicate(event, timeout=limit_s)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise HookError(f"it did not end within {limit_s:g} s") from None
    if process.returncode:
        raise HookError(f"it ended with exit code {process.returncode}")
