"""Starting policies: Qwen2 of 0.3M and of 1.2M parameters with a character tokenizer, warm-started by supervision.

The ones that ship know addition and the calculator; one of any other task knows that task. Supervised learning stops
while the model is still unsure: sampled accuracy 30 to 45 %, so that reinforcement has something to sharpen and
something to learn. Demonstrations never hold a held-out prompt.
"""

from __future__ import annotations

import random
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from rftfm_ray.errors import TaskError
from rftfm_ray.models import ModelSize
from rftfm_ray.tasks.addition import Addition
from rftfm_ray.tasks.api import Demonstration, Task
from rftfm_ray.tasks.calculator import Calculator

PAD, EOS, UNKNOWN = "<pad>", "<eos>", "<unk>"
ALPHABET = "0123456789+-=c;e"
TEXT_ALPHABET = "\n " + string.digits + string.ascii_letters + string.punctuation
"""What the prompts of other tasks are written in: ASCII."""
# Steps between measurements of how sure a model is, and demonstrations of one.
MEASURE_EVERY = 25
MEASURED = 256


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
    positions: int = 128
    """Longest sequence in tokens."""
    target: float | None = None
    """Mean probability of a whole demonstration at which learning stops; None: it takes all its steps."""


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

# Where a task has one right answer, the probability of its demonstration is the sampled accuracy; on demonstrations as
# they are drawn, so that a prompt that a generator repeats counts as often.
TASK_PLANS: Mapping[ModelSize, WarmstartPlan] = {
    size: replace(plan, steps=3000, schedule_steps=3000, stored_as="bfloat16", target=0.38)
    for size, plan in PLANS.items()
}
"""How a start of one task is made."""


def build_tokenizer(alphabet: str = ALPHABET) -> PreTrainedTokenizerFast:
    """One token per character of `alphabet`; ids 0 to 2 are pad, end of sequence and unknown."""
    vocabulary = {token: index for index, token in enumerate([PAD, EOS, UNKNOWN, *alphabet])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    # A dot is no newline.
    any_character = r"[\s\S]" if "\n" in alphabet else "."
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(any_character), "isolated")
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
        max_position_embeddings=plan.positions,
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


def draw_shipped(rng: random.Random, plan: WarmstartPlan, step: int) -> list[Demonstration]:
    """Step `step`'s demonstrations of both shipped tasks."""
    addition, calculator = Addition(), Calculator()
    from_addition = int(plan.batch_size * plan.addition_share)
    slips = step > plan.slips_after
    shown = [addition.demonstration(rng, slips=slips) for _ in range(from_addition)]
    return shown + [calculator.demonstration(rng) for _ in range(plan.batch_size - from_addition)]


def make_batch(
    demonstrations: Sequence[Demonstration], tokenizer: PreTrainedTokenizerFast
) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and loss mask, both (batch, longest), of demonstrations."""
    rows = [encode(demonstration, tokenizer) for demonstration in demonstrations]
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


def answer_logprobs(model: Qwen2ForCausalLM, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Log-prob in nats of every learnt token (batch, longest - 1); 0 elsewhere."""
    logprobs: torch.Tensor = model(input_ids=tokens[:, :-1]).logits.log_softmax(-1)
    return logprobs.gather(-1, tokens[:, 1:, None]).squeeze(-1) * mask[:, 1:]


def check_task_fits(task: Task, plan: WarmstartPlan, tokenizer: PreTrainedTokenizerFast) -> list[Demonstration]:
    """Demonstrations that a model is measured by, all of which it can read.

    Raises:
        TaskError: where one holds a character that the tokenizer does not know, or is longer than the model reads.
    """
    rng = random.Random(f"measured/{plan.seed}")
    shown = [task.demonstration(rng) for _ in range(MEASURED)]
    for demonstration in shown:
        text = demonstration.problem.prompt + "".join(piece for piece, _ in demonstration.pieces)
        strange = sorted(set(text) - set(tokenizer.get_vocab()))
        if strange:
            raise TaskError(
                f"Task {task.name} uses the character {strange[0]!r}, which the character tokenizer does not know; "
                "choose a task in ASCII."
            )
        if len(text) + 1 > plan.positions:
            raise TaskError(
                f"A demonstration of task {task.name} takes {len(text) + 1} characters, more than "
                f"rollout.max_model_len={plan.positions}; raise it, or choose task.options with shorter prompts."
            )
    return shown


def warmstart(out: Path, plan: WarmstartPlan, progress: Callable[[int, float], None], task: Task | None = None) -> None:
    """Train a model by `plan` and save it to `out` as a Hugging Face directory.

    Args:
        out: directory of the model.
        plan: of `PLANS` without a task, of `TASK_PLANS` with one.
        progress: called after every step with its number and loss in nats per learnt token.
        task: whose demonstrations are learnt; None: those of addition and the calculator, as they ship.

    Raises:
        TaskError: where a model with a character tokenizer cannot read the task.
    """
    torch.set_num_threads(1)
    tokenizer = build_tokenizer(ALPHABET if task is None else TEXT_ALPHABET)
    measured = None if task is None else make_batch(check_task_fits(task, plan, tokenizer), tokenizer)
    model = build_model(plan, tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=plan.lr, weight_decay=0.01)
    rng = random.Random(plan.seed)
    for step in range(1, plan.steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = plan.lr * rate_factor(step, plan)
        if task is None:
            shown = draw_shipped(rng, plan, step)
        else:
            shown = [task.demonstration(rng) for _ in range(plan.batch_size)]
        tokens, mask = make_batch(shown, tokenizer)
        loss = -answer_logprobs(model, tokens, mask).sum() / mask[:, 1:].sum()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        progress(step, float(loss.detach()))
        if measured is not None and step % MEASURE_EVERY == 0 and is_sure(model, plan, *measured):
            break
    model.to(getattr(torch, plan.stored_as)).save_pretrained(out)
    tokenizer.save_pretrained(out)


@torch.no_grad()
def is_sure(model: Qwen2ForCausalLM, plan: WarmstartPlan, tokens: torch.Tensor, mask: torch.Tensor) -> bool:
    """Whether the mean probability of whole demonstrations has reached the plan's target."""
    chances = answer_logprobs(model, tokens, mask).sum(-1).exp()
    return plan.target is not None and float(chances.mean()) >= plan.target
