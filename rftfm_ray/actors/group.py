"""All actors of a run in one placement group: started together, checked, and ended together."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from rftfm_ray.actors.calls import wait_for
from rftfm_ray.actors.controller import ControllerActor
from rftfm_ray.actors.learner import LearnerActor
from rftfm_ray.actors.monitor import MonitorActor
from rftfm_ray.actors.roles import Role
from rftfm_ray.actors.rollout import RolloutActor
from rftfm_ray.config import PlacementConfig, RunConfig
from rftfm_ray.detection.monitor import MonitorPlan
from rftfm_ray.errors import PlacementError
from rftfm_ray.faults.catalogue import FaultSpec
from rftfm_ray.faults.twins import TwinSpec
from rftfm_ray.incidents.settings import IncidentSettings
from rftfm_ray.policies.safety import SafePolicy
from rftfm_ray.rollout.engine import ENVIRONMENT
from rftfm_ray.tasks.api import Problem, Task

NAMESPACE = "rftfm"
START_TIMEOUT_S = 300.0
PARITY_SEQUENCES = 8


@dataclass(frozen=True, slots=True)
class ActorGroup:
    """Handles of a started run. `parity` are the token sequences that all actors score in a parity probe.

    `rollouts` is a list: an actor that is replaced leaves its place to its successor, for everybody who holds it.
    """

    learner: Any
    rollouts: list[Any]
    parity: Sequence[Sequence[int]]
    placement: PlacementGroup

    def stop(self) -> None:
        """End all actors and give their resources back. Safe to call twice."""
        for actor in (self.learner, *self.rollouts):
            ray.kill(actor)
        remove_placement_group(self.placement)


def environment(gpus: float) -> Mapping[str, str]:
    """Environment of one actor; what the user has set for the driver wins."""
    wanted = {
        **ENVIRONMENT,
        # Two threads and one busy neighbour make OpenMP's barrier spin: a 40 ms call takes 600.
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    if gpus == 0:
        wanted |= {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    return {name: os.environ.get(name, value) for name, value in wanted.items()}


def start_group(
    run: str,
    config: RunConfig,
    model_path: str,
    task: Task,
    problems: Sequence[Problem],
    faults: Sequence[FaultSpec] = (),
    twins: Sequence[TwinSpec] = (),
    golden: Sequence[Problem] = (),
    *,
    reusable: bool = False,
) -> ActorGroup:
    """Start learner and rollout actors of `run` and wait until all of them can work.

    The prompts of `problems` are checked; `golden` are held-out ones for the checks of rewards and tools. A `reusable`
    group keeps the learner's first state, so that other runs can follow on it (`reset_group`).

    Raises:
        PlacementError: when the cluster cannot hold them within `placement.timeout_s`.
        RftfmError: what an actor found wrong while starting.
    """
    placement = _reserve(config)
    places = config.placement
    own, *others = roles(run, config, task)
    try:
        learner = _actor(LearnerActor, placement, 0, own, places.cpus_per_learner, places.gpus_per_learner).remote(
            own, config, model_path, faults, reusable=reusable
        )
        rollouts = [
            _actor(RolloutActor, placement, 1 + i, role, places.cpus_per_rollout, places.gpus_per_rollout).remote(
                role, config, model_path, task, faults, twins
            )
            for i, role in enumerate(others)
        ]
        group = ActorGroup(learner, rollouts, (), placement)
    except ValueError as error:
        remove_placement_group(placement)
        raise PlacementError(f"The actors of run {run} cannot be created ({error}); start the run again.") from error
    try:
        return _prepared(group, problems, golden)
    except BaseException:
        group.stop()
        raise


def reset_group(
    group: ActorGroup,
    run: str,
    config: RunConfig,
    task: Task,
    problems: Sequence[Problem],
    faults: Sequence[FaultSpec],
    twins: Sequence[TwinSpec],
    golden: Sequence[Problem],
) -> ActorGroup:
    """Put the actors of a reusable group where new ones of `run` would stand. Arguments as for `start_group`."""
    own, *others = roles(run, config, task)
    resets = [group.learner.reset.remote(own, config, faults)]
    resets += [
        a.reset.remote(role, config, task, faults, twins) for a, role in zip(group.rollouts, others, strict=True)
    ]
    wait_for(resets, START_TIMEOUT_S, "resetting the actors")
    return _prepared(group, problems, golden)


def replace_rollout(
    group: ActorGroup,
    index: int,
    run: str,
    config: RunConfig,
    model_path: str,
    task: Task,
    faults: Sequence[FaultSpec],
    twins: Sequence[TwinSpec],
    golden: Sequence[Problem],
) -> None:
    """Kill a rollout actor and put a new one in its place. It serves nothing before it has levers and weights.

    Other arguments as for `start_group`; `golden` holds at least one problem.

    Raises:
        RftfmError: when the new one cannot start.
    """
    role, places, old = roles(run, config, task)[1 + index], config.placement, group.rollouts[index]
    ray.kill(old)
    _wait_for_name(role.actor_name)
    cpus, gpus = places.cpus_per_rollout, places.gpus_per_rollout
    new = _actor(RolloutActor, group.placement, 1 + index, role, cpus, gpus).remote(
        role, config, model_path, task, faults, twins
    )
    # From here on it is ended with the others, whatever becomes of it.
    group.rollouts[index] = new
    wait_for([new.prepare.remote(golden[:1], 0, golden)], START_TIMEOUT_S, "starting a rollout actor anew")


def _wait_for_name(name: str) -> None:
    """A killed actor keeps its name until the cluster has seen it die."""
    end = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < end:
        try:
            ray.get_actor(name, namespace=NAMESPACE)
        except ValueError:
            return
        time.sleep(0.01)


def roles(run: str, config: RunConfig, task: Task) -> list[Role]:
    """Roles of the learner and of every rollout actor of a run."""
    model = config.model.path
    rollout = f"task={task.name}, model={model}, temperature={config.rollout.temperature}"
    learner = f"algorithm={config.algorithm.name}, model={model}, zero_stage={config.learner.zero_stage}"
    others = [Role(run, "rollout", i, rollout) for i in range(config.rollout.num_actors)]
    return [Role(run, "learner", 0, learner), *others]


def _prepared(group: ActorGroup, problems: Sequence[Problem], golden: Sequence[Problem]) -> ActorGroup:
    """The group once all of it can work, with its parity sequences."""
    # The learner is asked for something small only to learn that its constructor is through.
    first, *_ = wait_for(
        [group.rollouts[0].prepare.remote(problems, PARITY_SEQUENCES, golden), group.learner.snapshot_steps.remote()]
        + [actor.prepare.remote(problems[:1], 0, golden) for actor in group.rollouts[1:]],
        START_TIMEOUT_S,
        "starting the actors",
    )
    return ActorGroup(group.learner, group.rollouts, first, group.placement)


@dataclass(frozen=True, slots=True)
class GuardActors:
    """Handles of monitor and controller. They take no CPU and live on the driver's node, whose disk they use."""

    monitor: Any
    controller: Any

    def stop(self) -> None:
        """End both. Safe to call twice."""
        for actor in (self.monitor, self.controller):
            ray.kill(actor)


