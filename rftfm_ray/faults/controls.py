"""Benign controls: changes that look like a fault at first sight.

Four of them are undeclared; the others are intended changes, which are declared to the guard.

A control changes nothing that an identity checks. Those that change the configuration become `RunConfig.changes`, on
the clock of steps; the others act on the clock of consumed steps.
"""

from __future__ import annotations

import difflib
import math
import random
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from pydantic import ValidationError

from rftfm_ray.config import RunConfig
from rftfm_ray.errors import FaultError
from rftfm_ray.rollout.channels import CallId, ToolInstance
from rftfm_ray.tasks.api import Observation, Problem, Task, unit_hash
from rftfm_ray.tasks.stream import Part
from rftfm_ray.types import StepId

SYNTAX = "NAME@STEP[:strength]"
GROWTH_STEPS = 10
_TEXT = re.compile(r"([A-Za-z0-9_-]+)@([0-9]{1,9})(?::(.+))?")


@dataclass(frozen=True, slots=True)
class ControlKind:
    """One control; strengths lie in [low, high].

    Attributes:
        name: its name.
        declared: whether the guard is told.
        summary: what it does.
        default_strength: strength when none is given.
        low: smallest strength.
        high: largest strength.
        meaning: what the strength is.
        key: the key of the configuration that it changes; empty where it changes none.
        is_factor: whether the strength multiplies what the key held before, instead of taking its place.
        needs_tool: whether the task must have more than one turn.
    """

    name: str
    declared: bool
    summary: str
    default_strength: float
    low: float
    high: float
    meaning: str
    key: str = ""
    is_factor: bool = False
    needs_tool: bool = False


_UNDECLARED = (
    ControlKind(
        "slow_tool", False, "every tool call takes longer, and its answer is right",
        0.005, 0.0001, 10.0, "mean of the seconds that a call takes longer", needs_tool=True,
    ),
    ControlKind(
        "restart_rollout", False, "the first rollout actor is killed and a new one takes its place",
        1.0, 1.0, 1.0, "none: 1 is the only value",
    ),
    ControlKind(
        "length_growth", False, "prompts whose right answers are longer come more and more often, over ten steps",
        0.9, 0.05, 1.0, "share of the prompts that are drawn from those, in the end",
    ),
    ControlKind(
        "entropy_decay", False, "the data come back to few problems, which the policy masters",
        32.0, 2.0, 1e6, "number of problems",
    ),
)  # fmt: skip

_DECLARED = (
    ControlKind(
        "lr_step", True, "the learning rate takes a step",
        0.3, 0.01, 3.0, "factor on learner.lr", "learner.lr", is_factor=True,
    ),
    ControlKind(
        "batch_size", True, "a step takes another number of prompts",
        2.0, 0.125, 16.0, "factor on algorithm.prompts_per_step", "algorithm.prompts_per_step", is_factor=True,
    ),
    ControlKind(
        "group_size", True, "a prompt gets another number of samples",
        2.0, 0.125, 16.0, "factor on algorithm.samples_per_prompt", "algorithm.samples_per_prompt", is_factor=True,
    ),
    ControlKind(
        "resume", True, "a checkpoint is written and everything is restored from it",
        1.0, 1.0, 1.0, "none: 1 is the only value",
    ),
    ControlKind(
        "harder_prompts", True, "prompts come from the harder half of the pool",
        1.0, 0.05, 1.0, "task.hard_share", "task.hard_share",
    ),
    ControlKind(
        "longer_tokens", True, "turns may take more tokens",
        2.0, 1.0, 16.0, "task.token_scale", "task.token_scale",
    ),
    ControlKind(
        "temperature", True, "sampling gets cooler or hotter",
        0.8, 0.3, 1.5, "factor on rollout.temperature", "rollout.temperature", is_factor=True,
    ),
    ControlKind(
        "reward_scale", True, "all rewards are worth more, the trusted verifier's too",
        10.0, 0.01, 1000.0, "task.reward_scale", "task.reward_scale",
    ),
)  # fmt: skip

CONTROLS: dict[str, ControlKind] = {kind.name: kind for kind in (*_UNDECLARED, *_DECLARED)}
"""Every control by its name."""
WHOLE_KEYS = ("algorithm.prompts_per_step", "algorithm.samples_per_prompt")


@dataclass(frozen=True, slots=True)
class ControlSpec:
    """One control to inject."""

    name: str
    onset: int
    strength: float

    @property
    def kind(self) -> ControlKind:
        """The entry of `CONTROLS` for its name."""
        return CONTROLS[self.name]

    def active(self, paid_step: int) -> bool:
        """Whether it is on at a consumed step."""
        return self.onset <= paid_step

    def __str__(self) -> str:
        return f"{self.name}@{self.onset}:{self.strength:g}"


def is_control(text: str) -> bool:
    """Whether an entry of `inject` names a control."""
    return text.partition("@")[0].strip().lower() in CONTROLS


