"""The limits of preflight beside recorded healthy runs: none is near."""

from __future__ import annotations

from benchmarks.preflight import first_steps, margins
from tests.unit.doubles import HEALTHY


def test_healthy_runs_are_on_the_right_side_of_every_limit() -> None:
    found = margins()
    assert len(found) == 10
    assert all(margin.ok for margin in found)
    assert all("BEYOND" not in str(margin) for margin in found)


def test_first_steps_are_one_of_every_run() -> None:
    rates = first_steps(HEALTHY, "zero_variance_group_rate")
    assert len(rates) == 100
    assert 0.3 < rates.max() < 0.5, "as the reason of MANY_GROUPS says"
