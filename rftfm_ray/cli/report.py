"""`rftfm report`: a run as one HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rftfm_ray.report import write_report
from rftfm_ray.runs.reader import find_run


def report(
    run: Annotated[str, typer.Argument(help="Run directory, or the name of a run below RFTFM_HOME or ~/rftfm_runs.")],
    samples: Annotated[bool, typer.Option("--samples", help="Show recorded texts, where the run kept them.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="File to write; report.html in the run directory if left out.")
    ] = None,
) -> None:
    """Write what the records of a run say as one HTML file, and print its path."""
    print(write_report(find_run(run), samples=samples, out=out))
