"""Strengths of faults that are called easy, hard and harm: searched on some seeds and confirmed on others.

    python -m benchmarks.calibrate_faults [--worker 1/2] [--stage NAME ...] [--minutes N]
    python -m benchmarks.calibrate_faults --list
    python -m benchmarks.calibrate_faults --table

Without `--stage` all stages are made one after the other: `instant` and `learned` are levels by how far a signal moves,
of mechanisms that act by themselves and of those that wait for the policy to learn (runs of 40 steps); `harm` is the
level by loss of accuracy after 40 steps; `dirty-...` are the same in runs with the background of the benchmark. One
confirmed case a mechanism (a task with an algorithm) is enough, all tasks and algorithms have their turn, and `more`
and `dirty-more` are the other cases; `loss`, made when it is named, is what easy and hard cost. Every case (task,
algorithm, fault, mechanism, background) that is done is one line below benchmarks/data/calibration/ and is not made
again: the command can be stopped at any moment. `--worker` makes its part of the cases of every stage, so that several
run beside each other. `--table` writes the table that the package ships.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ray

from benchmarks.provenance import PACKAGES
from rftfm_ray.config import RunConfig, load_config
from rftfm_ray.driver.cluster import connect
from rftfm_ray.faultbench.runs.calibrate import Bench, CalibrationCase, list_cases
from rftfm_ray.faultbench.runs.levels import HARM_STEPS, HARMFUL, SeedPlan, calibrate, calibrate_harm
from rftfm_ray.faultbench.runs.runner import ExperimentRunner
from rftfm_ray.faultbench.runs.strengths import NOWHERE, CellState, state_of
from rftfm_ray.faults.calibration import HARM, TABLE, Calibration
from rftfm_ray.files import write_atomic

ROOT = Path(__file__).parents[1]
DATA = ROOT / "benchmarks" / "data" / "calibration"
TASKS, TOOLS = ("addition", "calculator"), ("calculator",)
ONSET = 6
FIRST_SEED = 2000
LOSS_SEEDS = range(2020, 2023)
# Rows of these files are levels by shifts; of a case in several the later one counts.
BY_SHIFT = ("instant", "again", "learned", "dirty-instant", "dirty-learned", "more", "dirty-more")
BY_LOSS = ("harm", "dirty-harm")
COST_FIELDS = ("accuracy_loss", "loss_seeds", "harmful")


def seed_plan(searched: int, calibrated: int, fresh: int, fresher: int) -> SeedPlan:
    """So many seeds for each part of a search, of which the first part belongs to the second."""
    numbers = iter(range(FIRST_SEED, FIRST_SEED + calibrated + fresh + fresher))
    calibrating, confirming = ([next(numbers) for _ in range(count)] for count in (calibrated, fresh))
    return SeedPlan(tuple(calibrating[:searched]), tuple(calibrating), tuple(confirming), tuple(numbers))


INSTANT = seed_plan(5, 10, 10, 10)
# A run that waits for an effect takes ten times as long.
LEARNED = seed_plan(3, 10, 10, 0)
HARMS = seed_plan(6, 6, 6, 6)


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of the work: its cases, and how one of them is made.

    Attributes:
        name: of the stage, and of its files.
        cases: in an order in which neighbours share their healthy runs.
        plan: the seeds.
        make: the rows of a case.
        once: whether other cases of a mechanism are left out once one is confirmed.
    """

    name: str
    cases: tuple[CalibrationCase, ...]
    plan: SeedPlan
    make: Callable[[Bench, CalibrationCase, SeedPlan], list[Calibration]]
    once: bool = False

    def unit(self, case: CalibrationCase) -> Hashable:
        """What one worker makes all cases of."""
        return (case.code, case.mechanism, case.dirty) if self.once else case


