"""Results of remote calls, with errors as the framework's own types."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ray

from rftfm_ray.errors import LearnerError, RftfmError, RolloutError


def wait_for(references: Sequence[Any], timeout_s: float, doing: str) -> list[Any]:
    """Results of remote calls, with errors as the framework's own types.

    Raises:
        RftfmError: an actor's typed error as it was raised; a dead actor or a time-out as one sentence.
    """
    try:
        results: list[Any] = ray.get(list(references), timeout=timeout_s)
        return results
    except ray.exceptions.GetTimeoutError:
        raise RolloutError(
            f"Nothing came back within {timeout_s:g} s of {doing}; look at `ray list actors`, or raise the timeout."
        ) from None
    except ray.exceptions.RayTaskError as error:
        cause = error.cause if isinstance(error.cause, RftfmError) else None
        if cause is not None:
            raise cause from error
        if isinstance(error.cause, ray.exceptions.RayActorError):
            raise _death(error.cause, doing) from error
        raise LearnerError(f"An actor failed while {doing}: {error.cause!r}.") from error
    except ray.exceptions.RayActorError as error:
        raise _death(error, doing) from error


def _death(error: ray.exceptions.RayActorError, doing: str) -> RftfmError:
    cause = error.__cause__ if isinstance(error.__cause__, Exception) else None
    inner = getattr(cause, "cause", cause)
    if isinstance(inner, RftfmError):
        return inner
    return RolloutError(f"An actor died while {doing}: {' '.join(str(error).split())[:600]}")
