"""What a remedy in force does to telemetry opens no incident; a fault that can be remedied, or does harm, does."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rftfm_ray.incidents.confirmation import is_after_effect
from rftfm_ray.incidents.memory import RunMemory
from rftfm_ray.incidents.state import GuardState
from rftfm_ray.types import Levers
from rftfm_ray.verdicts import Diagnosis, Evidence, Remedy, Symptom
from tests.unit.incidents.managed import ManagedRun, fault

SIZE = 256


def named(code: str, probability: float = 0.9, evidence: Evidence = Evidence.TELEMETRY) -> Diagnosis:
    """A diagnosis with one alarm."""
    symptom = Symptom("test", "entropy", evidence, True, -1, 0.03, 0.3, 9.0, 6, 6, "entropy falls")
    return replace(fault(code, probability), symptoms=(symptom,))


def under_remedy(*, moved: bool = True) -> GuardState:
    """A guard with a lever that was moved for TE-1."""
    run = ManagedRun(Remedy("first", Levers(tool_instance=1)))
    run.begin_fault()
    if moved:
        run.carry_out()
    return run.manager.state


def memory(*accuracies: float) -> RunMemory:
    """Reports with held-out accuracies, from step 1 on; updates have been too large since step 6."""
    run, remembered = ManagedRun(None), RunMemory()
    for step, accuracy in enumerate(accuracies, start=1):
        run.tick()
        size = {"lr": 3e-4, "update_ratio": 0.04 if step >= 6 else 0.002}
        remembered.add(run.report(probe_accuracy=accuracy, **size))
    return remembered


STANDS, FALLS = (0.8,) * 8, (0.8,) * 7 + (0.6,)


@pytest.mark.parametrize(
    ("diagnosis", "accuracies", "expected"),
    [
        (named("OD-3"), STANDS, True),
        (named("UNKNOWN", 1.0), STANDS, True),
        (named("OD-1", 0.3), STANDS, True),
        (named("OD-1"), STANDS, False),
        (named("TE-1", 0.3), STANDS, False),
        (named("OD-3", evidence=Evidence.CHANNEL), STANDS, False),
        (named("OD-3", evidence=Evidence.IDENTITY), STANDS, False),
        (named("OD-3"), FALLS, False),
        (replace(named("OD-3"), symptoms=()), STANDS, False),
    ],
    ids=[
        "its cause does not show", "unknown", "hardly named", "its cause shows", "the fault itself", "a channel speaks",
        "an identity is broken", "accuracy falls", "no alarm",
    ],
)  # fmt: skip
def test_only_unnamed_or_unshown_telemetry_beside_a_standing_accuracy_is_an_after_effect(
    diagnosis: Diagnosis, accuracies: tuple[float, ...], expected: bool
) -> None:
    assert is_after_effect(diagnosis, under_remedy(), memory(*accuracies), SIZE) is expected


def test_without_a_remedy_in_force_nothing_is_an_after_effect() -> None:
    assert not is_after_effect(named("OD-3"), under_remedy(moved=False), memory(*STANDS), SIZE)
