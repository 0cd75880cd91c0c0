"""The report: one HTML file without a script or anything from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rftfm_ray.errors import OutputError, RecordError
from rftfm_ray.files import write_atomic
from rftfm_ray.report.convicted import convicted
from rftfm_ray.report.curves import curves, key, marks_of
from rftfm_ray.report.levers import lever_figure
from rftfm_ray.report.markup import NOTHING, Html, badge, joined, table, tag
from rftfm_ray.report.preflight import preflight_section
from rftfm_ray.report.samples import samples_section
from rftfm_ray.report.sections import incident_section
from rftfm_ray.report.style import CSS
from rftfm_ray.runs.advice import advice
from rftfm_ray.runs.counts import counts_of
from rftfm_ray.runs.headline import headline, problems_of
from rftfm_ray.runs.incidents import Incident, Mark, incidents_of, lever_history, marks
from rftfm_ray.runs.reader import RunData, read_run
from rftfm_ray.runs.verdict import figures, guard_words, progress_of, tone, tone_of_result, verdict
from rftfm_ray.runs.words import NONE, clean, clock, describe, figure, share

REPORT = "report.html"
# Incidents whose signals are drawn: each has several figures.
MOST_DRAWN = 10
TONES = {"finished": "good", "failed": "bad", "halted": "bad", "dead": "bad"}
# Nothing is loaded and nothing runs, whatever a text in here might hold.
POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def build_report(run_dir: Path, *, samples: bool = False) -> str:
    """The report of a run as HTML, also while the run goes on. Equal records give equal text.

    Args:
        run_dir: directory of the run.
        samples: also show recorded trajectories with their texts, where the run kept them.

    Raises:
        RecordError: names a file that is damaged.
    """
    data = read_run(run_dir)
    incidents = incidents_of(data.entries)
    remedies = marks(incidents)
    parts = [
        _header(data, incidents, remedies),
        _verdict(data, incidents, remedies),
        preflight_section(data),
        _tiles(data),
        _curves(data, incidents, remedies),
        *_incidents(data, incidents, remedies),
        samples_section(run_dir, data.config) if samples else NOTHING,
        _journal(data, incidents),
        tag("footer", f"Written by `rftfm report` from the records in {clean(str(run_dir))}. Times are UTC."),
    ]
    return _page(data.title, parts)


def write_report(run_dir: Path, *, samples: bool = False, out: Path | None = None) -> Path:
    """Write the report of a run and return where it is: `report.html` in the run directory unless `out` is given.

    Raises:
        RecordError: when records are damaged, or the report cannot be written to the run directory.
        OutputError: when it cannot be written to `out`.
    """
    path = out or run_dir / REPORT
    text = build_report(run_dir, samples=samples)
    try:
        write_atomic(path, text.encode())
    except OSError as error:
        message = f"The report cannot be written to {path} ({error.strerror}); give another file with --out."
        raise (RecordError if out is None else OutputError)(message) from None
    return path


def _page(name: str, parts: Sequence[Html]) -> str:
    head = joined(
        (
            Html('<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'),
            Html(f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'),
            Html('<meta name="color-scheme" content="light dark">'),
            tag("title", f"{name}: run report"),
            tag("style", Html(CSS)),
        )
    )
    body = tag("body", tag("main", *(part for part in parts if part)))
    return f'<!DOCTYPE html>\n<html lang="en">{tag("head", head)}\n{body}</html>\n'


def _header(data: RunData, incidents: Sequence[Incident], remedies: Sequence[Mark]) -> Html:
    config, started = data.config, data.event("run_started")
    task = started.get("task") or (config.task.name if config is not None else "")
    pairs = [
        ("Task", clean(str(task))),
        ("Model", clean(config.model.path) if config is not None else ""),
        ("Seed", str(config.seed) if config is not None else ""),
        ("Steps", str(config.steps) if config is not None else ""),
        ("Guard", guard_words(data)),
        ("Newest record", clock(data.newest_s)),
    ]
    title = tag("div", tag("h1", data.title), _state_badge(data), class_="head")
    about = tag("p", *(tag("span", f"{name} ", tag("b", value or "unknown")) for name, value in pairs), class_="about")
    line = tag("p", headline(data, incidents, remedies), class_=f"headline {tone(data, incidents)}")
    return tag("header", title, line, about)


def _state_badge(data: RunData) -> Html:
    state, _ = progress_of(data)
    if problems_of(data):
        return badge(f"{state} with problems", "bad")
    return badge(state, TONES.get(state, "open"))


def _verdict(data: RunData, incidents: Sequence[Incident], remedies: Sequence[Mark]) -> Html:
    colour, paragraphs = verdict(data, incidents, remedies)
    advised = advice(data, incidents)
    wanted = [tag("p", " ".join(advised.sentences))] if advised.sentences else []
    wanted += (
        [tag("p", "To train again, from the start, with a guard that may act: ", tag("code", advised.command))]
        if advised.command
        else []
    )
    return tag("section", *(tag("p", text) for text in paragraphs), *wanted, class_=f"card verdict {colour}")


def _tiles(data: RunData) -> Html:
    values, counts = figures(data), counts_of(data.entries)
    seconds = values.step_time_s
    time = f"{figure(1000 * seconds)} ms" if seconds < 1 else f"{figure(seconds)} s"
    planned = f"of {values.steps_planned} planned" if values.steps_planned else ""
    tiles = [
        (
            "Reward",
            f"{share(values.reward_first)} → {share(values.reward_last)}",
            "means of at most 5 steps at either end",
        ),
        (
            "Held-out accuracy",
            f"{share(values.probe_first)} → {share(values.probe_last)}",
            "greedy, first and last probe",
        ),
        ("Steps", str(values.step), planned),
        ("Consumed steps", str(values.paid_steps), "steps computed, with those that were undone"),
        ("Incidents", str(counts.incidents), "in the journal" if data.journalled else "no journal: nothing watched"),
        ("Remedies", str(counts.remedies), "applied"),
        ("Refused updates", str(values.refused), "by the commit gate, which checks every update"),
        ("Step time", time if seconds == seconds else NONE, "median"),
    ]
    shown = (
        tag("div", tag("div", name, class_="name"), tag("div", value, class_="value"), tag("div", note, class_="note"),
            class_="tile")
        for name, value, note in tiles
    )  # fmt: skip
    return tag("section", *shown, class_="tiles")


def _curves(data: RunData, incidents: Sequence[Incident], remedies: Sequence[Mark]) -> Html:
    marked = marks_of(data, incidents, remedies)
    drawn = curves(data, marked)
    if not drawn:
        return joined((tag("h2", "Curves"), tag("p", "No step has been recorded yet.", class_="muted")))
    levers = lever_figure(lever_history(data.entries), marked, data.config)
    moved = [tag("div", levers, style="margin-top:14px")] if levers is not None else []
    return tag("section", tag("h2", "Curves"), key(data, marked), tag("div", *drawn, class_="curves"), *moved)


def _incidents(data: RunData, incidents: Sequence[Incident], remedies: Sequence[Mark]) -> list[Html]:
    parts = []
    limits = marks_of(data, incidents, remedies).limits
    if remedies:
        rows = [
            (
                str(m.number),
                m.remediation.remedy,
                f"#{m.incident.id} {m.incident.code}",
                str(m.applied.id.step),
                str(m.applied.id.paid_step),
                badge(m.remediation.result, tone_of_result(m.remediation)),
            )
            for m in remedies
        ]
        headings = ("No.", "Remedy", "Incident", "Step", "Consumed step", "Verified as")
        parts += [tag("h2", "Remedies"), tag("div", table(headings, rows), class_="card")]
    if incidents:
        parts.append(tag("h2", "Incidents"))
        for number, incident in enumerate(incidents):
            drawn = convicted(data, incident, remedies, limits) if number < MOST_DRAWN else NOTHING
            parts.append(incident_section(incident, remedies, drawn, data.position.paid_step))
    return parts


def _journal(data: RunData, incidents: Sequence[Incident]) -> Html:
    if not data.entries:
        return NOTHING
    codes = {incident.id: incident.code for incident in incidents}
    rows = []
    for entry, written in zip(data.entries, data.times, strict=True):
        what, why = describe(entry)
        about = f"#{entry.incident} {codes.get(entry.incident, '')}".strip() if entry.incident else ""
        description = joined((what, tag("div", why, class_="muted") if why else NOTHING))
        rows.append(
            (str(entry.seq), clock(written)[-8:], f"{entry.id.step} ({entry.id.paid_step})", about, description)
        )
    headings = ("No.", "Time", "Step (consumed)", "Incident", "What")
    count = f"Journal ({len(data.entries)} entries)"
    return tag("section", tag("h2", "Journal"),
               tag("details", tag("summary", count), table(headings, rows, "journal"), class_="card long"))  # fmt: skip
