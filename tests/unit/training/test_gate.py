"""The commit gate: what it refuses and why, which gradient norms it remembers, and that it spares healthy steps."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from rftfm_ray.batch import TrajectoryBatch
from rftfm_ray.training.credit import Credit, Rule, assign, members
from rftfm_ray.training.gate import CommitGate, RawStep, Recipe, recompute_advantages
from rftfm_ray.training.loss_credit import CreditPath
from rftfm_ray.training.seams import LearnerSeams
from rftfm_ray.types import RejectedUpdate, Rejection

TOLERANCE = 1e-5


def _gate(*norms: float, factor: float = 10.0, window: int = 4, warmup: int = 2) -> CommitGate:
    gate = CommitGate(factor, window, warmup, TOLERANCE)
    gate.restore(norms)
    return gate


def _check(advantages: list[float], rewards: list[float], valid: list[bool] | None = None) -> RejectedUpdate | None:
    size = len(rewards)
    kept = valid if valid is not None else [True] * size
    raw = RawStep(rewards, [0] * size, kept, [1] * size)
    return _gate().check_advantages([[advantage] for advantage in advantages], kept, raw, Recipe("grpo", False))[1]


def _kind(record: RejectedUpdate | None) -> Rejection | None:
    return record.veto if record is not None else None


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_loss_that_is_not_finite_is_refused(loss: float) -> None:
    record = _gate().check_update(3, loss, 1.0)
    assert record == RejectedUpdate(3, Rejection.NON_FINITE_LOSS, f"loss is {loss}")


@pytest.mark.parametrize("norm", [math.nan, math.inf])
def test_gradient_that_is_not_finite_is_refused(norm: float) -> None:
    record = _gate().check_update(1, 0.5, norm)
    assert record == RejectedUpdate(1, Rejection.NON_FINITE_GRADIENT, f"gradient norm is {norm}")


def test_spike_above_the_median_is_refused_with_its_evidence() -> None:
    record = _gate(1.0, 2.0, 9.0).check_update(2, 0.1, 50.0)
    assert record == RejectedUpdate(2, Rejection.GRADIENT_SPIKE, "gradient norm 50 is 25.0 times its median 2")


def test_norm_of_exactly_factor_times_the_median_passes() -> None:
    gate = _gate(1.0, 2.0, 3.0)
    assert gate.check_update(0, 0.1, 20.0) is None
    assert _kind(gate.check_update(0, 0.1, math.nextafter(20.0, 21.0))) is Rejection.GRADIENT_SPIKE


def test_norm_is_not_judged_before_the_warm_up() -> None:
    gate = _gate(warmup=2)
    gate.accept(1.0)
    assert gate.check_update(0, 0.1, 1e9) is None
    gate.accept(1.0)
    assert _kind(gate.check_update(0, 0.1, 1e9)) is Rejection.GRADIENT_SPIKE


def test_loss_and_gradient_are_judged_during_the_warm_up() -> None:
    gate = _gate(warmup=8)
    assert _kind(gate.check_update(0, math.nan, 1.0)) is Rejection.NON_FINITE_LOSS
    assert _kind(gate.check_update(0, 1.0, math.nan)) is Rejection.NON_FINITE_GRADIENT


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
    assert _kind(record) is Rejection.NON_FINITE_ADVANTAGE
    assert record is not None
    assert "trajectory 1" in record.reason


def test_valid_reward_that_is_not_a_number_is_refused() -> None:
    assert _kind(_check([0.0, 0.0], [1.0, math.nan])) is Rejection.NON_FINITE_ADVANTAGE


def test_masked_reward_that_is_not_a_number_passes() -> None:
    assert _check([0.5, 0.0, -0.5], [1.0, math.nan, 0.0], [True, False, True]) is None


def test_advantage_of_a_masked_trajectory_must_be_zero() -> None:
    assert _kind(_check([0.5, 0.1, -0.5], [1.0, math.nan, 0.0], [True, False, True])) is Rejection.ADVANTAGE_MISMATCH


@pytest.mark.parametrize("sign", [1, -1])
def test_tolerance_is_absolute_for_small_advantages(sign: int) -> None:
    assert _check([0.5 + sign * 0.9 * TOLERANCE, -0.5], [1.0, 0.0]) is None
    assert _kind(_check([0.5 + sign * 1.1 * TOLERANCE, -0.5], [1.0, 0.0])) is Rejection.ADVANTAGE_MISMATCH


@pytest.mark.parametrize("sign", [1, -1])
def test_tolerance_is_relative_above_one(sign: int) -> None:
    assert _check([500.0 * (1 + sign * 0.9 * TOLERANCE), -500.0], [1000.0, 0.0]) is None
    assert _kind(_check([500.0 * (1 + sign * 1.1 * TOLERANCE), -500.0], [1000.0, 0.0])) is Rejection.ADVANTAGE_MISMATCH


def test_mismatch_names_the_worst_trajectory() -> None:
    record = _check([0.6, -0.9], [1.0, 0.0])
    assert record == RejectedUpdate(
        0, Rejection.ADVANTAGE_MISMATCH, "advantage of trajectory 1 is -0.9, its recompute -0.5"
    )


def test_largest_difference_is_told_when_all_is_well() -> None:
    raw = RawStep([1000.0, 0.0], [0, 0], [True, True], [1, 1])
    error, record = _gate().check_advantages([[500.0 + 1e-3], [-500.0]], [True, True], raw, Recipe("grpo", False))
    assert record is None
    assert error == pytest.approx(1e-3 / 500)


def test_trajectory_that_weighs_and_must_not_is_refused_and_one_that_is_left_out() -> None:
    raw, recipe = RawStep([1.0, 1.0, 0.0], [0, 0, 1], [True] * 3, [1] * 3), Recipe("grpo", False, group_filter=True)
    equal = RawStep([1.0, 0.0, 0.0], [0, 0, 1], [True] * 3, [1] * 3)
    _, record = _gate().check_advantages([[0.0]] * 3, [True, True, False], raw, recipe)
    assert record == RejectedUpdate(
        0, Rejection.ADVANTAGE_MISMATCH, "trajectory 0 takes part, its recompute says otherwise"
    )
    _, record = _gate().check_advantages([[0.5], [0.0], [0.0]], [True, False, False], equal, recipe)
    assert record == RejectedUpdate(
        0, Rejection.ADVANTAGE_MISMATCH, "trajectory 1 is left out, its recompute says otherwise"
    )


def test_number_of_tokens_that_is_wrong_is_refused() -> None:
    raw = RawStep([1.0, 0.0], [0, 0], [True, True], [2, 2], [[0.0, 0.0], [0.0, 0.0]])
    for rows in ([[0.5], [-0.5, -0.5]], [[0.5, 0.5, 0.5], [-0.5, -0.5]], [[], [-0.5, -0.5]]):
        _, record = _gate().check_advantages(rows, [True, True], raw, Recipe("ppo", False))
        assert _kind(record) is Rejection.ADVANTAGE_MISMATCH
        assert record is not None
        assert f"trajectory 0 has {len(rows[0])}" in record.reason


RAW = RawStep([1.0, 3.0, 9.0, 7.0, 2.0], [4, 4, 4, 0, 4], [True, True, False, True, True], [2, 1, 1, 3, 0])


def test_recompute_of_group_advantages_has_its_closed_form() -> None:
    # The last trajectory is empty: it counts for its group and has no token that could learn.
    assert recompute_advantages(RAW, Recipe("grpo", False)) == [[-1.0], [1.0], [], [0.0], []]
    scale = 1 + 1e-4
    assert recompute_advantages(RAW, Recipe("grpo", True))[1] == pytest.approx([1 / scale])
    assert recompute_advantages(RAW, Recipe("rloo", False)) == [[-1.5], [1.5], [], [0.0], []]
    assert recompute_advantages(RAW, Recipe("rloo", True))[1] == pytest.approx([1.5 / scale])


def test_recompute_with_clip_and_filter_has_its_closed_form() -> None:
    assert recompute_advantages(RAW, Recipe("rloo", False, clip=1.25)) == [[-1.25], [1.25], [], [0.0], []]
    assert recompute_advantages(RAW, Recipe("grpo", False, group_filter=True)) == [[-1.0], [1.0], [], [], []]
    equal = RawStep([1.0, 1.0, 5.0], [0, 0, 0], [True, True, False], [1, 1, 1])
    assert recompute_advantages(equal, Recipe("grpo", False, group_filter=True)) == [[], [], []]


def test_recompute_over_the_step_counts_tokens() -> None:
    # Rewards 1 (twice), 3 and 7 (three times), whose mean is 26 / 6.
    found = recompute_advantages(RAW, Recipe("reinforce_pp", False))
    assert found == [[pytest.approx(1 - 26 / 6)], [pytest.approx(3 - 26 / 6)], [], [pytest.approx(7 - 26 / 6)], []]
    spread = math.sqrt((2 * (1 - 26 / 6) ** 2 + (3 - 26 / 6) ** 2 + 3 * (7 - 26 / 6) ** 2) / 5 + 1e-8)
    scaled = recompute_advantages(RAW, Recipe("reinforce_pp", True))
    assert [row[0] for row in scaled if row] == pytest.approx([row[0] / spread for row in found if row])


def test_recompute_of_estimates_has_its_closed_form() -> None:
    raw = RawStep([2.0, 4.0, 8.0], [0, 0, 1], [True, True, False], [3, 1, 1], [[0.5, 1.0, -1.0], [0.25], [9.0]])
    found = recompute_advantages(raw, Recipe("ppo", False, 0.5, 0.5))
    estimates = [(3 / 4 - 1.5) / 4, 3 / 4 - 1.5, 3, 3.75]
    mean = sum(estimates) / 4
    assert found == [[pytest.approx(e - mean) for e in estimates[:3]], [pytest.approx(estimates[3] - mean)], []]


def test_recompute_of_nothing_is_empty() -> None:
    raw = RawStep([1.0, 0.0], [0, 0], [False, True], [3, 0], [[0.0] * 3, []])
    for name in ("grpo", "rloo", "ppo", "reinforce_pp"):
        assert recompute_advantages(raw, Recipe(name, True)) == [[], []]


MakeBatch = Callable[..., TrajectoryBatch]
Values = NDArray[np.float32]
ESTIMATORS = ("grpo", "rloo", "ppo", "reinforce_pp")
every_estimator = pytest.mark.parametrize("estimator", ESTIMATORS)


def _judge(batch: TrajectoryBatch, credit: Credit, rule: Rule, values: Values) -> tuple[float, RejectedUpdate | None]:
    """The learner's own look at its advantages."""
    return CreditPath(LearnerSeams(), _gate(), watched=True).check(
        batch, credit.included, credit, rule, values if rule.critic else None
    )


