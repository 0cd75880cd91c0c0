"""The warm start and the models that ship: what is learnt, what is never shown, and that it can be made again."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from rftfm_ray.config import load_config
from rftfm_ray.errors import TaskError
from rftfm_ray.models import ASSETS, TASK_POLICIES, ModelSize, read_facts
from rftfm_ray.tasks.addition import Addition, is_heldout, problem
from rftfm_ray.tasks.api import Demonstration, Problem, Task, Transcript, Verdict
from rftfm_ray.tasks.calculator import Calculator
from rftfm_ray.tasks.loading import load_task
from rftfm_ray.training.warmstart import (
    ALPHABET,
    MEASURE_EVERY,
    PLANS,
    TASK_PLANS,
    TEXT_ALPHABET,
    WarmstartPlan,
    answer_logprobs,
    build_model,
    build_tokenizer,
    draw_shipped,
    encode,
    is_sure,
    make_batch,
    rate_factor,
    warmstart,
)

QUICK = WarmstartPlan(
    steps=3, schedule_steps=6, warmup_steps=2, batch_size=8, hidden_size=16, intermediate_size=24, layers=1, heads=2
)
EXAMPLES = Path(__file__).parents[3] / "examples"
# A step of the warm start that shows slips.
LATE = QUICK.slips_after + 1


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[int, float]]]:
    """What a warm start of three steps writes, and what it reports."""
    folder = tmp_path_factory.mktemp("warmstart") / "model"
    return folder, warm_start(folder, QUICK)


class Copying(Task):
    """Say the letter of the prompt; the pool and the held-out part share none."""

    name: ClassVar[str] = "copying"
    max_new_tokens: ClassVar[tuple[int, ...]] = (2,)
    letters: ClassVar[str] = "abcdefgh"
    prefix: ClassVar[str] = "Say "

    def pool(self, size: int, seed: int) -> Sequence[Problem]:
        chosen = random.Random(seed).sample(self.letters, size)
        return [Problem(letter, f"{self.prefix}{letter}", letter) for letter in chosen]

    def heldout(self) -> Sequence[Problem]:
        return [Problem("z", f"{self.prefix}z", "z")]

    def verify(self, problem: Problem, transcript: Transcript) -> Verdict:
        right = transcript.finished and transcript.turns[-1] == problem.answer
        return Verdict(float(right), right)


def warm_start(folder: Path, plan: WarmstartPlan, task: Task | None = None) -> list[tuple[int, float]]:
    """Run the plan; steps and losses."""
    seen: list[tuple[int, float]] = []
    threads = torch.get_num_threads()
    warmstart(folder, plan, lambda step, loss: seen.append((step, loss)), task)
    torch.set_num_threads(threads)
    return seen


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a model directory."""
    tensors: dict[str, torch.Tensor] = load_file(folder / "model.safetensors")
    return tensors


