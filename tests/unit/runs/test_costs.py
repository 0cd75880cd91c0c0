"""What an incident has cost in steps, and the levers that it has moved, told from its journal."""

from __future__ import annotations

import pytest

from rftfm_ray.incidents.state import Entry, EntryKind, Scalar
from rftfm_ray.report.sections import incident_section
from rftfm_ray.runs.costs import IncidentCost, applied_of, cost_of, lever_course
from rftfm_ray.runs.incidents import Incident, incidents_of, marks
from rftfm_ray.types import StepId

K = EntryKind
Told = tuple[EntryKind, StepId, dict[str, Scalar]]


def incident(*told: Told) -> Incident:
    """An incident of these entries."""
    entries = [Entry(seq, kind, at, 1, tuple(fields.items())) for seq, (kind, at, fields) in enumerate(told, start=1)]
    (found,) = incidents_of(entries)
    return found


def applied(step: int, paid: int, **fields: Scalar) -> Told:
    """A remedy that was carried out."""
    return K.APPLIED, StepId(0, step, paid), {"order": paid, "remedy": "x", "role": "remedy", **fields}


OPENED: Told = (K.OPENED, StepId(0, 12, 12), {"code": "OD-1", "family": "OD"})
CLOSED: Told = (K.CLOSED, StepId(1, 20, 28), {"state": "resolved"})


def test_rollback_costs_the_steps_that_it_undoes_and_not_the_one_under_way() -> None:
    found = incident(OPENED, applied(13, 13, restored=5, lever_lr_scale=0.1), CLOSED)
    assert cost_of(found, 40) == IncidentCost(lasted=16, given_up=7, frozen=0)
    assert str(cost_of(found, 40)) == "16 steps from alarm to end; 7 steps of learning given up by rollback"


def test_learning_stands_still_from_the_freeze_until_it_is_taken_back() -> None:
    thawed = incident(OPENED, applied(13, 13, lever_freeze_policy=1), applied(17, 17), CLOSED)
    assert cost_of(thawed, 40).frozen == 4
    assert "no learning for 4 steps" in str(cost_of(thawed, 40))
    # A lever that stays out goes on costing when the incident has been closed.
    kept = incident(OPENED, applied(13, 13, lever_freeze_policy=1), CLOSED)
    assert cost_of(kept, 40).frozen == 28


@pytest.mark.parametrize(("last", "lasted"), [(12, 0), (13, 1), (40, 28)])
def test_open_incident_has_lasted_until_the_newest_step(last: int, lasted: int) -> None:
    assert cost_of(incident(OPENED), last) == IncidentCost(lasted, 0, 0)


def test_levers_are_told_as_they_changed() -> None:
    found = incident(
        OPENED, applied(13, 13, lever_lr_scale=0.1, lever_kl_coef_scale=2), applied(17, 17, lever_lr_scale=0.1),
        applied(18, 18, lever_lr_scale=0.1), applied(19, 19), CLOSED,
    )  # fmt: skip
    course = lever_course(applied_of(found))
    assert course == "step 13: kl_coef_scale=2, lr_scale=0.1; step 17: lr_scale=0.1; step 19: all levers nominal"
    assert lever_course([]) == ""


def test_page_tells_cost_and_levers_of_an_incident() -> None:
    found = incident(OPENED, applied(13, 13, restored=5, lever_lr_scale=0.1), CLOSED)
    html = str(incident_section(found, marks([found]), last=40))
    assert "<dt>Cost</dt><dd>16 steps from alarm to end; 7 steps of learning given up by rollback</dd>" in html
    assert "<dt>Levers over time</dt><dd>step 13: lr_scale=0.1</dd>" in html
    assert "Levers over time" not in str(incident_section(incident(OPENED), ()))
