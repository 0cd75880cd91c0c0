"""`rftfm status`: how a run stands, while it goes on and after."""

from __future__ import annotations

import json as jsonlib
import math
import time
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from rftfm_ray.incidents.state import EntryKind
from rftfm_ray.runs.advice import advice
from rftfm_ray.runs.counts import counts_of, is_open
from rftfm_ray.runs.ending import ending_problems
from rftfm_ray.runs.guard_loss import lost
from rftfm_ray.runs.headline import headline
from rftfm_ray.runs.incidents import Incident, incidents_of, levers_now, marks
from rftfm_ray.runs.reader import RunData, find_run, read_run
from rftfm_ray.runs.verdict import Figures, end_words, figures, guard_words, progress_of, restored
from rftfm_ray.runs.waiting import waiting
from rftfm_ray.runs.words import NONE, clean, describe, figure, lever_text, number_of, plural, share

STYLES = {
    "finished": "green", "finished with problems": "red", "failed": "red", "halted": "red", "dead": "red",
    "stopped": "yellow", "going on": "yellow", "paused": "yellow",
}  # fmt: skip
ACTS = (
    EntryKind.APPLIED, EntryKind.FAILED, EntryKind.UNCONFIRMED, EntryKind.DECIDED, EntryKind.ADVISED,
    EntryKind.APPROVED, EntryKind.REJECTED,
)  # fmt: skip


RESUMABLE = ("stopped", "failed", "halted", "dead", "paused")


