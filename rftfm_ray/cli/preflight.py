"""`rftfm preflight`: what can be known to be wrong with a run before its first step."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated

import typer
from rich.console import Console

from rftfm_ray.cli.configured import FILE_HELP, configured
from rftfm_ray.cli.streams import lasting
from rftfm_ray.config import RunConfig, known_keys
from rftfm_ray.errors import ConfigError, ModelError, PlacementError, RftfmError, RunDirError, TaskError
from rftfm_ray.preflight.findings import Checked, Finding, Grade

FOUND = 1
"""Exit code where something critical was found."""
STYLES = {Grade.CRITICAL: "bold red", Grade.WARNING: "yellow", Grade.NOTE: "dim"}
REFUSALS = {TaskError: "task.contract", ModelError: "model.files", ConfigError: "model.fit", RunDirError: "room.folder"}
"""Errors of a plan as checks: what they name is refused by `rftfm train` too."""


KEYS = {TaskError: "task.name", PlacementError: "placement.timeout_s"}
"""Keys to change where an error names none."""


def preflight(
    file: Annotated[str, typer.Argument(help=FILE_HELP)],
    overrides: Annotated[list[str] | None, typer.Argument(help="Keys to change, as `rftfm train` takes them.")] = None,
    full: Annotated[bool, typer.Option("--full", help="Also save, load and repeat a step.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Start no actors: files and the task's code alone.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object to standard output.")] = False,
) -> None:
    """Check a run before its first step. Exit code 1 where something critical is found."""
    if full and quick:
        raise ConfigError("--full needs actors, which --quick does not start; leave one of them out.")
    config = configured(file, overrides or [])
    console, out = Console(file=lasting(sys.stderr)), Console(file=lasting(sys.stdout))

    checked = check(config, console, full=full, quick=quick)
    if json:
        out.file.write(checked.to_json() + "\n")
        out.file.flush()
    else:
        for each in checked.not_run:
            out.print(f"Not run: {each.check}: {each.reason}.", markup=False, highlight=False, soft_wrap=True)
        out.print(checked.summary(), markup=False, highlight=False, soft_wrap=True)
    if checked.critical:
        raise typer.Exit(FOUND)


def check(config: RunConfig, console: Console, *, full: bool, quick: bool) -> Checked:
    """All checks of a configuration; findings are shown on `console` as soon as they are known."""
    from rftfm_ray.driver.preflight import preflight_alone
    from rftfm_ray.planning import plan

    def tell(finding: Finding) -> None:
        show(finding, console)

    try:
        planned = plan(config)
    except (TaskError, ModelError, ConfigError, RunDirError) as error:
        return refused(error, REFUSALS[type(error)], tell)
    told: list[Checked] = []
    try:
        return preflight_alone(planned, tell, full=full, quick=quick, so_far=told)
    except RftfmError as error:
        return sum(told, Checked()) + refused(error, "actors.start", tell)


def refused(error: RftfmError, check_name: str, tell: Callable[[Finding], None]) -> Checked:
    """An error that ends a run before its first step, as a critical finding."""
    keys = [key for key in known_keys() if "." in key and key in str(error)]
    key = max(keys, key=len, default=next((k for kind, k in KEYS.items() if isinstance(error, kind)), "model.path"))
    why = "`rftfm train` ends with this sentence before its first step."
    finding = Finding(Grade.CRITICAL, str(error), why, key, check_name)
    tell(finding)
    return Checked(findings=(finding,))


def show(finding: Finding, console: Console) -> None:
    """Print a finding, unwrapped, in the colour of its grade."""
    console.print(
        f"Preflight, {finding.grade}: {finding}", style=STYLES[finding.grade], markup=False, highlight=False,
        soft_wrap=True,
    )  # fmt: skip
