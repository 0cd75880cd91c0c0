"""The loss of one micro batch and its parts: forward pass, clipped surrogate, KL, entropy, value loss."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rftfm_ray.training.credit import Credit
from rftfm_ray.training.losses import clipped_policy_loss, clipped_value_loss, k3, truncated_importance
from rftfm_ray.training.packing import MicroBatch
from rftfm_ray.types import Settings


@dataclass(frozen=True, slots=True)
class Forward:
    """A policy's outputs for a micro batch's chosen tokens; all (A,).

    Attributes:
        logprobs: in nats, at the temperature that the learner is told.
        entropy: in nats, at the same.
        values: of the critic; None without one.
        declared: log-probs and entropy at the declared temperature, without gradient; None where it is the same.
    """

    logprobs: Tensor
    entropy: Tensor
    values: Tensor | None
    declared: tuple[Tensor, Tensor] | None = None


@dataclass(frozen=True, slots=True)
class Anchors:
    """Log-probs (A,), without gradient, of the policies that a loss is measured from; no reference without KL."""

    old: Tensor
    reference: Tensor | None


@dataclass(frozen=True, slots=True)
class Targets:
    """Targets of a micro batch's tokens; all (A,). `returns` and `values` are empty without a critic."""

    advantage: Tensor
    returns: Tensor
    values: Tensor


@dataclass(frozen=True, slots=True)
class LossWeights:
    """Weights of the parts of a loss: the current settings, and the critic's coefficient and clip range."""

    settings: Settings
    value_coef: float = 0.0
    value_clip: float | None = None


@dataclass(frozen=True, slots=True)
class Terms:
    """The loss of a micro batch, its share of the minibatch's, and its parts per token (A,).

    `old` and `entropy` are inputs of the loss, without gradient.
    """

    loss: Tensor
    policy: Tensor
    kl_ref: Tensor
    kl_old: Tensor
    ratio: Tensor
    value: Tensor
    value_clipped: Tensor
    old: Tensor
    entropy: Tensor


def targets_of(micro: MicroBatch, credit: Credit, values: NDArray[np.float32] | None) -> Targets:
    """Credit and the critic's old values of a micro batch's tokens, on its device."""

    def picked(array: NDArray[np.float32] | None) -> Tensor:
        if array is None or not len(array):
            return torch.zeros(0)
        return torch.from_numpy(array)[micro.chosen].to(micro.weight.device)

    return Targets(picked(credit.advantages), picked(credit.returns), picked(values))


def terms(micro: MicroBatch, now: Forward, anchors: Anchors, targets: Targets, weights: LossWeights) -> Terms:
    """The loss of a micro batch from one forward pass of the policy."""
    settings, old, reference = weights.settings, anchors.old, anchors.reference
    policy, ratio = clipped_policy_loss(now.logprobs, old, targets.advantage, settings.clip_low, settings.clip_high)
    if settings.is_cap is not None:
        policy = policy * truncated_importance(old, micro.sampled, settings.is_cap)
    kl_ref = torch.zeros_like(policy) if reference is None else k3(now.logprobs, reference)
    per_token = policy + settings.kl_coef * kl_ref - settings.entropy_coef * now.entropy
    # A frozen policy takes part with weight 0, so that every parameter has a gradient under any sharding.
    per_token = per_token * 0 if settings.freeze_policy else per_token
    value, clipped = torch.zeros_like(policy), torch.zeros_like(policy, dtype=torch.bool)
    if now.values is not None:
        value, clipped = clipped_value_loss(now.values, targets.values, targets.returns, weights.value_clip)
        per_token = per_token + weights.value_coef * value
    with torch.no_grad():
        kl_old = k3(now.logprobs, old)
    loss = (per_token * micro.weight).sum()
    return Terms(loss, policy, kl_ref, kl_old, ratio, value, clipped, old, now.entropy.detach())
