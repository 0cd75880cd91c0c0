"""The section of one incident: what was seen, decided, done and verified, and when."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rftfm_ray.incidents.state import Entry, EntryKind
from rftfm_ray.numerals import as_percent
from rftfm_ray.report.explanations import explanations, seen, would_tell
from rftfm_ray.report.markup import NOTHING, Html, badge, bullets, facts, joined, tag
from rftfm_ray.runs.costs import applied_of, cost_of, lever_course
from rftfm_ray.runs.headline import title_of
from rftfm_ray.runs.incidents import Incident, Mark, Remediation
from rftfm_ray.runs.verdict import end_words, refusals, tone_of, tone_of_result
from rftfm_ray.runs.words import (
    as_number,
    change_of,
    describe,
    figure,
    lever_text,
    levers_in,
    nats,
    number_of,
    plural,
    text_of,
    verified_change,
)
from rftfm_ray.types import StepId


def incident_section(
    incident: Incident, remedies: Sequence[Mark], figures: Html = NOTHING, last: int | None = None
) -> Html:
    """Everything about one incident.

    Args:
        incident: of the run.
        remedies: of the run.
        figures: of its signals.
        last: newest consumed step of the run, up to which an open incident has lasted; None where it is not known.
    """
    numbers = {id(m.remediation): m.number for m in remedies}
    head = tag(
        "div",
        tag("h3", f"#{incident.id} {title_of(incident.code)}"),
        badge(end_words(incident), tone_of(incident.state)),
        tag("span", _extent(incident), class_="muted"),
        class_="head",
    )
    applied = [_remediation(r, numbers.get(id(r))) for r in incident.remediations if r.applied is not None]
    others = [_remediation(r, None) for r in incident.remediations if r.applied is None]
    parts = [
        head,
        _finding(incident, last),
        figures,
        joined((tag("h4", "What was done"), *applied)) if applied else NOTHING,
        joined((tag("h4", "Not carried out"), *others)) if others else NOTHING,
        tag("h4", "Course"),
        _course(incident),
    ]
    return tag("section", *parts, class_="card long", id=f"incident-{incident.id}")


def _extent(incident: Incident) -> str:
    opened = f"opened at step {step_text(incident.opened)}"
    return f"{opened}, closed at step {step_text(incident.closed.id)}" if incident.closed else f"{opened}, still open"


def step_text(id_: StepId) -> str:
    """A step, with its consumed step where rollbacks have parted them."""
    return str(id_.step) if id_.step == id_.paid_step else f"{id_.step} (consumed {id_.paid_step})"


def _finding(incident: Incident, last: int | None) -> Html:
    newest = incident.newest_with("probability")
    probability = number_of(newest, "probability") if newest is not None else math.nan
    known = f", probability {as_percent(probability)}" if math.isfinite(probability) else ""
    refused = refusals(incident)
    nothing = "" if incident.remediations or refused else "none: nothing was decided"
    return facts(
        [
            ("Fault", f"{incident.code}, family {incident.family}{known}"),
            ("Where it sits", _place(incident)),
            # What it says stands below, fact by fact; journals of earlier versions have nothing else.
            ("Summary", "" if incident.explained is not None else incident.text("summary")),
            ("What was seen", seen(incident)),
            ("What can explain it", explanations(incident)),
            ("Not measured, and would tell more", would_tell(incident)),
            ("Onset, estimated", _onset(incident)),
            ("Decision", nothing),
            ("Not done", bullets(refused) if refused else ""),
            ("Final state", _final_state(incident)),
            ("Levers over time", lever_course(applied_of(incident))),
            ("Cost", "" if last is None else str(cost_of(incident, last))),
        ]
    )


def _place(incident: Incident) -> str:
    """The place of the fault's source, and its strength where it is measured."""
    place, strength = incident.text("place"), as_number(_number(incident, "strength"))
    return f"{place}: {incident.text('measured')} {strength:.3g}" if place and math.isfinite(strength) else place


def _final_state(incident: Incident) -> str:
    end = end_words(incident)
    if incident.reason.startswith(end):
        return incident.reason
    return f"{end}: {incident.reason}" if incident.reason else end


