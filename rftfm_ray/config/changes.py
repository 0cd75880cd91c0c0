"""Changes of the configuration that are planned for a step: how they are written, and what they make of it."""

from __future__ import annotations

import difflib
import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import ValidationError

if TYPE_CHECKING:
    from rftfm_ray.config.tree import RunConfig

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
        raise ValueError(f"changes={text!r}: {key or 'nothing'} is no key that may change while a run goes on; {known}")
    if not when.strip().isdecimal():
        raise ValueError(f"changes={text!r}: {when!r} is no step; write a whole number after the @")
    return PlannedChange(key, _number(text, number), int(when))


def _number(text: str, number: str) -> float:
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"changes={text!r}: {number!r} is no number; write one between = and @")
    return value


def check_changes(config: RunConfig) -> None:
    """Refuse changes that cannot be read, lie outside the run, or lead to a configuration that is none.

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
    for _ in _stages(config):
        # Building one is what checks it.
        pass


# A hash of a configuration costs microseconds, and a cache outside of it leaves comparing, copying and pickling alone.
@functools.lru_cache(maxsize=64)
def stages(config: RunConfig) -> tuple[tuple[int, RunConfig], ...]:
    """The steps at which changes come into force, in order, each with the configuration from then on."""
    return tuple(_stages(config))


def _stages(config: RunConfig) -> Iterator[tuple[int, RunConfig]]:
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


def made_changes(before: RunConfig, after: RunConfig) -> tuple[MadeChange, ...]:
    """What differs between two stages of one configuration, in the order of `CHANGEABLE`."""
    pairs = ((key, _value(before, key), _value(after, key)) for key in CHANGEABLE)
    return tuple(MadeChange(key, old, new) for key, old, new in pairs if old != new)


def _value(config: RunConfig, key: str) -> float:
    section, _, name = key.partition(".")
    value: float = getattr(getattr(config, section), name)
    return value
