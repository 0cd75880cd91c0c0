"""What watching costs: a step in the loop's own thread and in the monitor, steps at a high pace, a long log at once.

    python benchmarks/watch_cost.py [--steps 10000] [--pace 1000] [--log-steps 100000] [--out FILE.json]

Steps of a recorded healthy run, over and over, go through the guard of a live run (`observe`, monitor and controller
in actors of their own) at a fixed pace, which no training has; measured is the time of handing one over, as the loop
does. The same steps, with all signals, go one by one through a monitor in this process. Then a log of twelve signals is
read from Parquet and judged in a process of its own.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray

from rftfm_ray.actors.guards import start_guard
from rftfm_ray.config import load_config
from rftfm_ray.detection.monitor import monitor_plan
from rftfm_ray.diagnosis.logs import judge_log
from rftfm_ray.driver.cluster import connect
from rftfm_ray.driver.guard import LiveGuard
from rftfm_ray.integrations.steplog import read_log
from rftfm_ray.metrics import BatchMetrics, CheckMetrics, CreditMetrics, StepRow, UpdateMetrics
from rftfm_ray.planning import plan
from rftfm_ray.signals.schema import SIGNALS
from rftfm_ray.types import Levers, StepId
from rftfm_ray.verdicts import StepReport

ROOT = Path(__file__).parents[1]
RECORDED = ROOT / "benchmarks" / "data" / "healthy" / "steps-000.parquet"
PACKAGES = ("ray", "numpy", "pyarrow")
LOGGED = (
    "reward_mean", "reward_std", "kl_ref", "entropy", "loss", "policy_loss", "grad_norm", "length_mean",
    "clip_high_rate", "advantage_std", "truncated_rate", "zero_variance_group_rate",
)  # fmt: skip
PARTS = {"batch": BatchMetrics, "update": UpdateMetrics, "credit": CreditMetrics, "checks": CheckMetrics}
TARGETS = {"hand_over_us": 10.0, "monitor_ms": 1.0, "log_s": 5.0, "log_peak_gib": 1.0}
# Steps of one run in the monitor, after which it begins again: as long as a long run of the benchmark.
RUN_STEPS, MONITOR_STEPS = 500, 2000


def recorded() -> list[tuple[float, ...]]:
    """Values of the reports of one healthy run, step by step."""
    table = pq.read_table(RECORDED)
    here = np.array(table["run"].to_pylist()) == table["run"][0].as_py()
    columns = [
        table[signal.name].to_numpy()[here] if signal.name in table.column_names else np.full(int(here.sum()), np.nan)
        for signal in SIGNALS
    ]
    return [tuple(map(float, row)) for row in zip(*columns, strict=True)]


def row_of(values: tuple[float, ...]) -> Any:
    """The parts of a step row that a report is made of."""
    known = {signal.name: value for signal, value in zip(SIGNALS, values, strict=True)}

    def part(kind: type[Any]) -> Any:
        return kind(**{field.name: known[field.name] for field in dataclasses.fields(kind)})

    row = StepRow.__new__(StepRow)
    for name, kind in PARTS.items():
        object.__setattr__(row, name, part(kind))
    object.__setattr__(row, "model_version", 0)
    object.__setattr__(row, "snapshots", ())
    return row


def live(steps: int, pace: float) -> dict[str, float]:
    """Steps at a pace through the guard of a live run: microseconds a step, and whether all of them were judged."""
    config = load_config(ROOT / "examples" / "addition.yaml", ["guard.mode=observe"])
    rows = [row_of(values) for values in recorded()]
    lost: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        guards = start_guard(plan(config, Path(folder) / "run"))
        try:
            guards.attach(Path(folder) / "journal.jsonl", StepId(0, 0, 0), Levers())
            guard = LiveGuard(config.guard, guards, lost.append, lambda _: None)
            handing = paced(guard, rows, steps, pace)
            began = time.perf_counter()
            totals = guard.finish(StepId(0, steps, steps))
            behind = time.perf_counter() - began
        finally:
            guards.stop()
    quantiles = {"hand_over_us": 0.5, "hand_over_us_p90": 0.9, "hand_over_us_p99": 0.99}
    taken = {name: float(np.quantile(handing, share) * 1e6) for name, share in quantiles.items()}
    counted = {"waits": totals.waits, "lost": len(lost), "steps": steps}
    return taken | {name: float(count) for name, count in counted.items()} | {"behind_s": behind}


def paced(guard: LiveGuard, rows: Sequence[Any], steps: int, pace: float) -> Any:
    """Hand over so many steps; seconds (N) that each took."""
    taken, began = np.empty(steps), time.perf_counter()
    for step in range(1, steps + 1):
        while (left := began + step / pace - time.perf_counter()) > 0:
            time.sleep(left)
        row = with_id(rows[step % len(rows)], step)
        start = time.perf_counter()
        guard.report(row)
        taken[step - 1] = time.perf_counter() - start
    return taken


def with_id(row: Any, step: int) -> Any:
    """The row as that of a step; a copy, for the guard may not have read the last one yet."""
    made = StepRow.__new__(StepRow)
    for name in (*PARTS, "model_version", "snapshots"):
        object.__setattr__(made, name, getattr(row, name))
    object.__setattr__(made, "id", StepId(0, step, step))
    return made


def monitor_steps(steps: int) -> dict[str, float]:
    """Milliseconds that a monitor needs for one step with all signals, without a profile, as it ships."""
    watching = monitor_plan(load_config(ROOT / "examples" / "addition.yaml", ["guard.mode=observe"]))
    values, seconds = recorded(), np.empty(steps)
    monitor = watching.build()
    for index in range(steps):
        step = index % RUN_STEPS + 1
        if step == 1:
            monitor = watching.build()
        report = StepReport(StepId(0, step, step), 0, values[index % len(values)])
        start = time.perf_counter()
        monitor.observe([report])
        seconds[index] = time.perf_counter() - start
    return {"monitor_ms": float(np.median(seconds) * 1e3), "monitor_ms_p90": float(np.quantile(seconds, 0.9) * 1e3)}


def long_log(steps: int) -> dict[str, float]:
    """Seconds and GiB of reading and judging a log in a process of its own."""
    rng = np.random.default_rng(0)
    values = {name: 0.5 + 0.02 * rng.standard_normal(steps) for name in LOGGED}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log.parquet"
        pq.write_table(pa.table({"step": np.arange(1, steps + 1), **values}), path)
        command = [sys.executable, __file__, "--judge", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    costs: dict[str, float] = json.loads(done.stdout)
    return costs


def judge(path: Path) -> None:
    """In a process of its own: read and judge a log, and report the cost."""
    began = time.perf_counter()
    verdict = judge_log(read_log(path))
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps({"log_s": seconds, "log_peak_gib": peak, "log_alarms": len(verdict.alarms)}))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--pace", type=float, default=1000.0)
    parser.add_argument("--log-steps", type=int, default=100_000)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--judge", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.judge:
        judge(arguments.judge)
        return
    connect(load_config(ROOT / "examples" / "addition.yaml", []))
    try:
        costs: dict[str, Any] = live(arguments.steps, arguments.pace)
    finally:
        ray.shutdown()
    costs |= monitor_steps(min(arguments.steps, MONITOR_STEPS))
    costs |= long_log(arguments.log_steps)
    for name, value in costs.items():
        aim = f"  (target {TARGETS[name]:g})" if name in TARGETS else ""
        print(f"{name} {value:.4g}{aim}")
    machine = f"{os.cpu_count()} CPU cores ({platform.machine()}), Python {platform.python_version()}"
    costs |= {"versions": {name: version(name) for name in PACKAGES}, "machine": machine}
    if arguments.out:
        arguments.out.write_text(json.dumps(costs, indent=1) + "\n")


if __name__ == "__main__":
    main()