def _onset(incident: Incident) -> str:
    onset, low = (as_number(_number(incident, name)) for name in ("onset", "onset_low"))
    if not math.isfinite(onset):
        return ""
    interval = f" (interval: steps {figure(low)} to {figure(onset)})" if math.isfinite(low) and low < onset else ""
    late = incident.opened.step - onset
    return f"step {figure(onset)}{interval}" + (f"; opened {plural(int(late), 'step')} later" if late > 0 else "")


def _number(incident: Incident, name: str) -> float:
    entry = incident.newest_with(name)
    return number_of(entry, name) if entry is not None else math.nan


def _remediation(remediation: Remediation, number: int | None) -> Html:
    decision = remediation.decision
    kind = "advised" if decision.kind is EntryKind.ADVISED else "decided"
    title = tag(
        "h3",
        f"{number}. {remediation.remedy}" if number else remediation.remedy,
        badge(remediation.result, tone_of_result(remediation)),
    )
    by = text_of(decision, "policy")
    restore = number_of(decision, "restore_step")
    pairs = [
        (kind.capitalize(), f"at step {step_text(decision.id)}" + (f" by {by}" if by else "")),
        ("Reason", text_of(decision, "reason")),
        ("Rollback", f"to step {figure(restore)}" if math.isfinite(restore) else ""),
        ("Levers asked for", lever_text(levers) if (levers := levers_in(decision)) else ""),
        ("Answer", _answer(remediation.answer)),
        ("Confirmation", _confirmation(remediation.confirmation)),
        ("Applied", _applied(remediation.applied)),
        ("Failed", _failed(remediation.failed)),
        ("Verification", _outcome(remediation.outcome)),
    ]
    return tag("div", title, facts(pairs), class_="remediation")


def _answer(entry: Entry | None) -> str:
    """What a person has said to a remedy that was advised."""
    if entry is None:
        return ""
    said = "approved" if entry.kind is EntryKind.APPROVED else "rejected"
    return f"{said} by {text_of(entry, 'by') or 'a person'} at step {step_text(entry.id)}{_because(entry)}"


def _confirmation(entry: Entry | None) -> str:
    if entry is None:
        return ""
    verdict = "confirmed" if entry.kind is EntryKind.CONFIRMED else "not confirmed"
    before, now = number_of(entry, "probe_before"), number_of(entry, "probe_now")
    probe = f"; held-out {change_of(before, now, '→')}" if math.isfinite(before) or math.isfinite(now) else ""
    return f"{verdict} at step {step_text(entry.id)}{probe}" + _because(entry)


def _applied(entry: Entry | None) -> str:
    if entry is None:
        return ""
    seconds = number_of(entry, "seconds")
    took = f", took {figure(seconds)} s" if math.isfinite(seconds) else ""
    halt = "; the run ends" if text_of(entry, "halt") == "yes" else ""
    return f"at step {step_text(entry.id)}{took}; levers then: {lever_text(levers_in(entry))}{halt}"


def _failed(entry: Entry | None) -> str:
    return f"at step {step_text(entry.id)}{_because(entry)}" if entry is not None else ""


def _outcome(entry: Entry | None) -> str:
    if entry is None:
        return ""
    severity = [nats(number_of(entry, f"severity_{when}")) for when in ("before", "after")]
    probe = verified_change(number_of(entry, "probe_before"), number_of(entry, "probe_after"), "→")
    verdict = text_of(entry, "outcome") or "no verdict"
    return (
        f"{verdict} at step {step_text(entry.id)}; severity {' → '.join(severity)} nats, "
        f"held-out accuracy {probe}{_because(entry)}"
    )


def _because(entry: Entry) -> str:
    reason = text_of(entry, "reason")
    return f" — {reason}" if reason else ""


def _course(incident: Incident) -> Html:
    items = []
    for entry in incident.entries:
        what, _ = describe(entry)
        items.append(tag("li", tag("span", f"step {step_text(entry.id)}", class_="when"), tag("span", what)))
    return tag("ol", *items, class_="line")
