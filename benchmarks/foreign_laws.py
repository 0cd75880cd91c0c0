"""Laws on TRL's own trainer: healthy runs that keep them, and a matching fault in TRL for each.

    python -m benchmarks.foreign_laws [--only CASE ...]
    python -m benchmarks.foreign_laws --page

Trains a tiny model that is built in code, with a tokenizer of characters, by TRL's GRPOTrainer: nothing is downloaded.
Each case is one JSONL file below benchmarks/data/foreign_laws/ beside its GRPOConfig, and a finished one is not made
again: the command can be stopped at any moment. `--page` writes docs/foreign_laws.md. Needs the extra `trl`.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.foreign_laws_page import JudgedRun, is_sound, page
from rftfm_ray.diagnosis.log_laws import laws_of
from rftfm_ray.files import write_atomic
from rftfm_ray.integrations.steplog import read_log
from rftfm_ray.integrations.trl_config import TrlConfig, declared_by_trl, read_trl_config

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "benchmarks" / "data" / "foreign_laws"
PAGE = ROOT / "docs" / "foreign_laws.md"
SEED, ONSET, FAULTY_STEPS = 2110, 20, 30
ALPHABET = "0123456789+-=abcdef"
GROUP, PROMPTS = 8, 4
SHORTEST, LONGEST = 8, 12


@dataclass(frozen=True, slots=True)
class TrlCase:
    """One run of TRL: keys of GRPOConfig, its steps, and a fault that begins at `ONSET`, for one law."""

    name: str
    options: Mapping[str, Any]
    steps: int
    fault: str = ""
    law: str = ""


WEIGHTS = {"reward_weights": [1.0, 1.0]}
BATCH = {"per_device_train_batch_size": GROUP * PROMPTS, "num_generations": GROUP}
HALF = {"per_device_train_batch_size": GROUP * PROMPTS // 2, "num_generations": GROUP}
HEALTHY: tuple[TrlCase, ...] = (
    TrlCase("grpo", {**BATCH, "loss_type": "grpo"}, 300),
    TrlCase("grpo_kl", {**BATCH, "loss_type": "grpo", "beta": 0.04}, 200),
    TrlCase("grpo_entropy", {**BATCH, "loss_type": "grpo", "entropy_coef": 0.01}, 200),
    TrlCase("grpo_accumulated", {**HALF, "loss_type": "grpo", "gradient_accumulation_steps": 2}, 200),
    TrlCase("grpo_flat", {**BATCH, "loss_type": "grpo", "rewards": "flat"}, 100),
    TrlCase("bnpo", {**BATCH, "loss_type": "bnpo", "scale_rewards": "batch"}, 200),
    TrlCase("bnpo_minibatches", {**HALF, "loss_type": "bnpo", "steps_per_generation": 2, "beta": 0.04}, 300),
    TrlCase("dr_grpo", {**WEIGHTS, **BATCH, "loss_type": "dr_grpo", "scale_rewards": "none"}, 200),
    TrlCase("dr_grpo_iterations", {**WEIGHTS, **BATCH, "loss_type": "dr_grpo", "num_iterations": 2}, 300),
    TrlCase("dapo", {**WEIGHTS, **BATCH, "loss_type": "dapo", "epsilon_high": 0.28, "beta": 0.02}, 200),
    TrlCase("dapo_minibatches", {**WEIGHTS, **HALF, "loss_type": "dapo", "steps_per_generation": 4}, 300),
    TrlCase("dapo_masked", {**WEIGHTS, **BATCH, "loss_type": "dapo", "mask_truncated_completions": True}, 200),
)  # fmt: skip
"""Healthy runs: four loss types, with and without several minibatches, KL, an entropy bonus and a mask."""
PLAIN = {**BATCH, **WEIGHTS, "loss_type": "grpo"}
FAULTY: tuple[TrlCase, ...] = (
    TrlCase("reward_doubled", PLAIN, FAULTY_STEPS, "one reward function counts twice", "reward"),
    TrlCase("entropy_penalty", PLAIN, FAULTY_STEPS, "the entropy is penalised with weight 0.5", "centred_loss"),
    TrlCase("noisy_advantages", PLAIN, FAULTY_STEPS, "advantages get noise of Student's t(2)", "centred_loss"),
    TrlCase("wrong_old_logprobs", PLAIN, FAULTY_STEPS, "old log-probs are off by noise of 0.5 nats", "clip"),
    TrlCase("other_reference", {**PLAIN, "beta": 0.04}, 3, "the reference is another model", "start"),
    TrlCase("noise_without_signal", {**PLAIN, "rewards": "flat"}, FAULTY_STEPS, "advantages get noise", "flat"),
    TrlCase("raised_rate", PLAIN, FAULTY_STEPS, "the learning rate is three times the declared one", "rate"),
    TrlCase("halved_limit", PLAIN, FAULTY_STEPS, "answers are cut off at half the declared length", "limit"),
)
"""Runs with a fault in TRL, each for the law that it must break at once."""


def most_of_one(completions: Sequence[str], **_: Any) -> list[float]:
    """Share of an answer that is the digit 1."""
    return [text.count("1") / max(1, len(text)) for text in completions]


def signs(completions: Sequence[str], **_: Any) -> list[float]:
    """Half a point for an answer with a plus in it."""
    return [0.5 * ("+" in text) for text in completions]


def nothing(completions: Sequence[str], **_: Any) -> list[float]:
    """The same reward for every answer."""
    return [0.25] * len(completions)


def build_model(folder: str) -> Any:
    """Write a causal model of some ten thousand parameters with random weights; returns its tokenizer of characters."""
    torch, transformers = importlib.import_module("torch"), importlib.import_module("transformers")
    tokenizers = importlib.import_module("tokenizers")
    vocabulary = {token: index for index, token in enumerate(["<pad>", "<eos>", "<unk>", *ALPHABET])}
    raw = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))  # noqa: S106 - tokens of text
    raw.pre_tokenizer = tokenizers.pre_tokenizers.Split("", "isolated")
    raw.decoder = tokenizers.decoders.Fuse()
    special = {"pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<unk>"}
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=raw, padding_side="left", **special)
    torch.manual_seed(SEED)
    config = transformers.Qwen2Config(
        vocab_size=len(vocabulary), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=64, eos_token_id=1, pad_token_id=0, bos_token_id=None,
        tie_word_embeddings=False,
    )  # fmt: skip
    # From a folder: TRL loads its reference by the name of the model.
    transformers.Qwen2ForCausalLM(config).save_pretrained(folder)
    return tokenizer


@dataclass(slots=True)
class FaultInTrl:
    """Changes TRL's trainer once its step reaches the onset; `install` before training, `begin` at the onset."""

    install: Callable[[Any, Callable[[], bool]], None] | None = None
    begin: Callable[[Any], None] | None = None
    done: list[int] = field(default_factory=list)


