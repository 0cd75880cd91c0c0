"""What is remembered of a run: the lineage that is kept, and what the harm of a fault is measured against."""

from __future__ import annotations

import math
from dataclasses import replace

from rftfm_ray.incidents.memory import REFERENCE_STEPS, REPORTS, RunMemory
from rftfm_ray.incidents.state import Incident
from rftfm_ray.signals.schema import INDEX, SIGNALS
from rftfm_ray.types import Levers, StepId
from rftfm_ray.verdicts import Family, IncidentState, StepReport, Tried
from tests.unit.incidents.managed import USUAL, fault


def report(attempt: int, step: int, paid: int, probe: float = math.nan) -> StepReport:
    """A usual step."""
    values = dict.fromkeys(INDEX, 0.0) | USUAL | {"probe_accuracy": probe}
    return StepReport(StepId(attempt, step, paid), paid, tuple(values[signal.name] for signal in SIGNALS))


def incident(opened: StepId, onset: int, *tried: int) -> Incident:
    """An incident whose remedies were applied at these paid steps."""
    remedies = tuple(Tried("remedy", paid, Levers()) for paid in tried)
    return Incident(1, IncidentState.DIAGNOSED, "TE-1", Family.TE, opened, onset, onset, remedies)


def paid_steps(reports: tuple[StepReport, ...]) -> list[int]:
    """Their paid steps."""
    return [item.id.paid_step for item in reports]


def test_case_of_an_incident_leaves_out_attempts_that_were_abandoned() -> None:
    memory = RunMemory()
    for step in range(1, 11):
        memory.add(report(0, step, step))
    memory.rewind(5)
    for step in range(6, 13):
        memory.add(report(1, step, step + 5))
    opened = incident(StepId(1, 9, 14), 8)
    memory.diagnose(opened, fault(onset=8))
    case = memory.case_of(incident(StepId(1, 9, 14), 8, 15))
    assert paid_steps(case.reference) == [1, 2, 3, 4, 5, 11, 12]
    assert paid_steps(case.under_fault) == [13, 14], "steps 8 to 10 of the first attempt were undone"
    assert paid_steps(case.after) == [15, 16, 17]


def test_reference_is_the_last_steps_before_the_fault_and_lasts() -> None:
    memory, opened = RunMemory(), incident(StepId(0, 21, 21), 21)
    for step in range(1, 22):
        memory.add(report(0, step, step))
    memory.diagnose(opened, fault(onset=21))
    assert paid_steps(memory.reference_of(1)) == list(range(21 - REFERENCE_STEPS, 21))
    for step in range(22, 22 + REPORTS):
        memory.add(report(0, step, step))
    memory.diagnose(incident(StepId(0, 21, 21), 21, 22), fault(onset=21))
    assert paid_steps(memory.reference_of(1)) == list(range(21 - REFERENCE_STEPS, 21))
    assert len(memory.reports) == REPORTS
    assert memory.reference_of(2) == ()
    assert memory.diagnosis_of(2) is None


def test_report_of_an_attempt_that_has_ended_is_late() -> None:
    memory = RunMemory()
    memory.rewind(0)
    assert memory.is_late(report(0, 1, 1))
    memory.add(report(1, 1, 2))
    memory.rewind(0)
    assert memory.is_late(report(1, 2, 3))
    assert not memory.is_late(report(2, 1, 4))
    assert memory.reports == ()


def test_probe_before_a_fault_is_of_weights_that_it_has_not_reached() -> None:
    memory = RunMemory()
    assert math.isnan(memory.probe_before(9))
    for step, probe in ((1, 0.5), (2, math.nan), (3, 0.7), (4, 0.2)):
        memory.add(report(0, step, step, probe))
    assert [memory.probe_before(onset) for onset in (1, 2, 3, 4)] == [0.5, 0.5, 0.7, 0.2]
    assert paid_steps(tuple(memory.since(3))) == [3, 4]


def test_onset_of_a_diagnosed_incident_is_the_journalled_one_whatever_is_diagnosed_later() -> None:
    """Report, journal and policy name one onset; how early the fault may have begun still widens, for a rollback."""
    memory = RunMemory()
    for step in range(1, 26):
        memory.add(report(0, step, step))
    later = replace(fault(onset=16), onset_low=15, summary="Since about step 16: kl_ref is high.")
    known = memory.diagnose(incident(StepId(0, 20, 20), 20, 21), later)
    assert (known.onset, known.onset_low, known.summary) == (20, 15, "Since about step 20: kl_ref is high.")
    untried = memory.diagnose(incident(StepId(0, 20, 20), 20), later)
    assert (untried.onset, untried.onset_low) == (20, 15)
    suspected = replace(incident(StepId(0, 20, 20), 20), state=IncidentState.SUSPECTED)
    assert memory.diagnose(suspected, later).onset == 16, "its diagnosis is still to be journalled"


def test_steps_in_a_row_that_a_fault_leads_for_are_counted() -> None:
    memory = RunMemory()
    codes = ("TE-1", "TE-1", "RF-1", "TE-1", None, "TE-1", "TE-1", "TE-1")
    assert [memory.led_by(None if code is None else fault(code)) for code in codes] == [1, 2, 1, 1, 0, 1, 2, 3]