def test_what_the_model_says_and_its_end_are_learnt_prompt_and_observation_are_not(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    shown = Demonstration(problem(12, 34, 56), (("c12+34+56;", True), ("102;", False), ("102", True)))
    ids, learnt = encode(shown, tokenizer)
    assert tokenizer.decode(ids) == "12+34+56=c12+34+56;102;102<eos>"
    said = "".join(character for character, learn in zip(tokenizer.decode(ids[:-1]), learnt, strict=False) if learn)
    assert said == "c12+34+56;102"
    assert learnt[-1] is True


def test_batch_holds_both_tasks_in_their_shares_padded_on_the_right(tokenizer: PreTrainedTokenizerFast) -> None:
    plan = dataclasses.replace(QUICK, batch_size=20)
    tokens, mask = make_batch(draw_shipped(random.Random(0), plan, LATE), tokenizer)
    prompts = [tokenizer.decode(row).split("=")[0] for row in tokens.tolist()]
    assert [prompt.count("+") for prompt in prompts] == [1] * 13 + [2] * 7
    padding = tokens == tokenizer.pad_token_id
    assert padding.any()
    assert not mask[padding].any()
    assert (padding.diff(dim=1) >= 0).all()
    assert ((~padding).sum(1).max(), mask.shape) == (tokens.shape[1], tokens.shape)


def test_batch_masks_agree_with_their_demonstrations(tokenizer: PreTrainedTokenizerFast) -> None:
    plan = dataclasses.replace(QUICK, batch_size=20)
    tokens, mask = make_batch(draw_shipped(random.Random(5), plan, LATE), tokenizer)
    rng, addition, calculator = random.Random(5), Addition(), Calculator()
    for row in range(20):
        ids, learnt = encode((addition if row < 13 else calculator).demonstration(rng), tokenizer)
        assert tokens[row, : len(ids)].tolist() == ids
        assert mask[row, : len(ids)].tolist() == [float(learn) for learn in learnt]


def test_batches_never_hold_a_held_out_prompt(tokenizer: PreTrainedTokenizerFast) -> None:
    plan, rng = dataclasses.replace(QUICK, batch_size=64), random.Random(1)
    heldout = {p.prompt for task in (Addition(), Calculator()) for p in task.heldout()}
    prompts = {
        tokenizer.decode(row).split("=")[0] + "="
        for _ in range(20)
        for row in make_batch(draw_shipped(rng, plan, LATE), tokenizer)[0]
    }
    assert len(prompts) > 1000
    assert not prompts & heldout
    assert not [p for p in prompts if is_heldout(p, "addition" if p.count("+") == 1 else "calculator")]


def test_rate_rises_to_the_whole_and_falls_to_a_tenth_at_the_end_of_its_schedule() -> None:
    plan = WarmstartPlan(warmup_steps=4, schedule_steps=14)
    course = [rate_factor(step, plan) for step in range(1, 15)]
    assert course[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert course[4:] == pytest.approx([1 - 0.09 * step for step in range(1, 11)])


def test_warm_start_reports_every_step_with_a_plausible_loss(written: tuple[Path, list[tuple[int, float]]]) -> None:
    steps, losses = zip(*written[1], strict=True)
    assert steps == (1, 2, 3)
    # An untrained model knows nothing of 19 tokens: ln 19 = 2.94 nats.
    assert losses[0] == pytest.approx(2.94, abs=0.1)


def test_warm_start_learns(tmp_path: Path) -> None:
    plan = dataclasses.replace(QUICK, lr=1e-2, steps=40, schedule_steps=60, warmup_steps=5)
    losses = [loss for _, loss in warm_start(tmp_path / "model", plan)]
    assert losses[-1] < losses[0] - 0.5


def test_warm_start_writes_a_model_with_untied_embeddings_that_loads(
    written: tuple[Path, list[tuple[int, float]]],
) -> None:
    folder, _ = written
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.config.tie_word_embeddings is False
    assert not torch.equal(model.get_input_embeddings().weight, model.get_output_embeddings().weight)
    assert {name for name, _ in model.named_parameters()} == set(weights(folder))
    loaded = PreTrainedTokenizerFast.from_pretrained(folder)
    assert loaded.get_vocab() == build_tokenizer().get_vocab()
    assert (model.config.eos_token_id, model.config.pad_token_id) == (loaded.eos_token_id, loaded.pad_token_id)


def test_same_seed_gives_the_same_model_bit_for_bit(
    written: tuple[Path, list[tuple[int, float]]], tmp_path: Path
) -> None:
    torch.rand(1)
    assert warm_start(tmp_path / "again", QUICK) == written[1]
    first, again = weights(written[0]), weights(tmp_path / "again")
    assert first.keys() == again.keys()
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_weights_may_be_stored_as_bfloat16_rounded_from_what_was_learnt(
    written: tuple[Path, list[tuple[int, float]]], tmp_path: Path
) -> None:
    assert warm_start(tmp_path / "stored", dataclasses.replace(QUICK, stored_as="bfloat16")) == written[1]
    learnt, stored = weights(written[0]), weights(tmp_path / "stored")
    assert learnt.keys() == stored.keys()
    assert all(torch.equal(learnt[name].bfloat16(), stored[name]) for name in learnt)
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}
    assert {tensor.dtype for tensor in learnt.values()} == {torch.float32}


def test_seed_changes_initialisation_and_demonstrations(
    written: tuple[Path, list[tuple[int, float]]], tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    other = dataclasses.replace(QUICK, seed=1)
    name = "model.embed_tokens.weight"
    fresh = [build_model(plan, tokenizer).state_dict()[name] for plan in (QUICK, other, QUICK)]
    assert torch.equal(fresh[0], fresh[2])
    assert not torch.equal(fresh[0], fresh[1])
    warm_start(tmp_path / "other", other)
    assert not torch.equal(weights(written[0])[name], weights(tmp_path / "other")[name])


def test_every_size_has_its_plan_and_the_defaults_are_the_tiny_one() -> None:
    assert set(PLANS) == set(ModelSize)
    assert PLANS[ModelSize.TINY] == WarmstartPlan()


@pytest.mark.parametrize(("size", "most_mib"), [("tiny", 2), ("small", 2.5)])
def test_shipped_model_is_small_and_nothing_but_plain_files(size: str, most_mib: float) -> None:
    files = sorted(path for path in (ASSETS / size).rglob("*") if path.is_file())
    assert sum(path.stat().st_size for path in files) <= most_mib * 1024 * 1024
    assert {path.suffix for path in files} == {".json", ".safetensors"}


@pytest.mark.parametrize(("size", "least", "most"), [("tiny", 250_000, 350_000), ("small", 1_000_000, 1_300_000)])
def test_shipped_model_has_about_the_parameters_that_its_size_stands_for(size: str, least: int, most: int) -> None:
    assert least <= read_facts(ASSETS / size).parameters <= most


@pytest.mark.parametrize("size", ModelSize)
def test_shipped_model_has_the_plan_of_the_warm_start(size: ModelSize) -> None:
    model = AutoModelForCausalLM.from_pretrained(ASSETS / size)
    expected = build_model(PLANS[size], build_tokenizer())
    assert type(model) is type(expected)
    assert {n: p.shape for n, p in model.named_parameters()} == {n: p.shape for n, p in expected.named_parameters()}
    for key in (
        "tie_word_embeddings", "max_position_embeddings", "eos_token_id", "pad_token_id", "vocab_size",
        "num_attention_heads", "num_key_value_heads",
    ):  # fmt: skip
        assert getattr(model.config, key) == getattr(expected.config, key)
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
    stored = getattr(torch, PLANS[size].stored_as)
    assert {tensor.dtype for tensor in weights(ASSETS / size).values()} == {stored}


@pytest.mark.parametrize("size", ModelSize)
def test_shipped_tokenizer_is_the_one_that_is_built(size: ModelSize) -> None:
    built = build_tokenizer()
    for kind in (AutoTokenizer, PreTrainedTokenizerFast):
        shipped = kind.from_pretrained(ASSETS / size)
        assert shipped.get_vocab() == built.get_vocab()
        assert shipped.encode("12+34=") == built.encode("12+34=")
        assert (shipped.pad_token_id, shipped.eos_token_id, shipped.unk_token_id) == (0, 1, 2)
    assert sorted(built.get_vocab(), key=built.get_vocab().__getitem__)[3:] == list(ALPHABET)


def test_shipped_tokenizers_are_the_same_file_for_file() -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert len({(ASSETS / size / name).read_bytes() for size in ModelSize}) == 1


def test_every_task_has_demonstrations_of_its_pool_with_its_reference() -> None:
    task, rng = Copying(), random.Random(0)
    shown = [task.demonstration(rng) for _ in range(100)]
    assert {d.problem.prompt for d in shown} == {f"Say {letter}" for letter in Copying.letters}
    assert all(d.pieces == ((d.problem.answer, True),) for d in shown)


def test_demonstration_of_a_reference_with_a_call_learns_no_observation() -> None:
    task = Calculator()
    shown = Task.demonstration(task, random.Random(3))
    call, observed, answer = shown.pieces
    assert [learnt for _, learnt in shown.pieces] == [True, False, True]
    assert (call[0], answer[0]) == (f"c{shown.problem.prompt[:-1]};", shown.problem.answer)
    assert observed[0] == f"{shown.problem.answer};"


def test_text_tokenizer_writes_ascii_a_token_a_character_newlines_too() -> None:
    tokenizer = build_tokenizer(TEXT_ALPHABET)
    text = "Find x:\n\n3*x + 2 = 11?"
    assert len(tokenizer.encode(text)) == len(text)
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.unk_token_id not in tokenizer.encode("".join(map(chr, range(32, 127))))
    assert set(tokenizer.encode("\u00e9\t\u4e2d")) == {tokenizer.unk_token_id}


def test_warm_start_on_a_task_stops_once_it_is_sure_enough(tmp_path: Path) -> None:
    plan = dataclasses.replace(QUICK, lr=1e-2, steps=400, schedule_steps=400, warmup_steps=5, target=0.5)
    seen = warm_start(tmp_path / "model", plan, Copying())
    assert len(seen) % MEASURE_EVERY == 0
    assert len(seen) < 400
    # A letter of eight is known with probability 0.125 by one who only knows the letters.
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    tokenizer = build_tokenizer(TEXT_ALPHABET)
    batch = make_batch([Copying().demonstration(random.Random(seed)) for seed in range(64)], tokenizer)
    assert is_sure(model, dataclasses.replace(plan, target=0.45), *batch)
    assert not is_sure(model, dataclasses.replace(plan, target=0.99), *batch)
    assert warm_start(tmp_path / "again", plan, Copying()) == seen


def test_probability_of_a_demonstration_is_that_of_all_its_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    model = build_model(QUICK, tokenizer)
    shown = Demonstration(problem(12, 34), (("46", True),))
    total = float(answer_logprobs(model, *make_batch([shown], tokenizer)).sum())
    ids = tokenizer.encode("12+34=46<eos>")
    logits = model(input_ids=torch.tensor([ids])).logits.log_softmax(-1)[0]
    assert total == pytest.approx(sum(float(logits[at - 1, ids[at]]) for at in (6, 7, 8)), rel=1e-5)
    assert math.exp(total) < 1e-3


@pytest.mark.parametrize(
    ("attribute", "value", "named"),
    [("letters", "abcdefg\u00e9", "character '\u00e9'"), ("prefix", "a" * 200, "rollout.max_model_len=128")],
)
def test_task_that_the_model_cannot_read_is_refused(attribute: str, value: str, named: str, tmp_path: Path) -> None:
    task: Task = type("Other", (Copying,), {attribute: value})()
    with pytest.raises(TaskError, match=named):
        warm_start(tmp_path / "model", dataclasses.replace(QUICK, target=0.5), task)
    assert not (tmp_path / "model").exists()


def test_every_size_has_a_plan_for_a_task() -> None:
    assert set(TASK_PLANS) == set(ModelSize)
    assert all(plan.target is not None and 0.3 <= plan.target <= 0.45 for plan in TASK_PLANS.values())


def example_task(name: str) -> Task:
    """The task of an example file."""
    config = load_config(EXAMPLES / f"{name}.yaml", [])
    return load_task(config.task.name, config.task.options)


def test_generator_of_reasoning_gym_can_be_learnt(tmp_path: Path) -> None:
    plan = dataclasses.replace(QUICK, lr=1e-2, steps=50, schedule_steps=100, warmup_steps=5, target=0.9)
    losses = [loss for _, loss in warm_start(tmp_path / "model", plan, example_task("number_sequence"))]
    # An untrained model knows nothing of 99 tokens.
    assert losses[0] == pytest.approx(math.log(99), abs=0.2)
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize("name", TASK_POLICIES)
def test_policy_of_a_task_is_small_and_of_its_plan(name: str) -> None:
    files = sorted(path for path in (ASSETS / name).rglob("*") if path.is_file())
    assert sum(path.stat().st_size for path in files) <= 1 << 20
    assert {path.suffix for path in files} == {".json", ".safetensors"}
    plan, tokenizer = TASK_PLANS[ModelSize.TINY], build_tokenizer(TEXT_ALPHABET)
    expected = build_model(plan, tokenizer)
    model = AutoModelForCausalLM.from_pretrained(ASSETS / name)
    assert {n: p.shape for n, p in model.named_parameters()} == {n: p.shape for n, p in expected.named_parameters()}
    assert {tensor.dtype for tensor in weights(ASSETS / name).values()} == {torch.bfloat16}
    shipped = PreTrainedTokenizerFast.from_pretrained(ASSETS / name)
    assert shipped.get_vocab() == tokenizer.get_vocab()


@pytest.mark.parametrize(
    ("name", "least", "most"),
    # Its generator repeats easy sequences: demonstrations are likelier than held-out problems, which are distinct.
    [("number_sequence", 0.25, 0.45), ("spell_backward", 0.3, 0.45)],
)
def test_policy_of_a_task_is_unsure_of_held_out_problems(name: str, least: float, most: float) -> None:
    task, model = example_task(name), AutoModelForCausalLM.from_pretrained(ASSETS / name, dtype=torch.float32)
    shown = [Demonstration(problem, ((problem.answer, True),)) for problem in task.heldout()[:512]]
    batch = make_batch(shown, build_tokenizer(TEXT_ALPHABET))
    with torch.no_grad():
        chances = answer_logprobs(model, *batch).sum(-1).exp()
    assert least <= float(chances.mean()) <= most
