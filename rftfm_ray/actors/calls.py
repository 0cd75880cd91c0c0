"""Remote calls as typed values: the called actor, the purpose, and failures as the framework's own errors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import ray
from ray import ObjectRef

from rftfm_ray.actors.roles import Role
from rftfm_ray.errors import GuardError, LearnerError, RftfmError, RolloutError

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

_ERRORS: dict[str, type[RftfmError]] = {
    "learner": LearnerError,
    "rollout": RolloutError,
    "monitor": GuardError,
    "controller": GuardError,
}

_DEATHS = {
    "running low on memory": "its process was killed because the node ran out of memory.",
    "node died": "its node is gone.",
    "node_died": "its node is gone.",
    "ray.kill": "it was ended by `ray.kill`.",
    "worker process has died": "its process was killed or crashed; `dmesg` shows whether memory ran out.",
    "unexpectedly exits": "its process was killed or crashed; `dmesg` shows whether memory ran out.",
}
"""What Ray's text on a death says, by words in it; the first that is there holds."""


@dataclass(frozen=True, slots=True)
class Pending(Generic[T_co]):
    """The result of a remote call that may still be running.

    Attributes:
        reference: Ray's reference to the result.
        role: the called actor.
        inputs: calls whose results are its arguments; when one of them fails, the error names that one.
    """

    reference: ObjectRef[T_co]
    role: Role
    inputs: tuple[Pending[object], ...] = ()


@dataclass(frozen=True, slots=True)
class Limit:
    """Time limit of a result; `key` is its configuration key, empty for a fixed limit."""

    seconds: float
    key: str = ""


def wait_for(calls: Sequence[Pending[T]], limit: Limit, doing: str) -> list[T]:
    """Results of remote calls, in order.

    Args:
        calls: the calls to wait for.
        limit: the time limit.
        doing: what the actors do, for the sentence of an error: "while generating".

    Raises:
        RftfmError: an actor's typed error as it was raised; for a dead actor, a bug or a time-out the error of the
            role where it began, which may be that of an input.
    """
    try:
        results: list[T] = ray.get([call.reference for call in calls], timeout=limit.seconds)
        return results
    except ray.exceptions.GetTimeoutError:
        late = _origin(calls, lambda call: not _is_ready(call))
        fix = f"raise {limit.key}, or see" if limit.key else "see"
        raise _ERRORS[late.kind](
            f"{late.name} did not answer within {limit.seconds:g} s while {doing}; {fix} `ray list actors`."
        ) from None
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None)
        if isinstance(cause, RftfmError):
            raise cause from error
        failed = _origin(calls, _has_failed)
        if isinstance(error, ray.exceptions.RayActorError):
            raise _ERRORS[failed.kind](f"{failed.name} died while {doing}: {_death(cause or error)}") from error
        raise _ERRORS[failed.kind](f"{failed.name} failed while {doing}: {cause or error!r}.") from error


def _origin(calls: Sequence[Pending[object]], is_bad: Callable[[Pending[object]], bool]) -> Role:
    """The role of the first bad call none of whose inputs is bad."""
    for call in calls:
        if is_bad(call):
            return _origin(call.inputs, is_bad) if any(map(is_bad, call.inputs)) else call.role
    return calls[0].role


def _is_ready(call: Pending[object]) -> bool:
    ready, _ = ray.wait([call.reference], timeout=0)
    return bool(ready)


def _has_failed(call: Pending[object]) -> bool:
    if not _is_ready(call):
        return False
    try:
        ray.get(call.reference)
    except ray.exceptions.RayError:
        return True
    return False


def _death(error: ray.exceptions.RayActorError) -> str:
    """Why an actor died, in a clause; of a failed start the error itself, which is the last line of its traceback."""
    text = str(error).strip()
    if error.actor_init_failed:
        return " ".join(text.splitlines()[-1].split())[:600]
    known = next((words for sign, words in _DEATHS.items() if sign in text), "")
    # Ray's own text is a paragraph on every way in which a process can end.
    return known or " ".join(text.split())[:200]
