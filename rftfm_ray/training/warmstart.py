"""The policies that ship: Qwen2 of 0.3M and of 1.2M parameters with a character tokenizer, warm-started on both tasks.

Supervised learning stops while the model is still unsure: sampled accuracy 30 to 45 % on each task, so that
reinforcement has something to sharpen and something to learn. Demonstrations never hold a held-out prompt.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from rftfm_ray.models import ModelSize
from rftfm_ray.tasks.addition import Addition
from rftfm_ray.tasks.api import Demonstration
from rftfm_ray.tasks.calculator import Calculator

PAD, EOS, UNKNOWN = "<pad>", "<eos>", "<unk>"
ALPHABET = "0123456789+-=c;e"


@dataclass(frozen=True, slots=True)
class WarmstartPlan:
    """How a shipped model is made; the defaults make the tiny one.

    The rate follows `schedule_steps`; learning stops earlier, at `steps`.

    Addition is shown without slips up to `slips_after`: a model that met right and wrong carries from the start
    may learn neither.
    """

    seed: int = 0
    steps: int = 1200
    schedule_steps: int = 1300
    warmup_steps: int = 50
    slips_after: int = 700
    batch_size: int = 64
    addition_share: float = 0.65
    lr: float = 2e-3
    hidden_size: int = 128
    intermediate_size: int = 256
    layers: int = 2
    heads: int = 4
    key_value_heads: int = 2
    stored_as: Literal["float32", "bfloat16"] = "float32"
    """Precision of the weight file; learning is in float32."""


PLANS: Mapping[ModelSize, WarmstartPlan] = {
    ModelSize.TINY: WarmstartPlan(),
    # Four times the parameters know the carries after 500 steps; 100 with slips leave it unsure of them again.
    ModelSize.SMALL: WarmstartPlan(
        steps=600,
        schedule_steps=1000,
        slips_after=500,
        lr=1.5e-3,
        hidden_size=192,
        intermediate_size=512,
        layers=3,
        heads=6,
        key_value_heads=3,
        stored_as="bfloat16",
    ),
}


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token per character of `ALPHABET`; ids 0 to 2 are pad, end of sequence and unknown."""
    vocabulary = {token: index for index, token in enumerate([PAD, EOS, UNKNOWN, *ALPHABET])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, eos_token=EOS, unk_token=UNKNOWN)


def build_model(plan: WarmstartPlan, tokenizer: PreTrainedTokenizerFast) -> Qwen2ForCausalLM:
    """A fresh model with untied embeddings, initialised by `plan.seed`."""
    torch.manual_seed(plan.seed)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=plan.hidden_size,
        intermediate_size=plan.intermediate_size,
        num_hidden_layers=plan.layers,
        num_attention_heads=plan.heads,
        num_key_value_heads=plan.key_value_heads,
        max_position_embeddings=128,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Qwen2ForCausalLM(config)


def encode(demonstration: Demonstration, tokenizer: PreTrainedTokenizerFast) -> tuple[list[int], list[bool]]:
    """Token ids of a demonstration with its end, and which of them are to be learnt."""
    ids: list[int] = tokenizer.encode(demonstration.problem.prompt)
    learnt = [False] * len(ids)
    for text, learn in demonstration.pieces:
        piece: list[int] = tokenizer.encode(text)
        ids += piece
        learnt += [learn] * len(piece)
    return [*ids, int(tokenizer.eos_token_id)], [*learnt, True]


def make_batch(
    rng: random.Random, plan: WarmstartPlan, tokenizer: PreTrainedTokenizerFast, step: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and loss mask, both (batch, longest), of step `step`'s demonstrations from both tasks."""
    addition, calculator = Addition(), Calculator()
    from_addition = int(plan.batch_size * plan.addition_share)
    slips = step > plan.slips_after
    shown = [addition.demonstration(rng, slips=slips) for _ in range(from_addition)]
    shown += [calculator.demonstration(rng) for _ in range(plan.batch_size - from_addition)]
    rows = [encode(demonstration, tokenizer) for demonstration in shown]
    longest = max(len(ids) for ids, _ in rows)
    tokens = torch.full((len(rows), longest), int(tokenizer.pad_token_id))
    mask = torch.zeros(len(rows), longest)
    for row, (ids, learnt) in enumerate(rows):
        tokens[row, : len(ids)] = torch.tensor(ids)
        mask[row, : len(ids)] = torch.tensor(learnt, dtype=torch.float32)
    return tokens, mask


def rate_factor(step: int, plan: WarmstartPlan) -> float:
    """Linear warm-up, then a linear fall to 10 % at `schedule_steps`."""
    done = min(1.0, max(0, step - plan.warmup_steps) / (plan.schedule_steps - plan.warmup_steps))
    return min(1.0, step / plan.warmup_steps) * (1 - 0.9 * done)


def warmstart(out: Path, plan: WarmstartPlan, progress: Callable[[int, float], None]) -> None:
    """Train a model by `plan` and save it to `out` as a Hugging Face directory.

    `progress` is called after every step with its number and loss in nats per learnt token.
    """
    torch.set_num_threads(1)
    tokenizer = build_tokenizer()
    model = build_model(plan, tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=plan.lr, weight_decay=0.01)
    rng = random.Random(plan.seed)
    for step in range(1, plan.steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = plan.lr * rate_factor(step, plan)
        tokens, mask = make_batch(rng, plan, tokenizer, step)
        logprobs = model(input_ids=tokens[:, :-1]).logits.log_softmax(-1)
        chosen = logprobs.gather(-1, tokens[:, 1:, None]).squeeze(-1)
        loss = -(chosen * mask[:, 1:]).sum() / mask[:, 1:].sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        progress(step, float(loss.detach()))
    model.to(getattr(torch, plan.stored_as)).save_pretrained(out)
    tokenizer.save_pretrained(out)