def stages() -> tuple[Stage, ...]:
    """All stages in the order of the work: what is new and clean first, then harm, then everything dirty."""

    def cases(*, dirty: bool) -> tuple[tuple[CalibrationCase, ...], tuple[CalibrationCase, ...]]:
        instant, learned = (tuple(list_cases(TASKS, TOOLS, learned=w, dirty=dirty)) for w in (False, True))
        return instant, learned

    def start_of(case: CalibrationCase, names: Sequence[str], level: str) -> float | None:
        """The strength of a level in runs without a background, at which a search in those with one begins."""
        rows = read(names).get(replace(case, dirty=False), []) if case.dirty else []
        return next((row.strength for row in rows if row.level == level and row.confirmed), None)

    def by_shift(bench: Bench, case: CalibrationCase, plan: SeedPlan) -> list[Calibration]:
        return calibrate(bench, case, plan, start_of(case, BY_SHIFT[:3], "easy"))

    def by_loss(bench: Bench, case: CalibrationCase, plan: SeedPlan) -> list[Calibration]:
        return [calibrate_harm(bench, case, plan, start_of(case, BY_LOSS[:1], HARM))]

    instant, learned = cases(dirty=False)
    dirty_instant, dirty_learned = cases(dirty=True)

    def promising(some: Sequence[CalibrationCase], names: Sequence[str]) -> tuple[CalibrationCase, ...]:
        # To save half of the searches: what has no level without a background is listed as not searched with one.
        known = read(names)
        states = {case: {state_of(row) for row in known.get(replace(case, dirty=False), [])} for case in some}
        there = [case for case in some if not states[case] or not states[case] <= set(NOWHERE)]
        return tuple(sorted(there, key=lambda case: (CellState.CONFIRMED not in states[case], _combination(case))))

    return (
        Stage("instant", in_turns(instant), INSTANT, by_shift, once=True),
        Stage("learned", in_turns(learned), LEARNED, by_shift, once=True),
        Stage("harm", tuple(sorted((*instant, *learned), key=_combination)), HARMS, by_loss, once=True),
        Stage("dirty-instant", in_turns(dirty_instant), INSTANT, by_shift, once=True),
        Stage("dirty-learned", promising(dirty_learned, BY_SHIFT[:3]), LEARNED, by_shift, once=True),
        Stage("dirty-harm", promising((*dirty_instant, *dirty_learned), BY_LOSS[:1]), HARMS, by_loss, once=True),
        Stage("more", instant, INSTANT, by_shift),
        Stage("dirty-more", dirty_instant, INSTANT, by_shift),
    )


def in_turns(cases: Sequence[CalibrationCase]) -> tuple[CalibrationCase, ...]:
    """One case of every mechanism, each combination of task and algorithm in its turn, and then the others."""
    by_mechanism: dict[tuple[str, str], list[CalibrationCase]] = {}
    for case in cases:
        by_mechanism.setdefault((case.code, case.mechanism), []).append(case)
    first = [some[index % len(some)] for index, some in enumerate(by_mechanism.values())]
    others = [case for case in cases if case not in set(first)]
    return (*sorted(first, key=_combination), *sorted(others, key=_combination))


def _combination(case: CalibrationCase) -> tuple[str, str]:
    return case.task, case.algorithm


def loss_stage() -> Stage:
    """What easy and hard strengths cost."""
    known = read(BY_SHIFT)

    def make(bench: Bench, case: CalibrationCase, plan: SeedPlan) -> list[Calibration]:
        return [with_loss(row, bench.loss(case, row.strength, plan.calibrated, HARM_STEPS)) for row in known[case]]

    return Stage("loss", tuple(known), SeedPlan((), tuple(LOSS_SEEDS), (), ()), make)


def with_loss(row: Calibration, losses: Sequence[float]) -> Calibration:
    """A row with what its strength costs."""
    mean = statistics.fmean(losses)
    return replace(row, accuracy_loss=round(mean, 4), loss_seeds=len(losses), harmful=mean >= HARMFUL)


def configure(case: CalibrationCase, seed: int) -> RunConfig:
    """A run of an example, with the background of the case."""
    overrides = [f"algorithm.name={case.algorithm}", f"seed={seed}", "steps=40"]
    overrides += ["background.preset=dirty"] if case.dirty else []
    return load_config(ROOT / "examples" / f"{case.task}.yaml", overrides)


def stored(names: Sequence[str]) -> dict[CalibrationCase, list[dict[str, Any]]]:
    """Stored cases as they are written, each from the last of the stages that has it."""
    rows_by_case: dict[CalibrationCase, list[dict[str, Any]]] = {}
    for file in (path for name in names for path in sorted(DATA.glob(f"{name}-[0-9]*.jsonl"))):
        for line in file.read_text(encoding="utf-8").splitlines():
            rows = json.loads(line)
            key = {name: rows[0][name] for name in CalibrationCase.__slots__ if name in rows[0]}
            rows_by_case[CalibrationCase(**key)] = rows
    return rows_by_case


def read(names: Sequence[str]) -> dict[CalibrationCase, list[Calibration]]:
    """Stored levels of all cases."""
    return {case: [Calibration.from_json(row) for row in rows] for case, rows in stored(names).items()}


