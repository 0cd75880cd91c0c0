"""Waiting for remote calls: results in order, and errors that name the actor where they began."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import ray.exceptions

from rftfm_ray.actors import calls as module
from rftfm_ray.actors.calls import Limit, Pending, wait_for
from rftfm_ray.actors.roles import Role
from rftfm_ray.errors import GuardError, LearnerError, RftfmError, RolloutError, SyncError

LEARNER, FIRST, SECOND = (
    Role("run", kind, index, "") for kind, index in (("learner", 0), ("rollout", 0), ("rollout", 1))
)
MONITOR, CONTROLLER = Role("run", "monitor", 0, ""), Role("run", "controller", 0, "")
LIMIT = Limit(2.5, "rollout.timeout_s")
LATE = object()
"""In the place of a result that does not come."""


@pytest.fixture(autouse=True)
def world(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Ray in which the reference of a call is its result, an error that it raises, or `LATE`."""

    def get(references: Any, timeout: float | None = None) -> Any:
        if not isinstance(references, list):
            return get([references])[0]
        for reference in references:
            if isinstance(reference, BaseException):
                raise reference
        if any(reference is LATE for reference in references):
            raise ray.exceptions.GetTimeoutError
        return references

    def wait(references: Sequence[Any], timeout: float) -> tuple[list[Any], list[Any]]:
        assert timeout == 0, "nobody waits for an error to be explained"
        ready = [reference for reference in references if reference is not LATE]
        return ready, [reference for reference in references if reference is LATE]

    monkeypatch.setattr(module, "ray", SimpleNamespace(get=get, wait=wait, exceptions=ray.exceptions))


def died(started: bool = True) -> BaseException:
    """What Ray raises for a dead actor: one that was killed, or one whose constructor has failed."""
    error = ray.exceptions.ActorDiedError()
    error.error_msg, error._actor_init_failed = "It died.\n\tclass_name: X\nkilled", not started
    if not started:
        error.error_msg = (
            "The actor died because of an error raised in its creation task\n  File a\nModelError: no model"
        )
    return error  # type: ignore[no-any-return]


def raised(cause: BaseException) -> BaseException:
    """What Ray raises for a method that has raised `cause`, also through calls that were given its result."""
    return ray.exceptions.RayTaskError("train", "a traceback", cause).as_instanceof_cause()  # type: ignore[no-any-return]


def asked(reference: Any, role: Role, *inputs: Pending[Any]) -> Pending[Any]:
    """A call."""
    return Pending(reference, role, inputs)


def failing(*calls: Pending[Any]) -> RftfmError:
    """The error of waiting for calls."""
    with pytest.raises(RftfmError) as caught:
        wait_for(calls, LIMIT, "training")
    return caught.value


def test_results_come_in_the_order_of_the_calls() -> None:
    assert wait_for([asked(2, SECOND), asked(1, FIRST)], LIMIT, "generating") == [2, 1]
    assert wait_for([], LIMIT, "generating") == []


@pytest.mark.parametrize(
    ("role", "kind"),
    [(LEARNER, LearnerError), (SECOND, RolloutError), (MONITOR, GuardError), (CONTROLLER, GuardError)],
    ids=lambda part: part.name if isinstance(part, Role) else part.__name__,
)
@pytest.mark.parametrize(
    ("reference", "words"),
    [
        (died, "died while training: It died. class_name: X killed"),
        (lambda: died(started=False), "died while training: ModelError: no model"),
        (lambda: raised(KeyError("weight")), "failed while training: KeyError('weight')."),
        (lambda: raised(died()), "died while training: It died. class_name: X killed"),
        (
            lambda: LATE,
            "did not answer within 2.5 s while training; raise rollout.timeout_s, or see `ray list actors`.",
        ),
    ],
    ids=["killed", "not-started", "bug", "killed-input", "late"],
)
def test_error_names_the_actor_and_is_of_its_kind(
    role: Role, kind: type[RftfmError], reference: Callable[[], Any], words: str
) -> None:
    error = failing(asked(1, FIRST), asked(reference(), role))
    assert type(error) is kind
    assert str(error) == f"{role.name} {words}"


def test_limit_without_a_key_names_none() -> None:
    with pytest.raises(
        GuardError, match=r"controller-0 did not answer within 60 s while judging; see `ray list actors`\."
    ):
        wait_for([asked(LATE, CONTROLLER)], Limit(60.0), "judging")


def test_typed_error_of_an_actor_is_raised_as_it_was() -> None:
    cause = SyncError("rollout-0 holds model version 3 and was asked for 4; sync it first.")
    assert failing(asked(raised(cause), LEARNER)) is cause


@pytest.mark.parametrize("bad", [died, lambda: raised(KeyError("a")), lambda: LATE], ids=["dead", "bug", "late"])
def test_blame_goes_to_where_it_began(bad: Callable[[], Any]) -> None:
    """The learner was given the trajectories of two rollout actors, and a rollout actor the learner's weights."""
    trajectories = asked("fine", FIRST), asked(bad(), SECOND)
    weights = asked(bad(), LEARNER, *trajectories)
    loaded = asked(bad(), FIRST, weights)
    for call in (loaded, weights, trajectories[1]):
        error = failing(call)
        assert type(error) is RolloutError
        assert str(error).startswith("rollout-1 ")
    # With all its inputs in order it is the learner that fails.
    assert str(failing(asked(bad(), FIRST, asked(bad(), LEARNER, trajectories[0])))).startswith("learner-0 ")


def test_what_has_failed_is_blamed_and_not_what_is_still_under_way() -> None:
    assert str(failing(asked(LATE, FIRST), asked(died(), SECOND))).startswith("rollout-1 died")


def test_error_of_another_kind_is_a_sentence_too() -> None:
    error = failing(asked(ray.exceptions.OutOfMemoryError("no memory is left"), SECOND))
    assert type(error) is RolloutError
    assert "rollout-1 failed while training: " in str(error)
    assert "no memory is left" in str(error)


GENERIC = (
    "The actor died unexpectedly before finishing this task. class_name: LearnerActor actor_id: 1f pid: 7 The actor is "
    "dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: Worker unexpectedly "
    "exits with a connection error code 2. End of file. There are some potential root causes. (1) The process is "
    "killed by SIGKILL by OOM killer due to high memory usage. (2) ray stop --force is called. (3) The worker is "
    "crashed unexpectedly due to SIGSEGV or other unexpected errors."
)


@pytest.mark.parametrize(
    ("text", "clause"),
    [
        (GENERIC, "its process was killed or crashed; `dmesg` shows whether memory ran out."),
        ("The actor died because its node died.", "its node is gone."),
        ("The actor is dead because it was killed by `ray.kill`.", "it was ended by `ray.kill`."),
        ("It was the worker running low on memory.", "its process was killed because the node ran out of memory."),
        ("x" * 900, "x" * 200),
    ],
    ids=["killed", "node", "ray.kill", "memory", "unknown"],
)
def test_death_of_an_actor_is_one_clause(text: str, clause: str) -> None:
    error = ray.exceptions.ActorDiedError()
    error.error_msg = text
    assert str(failing(asked(error, LEARNER))) == f"learner-0 died while training: {clause}"
