"""`rftfm drill`: which injected faults the guard finds, names and mends in a run of one's own."""

from __future__ import annotations

import json as jsonlib
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from rftfm_ray.cli.configured import FILE_HELP, configured
from rftfm_ray.cli.streams import lasting
from rftfm_ray.data.tasking import task_of
from rftfm_ray.drills.cases import DrillCase, LeftOut, cases_of
from rftfm_ray.drills.outcome import DrillResult, Ending, RunOutcome
from rftfm_ray.drills.plan import DrillPlan
from rftfm_ray.errors import FaultError
from rftfm_ray.incidents.state import replay
from rftfm_ray.runs.words import plural, share
from rftfm_ray.telemetry.rundir import default_run_dir

ONSET = 11
STEPS = 40
FAILED = 1
"""Exit code where a harmful fault was not mended, or a clean run was not left alone."""
PASSED = (Ending.MENDED, Ending.HARMLESS, Ending.LESS)
STYLES = {Ending.MENDED: "green", Ending.NOT_MENDED: "red", Ending.WORSE: "bold red", Ending.STOPPED: "red"}


def drill(  # noqa: PLR0913 - the parameters of a command are its options
    file: Annotated[str, typer.Argument(help=FILE_HELP)],
    overrides: Annotated[list[str] | None, typer.Argument(help="Keys to change, as `rftfm train` takes them.")] = None,
    faults: Annotated[
        list[str] | None,
        typer.Option(
            help="CODE[:strength][,mechanism=NAME|all], a family such as RF, or all; several in one text with blanks "
            "between them, repeatable. Without it: one mechanism of each fault."
        ),
    ] = None,
    policy: Annotated[str | None, typer.Option(help="The policy that decides, as guard.policy.")] = None,
    onset: Annotated[int, typer.Option(min=2, help="Consumed step at which each fault begins.")] = ONSET,
    steps: Annotated[int, typer.Option(min=3, help="Consumed steps of each run.")] = STEPS,
    guarded_only: Annotated[
        bool, typer.Option("--guarded-only", help="Leave the runs without a guard out: half the time, harm not known.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Where the runs go; one that was broken off goes on.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object to standard output at the end.")] = False,
) -> None:
    """Inject faults into short runs of your own configuration: which does your guard find, name and mend?

    One clean run, and for each fault one without a guard and one with `guard.mode=act` and every family permitted.
    Exit code 1 where a harmful fault was not mended, or the guard did not leave the clean run alone.
    """
    config = configured(file, [*(overrides or []), *([] if policy is None else [f"guard.policy={policy}"])])
    if config.inject:
        raise FaultError(f"inject={list(config.inject)}: a drill injects by itself; leave the key out.")
    if onset > steps:
        raise FaultError(f"--onset {onset} lies after the last step (--steps {steps}); begin earlier.")
    folder = (out or default_run_dir(f"drills-{time.strftime('%Y%m%d-%H%M%S')}")).expanduser().absolute()
    base = DrillPlan(config, (), onset, steps, folder, unguarded=not guarded_only)
    task = task_of(config).task
    asked = [word for text in faults or [] for word in text.split()]
    cases, left = cases_of(base.run_of((), guarded=True), task, asked, onset)
    plan = DrillPlan(config, cases, onset, steps, folder, unguarded=not guarded_only)
    console, printed = Console(file=lasting(sys.stderr)), Console(file=lasting(sys.stdout))
    clean, results = make(plan, left, console)
    summary = summary_of(clean, results, left)
    if json:
        printed.file.write(jsonlib.dumps(summary | {"folder": str(folder)}, allow_nan=False) + "\n")
        printed.file.flush()
    else:
        show(plan, clean, results, printed)
    if summary["failed"]:
        raise typer.Exit(FAILED)


def make(plan: DrillPlan, left: Sequence[LeftOut], console: Console) -> tuple[RunOutcome, tuple[DrillResult, ...]]:
    """Make all runs, and tell on `console` what became of each."""
    import ray

    from rftfm_ray.actors.warm import WarmActors
    from rftfm_ray.drills.runs import clean_outcome
    from rftfm_ray.drills.runs import drill as run_drills
    from rftfm_ray.driver.cluster import connect

    for each in left:
        console.print(f"Left out: {each.name}: {each.reason}", markup=False, highlight=False, soft_wrap=True)
    count, began = 0, time.monotonic()

    def tell(name: str, outcome: RunOutcome) -> None:
        nonlocal count
        count += 1
        to_go = (time.monotonic() - began) / count * (plan.count - count) / 60
        what = f"ended by itself: {outcome.error}" if outcome.error else f"held-out accuracy {share(outcome.accuracy)}"
        line = f"{count} of {plan.count} ({to_go:.0f} min left)  {name}: {what}"
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    is_local = connect(plan.config)
    try:
        with WarmActors() as warm:
            results = tuple(run_drills(plan, warm, tell))
    finally:
        if is_local:
            ray.shutdown()
    return clean_outcome(plan), results


