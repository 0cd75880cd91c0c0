"""Joins the job's cluster or starts a local one, and checks that the run directory is shared."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
from pathlib import Path

import ray

from rftfm_ray.actors.placement import NAMESPACE, bundles
from rftfm_ray.config import RunConfig
from rftfm_ray.driver.stopping import sheltered
from rftfm_ray.errors import PlacementError, RunDirError, SignalInterrupt

ADDRESS = "RAY_ADDRESS"


def connect(config: RunConfig, runs: int = 1, *, is_sheltered: bool = False) -> bool:
    """Join the cluster that RAY_ADDRESS names, or start one for this process. Returns whether it was started here.

    A local cluster has as many logical CPUs as `runs` such runs request at once, so a laptop with two cores can hold
    three actors. Ray's token authentication is not changed. With `is_sheltered` a local cluster gets no signal that
    would end a run, as in `stopping.sheltered`.

    Raises:
        PlacementError: when the cluster cannot be reached.
        SignalInterrupt: when SIGTERM comes while Ray starts, and Ray's own handler has taken it.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Without this Ray passes the absence of GPUs on as an override, with a deprecation warning.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # At Ray's default niceness of 15 an actor takes minutes to start beside other busy processes.
    os.environ.setdefault("RAY_worker_niceness", "0")
    if ray.is_initialized():
        return False
    address, began = os.environ.get(ADDRESS), time.monotonic()
    try:
        if address:
            ray.init(namespace=NAMESPACE, logging_level=logging.ERROR, log_to_driver=True)
            return False
        cpus = runs * sum(bundle.get("CPU", 0.0) for bundle in bundles(config))
        with sheltered() if is_sheltered else contextlib.nullcontext():
            # address="local": a crashed cluster's leftovers must not be joined by accident.
            ray.init(
                address="local",
                namespace=NAMESPACE,
                num_cpus=max(os.cpu_count() or 1, int(-(-cpus // 1))),
                include_dashboard=False,
                logging_level=logging.ERROR,
                log_to_driver=True,
            )
        return True
    except SystemExit:
        raise SignalInterrupt(signal.SIGTERM) from None
    except Exception as error:
        raise PlacementError(_not_connected(error, address, time.monotonic() - began)) from error


def _not_connected(error: Exception, address: str | None, waited_s: float) -> str:
    """Why there is no cluster, as one sentence, and what to do."""
    text = " ".join(str(error).split())[:400]
    if address:
        return (
            f"Cannot reach the cluster at {ADDRESS}={address}: {text} (with token authentication on, clients need "
            "RAY_AUTH_MODE=token)."
        )
    if "timed out" in text:
        return (
            f"Ray did not start within {waited_s:.0f} s; the machine is busy or its temporary directory is full: try "
            "again."
        )
    return f"Ray cannot be started on this machine: {text or type(error).__name__}."


def check_shared(run_dir: Path) -> None:
    """With several nodes, refuse a run directory that is not on a shared file system.

    The learner writes checkpoints from its node and the driver writes the rest, so both must see one directory.

    Raises:
        RunDirError: when a node does not see the directory.
    """
    alive = [node for node in ray.nodes() if node["Alive"]]
    if len(alive) <= 1:
        return
    run_dir.parent.mkdir(parents=True, exist_ok=True)
    marker = run_dir.parent / f".rftfm-shared-{os.getpid()}"
    marker.write_text("")
    try:
        look = ray.remote(num_cpus=0)(_exists)
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        calls = [
            look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
                str(marker)
            )
            for node in alive
        ]
        seen = ray.get(calls, timeout=60)
    finally:
        marker.unlink(missing_ok=True)
    blind = [node["NodeManagerHostname"] for node, is_visible in zip(alive, seen, strict=True) if not is_visible]
    if blind:
        raise RunDirError(
            f"Run directory {run_dir} is not visible on node {blind[0]}; with several nodes it must be on a shared "
            "file system: set --run-dir or RFTFM_HOME."
        )


def _exists(path: str) -> bool:
    return Path(path).exists()
