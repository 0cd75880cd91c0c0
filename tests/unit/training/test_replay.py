"""One optimizer step made again: torch's own AdamW is the standard, and every factor of it is told."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, cast

import pytest
import torch

from rftfm_ray.config import ChannelsConfig, RunConfig
from rftfm_ray.detection.detectors.exact import GAIN_LIMIT
from rftfm_ray.training.learner import Learner
from rftfm_ray.training.replay import (
    AdamW,
    Moments,
    StepInputs,
    adamw_change,
    sampled_inputs,
    sampled_moments,
    update_factor,
)
from rftfm_ray.types import Check, Levers, StepId

RULE = AdamW(lr=3e-4, betas=(0.9, 0.999), weight_decay=0.1)


class Trained:
    """A tensor that torch's AdamW has stepped some times, with clipped gradients that differ in size."""

    def __init__(self, rule: AdamW = RULE, size: int = 3000, steps: int = 0, clip: float = 1.0) -> None:
        self._draw = torch.Generator().manual_seed(3)
        self.weights = torch.nn.Parameter(torch.randn(size, generator=self._draw) * 0.05)
        self._clip = clip
        self.optimizer = torch.optim.AdamW(
            [self.weights], lr=rule.lr, betas=rule.betas, weight_decay=rule.weight_decay, eps=rule.eps
        )
        for _ in range(steps):
            self.step()

    def step(self, stride: int = 1) -> StepInputs:
        """One step; what it started from."""
        scale = 10 ** float(torch.rand(1, generator=self._draw) * 4 - 3)
        self.weights.grad = torch.randn(len(self.weights), generator=self._draw) * scale
        torch.nn.utils.clip_grad_norm_([self.weights], self._clip)
        state = self.optimizer.state.get(self.weights, {})
        inputs = sampled_inputs(self.weights, self.weights.grad, sampled_moments(state, stride), stride)
        self.optimizer.step()
        return inputs


@pytest.mark.parametrize("steps", [0, 1, 7])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.8, 0.95), (0.0, 0.5)])
@pytest.mark.parametrize("clip", [0.01, 1e9])
def test_replay_is_the_step_of_torch(steps: int, weight_decay: float, betas: tuple[float, float], clip: float) -> None:
    rule = AdamW(3e-4, betas, weight_decay)
    trained = Trained(rule, steps=steps, clip=clip)
    inputs = trained.step()
    moved = trained.weights.detach().double() - inputs.weights
    torch.testing.assert_close(adamw_change(inputs, rule), moved, rtol=1e-3, atol=1e-8)
    assert update_factor([inputs], [trained.weights.detach()], rule) == pytest.approx(1, abs=2e-4)


@pytest.mark.parametrize("wrong", ["decay", "means", "count", "eps"])
def test_another_optimizer_is_told_from_it(wrong: str) -> None:
    trained = Trained(steps=2)
    inputs = trained.step()
    others = {
        "decay": (inputs, AdamW(RULE.lr, RULE.betas, 10.0)),
        "means": (inputs, AdamW(RULE.lr, (0.5, 0.999), RULE.weight_decay)),
        "count": (replace(inputs, moments=replace(inputs.moments, steps=9)), RULE),
        "eps": (inputs, AdamW(RULE.lr, RULE.betas, RULE.weight_decay, eps=1e-2)),
    }
    factor = update_factor([others[wrong][0]], [trained.weights.detach()], others[wrong][1])
    assert abs(factor - 1) > 2 * GAIN_LIMIT


@pytest.mark.parametrize("gain", [0.0, 0.1, 0.9, 1.05, 4.7, 30.0, -1.0])
def test_factor_of_the_rate_is_the_factor_of_the_update(gain: float) -> None:
    trained = Trained(steps=3)
    before = trained.weights.detach().clone()
    inputs = trained.step()
    after = before + gain * (trained.weights.detach() - before)
    assert update_factor([inputs], [after], RULE) == pytest.approx(gain, abs=1e-3)


@pytest.mark.parametrize("share", [0.1, 0.43, 0.9])
def test_held_weights_make_the_factor_their_share_less(share: float) -> None:
    trained = Trained(steps=3, size=20_000)
    before = trained.weights.detach().clone()
    inputs, after = trained.step(), trained.weights.detach().clone()
    held = round(share * len(before))
    after[:held] = before[:held]
    assert update_factor([inputs], [after], RULE) == pytest.approx(1 - share, abs=0.02)


