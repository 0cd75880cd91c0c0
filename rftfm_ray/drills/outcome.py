"""What came of a drill: pure, from the journal of the guarded run and the accuracies of the three runs.

The definitions are those of the remediation benchmark, with one run each instead of a mean.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from rftfm_ray.drills.cases import DrillCase
from rftfm_ray.incidents.state import Entry, replay
from rftfm_ray.verdicts import IncidentState

HARMED = 0.10
"""A fault harms where the unguarded run loses so much held-out accuracy against the clean one."""
NEAR = 0.05
"""A mended run ends so near to the clean one, or has got back `GIVEN_BACK` of the loss."""
GIVEN_BACK = 0.8
LEFT = (IncidentState.ESCALATED, IncidentState.GIVEN_UP)
"""Incidents that the guard could not mend, and said so."""


class Ending(StrEnum):
    """What came of the guarded run of a drill."""

    MENDED = "mended"
    NOT_MENDED = "not mended"
    WORSE = "worse than without a guard"
    HARMLESS = "does no harm"
    LESS = "near the clean run"
    STOPPED = "ended by itself"


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """How a run ended: its held-out accuracy, NaN where it has none; the error that ended it; its guard's journal."""

    accuracy: float
    error: str = ""
    entries: tuple[Entry, ...] = ()


@dataclass(frozen=True, slots=True)
class Given:
    """A remedy that was applied: at which consumed step, and its outcome as the guard verified it; empty for none."""

    step: int
    remedy: str
    outcome: str


@dataclass(frozen=True, slots=True)
class DrillResult:
    """What came of a drill.

    Attributes:
        case: what was injected.
        found_after: steps from the onset to the first incident, 0 for the step of the onset; None for not found.
        named: the code of that incident at the end, or of a later one where that is right; empty for not found.
        place: of the same incident; empty where none was named.
        is_named: whether the code is right.
        is_placed: whether the place is right too.
        early: codes of incidents that were opened before the onset: false alarms.
        given: remedies, in their order.
        asked: whether an incident was left to a person, or given up.
        clean: held-out accuracy without the fault.
        unguarded: the same with the fault and no guard; NaN where that was not run, or ended by itself.
        guarded: the same with the fault and the guard; NaN where that run ended by itself.
        ending: what came of it.
        error: why the guarded run ended by itself.
        unguarded_error: why the unguarded run ended by itself.
    """

    case: DrillCase
    found_after: int | None
    named: str
    place: str
    is_named: bool
    is_placed: bool
    early: tuple[str, ...]
    given: tuple[Given, ...]
    asked: bool
    clean: float
    unguarded: float
    guarded: float
    ending: Ending
    error: str = ""
    unguarded_error: str = ""


def judge(case: DrillCase, onset: int, clean: float, unguarded: RunOutcome | None, guarded: RunOutcome) -> DrillResult:
    """The result of a drill.

    Args:
        case: what was injected.
        onset: consumed step from which on it was.
        clean: held-out accuracy of the run without a fault.
        unguarded: the run without a guard; None where it was not made.
        guarded: the run with the guard.
    """
    state = replay(guarded.entries)
    early = tuple(incident.code for incident in state.incidents if incident.opened.paid_step < onset)
    opened = [incident for incident in state.incidents if incident.opened.paid_step >= onset]
    told = next((incident for incident in opened if incident.code == case.code), opened[0] if opened else None)
    without = RunOutcome(math.nan) if unguarded is None else unguarded
    return DrillResult(
        case=case,
        found_after=opened[0].opened.paid_step - onset if opened else None,
        named="" if told is None else told.code,
        place="" if told is None or told.place is None else told.place.value,
        is_named=told is not None and told.code == case.code,
        is_placed=told is not None and told.code == case.code and told.place is case.place,
        early=early,
        given=tuple(
            Given(tried.paid_step, tried.remedy, "" if tried.outcome is None else tried.outcome.value)
            for tried in sorted((t for i in state.incidents for t in i.tried), key=lambda tried: tried.paid_step)
        ),
        asked=any(incident.state in LEFT for incident in state.incidents),
        clean=clean,
        unguarded=without.accuracy,
        guarded=guarded.accuracy,
        ending=ending_of(clean, without, guarded),
        error=guarded.error,
        unguarded_error=without.error,
    )


def loss_of(clean: float, unguarded: RunOutcome) -> float:
    """What a fault costs in held-out accuracy where nobody minds it; NaN where that is not known.

    A run that an error has ended has lost all that the clean one has: whatever a guard saves of it is saved.
    """
    return clean if unguarded.error else clean - unguarded.accuracy


def ending_of(clean: float, unguarded: RunOutcome, guarded: RunOutcome) -> Ending:
    """What came of a guarded run, by the held-out accuracy of the clean run and the runs with the fault."""
    if guarded.error:
        return Ending.STOPPED
    loss = loss_of(clean, unguarded)
    if math.isnan(loss):
        return Ending.LESS if guarded.accuracy >= clean - NEAR else Ending.NOT_MENDED
    if clean - guarded.accuracy > loss + NEAR:
        return Ending.WORSE
    if loss < HARMED:
        return Ending.HARMLESS
    margin = max(NEAR, (1 - GIVEN_BACK) * loss)
    return Ending.MENDED if guarded.accuracy >= clean - margin else Ending.NOT_MENDED
