"""Changes of the configuration that are planned for a step: how they are written, and what they make of it."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, Self, TypeVar

from pydantic import ValidationError

CHANGEABLE: tuple[str, ...] = (
    "learner.lr",
    "algorithm.prompts_per_step",
    "algorithm.samples_per_prompt",
    "rollout.temperature",
    "task.hard_share",
    "task.token_scale",
    "task.reward_scale",
)
"""Keys that may change while a run goes on."""


class Changing(Protocol):
    """A configuration that says itself what changes in it, and at which step."""

    @property
    def steps(self) -> int:
        """Steps of training."""

    @property
    def changes(self) -> tuple[str, ...]:
        """Planned changes, each as `KEY=VALUE@STEP`."""

    def model_dump(self) -> dict[str, Any]:
        """All values by section and key."""

    @classmethod
    def model_validate(cls, obj: Any) -> Self:
        """A checked configuration with the values of `obj`."""


ConfigT = TypeVar("ConfigT", bound=Changing)


@dataclass(frozen=True, slots=True)
class PlannedChange:
    """A key of the configuration that has another value from `step` on."""

    key: str
    value: float
    step: int


@dataclass(frozen=True, slots=True)
class MadeChange:
    """A planned change as it comes into force."""

    key: str
    old: float
    new: float


def parse_change(text: str) -> PlannedChange:
    """Read `KEY=VALUE@STEP`.

    Raises:
        ValueError: one clause that names the text and the fix.
    """
    key, is_pair, rest = text.partition("=")
    number, is_dated, when = rest.partition("@")
    key = key.strip()
    if not (is_pair and is_dated):
        raise ValueError(f"changes={text!r} is not of the form KEY=VALUE@STEP; write for example learner.lr=1e-4@30")
    if key not in CHANGEABLE:
        near = difflib.get_close_matches(key, CHANGEABLE, n=1, cutoff=0.6)
        known = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(CHANGEABLE)}"
        raise ValueError(f"changes={text!r}: {key or 'nothing'} is not a key that may change during a run; {known}")
    if not when.strip().isdecimal():
        raise ValueError(f"changes={text!r}: {when!r} is not a step; write a whole number after the @")
    return PlannedChange(key, _number(text, number), int(when))


def _number(text: str, number: str) -> float:
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"changes={text!r}: {number!r} is not a number; write one between = and @")
    return value


def check_changes(config: Changing) -> None:
    """Refuse changes that cannot be read, lie outside the run, or lead to a configuration that is not valid.

    Raises:
        ValueError: one clause that names the change and the fix.
    """
    planned: dict[tuple[str, int], str] = {}
    for text in config.changes:
        change = parse_change(text)
        if not 2 <= change.step <= config.steps:
            raise ValueError(
                f"changes={text!r} lies outside the run: choose a step from 2 to steps={config.steps}, or set the key "
                "itself for a value from the first step on"
            )
        if (change.key, change.step) in planned:
            raise ValueError(
                f"changes={text!r} and {planned[change.key, change.step]!r} set one key at one step; leave one out"
            )
        planned[change.key, change.step] = text
    for _ in later_stages(config):
        # Building one is what checks it.
        pass


def later_stages(config: ConfigT) -> Iterator[tuple[int, ConfigT]]:
    """The steps at which changes come into force, in order, each with the configuration from then on.

    Raises:
        ValueError: when a change leads to a configuration that is not valid.
    """
    planned = sorted(map(parse_change, config.changes), key=lambda change: change.step)
    tree = config.model_dump()
    # A configuration in force at a step has no future of its own.
    tree["changes"] = ()
    for step in sorted({change.step for change in planned}):
        due = [change for change in planned if change.step == step]
        for change in due:
            section, _, name = change.key.partition(".")
            tree[section][name] = change.value
        try:
            stage = type(config).model_validate(tree)
        except ValidationError as error:
            named = ", ".join(f"{change.key}={change.value:g}@{step}" for change in due)
            raise ValueError(f"changes={named!r}: {_clause(error)}") from None
        yield step, stage


def _clause(error: ValidationError) -> str:
    first = error.errors()[0]
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error":
        return message
    key = ".".join(str(part) for part in first["loc"])
    return f"{key}={first['input']!r} is not valid: {message[0].lower()}{message[1:]}"


def made_changes(before: Changing, after: Changing) -> tuple[MadeChange, ...]:
    """What differs between two stages of one configuration, in the order of `CHANGEABLE`."""
    pairs = ((key, _value(before, key), _value(after, key)) for key in CHANGEABLE)
    return tuple(MadeChange(key, old, new) for key, old, new in pairs if old != new)


def _value(config: Changing, key: str) -> float:
    section, _, name = key.partition(".")
    value: float = getattr(getattr(config, section), name)
    return value
