"""Warm step time by phase, and start to first step, of both tasks at 16 prompts x 8 samples.

    python benchmarks/step_time.py [--steps 60] [--runs 3] [key=value ...]

Runs alternate between the tasks, so that a slow spell of the machine hits both. Medians over all warm steps.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from rftfm_ray.telemetry.recorder import read_steps

ROOT = Path(__file__).parents[1]
TARGET_MS = {"addition": 200.0, "calculator": 300.0}
TARGET_FIRST_S = 20.0
PHASES = ("generate_s", "train_s", "sync_s", "step_s")
WARM_AFTER = 10


def run(task: str, steps: int, folder: Path, overrides: list[str]) -> tuple[float, dict[str, list[float]]]:
    """Seconds from start to first step, and seconds of every warm step by phase."""
    command = [sys.executable, "-m", "rftfm_ray", "train", str(ROOT / "examples" / f"{task}.yaml"), "--json"]
    command += ["--run-dir", str(folder), f"steps={steps}", "probe.every=0", "--guard", "off", *overrides]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")
    rows = read_steps(folder).slice(WARM_AFTER)
    return json.loads(done.stdout)["first_step_s"], {phase: rows[phase].to_pylist() for phase in PHASES}


def main() -> None:
    """Measure and print one line a task."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("overrides", nargs="*")
    arguments = parser.parse_args()
    firsts: dict[str, list[float]] = defaultdict(list)
    times: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    with tempfile.TemporaryDirectory() as temporary:
        for number in range(arguments.runs):
            for task in TARGET_MS:
                folder = Path(temporary) / f"{task}-{number}"
                first, phases = run(task, arguments.steps, folder, arguments.overrides)
                firsts[task].append(first)
                for phase, seconds in phases.items():
                    times[task][phase] += seconds
    print(f"{os.cpu_count()} cores, medians of {arguments.runs} runs x {arguments.steps - WARM_AFTER} warm steps, ms")
    print(
        f"{'task':12}{'generate':>10}{'train':>10}{'sync':>10}{'step':>10}{'target':>10}{'first step':>14}{'target':>8}"
    )
    for task, target in TARGET_MS.items():
        figures = "".join(f"{statistics.median(times[task][phase]) * 1000:10.0f}" for phase in PHASES)
        first = statistics.median(firsts[task])
        print(f"{task:12}{figures}{target:10.0f}{first:12.1f} s{TARGET_FIRST_S:6.0f} s")


if __name__ == "__main__":
    main()
