"""Losses against torch's own distributions, closed-form gradients, and the four cases of the clip."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Categorical

from rftfm_ray.batch import TrajectoryBatch
from rftfm_ray.training.losses import (
    clipped_policy_loss,
    clipped_value_loss,
    k3,
    token_logprobs,
    truncated_importance,
)
from rftfm_ray.training.objective import Anchors, Forward, LossWeights, Targets, terms
from rftfm_ray.training.packing import pack
from rftfm_ray.types import Settings

LOW, HIGH = 0.2, 0.3
TEMPERATURES = pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])


def _logits(*, requires_grad: bool = False) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    logits = (3 * torch.randn(2, 5, 7, generator=generator, dtype=torch.float32)).requires_grad_(requires_grad)
    return logits, torch.randint(7, (2, 5), generator=generator)


@TEMPERATURES
def test_logprobs_are_log_softmax_of_the_tokens(temperature: float) -> None:
    logits, tokens = _logits()
    found, _ = token_logprobs(logits, tokens, temperature, entropy_gradient=False)
    expected = torch.log_softmax(logits / temperature, dim=-1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(found, expected)


@TEMPERATURES
@pytest.mark.parametrize("entropy_gradient", [False, True])
def test_entropy_is_that_of_the_distribution(temperature: float, entropy_gradient: bool) -> None:
    logits, tokens = _logits()
    _, found = token_logprobs(logits, tokens, temperature, entropy_gradient=entropy_gradient)
    expected = Categorical(logits=logits / temperature).entropy()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(found, expected)


def test_bfloat16_logits_are_taken_to_float32() -> None:
    logits, tokens = _logits()
    rough = logits.to(torch.bfloat16)
    for found, expected in zip(
        token_logprobs(rough, tokens, 1.0, entropy_gradient=False),
        token_logprobs(rough.float(), tokens, 1.0, entropy_gradient=False),
        strict=True,
    ):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected)


@TEMPERATURES
def test_gradient_of_logprob_is_one_hot_less_probabilities(temperature: float) -> None:
    logits, tokens = _logits(requires_grad=True)
    logprobs, _ = token_logprobs(logits, tokens, temperature, entropy_gradient=False)
    (found,) = torch.autograd.grad(logprobs.sum(), logits)
    one_hot = torch.nn.functional.one_hot(tokens, 7)
    torch.testing.assert_close(found, (one_hot - torch.softmax(logits / temperature, -1)) / temperature)


@TEMPERATURES
def test_gradient_of_entropy_is_its_closed_form(temperature: float) -> None:
    logits, tokens = _logits(requires_grad=True)
    _, entropy = token_logprobs(logits, tokens, temperature, entropy_gradient=True)
    (found,) = torch.autograd.grad(entropy.sum(), logits)
    logp = torch.log_softmax(logits / temperature, -1)
    torch.testing.assert_close(found, -logp.exp() * (logp + entropy.unsqueeze(-1)) / temperature)


def test_reported_entropy_carries_no_gradient() -> None:
    logits, tokens = _logits(requires_grad=True)
    logprobs, entropy = token_logprobs(logits, tokens, 1.0, entropy_gradient=False)
    assert logprobs.requires_grad
    assert not entropy.requires_grad


def test_entropy_gradient_does_not_switch_gradients_on_within_no_grad() -> None:
    logits, tokens = _logits(requires_grad=True)
    with torch.no_grad():
        logprobs, entropy = token_logprobs(logits, tokens, 1.0, entropy_gradient=True)
    assert not logprobs.requires_grad
    assert not entropy.requires_grad


@given(policy=st.floats(-20, 0), reference=st.floats(-20, 0))
def test_k3_is_never_negative(policy: float, reference: float) -> None:
    assert k3(torch.tensor(policy, dtype=torch.float64), torch.tensor(reference, dtype=torch.float64)) >= -1e-15


def test_k3_is_zero_at_equality() -> None:
    logprobs = torch.tensor([-0.1, -3.0, -11.0])
    assert torch.equal(k3(logprobs, logprobs.clone()), torch.zeros(3))


def test_k3_has_its_closed_form_and_gradient() -> None:
    policy = torch.tensor([-1.0, -2.0, -0.5], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([-2.0, -1.0, -0.5], dtype=torch.float64)
    value = k3(policy, reference)
    expected = torch.tensor([math.exp(-1), math.e - 2, 0.0], dtype=torch.float64)
    torch.testing.assert_close(value.detach(), expected)
    (found,) = torch.autograd.grad(value.sum(), policy)
    torch.testing.assert_close(found, 1 - (reference - policy.detach()).exp())


def test_k3_of_samples_of_the_policy_averages_to_the_kl() -> None:
    logits, _ = _logits()
    policy, reference = torch.log_softmax(logits, -1)
    # The expectation over all tokens takes the place of samples.
    torch.testing.assert_close(
        (policy.exp() * k3(policy, reference)).sum(-1), (policy.exp() * (policy - reference)).sum(-1)
    )


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected", "slope"),
    [
        pytest.param(1.1, 2.0, -1.1 * 2, -1.1 * 2, id="good-inside"),
        pytest.param(1.5, 2.0, -(1 + HIGH) * 2, 0.0, id="good-above-is-clipped"),
        pytest.param(0.5, 2.0, -0.5 * 2, -0.5 * 2, id="good-below-still-learns"),
        pytest.param(0.9, -2.0, 0.9 * 2, 0.9 * 2, id="bad-inside"),
        pytest.param(0.5, -2.0, (1 - LOW) * 2, 0.0, id="bad-below-is-clipped"),
        pytest.param(1.5, -2.0, 1.5 * 2, 1.5 * 2, id="bad-above-still-learns"),
        pytest.param(1.25, 2.0, -1.25 * 2, -1.25 * 2, id="good-between-the-two-bounds"),
    ],
)
def test_clipped_loss_and_its_gradient(ratio: float, advantage: float, expected: float, slope: float) -> None:
    old = torch.tensor([[-1.5]], dtype=torch.float64)
    logprobs = (old + math.log(ratio)).requires_grad_()
    loss, found_ratio = clipped_policy_loss(logprobs, old, torch.tensor([[advantage]]).double(), LOW, HIGH)
    (gradient,) = torch.autograd.grad(loss.sum(), logprobs)
    assert float(found_ratio.detach()) == pytest.approx(ratio)
    assert float(loss.detach()) == pytest.approx(expected)
    assert float(gradient) == pytest.approx(slope)


def test_first_update_has_the_policy_gradient() -> None:
    logprobs = torch.tensor([[-1.0, -2.0], [-0.5, -3.0]], requires_grad=True)
    advantage = torch.tensor([[1.5], [-0.5]])
    loss, ratio = clipped_policy_loss(logprobs, logprobs.detach(), advantage, LOW, HIGH)
    (gradient,) = torch.autograd.grad(loss.sum(), logprobs)
    assert torch.equal(ratio.detach(), torch.ones(2, 2))
    torch.testing.assert_close(gradient, -advantage.expand(2, 2))


CLIP = 0.2


@pytest.mark.parametrize(
    ("value", "old", "target", "expected", "slope", "binds"),
    [
        pytest.param(1.1, 1.0, 3.0, 1.9**2 / 2, -1.9, False, id="moved-little"),
        pytest.param(1.5, 1.0, 3.0, 1.8**2 / 2, 0.0, True, id="too-far-towards-it-earns-nothing"),
        pytest.param(0.5, 1.0, 3.0, 2.5**2 / 2, -2.5, False, id="too-far-away-still-learns"),
        pytest.param(0.5, 1.0, -3.0, 3.8**2 / 2, 0.0, True, id="too-far-down-towards-it"),
        pytest.param(1.5, 1.0, 1.4, 0.2**2 / 2, 0.0, True, id="past-it-but-nearer-than-the-clip"),
        pytest.param(2.0, 1.0, 1.4, 0.6**2 / 2, 0.6, False, id="far-past-it"),
        pytest.param(1.0, 1.0, 3.0, 2.0**2 / 2, -2.0, False, id="not-moved"),
    ],
)
def test_clipped_value_loss_and_its_gradient(
    value: float, old: float, target: float, expected: float, slope: float, binds: bool
) -> None:
    values = torch.tensor([value], dtype=torch.float64, requires_grad=True)
    before, returns = torch.tensor([old]).double(), torch.tensor([target]).double()
    loss, bound = clipped_value_loss(values, before, returns, CLIP)
    (gradient,) = torch.autograd.grad(loss.sum(), values)
    assert float(loss.detach()) == pytest.approx(expected)
    assert float(gradient) == pytest.approx(slope)
    assert bool(bound) == binds


def test_value_loss_without_a_clip_is_half_the_squared_error() -> None:
    draw = torch.Generator().manual_seed(4)
    values, old, returns = torch.randn(3, 50, generator=draw)
    loss, bound = clipped_value_loss(values, old, returns, None)
    torch.testing.assert_close(loss.mean(), torch.nn.functional.mse_loss(values, returns) / 2)
    assert not bound.any()
    wide, never = clipped_value_loss(values, old, returns, 100.0)
    torch.testing.assert_close(wide, loss)
    assert not never.any()


def test_importance_weight_is_the_ratio_up_to_its_cap() -> None:
    learner, sampled = torch.tensor([-1.0, -3.0, -0.1, -80.0]), torch.tensor([-1.0, -1.0, -3.0, 0.0])
    weights = truncated_importance(learner, sampled, 2.0)
    torch.testing.assert_close(weights, torch.tensor([1.0, math.exp(-2.0), 2.0, 0.0]))
    assert torch.equal(truncated_importance(learner, learner, 1.0), torch.ones(4))
    # Neither overflows, however unrelated the two are.
    assert torch.isfinite(truncated_importance(torch.tensor([0.0]), torch.tensor([-1e4]), 100.0)).all()


def test_loss_of_a_token_that_another_policy_sampled_is_weighted(make_batch: Callable[..., TrajectoryBatch]) -> None:
    batch = make_batch([1.0, 0.0], roles=["paa", "pa"])
    micro = pack(batch, np.arange(2), np.ones(2, np.float32), torch.device("cpu"))
    draw = torch.Generator().manual_seed(4)
    now = torch.randn(3, generator=draw).requires_grad_()
    old, advantage, empty = now.detach().clone(), torch.tensor([1.5, -2.0, 0.5]), torch.zeros(0)
    plain = Settings(1e-3, 0.0, 0.2, 0.2, 0.0, 1.0, 1, None, False, 1.0, 1.0, 1e-3, False)

    def slopes(settings: Settings, sampled: Tensor) -> tuple[Tensor, Tensor]:
        parts = terms(
            dataclasses.replace(micro, sampled=sampled), Forward(now, torch.zeros(3), None), Anchors(old, None),
            Targets(advantage, empty, empty), LossWeights(settings),
        )  # fmt: skip
        (gradient,) = torch.autograd.grad(parts.loss, now)
        return gradient, parts.policy.detach()

    other = old - torch.tensor([3.0, 0.0, -1.0])
    weights = torch.tensor([2.0, 1.0, math.exp(-1.0)])
    capped = dataclasses.replace(plain, is_cap=2.0)
    gradient, policy = slopes(capped, other)
    torch.testing.assert_close(gradient, -advantage * weights)
    torch.testing.assert_close(policy, -advantage * weights)
    torch.testing.assert_close(slopes(plain, other)[0], -advantage)
    assert torch.equal(slopes(capped, old)[0], slopes(plain, old)[0]), "what the policy itself sampled keeps its weight"
