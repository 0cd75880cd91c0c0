"""Parses the text that asks for a fault (`SYNTAX`); the faults themselves are in `kinds`."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rftfm_ray.config import RunConfig
from rftfm_ray.errors import FaultError
from rftfm_ray.faults.calibration import NAMED_LEVELS, StrengthKey, calibrated, is_dirty
from rftfm_ray.faults.controls import CONTROLS
from rftfm_ray.faults.kinds import CATALOGUE, FaultKind, Mechanism
from rftfm_ray.tasks.api import Task

SYNTAX = (
    "CODE@STEP[:strength|easy|hard|harm][,mechanism=NAME][,duration=persistent|ramp|transient|STEPS][,instances=one|all]"
    "[,seed=N]"
)
RAMP_STEPS = 10
TRANSIENT_STEPS = 10
_HEAD = re.compile(r"([A-Za-z0-9_-]+)@(\d{1,9})(?::([^,]+))?")
_WHOLE = re.compile(r"[0-9]{1,9}")

Calibrated = Callable[[str, str, str], float]
"""Strength of a fault's mechanism at a level, one of `NAMED_LEVELS`."""


@dataclass(frozen=True, slots=True)
class FaultSpec:
    """One fault to inject. `onset` counts consumed steps, which no rollback rewinds; `duration` None is to the end.

    Over the first `ramp` steps the strength grows from where it does nothing, `neutral`. `all_instances` puts it into
    every instance of the component, so that failing over does not help. `seed` None draws by the run's own.
    """

    code: str
    mechanism: str
    onset: int
    strength: float
    duration: int | None = None
    all_instances: bool = False
    ramp: int = 0
    seed: int | None = None
    neutral: float = 0.0

    def active(self, paid_step: int) -> bool:
        """Whether the fault is on at a consumed step."""
        return self.onset <= paid_step and (self.duration is None or paid_step < self.onset + self.duration)

    def level(self, paid_step: int) -> float:
        """The strength at a consumed step: `neutral` while it is off."""
        if not self.active(paid_step):
            return self.neutral
        if paid_step >= self.full_step:
            return self.strength
        share = (paid_step - self.onset + 1) / (self.ramp + 1)
        return self.neutral + (self.strength - self.neutral) * share

    @property
    def full_step(self) -> int:
        """First consumed step at its full strength."""
        return self.onset + self.ramp


def mechanism_of(spec: FaultSpec) -> Mechanism:
    """The catalogue entry of a fault's mechanism."""
    return CATALOGUE[spec.code].mechanism(spec.mechanism)


def parse_fault(text: str, levels: Calibrated | None = None) -> FaultSpec:
    """Read one fault; `levels` gives the strengths that are called easy, hard and harm.

    Raises:
        FaultError: one sentence that names what is wrong and what there is.
    """
    head, *options = (part.strip() for part in text.split(","))
    match = _HEAD.fullmatch(head)
    if match is None:
        raise FaultError(f"inject={text!r} cannot be read; write {SYNTAX}, for example OD-1@15:30.")
    kind = kind_of(match[1], f"inject={text!r}: ")
    values = {"mechanism": kind.mechanisms[0].name, "instances": "one", "duration": "persistent", "seed": ""}
    for option in options:
        key, _, value = option.partition("=")
        if key not in values or not value:
            raise FaultError(f"inject={text!r}: {option!r} is not an option; write {SYNTAX}.")
        values[key] = value
    names = [mechanism.name for mechanism in kind.mechanisms]
    if values["mechanism"] not in names:
        raise FaultError(f"inject={text!r}: {kind.code} has the mechanisms {', '.join(names)}; choose one of them.")
    if values["instances"] not in ("one", "all"):
        raise FaultError(f"inject={text!r}: instances is one or all.")
    if values["seed"] and not _WHOLE.fullmatch(values["seed"]):
        raise FaultError(f"inject={text!r}: seed is a whole number of at most nine digits.")
    mechanism = kind.mechanism(values["mechanism"])
    ramp, duration = _course(text, values["duration"])
    return FaultSpec(
        code=kind.code,
        mechanism=mechanism.name,
        onset=_onset(text, match[2]),
        strength=_strength(text, match[3], kind, mechanism, levels),
        duration=duration,
        all_instances=values["instances"] == "all",
        ramp=ramp,
        seed=int(values["seed"]) if values["seed"] else None,
        neutral=mechanism.strength.neutral,
    )


