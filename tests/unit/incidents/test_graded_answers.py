"""A costly order is confirmed by the answers that were graded, not by those that were asked."""

from __future__ import annotations

import math

import pytest

from rftfm_ray.incidents.state import EntryKind
from rftfm_ray.types import Levers
from rftfm_ray.verdicts import Remedy
from tests.unit.incidents.managed import FAILING, ManagedRun, fault

BACK = Remedy("back", Levers(lr_scale=0.5), rollback=True)


@pytest.mark.parametrize(
    ("now", "graded", "is_confirmed"),
    [(0.55, 0, True), (0.55, 256, True), (0.55, 16, False), (0.1, 16, True), (math.nan, 0, False)],
)
def test_fall_counts_by_the_answers_that_were_graded(now: float, graded: int, *, is_confirmed: bool) -> None:
    run = ManagedRun(BACK, snapshots=(0, 3))
    run.pass_steps(5, None, probe_accuracy=0.8)
    assert run.begin_fault(fault("OD-1")) is not None
    run.tick(fault("OD-1"), **FAILING)
    pending = run.pending
    begun = run.manager.begin(pending, run.following, now, graded)
    assert (begun == pending) is is_confirmed
    assert run.last(EntryKind.CONFIRMED if is_confirmed else EntryKind.UNCONFIRMED)
