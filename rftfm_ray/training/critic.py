"""A policy with a critic: a value head on the hidden states that the policy's own head reads."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Judged(NamedTuple):
    """Logits (..., V) and values (...) of the same positions. A tuple, because ZeRO-3 finds tensors only in tuples."""

    logits: Tensor
    values: Tensor


def value_head(width: int, dtype: torch.dtype) -> nn.Sequential:
    """One hidden layer of the model's own width, then a value: a linear head finds little in a small model's states.

    Its initial weights are the same for every seed, and give the value 0.
    """
    first, last = nn.Linear(width, width, dtype=dtype), nn.Linear(width, 1, dtype=dtype)
    bound = width**-0.5
    with torch.no_grad():
        drawn = torch.rand(width, width, generator=torch.Generator().manual_seed(0))
        first.weight.copy_((2 * drawn - 1) * bound)
        for zero in (first.bias, last.weight, last.bias):
            zero.zero_()
    return nn.Sequential(first, nn.GELU(), last)


class ActorCritic(nn.Module):
    """A causal language model `lm` and its `value_head`. Values are 0 until the head has learnt.

    A hook reads the hidden states at the input of the model's output layer, so that the model's own processing before
    and after it (norms, caps) does not matter.
    """

    def __init__(self, lm: Any) -> None:
        super().__init__()
        self.lm = lm
        output = lm.get_output_embeddings()
        self.value_head = value_head(output.weight.shape[1], output.weight.dtype)
        self._hidden: Tensor | None = None
        output.register_forward_pre_hook(self._catch)
        self.detached = False
        """Whether the value's gradient ends at the head."""

    @property
    def config(self) -> Any:
        """Configuration of the language model."""
        return self.lm.config

    def _catch(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        del module
        self._hidden = inputs[0]

    def forward(self, **inputs: Any) -> Judged:
        """The model on `inputs`, and the values of the positions that it gives logits for."""
        logits: Tensor = self.lm(**inputs).logits
        hidden, self._hidden = self._hidden, None
        if hidden is None:
            raise RuntimeError("the model's output layer was not called")
        values = self.value_head(hidden.detach() if self.detached else hidden).squeeze(-1)
        return Judged(logits, values.to(torch.float32))
