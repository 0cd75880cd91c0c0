"""A drill: the background, faults and benign controls of a run as one value, with the seams that inject them.

Planning builds it from `background` and `inject`, and the run passes it on by value; no other module reads its content.
The default is empty and changes nothing. The background lies below: faults and controls act on what it leaves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from numpy.typing import NDArray

from rftfm_ray.config import BackgroundConfig, RunConfig
from rftfm_ray.faults.background import disturbed_prompts, disturbed_reward, disturbed_tools, with_preset
from rftfm_ray.faults.catalogue import FaultSpec, check_faults, mechanism_of, of_code
from rftfm_ray.faults.controls import (
    ControlSpec,
    check_controls,
    data_parts,
    expand,
    is_control,
    parse_control,
    slow_tools,
)
from rftfm_ray.faults.episodes import FaultySeams
from rftfm_ray.faults.learning import faulty_learner
from rftfm_ray.faults.rewards import FaultyReward, faulty_reward, needs_answers
from rftfm_ray.faults.sampler import Transfer, faulty_sampler
from rftfm_ray.faults.tools import faulty_tools
from rftfm_ray.faults.truth import EffectWatch, effect_step
from rftfm_ray.rollout.channels import RewardChannel, ToolInstance
from rftfm_ray.rollout.seams import Engine, EpisodeSeams, Exposure, RolloutSeams
from rftfm_ray.tasks.api import Problem, Task
from rftfm_ray.tasks.stream import Part
from rftfm_ray.training.seams import LearnerSeams
from rftfm_ray.types import StepId
from rftfm_ray.verdicts import Place

Scalar = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Drill:
    """What is injected into a run: faults, benign controls and a background, and the seed that they draw by."""

    seed: int = 0
    faults: tuple[FaultSpec, ...] = ()
    controls: tuple[ControlSpec, ...] = ()
    background: BackgroundConfig = field(default_factory=BackgroundConfig)

    def rollout_seams(self, pool: Sequence[Problem], instance: int = 0) -> RolloutSeams:
        """The seams of one rollout actor.

        A server, or a transfer of weights to it, that does not do what it should is that of one process: one that has
        taken its place has the fault only where it sits in all of them. Other faults are in the code, or in the data.

        Args:
            pool: the training problems, whose answers some faults go by.
            instance: counts the actors that have taken the place of the first one.
        """
        drill = self if not instance else replace(self, faults=tuple(filter(_outlives_process, self.faults)))
        needed = needs_answers(drill.faults) or bool(of_code(drill.faults, "TE-2", "crossed"))
        answers = tuple(problem.answer for problem in pool) if needed else ()
        is_empty = not (drill.faults or drill.controls or drill.background.is_on)
        return RolloutSeams() if is_empty else _DrilledRollout(drill, answers)

    def learner_seams(self, instance: int = 0) -> LearnerSeams:
        """The seams of a learner; `instance` counts those that a remedy has put in its place."""
        return faulty_learner(self.faults, self.seed, instance)

    def parts(self, task: Task, pool: Sequence[Problem], configured: Sequence[Part] = ()) -> tuple[Part, ...]:
        """Parts of `pool` that a share of the prompts comes from in some steps; of several the later one wins.

        `configured` are those of the configuration, which is in force whatever the background is.
        """
        background = disturbed_prompts(self.background, task, pool, self.seed)
        return (*background, *configured, *data_parts(self.controls, pool, self.seed))

    def events(self) -> Iterator[tuple[str, Mapping[str, Scalar]]]:
        """Events to record at the beginning: the kind of an event and its fields."""
        if self.background.is_on:
            yield "background", self.background.sizes()
        for spec in self.faults:
            yield "fault", {
                "code": spec.code, "mechanism": spec.mechanism, "strength": spec.strength,
                "all_instances": spec.all_instances, "duration": spec.duration, "ramp": spec.ramp,
                "switch_step": spec.onset, "effect_step": effect_step(spec),
            }  # fmt: skip
        for control in self.controls:
            yield "control", {
                "name": control.name, "declared": control.kind.declared,
                "strength": control.strength, "switch_step": control.onset,
            }  # fmt: skip

    def before_step(self, paid_step: int, restart_rollout: Callable[[], None], resume: Callable[[], None]) -> None:
        """Carry out the controls that are due before a step and that the run's own process performs."""
        acts = {"restart_rollout": restart_rollout, "resume": resume}
        for control in self.controls:
            if control.onset == paid_step and control.name in acts:
                acts[control.name]()

    def effects(self) -> EffectWatch:
        """Waits for the effects of faults that work by learning."""
        return EffectWatch(self.faults)


def _outlives_process(spec: FaultSpec) -> bool:
    return spec.all_instances or mechanism_of(spec).acts_in not in (Place.SERVER, Place.SYNC)


class _DrilledRollout(RolloutSeams):
    """The seams of a rollout actor with the faults and controls of a drill in them."""

    def __init__(self, drill: Drill, answers: Sequence[str]) -> None:
        self._background = drill.background
        self._faults = drill.faults
        self._controls = drill.controls
        self._seed = drill.seed
        self._answers = answers
        self._transfer = Transfer(drill.faults, drill.seed)
        self._reward: RewardChannel | None = None

    def tools(self, instances: Sequence[ToolInstance]) -> tuple[ToolInstance, ...]:
        tools = disturbed_tools(instances, self._background, self._seed)
        return slow_tools(faulty_tools(tools, self._faults, self._seed), self._controls, self._seed)

    def reward(self, channel: RewardChannel) -> RewardChannel:
        live = disturbed_reward(channel, self._background, self._seed)
        self._reward = faulty_reward(live, self._faults, self._seed, self._answers)
        return self._reward

    def sampler(self, engine: Engine, eos_ids: Sequence[int]) -> Engine:
        return faulty_sampler(engine, self._faults, self._seed, eos_ids)

    def episodes(self) -> EpisodeSeams:
        return FaultySeams(self._faults, self._seed, self._answers)

    def arrived(self, arrays: Mapping[str, NDArray[Any]], paid_step: int) -> Mapping[str, NDArray[Any]]:
        return self._transfer.arrived(arrays, paid_step)

    def exposure(self, step: StepId) -> list[Exposure]:
        return self._reward.exposure(step) if isinstance(self._reward, FaultyReward) else []


def expanded(config: RunConfig) -> RunConfig:
    """`config` with the preset of its background written out, and with the changes that controls of `inject` call for.

    Raises:
        FaultError: when a control cannot be read, or one of them leads to an invalid configuration.
    """
    config = with_preset(config)
    return expand(config, _controls(config))


def plan_drill(config: RunConfig, task: Task, pool: Sequence[Problem]) -> Drill:
    """The drill that `inject` and `background` ask for; `config` is `expanded`.

    Raises:
        FaultError: when a fault or control cannot be read, begins after the end, or needs what run, task or data lack.
    """
    faults = check_faults(config, task, [text for text in config.inject if not is_control(text)])
    controls = _controls(config)
    check_controls(config, controls, task, pool)
    return Drill(config.seed, faults, controls, config.background)


def _controls(config: RunConfig) -> tuple[ControlSpec, ...]:
    return tuple(parse_control(text) for text in config.inject if is_control(text))
