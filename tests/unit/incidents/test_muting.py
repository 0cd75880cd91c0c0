"""A fault that was left to a person opens no further incident while it lasts, under whatever name."""

from __future__ import annotations

import pytest

from rftfm_ray.incidents.muting import MutedFaults
from rftfm_ray.verdicts import Diagnosis
from tests.unit.incidents.managed import fault

ESCALATED = fault("OD-1", signals=("update_ratio", "kl_ref"))
SILENCE = 3


def muted() -> MutedFaults:
    """The escalated fault, muted."""
    faults = MutedFaults(SILENCE)
    faults.add("OD-1", ESCALATED)
    return faults


@pytest.mark.parametrize(
    ("diagnosis", "covered"),
    [
        (ESCALATED, True),
        (fault("OD-1", signals=("grad_norm",)), True),
        (fault("PG-3S", signals=("update_ratio", "kl_ref", "eos_rate")), True),
        (fault("UNKNOWN", signals=("eos_rate",)), True),
        (fault("TE-1", signals=("tool_error_rate",)), False),
    ],
    ids=["itself", "another signal", "spreads to further signals", "without a name", "another fault"],
)
def test_muted_fault_covers_what_follows_from_it(diagnosis: Diagnosis, covered: bool) -> None:
    assert muted().covers(diagnosis) is covered


def test_muted_fault_is_over_after_its_silence() -> None:
    faults = muted()
    for _ in range(SILENCE - 1):
        faults.observe(None)
    assert faults.covers(ESCALATED)
    faults.observe(None)
    assert not faults
    assert not faults.covers(ESCALATED)


def test_alarm_that_goes_on_keeps_its_mark() -> None:
    faults = muted()
    for _ in range(2 * SILENCE):
        faults.observe(fault("PG-3S", signals=("kl_ref", "eos_rate")))
    assert faults.covers(fault("PG-3S", signals=("kl_ref",)))
    assert not faults.covers(fault("PG-3S", signals=("eos_rate",))), "what only followed was never muted"
