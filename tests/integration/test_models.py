"""Models of six architectures, in the layouts that people's files have, train like the shipped one."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from rftfm_ray.config import load_config
from rftfm_ray.driver.run import train
from rftfm_ray.tasks.calculator import Calculator
from rftfm_ray.telemetry.recorder import read_steps, read_trajectories

pytestmark = [pytest.mark.usefixtures("cluster"), pytest.mark.slow]

SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2}
GROUPED = {**SIZES, "num_key_value_heads": 1, "max_position_embeddings": 256}
END, PAD, OTHER_END = "</s>", "<pad>", "<|end|>"


@dataclass(frozen=True)
class Kind:
    """A model's architecture, and what is particular about its files.

    Attributes:
        sizes: of the architecture.
        tied: whether head and embedding are one tensor.
        dtype: of the files.
        shards: whether the weights lie in several files.
        pads: whether the tokenizer has a token for padding.
        ends: tokens that end an answer.
        name: of the architecture.
    """

    name: str
    sizes: Mapping[str, Any] = field(default_factory=lambda: GROUPED)
    tied: bool = False
    dtype: torch.dtype = torch.float32
    shards: bool = False
    pads: bool = True
    ends: tuple[str, ...] = (END,)


KINDS = [
    # Tied embeddings: vLLM keeps a packed copy of the head, which a reload must not leave behind.
    Kind("llama", tied=True),
    Kind("qwen3", {**GROUPED, "head_dim": 32}, shards=True, ends=(END, OTHER_END)),
    Kind("mistral", {**GROUPED, "sliding_window": None}, pads=False),
    Kind("phi3", dtype=torch.bfloat16),
    Kind("olmo2", shards=True, dtype=torch.bfloat16, pads=False),
    Kind("gpt2", {"n_embd": 64, "n_layer": 2, "n_head": 2, "n_positions": 256}, tied=True, pads=False),
]


def save_tokenizer(folder: Path, kind: Kind) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer that has seen calculator prompts."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=[END, PAD, OTHER_END], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    bpe.train_from_iterator([p.prompt + p.answer + ";" for p in Calculator().pool(400, 0)], trainer)
    pad = {"pad_token": PAD} if kind.pads else {}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=END, **pad)
    tokenizer.save_pretrained(folder)
    return tokenizer


def save_model(folder: Path, kind: Kind) -> Path:
    """A tiny model of random weights with its tokenizer."""
    tokenizer = save_tokenizer(folder, kind)
    ends = [tokenizer.convert_tokens_to_ids(end) for end in kind.ends]
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        kind.name, **kind.sizes, vocab_size=len(tokenizer), tie_word_embeddings=kind.tied, bos_token_id=None,
        eos_token_id=ends if len(ends) > 1 else ends[0], pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config, dtype=kind.dtype)
    model.save_pretrained(folder, max_shard_size="50KB" if kind.shards else "1GB")
    return folder


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_an_architecture_trains_with_parity(kind: Kind, tmp_path: Path, runs: Path) -> None:
    folder = save_model(tmp_path, kind)
    assert len(list(folder.glob("*.safetensors"))) > 1 or not kind.shards
    assert json.loads((folder / "config.json").read_text())["dtype"] == str(kind.dtype).removeprefix("torch.")
    overrides = ["steps=3", "task.name=calculator", f"model.path={folder}", "probe.size=16", "sync.parity_every=1"]
    overrides += ["algorithm.prompts_per_step=4", "records.text=full", "records.trajectory_rate=1", "learner.lr=1e-2"]
    # Random weights earn no reward; the entropy bonus moves them, so that a stale copy of them would show.
    overrides += ["algorithm.entropy_coef=0.1"]
    summary = train(load_config(None, overrides), runs / kind.name)
    steps = read_steps(Path(summary.run_dir))
    assert summary.vetoes == 0
    assert max(steps["rollout_gap_max"].to_pylist()) < 1e-4
    assert max(gap for gap in steps["parity_gap"].to_pylist() if not math.isnan(gap)) < 1e-4
    assert steps["kl_ref"].to_pylist()[-1] > 1e-4
    rows = read_trajectories(Path(summary.run_dir)).to_pylist()
    assert all(row["turns"] >= 1 and row["tokens"] for row in rows)