def start_guard(run: str, watch: MonitorPlan, incidents: IncidentSettings, policy: SafePolicy) -> GuardActors:
    """Create monitor and controller of `run`, to start beside the other actors. They are not told of a fire drill."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)

    def start(kind: type, role: Role, *arguments: object) -> Any:
        options = _options(role, 0.0, 0.0) | {"scheduling_strategy": here}
        return ray.remote(kind).options(**options).remote(role, *arguments)

    acts = f"mode={incidents.mode}, act_on={'+'.join(incidents.act_on) or 'nothing'}, policy={policy.name}"
    return GuardActors(
        start(MonitorActor, Role(run, "monitor", 0, f"detectors={len(watch.build().active)}"), watch),
        start(ControllerActor, Role(run, "controller", 0, acts), incidents, policy),
    )


def _actor(kind: type, placement: PlacementGroup, bundle: int, role: Role, cpus: float, gpus: float) -> Any:
    strategy = PlacementGroupSchedulingStrategy(placement, placement_group_bundle_index=bundle)
    return ray.remote(kind).options(**_options(role, cpus, gpus), scheduling_strategy=strategy)


def _options(role: Role, cpus: float, gpus: float) -> dict[str, Any]:
    return {
        "name": role.actor_name,
        "namespace": NAMESPACE,
        "num_cpus": cpus,
        "num_gpus": gpus,
        "max_restarts": 0,
        # A step must never be applied twice: nothing with an effect is retried behind our back.
        "max_task_retries": 0,
        "runtime_env": {"env_vars": dict(environment(gpus))},
    }


def bundles(config: RunConfig) -> list[dict[str, float]]:
    """Resources of the learner and of every rollout actor, in the order of their bundles."""

    def bundle(cpus: float, gpus: float) -> dict[str, float]:
        wanted = {"CPU": cpus, "GPU": gpus}
        # A bundle must ask for something, and an actor that asks for nothing fits everywhere.
        return {name: amount for name, amount in wanted.items() if amount > 0} or {"CPU": 0.001}

    places = config.placement
    learner = bundle(places.cpus_per_learner, places.gpus_per_learner)
    return [
        learner,
        *(bundle(places.cpus_per_rollout, places.gpus_per_rollout) for _ in range(config.rollout.num_actors)),
    ]


def _reserve(config: RunConfig) -> PlacementGroup:
    wanted = bundles(config)
    group = placement_group(wanted, strategy="PACK")
    if group.wait(timeout_seconds=config.placement.timeout_s):
        return group
    remove_placement_group(group)
    raise PlacementError(_misfit(wanted, config.placement))


def _misfit(wanted: Sequence[Mapping[str, float]], places: PlacementConfig) -> str:
    total = {name: sum(bundle.get(name, 0.0) for bundle in wanted) for name in ("CPU", "GPU")}
    free, whole = ray.available_resources(), ray.cluster_resources()
    needs = " and ".join(f"{amount:g} {name}" for name, amount in total.items() if amount)
    has = ", ".join(f"{free.get(name, 0):g} of {whole.get(name, 0):g} {name} free" for name in total if total[name])
    return (
        f"The run needs {needs} in {len(wanted)} pieces, and after {places.timeout_s:g} s the cluster has {has}; lower "
        "rollout.num_actors or placement.cpus_per_rollout, or add nodes."
    )
