"""SIGTERM, SIGINT and SIGHUP of a run: the step in progress is completed, the state is saved, and the run ends.

`ray job stop`, `timeout` and process managers send SIGTERM, a terminal sends SIGINT, and SIGHUP when it is closed.
Before the first step there is nothing to save, so the signal ends the run where it is. In the last step or after it
nothing is left to stop: the run ends as it would have, with the checkpoint that the signal asks for. A second signal
ends the process at once.

Python handles signals in the main thread, which may wait for a Ray that the same signal has ended. So a thread of its
own reads every signal from a pipe, ends the process at the second one, and at a deadline once there is nothing to save.
"""

from __future__ import annotations

import contextlib
import math
import os
import selectors
import signal
import threading
import time
from collections.abc import Callable, Iterator
from enum import StrEnum
from types import FrameType

from rftfm_ray.errors import (
    SIGNALLED,
    HungUpRunError,
    InterruptedRunError,
    SignalInterrupt,
    StoppedError,
    TerminatedRunError,
)

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
# `timeout` and process managers send a signal to the process and again to its group; that is one request.
REPEAT_S = 1.0
# Seconds to clean up in, once there is nothing more to save. Slurm and systemd wait 30 and 90 s before SIGKILL, `ray
# job stop` 3; a local Ray ends with this process in any case.
CLEANUP_S = 6.0
# What the watching thread reads from its pipe beside the numbers of signals.
_WAKE, _CLOSE = 254, 255


class Outlook(StrEnum):
    """What becomes of a run that is asked to end now, as the user is told at once."""

    STEP = "stopping after this step, with a checkpoint. A second signal ends the run without one."
    LAST_STEP = (
        "this step is the last: the run ends after it, with a checkpoint and a last probe. A second signal ends it at "
        "once."
    )
    LAST_PROBE = (
        "the last step is made: the run ends after its last probe, with a checkpoint. A second signal ends it at once."
    )
    CLOSING = "the last step is made, and the run is ending. A second signal ends it at once."


class StopSignal:
    """The request of a signal to end the run. Until it is `installed`, signals do what they did before.

    `last_words` gives the sentence that the process ends with when it must end before the run could say one; `outlook`
    is what a signal leads to that is only remembered.
    """

    def __init__(self) -> None:
        self.outlook = Outlook.STEP
        self.last_words: Callable[[], str] = lambda: f"ended by {self.name}."
        self._signum = 0
        self._deferred = False
        self._is_installed = False
        self._was_raised = False
        self._was_said = False
        self._deadline = math.inf
        self._waker = -1
        self._handled: tuple[signal.Signals, ...] = ()

    @property
    def requested(self) -> bool:
        """Whether a signal has asked the run to end."""
        return self._signum != 0

    @property
    def name(self) -> str:
        """Name of the signal, for example SIGTERM; empty before one came."""
        return signal.Signals(self._signum).name if self._signum else ""

    @property
    def is_installed(self) -> bool:
        """Whether signals are handled here."""
        return self._is_installed

    @contextlib.contextmanager
    def installed(self) -> Iterator[StopSignal]:
        """Handle the signals here, in the main thread; the earlier handlers return at the end.

        A SIGHUP that is ignored, as under `nohup`, stays so.
        """
        before = {number: signal.getsignal(number) for number in SIGNALS}
        self._handled = tuple(
            number for number in SIGNALS if number != signal.SIGHUP or before[number] != signal.SIG_IGN
        )
        reader, self._waker = os.pipe()
        os.set_blocking(self._waker, False)
        earlier = signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)
        watch = threading.Thread(target=self._watch, args=(reader,), name="rftfm-signals", daemon=True)
        watch.start()
        self._is_installed = True
        self.reinstall()
        try:
            yield self
        finally:
            self._is_installed = False
            for number in self._handled:
                # None: a handler that was not set from Python cannot be set from it.
                handler = before[number]
                signal.signal(number, signal.SIG_DFL if handler is None else handler)
            signal.set_wakeup_fd(earlier)
            os.write(self._waker, bytes([_CLOSE]))
            watch.join()
            os.close(reader)
            os.close(self._waker)

    def reinstall(self) -> None:
        """Take the signals back, where they are handled here: `ray.init` sets handlers of its own."""
        if self._is_installed:
            for number in self._handled:
                signal.signal(number, self._handle)

    def note(self, signum: int) -> None:
        """Take in a signal that another handler has turned into an exception."""
        self._signum = self._signum or signum

    def defer(self) -> None:
        """From here on only remember a signal; the run asks `requested` where it can end."""
        self._deferred = True

    def end_soon(self) -> None:
        """Nothing is left to save and the user knows it: where signals are handled here, clean up by a deadline."""
        self._was_said = True
        if self._is_installed:
            self._deadline = time.monotonic() + CLEANUP_S
            os.write(self._waker, bytes([_WAKE]))

    def error(self, message: str) -> StoppedError:
        """The error that a run ends with after a signal."""
        kinds = {signal.SIGINT: InterruptedRunError, signal.SIGHUP: HungUpRunError}
        return kinds.get(signal.Signals(self._signum), TerminatedRunError)(message)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        del frame
        self.note(signum)
        if not (self._deferred or self._was_raised):
            # Once: a repetition must not interrupt what cleans up.
            self._was_raised = True
            raise SignalInterrupt(signum)

    def _watch(self, reader: int) -> None:
        """Read the signals until `installed` ends."""
        first_s = math.inf
        # Unlike `select`, it takes the descriptors of a process that has a thousand files open.
        with selectors.DefaultSelector() as waiting:
            waiting.register(reader, selectors.EVENT_READ)
            while True:
                left_s = self._deadline - time.monotonic()
                ready = waiting.select(None if left_s == math.inf else max(0.0, left_s))
                if not ready:
                    self._end(self._signum)
                for number in os.read(reader, 64) if ready else b"":
                    if number == _CLOSE:
                        return
                    if number in SIGNALS:
                        first_s = self._take_in(number, first_s)

    def _take_in(self, number: int, first_s: float) -> float:
        """Note a signal; the time of the first one."""
        now = time.monotonic()
        self.note(number)
        if now > first_s + REPEAT_S:
            # The user asks again: nothing that cleans up may be waited for. A local Ray ends with this process.
            os._exit(SIGNALLED + number)
        if first_s == math.inf:
            self._acknowledge(now)
        return min(first_s, now)

    def _acknowledge(self, now: float) -> None:
        """Take in the first signal: a step may take minutes, and the user must know that it was heard."""
        if self._deferred:
            _say(f"{self.name}: {self.outlook}")
        else:
            # The main thread may be in a call that no signal interrupts.
            self._deadline = now + CLEANUP_S

    def _end(self, signum: int) -> None:
        """End the process; what could not be cleaned up in time ends with it, or with its cluster's job."""
        if not self._was_said:
            _say(self.last_words())
        os._exit(SIGNALLED + signum)


def _say(text: str) -> None:
    """Write a line for the user. Not through `sys.stderr`, whose lock the main thread may hold."""
    with contextlib.suppress(OSError):
        os.write(2, f"rftfm: {text}\n".encode())


@contextlib.contextmanager
def sheltered() -> Iterator[None]:
    """Processes that are started in here do not get the signals that end a run, nor do their descendants.

    `timeout`, Slurm and systemd send a signal to every process of a job. A local Ray must outlive it until the state of
    the run is saved; Linux ends it with this process. Other threads of this process still get the signals.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