def parse_control(text: str) -> ControlSpec:
    """Read one control.

    Raises:
        FaultError: one sentence that names what is wrong and what there is.
    """
    match = _TEXT.fullmatch(text.strip())
    if match is None:
        raise FaultError(f"inject={text!r} cannot be read; write {SYNTAX}, for example lr_step@15:0.3.")
    kind = CONTROLS.get(match[1].lower())
    if kind is None:
        near = difflib.get_close_matches(match[1].lower(), CONTROLS, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise FaultError(f"inject={text!r}: there is no control {match[1]}{hint}; there are {', '.join(CONTROLS)}.")
    onset, first = int(match[2]), 2 if kind.declared else 1
    if onset < first:
        why = "it needs a step before it" if kind.declared else "steps count from 1"
        raise FaultError(f"inject={text!r}: {kind.name} begins at step {first} at the earliest, because {why}.")
    return ControlSpec(kind.name, onset, _strength(text, match[3], kind))


def _strength(text: str, number: str | None, kind: ControlKind) -> float:
    if number is None:
        return kind.default_strength
    try:
        strength = float(number)
    except ValueError:
        strength = math.nan
    if not kind.low <= strength <= kind.high:
        raise FaultError(
            f"inject={text!r}: the strength of {kind.name} is its {kind.meaning}, from {kind.low:g} to {kind.high:g}."
        )
    return strength


def expand(config: RunConfig, controls: Sequence[ControlSpec]) -> RunConfig:
    """`config` with those of `controls` that change a key of it among its changes; expanding it again adds nothing.

    Raises:
        FaultError: when one changes nothing, lies outside of the run, or leads to an invalid configuration.
    """
    for control in sorted(controls, key=lambda control: control.onset):
        if not control.kind.key:
            continue
        section, _, name = control.kind.key.partition(".")
        before: float = getattr(getattr(config.at(control.onset - 1), section), name)
        wanted = before * control.strength if control.kind.is_factor else control.strength
        wanted = round(wanted) if control.kind.key in WHOLE_KEYS else wanted
        if wanted == before:
            raise FaultError(
                f"inject={str(control)!r} leaves {control.kind.key} at {before:g}; choose another strength."
            )
        change = f"{control.kind.key}={wanted!r}@{control.onset}"
        if change in config.changes:
            continue
        try:
            config = RunConfig.model_validate({**config.model_dump(), "changes": (*config.changes, change)})
        except ValidationError as error:
            why = error.errors()[0]["msg"].removeprefix("Value error, ")
            raise FaultError(f"inject={str(control)!r} does not fit this run: {why}.") from None
    return config


def check_controls(config: RunConfig, controls: Sequence[ControlSpec], task: Task, pool: Sequence[Problem]) -> None:
    """Refuse controls that begin after the run's end, or that need what task or data lack.

    Where the task cannot tell hard problems from easy ones, `check_task` refuses the configuration that they lead to.

    Raises:
        FaultError: one sentence that names the control and the fix.
    """
    last = min(config.steps, config.max_paid_steps or config.steps)
    for control in controls:
        if control.onset > last:
            raise FaultError(
                f"inject={str(control)!r} begins at step {control.onset}, after the last one (steps={last}); "
                "raise steps, or max_paid_steps."
            )
        if control.kind.needs_tool and len(task.max_new_tokens) < 2:
            raise FaultError(f"inject={str(control)!r}: task {task.name} calls no tool; use task.name=calculator.")
        if control.name == "length_growth" and not longer_answers(pool):
            raise FaultError(
                f"inject={str(control)!r}: all right answers of task {task.name} are equally long; use another task."
            )
        most = max(stage.algorithm.prompts_per_step for _, stage in config.stages())
        if control.name == "entropy_decay" and not most <= round(control.strength) < len(pool):
            raise FaultError(
                f"inject={str(control)!r}: the few problems must be at least algorithm.prompts_per_step={most} and "
                f"fewer than task.pool_size={len(pool)}; choose a strength between, or raise task.pool_size."
            )


def longer_answers(pool: Sequence[Problem]) -> tuple[Problem, ...]:
    """Problems whose right answers are longer than the mean of them; none when all are equally long."""
    mean = sum(len(problem.answer) for problem in pool) / len(pool)
    return tuple(problem for problem in pool if len(problem.answer) > mean)


def data_parts(controls: Sequence[ControlSpec], pool: Sequence[Problem], seed: int) -> tuple[Part, ...]:
    """The parts of the pool that controls draw from, each with its share of the prompts at a step."""
    parts = []
    for control in controls:
        if control.name == "length_growth":
            parts.append(Part(f"long/{control.onset}", longer_answers(pool), _share_of(control, GROWTH_STEPS)))
        if control.name == "entropy_decay":
            few = random.Random(f"few/{seed}/{control.onset}").sample(list(pool), round(control.strength))
            parts.append(Part(f"few/{control.onset}", few, _share_of(replace(control, strength=1.0), 1)))
    return tuple(parts)


def _share_of(control: ControlSpec, steps: int) -> Callable[[StepId], float]:
    """A share that grows to the control's strength over so many steps from its onset on."""
    return lambda step: control.strength * min(1.0, max(0, step.paid_step - control.onset + 1) / steps)


class SlowTool:
    """A tool instance that delays its answer by 0.5 to 1.5 times the strength."""

    def __init__(self, inner: ToolInstance, controls: Sequence[ControlSpec], seed: int, instance: int) -> None:
        self._inner = inner
        self._controls = controls
        self._seed = seed
        self._instance = instance

    def __call__(self, call: CallId, problem: Problem, text: str) -> Observation | None:
        observation = self._inner(call, problem, text)
        episode = call.episode
        for control in self._controls:
            if observation is not None and control.active(episode.step.paid_step):
                identity = (self._instance, episode.step.paid_step, episode.key, episode.sample, call.turn, call.tries)
                time.sleep(control.strength * (0.5 + unit_hash(control.name, self._seed, *identity)))
        return observation


def slow_tools(
    instances: Sequence[ToolInstance], controls: Sequence[ControlSpec], seed: int
) -> tuple[ToolInstance, ...]:
    """Slow down every tool instance by the controls called slow_tool."""
    slow = [control for control in controls if control.name == "slow_tool"]
    if not slow:
        return tuple(instances)
    return tuple(SlowTool(instance, slow, seed, index) for index, instance in enumerate(instances))
