"""SIGTERM and SIGINT of a run: the step in progress is completed, the state is saved, and the run ends.

`ray job stop` and process managers send SIGTERM, a terminal sends SIGINT. Before the first step there is nothing to
save, so the signal ends the run where it is. A second signal ends the process at once.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from types import FrameType

from rftfm_ray.errors import SIGNALLED, InterruptedRunError, SignalInterrupt, StoppedError, TerminatedRunError

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopSignal:
    """The request of a signal to end the run. Until it is `installed`, signals do what they did before."""

    def __init__(self) -> None:
        self._signum = 0
        self._deferred = False
        self._installed = False

    @property
    def requested(self) -> bool:
        """Whether a signal has asked the run to end."""
        return self._signum != 0

    @property
    def name(self) -> str:
        """Name of the signal, for example SIGTERM; empty before one came."""
        return signal.Signals(self._signum).name if self._signum else ""

    @contextlib.contextmanager
    def installed(self) -> Iterator[StopSignal]:
        """Handle SIGTERM and SIGINT here, in the main thread; the earlier handlers return at the end."""
        before = {number: signal.getsignal(number) for number in SIGNALS}
        self._installed = True
        self.reinstall()
        try:
            yield self
        finally:
            self._installed = False
            for number, handler in before.items():
                # None: a handler that was not set from Python cannot be set from it.
                signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def reinstall(self) -> None:
        """Take the signals back, where they are handled here: `ray.init` sets handlers of its own."""
        if self._installed:
            for number in SIGNALS:
                signal.signal(number, self._handle)

    def defer(self) -> None:
        """From here on only remember a signal; the run asks `requested` where it can end."""
        self._deferred = True

    def error(self, message: str) -> StoppedError:
        """The error that a run ends with after a signal."""
        return (InterruptedRunError if self._signum == signal.SIGINT else TerminatedRunError)(message)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        del frame
        if self._signum:
            # The user asks again: nothing that cleans up may be waited for. A local Ray ends with this process.
            os._exit(SIGNALLED + signum)
        self._signum = signum
        if not self._deferred:
            raise SignalInterrupt(signum)
