"""`rftfm faultbench`: the benchmark of faults: generate it, verify it, tune and score a detector on it."""

from __future__ import annotations

import json as jsonlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from rftfm_ray.errors import ConfigError

if TYPE_CHECKING:
    from rftfm_ray.faultbench.reproduce import Reproduced

faultbench = typer.Typer(
    help="The benchmark of faults: generate it, verify it, tune and score a detector on it.", no_args_is_help=True
)
Data = Annotated[Path, typer.Option("--data", help="Folder of the benchmark.", file_okay=False)]
Peers = Annotated[bool, typer.Option("--peers", help="Compare with rlwatch, rlprobe and rldoctor too; minutes more.")]
Workers = Annotated[int, typer.Option(min=0, help="Processes that share the work; 0: one for every core, at most 4.")]
HERE = Path("benchmarks/data/faultbench")


@faultbench.command()
def generate(
    size: Annotated[
        str, typer.Option(help="background: clean and dirty, hours; full: without background, hours; smoke: minutes.")
    ] = "smoke",
    data: Data = HERE,
    seed: Annotated[int, typer.Option(min=1, help="Seed that the runs are drawn from.")] = 1,
    workers: Annotated[int, typer.Option(min=0, help="Runs at a time; 0: one for every core, at most 8.")] = 0,
) -> None:
    """Make the runs that are missing; can be stopped at any moment, and continues where it stopped."""
    from rftfm_ray.faultbench.runs.generate import Job
    from rftfm_ray.faultbench.runs.sizes import SIZES
    from rftfm_ray.faultbench.runs.sweep import generate as make

    if size not in SIZES:
        raise ConfigError(f"Unknown size {size}; choose one of {', '.join(SIZES)}.")
    make(Job(str(data.absolute()), size, seed), workers or min(8, os.cpu_count() or 1), Console())


@faultbench.command()
def verify(
    data: Data = HERE,
    sample: Annotated[int, typer.Option(min=1, help="Number of runs to repeat.")] = 20,
    draw: Annotated[int, typer.Option(min=0, help="Seed that they are drawn with.")] = 0,
) -> None:
    """Repeat recorded runs with a live guard; exit code 1 when a signal, an alarm or an incident differs."""
    from rftfm_ray.faultbench.reproduce import reproduce

    console, different = Console(), 0
    for run in reproduce(data, sample, draw):
        different += not run.is_same
        console.print(_line(run), soft_wrap=True, highlight=False)
    if different:
        raise typer.Exit(1)


def _line(run: Reproduced) -> str:
    rows = f"equal but for rounding ({run.rows.distance:.2g} of what counts)"
    rows = "equal bit for bit" if run.rows.is_exact else rows
    if run.rows.branch is not None:
        rows += f" before step {run.rows.branch}, from which on another token makes it another run"
    parts = [f"differs in {run.rows.where}" if run.rows.where else rows]
    for one in run.alarms:
        raised = f"alarms with {one.mode.label} {_listed(one.recorded)}"
        parts.append(raised if one.recorded == one.live else f"{raised}, but live {_listed(one.live)}")
    recorded, live = (
        _listed([f"{one.step} ({one.code})" for one in incidents])
        for incidents in (run.recorded_incidents, run.live_incidents)
    )
    parts.append(f"incidents {recorded}" if recorded == live else f"incidents {recorded}, but live {live}")
    return f"{run.name}: {'; '.join(parts)}"


def _listed(steps: Sequence[int | str]) -> str:
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
    workers: Workers = 0,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Score the guard, or a detector of yours, on the report split, with the frozen thresholds."""
    from rftfm_ray.detection.detectors.custom import load_detectors
    from rftfm_ray.faultbench.scoring.score import ScoreOptions, score_benchmark
    from rftfm_ray.faultbench.scoring.summary import summary_of

    aside = Console(stderr=True)
    options = ScoreOptions(() if detector is None else load_detectors([detector]), with_peers=peers, workers=workers)
    summary = summary_of(score_benchmark(data, lambda text: aside.print(text, highlight=False), options))
    if json:
        sys.stdout.write(jsonlib.dumps(summary, indent=1) + "\n")
        return
    from rftfm_ray.faultbench.scoring.tables import show

    show(summary, Console())
