"""Reward functions of the user's, in the forms that TRL and verl call them in. Pure.

TRL's takes batches and gives a list: `(prompts, completions, **columns) -> list[float | None]`. Here a batch is of one
answer. verl's takes one: `(data_source, solution_str, ground_truth, extra_info) -> float | dict`.
"""

from __future__ import annotations

import asyncio
import inspect
import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rftfm_ray.errors import RewardError, TaskError
from rftfm_ray.plugins import load_attribute, ship_by_value
from rftfm_ray.tasks.api import Problem
from rftfm_ray.tasks.verifiers import VERIFIERS, Check, verifier_of

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
class RewardPart:
    """One reward function.

    Attributes:
        name: as the configuration gives it.
        weight: factor in the sum.
        grade: the function in one form.
        needs_answer: whether it compares with the right answer, so that this solves the problem.
    """

    name: str
    weight: float
    grade: Callable[[Problem, str], Graded]
    needs_answer: bool = False

    def asked(self, problem: Problem, answer: str) -> Graded:
        """What it gives for an answer.

        Raises:
            RewardError: when it raises, or gives no number.
        """
        try:
            return self.grade(problem, answer)
        except RewardError:
            raise
        except (Exception, SystemExit) as error:  # the user's own code may raise anything
            raise RewardError(f"Reward function {self.name} raised {type(error).__name__}: {error}.") from error


def parts_of(functions: Sequence[str], weights: Sequence[float]) -> tuple[RewardPart, ...]:
    """The reward functions of a run.

    Args:
        functions: as `reward.functions` names them.
        weights: one for each; empty for 1 each.

    Raises:
        TaskError: when one cannot be found, or cannot be called in a form that is known.
    """
    if not functions:
        known = ", ".join(VERIFIERS)
        raise TaskError(
            f"data.train has no reward: set reward.functions to {known}, regex:PATTERN, or a function of yours as "
            "file.py:name."
        )
    factors = weights or [1.0] * len(functions)
    return tuple(_part(name, weight) for name, weight in zip(functions, factors, strict=True))


def _part(name: str, weight: float) -> RewardPart:
    check = verifier_of(name)
    if check is not None:
        return RewardPart(name, weight, _verified(check), needs_answer=name in VERIFIERS)
    if ":" not in name:
        raise TaskError(
            f"reward.functions={name} is no verifier that ships; use {', '.join(VERIFIERS)}, regex:PATTERN, or a "
            "function of yours as file.py:name."
        )
    loaded, attribute, module = load_attribute("reward.functions", name, TaskError)
    if not callable(loaded) or isinstance(loaded, type):
        raise TaskError(f"reward.functions={name}: {attribute} is no function; give one.")
    part = RewardPart(name, weight, _called(loaded, name, attribute))
    ship_by_value(module)
    return part


def _verified(check: Check) -> Callable[[Problem, str], Graded]:
    def grade(problem: Problem, answer: str) -> Graded:
        is_right = check(answer, problem.answer)
        return Graded(float(is_right), is_right)

    return grade


def _called(function: Callable[..., Any], name: str, attribute: str) -> Callable[[Problem, str], Graded]:
    parameters = inspect.signature(function).parameters
    if "solution_str" in parameters:
        return _of_verl(function, name)
    if "completions" in parameters:
        missing = [key for key in UNKNOWN if key in parameters and parameters[key].default is inspect.Parameter.empty]
        if missing:
            raise TaskError(
                f"reward.functions={name}: {attribute} asks for {', '.join(missing)}, which is not known where answers "
                "are graded; give it a default, or leave it out."
            )
        return _of_trl(function, name)
    raise TaskError(
        f"reward.functions={name}: {attribute}({', '.join(parameters)}) is of no form that is known; give it the "
        f"arguments (prompts, completions, **columns), or ({', '.join(VERL)})."
    )


def _of_trl(function: Callable[..., Any], name: str) -> Callable[[Problem, str], Graded]:
    def grade(problem: Problem, answer: str) -> Graded:
        messages = problem.columns.get("messages")
        prompt: Any = problem.prompt if messages is None else list(messages)
        completion: Any = answer if messages is None else [{"role": "assistant", "content": answer}]
        columns = {key: [value] for key, value in problem.columns.items() if key not in ("prompt", "messages")}
        returned = _waited(_accepted(function, {"prompts": [prompt], "completions": [completion], **columns}))
        if isinstance(returned, numbers.Real) or returned is None or not hasattr(returned, "__len__"):
            raise RewardError(f"Reward function {name} returned {_shown(returned)}; it must return a list of rewards.")
        if len(returned) != 1:
            raise RewardError(f"Reward function {name} returned {len(returned)} rewards for 1 answer; give one each.")
        value = returned[0]
        return Graded(None if value is None else _number(value, name))

    return grade


def _of_verl(function: Callable[..., Any], name: str) -> Callable[[Problem, str], Graded]:
    def grade(problem: Problem, answer: str) -> Graded:
        columns = problem.columns
        truth = columns.get("reward_model")
        ground_truth = truth.get("ground_truth") if isinstance(truth, Mapping) else None
        arguments = {
            "data_source": columns.get("data_source"), "solution_str": answer,
            "ground_truth": problem.answer if ground_truth is None else ground_truth,
            "extra_info": columns.get("extra_info"),
        }  # fmt: skip
        returned = _waited(_accepted(function, arguments))
        if not isinstance(returned, Mapping):
            return Graded(_number(returned, name))
        if "score" not in returned:
            raise RewardError(f"Reward function {name} returned a dict without score; give one.")
        right = returned.get("acc")
        return Graded(_number(returned["score"], name), None if right is None else bool(_number(right, name)))

    return grade


def _accepted(function: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    """Call a function with those of the arguments that it takes."""
    parameters = inspect.signature(function).parameters.values()
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
        return function(**arguments)
    names = {parameter.name for parameter in parameters}
    return function(**{key: value for key, value in arguments.items() if key in names})


def _waited(returned: Any) -> Any:
    """What a function has returned, waited for where it is async; each call has a loop of its own."""
    return asyncio.run(_awaiting(returned)) if inspect.isawaitable(returned) else returned


async def _awaiting(awaitable: Any) -> Any:
    return await awaitable


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