def status(
    run: Annotated[str, typer.Argument(help="Run directory, or the name of a run below RFTFM_HOME or ~/rftfm_runs.")],
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show how a run stands: progress, guard, incidents, levers."""
    data = read_run(find_run(run))
    facts = standing(data)
    if json:
        print(jsonlib.dumps(facts, allow_nan=False))
    else:
        # One line each, however narrow the terminal: a path that is broken in two cannot be copied.
        Console().print(status_text(data, facts), soft_wrap=True)


def standing(data: RunData) -> dict[str, Any]:
    """State of a run as plain values; unknown values are null. Times are seconds since 1970."""
    values, incidents = figures(data), incidents_of(data.entries)
    advised = advice(data, incidents)
    state, why = progress_of(data)
    probe = next((probe for probe in reversed(data.graded) if not probe.abandoned), None)
    return {
        "run": data.name,
        "run_dir": clean(str(data.run_dir.absolute())),
        "headline": headline(data, incidents, marks(incidents)),
        "state": state,
        "note": why or None,
        "ending": [problem.message for problem in ending_problems(data)] if data.summary else [],
        "resume": data.resume_command or None if state in RESUMABLE else None,
        "guard_lost": lost(data) or None,
        "guard_restored": restored(data) or None,
        "step": values.step,
        "steps": values.steps_planned or None,
        "paid_steps": values.paid_steps,
        "steps_recorded": len(data.steps.ids),
        "reward_last": _known(values.reward_last),
        "probe": None if probe is None else {"step": probe.step, "accuracy": _known(probe.accuracy)},
        "refused_updates": values.refused,
        "guard": data.mode,
        "journal": data.journalled,
        "incidents": [_incident(incident) for incident in incidents],
        "remedies": counts_of(data.entries).remedies,
        "waiting": _waiting(data) if state in ("going on", "paused") else [],
        "advice": list(advised.sentences),
        "act_command": advised.command or None,
        "last_action": last_action(data) or None,
        "levers": levers_now(data.entries),
        "newest_record_s": _known(data.newest_s),
    }


def last_action(data: RunData) -> str:
    """The last decision or action of the guard, in words; empty without one."""
    for entry in reversed(data.entries):
        if entry.kind in ACTS:
            return f"step {entry.id.step}: {describe(entry)[0]}"
    return ""


def status_text(data: RunData, facts: dict[str, Any]) -> Text:
    """The status as lines of a name and a value. A run's texts are text in it, never styles."""
    text = Text()
    for name, value in _lines(data, facts):
        text.append(f"{name:<13}", style="dim").append(value + "\n", style=STYLES.get(value.split(",")[0], ""))
    text.rstrip()
    return text


def _lines(data: RunData, facts: dict[str, Any]) -> list[tuple[str, str]]:
    planned = f" of {facts['steps']}" if facts["steps"] else ""
    values = figures(data)
    undone = values.undone
    paid = f", {facts['paid_steps']} consumed ({undone} undone by rollbacks)" if undone > 0 else ""
    probe = facts["probe"]
    lines = [
        ("run", data.title),
        ("verdict", facts["headline"]),
        ("state", facts["state"] + (" with problems" if facts["ending"] else "") + _age(data, facts["state"])),
        ("progress", f"step {facts['step']}{planned}{paid}"),
        *([("resumed", f"from {clean(str(resumed))}")] if (resumed := data.event("resumed").get("checkpoint")) else []),
        ("reward", _reward(values)),
        ("held-out", "no probe yet" if probe is None else f"{share(values.probe_last)}, after step {probe['step']}"),
        ("guard", guard_words(data) if data.journalled else f"{data.mode}; no journal"),
    ]
    if data.journalled:
        lines += _incident_lines(data)
        lines += [("last action", facts["last_action"] or "none"), ("levers", lever_text(facts["levers"]))]
    lines += [("refused", plural(facts["refused_updates"], "update"))] if facts["refused_updates"] else []
    lines += [("problem", message) for message in facts["ending"]]
    lines += [("note", facts[name]) for name in ("guard_restored", "guard_lost", "note") if facts[name]]
    for decision in facts["waiting"]:
        lines += [("waiting", decision["words"]), ("approve", decision["approve"]), ("reject", decision["reject"])]
    lines += [("advice", sentence) for sentence in facts["advice"]]
    lines += [("train again", facts["act_command"])] if facts["act_command"] else []
    return [*lines, ("records", facts["run_dir"])]


def _reward(values: Figures) -> str:
    """The newest reward and the steps that it is the mean of; steps after them have none."""
    since = f"; no step after step {values.reward_step} has one" if values.reward_step < values.step else ""
    if not values.rewarded:
        return NONE
    mean = "" if values.rewarded == 1 else f" (mean of {plural(values.rewarded, 'step')})"
    return f"{share(values.reward_last)}{mean}{since}"


def _age(data: RunData, state: str) -> str:
    age = time.time() - data.newest_s
    return (
        f", newest record {figure(max(0.0, round(age)))} s ago" if state in ("going on", "dead") and age == age else ""
    )


def _incident_lines(data: RunData) -> list[tuple[str, str]]:
    counts = counts_of(data.entries)
    going = [incident for incident in incidents_of(data.entries) if is_open(incident)]
    lines = [("incidents", f"{counts.open} open, {counts.closed} closed" if counts.incidents else "none")]
    for incident in going:
        last = incident.remediations[-1] if incident.remediations else None
        done = f"; {last.remedy}: {last.result}" if last is not None else ""
        where = f"opened at step {incident.opened.step}"
        lines.append(("", f"#{incident.id} {incident.code}  {end_words(incident)}, {where}{done}"))
    return lines


def _waiting(data: RunData) -> list[dict[str, Any]]:
    """Decisions that wait for a person, each with the commands that answer it."""
    decisions = []
    for decision in waiting(data.entries):
        approve, reject = decision.commands(data.run_dir.absolute())
        about = {"incident": decision.incident.id, "remedy": decision.remediation.remedy, "words": decision.words}
        decisions.append({**about, "approve": clean(approve), "reject": clean(reject)})
    return decisions


def _incident(incident: Incident) -> dict[str, Any]:
    newest, explained = incident.newest_with("probability"), incident.explained
    return {
        "id": incident.id,
        "code": incident.code,
        "family": incident.family,
        "probability": None if newest is None else _known(number_of(newest, "probability")),
        "place": incident.text("place") or None,
        "state": incident.end,
        "open": is_open(incident),
        "opened_step": incident.opened.step,
        "opened_paid_step": incident.opened.paid_step,
        "closed_paid_step": None if incident.closed is None else incident.closed.id.paid_step,
        "remedies": [{"remedy": r.remedy, "result": r.result} for r in incident.remediations],
        "reason": incident.reason or None,
        "explained": None if explained is None else asdict(explained),
    }


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None
