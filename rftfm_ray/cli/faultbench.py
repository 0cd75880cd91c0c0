"""`rftfm faultbench`: the benchmark of faults, made, verified and scored."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from rftfm_ray.errors import ConfigError

faultbench = typer.Typer(help="The benchmark of faults: make it, verify it, score a detector.", no_args_is_help=True)
Data = Annotated[Path, typer.Option("--data", help="Where the benchmark is.", file_okay=False)]
HERE = Path("benchmarks/data/faultbench")


@faultbench.command()
def generate(
    size: Annotated[str, typer.Option(help="full: hours; smoke: minutes.")] = "smoke",
    data: Data = HERE,
    seed: Annotated[int, typer.Option(min=0, help="What the runs are drawn from.")] = 1,
    workers: Annotated[int, typer.Option(min=0, help="Runs at a time; 0: one for every core, at most 8.")] = 0,
) -> None:
    """Make the runs that are missing; can be stopped at any moment, and goes on where it stood."""
    from rftfm_ray.faultbench.generate import Job
    from rftfm_ray.faultbench.plan import SIZES
    from rftfm_ray.faultbench.tuning import generate as make

    if size not in SIZES:
        raise ConfigError(f"There is no size {size}; choose one of {', '.join(SIZES)}.")
    make(Job(str(data.absolute()), size, seed), workers or min(8, os.cpu_count() or 1), Console())


@faultbench.command()
def verify(
    data: Data = HERE,
    sample: Annotated[int, typer.Option(min=1, help="Runs to make once more.")] = 20,
    draw: Annotated[int, typer.Option(min=0, help="What they are drawn by.")] = 0,
) -> None:
    """Make recorded runs once more and compare every figure; exit code 1 when one differs."""
    from rftfm_ray.faultbench.generate import verify as compare

    console, wrong = Console(), 0
    for name, said in compare(data, sample, draw):
        wrong += bool(said)
        console.print(f"{name}: {f'differs in {said}' if said else 'the same'}", highlight=False)
    if wrong:
        raise typer.Exit(1)
