"""`rftfm diagnose`: the alarms of the monitor on the step log of any trainer."""

from __future__ import annotations

import dataclasses
import json as jsonlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rftfm_ray.errors import LogError
from rftfm_ray.numerals import as_percent
from rftfm_ray.runs.words import clean
from rftfm_ray.taxonomy import UNKNOWN

if TYPE_CHECKING:
    from rftfm_ray.diagnosis.log_names import LogName
    from rftfm_ray.diagnosis.log_verdict import LogVerdict

STYLES = {"healthy": "green", "faulty": "red", "unknown": "yellow", "incomplete": "yellow", "doubtful": "yellow"}
SAID = {
    "healthy": "no alarm",
    "unknown": "no alarm, and not enough to tell",
    "incomplete": "no alarm, and a part of the log could not be judged",
    "doubtful": "no alarm, and a warning that lasts",
}
EXIT_CODES = {"faulty": 1, "unknown": 3, "incomplete": 3, "doubtful": 3}
"""Exit codes by verdict, so that a job can tell a log that could not be called healthy from a healthy one."""
MOST_NAMED = 10
"""Columns that are named one by one; more are counted."""


def diagnose(
    file: Annotated[
        Path, typer.Argument(help="Step log as CSV, JSONL or Parquet, a row a step, or a trainer_state.json.")
    ],
    trl_config: Annotated[
        Path | None,
        typer.Option("--trl-config", help="GRPOConfig of the run as JSON or YAML: judge its figures by laws as well."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """List the alarms of the monitor on the step log of a run, and name the fault as far as its columns go.

    Exit code 1 when there is an alarm, 3 when there is none but the log was too short, lacked columns, was damaged in
    part or has a warning that lasts, so that no alarm does not mean health, and 0 otherwise.

    Every step is compared with the run's own past, and with limits that no healthy run reaches (docs/readings.md).
    Columns may have the names of docs/signals.md, or those of TRL, verl, OpenRLHF and others. With --trl-config
    relations between logged figures are checked that hold by definition of TRL's algorithm: they need no past, and
    docs/laws.md lists them. A fault is named where a law is broken, a value is not finite, or a limit is passed that
    one fault passes; how columns have moved makes a suspicion, and the columns are listed that would tell more.
    """
    if file.is_dir():
        raise LogError(f"{file} is a directory; give a log file, and for a run use rftfm status or rftfm report.")
    from rftfm_ray.diagnosis.logs import judge_log
    from rftfm_ray.integrations.steplog import read_log
    from rftfm_ray.integrations.trl_config import declared_by_trl, read_trl_config

    try:
        log = read_log(file)
        config = None if trl_config is None else read_trl_config(trl_config)
    except LogError as error:
        # The message quotes names of columns as they stand in the file.
        raise LogError(clean(str(error))) from None
    verdict = judge_log(log, None if config is None else declared_by_trl(config, tuple(log.reward_parts)))
    if json:
        print(jsonlib.dumps(plain(verdict), allow_nan=False))
    else:
        _show(verdict, Console())
    if code := EXIT_CODES.get(verdict.verdict, 0):
        raise typer.Exit(code)


def plain(verdict: LogVerdict) -> dict[str, Any]:
    """A verdict as plain values."""
    tree: dict[str, Any] = jsonlib.loads(jsonlib.dumps(dataclasses.asdict(verdict)))
    return tree


def _show(verdict: LogVerdict, console: Console) -> None:
    coverage = verdict.coverage
    rest = ", and a part of the log could not be judged" if verdict.partial and verdict.alarms else ""
    checks = f"{coverage.run} of {coverage.possible} checks"
    if verdict.alarms:
        first = min(alarm.raised_step for alarm in verdict.alarms)
        found = f"alarms: {len(verdict.alarms)}, first at step {first}{rest} ({checks})"
    else:
        found = f"{SAID[verdict.verdict]} ({checks})"
    console.print(Text(found, style=STYLES[verdict.verdict]))
    if coverage.missing:
        console.print(f"Not checked, for lack of columns or steps: {', '.join(coverage.missing)}", soft_wrap=True)
    for text in verdict.needed:
        console.print(Text(f"To tell it takes {clean(text)}"), soft_wrap=True)
    _show_findings(verdict, console)
    if verdict.fault is not None:
        _show_fault(verdict.fault, console)
    for law in verdict.laws:
        held = f"held on {law.rows} rows" if not law.broken else f"broken on {law.broken} of {law.rows} rows"
        size = f" ({law.strength})" if law.strength else ""
        console.print(Text(f"Law {law.name} {held}{size}: {law.states}."), soft_wrap=True)
    for note in (*verdict.broken, *verdict.notes):
        console.print(Text(clean(note)), soft_wrap=True)
    columns = {"Known, but in no check": verdict.unchecked_columns, "Not known": verdict.unused_columns}
    for what, names in columns.items():
        if names:
            more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
            shown = ", ".join(map(clean, names[:MOST_NAMED]))
            console.print(Text(f"{what}: {shown}{more}"), soft_wrap=True)


def _show_fault(fault: LogName, console: Console) -> None:
    """What the alarms are named, and what would tell more."""
    where = f" It sits in the {fault.place}." if fault.place else ""
    console.print(Text(clean(fault.says) + where), soft_wrap=True)
    for rival in fault.rivals if fault.code == UNKNOWN else ():
        if rival.code != UNKNOWN:
            console.print(Text(f"    {rival.code} {as_percent(rival.probability)}: {rival.against}"), soft_wrap=True)
    if fault.would_tell:
        console.print(Text(f"Columns that would tell more: {', '.join(fault.would_tell)}"), soft_wrap=True)


def _show_findings(verdict: LogVerdict, console: Console) -> None:
    """A table of alarms and warnings, and what the readings among them say."""
    if verdict.alarms or verdict.warnings:
        table = Table("signal", "column", "what", "from step", "alarm at", "until")
        for alarm in (*verdict.alarms, *verdict.warnings):
            until = f"{alarm.last_step}" if alarm.recovered else "the end"
            grade = "" if alarm.grade == "critical" else f"{alarm.grade}: "
            what = grade + clean(alarm.kind).replace("_", " ")
            steps = f"{alarm.first_step}", f"{alarm.raised_step}", until
            table.add_row(Text(clean(alarm.signal)), Text(clean(alarm.column)), Text(what), *steps)
        console.print(table)
        for said in (*verdict.alarms, *verdict.warnings):
            if said.says:
                console.print(Text(f"From step {said.first_step}: {clean(said.says)}."), soft_wrap=True)
