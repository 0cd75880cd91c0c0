"""The commit gate: what it refuses and why, and which gradient norms it remembers."""

from __future__ import annotations

import math

import pytest

from rftfm_ray.training.gate import CommitGate, recompute_advantages
from rftfm_ray.types import Veto, VetoRecord

TOLERANCE = 1e-5


def _gate(*norms: float, factor: float = 10.0, window: int = 4, warmup: int = 2) -> CommitGate:
    gate = CommitGate(factor, window, warmup, TOLERANCE)
    gate.restore(norms)
    return gate


def _check(advantages: list[float], rewards: list[float], valid: list[bool] | None = None) -> VetoRecord | None:
    valid = valid if valid is not None else [True] * len(rewards)
    return _gate().check_advantages(advantages, rewards, [0] * len(rewards), valid, normalize_std=False)


def _kind(record: VetoRecord | None) -> Veto | None:
    return record.veto if record is not None else None


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_loss_that_is_not_finite_is_refused(loss: float) -> None:
    record = _gate().check_update(3, loss, 1.0)
    assert record == VetoRecord(3, Veto.NON_FINITE_LOSS, f"loss is {loss}")


@pytest.mark.parametrize("norm", [math.nan, math.inf])
def test_gradient_that_is_not_finite_is_refused(norm: float) -> None:
    record = _gate().check_update(1, 0.5, norm)
    assert record == VetoRecord(1, Veto.NON_FINITE_GRADIENT, f"gradient norm is {norm}")


def test_spike_above_the_median_is_refused_with_its_evidence() -> None:
    record = _gate(1.0, 2.0, 9.0).check_update(2, 0.1, 50.0)
    assert record == VetoRecord(2, Veto.GRADIENT_SPIKE, "gradient norm 50 is 25.0 times its median 2")


def test_norm_of_exactly_factor_times_the_median_passes() -> None:
    gate = _gate(1.0, 2.0, 3.0)
    assert gate.check_update(0, 0.1, 20.0) is None
    assert _kind(gate.check_update(0, 0.1, math.nextafter(20.0, 21.0))) is Veto.GRADIENT_SPIKE


def test_norm_is_not_judged_before_the_warm_up() -> None:
    gate = _gate(warmup=2)
    gate.accept(1.0)
    assert gate.check_update(0, 0.1, 1e9) is None
    gate.accept(1.0)
    assert _kind(gate.check_update(0, 0.1, 1e9)) is Veto.GRADIENT_SPIKE


def test_loss_and_gradient_are_judged_during_the_warm_up() -> None:
    gate = _gate(warmup=8)
    assert _kind(gate.check_update(0, math.nan, 1.0)) is Veto.NON_FINITE_LOSS
    assert _kind(gate.check_update(0, 1.0, math.nan)) is Veto.NON_FINITE_GRADIENT


def test_zero_median_refuses_nothing() -> None:
    assert _gate(0.0, 0.0, 0.0).check_update(0, 0.1, 1.0) is None


def test_only_accepted_norms_are_remembered() -> None:
    gate = _gate(1.0, 1.0)
    for norm in (1e9, math.nan, 5.0):
        gate.check_update(0, 0.1, norm)
    gate.accept(6.0)
    assert gate.norms == (1.0, 1.0, 6.0)


def test_window_forgets_the_oldest_norm() -> None:
    gate = _gate(window=3)
    for norm in (1.0, 2.0, 3.0, 4.0):
        gate.accept(norm)
    assert gate.norms == (2.0, 3.0, 4.0)


def test_restored_gate_judges_as_the_saved_one() -> None:
    saved, other = _gate(1.0, 2.0, 3.0), _gate(100.0, 100.0, 100.0)
    other.restore(saved.norms)
    assert other.norms == saved.norms
    assert other.check_update(0, 0.1, 50.0) == saved.check_update(0, 0.1, 50.0) is not None


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_advantage_that_is_not_finite_is_refused(wrong: float) -> None:
    record = _check([0.5, wrong], [1.0, 0.0])
    assert _kind(record) is Veto.NON_FINITE_ADVANTAGE
    assert record is not None
    assert "trajectory 1" in record.reason


def test_valid_reward_that_is_not_a_number_is_refused() -> None:
    assert _kind(_check([0.0, 0.0], [1.0, math.nan])) is Veto.NON_FINITE_ADVANTAGE


def test_masked_reward_that_is_not_a_number_passes() -> None:
    assert _check([0.5, 0.0, -0.5], [1.0, math.nan, 0.0], [True, False, True]) is None


def test_advantage_of_a_masked_trajectory_must_be_zero() -> None:
    assert _kind(_check([0.5, 0.1, -0.5], [1.0, math.nan, 0.0], [True, False, True])) is Veto.ADVANTAGE_MISMATCH


@pytest.mark.parametrize("sign", [1, -1])
def test_tolerance_is_absolute_for_small_advantages(sign: int) -> None:
    assert _check([0.5 + sign * 0.9 * TOLERANCE, -0.5], [1.0, 0.0]) is None
    assert _kind(_check([0.5 + sign * 1.1 * TOLERANCE, -0.5], [1.0, 0.0])) is Veto.ADVANTAGE_MISMATCH


@pytest.mark.parametrize("sign", [1, -1])
def test_tolerance_is_relative_above_one(sign: int) -> None:
    assert _check([500.0 * (1 + sign * 0.9 * TOLERANCE), -500.0], [1000.0, 0.0]) is None
    assert _kind(_check([500.0 * (1 + sign * 1.1 * TOLERANCE), -500.0], [1000.0, 0.0])) is Veto.ADVANTAGE_MISMATCH


def test_mismatch_names_the_worst_trajectory() -> None:
    record = _check([0.6, -0.9], [1.0, 0.0])
    assert record == VetoRecord(0, Veto.ADVANTAGE_MISMATCH, "advantage of trajectory 1 is -0.9, its recompute -0.5")


def test_recompute_has_its_closed_form() -> None:
    rewards, groups, valid = [1.0, 3.0, 9.0, 7.0], [4, 4, 4, 0], [True, True, False, True]
    assert recompute_advantages(rewards, groups, valid, normalize_std=False) == [-1.0, 1.0, 0.0, 0.0]
    scale = math.sqrt(2) + 1e-4
    found = recompute_advantages(rewards, groups, valid, normalize_std=True)
    assert found == pytest.approx([-1 / scale, 1 / scale, 0.0, 0.0])
