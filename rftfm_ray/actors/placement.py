"""Placement of a run's actors: their resources, environment and creation options."""

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
    """Environment of one actor; values that the user has set for the driver win."""
    requested = {
        **ENVIRONMENT,
        # Two threads and one busy neighbour make OpenMP's barrier spin: a 40 ms call takes 600.
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    if gpus == 0:
        requested |= {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    return {name: os.environ.get(name, value) for name, value in requested.items()}


def actor_options(role: Role, cpus: float, gpus: float) -> dict[str, object]:
    """Ray's options for the actor of `role`, without its scheduling."""
    return {
        "name": role.actor_name,
        "namespace": NAMESPACE,
        "num_cpus": cpus,
        "num_gpus": gpus,
        "max_restarts": 0,
        # A step must never be applied twice, so Ray must not retry calls.
        "max_task_retries": 0,
        "runtime_env": {"env_vars": dict(environment(gpus))},
    }


def bundles(config: RunConfig) -> list[dict[str, float]]:
    """Resources of the learner and of every rollout actor, in the order of their bundles."""

    def bundle(cpus: float, gpus: float) -> dict[str, float]:
        requested = {"CPU": cpus, "GPU": gpus}
        # Ray refuses an empty bundle; an actor without resources fits everywhere.
        return {name: amount for name, amount in requested.items() if amount > 0} or {"CPU": 0.001}

    resources = config.placement
    learner = bundle(resources.cpus_per_learner, resources.gpus_per_learner)
    rollout = bundle(resources.cpus_per_rollout, resources.gpus_per_rollout)
    return [learner, *(rollout for _ in range(config.rollout.num_actors))]


def reserve(config: RunConfig) -> PlacementGroup:
    """Reserve the resources of a run's learner and rollout actors.

    Raises:
        PlacementError: when the cluster cannot hold them within `placement.timeout_s`.
    """
    requested = bundles(config)
    group = placement_group(requested, strategy="PACK")
    if group.wait(timeout_seconds=config.placement.timeout_s):
        return group
    remove_placement_group(group)
    raise PlacementError(_misfit(requested, config.placement))


def _misfit(requested: Sequence[Mapping[str, float]], resources: PlacementConfig) -> str:
    total = {name: sum(bundle.get(name, 0.0) for bundle in requested) for name in ("CPU", "GPU")}
    free, cluster = ray.available_resources(), ray.cluster_resources()
    needs = " and ".join(f"{amount:g} {name}" for name, amount in total.items() if amount)
    has = ", ".join(f"{free.get(name, 0):g} of {cluster.get(name, 0):g} {name} free" for name in total if total[name])
    return (
        f"The run needs {needs} in {len(requested)} pieces, and after {resources.timeout_s:g} s the cluster has {has}; "
        "lower rollout.num_actors or placement.cpus_per_rollout, or add nodes."
    )
