"""`rftfm journal`: what the guard saw, decided and did, one line an entry."""

from __future__ import annotations

import json as jsonlib
import math
from dataclasses import asdict
from typing import Annotated, Any

import typer

from rftfm_ray.incidents.explaining import EXPLAINED, read_explained
from rftfm_ray.incidents.state import Entry
from rftfm_ray.runs.incidents import incidents_of
from rftfm_ray.runs.reader import RunData, find_run, read_run
from rftfm_ray.runs.verdict import progress_of
from rftfm_ray.runs.waiting import waiting
from rftfm_ray.runs.words import describe


def journal(
    run: Annotated[str, typer.Argument(help="Run directory, or the name of a run below RFTFM_HOME or ~/rftfm_runs.")],
    json: Annotated[bool, typer.Option("--json", help="Print every entry as a JSON object on one line.")] = False,
) -> None:
    """Show the journal of a run in plain words."""
    data = read_run(find_run(run))
    if json:
        for entry, written in zip(data.entries, data.times, strict=True):
            print(jsonlib.dumps(plain(entry, written), allow_nan=False))
        return
    for line in lines(data):
        print(line)
    if progress_of(data)[0] in ("going on", "paused"):
        for decision in waiting(data.entries):
            approve, reject = decision.commands(data.run_dir.absolute())
            print(f"\nWaiting for a person: {decision.words}\n  {approve}\n  {reject}")
    if not data.entries:
        why = "the journal is empty" if data.journalled else f"there is no journal (guard.mode={data.mode})"
        print(f"Nothing to show: {why}.")


def lines(data: RunData) -> list[str]:
    """The entries in plain words: where, about which incident, what, and why."""
    codes = {incident.id: incident.code for incident in incidents_of(data.entries)}
    positions = [f"step {entry.id.step} (consumed {entry.id.paid_step})" for entry in data.entries]
    abouts = [f"{codes[e.incident]} #{e.incident}" if e.incident in codes else "" for e in data.entries]
    widths = [max(map(len, column), default=0) for column in (positions, abouts)]
    texts = []
    for entry, position, about in zip(data.entries, positions, abouts, strict=True):
        what, why = describe(entry)
        texts.append(f"{position:<{widths[0]}}  {about:<{widths[1]}}  {what}" + (f" -- {why}" if why else ""))
    return texts


def plain(entry: Entry, written: float) -> dict[str, Any]:
    """An entry as it stands in the file, but what JSON cannot hold as null, and a field of parts as its parts."""
    fixed: dict[str, Any] = {
        "seq": entry.seq,
        "time_s": written,
        "kind": entry.kind.value,
        "attempt": entry.id.attempt,
        "step": entry.id.step,
        "paid_step": entry.id.paid_step,
        "incident": entry.incident,
    }
    values = fixed | dict(entry.fields)
    explained = read_explained(entry.text(EXPLAINED))
    if explained is not None:
        values[EXPLAINED] = asdict(explained)
    return {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in values.items()}
