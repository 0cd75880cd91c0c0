"""Policy losses. Pure functions of tensors over the A tokens that the model chose; V is the vocabulary."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def token_logprobs(
    logits: Tensor, tokens: Tensor, temperature: float, *, entropy_gradient: bool
) -> tuple[Tensor, Tensor]:
    """Log-prob of `tokens` (A,) under `logits` (A, V) at `temperature`, and the entropy, both (A,), in nats.

    Without `entropy_gradient` the entropy is only reported, and its graph of (A, V) is not kept.
    """
    scaled = logits.float() if temperature == 1.0 else logits.float() / temperature
    normaliser = torch.logsumexp(scaled, dim=-1)
    logprobs = scaled.gather(-1, tokens.unsqueeze(-1)).squeeze(-1) - normaliser
    with torch.set_grad_enabled(entropy_gradient and torch.is_grad_enabled()):
        probabilities = (scaled - normaliser.unsqueeze(-1)).exp()
        entropy = normaliser - (probabilities * scaled).sum(-1)
    return logprobs, entropy


def k3(logprobs: Tensor, reference: Tensor) -> Tensor:
    """Estimate of KL(policy, reference) per token: exp(d) - 1 - d with d = reference - policy.

    Never negative, unbiased under samples of the policy (J. Schulman, "Approximating KL Divergence", 2020).
    """
    difference = reference - logprobs
    return torch.expm1(difference) - difference


def clipped_policy_loss(
    logprobs: Tensor, old: Tensor, advantage: Tensor, clip_low: float, clip_high: float
) -> tuple[Tensor, Tensor]:
    """PPO's clipped surrogate per token (arXiv 1707.06347, equation 7) with two bounds, and the ratio.

    Args:
        logprobs: (A,) of the policy that learns.
        old: (A,) of the policy before the step's first update; carries no gradient.
        advantage: (A,).
        clip_low: the ratio is clipped from below at 1 - clip_low.
        clip_high: and from above at 1 + clip_high.

    Returns:
        Loss and probability ratio, both (A,).
    """
    ratio = (logprobs - old).exp()
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    return -torch.minimum(ratio * advantage, clipped * advantage), ratio


def truncated_importance(learner: Tensor, sampled: Tensor, cap: float) -> Tensor:
    """Weight of each token (A,) for having been sampled by another distribution: its probability ratio, at most `cap`.

    Importance sampling whose weights are truncated (E. Ionides, "Truncated Importance Sampling", 2008): a bounded
    variance, for a bias that is smaller than that of leaving the gap between rollout and learner alone.

    Args:
        learner: (A,) log-probs of the policy before the step's first update; carries no gradient.
        sampled: (A,) log-probs at sampling.
        cap: largest weight.
    """
    return (learner - sampled).clamp(max=math.log(cap)).exp()


def clipped_value_loss(values: Tensor, old: Tensor, returns: Tensor, clip: float | None) -> tuple[Tensor, Tensor]:
    """Half the squared error of a critic per token, with its move clipped, and where the clip binds.

    The loss does not reward a move of more than `clip` from the old value (PPO's implementations; "Implementation
    Matters in Deep Policy Gradients", arXiv 2005.12729, section 3).

    Args:
        values: (A,) of the critic that learns.
        old: (A,) of the critic before the step's first update; carries no gradient.
        returns: (A,) targets of the values.
        clip: largest move that counts; None for any.

    Returns:
        Loss and whether the clip binds, both (A,).
    """
    plain = (values - returns) ** 2
    if clip is None:
        return plain / 2, torch.zeros_like(values, dtype=torch.bool)
    clipped = (values.clamp(old - clip, old + clip) - returns) ** 2
    return torch.maximum(plain, clipped) / 2, clipped > plain
