"""One optimizer step made again on a sample of the weights: how far did they move of what AdamW moves them by?

The step starts from the moments that the one before it has left: what is lost or changed between two steps shows in
the factor as well.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

NAN = float("nan")
# torch's own default.
ADAM_EPSILON = 1e-8
# Weights of one replay: a thousand tell the factor, and cost a step next to nothing.
SAMPLED = 4096
# A move of so many units in the last place of its weight is known to 1.6 %, and the mean of the sample far better.
LEAST_UNITS = 32.0
# Weights that move so far before a factor is told.
LEAST_WEIGHTS = 64
# Spacing of float32 numbers relative to their size, at most.
UNIT = 2.0**-23


@dataclass(frozen=True, slots=True)
class AdamW:
    """Settings of AdamW (arXiv 1711.05101, algorithm 2, in torch's form: the decay is multiplied by the rate)."""

    lr: float
    betas: tuple[float, float]
    weight_decay: float
    eps: float = ADAM_EPSILON


@dataclass(frozen=True, slots=True)
class Moments:
    """What AdamW keeps between two steps, for n weights of one tensor; all float64.

    Attributes:
        first: (n,) running mean of gradients.
        second: (n,) running mean of their squares.
        steps: updates that these means hold.
    """

    first: Tensor
    second: Tensor
    steps: int


@dataclass(frozen=True, slots=True)
class StepInputs:
    """What one step of the optimizer starts from, for n weights of one tensor; all float64.

    Attributes:
        weights: (n,) before the step.
        gradient: (n,) as the optimizer gets it: averaged over the minibatch, and clipped.
        moments: of these weights.
    """

    weights: Tensor
    gradient: Tensor
    moments: Moments


def sampled_moments(state: Mapping[str, Tensor], stride: int) -> Moments | None:
    """Copies of every `stride`-th entry of the optimizer's state of a flat parameter; None before its first step."""
    if not {"step", "exp_avg", "exp_avg_sq"} <= set(state):
        return None
    first, second = (_sampled(state[name], stride) for name in ("exp_avg", "exp_avg_sq"))
    return Moments(first, second, int(state["step"]))


def sampled_inputs(weights: Tensor, gradient: Tensor, moments: Moments | None, stride: int) -> StepInputs:
    """Copies of every `stride`-th entry of a flat parameter and its gradient, with the moments of these; None are 0."""
    before = _sampled(weights, stride)
    none = torch.zeros_like(before)
    return StepInputs(before, _sampled(gradient, stride), moments or Moments(none, none, 0))


def _sampled(tensor: Tensor, stride: int) -> Tensor:
    return tensor.detach().reshape(-1)[::stride].double()


def adamw_change(inputs: StepInputs, rule: AdamW) -> Tensor:
    """(n,) by how much one step of AdamW changes the weights."""
    (beta1, beta2), count = rule.betas, inputs.moments.steps + 1
    first = beta1 * inputs.moments.first + (1 - beta1) * inputs.gradient
    second = beta2 * inputs.moments.second + (1 - beta2) * inputs.gradient**2
    denominator = (second / (1 - beta2**count)).sqrt() + rule.eps
    return -rule.lr * (rule.weight_decay * inputs.weights + first / (1 - beta1**count) / denominator)


def update_factor(inputs: Sequence[StepInputs], after: Sequence[Tensor], rule: AdamW) -> float:
    """The factor by which weights moved of what the rule moves them by: least squares over those that show it.

    Weights whose move is lost in the rounding of float32 are left out by what they should do, not by what they did.

    Args:
        inputs: of one step, a tensor each.
        after: (n,) the same weights after it.
        rule: with the declared rate; both weight decay and step are proportional to it.

    Returns:
        1 for a step that was made as declared, 0 for none; NaN where too few weights move far enough.
    """
    if not inputs or rule.lr == 0:
        return NAN
    expected = torch.cat([adamw_change(each, rule) for each in inputs])
    weights = torch.cat([each.weights for each in inputs])
    moved = torch.cat([tensor.double() for tensor in after]) - weights
    shows = expected.abs() >= LEAST_UNITS * UNIT * weights.abs()
    shows &= expected != 0
    if int(shows.sum()) < LEAST_WEIGHTS:
        return NAN
    factor = float((moved[shows] * expected[shows]).sum() / (expected[shows] ** 2).sum())
    return factor if math.isfinite(factor) else NAN
