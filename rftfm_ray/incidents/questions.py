"""Asks for checks that tell close explanations apart, or by which the remedies of a fault go, and journals both. Pure.

Only in mode `act`: there the loop waits for the verdict of each step, so that equal runs ask at equal steps, and there
a name decides what is done. In the other modes the cadence of the checks answers.
"""

from __future__ import annotations

import math

from rftfm_ray.diagnosis.questions import ANSWERED_IN, question_of
from rftfm_ray.incidents.entries import EntryKind
from rftfm_ray.incidents.ledger import Ledger
from rftfm_ray.incidents.memory import RunMemory
from rftfm_ray.incidents.state import GuardState, Incident
from rftfm_ray.numerals import as_percent
from rftfm_ray.policies.playbook import plan_of
from rftfm_ray.signals.schema import value
from rftfm_ray.taxonomy import UNKNOWN
from rftfm_ray.types import Check, GuardMode
from rftfm_ray.verdicts import IncidentState, StepReport

MOST_WAIT = 3
"""Consumed steps after which a question counts as not answered: the check may be switched off, or have failed."""


def waiting_checks(state: GuardState) -> tuple[Check, ...]:
    """Checks that were asked for and are not answered, each once, the cheapest first."""
    waiting = {incident.waiting for incident in state.open_incidents()}
    return tuple(check for check in Check if check in waiting)


def take_answers(ledger: Ledger, report: StepReport) -> None:
    """Journal the answers that a step's report gives to what was asked at earlier steps."""
    for incident in ledger.state.open_incidents():
        if incident.waiting is None:
            continue
        signal = ANSWERED_IN[incident.waiting]
        measured = value(report, signal)
        answered = math.isfinite(measured)
        if answered or report.id.paid_step - incident.asked_at >= MOST_WAIT:
            ledger.note(
                EntryKind.ANSWERED, report.id, incident.id, check=incident.waiting.value, signal=signal,
                value=measured if answered else None,
            )  # fmt: skip


def ask(ledger: Ledger, report: StepReport, memory: RunMemory, mode: GuardMode) -> None:
    """Journal the questions that are due after a step; what it has measured by itself is not asked for."""
    if mode is not GuardMode.ACT:
        return
    for incident in ledger.state.open_incidents():
        diagnosis = memory.diagnosis_of(incident.id)
        if diagnosis is None or incident.waiting is not None:
            continue
        if not _is_open_question(incident):
            check = _check_of_remedies(incident, memory)
            if check is not None:
                ledger.note(EntryKind.ASKED, report.id, incident.id, check=check.value, remedies_of=incident.code)
            continue
        known = (check for check, signal in ANSWERED_IN.items() if math.isfinite(value(report, signal)))
        question = question_of(diagnosis, (*incident.asked, *known))
        if question is not None:
            shares = {diagnosis.code: diagnosis.probability} | {r.code: r.probability for r in diagnosis.rivals}
            between = " and ".join(f"{code} ({as_percent(shares[code])})" for code in question.between)
            ledger.note(EntryKind.ASKED, report.id, incident.id, check=question.check.value, between=between)


def _check_of_remedies(incident: Incident, memory: RunMemory) -> Check | None:
    """The check that shows the cause of a named fault, where it was not made since the fault began; None for none.

    Without it nobody knows how far a remedy must go, nor later whether the cause is over.
    """
    if incident.state is not IncidentState.DIAGNOSED or incident.tried:
        return None
    read = plan_of(incident.code, incident.place).source_reads
    since = [report for report in memory.reports if report.id.step >= incident.onset_low]
    for check, signal in ANSWERED_IN.items():
        measured = any(math.isfinite(value(report, signal)) for report in since)
        if signal in read and check not in incident.asked and not measured:
            return check
    return None


def _is_open_question(incident: Incident) -> bool:
    """Whether the fault of an incident has no name yet, or may still get another one."""
    unnamed = incident.state is IncidentState.DIAGNOSED and incident.code == UNKNOWN and not incident.tried
    return unnamed or incident.state is IncidentState.SUSPECTED
