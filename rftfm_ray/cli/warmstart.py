"""`rftfm warmstart`: rebuild a policy that ships, or make one for a task."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from rftfm_ray.config import RunConfig, load_config
from rftfm_ray.errors import ConfigError, ModelError
from rftfm_ray.models import ModelSize


def warmstart(  # noqa: PLR0913 - every parameter is an argument of the command
    out: Annotated[Path, typer.Argument(help="Directory to write the model to; must not exist yet.")],
    file: Annotated[
        Path | None, typer.Argument(help="YAML file with the task; without it, addition and calculator.")
    ] = None,
    overrides: Annotated[list[str] | None, typer.Argument(help="Keys to change, as `rftfm train` takes them.")] = None,
    size: Annotated[ModelSize, typer.Option(help="Which of the shipped models.")] = ModelSize.TINY,
    seed: Annotated[int, typer.Option(help="Seed of initialisation and demonstrations.")] = 0,
    target: Annotated[
        float | None,
        typer.Option(min=0.01, max=0.99, help="With FILE: sampled accuracy at which learning stops; by default 0.38."),
    ] = None,
) -> None:
    """Train a starting policy by supervision on the task of FILE, or on the shipped tasks, and measure it with vLLM."""
    if out.exists():
        raise ModelError(f"{out} exists already; give a new directory.")
    if file is not None and "=" in file.name and not file.exists():
        raise ConfigError(f"{file} is a key; name a file before it: rftfm warmstart {out} FILE {file}.")
    if target is not None and file is None:
        raise ConfigError("--target is for the task of a FILE, and the shipped policies have their own; name a file.")
    config, task = RunConfig(), None
    if file is not None:
        from rftfm_ray.data.tasking import task_of

        configured = task_of(load_config(file, overrides or []))
        config, task = configured.config, configured.task
    console = Console(stderr=True)
    from rftfm_ray.rollout.engine import prepare_environment

    prepare_environment()
    from rftfm_ray.tasks.loading import TASKS
    from rftfm_ray.training.warmstart import PLANS, TASK_PLANS
    from rftfm_ray.training.warmstart import warmstart as build

    plan = PLANS[size] if task is None else replace(TASK_PLANS[size], positions=config.rollout.max_model_len)
    plan = replace(plan, seed=seed, target=plan.target if target is None else target)

    def show(step: int, loss: float) -> None:
        if step % 50 == 0:
            console.print(f"step {step}/{plan.steps}  loss {loss:.3f} nats per token", highlight=False)

    build(out, plan, show, task)
    from rftfm_ray.rollout.evaluate import evaluate

    tasks = [kind() for kind in TASKS.values()] if task is None else [task]
    for line in evaluate(out, config.rollout, seed, tasks):
        console.print(line, highlight=False, soft_wrap=True)
