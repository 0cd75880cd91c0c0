"""Hugging Face causal language models on packed sequences: logits at the requested positions only."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from rftfm_ray.errors import ModelError
from rftfm_ray.training import attention
from rftfm_ray.training.packing import Packed, pack_sequences

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# Sequences with a shared and with their own prompt, of three lengths: a layout with every case.
_TRIAL = ([1, 2, 3, 1, 2], [1, 2, 3, 2], [3, 1])
_TRIAL_PROMPTS = (3, 3, 1)


def load_causal_lm(path: str, dtype: str) -> Any:
    """A causal language model in evaluation mode: dropout would break the ratio to the rollout.

    It uses packed attention where the model supports it (`packs`), else its own attention on padded sequences.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    attention.register()
    model = AutoModelForCausalLM.from_pretrained(path, dtype=DTYPES[dtype]).eval()
    if model._supports_attention_backend and not _packs_wrongly(model):
        model.set_attn_implementation(attention.NAME)
    return model


def repeat_layers(model: Any) -> None:
    """Have each layer computed again in backward, which keeps its inputs alone between the two.

    Raises:
        ModelError: when its layers do not know how.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers or not model.supports_gradient_checkpointing:
        raise ModelError(
            f"learner.gradient_checkpointing: a {type(model).__name__} cannot compute its layers again; set it to "
            "false, and lower learner.micro_batch_size or learner.micro_batch_tokens instead."
        )
    options = {"use_reentrant": False, "context_fn": attention.again}
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)
    for layer in layers:
        # Of the layer itself alone, as transformers asks for it: what lies in it stays without dropout.
        layer.training = True


def packs(model: Any) -> bool:
    """Whether a model, possibly wrapped by DeepSpeed, has the packed attention."""
    config = getattr(model, "module", model).config
    return bool(config._attn_implementation == attention.NAME)


def predict(model: Any, packed: Packed, row: Tensor, column: Tensor) -> Tensor:
    """(A, V) logits of the tokens that follow positions `column` of sequences `row`, both (A,)."""
    output, index = run_model(model, packed, row, column)
    logits: Tensor = output.logits[index]
    return logits


def run_model(model: Any, packed: Packed, row: Tensor, column: Tensor) -> tuple[Any, tuple[Any, ...]]:
    """The model's output for the tokens after `column` of `row`, and the index of these tokens in its fields."""
    layout = packed.layout
    if not packs(model):
        return model(input_ids=packed.tokens[layout.source], use_cache=False), (row, column)
    with attention.layout_in_force(layout):
        output = model(
            input_ids=packed.tokens.unsqueeze(0),
            position_ids=layout.column.unsqueeze(0),
            use_cache=False,
            logits_to_keep=layout.source[row, column],
        )
    return output, (0,)


def _packs_wrongly(model: Any) -> bool:
    """Whether packed logits differ from padded ones, as in models that mix tokens outside attention too."""
    sequences = [np.array(s, dtype=np.int32) % model.config.vocab_size for s in _TRIAL]
    packed = pack_sequences(sequences, np.array(_TRIAL_PROMPTS, dtype=np.int32), model.device)
    last = torch.tensor([len(s) - 1 for s in sequences])
    rows = torch.arange(len(sequences))
    own = model.config._attn_implementation
    tolerance = 1e-3 if model.dtype == torch.float32 else 5e-2
    with torch.no_grad():
        padded = predict(model, packed, rows, last).float()
        model.set_attn_implementation(attention.NAME)
        try:
            difference = (predict(model, packed, rows, last).float() - padded).abs().max() / padded.abs().max()
            return not bool(difference <= tolerance)
        except (RuntimeError, TypeError, ValueError, AttributeError):
            return True
        finally:
            model.set_attn_implementation(own)