def _rewards(draw: np.random.Generator, size: int) -> NDArray[np.float32]:
    kinds = (
        draw.integers(0, 2, size), draw.random(size), draw.normal(0, 3000, size), np.full(size, draw.normal()),
        1e6 + draw.integers(-1, 2, size), np.full(size, 1e6 + draw.random()), 1e-4 * draw.random(size),
        -2e6 + 0.125 * draw.integers(0, 2, size),
    )  # fmt: skip
    return np.asarray(kinds[draw.integers(len(kinds))], np.float32)


def _step(draw: np.random.Generator, make_batch: MakeBatch) -> tuple[TrajectoryBatch, Values]:
    """A step with masked and empty trajectories and groups of uneven size, and what a critic says of it."""
    size = int(draw.integers(2, 20))
    lengths = draw.integers(0, 9, size) * (draw.random(size) > 0.1)
    roles, groups, valid = ["p" + "a" * n for n in lengths], draw.integers(0, 5, size), draw.random(size) > 0.15
    batch = make_batch(_rewards(draw, size).tolist(), roles=roles, groups=groups.tolist(), valid=valid.tolist())
    tokens = int(lengths.sum())
    truth = np.repeat(np.nan_to_num(batch.reward), lengths)
    said = (
        np.zeros(tokens),
        draw.normal(0, 1, tokens),
        truth + draw.normal(0, 0.1, tokens),
        1e-6 * draw.random(tokens),
    )
    return batch, np.asarray(said[draw.integers(len(said))], np.float32)


