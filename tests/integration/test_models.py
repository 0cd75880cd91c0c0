"""A model of another architecture, with a tokenizer of its own and tied embeddings, trains like the shipped one."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from rftfm_ray.config import load_config
from rftfm_ray.driver.run import train
from rftfm_ray.tasks.calculator import Calculator
from rftfm_ray.telemetry.recorder import read_steps, read_trajectories

pytestmark = pytest.mark.usefixtures("cluster")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama of random weights and a byte-level BPE tokenizer that has seen calculator prompts."""
    folder = tmp_path_factory.mktemp("llama")
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=["</s>", "<pad>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    bpe.train_from_iterator([p.prompt + p.answer + ";" for p in Calculator().pool(400, 0)], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="</s>", pad_token="<pad>")
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(
        vocab_size=len(tokenizer), **sizes, tie_word_embeddings=True, eos_token_id=0, pad_token_id=1, bos_token_id=None
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_another_architecture_trains_with_parity(llama: Path, runs: Path) -> None:
    overrides = ["steps=3", "task.name=calculator", f"model.path={llama}", "probe.size=16", "sync.parity_every=1"]
    overrides += ["algorithm.prompts_per_step=4", "records.text=full", "records.trajectory_rate=1", "learner.lr=1e-2"]
    # Random weights earn no reward; the entropy bonus moves them, so that a stale copy of them would show.
    overrides += ["algorithm.entropy_coef=0.1"]
    summary = train(load_config(None, overrides), runs / "llama")
    steps = read_steps(Path(summary.run_dir))
    assert summary.vetoes == 0
    # Tied embeddings: vLLM keeps a packed copy of the head, which a reload must not leave behind.
    assert max(steps["rollout_gap_max"].to_pylist()) < 1e-4
    assert max(gap for gap in steps["parity_gap"].to_pylist() if not math.isnan(gap)) < 1e-4
    assert steps["kl_ref"].to_pylist()[-1] > 1e-4
    rows = read_trajectories(Path(summary.run_dir)).to_pylist()
    assert all(row["turns"] >= 1 and row["tokens"] for row in rows)
