"""Attention over packed sequences, as an attention implementation of Hugging Face transformers.

The model runs on one row of N packed tokens. Attention is the only place where tokens meet, and here they
are laid out as the b sequences that they belong to, and packed again afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from rftfm_ray.training.packing import Layout

NAME = "rftfm_packed"
_active: ContextVar[Layout] = ContextVar("layout")


@contextmanager
def layout_in_force(layout: Layout) -> Iterator[None]:
    """Forward passes of this thread inside work on sequences packed by `layout`."""
    token = _active.set(layout)
    try:
        yield
    finally:
        _active.reset(token)


def again() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Contexts of a layer's forward pass and of its repetition in backward, which comes when no layout is in force."""
    layout = _active.get(None)
    return nullcontext(), nullcontext() if layout is None else layout_in_force(layout)


def packed_attention(  # noqa: PLR0913 - transformers calls it with these
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Causal attention; query (1, H, N, D), key and value (1, K, N, D) with K a divisor of H; gives (1, N, H, D).

    Sequences are padded on the right, where a causal query never looks.
    """
    del module, attention_mask, dropout, options
    layout = _active.get()
    q, k, v = (tensor[0][:, layout.source].transpose(0, 1) for tensor in (query, key, value))
    mask, length = None, layout.source.shape[1]
    if sliding_window is not None and sliding_window < length:
        position = torch.arange(length, device=q.device)
        distance = position[:, None] - position[None, :]
        mask = (distance >= 0) & (distance < sliding_window)
    mixed = scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=mask is None, scale=scaling, enable_gqa=q.shape[1] != k.shape[1]
    )
    return mixed.transpose(1, 2)[layout.row, layout.column].unsqueeze(0), None


def register() -> None:
    """Make the implementation known to transformers under `NAME`. Safe to call twice."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, packed_attention)