def _rule(draw: np.random.Generator, estimator: str) -> Rule:
    gamma, lam = draw.choice([1.0, 0.99, draw.uniform(0.5, 1)]), draw.choice([1.0, 0.95, 0.0, draw.random()])
    clip = None if draw.random() < 0.5 else float(draw.uniform(0.1, 3))
    return Rule(estimator, bool(draw.random() < 0.5), float(gamma), float(lam), clip, bool(draw.random() < 0.3))


@every_estimator
def test_a_thousand_healthy_steps_are_spared(make_batch: MakeBatch, estimator: str) -> None:
    draw, worst, judged = np.random.default_rng(11), 0.0, 0
    for _ in range(1000):
        (batch, values), rule = _step(draw, make_batch), _rule(draw, estimator)
        error, record = _judge(batch, assign(batch, rule, values), rule, values)
        if record is None:
            worst, judged = max(worst, error), judged + 1
        else:
            assert record.veto is Rejection.EMPTY_BATCH
            assert not members(batch, rule).any()
    assert judged > 850
    # Far from the tolerance, so that no larger run comes near it.
    assert worst < TOLERANCE / 5


@pytest.fixture
def planted(make_batch: MakeBatch) -> tuple[TrajectoryBatch, Values]:
    """A step in which every break shows: a masked member, an equal group, uneven lengths."""
    rewards = [1.0, 0.0, 0.5, 9.0, 2.0, 2.0, 3.0, 0.25]
    lengths, valid = [3, 1, 4, 2, 2, 3, 5, 2], [True, True, True, False, True, True, True, True]
    roles = ["p" + "a" * n for n in lengths]
    batch = make_batch(rewards, roles=roles, groups=[0, 0, 0, 0, 1, 1, 2, 2], valid=valid)
    return batch, np.random.default_rng(2).normal(0.5, 0.3, sum(lengths)).astype(np.float32)


