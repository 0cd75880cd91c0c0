"""A run before it starts: everything that can be checked without an actor is checked here."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rftfm_ray.config import RunConfig
from rftfm_ray.errors import CheckpointError, ResumeError
from rftfm_ray.faults.catalogue import FaultSpec, check_faults
from rftfm_ray.models import ModelFacts, check_model
from rftfm_ray.policies.api import Policy
from rftfm_ray.policies.loading import load_policy
from rftfm_ray.tasks.api import Problem, Task
from rftfm_ray.tasks.loading import check_task, load_task
from rftfm_ray.telemetry.rundir import check_run_dir, default_run_dir
from rftfm_ray.training.checkpoints import verify


@dataclass(frozen=True, slots=True)
class RunPlan:
    """A run that has passed every check that can be made before an actor starts."""

    name: str
    config: RunConfig
    folder: Path
    task: Task
    pool: Sequence[Problem]
    heldout: Sequence[Problem]
    facts: ModelFacts
    resume: Path | None
    faults: tuple[FaultSpec, ...]
    policy: Policy


def plan(config: RunConfig, run_dir: Path | None = None, resume: Path | None = None) -> RunPlan:
    """Check a run without starting or creating anything.

    Args:
        config: what to run.
        run_dir: where records go; by default below RFTFM_HOME or ~/rftfm_runs. Must not exist, or be empty.
        resume: a checkpoint to go on from; the run continues at its step.

    Raises:
        RftfmError: one of its kinds, with one sentence that names the fix.
    """
    task = load_task(config.task.name)
    pool, heldout = check_task(task, config)
    facts = check_model(config)
    name = f"{task.name}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    folder = (run_dir or default_run_dir(name)).expanduser().absolute()
    check_run_dir(folder)
    if resume is not None:
        check_resume(resume, config)
    faults, policy = check_faults(config, task), load_policy(config.guard.policy)
    return RunPlan(name, config, folder, task, pool, heldout, facts, resume, faults, policy)


def check_resume(checkpoint: Path, config: RunConfig) -> None:
    """Refuse a checkpoint that is damaged, or that leaves nothing to do.

    Raises:
        ResumeError: names the file and the fix.
    """
    try:
        state = verify(checkpoint).state
    except CheckpointError as error:
        raise ResumeError(f"Cannot resume: {error}") from error
    if state.step >= config.steps:
        raise ResumeError(
            f"Checkpoint {checkpoint} stands at step {state.step}, and steps={config.steps}: nothing is left to do; "
            "raise steps."
        )
    if state.zero_stage != config.learner.zero_stage:
        raise ResumeError(
            f"Checkpoint {checkpoint} was saved with learner.zero_stage={state.zero_stage}; resume with the same."
        )
