"""Credit at the loss by each source: faults of credit spoil the learner's own, and nothing reaches another one."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from rftfm_ray.batch import TrajectoryBatch
from rftfm_ray.faults.catalogue import parse_fault
from rftfm_ray.faults.learning import faulty_learner
from rftfm_ray.training.credit import Credit, Rule, assign
from rftfm_ray.training.credit_check import credit_in_loss
from rftfm_ray.training.credit_source import credit_at_loss
from rftfm_ray.training.gate import CommitGate
from rftfm_ray.training.loss_credit import CreditPath, CreditRules, LossCredit
from rftfm_ray.training.packing import MicroBatch, pack
from rftfm_ray.training.seams import LearnerSeams
from rftfm_ray.types import CreditSource, Rejection, Settings, StepId

MakeBatch = Callable[..., TrajectoryBatch]
Floats = NDArray[np.float32]
STEP = StepId(0, 3, 3)
PPO = Rule("ppo", True, 0.9, 0.8, None, False)
GRPO = Rule("grpo", True, 1.0, 1.0, None, False)
SETTINGS = Settings(1e-3, 0.02, 0.2, 0.2, 0.0, 1.0, 2, None, False, 0.9, 0.8, 1e-3, False)
RECOMPUTED, GROUP = CreditSource.RECOMPUTED, CreditSource.GROUP


@pytest.fixture
def batch(make_batch: MakeBatch) -> TrajectoryBatch:
    """Four groups of four answers of one to five tokens, one of them masked and one without tokens."""
    draw = np.random.default_rng(5)
    lengths = [int(n) for n in draw.integers(1, 6, 16)]
    lengths[6] = 0
    rewards = [*draw.integers(0, 2, 12).astype(float), 1.0, 0.0, 0.25, 0.5]
    valid = [index != 2 for index in range(16)]
    return make_batch(rewards, roles=["p" + "a" * n for n in lengths], groups=[g for g in range(4) for _ in range(4)],
                      valid=valid)  # fmt: skip


@pytest.fixture
def own(batch: TrajectoryBatch) -> Floats:
    """The critic's output."""
    return np.random.default_rng(6).normal(0, 1, int(batch.action.sum())).astype(np.float32)


def taken(
    source: CreditSource, batch: TrajectoryBatch, declared: Rule, own: Floats | None, fault: str = ""
) -> tuple[LossCredit, Credit]:
    """What the loss gets under a fault, and the same as it stands in the tensors of two micro batches."""
    seams = faulty_learner([parse_fault(fault)], 1) if fault else LearnerSeams()
    now = seams.settings(STEP, SETTINGS)
    rules = CreditRules(
        source, dataclasses.replace(declared, gamma=now.gamma) if own is not None else declared, declared
    )
    included = np.flatnonzero(rules.members(batch))
    weights = np.ones(len(batch), np.float32)
    micros: list[list[MicroBatch]] = [
        [pack(batch, rows, weights, torch.device("cpu"))] for rows in np.array_split(included, 2)
    ]
    made = CreditPath(seams, CommitGate(10.0, 16, 4, 1e-5), watched=True).credit(STEP, batch, rules, micros, own)
    return made, credit_in_loss(micros, made.targets, made.credit)


FAULTS = [
    ("CA-2@1:3,mechanism=late_noise", "advantages"), ("CA-2@1:3,mechanism=noise", "advantages"),
    ("CA-2@1:3,mechanism=balanced_noise", "advantages"), ("CA-3@1:1,mechanism=misplaced", "advantages"),
    ("CA-3@1:1,mechanism=shifted", "advantages"), ("CA-3@1:1,mechanism=permuted", "advantages"),
]  # fmt: skip
OF_CRITIC = [
    *FAULTS, ("CA-3@1:0.5,mechanism=discount", "advantages"), ("CA-3@1:0.5,mechanism=discount", "returns"),
    ("CA-1@1:3,mechanism=wrong_targets", "returns"), ("CA-1@1:1,mechanism=crossed_values", "advantages"),
    ("CA-1@1:1,mechanism=crossed_values", "returns"), ("CA-1@1:1,mechanism=biased_values", "returns"),
]  # fmt: skip
CASES = [("grpo", *case) for case in FAULTS] + [("ppo", *case) for case in OF_CRITIC]


