"""`rftfm train`: run a configuration to its end."""

from __future__ import annotations

import math
import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from rftfm_ray.cli.progress import progress
from rftfm_ray.config import load_config
from rftfm_ray.types import RunSummary


def train(  # noqa: PLR0913 - the parameters of a command are its options
    file: Annotated[Path, typer.Argument(help="YAML configuration, for example examples/calculator.yaml.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Keys to change, for example steps=100 seed=1.")] = None,
    run_dir: Annotated[Path | None, typer.Option(help="Where the records go; must not exist yet.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Checkpoint directory to go on from.")] = None,
    inject: Annotated[
        list[str] | None,
        typer.Option(
            help="A fault or benign control to inject, CODE@STEP[:strength]; repeatable. See `rftfm faults list`."
        ),
    ] = None,
    guard: Annotated[str | None, typer.Option(help="Short for guard.mode: off, observe, advise or act.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object to standard output at the end.")] = False,
) -> None:
    """Train a model by reinforcement, in the cluster of RAY_ADDRESS or in a local Ray."""
    began = time.perf_counter()
    config = load_config(file, [*(overrides or []), *([f"guard.mode={guard}"] if guard else [])])
    if inject:
        config = config.model_copy(update={"inject": (*config.inject, *inject)})
    console = Console(stderr=True)
    # Ray takes a second to import: not before the configuration is known to be good.
    from rftfm_ray.driver.loop import Listeners
    from rftfm_ray.driver.run import execute
    from rftfm_ray.planning import plan
    from rftfm_ray.telemetry.records import summary_json

    planned = plan(config, run_dir, resume)
    with progress(console, config) as watched:
        summary = execute(planned, Listeners(watched.row, watched.entry), began)
    if json:
        sys.stdout.write(summary_json(summary) + "\n")
    else:
        Console().print(summary_table(summary))
        page = Path(summary.run_dir) / "report.html"
        if page.exists():
            # Not wrapped: a path is there to be copied.
            Console().print(f"Report: {page}", soft_wrap=True, highlight=False)


def summary_table(summary: RunSummary) -> Table:
    """The table that a run ends with."""
    table = Table(title=f"{summary.steps} steps, seed {summary.seed}", title_justify="left")
    for heading in ("", "first", "last"):
        table.add_column(heading, justify="left" if not heading else "right")
    table.add_row("sampled reward (mean of 5 steps)", f"{summary.reward_first:.3f}", f"{summary.reward_last:.3f}")
    table.add_row("held-out accuracy (greedy)", f"{summary.probe_first:.3f}", f"{summary.probe_last:.3f}")
    sampled = (summary.probe_sampled_first, summary.probe_sampled_last)
    if not all(map(math.isnan, sampled)):
        table.add_row("held-out accuracy (sampled)", *(f"{accuracy:.3f}" for accuracy in sampled))
    table.add_section()
    table.add_row("step time (median)", "", f"{summary.step_time_s_median * 1000:.0f} ms")
    table.add_row("start to first step", "", f"{summary.first_step_s:.1f} s")
    table.add_row("refused updates", "", str(summary.vetoes))
    counts = f"{len(summary.incidents)}, {summary.remedies}"
    table.add_row(f"incidents, remedies (guard: {summary.guard})", "", counts)
    table.caption = f"Records: {summary.run_dir}"
    table.caption_justify = "left"
    return table
