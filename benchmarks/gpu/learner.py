"""The learner on a CUDA device: same updates as plain PyTorch, exact restore, time and memory. No network is needed.

    python -m benchmarks.gpu.learner --out FILE.json [--size 0.5b|tiny] [--steps 10] [--device cuda|cpu]

A causal language model of random weights in bfloat16 learns from groups of sequences with a shared prompt, in ZeRO
stages 2 and 3, packed and padded, with and without layers that are computed again. Plain PyTorch does the same updates
on padded sequences, with fp32 master weights. `--size tiny --device cpu` is for trying the script itself. Exit code 1
when a check fails.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

from rftfm_ray.config import LearnerConfig, ModelConfig
from rftfm_ray.training import forward
from rftfm_ray.training.engine import LearnerEngine
from rftfm_ray.training.packing import Packed, pack_sequences

LR, BETAS, NORM = 1e-4, (0.9, 0.999), 1.0
TOLERANCE = 0.02
"""Largest difference of two losses that bfloat16 makes, as a share."""


@dataclass(frozen=True)
class Size:
    """A model and its batch: groups of samples, tokens of a prompt, and of the longest answer."""

    model: Mapping[str, int]
    groups: int
    samples: int
    prompt: int
    answer: int


SIZES = {
    "0.5b": Size(
        {
            "vocab_size": 151_936, "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
            "num_attention_heads": 14, "num_key_value_heads": 2, "max_position_embeddings": 4096,
        },
        groups=4, samples=8, prompt=256, answer=768,
    ),
    "tiny": Size(
        {
            "vocab_size": 512, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
            "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 256,
        },
        groups=2, samples=4, prompt=16, answer=48,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Samples:
    """Sequences of a step: whole, packed, and where their answers' tokens stand."""

    sequences: list[Tensor]
    prompts: list[int]
    packed: Packed
    row: Tensor
    column: Tensor
    targets: Tensor

    @property
    def tokens(self) -> int:
        """Of all sequences."""
        return sum(len(sequence) for sequence in self.sequences)


