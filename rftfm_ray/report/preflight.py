"""The section on what was found before the first step."""

from __future__ import annotations

from rftfm_ray.report.markup import NOTHING, Html, badge, table, tag
from rftfm_ray.runs.preflight import preflight_of
from rftfm_ray.runs.reader import RunData
from rftfm_ray.runs.words import plural

TONES = {"critical": "bad", "warning": "open"}


def preflight_section(data: RunData) -> Html:
    """What preflight found, and which checks it could not make; nothing for a run without one."""
    preflight = preflight_of(data)
    if preflight is None:
        return NOTHING
    missing = f" Not run: {preflight.not_run}." if preflight.not_run else ""
    count = plural(preflight.checks, "check")
    if not preflight.findings:
        return tag("p", f"Before the first step {count} found nothing.{missing}", class_="muted")
    rows = [
        (badge(f.grade, TONES.get(f.grade, "calm")), f.check, f"{f.what} {f.why}", tag("code", f.key))
        for f in preflight.findings
    ]
    shown = tag("div", table(("Grade", "Check", "What and why", "Key"), rows), class_="card")
    note = tag("p", f"{count} ran.{missing}", class_="muted")
    return tag("section", tag("h2", "Before the first step"), shown, note)
