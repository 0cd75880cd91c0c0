"""What preflight found before the first step of a run, by its records."""

from __future__ import annotations

from dataclasses import dataclass

from rftfm_ray.runs.reader import RunData
from rftfm_ray.runs.words import as_number, clean


@dataclass(frozen=True, slots=True)
class RecordedFinding:
    """A finding as it was recorded."""

    check: str
    grade: str
    what: str
    why: str
    key: str


@dataclass(frozen=True, slots=True)
class RecordedPreflight:
    """The outcomes of preflight: `checks` ran, and `not_run` names those that could not."""

    findings: tuple[RecordedFinding, ...]
    checks: int
    not_run: str


def preflight_of(data: RunData) -> RecordedPreflight | None:
    """The preflight of a run; None where it had none, or had not ended."""
    event = data.event("preflight")
    if not event:
        return None
    findings = tuple(
        RecordedFinding(*(clean(str(each.get(name) or "")) for name in ("check", "grade", "what", "why", "key")))
        for each in data.events
        if each.get("kind") == "preflight_finding"
    )
    checks = as_number(event.get("checks"))
    return RecordedPreflight(findings, int(checks) if checks == checks else 0, clean(str(event.get("not_run") or "")))
