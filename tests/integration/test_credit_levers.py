"""Levers of credit on a learner on DeepSpeed: under a fault of credit it learns what a healthy one learns."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch

from rftfm_ray.batch import TrajectoryBatch
from rftfm_ray.errors import LearnerError
from rftfm_ray.faults.catalogue import parse_fault
from rftfm_ray.faults.learning import faulty_learner
from rftfm_ray.training.learner import Learner
from rftfm_ray.training.update_report import UpdateReport
from rftfm_ray.types import Levers
from tests.integration.plain import AT, BATCH, TINY, Plain, Weights, configure

STEPS = 3
START = Plain(configure()).weights()
RECOMPUTED, GROUP = Levers(credit_source=1), Levers(credit_source=2)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def learnt(
    *faults: str, levers: Levers | None = None, batch: TrajectoryBatch = BATCH, **changes: dict[str, Any]
) -> tuple[Weights, list[UpdateReport]]:
    """The policy's weights after a few steps under faults and levers, and the reports."""
    seams = faulty_learner([parse_fault(text) for text in faults], 3)
    learner = Learner(configure(**changes), str(TINY), seams)
    learner.levers = levers or Levers()
    reports = [learner.update(batch, AT[step], model_version=0) for step in range(1, STEPS + 1)]
    return learner.engine.export(), reports


def apart(one: Weights, other: Weights) -> float:
    """The distance of two courses, over how far the second has gone."""
    gap = math.fsum(float(((one[name] - other[name]) ** 2).sum()) for name in other)
    gone = math.fsum(float(((other[name] - START[name]) ** 2).sum()) for name in other)
    return math.sqrt(gap / gone)


FAULTS = [
    ("grpo", "CA-2@1:3,mechanism=late_noise"), ("grpo", "CA-2@1:3,mechanism=noise"),
    ("grpo", "CA-3@1:1,mechanism=misplaced"), ("ppo", "CA-1@1:30,mechanism=wrong_targets"),
    ("ppo", "CA-1@1:1,mechanism=crossed_values"), ("ppo", "CA-3@1:0.5,mechanism=discount"),
]  # fmt: skip


@pytest.mark.parametrize(("algorithm", "fault"), FAULTS)
def test_recomputed_credit_gives_the_course_of_a_healthy_learner(algorithm: str, fault: str) -> None:
    kind: dict[str, Any] = {"algorithm": {"name": algorithm}}
    healthy, usual = learnt(**kind)
    broken, shown = learnt(fault, **kind)
    assert apart(broken, healthy) > 0.05
    mended, reports = learnt(fault, levers=RECOMPUTED, **kind)
    assert apart(mended, healthy) < 0.01
    for mine, other in zip(reports, usual, strict=True):
        assert mine.vetoes == ()
        assert mine.metrics.loss == pytest.approx(other.metrics.loss, abs=1e-5)
        assert mine.credit.advantage_std == pytest.approx(other.credit.advantage_std, rel=1e-5)

    def errors(report: UpdateReport) -> list[float]:
        credit = report.credit
        found = [credit.advantage_error, credit.credit_error, credit.return_error, credit.value_error]
        return [error for error in found if not math.isnan(error)]

    assert max(errors(reports[0])) == pytest.approx(max(errors(shown[0])), rel=1e-4), "the source shows on"
    # A critic that has learnt nothing says 0 of all, so that crossed values show in the second step.
    assert max(errors(usual[-1])) < 1e-5 < max(errors(reports[-1]))


@pytest.mark.parametrize("algorithm", ["grpo", "ppo"])
def test_recomputed_credit_changes_nothing_in_a_healthy_learner(algorithm: str) -> None:
    kind: dict[str, Any] = {"algorithm": {"name": algorithm}}
    assert apart(learnt(levers=RECOMPUTED, **kind)[0], learnt(**kind)[0]) < 1e-3


def test_group_relative_credit_learns_as_without_a_critic_whose_loss_ends_at_its_head() -> None:
    free: dict[str, Any] = {"learner": {"max_grad_norm": 1e9}}
    without, _ = learnt(algorithm={"name": "grpo"}, **free)
    fault = "CA-1@1:30,mechanism=wrong_targets"
    mended, reports = learnt(fault, levers=GROUP, algorithm={"name": "ppo"}, **free)
    assert apart(mended, without) < 0.01
    assert apart(learnt(fault, algorithm={"name": "ppo"}, **free)[0], without) > 0.1
    # The critic learns on, from targets that nothing has reached.
    assert reports[0].credit.value_late == 0 < abs(reports[-1].credit.value_late)
    assert reports[0].metrics.value_loss < 1


