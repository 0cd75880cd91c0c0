"""Makes a benchmark with Ray Tune: one trial for the runs of a seed, on actors that outlive the trial."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import ray
from ray import tune
from rich.console import Console

from rftfm_ray.driver.cluster import connect
from rftfm_ray.faultbench.runs.dataset import write_records
from rftfm_ray.faultbench.runs.generate import Job, config_of, make_group
from rftfm_ray.faultbench.runs.runner import ExperimentRunner

# A trial that dies with its actors is repeated on new ones.
TRIES = 2


class GroupTrial(tune.Trainable):
    """One trial: all runs of a seed."""

    def setup(self, config: Mapping[str, Any]) -> None:
        """Start actors that are reused from trial to trial."""
        self._runner = ExperimentRunner()
        self._setting = dict(config)

    def step(self) -> dict[str, Any]:
        """Make the runs and store them."""
        job, seed = Job(**self._setting["job"]), int(self._setting["seed"])
        records = make_group(self._runner, job.groups()[seed], job.parts / f"checkpoints-{seed}")
        write_records(job.parts / str(seed), records)
        return {"done": True, "runs": len(records), "steps": sum(len(record.rows) for record in records)}

    def reset_config(self, new_config: Mapping[str, Any]) -> bool:
        """Continue with another seed on the same actors."""
        self._setting = dict(new_config)
        return True

    def cleanup(self) -> None:
        """End the actors."""
        self._runner.close()


class Progress(tune.Callback):
    """Reports every finished seed."""

    def __init__(self, tell: Callable[[int], None]) -> None:
        self._tell = tell

    def __reduce__(self) -> tuple[Any, ...]:
        # Tune pickles a copy for a restored tuner. None is restored here: a new tuner makes the missing seeds.
        return Progress, (_tell_nobody,)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Report a finished seed."""
        del iteration, trials, info
        self._tell(int(trial.config["seed"]))


def _tell_nobody(seed: int) -> None:
    del seed


def generate(job: Job, workers: int, console: Console) -> None:
    """Make all runs that are missing, `workers` seeds at a time, and at the end the manifest.

    Raises:
        FaultError: for a run that cannot be made; before any is.
        BenchError: when a seed could not be made, or finished runs are of another plan.
    """
    job.check()
    job.parts.mkdir(parents=True, exist_ok=True)
    spent, began, made = job.spent_s(), time.perf_counter(), 0
    groups, missing = job.groups(), job.missing()

    def tell(seed: int) -> None:
        nonlocal made
        made += 1
        seconds = time.perf_counter() - began
        job.spend(spent + seconds)
        left = seconds / made * (len(missing) - made) / 60
        text = f"{made}/{len(missing)} seed {seed}: {len(groups[seed])} runs, {left:.0f} min left"
        console.print(text, highlight=False)
        gather()

    def gather() -> None:
        for path in job.gather():
            console.print(f"{path.name} is complete", highlight=False)

    gather()
    if missing:
        runs = sum(len(groups[seed]) for seed in missing)
        text = f"{runs} of {len(job.entries)} runs are missing: about {job.hours(workers):.1f} h"
        console.print(f"{text} with {workers} at a time", highlight=False)
        _fit(job, workers, missing, tell)
    job.finish()


def _fit(job: Job, workers: int, seeds: Sequence[int], tell: Callable[[int], None]) -> None:
    # Tune's newer output prints tables even when it is told to be silent.
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    # One run more than workers: the trials themselves need some CPU.
    is_owner = connect(config_of(job.entries[0]), runs=workers + 1)
    try:
        with tempfile.TemporaryDirectory(prefix="rftfm-tune-") as storage:
            tuner = tune.Tuner(
                # The actors of a trial ask for what they need; the trial itself only waits for them, but cannot ask
                # for nothing at all.
                tune.with_resources(GroupTrial, {"CPU": 0.01}),
                param_space={"seed": tune.grid_search(list(seeds)), "job": asdict(job)},
                tune_config=tune.TuneConfig(reuse_actors=True, max_concurrent_trials=workers),
                run_config=tune.RunConfig(
                    name="faultbench", storage_path=storage, verbose=0, callbacks=[Progress(tell)],
                    failure_config=tune.FailureConfig(max_failures=TRIES),
                    # A finished seed is already on disk; Tune fails a trial that has nothing to save.
                    checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                ),
            )  # fmt: skip
            tuner.fit()
    finally:
        if is_owner:
            ray.shutdown()
