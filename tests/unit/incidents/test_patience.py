"""How long a fault without a remedy waits for one before it is left to people."""

from __future__ import annotations

from rftfm_ray.incidents.state import EntryKind
from rftfm_ray.verdicts import IncidentState
from tests.unit.incidents.managed import ManagedRun, fault

K = EntryKind


def test_fault_that_gets_a_name_has_the_patience_of_one() -> None:
    run = ManagedRun(None, verify_steps=6)
    run.pass_steps(5)
    nameless = fault("UNKNOWN", 0.3, signals=("kl_ref",))
    run.pass_steps(9, nameless)
    assert run.kinds[-1] is K.HELD, "five of six steps of waiting are over"
    run.pass_steps(5, fault("OD-1", 0.9, signals=("kl_ref",)))
    assert run.now() is IncidentState.DIAGNOSED
    run.pass_steps(1, fault("OD-1", 0.9, signals=("kl_ref",)))
    assert run.now() is IncidentState.ESCALATED