@pytest.mark.parametrize(("algorithm", "fault", "spoiled"), CASES)
def test_fault_spoils_the_learners_own_credit_and_not_the_recomputed_one(
    batch: TrajectoryBatch, own: Floats, algorithm: str, fault: str, spoiled: str
) -> None:
    declared, values = (PPO, own) if algorithm == "ppo" else (GRPO, None)
    healthy, _ = taken(CreditSource.LEARNER, batch, declared, values)
    broken, in_loss = taken(CreditSource.LEARNER, batch, declared, values, fault)
    assert np.abs(getattr(in_loss, spoiled) - getattr(healthy.credit, spoiled)).max() > 1e-2
    mended, in_loss = taken(RECOMPUTED, batch, declared, values, fault)
    members = np.repeat(healthy.credit.included, batch.action_counts())
    for name in ("advantages", "returns") if values is not None else ("advantages",):
        wanted = getattr(healthy.credit, name)[members]
        np.testing.assert_allclose(getattr(in_loss, name)[members], wanted, rtol=1e-6, atol=1e-6)
    assert mended.rejection is None
    if values is not None:
        # The clip of the critic's move starts from its own values as well.
        assert mended.values is own

    # What is wrong goes on to show, so that one can tell when it is over.
    def shown(of: LossCredit) -> tuple[float, ...]:
        errors = dataclasses.astuple(of.errors)
        return tuple(0.0 if math.isnan(each) else each for each in errors)

    assert shown(mended) == pytest.approx(shown(broken), rel=1e-5, abs=1e-6)
    assert max(shown(mended)) > 1e-2


def test_update_that_the_gate_refuses_is_made_with_recomputed_credit(batch: TrajectoryBatch) -> None:
    fault = "CA-2@1:3,mechanism=noise"
    refused, _ = taken(CreditSource.LEARNER, batch, GRPO, None, fault)
    assert refused.rejection is not None
    assert refused.rejection.veto is Rejection.ADVANTAGE_MISMATCH
    made, _ = taken(RECOMPUTED, batch, GRPO, None, fault)
    assert made.rejection is None
    assert made.errors.advantage_error > 1e-2


@pytest.mark.parametrize("clip", [None, 0.5])
@pytest.mark.parametrize("filtered", [False, True])
@pytest.mark.parametrize("estimator", ["grpo", "rloo", "reinforce_pp", "ppo"])
def test_recomputed_credit_is_the_estimators_where_nothing_is_wrong(
    batch: TrajectoryBatch, own: Floats, estimator: str, filtered: bool, clip: float | None
) -> None:
    rule = Rule(estimator, estimator != "rloo", 0.9, 0.8, clip, filtered)
    values = own if rule.critic else None
    expected, found = assign(batch, rule, values), credit_at_loss(RECOMPUTED, batch, rule, values)
    np.testing.assert_array_equal(found.included, expected.included)
    np.testing.assert_allclose(found.advantages, expected.advantages, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(found.returns, expected.returns, rtol=1e-6, atol=1e-6)
    assert found.advantages.dtype == found.returns.dtype == np.float32


@pytest.mark.parametrize("estimator", ["grpo", "rloo", "reinforce_pp", "ppo"])
def test_group_relative_credit_needs_no_critic_and_its_targets_stay(
    batch: TrajectoryBatch, own: Floats, estimator: str
) -> None:
    rule = dataclasses.replace(PPO, estimator=estimator)
    values = own if rule.critic else None
    found, expected = credit_at_loss(GROUP, batch, rule, values), assign(batch, GRPO)
    np.testing.assert_allclose(found.advantages, expected.advantages, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(found.included, expected.included)
    wanted = assign(batch, rule, values).returns if rule.critic else np.zeros(0, np.float32)
    np.testing.assert_allclose(found.returns, wanted, rtol=1e-6, atol=1e-6)
    other = None if values is None else values + 7
    np.testing.assert_array_equal(credit_at_loss(GROUP, batch, rule, other).advantages, found.advantages)


def test_recomputed_credit_that_is_not_finite_is_refused(batch: TrajectoryBatch, own: Floats) -> None:
    own[0] = math.nan
    made, _ = taken(RECOMPUTED, batch, PPO, own)
    assert made.rejection is not None
    assert made.rejection.veto is Rejection.NON_FINITE_ADVANTAGE


def test_step_without_a_valid_trajectory_is_refused_by_every_source(make_batch: MakeBatch) -> None:
    masked = make_batch([1.0, 0.0], valid=[False, False])
    for source in CreditSource:
        rules = CreditRules(source, GRPO, GRPO)
        path = CreditPath(LearnerSeams(), CommitGate(10.0, 16, 4, 1e-5), watched=True)
        rejection = path.credit(STEP, masked, rules, [[]], None).rejection
        assert rejection is not None
        assert rejection.veto is Rejection.EMPTY_BATCH
