"""`rftfm warmstart`: rebuild a policy that ships."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from rftfm_ray.config import RolloutConfig
from rftfm_ray.errors import ModelError
from rftfm_ray.models import ModelSize


def warmstart(
    out: Annotated[Path, typer.Argument(help="Directory to write the model to; must not exist yet.")],
    size: Annotated[ModelSize, typer.Option(help="Which of the shipped models.")] = ModelSize.TINY,
    seed: Annotated[int, typer.Option(help="Seed of initialisation and demonstrations.")] = 0,
) -> None:
    """Train a starting policy on both tasks by supervision, and measure it with vLLM."""
    if out.exists():
        raise ModelError(f"{out} exists already; give a new directory.")
    console = Console(stderr=True)
    from rftfm_ray.rollout.engine import prepare_environment

    prepare_environment()
    from rftfm_ray.training.warmstart import PLANS
    from rftfm_ray.training.warmstart import warmstart as build

    plan = replace(PLANS[size], seed=seed)

    def show(step: int, loss: float) -> None:
        if step % 50 == 0:
            console.print(f"step {step}/{plan.steps}  loss {loss:.3f} nats per token", highlight=False)

    build(out, plan, show)
    from rftfm_ray.rollout.evaluate import evaluate

    for line in evaluate(out, RolloutConfig(), seed):
        console.print(line, highlight=False, soft_wrap=True)
