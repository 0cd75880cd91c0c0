"""A policy with a critic: values of the states that its logits are of, and where their gradient goes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, BloomConfig, LlamaConfig, PreTrainedConfig, Qwen2Config

from rftfm_ray.training.critic import ActorCritic, Judged
from rftfm_ray.training.forward import load_causal_lm, packs, run_model
from rftfm_ray.training.packing import Packed, pack_sequences

SIZES = {"vocab_size": 19, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
ROTARY = {**SIZES, "intermediate_size": 48, "num_key_value_heads": 2, "max_position_embeddings": 64}
KINDS: dict[str, PreTrainedConfig] = {
    "qwen2": Qwen2Config(**ROTARY),
    "llama-tied": LlamaConfig(**ROTARY, tie_word_embeddings=True),
    # Not packed: it runs on padded sequences.
    "bloom": BloomConfig(vocab_size=19, hidden_size=32, n_layer=2, n_head=4),
}
SEQUENCES = [[3, 4, 5, 1, 2, 9], [3, 4, 5, 11], [6, 12, 13], [3, 4, 5, 14, 15]]
PROMPTS = np.array([3, 3, 1, 3], np.int32)
ROW = torch.tensor([i for i, s in enumerate(SEQUENCES) for _ in s])
COLUMN = torch.tensor([c for s in SEQUENCES for c in range(len(s))])


def build(kind: str, folder: Path) -> ActorCritic:
    """A model of random weights with a critic whose head is not zero."""
    torch.manual_seed(3)
    AutoModelForCausalLM.from_config(KINDS[kind]).save_pretrained(folder)
    critic = ActorCritic(load_causal_lm(str(folder), "float32"))
    with torch.no_grad():
        for parameter in critic.value_head.parameters():
            parameter.normal_()
    return critic


@pytest.fixture(params=KINDS)
def critic(request: pytest.FixtureRequest, tmp_path: Path) -> ActorCritic:
    return build(request.param, tmp_path)


@pytest.fixture
def packed() -> Packed:
    return pack_sequences([np.array(s, np.int32) for s in SEQUENCES], PROMPTS, torch.device("cpu"))


def look(critic: ActorCritic, packed: Packed) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and values of every position."""
    judged, places = run_model(critic, packed, ROW, COLUMN)
    assert isinstance(judged, Judged)
    return judged.logits[places], judged.values[places]


def test_values_are_the_head_on_the_hidden_states_of_single_sequences(critic: ActorCritic, packed: Packed) -> None:
    lm: Any = critic.lm
    logits, values = look(critic, packed)
    lm.set_attn_implementation("eager")
    wanted, said = [], []
    for sequence in SEQUENCES:
        output = lm(torch.tensor([sequence]), output_hidden_states=True, use_cache=False)
        wanted.append(output.logits[0])
        said.append(critic.value_head(output.hidden_states[-1][0]).squeeze(-1))
    torch.testing.assert_close(logits, torch.cat(wanted), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(values, torch.cat(said), rtol=1e-4, atol=1e-4)
    assert values.dtype == torch.float32
    assert float(values.detach().std()) > 0.1


def test_new_head_says_0_and_has_a_gradient(tmp_path: Path, packed: Packed) -> None:
    build("qwen2", tmp_path)
    critic = ActorCritic(load_causal_lm(str(tmp_path), "float32"))
    assert packs(critic)
    _, values = look(critic, packed)
    assert torch.equal(values, torch.zeros(len(ROW)))
    torch.autograd.backward((values - 1).pow(2).sum())
    assert any(p.grad is not None and bool(p.grad.any()) for p in critic.value_head.parameters())


def test_new_heads_are_alike_whatever_the_seed(tmp_path: Path) -> None:
    build("qwen2", tmp_path)
    heads = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        heads.append(ActorCritic(load_causal_lm(str(tmp_path), "float32")).value_head.state_dict())
    assert heads[0].keys() == heads[1].keys()
    assert all(torch.equal(heads[0][name], heads[1][name]) for name in heads[0])


def test_gradient_of_the_value_ends_at_the_head_when_detached(critic: ActorCritic, packed: Packed) -> None:
    def touched() -> list[bool]:
        """Whether the value's gradient reaches the model, and the head."""
        critic.zero_grad()
        torch.autograd.backward(look(critic, packed)[1].sum())
        parts = (critic.lm, critic.value_head)
        return [any(p.grad is not None and bool(p.grad.any()) for p in part.parameters()) for part in parts]

    for detached in (False, True, False):
        critic.detached = detached
        assert touched() == [not detached, True]


def test_logits_are_those_of_the_model_alone(critic: ActorCritic, packed: Packed) -> None:
    with torch.no_grad():
        logits, _ = look(critic, packed)
        output, places = run_model(critic.lm, packed, ROW, COLUMN)
    assert torch.equal(logits, output.logits[places])


def test_hidden_states_are_not_kept_after_the_pass(critic: ActorCritic, packed: Packed) -> None:
    look(critic, packed)
    assert critic._hidden is None


def test_bfloat16_values_are_float32(tmp_path: Path, packed: Packed) -> None:
    build("qwen2", tmp_path)
    critic = ActorCritic(load_causal_lm(str(tmp_path), "bfloat16"))
    assert {p.dtype for p in critic.value_head.parameters()} == {torch.bfloat16}
    assert look(critic, packed)[1].dtype == torch.float32


def test_model_that_never_calls_its_output_layer_is_refused(tmp_path: Path, packed: Packed) -> None:
    critic = build("qwen2", tmp_path)
    critic.lm.lm_head = torch.nn.Linear(32, 19, bias=False)
    with pytest.raises(RuntimeError, match="output layer was not called"):
        look(critic, packed)