def _not_left_alone(clean: RunOutcome) -> tuple[list[str], list[str]]:
    """Incidents and remedies of the clean run: their codes and names."""
    incidents = replay(clean.entries).incidents
    return [incident.code for incident in incidents], [tried.remedy for i in incidents for tried in i.tried]


def summary_of(clean: RunOutcome, results: Sequence[DrillResult], left: Sequence[LeftOut]) -> dict[str, Any]:
    """Everything as JSON takes it."""
    codes, remedies = _not_left_alone(clean)
    harmful = [r for r in results if r.ending in (Ending.MENDED, Ending.NOT_MENDED, Ending.WORSE, Ending.STOPPED)]
    return {
        "clean": {"accuracy": clean.accuracy, "incidents": codes, "remedies": remedies},
        "cases": [_row(result) for result in results],
        "left_out": [asdict(each) for each in left],
        "found": sum(result.found_after is not None for result in results),
        "named": sum(result.is_named for result in results),
        "placed": sum(result.is_placed for result in results),
        "harmful": len(harmful),
        "mended": sum(result.ending is Ending.MENDED for result in results),
        "of": len(results),
        "failed": bool(remedies) or any(result.ending not in PASSED for result in results),
    }


def _row(result: DrillResult) -> dict[str, Any]:
    row = asdict(result)
    accuracies = {name: row[name] for name in ("clean", "unguarded", "guarded")}
    return row | {name: None if math.isnan(value) else value for name, value in accuracies.items()}


def show(plan: DrillPlan, clean: RunOutcome, results: Sequence[DrillResult], out: Console) -> None:
    """Print what came of each drill, and of all."""
    table = Table(title=f"Faults from step {plan.onset} on, {plan.steps} steps", title_justify="left")
    for heading in ("fault", "found", "named", "remedies", "accuracy: clean, alone, guarded", "result"):
        table.add_column(heading, overflow="fold")
    for result in results:
        style = STYLES.get(result.ending, "")
        table.add_row(
            _fault(result.case), _found(result), _named(result),
            "\n".join(f"{g.remedy}: {g.outcome or 'not judged yet'}" for g in result.given) or "none",
            f"{share(clean.accuracy)}, {share(result.unguarded)}, {share(result.guarded)}",
            f"[{style}]{result.ending.value}[/]" if style else result.ending.value,
        )  # fmt: skip
    out.print(table)
    for line in _lines(plan, clean, results):
        out.print(line, markup=False, highlight=False, soft_wrap=True)


def _fault(case: DrillCase) -> str:
    return f"{case.code} {case.mechanism} {case.strength:g}\n({case.origin.value})"


def _found(result: DrillResult) -> str:
    if result.found_after is None:
        return "no"
    return "at once" if not result.found_after else f"after {plural(result.found_after, 'step')}"


def _named(result: DrillResult) -> str:
    if not result.named:
        return ""
    place = f", {result.place}" if result.place else ""
    wrong = "" if result.is_named else f" (is {result.case.code})"
    return f"{result.named}{wrong}{place}" + ("" if result.is_placed or not result.is_named else " (other place)")


def _lines(plan: DrillPlan, clean: RunOutcome, results: Sequence[DrillResult]) -> list[str]:
    summary = summary_of(clean, results, ())
    codes, remedies = _not_left_alone(clean)
    alone = "left alone" if not codes else f"{plural(len(codes), 'false alarm')} ({', '.join(codes)})"
    told = (
        f"Found {summary['found']} of {summary['of']}, named {summary['named']}, placed {summary['placed']}; mended "
        f"{summary['mended']} of {summary['harmful']} that harm. The clean run: {alone}, "
        f"{plural(len(remedies), 'remedy', 'remedies')}."
    )
    lines = [told, "One run each: an accuracy differs between two equally good runs by some hundredths."]
    early = [result for result in results if result.early]
    lines += [f"{r.case.name}: {', '.join(r.early)} was named before the fault began: a false alarm." for r in early]
    lines += [
        f"{r.case.name}: the run without a guard ended by itself: {e}" for r in results if (e := r.unguarded_error)
    ]
    lines += [f"{r.case.name}: the guarded run ended by itself: {r.error}" for r in results if r.error]
    lines += [f"{r.case.name}: a person was asked." for r in results if r.asked and r.ending not in PASSED]
    return [*lines, f"Runs, each guarded one with its report.html: {plan.folder}"]
