"""The role of an actor, as `ray list actors` and process lists show it; fixed at its creation."""

from __future__ import annotations

import logging
import os
import signal
import threading
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, repr=False)
class Role:
    """The role of one actor in a run.

    `kind` is learner, rollout, monitor or controller; `detail` sums up its configuration.
    """

    run: str
    kind: str
    index: int
    detail: str

    @property
    def name(self) -> str:
        """Name within the run, for example `rollout-0`."""
        return f"{self.kind}-{self.index}"

    @property
    def actor_name(self) -> str:
        """Name within the namespace, for example `calculator-1a2b/rollout-0`."""
        return f"{self.run}/{self.name}"

    def __repr__(self) -> str:
        return f"{self.kind}-{self.index}(run={self.run}, {self.detail})"


def rename_process(role: Role) -> None:
    """Name this process in `ps` and `top`, and log under the role's name."""
    import setproctitle

    setproctitle.setproctitle(f"ray::rftfm {role.actor_name}")
    logging.basicConfig(level=os.environ.get("RFTFM_LOG_LEVEL", "WARNING"), format=f"{role.name}: %(message)s")
    # Without this it warns that triton is missing, which is always so on a CPU.
    logging.getLogger("torch._library.triton").setLevel(logging.ERROR)


def keep_working() -> None:
    """In an actor of a local Ray, which a run shelters from signals: outlive them, but do not hand that on.

    A task may start programs and end them with SIGTERM. A program inherits a blocked signal, but not a handler.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    for number in (signal.SIGTERM, signal.SIGHUP):
        if number in blocked:
            signal.signal(number, lambda *_: None)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, (number,))
