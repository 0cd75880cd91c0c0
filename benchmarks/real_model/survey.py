"""What share of a generator's problems a model solves untrained, by sampling as in training.

    rftfm model smollm2 MODEL
    python -m benchmarks.real_model.survey MODEL [--problems 64] [--samples 4] [--tokens 24] [--only NAME]

Writes benchmarks/data/real_model/survey.json, a generator at a time; those that are in it are not asked again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.real_model.tasks import CANDIDATES, GymRows, rows_of
from rftfm_ray.config import RolloutConfig
from rftfm_ray.errors import RewardError
from rftfm_ray.files import write_atomic
from rftfm_ray.rollout.engine import TurnRequest, TurnResult, VllmEngine
from rftfm_ray.rollout.text import TextCodec
from rftfm_ray.tasks.verifiers import verifier_of
from rftfm_ray.types import Sampling

FILE = Path(__file__).parents[1] / "data" / "real_model" / "survey.json"
SEED, LONGEST_PROMPT = 11, 512


@dataclass(frozen=True)
class Asking:
    """How often and how long a model answers: problems of a generator, samples of each, and tokens of an answer."""

    problems: int
    samples: int
    tokens: int


def answered(engine: VllmEngine, codec: TextCodec, task: GymRows, asking: Asking) -> dict[str, Any]:
    """Rates over all samples, and an example."""
    samples = asking.samples
    rows = [(row, codec.encode(codec.chat(row["prompt"]))) for row in rows_of(task, asking.problems)]
    kept = [(row, prompt) for row, prompt in rows if len(prompt) <= LONGEST_PROMPT]
    for number, (_, prompt) in enumerate(kept):
        for sample in range(samples):
            request = number * samples + sample
            engine.submit(
                TurnRequest(request, prompt, SEED + request, asking.tokens, codec.eos_ids), Sampling(1.0, 1.0)
            )
    results = dict[int, TurnResult]()
    while engine.busy():
        results |= {result.id: result for result in engine.step()}
    texts = [
        codec.decode([t for t in results[request].tokens if t not in codec.eos_ids]) for request in sorted(results)
    ]
    check = verifier_of(task.verifier)
    right = [is_right(check, text, kept[request // samples][0]["answer"]) for request, text in enumerate(texts)]
    solved = [sum(right[first : first + samples]) for first in range(0, len(right), samples)]
    return {
        "problems": len(kept), "samples": samples, "tokens": asking.tokens, "right": sum(right) / len(right),
        "mixed_groups": sum(0 < count < samples for count in solved) / len(kept),
        "ended": sum(not result.truncated for result in results.values()) / len(results),
        "prompt_tokens": max(len(prompt) for _, prompt in kept),
        "example": [kept[0][0]["prompt"][0]["content"], kept[0][0]["answer"], texts[:samples]],
    }  # fmt: skip


def is_right(check: Callable[[str, str], bool] | None, answer: str, truth: str) -> bool:
    """Whether a verifier calls an answer right; it must know how to read the truth."""
    if check is None:
        raise ValueError("no verifier that ships")
    try:
        return check(answer, truth)
    except RewardError as error:
        raise SystemExit(f"{truth!r}: {error}") from error


def main() -> None:
    """Ask the model, and write what it solves."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", type=Path)
    parser.add_argument("--problems", type=int, default=64)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--only")
    arguments = parser.parse_args()
    found: dict[str, Any] = json.loads(FILE.read_text()) if FILE.exists() else {}
    codec, asking = TextCodec(str(arguments.model)), Asking(arguments.problems, arguments.samples, arguments.tokens)
    room = {"max_model_len": LONGEST_PROMPT + asking.tokens, "max_num_seqs": 64, "kv_cache_mib": 2048}
    engine = VllmEngine(str(arguments.model), "float32", RolloutConfig.model_validate(room))
    for task in CANDIDATES:
        if task.label in found or (arguments.only and task.name != arguments.only):
            continue
        figures = answered(engine, codec, task, asking)
        found[task.label] = figures
        FILE.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(FILE, (json.dumps(found, indent=1, ensure_ascii=False) + "\n").encode())
        print(f"{task.label}: {figures['right']:.2f} right, {figures['mixed_groups']:.2f} mixed", flush=True)


if __name__ == "__main__":
    main()