def _count_twice(trainer: Any) -> None:
    trainer.reward_weights = trainer.reward_weights * importlib.import_module("torch").tensor([2.0, 1.0])


def _penalise_entropy(trainer: Any) -> None:
    trainer.entropy_coef, trainer._entropy_bonus_enabled = -0.5, True


def _raise_rate(trainer: Any) -> None:
    scheduler = trainer.lr_scheduler
    scheduler.base_lrs = [3 * rate for rate in scheduler.base_lrs]
    # The rate of the step that begins has been set already.
    scheduler._last_lr = [3 * rate for rate in scheduler._last_lr]
    for group in trainer.optimizer.param_groups:
        group["lr"] *= 3


def _halve_limit(trainer: Any) -> None:
    trainer.generation_config.max_new_tokens //= 2
    trainer.max_completion_length //= 2


def _noise(trainer: Any, is_on: Callable[[], bool]) -> None:
    torch, numpy = importlib.import_module("torch"), importlib.import_module("numpy")
    scored, rng = trainer._generate_and_score_completions, numpy.random.default_rng(SEED)

    def noisy(inputs: Any) -> Any:
        result = scored(inputs)
        if is_on():
            drawn = rng.standard_t(2, len(result["advantages"]))
            result["advantages"] = result["advantages"] + torch.tensor(drawn, dtype=torch.float32)
        return result

    trainer._generate_and_score_completions = noisy


def _other_old(trainer: Any, is_on: Callable[[], bool]) -> None:
    torch = importlib.import_module("torch")
    loss = trainer._compute_loss

    def with_other(model: Any, inputs: Any) -> Any:
        if is_on():
            ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
            mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
            with torch.no_grad():
                old = trainer._get_per_token_logps_and_entropies(model, ids, mask, inputs["completion_ids"].size(1))[0]
            inputs = {**inputs, "old_per_token_logps": old + 0.5 * torch.randn_like(old)}
        return loss(model, inputs)

    trainer._compute_loss = with_other


def _other_reference(trainer: Any, is_on: Callable[[], bool]) -> None:
    del is_on
    torch = importlib.import_module("torch")
    torch.manual_seed(SEED + 1)
    with torch.no_grad():
        for weight in trainer.ref_model.parameters():
            weight.add_(0.1 * torch.randn_like(weight))


