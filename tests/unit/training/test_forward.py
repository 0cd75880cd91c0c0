"""Packed forward passes give the logits and gradients of padded ones, in models of several kinds."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    Qwen2Config,
)

from rftfm_ray.errors import ModelError
from rftfm_ray.models import ASSETS
from rftfm_ray.training.forward import load_causal_lm, packs, predict, repeat_layers
from rftfm_ray.training.packing import Packed, pack_sequences

SIZES = {"vocab_size": 19, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
ROTARY = {**SIZES, "intermediate_size": 48, "num_key_value_heads": 2, "max_position_embeddings": 64}
PACKING: dict[str, PreTrainedConfig] = {
    "qwen2": Qwen2Config(**ROTARY),
    "llama-tied": LlamaConfig(**ROTARY, tie_word_embeddings=True),
    "mistral-window": MistralConfig(**ROTARY, sliding_window=3),
    "gpt2": GPT2Config(vocab_size=19, n_embd=32, n_layer=2, n_head=4, n_positions=64),
}
# Its attention knows positions by a bias that the packed one has no way to.
PADDING = {"bloom": BloomConfig(vocab_size=19, hidden_size=32, n_layer=2, n_head=4)}
PROMPTS = ([3, 4, 5], [3, 4, 5], [6], [3, 4, 5], [7, 8])
RESTS = ([1, 2, 9, 10], [11], [12, 13, 1, 2, 3, 4], [14, 15], [1])


def build(kind: str, folder: Path) -> str:
    """A model of random weights, large enough that attention matters, saved to `folder`."""
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config({**PACKING, **PADDING}[kind])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    model.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def sample() -> tuple[list[list[int]], Packed, torch.Tensor, torch.Tensor]:
    """Sequences with shared and own prompts, packed, and every position of them."""
    sequences = [p + r for p, r in zip(PROMPTS, RESTS, strict=True)]
    arrays = [np.array(s, np.int32) for s in sequences]
    packed = pack_sequences(arrays, np.array([len(p) for p in PROMPTS], np.int32), torch.device("cpu"))
    row = torch.tensor([i for i, s in enumerate(sequences) for _ in s])
    column = torch.tensor(list(itertools.chain.from_iterable(range(len(s)) for s in sequences)))
    return sequences, packed, row, column


def reference(path: str, sequences: list[list[int]]) -> tuple[torch.Tensor, Any]:
    """Logits of every position by one plain pass for each sequence."""
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager").eval()
    return torch.cat([model(torch.tensor([s]), use_cache=False).logits[0] for s in sequences]), model


Sample = tuple[list[list[int]], Packed, torch.Tensor, torch.Tensor]


@pytest.mark.parametrize("kind", [*PACKING, *PADDING])
def test_logits_and_gradients_equal_those_of_single_sequences(kind: str, tmp_path: Path, sample: Sample) -> None:
    path = build(kind, tmp_path)
    sequences, packed, row, column = sample
    expected, plain = reference(path, sequences)
    model = load_causal_lm(path, "float32")
    assert packs(model) == (kind in PACKING)
    logits = predict(model, packed, row, column)
    torch.testing.assert_close(logits, expected, rtol=2e-4, atol=2e-4)
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(0))
    torch.autograd.backward([(expected * weights).sum(), (logits * weights).sum()])
    wanted = {name: p.grad for name, p in plain.named_parameters()}
    for name, parameter in model.named_parameters():
        scale = float(wanted[name].abs().max())
        torch.testing.assert_close(parameter.grad, wanted[name], rtol=1e-3, atol=1e-3 * max(scale, 1.0))


def gradients(model: Any, sample: Sample) -> tuple[dict[str, torch.Tensor], int]:
    """Gradients of a loss on every position, and the bytes that its graph keeps for them."""
    kept = 0

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        kept += tensor.numel() * tensor.element_size()
        return tensor

    _, packed, row, column = sample
    model.zero_grad()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = predict(model, packed, row, column).square().mean()
    torch.autograd.backward([loss])
    return {name: p.grad.clone() for name, p in model.named_parameters()}, kept


@pytest.mark.parametrize("kind", [*PACKING, *PADDING])
def test_layers_that_are_computed_again_give_the_same_gradients_and_keep_less(
    kind: str, tmp_path: Path, sample: Sample
) -> None:
    model = load_causal_lm(build(kind, tmp_path), "float32")
    expected, kept = gradients(model, sample)
    repeat_layers(model)
    found, less = gradients(model, sample)
    assert all(torch.equal(found[name], gradient) for name, gradient in expected.items())
    assert less < kept / 2


def test_a_model_that_cannot_compute_its_layers_again_is_refused() -> None:
    with pytest.raises(ModelError, match="a Linear cannot compute its layers again; set it to false, and lower"):
        repeat_layers(torch.nn.Linear(2, 2))


def test_the_shipped_model_is_packed() -> None:
    assert packs(load_causal_lm(str(ASSETS / "tiny"), "float32"))


def test_a_model_whose_packed_logits_are_wrong_is_padded(
    tmp_path: Path, sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rftfm_ray.training import attention

    path = build("qwen2", tmp_path)
    whole = attention.packed_attention

    def broken(*tensors: Any, **options: Any) -> tuple[torch.Tensor, None]:
        mixed, _ = whole(*tensors, **options)
        return mixed.flip(1), None

    monkeypatch.setattr(attention, "packed_attention", broken)
    model = load_causal_lm(path, "float32")
    assert not packs(model)
    sequences, packed, row, column = sample
    logits = predict(model, packed, row, column)
    torch.testing.assert_close(logits, reference(path, sequences)[0], rtol=2e-4, atol=2e-4)
