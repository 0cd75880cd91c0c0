"""`rftfm faultbench`: the benchmark of faults, made, verified and scored."""

from __future__ import annotations

import json as jsonlib
import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from rftfm_ray.errors import ConfigError

faultbench = typer.Typer(help="The benchmark of faults: make it, verify it, score a detector.", no_args_is_help=True)
Data = Annotated[Path, typer.Option("--data", help="Where the benchmark is.", file_okay=False)]
Peers = Annotated[bool, typer.Option("--peers", help="Compare with rlwatch, rlprobe and rldoctor too; minutes more.")]
HERE = Path("benchmarks/data/faultbench")


@faultbench.command()
def generate(
    size: Annotated[str, typer.Option(help="full: hours; smoke: minutes.")] = "smoke",
    data: Data = HERE,
    seed: Annotated[int, typer.Option(min=0, help="What the runs are drawn from.")] = 1,
    workers: Annotated[int, typer.Option(min=0, help="Runs at a time; 0: one for every core, at most 8.")] = 0,
) -> None:
    """Make the runs that are missing; can be stopped at any moment, and goes on where it stood."""
    from rftfm_ray.faultbench.runs.generate import Job
    from rftfm_ray.faultbench.runs.plan import SIZES
    from rftfm_ray.faultbench.runs.sweep import generate as make

    if size not in SIZES:
        raise ConfigError(f"There is no size {size}; choose one of {', '.join(SIZES)}.")
    make(Job(str(data.absolute()), size, seed), workers or min(8, os.cpu_count() or 1), Console())


@faultbench.command()
def verify(
    data: Data = HERE,
    sample: Annotated[int, typer.Option(min=1, help="Runs to make once more.")] = 20,
    draw: Annotated[int, typer.Option(min=0, help="What they are drawn by.")] = 0,
) -> None:
    """Make recorded runs once more and compare every figure and alarm; exit code 1 when one differs."""
    from rftfm_ray.faultbench.reproduce import verify as compare

    console, wrong = Console(), 0
    for one in compare(data, sample, draw):
        wrong += not one.is_same
        alarms = "" if one.alarms is None else f", alarms {_listed(one.alarms[0])} and {_listed(one.alarms[1])}"
        rounded = f" but for rounding ({one.apart:.2g} of what counts)" if one.apart else ", bit for bit"
        said = f"differs in {one.differs}" if one.differs else f"the same rows{rounded}"
        console.print(f"{one.name}: {said}{alarms}", highlight=False)
    if wrong:
        raise typer.Exit(1)


def _listed(steps: tuple[int, ...]) -> str:
    return f"at {', '.join(map(str, steps))}" if steps else "none"


@faultbench.command()
def tune(data: Data = HERE, peers: Peers = False) -> None:
    """Set the thresholds of all detectors on the tune split, and freeze them beside the runs."""
    from rftfm_ray.faultbench.scoring.frozen import FROZEN, freeze

    console = Console()
    freeze(data, lambda text: console.print(text, highlight=False), with_peers=peers)
    console.print(f"Thresholds: {data / FROZEN}", soft_wrap=True, highlight=False)


@faultbench.command()
def score(
    data: Data = HERE,
    detector: Annotated[
        str | None, typer.Option(help="Yours, as module:Class or file.py:Class; see examples/custom_detector.py.")
    ] = None,
    peers: Peers = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Score a detector on the report split, with the frozen thresholds."""
    from rftfm_ray.faultbench.scoring.score import evaluate
    from rftfm_ray.faultbench.scoring.summary import figures
    from rftfm_ray.plugins import load_attribute

    aside = Console(stderr=True)
    made = None if detector is None else load_attribute("--detector", detector, ConfigError)[0]
    evaluated = evaluate(data, lambda text: aside.print(text, highlight=False), made, with_peers=peers)
    found = figures(evaluated)
    if json:
        sys.stdout.write(jsonlib.dumps(found, indent=1) + "\n")
        return
    from rftfm_ray.faultbench.scoring.tables import show

    show(found, Console())