FAULTS: Mapping[str, FaultInTrl] = {
    "reward_doubled": FaultInTrl(begin=_count_twice),
    "entropy_penalty": FaultInTrl(begin=_penalise_entropy),
    "noisy_advantages": FaultInTrl(install=_noise),
    "noise_without_signal": FaultInTrl(install=_noise),
    "wrong_old_logprobs": FaultInTrl(install=_other_old),
    "other_reference": FaultInTrl(install=_other_reference),
    "raised_rate": FaultInTrl(begin=_raise_rate),
    "halved_limit": FaultInTrl(begin=_halve_limit),
}
"""By the name of the case."""


def train(case: TrlCase) -> tuple[list[dict[str, Any]], str]:
    """The logged rows of a run of TRL, and its configuration as JSON."""
    import_utils = importlib.import_module("trl.import_utils")
    # The import of vLLM takes seconds, and TRL does not use it here.
    with mock.patch.object(import_utils, "is_vllm_available", return_value=False):
        trl, datasets = importlib.import_module("trl"), importlib.import_module("datasets")
        transformers, torch = importlib.import_module("transformers"), importlib.import_module("torch")
        torch.set_num_threads(1)
        options = {name: value for name, value in case.options.items() if name != "rewards"}
        functions = [nothing, nothing] if case.options.get("rewards") == "flat" else [most_of_one, signs]
        prompts = [{"prompt": f"{a}+{b}="} for a in range(10) for b in range(10)]
        longest = LONGEST if case.fault else SHORTEST
        with tempfile.TemporaryDirectory() as folder:
            tokenizer = build_model(folder)
            config = trl.GRPOConfig(
                output_dir=folder, max_steps=case.steps, max_completion_length=longest, logging_steps=1, seed=SEED,
                learning_rate=1e-3, report_to=[], save_strategy="no", use_cpu=True, disable_tqdm=True,
                bf16=False, gradient_checkpointing=False, **options,
            )  # fmt: skip
            trainer = trl.GRPOTrainer(
                model=folder, reward_funcs=functions, args=config, processing_class=tokenizer,
                train_dataset=datasets.Dataset.from_list(prompts),
            )  # fmt: skip
            fault = FAULTS.get(case.name, FaultInTrl())
            if fault.install is not None:
                fault.install(trainer, lambda: trainer.state.global_step >= ONSET - 1)
            trainer.remove_callback(transformers.PrinterCallback)
            trainer.add_callback(_callback(transformers, trainer, fault))
            trainer.train()
            rows = [row for row in trainer.state.log_history if "loss" in row]
            return rows, config.to_json_string()


def _callback(transformers: Any, trainer: Any, fault: FaultInTrl) -> Any:
    def on_step_begin(self: Any, args: Any, state: Any, control: Any, **_: Any) -> None:
        del self, args, control
        if state.global_step == ONSET - 1 and not fault.done:
            fault.done.append(state.global_step)
            if fault.begin is not None:
                fault.begin(trainer)

    return type("Onset", (transformers.TrainerCallback,), {"on_step_begin": on_step_begin})()


def store(case: TrlCase, rows: Sequence[Mapping[str, Any]], config: str) -> None:
    """Write a finished case: the configuration first, so that a log is complete when it exists."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    tree = {name: value for name, value in json.loads(config).items() if name in TrlConfig.model_fields}
    write_atomic(FOLDER / f"{case.name}.config.json", (json.dumps(tree, indent=1) + "\n").encode())
    lines = "".join(json.dumps({k: v for k, v in row.items() if _is_number(v)}) + "\n" for row in rows)
    write_atomic(FOLDER / f"{case.name}.jsonl", lines.encode())


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def stored_runs() -> Iterator[JudgedRun]:
    """The finished cases as `rftfm diagnose --trl-config` judges them."""
    for case in (*HEALTHY, *FAULTY):
        log_path = FOLDER / f"{case.name}.jsonl"
        if log_path.exists():
            log, config = read_log(log_path), read_trl_config(FOLDER / f"{case.name}.config.json")
            laws = laws_of(log, declared_by_trl(config, tuple(log.reward_parts)))
            onset = (1 if case.law == "start" else ONSET) if case.fault else 0
            known = {law.name for law in laws}
            own = [law for law in laws_of(log, None) if law.name not in known]
            yield JudgedRun(case.name, case.options, len(log.steps), case.fault, case.law, onset, (*laws, *own))


def main() -> None:
    """Make runs, or write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--page", action="store_true")
    arguments = parser.parse_args()
    if not arguments.page:
        for case in (*FAULTY, *HEALTHY):
            if (arguments.only and case.name not in arguments.only) or (FOLDER / f"{case.name}.jsonl").exists():
                continue
            store(case, *train(case))
            print(f"{case.name}: {case.steps} steps", flush=True)
    runs = list(stored_runs())
    write_atomic(PAGE, page(runs).encode())
    sys.exit(0 if is_sound(runs) else 1)


if __name__ == "__main__":
    main()
