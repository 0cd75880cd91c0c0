"""What levers ask of the engine, and which trajectories they keep out of the loss. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass

from rftfm_ray.types import Levers, Sampling


@dataclass(frozen=True, slots=True)
class Masks:
    """Findings that keep a trajectory out of the loss.

    Attributes:
        undecoded: tokens of an observation do not decode to its text.
        unreplayed: the trusted environment gives other observations, or ends the episode elsewhere.
        truncated: a limit of tokens or turns has cut it off.
    """

    undecoded: bool = False
    unreplayed: bool = False
    truncated: bool = False


def masks_of(levers: Levers) -> Masks:
    """The findings that levers mask by."""
    return Masks(bool(levers.mask_undecoded), bool(levers.mask_unreplayed), bool(levers.mask_truncated))


def asked_sampling(sampling: Sampling, levers: Levers, end_ids: Collection[int]) -> Sampling:
    """The terms that the sampler is asked for.

    A bias adds to logits before the temperature divides them, as vLLM does it, and to a bias that is there.

    Args:
        sampling: the declared terms.
        levers: `temperature_scale` and `end_bias` of them are followed.
        end_ids: tokens with which the model ends an episode.
    """
    if levers.temperature_scale is not None:
        sampling = dataclasses.replace(sampling, temperature=sampling.temperature * levers.temperature_scale)
    if levers.end_bias is None:
        return sampling
    bias = dict(sampling.logit_bias)
    added = {token: bias.get(token, 0.0) + levers.end_bias for token in end_ids}
    return dataclasses.replace(sampling, logit_bias=tuple((bias | added).items()))