def test_importance_cap_spares_what_the_policy_sampled_and_holds_back_what_it_did_not() -> None:
    plain, _ = learnt(algorithm={"minibatches": 1})
    learner = Learner(configure(algorithm={"minibatches": 1}), str(TINY))
    own = np.zeros_like(BATCH.logprobs)
    for row in range(len(BATCH)):
        place = slice(int(BATCH.offsets[row]), int(BATCH.offsets[row + 1]))
        if place.stop - place.start > 1:
            own[place][1:] = learner.score([BATCH.tokens[place].tolist()])[0]
    first = learnt(algorithm={"minibatches": 1}, levers=Levers(is_cap=2.0))[1][0]
    on_policy = dataclasses.replace(BATCH, logprobs=np.where(BATCH.action, own, 0).astype(np.float32))
    learner.levers = Levers(is_cap=2.0)
    capped = learner.update(on_policy, AT[1], model_version=0)
    usual = Learner(configure(algorithm={"minibatches": 1}), str(TINY)).update(BATCH, AT[1], model_version=0)
    assert capped.metrics.policy_loss == pytest.approx(usual.metrics.policy_loss, abs=1e-5)
    assert capped.metrics.loss == pytest.approx(usual.metrics.loss, abs=1e-5)
    assert abs(first.metrics.policy_loss - usual.metrics.policy_loss) > 1e-3
    assert apart(learnt(algorithm={"minibatches": 1}, levers=Levers(is_cap=2.0))[0], plain) > 0.01


@pytest.mark.parametrize("levers", [Levers(temperature_scale=1 / 0.3), Levers(rollout_path=1)])
def test_learner_goes_by_the_declared_temperature_where_the_sampler_is_asked_for_it(levers: Levers) -> None:
    fault = "OD-3@1:0.7,mechanism=colder"
    healthy, broken = learnt()[1][0].metrics, learnt(fault)[1][0].metrics
    assert abs(broken.entropy - healthy.entropy) > 0.05
    mended = learnt(fault, levers=levers)[1][0].metrics
    assert (mended.entropy, mended.rollout_kl) == (healthy.entropy, healthy.rollout_kl)


@pytest.mark.parametrize("stage", [0, 2, pytest.param(3, marks=pytest.mark.slow)])
def test_critic_goes_back_to_a_snapshot_and_the_policy_stays_bit_for_bit(stage: int) -> None:
    learner = Learner(configure(algorithm={"name": "ppo"}, learner={"zero_stage": stage}), str(TINY))
    learner.update(BATCH, AT[1], model_version=0)
    before = learner.engine.state()
    learner.update(BATCH, AT[2], model_version=0)
    after = learner.engine.state()
    learner.engine.load_critic(before)
    now = learner.engine.state()
    back = {name for name in now if torch.equal(now[name], before[name]) and not torch.equal(now[name], after[name])}
    kept = {name for name in now if torch.equal(now[name], after[name]) and not torch.equal(now[name], before[name])}
    heads = {int(name.split(".")[1]) for name in back}
    policy = {int(name.split(".")[1]) for name in kept if name != "rng.torch"}
    assert heads
    assert policy
    assert max(policy) < min(heads)
    assert all(torch.equal(now[name], before[name]) or torch.equal(now[name], after[name]) for name in now)
    # The module serves the head that was put back: the critic says what it said before the second step.
    other = Learner(configure(algorithm={"name": "ppo"}, learner={"zero_stage": stage}), str(TINY))
    other.engine.load_state(after)
    values = [one.update(BATCH, AT[3], model_version=0).credit.value_late for one in (learner, other)]
    assert values[0] != values[1]


def test_learner_without_a_critic_has_none_to_put_back() -> None:
    learner = Learner(configure(), str(TINY))
    with pytest.raises(LearnerError, match=r"only algorithm\.name=ppo has one"):
        learner.engine.load_critic(learner.engine.state())
