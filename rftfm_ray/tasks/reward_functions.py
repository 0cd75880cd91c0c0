"""Reward functions of the user's, in the forms that TRL and verl call them in. Pure.

TRL's takes batches and gives a list: `(prompts, completions, **columns) -> list[float | None]`. verl's takes one
answer: `(data_source, solution_str, ground_truth, extra_info) -> float | dict`. Async ones are awaited together.
"""

from __future__ import annotations

import asyncio
import inspect
import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from rftfm_ray.errors import RewardError, TaskError
from rftfm_ray.plugins import load_attribute, ship_by_value
from rftfm_ray.tasks.api import Problem
from rftfm_ray.tasks.verifiers import FUNCTIONS, JSON, PLAIN, REGEX, SOLVED, VERIFIERS, Check, compares, verifier_of

VERL = ("data_source", "solution_str", "ground_truth", "extra_info")
"""Arguments of a function of verl's form."""
# What TRL passes beside columns, and what of it is not known where answers are graded.
UNKNOWN = ("completion_ids", "trainer_state", "log_metric", "log_extra", "environments")
LARGEST = 3e38


@dataclass(frozen=True, slots=True)
class Graded:
    """What a function gave.

    Attributes:
        reward: for the answer; None where the function does not apply to the row.
        is_right: whether it calls the answer right; None where it does not say.
    """

    reward: float | None
    is_right: bool | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a data set, and an answer to it.

    Attributes:
        problem: of the row.
        answer: text of the last turn.
        messages: all turns and results of tools as chat messages, where tools may be called.
    """

    problem: Problem
    answer: str
    messages: Sequence[Mapping[str, Any]] = ()


Given = Graded | RewardError
"""What a function gave for an answer, or why it gave nothing."""


@dataclass(frozen=True, slots=True)
class RewardPart:
    """One reward function.

    Attributes:
        name: as the configuration gives it.
        weight: factor in the sum.
        grade: the function in one form: what it gives for some rows, in their order. It may raise anything.
        needs_answer: whether it reads what the data set calls the right answer.
        is_solved: whether that answer solves the problem, so that the guard knows one that is right.
        is_plain: whether it ends by itself at once, so that it needs no process that can be ended.
    """

    name: str
    weight: float
    grade: Callable[[Sequence[Row]], Sequence[Given]]
    needs_answer: bool = False
    is_solved: bool = False
    is_plain: bool = False

    @property
    def label(self) -> str:
        """A short name: of a function without its file or module."""
        return self.name if "://" in self.name or self.name.startswith((REGEX, JSON)) else self.name.rpartition(":")[2]

    def graded(self, rows: Sequence[Row]) -> Sequence[Given]:
        """What it gives for each row; where it raises over several, each is put to it alone."""
        try:
            return self.grade(rows)
        except RewardError as error:
            failure = error
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the user's own code may raise anything
            failure = _raised(error, self.name)
        return [failure] if len(rows) == 1 else [self.graded([row])[0] for row in rows]

    def asked(self, problem: Problem, answer: str) -> Graded:
        """What it gives for one answer.

        Raises:
            RewardError: when it raises, or gives no number.
        """
        (given,) = self.graded([Row(problem, answer)])
        if isinstance(given, RewardError):
            raise given
        return given


class Remote(Protocol):
    """The function behind a URL."""

    name: str

    def __call__(self, rows: Sequence[Row]) -> Sequence[Given]:
        """What the server gives for each row; it raises nothing."""


def parts_of(
    functions: Sequence[str], weights: Sequence[float], remote: Callable[[str], Remote] | None = None
) -> tuple[RewardPart, ...]:
    """The reward functions of a run.

    Args:
        functions: as `reward.functions` names them.
        weights: one for each; empty for 1 each.
        remote: makes the function behind a URL.

    Raises:
        TaskError: when one cannot be found, or cannot be called in a form that is known.
    """
    if not functions:
        known = ", ".join(VERIFIERS)
        raise TaskError(
            f"data.train has no reward: set reward.functions to {known}, regex:PATTERN, json:SCHEMA_FILE, a URL, or a "
            "function of yours as file.py:name."
        )
    factors = weights or [1.0] * len(functions)
    return tuple(part_of(name, weight, remote) for name, weight in zip(functions, factors, strict=True))


def part_of(
    name: str, weight: float = 1.0, remote: Callable[[str], Remote] | None = None, key: str = FUNCTIONS
) -> RewardPart:
    """One reward function or verifier, which the configuration names under `key`.

    Raises:
        TaskError: when it cannot be found, or cannot be called in a form that is known.
    """
    if remote is not None and name.startswith(("http://", "https://")):
        function = remote(name)
        return RewardPart(function.name, weight, function)
    check = verifier_of(name, key)
    if check is not None:
        return RewardPart(
            name, weight, _each(_verified(check)), needs_answer=compares(name), is_solved=name in SOLVED,
            is_plain=name in PLAIN,
        )  # fmt: skip
    if ":" not in name:
        raise TaskError(
            f"{key}={name} is no verifier that ships; use {', '.join(VERIFIERS)}, regex:PATTERN, json:SCHEMA_FILE, a "
            "URL, or a function of yours as file.py:name."
        )
    loaded, attribute, module = load_attribute(key, name, TaskError)
    if not callable(loaded) or isinstance(loaded, type):
        raise TaskError(f"{key}={name}: {attribute} is no function; give one.")
    part = RewardPart(name, weight, _called(loaded, name, f"{key}={name}: {attribute}"))
    ship_by_value(module)
    return part


def _each(grade: Callable[[Row], Graded]) -> Callable[[Sequence[Row]], Sequence[Given]]:
    """Grade rows one after the other; one that raises a RewardError has that in its place."""

    def each(rows: Sequence[Row]) -> list[Given]:
        found: list[Given] = []
        for row in rows:
            try:
                found.append(grade(row))
            except RewardError as error:
                found.append(error)
        return found

    return each


def _verified(check: Check) -> Callable[[Row], Graded]:
    def grade(row: Row) -> Graded:
        is_right = check(row.answer, row.problem.answer)
        return Graded(float(is_right), is_right)

    return grade


def _called(function: Callable[..., Any], name: str, source: str) -> Callable[[Sequence[Row]], Sequence[Given]]:
    parameters = inspect.signature(function).parameters
    if "solution_str" in parameters:
        return _of_verl(function, name)
    if "completions" in parameters:
        missing = [key for key in UNKNOWN if key in parameters and parameters[key].default is inspect.Parameter.empty]
        if missing:
            raise TaskError(
                f"{source} asks for {', '.join(missing)}, which is not known where answers "
                "are graded; give it a default, or leave it out."
            )
        return _of_trl(function, name)
    raise TaskError(
        f"{source}({', '.join(parameters)}) is of no form that is known; give it the "
        f"arguments (prompts, completions, **columns), or ({', '.join(VERL)})."
    )


def lists_of(rows: Sequence[Row]) -> dict[str, list[Any]]:
    """Rows as TRL passes them: prompts, completions and columns as lists; None where a row lacks a column.

    A completion is text where the prompt is, and messages where the prompt is of messages, or tools may be called.
    """
    prompts: list[Any] = []
    completions: list[Any] = []
    for row in rows:
        messages = row.problem.columns.get("messages")
        prompts.append(row.problem.prompt if messages is None else list(messages))
        answered = list(row.messages) or ([] if messages is None else [{"role": "assistant", "content": row.answer}])
        completions.append(answered or row.answer)
    columns_of = [row.problem.columns for row in rows]
    names = dict.fromkeys(name for columns in columns_of for name in columns if name not in ("prompt", "messages"))
    columns = {name: [known.get(name) for known in columns_of] for name in names}
    return {"prompts": prompts, "completions": completions, **columns}


def _of_trl(function: Callable[..., Any], name: str) -> Callable[[Sequence[Row]], Sequence[Given]]:
    def grade(rows: Sequence[Row]) -> Sequence[Given]:
        (returned,) = _waited([_accepted(function, lists_of(rows))])
        if isinstance(returned, BaseException):
            raise returned
        if isinstance(returned, numbers.Real) or returned is None or not hasattr(returned, "__len__"):
            raise RewardError(f"Reward function {name} returned {_shown(returned)}; it must return a list of rewards.")
        if len(returned) != len(rows):
            answers = "1 answer" if len(rows) == 1 else f"{len(rows)} answers"
            raise RewardError(f"Reward function {name} returned {len(returned)} rewards for {answers}; give one each.")
        return [given_of(value, name) for value in returned]

    return grade


def given_of(value: Any, name: str) -> Given:
    """One of a list of rewards: None where the function does not apply, and a failure where it is no number."""
    try:
        return Graded(None if value is None else _number(value, name))
    except RewardError as error:
        return error


def _of_verl(function: Callable[..., Any], name: str) -> Callable[[Sequence[Row]], Sequence[Given]]:
    def asked(row: Row) -> Any:
        problem = row.problem
        truth = problem.columns.get("reward_model")
        ground_truth = truth.get("ground_truth") if isinstance(truth, Mapping) else None
        arguments = {
            "data_source": problem.columns.get("data_source"), "solution_str": row.answer,
            "ground_truth": problem.answer if ground_truth is None else ground_truth,
            "extra_info": problem.columns.get("extra_info"),
        }  # fmt: skip
        try:
            return _accepted(function, arguments)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the user's own code may raise anything
            return _raised(error, name)

    def grade(rows: Sequence[Row]) -> Sequence[Given]:
        return [_of_score(returned, name) for returned in _waited([asked(row) for row in rows])]

    return grade


def _of_score(returned: Any, name: str) -> Given:
    if isinstance(returned, BaseException):
        return returned if isinstance(returned, RewardError) else _raised(returned, name)
    try:
        if not isinstance(returned, Mapping):
            return Graded(_number(returned, name))
        if "score" not in returned:
            return RewardError(f"Reward function {name} returned a dict without score; give one.")
        right = returned.get("acc")
        return Graded(_number(returned["score"], name), None if right is None else bool(_number(right, name)))
    except RewardError as error:
        return error


def _raised(error: BaseException, name: str) -> RewardError:
    failure = RewardError(f"Reward function {name} raised {type(error).__name__}: {error}.")
    failure.__cause__ = error
    return failure


def _accepted(function: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    """Call a function with those of the arguments that it takes."""
    parameters = inspect.signature(function).parameters.values()
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
        return function(**arguments)
    names = {parameter.name for parameter in parameters}
    return function(**{key: value for key, value in arguments.items() if key in names})


def _waited(returned: Sequence[Any]) -> Sequence[Any]:
    """What a function has returned, waited for together where it is async; what was raised stands in its place."""
    if not any(inspect.isawaitable(each) for each in returned):
        return returned
    return asyncio.run(_awaiting(returned))


async def _awaiting(returned: Sequence[Any]) -> Sequence[Any]:
    found = list(returned)
    places = [place for place, each in enumerate(found) if inspect.isawaitable(each)]
    values = await asyncio.gather(*(found[place] for place in places), return_exceptions=True)
    for place, value in zip(places, values, strict=True):
        found[place] = value
    return found


def _number(value: Any, name: str) -> float:
    """A reward as a float: a number of any type, numpy's and a tensor of one value too.

    Raises:
        RewardError: when it is none, or not finite.
    """
    plain = value.item() if hasattr(value, "item") and getattr(value, "size", None) != 0 else value
    if not isinstance(plain, numbers.Real):
        raise RewardError(f"Reward function {name} gave {_shown(value)}; a reward is a number.")
    number = float(plain)
    if not math.isfinite(number) or abs(number) > LARGEST:
        raise RewardError(f"Reward function {name} gave {number}; a reward is finite.")
    return number


def _shown(value: object) -> str:
    return " ".join(repr(value).split())[:80]
