"""Actors of the guard that can be replaced: their calls since a saved state are remembered and made again.

Judging is deterministic, so a new actor that loads the saved state and takes the same calls is where the lost one was.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import ray
from ray.actor import ActorHandle

from rftfm_ray.actors.calls import Limit, Pending, wait_for
from rftfm_ray.actors.group import START, wait_for_name
from rftfm_ray.actors.roles import Role
from rftfm_ray.errors import GuardError, StateError

logger = logging.getLogger(__name__)

# Answering takes a millisecond; an actor that takes longer hangs.
PING = Limit(10.0)
# States to fall back to: when the newest cannot be read, the one before is.
MOST_STATES = 2


@dataclass(frozen=True, slots=True)
class Call:
    """One call that changes an actor. `steps` is the number of step reports in it."""

    method: str
    arguments: tuple[object, ...] = ()
    steps: int = 0


@dataclass(frozen=True, slots=True)
class _SavedState:
    """A state to start from: the call that restores it, None for a new actor's own, and the calls before it."""

    restoring: Call | None
    done: int


class Recoverable:
    """One actor, with its calls since the oldest state that it can be restored to.

    Args:
        role: of the actor.
        start: creates the actor; called again when it is lost.
    """

    def __init__(self, role: Role, start: Callable[[], ActorHandle]) -> None:
        self.role = role
        self._start = start
        self._handle = start()
        self._calls: list[Call] = []
        self._states = [_SavedState(None, 0)]

    @property
    def unsaved_steps(self) -> int:
        """Step reports since the newest saved state."""
        return sum(call.steps for call in self._calls[self._states[-1].done :])

    def submit(self, call: Call) -> Pending[object]:
        """Make a call without waiting for it."""
        return Pending(getattr(self._handle, call.method).remote(*call.arguments), self.role)

    def record(self, call: Call) -> None:
        """Remember a call whose result has come."""
        self._calls.append(call)

    def saved(self, restoring: Call) -> None:
        """Take note of a saved state after all recorded calls; `restoring` restores it in a new actor."""
        states = [*self._states, _SavedState(restoring, len(self._calls))][-MOST_STATES:]
        oldest = states[0].done
        del self._calls[:oldest]
        self._states = [_SavedState(state.restoring, state.done - oldest) for state in states]

    def answers(self) -> bool:
        """Whether the actor is alive and takes calls."""
        try:
            wait_for([self.submit(Call("ping"))], PING, "answering")
        except GuardError:
            return False
        return True

    def replace(self) -> int:
        """Replace the actor by a new one in the same state; returns the number of step reports that it took again.

        Raises:
            GuardError: when the new one fails or is lost as well.
            StateError: when no saved state can be read; names the newest and the fix.
        """
        ray.kill(self._handle)
        wait_for_name(self.role.actor_name)
        self._handle = self._start()
        state = self._restore()
        again = self._calls[state.done :]
        wait_for([self.submit(call) for call in again], START, "taking in the steps since its saved state")
        return sum(call.steps for call in again)

    def stop(self) -> None:
        """End the actor. Safe to call twice."""
        ray.kill(self._handle)

    def _restore(self) -> _SavedState:
        """The newest state that can be read, which the actor is then in."""
        first: StateError | None = None
        for state in reversed(self._states):
            if state.restoring is None:
                return state
            try:
                wait_for([self.submit(state.restoring)], START, "restoring its state")
            except StateError as error:
                logger.warning("%s cannot be restored from its newest state: %s", self.role.name, error)
                first = first or error
            else:
                return state
        raise first or StateError(f"{self.role.name} has no saved state; start the run again.")
