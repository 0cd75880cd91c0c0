"""Sums over a step's tokens: they add up over micro batches, and say what each figure says it is."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rftfm_ray.batch import TrajectoryBatch
from rftfm_ray.metrics import UpdateMetrics
from rftfm_ray.signals.groups import GAPS
from rftfm_ray.training.accumulator import LARGEST_LOG_RATIO, MetricAccumulator, change_of, moved_by
from rftfm_ray.training.gaps import logprob_gaps
from rftfm_ray.training.objective import Anchors, Forward, LossWeights, Targets, terms
from rftfm_ray.training.packing import MicroBatch, pack
from rftfm_ray.types import Settings

MakeBatch = Callable[..., TrajectoryBatch]
SETTINGS = Settings(
    lr=1e-3, kl_coef=0.1, clip_low=0.2, clip_high=0.3, entropy_coef=0.0, max_grad_norm=1.0, minibatches=1,
    advantage_clip=None, group_filter=False, gamma=1.0, gae_lambda=0.95, critic_lr=3e-3, freeze_policy=False,
)  # fmt: skip
ROLES = ["paa", "paoa", "pa", "paaoaa"]
TOKENS = sum(row.count("a") for row in ROLES)


@pytest.fixture
def batch(make_batch: MakeBatch) -> TrajectoryBatch:
    return make_batch([0.0] * len(ROLES), roles=ROLES)


def _micro(batch: TrajectoryBatch, rows: list[int]) -> MicroBatch:
    return pack(batch, np.array(rows), np.full(len(batch), 1 / TOKENS, np.float32), torch.device("cpu"))


def _columns() -> dict[str, Tensor]:
    """Made-up figures of all tokens of the step."""
    draw = torch.Generator().manual_seed(6)
    names = ("logprobs", "entropy", "values", "old", "reference", "advantage", "returns", "before")
    return {name: torch.randn(TOKENS, generator=draw) * 0.5 for name in names}


def _add(metrics: MetricAccumulator, micro: MicroBatch, columns: dict[str, Tensor], critic: bool = True) -> None:
    at = {name: column[micro.chosen] for name, column in columns.items()}
    now = Forward(at["logprobs"], at["entropy"], at["values"] if critic else None)
    targets = Targets(at["advantage"], at["returns"], at["before"])
    parts = terms(micro, now, Anchors(at["old"], at["reference"]), targets, LossWeights(SETTINGS, 0.5, 0.2))
    metrics.add(micro, SETTINGS, targets, parts)


def _figures(batch: TrajectoryBatch, *micros: list[int], comparable: bool = True, critic: bool = True) -> UpdateMetrics:
    metrics = MetricAccumulator(comparable=comparable)
    for rows in micros:
        _add(metrics, _micro(batch, rows), _columns(), critic)
    metrics.compare(batch)
    return metrics.metrics(SETTINGS, 0.5, 2.0, 1, critic=critic)


def test_figures_are_means_over_tokens(batch: TrajectoryBatch) -> None:
    found, c = _figures(batch, [0, 1, 2, 3]), {name: column.double() for name, column in _columns().items()}
    ratio, sampled = (c["logprobs"] - c["old"]).exp(), torch.from_numpy(batch.logprobs[batch.action]).double()
    policy = -torch.minimum(ratio * c["advantage"], ratio.clamp(0.8, 1.3) * c["advantage"])
    moved = c["before"] + (c["values"] - c["before"]).clamp(-0.2, 0.2)
    plain, clipped = (c["values"] - c["returns"]) ** 2, (moved - c["returns"]) ** 2
    drift, d = c["old"] - sampled, c["reference"] - c["logprobs"]
    expected: dict[str, Any] = {
        "policy_loss": policy.mean(),
        "kl_ref": (d.exp() - 1 - d).mean(),
        "kl_old": ((-ratio.log()).exp() - 1 + ratio.log()).mean(),
        "entropy": c["entropy"].mean(),
        "entropy_q10": torch.quantile(c["entropy"], 0.1),
        "entropy_q90": torch.quantile(c["entropy"], 0.9),
        # The first tokens after the observations of the second and the last trajectory.
        "entropy_observed": c["entropy"][[3, 7]].mean(),
        "ratio_min": ratio.min(),
        "ratio_max": ratio.max(),
        "clip_low_rate": ((ratio < 0.8) & (c["advantage"] < 0)).double().mean(),
        "clip_high_rate": ((ratio > 1.3) & (c["advantage"] > 0)).double().mean(),
        "value_loss": torch.maximum(plain, clipped).mean() / 2,
        "value_clip_rate": (clipped > plain + 1e-9).double().mean(),
        "rollout_gap_max": drift.abs().max(),
        "rollout_kl": (drift.exp() - 1 - drift).mean(),
        "rollout_ratio_mean": drift.exp().mean(),
    }
    for name, value in expected.items():
        assert getattr(found, name) == pytest.approx(float(value), rel=1e-5), name
    assert min(found.clip_low_rate, found.clip_high_rate, found.value_clip_rate) > 0
    given = {"lr": 1e-3, "critic_lr": 3e-3, "schedule_factor": 0.5, "kl_coef": 0.1, "staleness": 2.0, "vetoes": 1}
    assert {name: getattr(found, name) for name in given} == given


@pytest.mark.parametrize("micros", [[[0], [1], [2], [3]], [[0, 1], [2, 3]], [[3, 2, 1, 0]]])
def test_figures_add_up_over_micro_batches(batch: TrajectoryBatch, micros: list[list[int]]) -> None:
    whole, parts = (dataclasses.asdict(_figures(batch, *m)) for m in ([[0, 1, 2, 3]], micros))
    assert parts == pytest.approx(whole, rel=1e-5, nan_ok=True)


def test_without_a_critic_or_a_comparable_rollout_there_is_nothing_to_say(batch: TrajectoryBatch) -> None:
    found = dataclasses.asdict(_figures(batch, [0, 1, 2, 3], comparable=False, critic=False))
    none = {name for name, value in found.items() if math.isnan(value)}
    assert none == {
        "value_loss", "value_clip_rate", "critic_lr", "rollout_gap_max", "rollout_kl", "rollout_ratio_mean", "loss",
        "grad_norm", "step_kl", "step_ratio_max", "update_gain", *GAPS,
    }  # fmt: skip


def test_gaps_are_those_of_the_old_policy_wherever_its_tokens_were_packed(batch: TrajectoryBatch) -> None:
    columns = _columns()
    expected = dataclasses.asdict(logprob_gaps(batch, columns["old"].numpy(), columns["entropy"].numpy()))
    assert all(math.isfinite(each) for name, each in expected.items() if name != "gap_again")
    for micros in ([[0, 1, 2, 3]], [[2], [0, 3], [1]]):
        found = dataclasses.asdict(_figures(batch, *micros))
        assert {name: found[name] for name in GAPS} == pytest.approx(expected, nan_ok=True)


def test_step_of_which_nothing_was_counted_has_no_figures() -> None:
    found = MetricAccumulator(comparable=True).metrics(SETTINGS, 1.0, 0.0, 1, critic=True)
    for name in ("policy_loss", "entropy", "entropy_q90", "entropy_observed", "ratio_max", "ratio_min", "loss"):
        assert math.isnan(getattr(found, name)), name
    assert (found.lr, found.update_ratio, found.vetoes) == (1e-3, 0.0, 1)


def test_figure_that_is_not_a_number_is_kept(batch: TrajectoryBatch) -> None:
    columns, metrics = _columns(), MetricAccumulator(comparable=True)
    columns["logprobs"][2] = math.nan
    for rows in ([0, 1], [2, 3]):
        _add(metrics, _micro(batch, rows), columns)
    found = metrics.metrics(SETTINGS, 1.0, 0.0, 0, critic=True)
    assert math.isnan(found.ratio_max)
    assert math.isnan(found.ratio_min)
    assert math.isnan(found.policy_loss)


def test_tokens_that_the_rollout_or_the_learner_cannot_draw_do_not_swamp_the_rest(batch: TrajectoryBatch) -> None:
    columns, metrics = _columns(), MetricAccumulator(comparable=True)
    columns["old"][0], columns["logprobs"][0] = -1e4, -1e4
    _add(metrics, _micro(batch, [0, 1, 2, 3]), columns)
    found = metrics.metrics(SETTINGS, 1.0, 0.0, 0, critic=True)
    assert found.rollout_gap_max == pytest.approx(1e4, rel=1e-3)
    assert math.isfinite(found.rollout_kl)
    assert found.rollout_kl < 2 * LARGEST_LOG_RATIO


def test_change_is_relative_and_counts_entries() -> None:
    before = torch.tensor([3.0, 0.0, 4.0, 0.0])
    assert change_of(before, before.clone()) == (0.0, 0.0)
    assert change_of(before, torch.tensor([3.0, 0.5, 4.0, 0.0])) == pytest.approx((0.1, 0.25))


def test_move_is_the_kl_and_the_largest_ratio() -> None:
    before, after = torch.tensor([-1.0, -2.0]), torch.tensor([-1.0, -1.5])
    kl, ratio = moved_by(before, after)
    assert kl == pytest.approx((math.exp(0.5) - 1.5) / 2, rel=1e-5)
    assert ratio == pytest.approx(math.exp(0.5), rel=1e-5)
    assert moved_by(before, before.clone()) == (0.0, 1.0)


def test_move_beyond_all_bounds_is_finite() -> None:
    kl, ratio = moved_by(torch.tensor([-1.0, -200.0]), torch.tensor([-math.inf, -1.0]))
    assert math.isfinite(kl)
    assert ratio == pytest.approx(math.exp(LARGEST_LOG_RATIO), rel=1e-5)
