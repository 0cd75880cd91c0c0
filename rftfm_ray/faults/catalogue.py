"""What can be injected, and how it is asked for; see `SYNTAX`."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from rftfm_ray.config import RunConfig
from rftfm_ray.errors import FaultError
from rftfm_ray.tasks.api import Task

SYNTAX = "CODE@STEP[:strength][,mechanism=NAME][,instances=one|all][,duration=STEPS]"
_HEAD = re.compile(r"([A-Za-z0-9-]+)@(\d{1,9})(?::([^,]+))?")


@dataclass(frozen=True, slots=True)
class Mechanism:
    """One way to bring a fault about. `acts_in` names the component instance that it sits in."""

    name: str
    acts_in: str
    summary: str


@dataclass(frozen=True, slots=True)
class FaultKind:
    """One fault of the taxonomy. The first mechanism is the default; strengths lie in [low, high]."""

    code: str
    name: str
    mechanisms: tuple[Mechanism, ...]
    default_strength: float
    low: float
    high: float
    meaning: str
    needs_tool: bool = False


CATALOGUE: dict[str, FaultKind] = {
    kind.code: kind
    for kind in (
        FaultKind(
            "RF-1",
            "Reward Spike",
            (
                Mechanism("wrong_answers", "reward channel", "adds the strength to the rewards of wrong answers"),
                Mechanism("outliers", "reward channel", "adds the strength to the rewards of 30 % of the trajectories"),
            ),
            default_strength=2.0,
            low=0.01,
            high=1000.0,
            meaning="added reward, in units of the task's reward",
        ),
        FaultKind(
            "OD-1",
            "KL Explosion",
            (
                Mechanism("gain", "optimizer", "multiplies the rate that the optimizer is told; no figure shows it"),
                Mechanism("schedule", "learning-rate schedule", "multiplies the schedule's factor; the rate shows it"),
            ),
            default_strength=30.0,
            low=1.0,
            high=100.0,
            meaning="factor on the learning rate",
        ),
        FaultKind(
            "TE-1",
            "Tool Call Error",
            (
                Mechanism("error", "tool instance", "a call raises with the strength as its probability"),
                Mechanism("malformed", "tool instance", "an answer of the wrong type, with that probability"),
            ),
            default_strength=0.8,
            low=0.01,
            high=1.0,
            meaning="probability that a call fails",
            needs_tool=True,
        ),
    )
}


@dataclass(frozen=True, slots=True)
class FaultSpec:
    """One fault to inject. `onset` counts paid steps, which no rollback rewinds; `duration` None is to the end.

    `all_instances` puts it into every instance of the component, so that failing over does not help.
    """

    code: str
    mechanism: str
    onset: int
    strength: float
    duration: int | None = None
    all_instances: bool = False

    def active(self, paid_step: int) -> bool:
        """Whether the fault is on at a paid step."""
        return self.onset <= paid_step and (self.duration is None or paid_step < self.onset + self.duration)


def parse_fault(text: str) -> FaultSpec:
    """Read one fault.

    Raises:
        FaultError: one sentence that names what is wrong and what there is.
    """
    head, *options = (part.strip() for part in text.split(","))
    match = _HEAD.fullmatch(head)
    if match is None:
        raise FaultError(f"inject={text!r} cannot be read; write {SYNTAX}, for example OD-1@15:30.")
    code = match[1].upper()
    kind = CATALOGUE.get(code)
    if kind is None:
        near = difflib.get_close_matches(code, CATALOGUE, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise FaultError(f"inject={text!r}: there is no fault {match[1]}{hint}; there are {', '.join(CATALOGUE)}.")
    values = {"mechanism": kind.mechanisms[0].name, "instances": "one", "duration": ""}
    for option in options:
        key, _, value = option.partition("=")
        if key not in values or not value:
            raise FaultError(f"inject={text!r}: {option!r} is no option; write {SYNTAX}.")
        values[key] = value
    names = [mechanism.name for mechanism in kind.mechanisms]
    if values["mechanism"] not in names:
        raise FaultError(f"inject={text!r}: {code} has the mechanisms {', '.join(names)}; choose one of them.")
    if values["instances"] not in ("one", "all"):
        raise FaultError(f"inject={text!r}: instances is one or all.")
    if values["duration"] and not (re.fullmatch(r"\d{1,9}", values["duration"]) and int(values["duration"]) > 0):
        raise FaultError(f"inject={text!r}: duration is a number of steps, at least 1.")
    return FaultSpec(
        code=code,
        mechanism=values["mechanism"],
        onset=_onset(text, match[2]),
        strength=_strength(text, match[3], kind),
        duration=int(values["duration"]) if values["duration"] else None,
        all_instances=values["instances"] == "all",
    )


def _onset(text: str, digits: str) -> int:
    onset = int(digits)
    if onset < 1:
        raise FaultError(f"inject={text!r}: steps count from 1; choose a later one.")
    return onset


def _strength(text: str, number: str | None, kind: FaultKind) -> float:
    if number is None:
        return kind.default_strength
    try:
        strength = float(number)
    except ValueError:
        strength = math.nan
    if not kind.low <= strength <= kind.high:
        raise FaultError(
            f"inject={text!r}: the strength of {kind.code} is its {kind.meaning}, from {kind.low:g} to {kind.high:g}."
        )
    return strength


def check_faults(config: RunConfig, task: Task) -> tuple[FaultSpec, ...]:
    """The faults that a run is to have.

    Raises:
        FaultError: when one cannot be read, lies beyond the run, or is one that the task cannot have.
    """
    specs = tuple(parse_fault(text) for text in config.inject)
    for text, spec in zip(config.inject, specs, strict=True):
        last = min(config.steps, config.max_paid_steps or config.steps)
        if spec.onset > last:
            raise FaultError(
                f"inject={text!r} begins at step {spec.onset}, after the last one (steps={last}); raise steps, or "
                "max_paid_steps."
            )
        if CATALOGUE[spec.code].needs_tool and len(task.max_new_tokens) < 2:
            raise FaultError(f"inject={text!r}: task {task.name} calls no tool; use task.name=calculator.")
    return specs


def of_code(specs: Sequence[FaultSpec], code: str, *mechanisms: str) -> tuple[FaultSpec, ...]:
    """The faults of `code` with one of `mechanisms`."""
    return tuple(spec for spec in specs if spec.code == code and spec.mechanism in mechanisms)