def kind_of(code: str, prefix: str = "") -> FaultKind:
    """The fault called `code`, in any case; `prefix` begins the sentence of an error.

    Raises:
        FaultError: when there is none; it suggests the nearest.
    """
    kind = CATALOGUE.get(code.upper())
    if kind is None:
        near = difflib.get_close_matches(code.upper(), CATALOGUE, n=1) or difflib.get_close_matches(code, CONTROLS, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        # A sentence about an entry of `inject`, which may name a control as well.
        also = f", and the benign controls {', '.join(CONTROLS)}" if prefix else ""
        raise FaultError(f"{prefix}there is no fault {code}{hint}; there are {', '.join(CATALOGUE)}{also}.")
    return kind


def _course(text: str, asked: str) -> tuple[int, int | None]:
    """Steps of the ramp, and of the fault in total."""
    if asked == "persistent":
        return 0, None
    if asked == "ramp":
        return RAMP_STEPS - 1, None
    if asked == "transient":
        return 0, TRANSIENT_STEPS
    if not _WHOLE.fullmatch(asked) or int(asked) < 1:
        raise FaultError(f"inject={text!r}: duration is persistent, ramp, transient, or a number of steps, at least 1.")
    return 0, int(asked)


def _onset(text: str, digits: str) -> int:
    onset = int(digits)
    if onset < 1:
        raise FaultError(f"inject={text!r}: steps count from 1; choose a later one.")
    return onset


def _strength(text: str, number: str | None, kind: FaultKind, mechanism: Mechanism, levels: Calibrated | None) -> float:
    bounds = mechanism.strength
    if number is None:
        return bounds.default
    if number.strip() in NAMED_LEVELS and levels is not None:
        return levels(kind.code, mechanism.name, number.strip())
    try:
        strength = float(number)
    except ValueError:
        strength = math.nan
    if not bounds.low <= strength <= bounds.high:
        raise FaultError(
            f"inject={text!r}: the strength of {kind.code} by {mechanism.name} is its {bounds.meaning}, from "
            f"{bounds.low:g} to {bounds.high:g}."
        )
    return strength


def check_faults(config: RunConfig, task: Task, texts: Sequence[str] | None = None) -> tuple[FaultSpec, ...]:
    """The faults that a run is to have: those of `texts`, by default of `inject`.

    Raises:
        FaultError: when one cannot be read, lies beyond the run, or is one that the task or algorithm cannot have.
    """
    algorithm = config.algorithm.name

    def levels_for(text: str) -> Calibrated:
        def levels(code: str, mechanism: str, level: str) -> float:
            # An impossible fault has no strength either; the error must name the first reason.
            _check_possible(text, CATALOGUE[code], CATALOGUE[code].mechanism(mechanism), task, algorithm)
            try:
                return calibrated(StrengthKey(task.name, algorithm, code, mechanism, level, is_dirty(config)))
            except FaultError as error:
                raise FaultError(f"inject={text!r}: {error}") from None

        return levels

    texts = config.inject if texts is None else texts
    specs = tuple(parse_fault(text, levels_for(text)) for text in texts)
    for text, spec in zip(texts, specs, strict=True):
        last = min(config.steps, config.max_paid_steps or config.steps)
        if spec.onset > last:
            raise FaultError(
                f"inject={text!r} begins at step {spec.onset}, after the last one (steps={last}); raise steps, or "
                "max_paid_steps."
            )
        _check_possible(text, CATALOGUE[spec.code], mechanism_of(spec), task, algorithm)
    return specs


def _check_possible(text: str, kind: FaultKind, mechanism: Mechanism, task: Task, algorithm: str) -> None:
    """Refuse a mechanism that the task or the algorithm cannot have."""
    if mechanism.needs_tool and len(task.max_new_tokens) < 2:
        others = [m.name for m in kind.mechanisms if not m.needs_tool]
        fix = f"choose mechanism={' or '.join(others)}, or task.name=calculator" if others else (
            "use task.name=calculator"
        )  # fmt: skip
        raise FaultError(f"inject={text!r}: task {task.name} calls no tool; {fix}.")
    if algorithm not in mechanism.algorithms:
        others = [m.name for m in kind.mechanisms if algorithm in m.algorithms]
        fix = f"mechanism={' or '.join(others)}, or " if others else ""
        raise FaultError(
            f"inject={text!r}: {kind.code} by {mechanism.name} needs algorithm.name="
            f"{' or '.join(mechanism.algorithms)}, and this run has {algorithm}; choose {fix}that algorithm."
        )


def of_code(specs: Sequence[FaultSpec], code: str, *mechanisms: str) -> tuple[FaultSpec, ...]:
    """The faults of `code` with one of `mechanisms`."""
    return tuple(spec for spec in specs if spec.code == code and spec.mechanism in mechanisms)