def draw(size: Size, seed: int, device: torch.device) -> Samples:
    """Groups with a shared prompt each; answers end anywhere from an eighth of the longest on."""
    rng = np.random.default_rng(seed)
    arrays = []
    for _ in range(size.groups):
        prompt = rng.integers(0, size.model["vocab_size"], size.prompt)
        for _ in range(size.samples):
            answer = rng.integers(0, size.model["vocab_size"], rng.integers(size.answer // 8, size.answer + 1))
            arrays.append(np.concatenate([prompt, answer]).astype(np.int32))
    prompts = np.full(len(arrays), size.prompt, np.int32)
    row = np.repeat(np.arange(len(arrays)), [len(array) - size.prompt for array in arrays])
    column = np.concatenate([np.arange(size.prompt - 1, len(array) - 1) for array in arrays])
    targets = np.concatenate([array[size.prompt :] for array in arrays]).astype(np.int64)
    return Samples(
        [torch.from_numpy(array.astype(np.int64)).to(device) for array in arrays],
        prompts.tolist(),
        pack_sequences(arrays, prompts, device),
        *(torch.from_numpy(values).to(device) for values in (row, column, targets)),
    )


def make_engine(path: str, stage: int, **more: object) -> LearnerEngine:
    """The learner's engine in bfloat16."""
    settings = {"zero_stage": stage, "lr": LR, "adam_betas": BETAS, "weight_decay": 0.0, "max_grad_norm": NORM}
    config = LearnerConfig.model_validate({**settings, **more})
    return LearnerEngine(ModelConfig.model_validate({"dtype": "bfloat16"}), path, config)


@contextmanager
def without_packing() -> Iterator[None]:
    """Models that are loaded inside use their own attention on padded sequences."""
    with mock.patch.object(forward, "_packs_wrongly", return_value=True):
        yield


def update(engine: LearnerEngine, samples: Samples) -> float:
    """One update on the mean cross entropy of the answers; the loss before it."""
    loss = cross_entropy(engine.logits(samples.packed, samples.row, samples.column).float(), samples.targets)
    engine.backward(loss, last=True)
    engine.grad_norm()
    engine.commit(LR, NORM)
    return float(loss.detach())


class Plain:
    """The same updates in plain PyTorch: bfloat16 weights, AdamW on fp32 masters, padded sequences."""

    def __init__(self, path: str, device: torch.device) -> None:
        self._model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16).to(device).eval()
        self._parameters = list(self._model.parameters())
        self._masters = [p.detach().float().clone() for p in self._parameters]
        self._adam = torch.optim.AdamW(self._masters, lr=LR, betas=BETAS, weight_decay=0.0)

    def update(self, samples: Samples) -> float:
        """One update on the mean cross entropy of the answers; the loss before it."""
        ids = torch.nn.utils.rnn.pad_sequence(samples.sequences, batch_first=True)
        lengths = torch.tensor([len(sequence) for sequence in samples.sequences], device=ids.device)
        mask = torch.arange(ids.shape[1], device=ids.device)[None, :] < lengths[:, None]
        # Only logits that the loss needs are made float, as the learner does it.
        logits = self._model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        loss = cross_entropy(logits[samples.row, samples.column].float(), samples.targets)
        torch.autograd.backward([loss])
        for master, parameter in zip(self._masters, self._parameters, strict=True):
            gradient = parameter.grad
            master.grad = None if gradient is None else gradient.float()
            parameter.grad = None
        torch.nn.utils.clip_grad_norm_(self._masters, NORM)
        self._adam.step()
        with torch.no_grad():
            for master, parameter in zip(self._masters, self._parameters, strict=True):
                parameter.copy_(master)
        return float(loss.detach())


@dataclass(frozen=True)
class Timed:
    """Seconds of an update, and the most memory that was in use in MiB; NaN on a CPU."""

    seconds: float
    peak_mib: float
    losses: list[float]


def timed(step: Callable[[Samples], float], batches: list[Samples], device: torch.device) -> Timed:
    """Updates on `batches` in turn; the median of all but the first two."""
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    seconds, losses = [], []
    for samples in batches:
        if on_gpu:
            torch.cuda.synchronize()
        began = time.perf_counter()
        losses.append(step(samples))
        if on_gpu:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    peak = torch.cuda.max_memory_allocated() / 2**20 if on_gpu else float("nan")
    return Timed(statistics.median(seconds[2:] or seconds), peak, losses)


def restored(engine: LearnerEngine, batches: list[Samples]) -> float:
    """Largest difference of losses between updates, and the same updates after a restore of what was before them."""
    state = engine.state()
    first = [update(engine, samples) for samples in batches]
    engine.load_state(state)
    again = [update(engine, samples) for samples in batches]
    return max(abs(a - b) for a, b in zip(first, again, strict=True))


def measure(path: str, size: Size, steps: int, device: torch.device) -> dict[str, Any]:
    """Every figure."""
    batches = [draw(size, seed, device) for seed in range(steps)]
    found: dict[str, Any] = {
        "tokens": statistics.fmean(samples.tokens for samples in batches),
        "packed_tokens": statistics.fmean(len(samples.packed.tokens) for samples in batches),
        "padded_tokens": statistics.fmean(
            len(samples.sequences) * max(map(len, samples.sequences)) for samples in batches
        ),
    }
    plain = Plain(path, device)
    found["plain"] = vars(timed(plain.update, batches, device))
    del plain
    for stage in (2, 3):
        for name, more in (("", {}), ("_repeated", {"gradient_checkpointing": True})):
            engine = make_engine(path, stage, **more)
            found[f"zero{stage}{name}"] = vars(timed(partial(update, engine), batches, device))
            if not name:
                found[f"zero{stage}"]["restore_difference"] = restored(engine, batches[:3])
            del engine
            release(device)
    with without_packing():
        engine = make_engine(path, 2)
    found["zero2_padded"] = vars(timed(partial(update, engine), batches, device))
    return found


def release(device: torch.device) -> None:
    """Give back what nothing refers to any more."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def failures(found: Mapping[str, Any]) -> list[str]:
    """Checks that failed, a sentence each."""
    failed = []
    wanted = found["plain"]["losses"]
    for name, figures in found.items():
        if name == "plain" or not isinstance(figures, dict) or "losses" not in figures:
            continue
        apart = max(abs(a - b) / abs(b) for a, b in zip(figures["losses"], wanted, strict=True))
        if not apart <= TOLERANCE:
            failed.append(f"{name}: losses differ from plain PyTorch's by up to {apart:.3g} of theirs.")
        if figures.get("restore_difference", 0.0) > TOLERANCE:
            failed.append(f"{name}: updates after a restore differ by {figures['restore_difference']:.3g}.")
    return failed


def main() -> None:
    """Measure, write the figures as JSON and print what failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--size", choices=SIZES, default="0.5b")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    arguments = parser.parse_args()
    device, size = torch.device(arguments.device), SIZES[arguments.size]
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        config = Qwen2Config(**size.model, tie_word_embeddings=True)
        Qwen2ForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
        found = measure(folder, size, arguments.steps, device)
    import deepspeed
    import transformers

    found["machine"] = {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else platform.processor(),
        "torch": torch.__version__, "deepspeed": deepspeed.__version__, "transformers": transformers.__version__,
    }  # fmt: skip
    found["failed"] = failures(found)
    arguments.out.write_text(json.dumps(found, indent=1))
    print(json.dumps({k: v["seconds"] for k, v in found.items() if isinstance(v, dict) and "seconds" in v}))
    for sentence in found["failed"]:
        print(sentence, file=sys.stderr)
    sys.exit(1 if found["failed"] else 0)


if __name__ == "__main__":
    main()
