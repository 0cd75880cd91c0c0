"""Exact signals of a learner on DeepSpeed: at rest whatever is configured, and moved by what they are about alone."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from rftfm_ray.batch import TrajectoryBatch
from rftfm_ray.config import RunConfig
from rftfm_ray.detection.detectors.exact import GAIN_LIMIT
from rftfm_ray.faults.catalogue import parse_fault
from rftfm_ray.faults.learning import faulty_learner
from rftfm_ray.signals.limits import CREDIT_LIMIT
from rftfm_ray.training.gate import CommitGate
from rftfm_ray.training.learner import Learner
from rftfm_ray.training.seams import LearnerSeams
from rftfm_ray.training.update_report import UpdateReport
from rftfm_ray.types import Levers, RejectedUpdate, Rejection, Termination
from tests.integration.plain import AT, BATCH, TINY, configure

ENDED = np.array([sample[-1:] == "!" for sample in ("46!", "36!", "4", "164!", "174", "174!", "102!", "102!", "92!",
                                                    "21!", "2", "", "32!")])  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def every_step(**changes: dict[str, Any]) -> RunConfig:
    """BASE with keys changed, and an update replayed in every step."""
    channels = {"update_replay_every": 1, **changes.pop("channels", {})}
    return configure(**changes, channels=channels)


def updates(learner: Learner, count: int = 3, batch: TrajectoryBatch = BATCH) -> list[UpdateReport]:
    """Steps 1 to `count`."""
    return [learner.update(batch, AT[step]) for step in range(1, count + 1)]


def is_silent(report: UpdateReport) -> bool:
    """Whether nothing exact is broken, and everything that has to be measured was."""
    credit = report.credit
    errors = [credit.credit_error, credit.return_error, credit.value_error]
    near = all(math.isnan(error) or error <= CREDIT_LIMIT for error in errors)
    return near and math.isnan(credit.credit_known_share) and abs(report.metrics.update_gain - 1) < GAIN_LIMIT / 5


HEALTHY: dict[str, dict[str, dict[str, Any]]] = {
    "base": {},
    "no decay": {"learner": {"weight_decay": 0.0}},
    "harsh clipping": {"learner": {"max_grad_norm": 1e-3}},
    "no clipping": {"learner": {"max_grad_norm": 1e9}},
    "small rate": {"learner": {"lr": 1e-6}},
    "bfloat16": {"model": {"dtype": "bfloat16"}},
    "stage 0": {"learner": {"zero_stage": 0}},
    "stage 1": {"learner": {"zero_stage": 1}},
    "warm-up": {"learner": {"warmup_steps": 2, "lr_schedule": "cosine"}},
    "levers of the estimator": {"algorithm": {"advantage_clip": 0.3, "group_filter": True, "entropy_coef": 0.1}},
    "raw": {"algorithm": {"normalize_std": False, "loss_aggregation": "sequence"}},
    **{f"{count} minibatches": {"algorithm": {"minibatches": count}} for count in (1, 4)},
    **{name: {"algorithm": {"name": name}} for name in ("rloo", "reinforce_pp", "ppo")},
    "ppo in stage 0": {"algorithm": {"name": "ppo"}, "learner": {"zero_stage": 0}},
    "ppo in one pass": {"algorithm": {"name": "ppo", "minibatches": 1}, "learner": {"micro_batch_size": 128}},
}


@pytest.mark.parametrize("variant", HEALTHY)
def test_exact_signals_are_at_rest_in_a_healthy_learner(variant: str) -> None:
    config = every_step(**HEALTHY[variant])
    reports = updates(Learner(config, str(TINY)))
    assert all(report.vetoes == () and is_silent(report) for report in reports)
    credit = reports[0].credit
    assert math.isnan(credit.value_error) == math.isnan(credit.return_error) == (config.algorithm.name != "ppo")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["grpo", "ppo"])
def test_exact_signals_are_at_rest_where_weights_are_divided(name: str) -> None:
    config = every_step(algorithm={"name": name}, learner={"zero_stage": 3})
    assert all(is_silent(report) for report in updates(Learner(config, str(TINY)), 2))


LEVERS = [
    Levers(lr_scale=0.01), Levers(lr_scale=0.5, max_grad_norm=0.01), Levers(entropy_coef=0.1, kl_coef_scale=5.0),
    Levers(advantage_clip=0.5), Levers(gamma=0.5, gae_lambda=0.3), Levers(minibatches=1), Levers(group_filter=1),
    Levers(credit_source=1), Levers(credit_source=2, gamma=0.5), Levers(is_cap=1.5), Levers(rollout_path=1),
]  # fmt: skip


@pytest.mark.parametrize("levers", LEVERS, ids=lambda levers: repr(levers)[:0] or None)
def test_levers_are_declared_and_break_nothing(levers: Levers) -> None:
    learner = Learner(every_step(algorithm={"name": "ppo"}), str(TINY))
    assert is_silent(learner.update(BATCH, AT[1]))
    learner.levers = levers
    assert all(is_silent(learner.update(BATCH, AT[step])) for step in (2, 3))


def test_restored_learner_is_at_rest() -> None:
    learner = Learner(every_step(), str(TINY))
    updates(learner, 1)
    state = learner.engine.state()
    learner.update(BATCH, AT[2])
    learner.engine.load_state(state)
    assert is_silent(learner.update(BATCH, AT[2]))
    other = Learner(every_step(), str(TINY))
    other.engine.load_state(state)
    assert is_silent(other.update(BATCH, AT[2]))


def test_update_is_replayed_at_its_cadence_and_not_without_a_guard() -> None:
    def measured(**changes: dict[str, Any]) -> list[bool]:
        learner = Learner(configure(**changes), str(TINY))
        return [not math.isnan(report.metrics.update_gain) for report in updates(learner, 4)]

    assert measured(channels={"update_replay_every": 2}) == [False, True, False, True]
    assert measured(channels={"update_replay_every": 0}) == [False] * 4
    assert measured(channels={"update_replay_every": 1}, guard={"mode": "off"}) == [False] * 4


def test_replay_and_checks_change_no_update() -> None:
    watched, plain = Learner(every_step(), str(TINY)), Learner(configure(guard={"mode": "off"}), str(TINY))
    updates(watched)
    updates(plain)
    one, other = watched.engine.export(), plain.engine.export()
    assert all(one[name].tobytes() == other[name].tobytes() for name in one)


def test_step_of_refused_updates_has_no_factor_and_the_next_one_has(monkeypatch: pytest.MonkeyPatch) -> None:
    learner = Learner(every_step(), str(TINY))
    updates(learner, 1)
    refused = RejectedUpdate(0, Rejection.GRADIENT_SPIKE, "too large")
    with monkeypatch.context() as patch:
        patch.setattr(CommitGate, "check_update", lambda *arguments: refused)
        report = learner.update(BATCH, AT[2])
    assert len(report.vetoes) == 2
    assert math.isnan(report.metrics.update_gain)
    assert report.credit.credit_error == 0
    assert is_silent(learner.update(BATCH, AT[3]))


def test_frozen_policy_has_no_factor() -> None:
    learner = Learner(every_step(algorithm={"name": "ppo"}), str(TINY))
    learner.levers = Levers(freeze_policy=1)
    report = learner.update(BATCH, AT[1])
    assert math.isnan(report.metrics.update_gain)
    assert report.credit.return_error == 0


def drilled(text: str, name: str = "grpo", count: int = 2) -> list[UpdateReport]:
    """The first steps of a learner with a fault that is on from step 2."""
    learner = Learner(every_step(algorithm={"name": name}), str(TINY), faulty_learner([parse_fault(text)], 3))
    return updates(learner, count)


@pytest.mark.parametrize(
    ("text", "factor"),
    [
        ("OD-1@2:4.7,mechanism=gain", 4.7), ("OD-1@2:1.1,mechanism=gain", 1.1), ("OD-1@2:3,mechanism=schedule", 3.0),
        ("OD-2@2:0.9,mechanism=small_steps", 0.1), ("OD-2@2:1,mechanism=small_steps", 0.0),
        ("OD-2@2:0.43,mechanism=held_weights", 0.57),
    ],
)  # fmt: skip
def test_drill_of_the_optimizer_shows_its_factor_and_nothing_else(text: str, factor: float) -> None:
    before, after = drilled(text)
    assert is_silent(before)
    # Sampled weights of a part differ in how far they move.
    assert after.metrics.update_gain == pytest.approx(factor, abs=0.05 if "held" in text else 2e-3)
    assert after.credit.credit_error == 0


def test_moments_that_are_lost_between_two_steps_show_in_the_factor() -> None:
    before, after, later = drilled("OD-1@2:0.9,mechanism=lost_moments", count=3)
    assert is_silent(before)
    assert 1.1 < after.metrics.update_gain < 4
    assert 1.1 < later.metrics.update_gain < 4, "it is lost anew before every step"


def test_moments_of_another_step_are_no_loss() -> None:
    learner = Learner(every_step(), str(TINY))
    updates(learner, 1)
    state = learner.engine.state()
    learner.update(BATCH, AT[2])
    learner.engine.load_state(state)
    assert is_silent(learner.update(BATCH, AT[3]))


@pytest.mark.parametrize(
    ("text", "name", "broken", "known"),
    [
        ("CA-2@2:3,mechanism=late_noise", "grpo", ["credit_error"], 0.0),
        ("CA-2@2:3,mechanism=late_noise", "ppo", ["credit_error"], 0.0),
        ("CA-2@2:3,mechanism=noise", "grpo", ["credit_error"], 0.0),
        ("CA-3@2:1,mechanism=misplaced", "grpo", ["credit_error"], 1.0),
        ("CA-3@2:1,mechanism=misplaced", "ppo", ["credit_error"], 1.0),
        ("CA-3@2:1,mechanism=shifted", "grpo", ["credit_error"], 1.0),
        ("CA-3@2:0.5,mechanism=discount", "ppo", ["credit_error", "return_error"], 0.0),
        ("CA-1@2:3,mechanism=wrong_targets", "ppo", ["return_error"], math.nan),
        ("CA-1@2:0.25,mechanism=biased_values", "ppo", ["value_error"], math.nan),
    ],
)
def test_drill_of_credit_breaks_what_it_is_about(text: str, name: str, broken: Sequence[str], known: float) -> None:
    before, after = drilled(text, name)
    assert is_silent(before)
    errors = {each: getattr(after.credit, each) for each in ("credit_error", "return_error", "value_error")}
    assert [each for each, error in errors.items() if error > CREDIT_LIMIT] == broken
    assert after.credit.credit_known_share == pytest.approx(known, nan_ok=True)
    if "biased" in text:
        assert after.credit.value_error == pytest.approx(0.25, abs=1e-6)


def test_gaps_are_measured_against_the_policy_that_sampled() -> None:
    """Log-probs of sampling as the learner itself gives them leave no gap in any number of minibatches."""
    batch = dataclasses.replace(
        BATCH, termination=np.where(ENDED, Termination.EOS, Termination.MAX_TOKENS).astype(np.int8)
    )
    for minibatches in (1, 4):
        learner = Learner(every_step(algorithm={"minibatches": minibatches}), str(TINY))
        rows = [batch.tokens[a:b].tolist() for a, b in zip(batch.offsets, batch.offsets[1:], strict=False)]
        scores = np.concatenate([np.concatenate([[0.0], score]) for score in learner.score(rows)])
        sampled = np.where(batch.action, scores, 0.0).astype(np.float32)
        # A nat on the logit of an end, as it shows in its log-prob.
        moved = sampled + 1 - np.log1p(np.exp(sampled) * math.expm1(1))
        biased_end = np.where(batch.action & (batch.tokens == 1), moved, sampled).astype(np.float32)
        healthy = learner.update(dataclasses.replace(batch, logprobs=sampled), AT[1]).metrics
        assert (healthy.gap_rest, healthy.gap_new) == pytest.approx((0, 0), abs=1e-5)
        # Log-odds of what is nearly certain hang on the last digits of its log-prob.
        assert healthy.gap_end == pytest.approx(0, abs=0.01)
        assert healthy.gap_slope == pytest.approx(1, abs=1e-4)
        assert healthy.gap_zero_share == 1
        fresh = Learner(every_step(algorithm={"minibatches": minibatches}), str(TINY))
        biased = fresh.update(dataclasses.replace(batch, logprobs=biased_end), AT[1]).metrics
        assert biased.gap_end == pytest.approx(1, abs=0.02)
        assert biased.gap_rest == pytest.approx(0, abs=1e-5)


def test_a_temperature_that_was_not_declared_shows_although_sampler_and_learner_agree_on_it() -> None:
    warm, cold = (
        Learner(every_step(), str(TINY), faulty_learner([parse_fault(text)], 3) if text else LearnerSeams())
        for text in ("", "OD-3@2:0.5,mechanism=colder")
    )
    for learner in (warm, cold):
        assert is_silent(updates(learner, 1)[0])
    usual, told = (learner.update(BATCH, AT[2]).metrics for learner in (warm, cold))
    # The batch was sampled as declared: to the learner that is told otherwise the loss is another one, and what is
    # compared with the declaration stays.
    assert told.entropy < 0.9 * usual.entropy
    assert told.rollout_kl == pytest.approx(usual.rollout_kl)
    assert told.gap_slope == pytest.approx(usual.gap_slope, rel=0.01)