def missing_of(stage: Stage, worker: int, workers: int) -> list[CalibrationCase]:
    """Cases of a worker's part of a stage that nobody has made; neighbours share their healthy runs."""
    there = stored(BY_SHIFT if stage.name in BY_SHIFT else [stage.name])
    done = {stage.unit(case) for case, rows in there.items() if rows[0]["confirmed"]} if stage.once else set(there)
    # Parts follow from the names of all cases, so that what others finish meanwhile moves no case to another worker.
    units = sorted({stage.unit(case) for case in stage.cases}, key=str)
    part = set(units[len(units) * (worker - 1) // workers : len(units) * worker // workers])
    return [c for c in stage.cases if c not in there and stage.unit(c) not in done and stage.unit(c) in part]


def generate(runner: ExperimentRunner, stage: Stage, worker: tuple[int, int], until: float) -> None:
    """Make the missing cases of a worker, until the time is over."""
    DATA.mkdir(parents=True, exist_ok=True)
    bench, began, count = Bench(runner, configure, ONSET, stage.plan.all, HARM_STEPS), time.monotonic(), 0
    while (missing := missing_of(stage, *worker)) and time.monotonic() <= until:
        case, count = missing[0], count + 1
        rows = stage.make(bench, case, stage.plan)
        with (DATA / f"{stage.name}-{worker[0]}.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps([row.to_json() for row in rows], allow_nan=False) + "\n")
        left = (time.monotonic() - began) / count * (len(missing) - 1) / 60
        print(f"{stage.name}, at most {len(missing) - 1} cases left ({left:.0f} min): {case}", flush=True)
        for row in rows:
            print(f"    {_said(row)}", flush=True)


def _said(row: Calibration) -> str:
    fresh = row.loss_fresh if row.level == HARM else row.d_fresh
    return f"{row.level} {row.strength:g}, fresh {fresh}, confirmed {row.confirmed} {row.finding}"


def table_rows() -> list[dict[str, Any]]:
    """Rows of the table that the package ships, in its order."""
    costs = {
        (case, row["level"], row["strength"]): {name: row[name] for name in COST_FIELDS}
        for case, rows in stored(["loss"]).items() for row in rows
    }  # fmt: skip
    rows = [
        row.to_json() | costs.get((case, row.level, row.strength), {})
        for case, of_case in [*read(BY_SHIFT).items(), *read(BY_LOSS).items()] for row in of_case
    ]  # fmt: skip
    key = ("task", "algorithm", "code", "mechanism")
    return sorted(rows, key=lambda r: [*(str(r[name]) for name in key), "dirty" in r, str(r["level"])])


def write_table() -> None:
    """The table that the package ships."""
    table = {
        "command": "python -m benchmarks.calibrate_faults",
        "versions": {name: version(name) for name in PACKAGES},
        "machine": f"{os.cpu_count()} CPU cores ({platform.machine()}), Python {platform.python_version()}",
        "seeds": f"from {FIRST_SEED} on, those of `seeds` before those of `seeds_fresh`",
    }
    # A row a line: the package is sent to clusters, and indented it would be a third larger.
    rows = ",\n".join(json.dumps(row, allow_nan=False, separators=(",", ":")) for row in table_rows())
    text = f'{json.dumps(table, indent=1)[:-2]},\n "rows": [\n{rows}\n]\n}}\n'
    write_atomic(ROOT / "rftfm_ray" / "faults" / TABLE, text.encode())


def overview(known: Mapping[str, Stage]) -> Iterator[str]:
    """One line a stage: how many of its cases are left at most."""
    for name, stage in known.items():
        left = len(missing_of(stage, 1, 1))
        yield f"{name}: at most {left} of {len(stage.cases)} cases left"


def main() -> None:
    """Make, list, or write the table."""
    known = {stage.name: stage for stage in stages()}
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--worker", default="1/1")
    parser.add_argument("--stage", nargs="*", choices=(*known, "loss"), default=[])
    parser.add_argument("--minutes", type=float, default=math.inf)
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    if arguments.list:
        print("\n".join(overview(known)))
        return
    if arguments.table:
        write_table()
        return
    worker, workers = (int(part) for part in arguments.worker.split("/"))
    if not 1 <= worker <= workers:
        parser.error(f"--worker {arguments.worker}: the first number counts from 1 to the second")
    until = time.monotonic() + 60 * arguments.minutes
    connect(configure(CalibrationCase(TASKS[0], "grpo", "", ""), 0))
    try:
        with ExperimentRunner() as runner:
            for name in arguments.stage or known:
                generate(runner, known[name] if name in known else loss_stage(), (worker, workers), until)
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main()
