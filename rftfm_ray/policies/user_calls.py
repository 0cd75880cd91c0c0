"""Calls of the user's code within a time limit, and checks of what its optional methods return. Pure."""

from __future__ import annotations

import difflib
import json
import math
import re
import threading
import traceback
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from rftfm_ray.errors import PolicyError
from rftfm_ray.types import Levers
from rftfm_ray.verdicts import Decision, Remedy

T = TypeVar("T")

# What is kept of a policy stands in the journal whenever it changes, and in every checkpoint.
MAX_STATE_BYTES = 16_384
MAX_DEPTH = 8
MAX_METRICS = 32
METRIC_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
PACKAGE = Path(__file__).parents[1]
_TYPES: Mapping[str, type] = {kind.__name__: kind for kind in (Levers, Remedy, Decision)}
_UNKNOWN = re.compile(rf"({'|'.join(_TYPES)})\.__init__\(\) got an unexpected keyword argument '(\w+)'")
_PLAIN = "dict with text as keys, list, str, int, float, bool and None"


class UserCalls:
    """Calls the user's code in a thread of its own, and leaves it behind where it takes too long.

    Args:
        timeout_s: longest time that one call may take.
        limit: what sets that, in words; by default the key of the configuration.
    """

    def __init__(self, timeout_s: float, limit: str = "") -> None:
        self._timeout_s = timeout_s
        self._limit = limit or f"guard.policy_timeout_s={timeout_s:g}"
        self._busy: threading.Thread | None = None

    def make(self, call: Callable[[], T]) -> T:
        """The result of a call.

        Raises:
            PolicyError: when it takes too long, or an earlier one is not done yet.
            Exception: what the call raises; a SystemExit or the like as a PolicyError.
        """
        if self._busy is not None and self._busy.is_alive():
            raise PolicyError("it is still busy with an earlier decision.")
        answer: list[T] = []
        failure: list[BaseException] = []

        def run() -> None:
            try:
                answer.append(call())
            except BaseException as error:  # noqa: BLE001 - handed on to the thread that called
                failure.append(error)

        # A thread cannot be ended from outside; the one left behind holds nothing but its frozen context.
        self._busy = threading.Thread(target=run, name="rftfm-policy", daemon=True)
        self._busy.start()
        self._busy.join(self._timeout_s)
        if self._busy.is_alive():
            raise PolicyError(f"it took longer than {self._limit}.")
        if failure:
            raise failure[0] if isinstance(failure[0], Exception) else PolicyError(f"it raised {failure[0]!r}.")
        return answer[0]


def shown(value: object) -> str:
    """A value of the user's code, as far as it can be shown."""
    try:
        return f"{value!r:.200}"
    except Exception:  # noqa: BLE001 - its repr is the user's code as well
        return f"a {type(value).__name__}"


def described(error: Exception) -> str:
    """What a call has raised, as a clause that follows the name of its method."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - its text is the user's code as well
        text = "an error that cannot be shown"
    return f"raised {type(error).__name__}{_place(error)}: {text}{_hint(text)}"


def _hint(text: str) -> str:
    """What to write in place of a name that one of the types of a decision does not know; empty for other errors."""
    match = _UNKNOWN.search(text)
    if match is None:
        return ""
    known = [item.name for item in fields(_TYPES[match[1]])]
    near = difflib.get_close_matches(match[2], known, n=1)
    listing = "`rftfm policies levers` lists them" if match[1] == Levers.__name__ else f"there are {', '.join(known)}"
    named = f"the nearest is {near[0]}" if near else listing
    return f"; {match[1]} has no {match[2]}: {named}"


def _place(error: Exception) -> str:
    """File and line of the user's code that raised; empty where the framework did."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not Path(frame.filename).is_relative_to(PACKAGE)]
    return f" at {Path(own[-1].filename).name}:{own[-1].lineno}" if own else ""


def state_text(state: object) -> str:
    """What `state_dict` has returned, as JSON that gives the same value again.

    Raises:
        PolicyError: one sentence that names the value that would not come back as it is.
    """
    if type(state) is not dict:
        raise PolicyError(f"state_dict returned {shown(state)}; it must return a dict.")
    _check_plain(state, "state_dict()", MAX_DEPTH)
    text = json.dumps(state, sort_keys=True, allow_nan=False)
    if len(text) > MAX_STATE_BYTES:
        raise PolicyError(
            f"state_dict returned {len(text)} bytes as JSON, more than {MAX_STATE_BYTES}; keep sums and counts, not "
            "everything that was seen."
        )
    return text


def _check_plain(value: object, where: str, depth: int) -> None:
    if depth < 0:
        raise PolicyError(f"{where} lies more than {MAX_DEPTH} levels deep; keep it flatter.")
    if isinstance(value, float) and type(value) is float:
        if not math.isfinite(value):
            raise PolicyError(f"{where} is {value}, which JSON cannot hold; keep None instead.")
    elif type(value) is dict:
        for key, part in value.items():
            if type(key) is not str:
                raise PolicyError(f"{where} has the key {shown(key)}; keys must be text.")
            _check_plain(part, f"{where}[{key[:40]!r}]", depth - 1)
    elif type(value) is list:
        for index, part in enumerate(value):
            _check_plain(part, f"{where}[{index}]", depth - 1)
    elif value is not None and type(value) not in (bool, int, str):
        raise PolicyError(f"{where} is a {type(value).__name__}; a state holds only {_PLAIN}.")


def checked_metrics(metrics: object) -> tuple[tuple[str, float], ...]:
    """What `metrics` has returned, in the order of its names.

    Raises:
        PolicyError: one sentence that names the value that is no metric.
    """
    if not isinstance(metrics, Mapping):
        raise PolicyError(f"metrics returned {shown(metrics)}; it must return a dict of numbers by name.")
    if len(metrics) > MAX_METRICS:
        raise PolicyError(f"metrics returned {len(metrics)} values, more than {MAX_METRICS}; leave some out.")
    checked: dict[str, float] = {}
    for name, value in metrics.items():
        if not (isinstance(name, str) and METRIC_NAME.fullmatch(name)):
            raise PolicyError(
                f"metrics has the name {shown(name)}; use small letters, digits and underscores, at most 40."
            )
        checked[name] = _metric(name, value)
    return tuple(sorted(checked.items()))


def _metric(name: str, value: Any) -> float:
    # Numbers of numpy are numbers; truth values and texts that look like one are not.
    try:
        number = math.nan if isinstance(value, str | bytes | bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise PolicyError(f"metrics has {name}={shown(value)}, which is not a finite number; leave it out until it is.")
    return number