def _scaled(credit: Credit, at: int, factor: float) -> Credit:
    advantages = credit.advantages.copy()
    advantages[at] *= factor
    return dataclasses.replace(credit, advantages=advantages)


def _shifted(credit: Credit) -> Credit:
    return dataclasses.replace(credit, advantages=np.roll(credit.advantages, 1))


def _counted(batch: TrajectoryBatch) -> TrajectoryBatch:
    """The same step with its masked member taken for a valid one."""
    reward = np.nan_to_num(batch.reward, nan=9.0)
    return dataclasses.replace(batch, valid=np.ones(len(batch), np.bool_), reward=reward)


BREAKS: dict[str, Callable[[TrajectoryBatch, Rule, Values], Credit]] = {
    "one-advantage": lambda b, r, v: _scaled(assign(b, r, v), int(np.abs(assign(b, r, v).advantages).argmax()), 1.0001),
    "sign": lambda b, r, v: dataclasses.replace(assign(b, r, v), advantages=-assign(b, r, v).advantages),
    "deviation": lambda b, r, v: assign(b, dataclasses.replace(r, normalize_std=not r.normalize_std), v),
    "masked-member": lambda b, r, v: assign(_counted(b), r, v),
    "token-shift": lambda b, r, v: _shifted(assign(b, r, v)),
    "not-a-number": lambda b, r, v: _scaled(assign(b, r, v), 0, math.nan),
    "clip": lambda b, r, v: assign(b, dataclasses.replace(r, clip=None), v),
    "filter": lambda b, r, v: assign(b, dataclasses.replace(r, group_filter=False), v),
    "gamma": lambda b, r, v: assign(b, dataclasses.replace(r, gamma=0.98), v),
    "lambda": lambda b, r, v: assign(b, dataclasses.replace(r, gae_lambda=0.94), v),
    "values": lambda b, r, v: assign(b, r, np.roll(v, 1)),
}
# What some estimators know nothing of.
SPARED = {
    "grpo": ("gamma", "lambda", "values"),
    "rloo": ("gamma", "lambda", "values"),
    "reinforce_pp": ("gamma", "lambda", "values"),
    "ppo": (),
}


@every_estimator
@pytest.mark.parametrize("normalize_std", [False, True])
@pytest.mark.parametrize("name", BREAKS)
def test_planted_break_is_refused(
    planted: tuple[TrajectoryBatch, Values], estimator: str, normalize_std: bool, name: str
) -> None:
    batch, values = planted
    rule = Rule(estimator, normalize_std, 0.99, 0.95, 0.6 if name == "clip" else None, name == "filter")
    error, record = _judge(batch, assign(batch, rule, values), rule, values)
    assert record is None
    assert error < TOLERANCE / 10
    error, record = _judge(batch, BREAKS[name](batch, rule, values), rule, values)
    if name in SPARED[estimator]:
        assert record is None
    else:
        kind = Rejection.NON_FINITE_ADVANTAGE if name == "not-a-number" else Rejection.ADVANTAGE_MISMATCH
        assert _kind(record) is kind
        assert not error <= TOLERANCE
