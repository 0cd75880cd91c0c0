"""Recorded runs before the guard once more: healthy ones, a plain fault, and what is declared."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rftfm_ray.faultbench.detectors.replay import replay
from rftfm_ray.faultbench.runs.dataset import NAMES, Recorded
from rftfm_ray.faultbench.runs.declared import declarations, watched
from rftfm_ray.faultbench.runs.plan import Kind
from tests.unit.doubles import recorded_runs


@pytest.fixture(scope="module")
def recorded() -> list[Recorded]:
    """Ten healthy runs that were made on the real stack."""
    return list(recorded_runs(1))


def test_guard_does_nothing_about_healthy_runs(recorded: list[Recorded]) -> None:
    assert [(run.entry.name, done) for run in recorded if (done := replay(run, None)).acted or done.incidents] == []


def test_guard_acts_on_rewards_that_the_verifier_does_not_confirm(recorded: list[Recorded]) -> None:
    run = recorded[0]
    values = run.values.copy()
    values[19:, NAMES.index("trained_mismatch_rate")] = 0.5
    values[19:, NAMES.index("regrade_error_mean")] = 1.0
    done = replay(replace(run, values=values), None)
    assert (done.acted, done.remedy) == (20, "regrade")
    assert done.incidents == ((20, "RF-1"),)


@pytest.mark.parametrize(
    ("inject", "step", "signal"),
    [(("lr_step@12",), 12, "update_ratio"), (("batch_size@9",), 9, "trajectory_count"), (("resume@7",), 7, None)],
)
def test_guard_is_told_of_what_is_declared(
    recorded: list[Recorded], inject: tuple[str, ...], step: int, signal: str | None
) -> None:
    entry = replace(recorded[0].entry, kind=Kind.TWIN, inject=inject)
    (declaration,) = declarations(entry, watched(entry))
    assert declaration.id.step == declaration.change.step == step
    assert signal is None or signal in declaration.change.signals
    assert replay(replace(recorded[0], entry=entry), None).acted is None


def test_what_nobody_declares_is_not_told(recorded: list[Recorded]) -> None:
    entry = replace(recorded[0].entry, inject=("restart_rollout@5", "RF-1@12:0.5"))
    assert list(declarations(entry, watched(entry))) == []
