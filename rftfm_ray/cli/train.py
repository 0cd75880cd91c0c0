"""`rftfm train`: run a configuration to its end."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from typer.core import TyperCommand

from rftfm_ray.cli.configured import FILE_HELP, configured
from rftfm_ray.cli.preflight import show
from rftfm_ray.cli.progress import progress
from rftfm_ray.cli.streams import lasting
from rftfm_ray.config import RunConfig, known_keys
from rftfm_ray.config.changes import parse_change
from rftfm_ray.driver.stopping import StopSignal
from rftfm_ray.errors import ConfigError, RecordError
from rftfm_ray.metrics import Evaluation
from rftfm_ray.runs.advice import advice
from rftfm_ray.runs.incidents import incidents_of
from rftfm_ray.runs.planned import background_words
from rftfm_ray.runs.reader import read_run
from rftfm_ray.runs.verdict import EDGE
from rftfm_ray.runs.words import plural, share
from rftfm_ray.types import EndingProblem, GuardMode, RunSummary

if TYPE_CHECKING:
    from rftfm_ray.faults.drill import Drill

LONG_STEP_S = 10.0
"""A median step time from this on is shown in seconds."""
HARMED = 4
"""Exit code of a run that has made all its steps and ends in a bad state, with `guard.on_harm=fail`."""


class KeysAreNoOptions(TyperCommand):
    """A command that takes keys of the configuration as `key=value`, and says so where one is given as an option."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments.

        Raises:
            ConfigError: when an option is a key of the configuration.
        """
        options = {text for parameter in self.params for text in parameter.opts}
        for index, text in enumerate(args):
            option, has_value, value = text.partition("=")
            if option.startswith("--") and option not in options and option[2:] in known_keys():
                value = value if has_value else "".join(args[index + 1 : index + 2])
                raise ConfigError(
                    f"{option} is a key of the configuration, not an option; write {option[2:]}={value or 'VALUE'}."
                )
        return super().parse_args(ctx, args)


def train(  # noqa: PLR0913 - the parameters of a command are its options
    file: Annotated[str, typer.Argument(help=FILE_HELP)],
    overrides: Annotated[list[str] | None, typer.Argument(help="Keys to change, for example steps=100 seed=1.")] = None,
    run_dir: Annotated[Path | None, typer.Option(help="Where the records go; a new or an empty directory.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Checkpoint directory to go on from.")] = None,
    allow_changes: Annotated[
        bool,
        typer.Option(
            "--allow-changes", help="Resume although task, seed, model or batch differ from the checkpoint's."
        ),
    ] = False,
    inject: Annotated[
        list[str] | None,
        typer.Option(
            help="A fault or benign control to inject, CODE@STEP[:strength][,mechanism=NAME][,...]; repeatable. "
            "`rftfm faults list` has the whole syntax."
        ),
    ] = None,
    guard: Annotated[str | None, typer.Option(help="Short for guard.mode: off, observe, advise or act.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object to standard output at the end.")] = False,
) -> None:
    """Train a model by reinforcement, in the cluster of RAY_ADDRESS or in a local Ray."""
    began = time.perf_counter()
    config = configured(file, [*(overrides or []), *([f"guard.mode={guard}"] if guard else [])])
    if inject:
        config = config.model_copy(update={"inject": (*config.inject, *inject)})
    # Whoever reads the log may end before the run.
    console, out = Console(file=lasting(sys.stderr)), Console(file=lasting(sys.stdout))
    # Ray takes a second to import: not before the configuration is known to be good.
    from rftfm_ray.driver.loop import Listeners
    from rftfm_ray.driver.run import execute
    from rftfm_ray.planning import plan
    from rftfm_ray.telemetry.records import summary_json

    def say(line: str) -> None:
        # Not wrapped: commands and paths are there to be copied.
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    with StopSignal().installed() as stop:
        planned = plan(config, run_dir, resume, allow_changes=allow_changes)
        if resume is not None:
            say(f"Going on from {resume}")
        for line in announced(planned.drill, config):
            console.print(line, markup=False, highlight=False)
        with progress(console, config, planned.folder) as watched:
            listeners = Listeners(
                watched.row, watched.entry, lambda why: say(f"rftfm: {why}"), stop,
                finding=partial(show, console=console), preflight=lambda checked: say(checked.summary()),
                evaluated=lambda found: say(evaluation_words(found)),
            )  # fmt: skip
            summary = execute(planned, listeners, began)
    if json:
        out.file.write(summary_json(summary) + "\n")
        out.file.flush()
    else:
        show_summary(summary, out, is_resumed=resume is not None)
    show_ending(summary, config, console)
    if summary.ending and config.guard.on_harm == "fail":
        raise typer.Exit(HARMED)


def evaluation_words(found: Evaluation) -> str:
    """An evaluation as a line."""
    chances = "".join(f", pass@{k} {share(chance)}" for k, chance in found.pass_at)
    answers = "" if found.samples == 1 else f", {found.samples} answers each"
    left = f", {plural(found.ungraded, 'answer')} without a verdict" if found.ungraded else ""
    return (
        f"evaluation {found.name} after step {found.id.step}: accuracy {share(found.accuracy)}{chances} "
        f"({plural(found.problems, 'problem')}{answers}{left}, {found.seconds:.1f} s)"
    )


def show_summary(summary: RunSummary, out: Console, *, is_resumed: bool) -> None:
    """Print the table that a run ends with, and where its records are."""
    out.print(summary_title(summary, is_resumed=is_resumed), style="italic", highlight=False)
    out.print(summary_table(summary, is_resumed=is_resumed))
    show_records(summary, out)


def show_records(summary: RunSummary, out: Console) -> None:
    """Print where the records and the report of a run are, unwrapped: paths are there to be copied."""
    out.print(f"Records: {summary.run_dir}", soft_wrap=True, highlight=False)
    page = Path(summary.run_dir) / "report.html"
    if page.exists():
        out.print(f"Report: {page}", soft_wrap=True, highlight=False)


def show_ending(summary: RunSummary, config: RunConfig, console: Console) -> None:
    """Print what is wrong with the state that a run has ended in, and what a guard that may act would have done."""
    for problem in summary.ending:
        console.print(f"rftfm: {problem.message}", style="red", markup=False, highlight=False, soft_wrap=True)
    for line in advised(Path(summary.run_dir), config):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def announced(drill: Drill, config: RunConfig) -> Iterator[str]:
    """What will be injected and changed in a run, a line each; the guard is told of the planned changes alone."""
    if drill.background.is_on:
        yield background_words(drill.background.sizes())
    for fault in drill.faults:
        until = "on" if fault.duration is None else f"for {fault.duration} steps"
        yield f"Injected: {fault.code} from step {fault.onset} {until} ({fault.mechanism}, strength {fault.strength:g})"
    for control in drill.controls:
        yield f"Injected: benign control {control.name} from step {control.onset} on (strength {control.strength:g})"
    for change in map(parse_change, config.changes):
        yield f"Planned change: {change.key}={change.value:g} from step {change.step} on"


def advised(run_dir: Path, config: RunConfig) -> Iterator[str]:
    """What the guard would have done about the incidents that it may not act on, and the command that lets it."""
    if config.guard.mode not in (GuardMode.OBSERVE, GuardMode.ADVISE):
        return
    try:
        data = read_run(run_dir)
    except RecordError:
        # The run itself has ended; `rftfm status` names the damage.
        return
    found = advice(data, incidents_of(data.entries))
    if not found.sentences:
        return
    yield f"Nothing was done about it: guard.mode={config.guard.mode}."
    yield from found.sentences
    if found.command:
        yield f"To train again, from the start, with a guard that may act: {found.command}"


def summary_title(summary: RunSummary, *, is_resumed: bool = False) -> str:
    """The line above the table that a run ends with."""
    began = ", resumed from a checkpoint" if is_resumed else ""
    return f"{plural(summary.steps, 'step')}, seed {summary.seed}{began}"


def summary_table(summary: RunSummary, *, is_resumed: bool = False) -> Table:
    """The table that a run ends with; `is_resumed`: its first values are those of a checkpoint."""
    table = Table()
    for heading in ("", "resumed" if is_resumed else "first", "last"):
        table.add_column(heading, justify="left" if not heading else "right")
    mean = "" if summary.steps == 1 else f" (mean of {min(EDGE, summary.steps)} steps)"
    table.add_row(f"sampled reward{mean}", share(summary.reward_first), share(summary.reward_last))
    asked = f", {summary.probe_size} problems" if summary.probe_size else ""
    table.add_row(f"held-out accuracy (greedy{asked})", share(summary.probe_first), share(summary.probe_last))
    sampled = (summary.probe_sampled_first, summary.probe_sampled_last)
    if not all(map(math.isnan, sampled)):
        table.add_row("held-out accuracy (sampled)", *map(share, sampled))
    table.add_section()
    step_s = summary.step_time_s_median
    table.add_row("step time (median)", "", f"{step_s * 1000:.0f} ms" if step_s < LONG_STEP_S else f"{step_s:.1f} s")
    table.add_row("start to first step", "", f"{summary.first_step_s:.1f} s")
    table.add_row("refused updates", "", str(summary.vetoes))
    counts = f"{len(summary.incidents)}, {summary.remedies}"
    for problem in summary.ending:
        table.add_row("ended with a problem", "", _problem(problem, summary), style="red")
    table.add_row(f"incidents, remedies (guard: {summary.guard})", "", counts)
    if summary.guard_restarts:
        table.add_row("guard lost and brought back", "", plural(summary.guard_restarts, "time"))
    if summary.hook_failures:
        table.add_row("events not told to guard.on_incident", "", str(summary.hook_failures))
    if summary.unguarded_steps:
        table.add_row("guard lost for good: unguarded steps", "", f"[bold red]{summary.unguarded_steps}[/]")
    return table


def _problem(problem: EndingProblem, summary: RunSummary) -> str:
    """A problem of a run's last state in two words: of an incident its fault, and its state."""
    if not 0 < problem.incident <= len(summary.incidents):
        return problem.kind.replace("_", " ")
    incident = summary.incidents[problem.incident - 1]
    return f"{incident.fault} {incident.state.replace('_', ' ')}"