def test_sample_tells_what_all_weights_tell() -> None:
    trained = Trained(steps=3, size=50_000)
    inputs = trained.step(stride=12)
    after = trained.weights.detach()[::12]
    assert len(inputs.weights) == len(after) == 4167
    assert update_factor([inputs], [after], RULE) == pytest.approx(1, abs=2e-4)


def test_tensors_with_steps_of_their_own_are_one_sample() -> None:
    young, old = Trained(steps=0), Trained(steps=30)
    inputs = [young.step(), old.step()]
    after = [young.weights.detach(), 2 * old.weights.detach() - inputs[1].weights.float()]
    factor = update_factor(inputs, after, RULE)
    assert 1 < factor < 2
    assert update_factor([inputs[0]], [after[0]], RULE) == pytest.approx(1, abs=2e-4)


@pytest.mark.parametrize("lr", [1e-5, 1e-6, 1e-7, 1e-8, 1e-9, 1e-10, 1e-12])
def test_rounding_is_never_a_finding(lr: float) -> None:
    """A step of a few units in the last place is either told within the limit, or not at all."""
    rule = AdamW(lr, (0.9, 0.999), 0.01)
    trained = Trained(rule, steps=2)
    factor = update_factor([trained.step()], [trained.weights.detach()], rule)
    assert math.isnan(factor) or abs(factor - 1) < GAIN_LIMIT / 2
    assert math.isnan(factor) == (lr < 1e-8) or lr == 1e-8


def test_nothing_is_told_without_a_rate_or_weights() -> None:
    trained = Trained()
    inputs, after = trained.step(), trained.weights.detach()
    assert math.isnan(update_factor([], [], RULE))
    assert math.isnan(update_factor([inputs], [after], AdamW(0.0, RULE.betas, RULE.weight_decay)))
    none = torch.zeros(63, dtype=torch.float64)
    few = StepInputs(inputs.weights[:63], inputs.gradient[:63], Moments(none, none, 0))
    assert math.isnan(update_factor([few], [after[:63]], RULE))


def test_weights_that_are_no_number_tell_nothing() -> None:
    trained = Trained()
    inputs = trained.step()
    assert math.isnan(update_factor([inputs], [torch.full_like(trained.weights.detach(), math.nan)], RULE))


def test_inputs_are_copies() -> None:
    trained = Trained(steps=1)
    first = trained.step()
    tensors = (first.weights, first.gradient, first.moments.first, first.moments.second)
    kept = [tensor.clone() for tensor in tensors]
    trained.step()
    for tensor, old in zip(tensors, kept, strict=True):
        torch.testing.assert_close(tensor, old, rtol=0, atol=0)
    assert first.moments.steps == 1


@pytest.mark.parametrize("every", [5, 0])
def test_update_is_made_again_at_its_cadence_and_in_the_one_that_it_is_asked_for(every: int) -> None:
    learner = cast("Any", Learner.__new__(Learner))
    learner.asked, learner.levers, learner._watched = frozenset(), Levers(), True
    learner._config = RunConfig().model_copy(update={"channels": ChannelsConfig(update_replay_every=every)})
    learner._schedule = lambda _: 1.0
    made = []
    for step in range(1, 8):
        if step == 3:
            learner.asked = frozenset({Check.UPDATE_REPLAY, Check.GOLDEN})
        rule = learner._replayed(StepId(0, step, step))
        made += [] if rule is None else [(step, rule.lr)]
    # What is switched off stays off.
    assert made == ([(3, RunConfig().learner.lr), (5, RunConfig().learner.lr)] if every else [])


def test_moments_are_copied_at_a_stride_and_none_are_zeros() -> None:
    state = {"step": torch.tensor(3.0), "exp_avg": torch.arange(6.0), "exp_avg_sq": torch.arange(6.0) + 1}
    left = sampled_moments(state, 2)
    state["exp_avg_sq"].mul_(0.1)
    inputs = sampled_inputs(torch.zeros(6), torch.ones(6), left, 2)
    assert inputs.gradient.tolist() == [1.0] * 3
    assert inputs.moments.first.tolist() == [0.0, 2.0, 4.0]
    assert inputs.moments.second.tolist() == [1.0, 3.0, 5.0]
    assert inputs.moments.steps == 3
    none = sampled_inputs(torch.zeros(6), torch.ones(6), None, 2).moments
    assert (none.first.tolist(), none.second.tolist(), none.steps) == ([0.0] * 3, [0.0] * 3, 0)
    assert sampled_moments({"step": torch.tensor(3.0)}, 2) is None
