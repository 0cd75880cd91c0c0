"""Where the actors of a run live: their resources, their environment, and the options that they are created with."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

from rftfm_ray.actors.roles import Role
from rftfm_ray.config import PlacementConfig, RunConfig
from rftfm_ray.errors import PlacementError
from rftfm_ray.rollout.engine import ENVIRONMENT

NAMESPACE = "rftfm"


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


def actor_options(role: Role, cpus: float, gpus: float) -> dict[str, object]:
    """Options that Ray creates the actor of `role` with, but for its scheduling."""
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
    rollout = bundle(places.cpus_per_rollout, places.gpus_per_rollout)
    return [learner, *(rollout for _ in range(config.rollout.num_actors))]


def reserve(config: RunConfig) -> PlacementGroup:
    """Reserve the resources of a run's learner and rollout actors.

    Raises:
        PlacementError: when the cluster cannot hold them within `placement.timeout_s`.
    """
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
