"""Remedies as verification judges them: reports from before a fault, under it, and under the remedy."""

from __future__ import annotations

import math

from rftfm_ray.incidents.state import Incident
from rftfm_ray.incidents.verification import Case, Rules, judge
from rftfm_ray.signals.schema import INDEX, SIGNALS
from rftfm_ray.types import Levers, StepId
from rftfm_ray.verdicts import Family, IncidentState, Outcome, OutcomeKind, StepReport, Tried

WINDOW, TIMEOUT, SIZE = 4, 12, 256
RULES = Rules(WINDOW, TIMEOUT, SIZE)
USUAL = {"probe_accuracy": 0.9, "lr": 1e-3, "update_ratio": 0.01}
NO_PROBE = {"probe_accuracy": math.nan}


def report(step: int, **signals: float) -> StepReport:
    """A step without a finding, but for the signals that are given."""
    values = dict.fromkeys(INDEX, 0.0) | USUAL | signals
    assert len(values) == len(SIGNALS), "no such signal"
    return StepReport(StepId(0, step, step), step, tuple(values[signal.name] for signal in SIGNALS))


def reports(first: int, count: int, **signals: float) -> tuple[StepReport, ...]:
    """Several equal steps."""
    return tuple(report(step, **signals) for step in range(first, first + count))


def remedied(code: str, undone: int = 0) -> Incident:
    """An incident whose first remedy is in force; a rollback that gave up some steps, or none."""
    tried = (Tried("remedy", 15, Levers(), undone=undone),)
    return Incident(1, IncidentState.VERIFYING, code, Family.TE, StepId(0, 11, 11), 11, 11, tried)


def case(under: dict[str, float], after: dict[str, float], window: int = WINDOW, before: float = 0.9) -> Case:
    """Ten usual steps, four of the fault, and some under the remedy."""
    return Case(reports(1, 10), reports(11, 4, **under), reports(15, window, **after), before)


def verdict(code: str, found: Case, *, active: bool = False, undone: int = 0, rules: Rules = RULES) -> Outcome | None:
    """What `judge` says."""
    return judge(remedied(code, undone), found, rules, alarm_active=active)


def kind(outcome: Outcome | None) -> OutcomeKind | None:
    """Its kind."""
    return outcome.kind if outcome else None
