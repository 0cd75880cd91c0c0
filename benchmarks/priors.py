"""Makes the shipped priors: how signals go together with and without a critic, from recorded healthy runs.

    python benchmarks/priors.py [--data benchmarks/data/healthy] [--out rftfm_ray/assets/priors.json]
    python benchmarks/priors.py --data benchmarks/data/priors --check

Runs of all tasks go in; the benchmark judges every task by priors of the other ones alone, learnt from its own
calibrate split. `--check` writes nothing: it judges the runs of each task by priors of the other tasks, without a
profile, and prints their false alarms and the threshold that keeps them within the budget. Both say how many runs and
steps each number rests on.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from rftfm_ray.config import RunConfig
from rftfm_ray.detection.monitor import Monitor
from rftfm_ray.detection.reference.fitting import RunSeries
from rftfm_ray.detection.reference.mixture import reference_of
from rftfm_ray.detection.reference.priors import FEWEST_OF_A_KIND, SHIPPED, ShippedPriors, kind_of, learn_priors
from rftfm_ray.detection.suite import monitor_settings
from rftfm_ray.faultbench.detectors.alarms import alarms_of
from rftfm_ray.files import write_atomic
from rftfm_ray.signals.groups import TELEMETRY
from rftfm_ray.signals.schema import SIGNALS
from rftfm_ray.types import StepId
from rftfm_ray.verdicts import StepReport

ROOT = Path(__file__).parents[1]
DATA = ROOT / "benchmarks" / "data" / "healthy"
COMMAND = "python benchmarks/priors.py"
BUDGET = 0.5
"""False alarms in 1,000 healthy steps that a threshold must keep to: half of what the guard promises."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Judged:
    """False alarms of one task and kind of algorithm, judged by priors of the other tasks.

    Attributes:
        task: of the judged runs.
        kind: of their algorithm.
        runs: that were judged.
        steps: of them.
        prior_runs: runs of the other tasks that the priors rest on.
        prior_steps: steps of them.
        alarms: telemetry alarms at the thresholds in force.
        threshold: factor on these that keeps the alarms within `BUDGET`.
    """

    task: str
    kind: str
    runs: int
    steps: int
    prior_runs: int
    prior_steps: int
    alarms: int
    threshold: float


def runs(folder: Path) -> Iterator[RunSeries]:
    """Every run of a folder, in the order of their names: task, algorithm, model size, background if any, and seed."""
    for path in sorted(folder.glob("*.parquet")):
        table = pq.read_table(path)
        names = np.array(table["run"].to_pylist())
        # The steps of a run stand in their order.
        for name in sorted(set(names.tolist())):
            yield series_of_rows(table.filter(pa.array(names == name)), name)


def series_of_rows(table: pa.Table, name: str) -> RunSeries:
    """The rows of a run as priors are learnt from them."""
    columns = {s.name: table[s.name].to_numpy().astype(np.float64) for s in SIGNALS if s.name in table.column_names}
    return RunSeries(np.arange(1, len(table) + 1), columns, name)


def stratum_of(run: RunSeries) -> str:
    """What runs share that are compared with each other: their name without the seed."""
    return run.name.rpartition("-")[0]


def task_of(run: RunSeries) -> str:
    """The task of a run."""
    return run.name.partition("-")[0]


def by_kind(every: Sequence[RunSeries]) -> dict[str, list[list[RunSeries]]]:
    """Runs by the kind of their algorithm, those of a stratum together."""
    strata: dict[str, list[RunSeries]] = {}
    for run in every:
        strata.setdefault(stratum_of(run), []).append(run)
    kinds: dict[str, list[list[RunSeries]]] = {}
    for group in strata.values():
        kinds.setdefault(kind_of(group), []).append(group)
    return kinds


def steps_of(groups: Sequence[Sequence[RunSeries]]) -> int:
    """Steps of all runs."""
    return sum(len(run.steps) for group in groups for run in group)


def basis_lines(kinds: Mapping[str, Sequence[Sequence[RunSeries]]]) -> list[str]:
    """How many runs and steps each part of the priors rests on, as rows of a table."""
    lines = ["| kind | part | strata | runs | steps | signals | steps of the least measured signal |", "|---" * 7 + "|"]
    for kind, groups in sorted(kinds.items()):
        large = [group for group in groups if len(group) >= FEWEST_OF_A_KIND]
        for part, used in (("own_past", groups), ("healthy", large)):
            measured = [
                sum(int(np.isfinite(run.values[name]).sum()) for group in used for run in group if name in run.values)
                for name in TELEMETRY
            ]
            known = [count for count in measured if count]
            lines.append(
                f"| {kind} | {part} | {len(used)} | {sum(map(len, used))} | {steps_of(used)} | {len(known)} | "
                f"{min(known, default=0)} |"
            )
    return lines


def reports_of(run: RunSeries) -> list[StepReport]:
    """The steps of a run as the monitor gets them; NaN for what the rows leave out."""
    nothing = np.full(len(run.steps), np.nan)
    table = np.column_stack([run.values.get(signal.name, nothing) for signal in SIGNALS])
    return [StepReport(StepId(0, step, step), step - 1, tuple(row)) for step, row in enumerate(table.tolist(), start=1)]


def threshold_within(scores: Sequence[Floats], budget: float) -> float:
    """The smallest threshold of scores at which the runs raise at most `budget` alarms in 1,000 steps; 1 for no scores.

    Args:
        scores: (N) of each run.
        budget: alarms in 1,000 steps.
    """
    allowed = int(budget * sum(map(len, scores)) / 1000)
    values = np.unique(np.concatenate([run[np.isfinite(run) & (run > 0)] for run in scores])) if scores else np.empty(0)
    low, high = 0, len(values) - 1
    if high < 0:
        return 1.0
    while low < high:
        middle = (low + high) // 2
        if count_alarms(scores, float(np.nextafter(values[middle], np.inf))) <= allowed:
            high = middle
        else:
            low = middle + 1
    return float(np.nextafter(values[low], np.inf))


def count_alarms(scores: Sequence[Floats], threshold: float) -> int:
    """Alarms of all runs at a threshold."""
    return sum(len(alarms_of(run, threshold)) for run in scores)


def judge_others(every: Sequence[RunSeries]) -> Iterator[Judged]:
    """Every task judged by priors of the other ones, without a profile, kind by kind."""
    # The runs are of several configurations, and of none of them is it asked what it declares.
    settings = replace(monitor_settings(RunConfig()), declared=())
    for kind, groups in sorted(by_kind(every).items()):
        for task in sorted({task_of(group[0]) for group in groups}):
            others = [group for group in groups if task_of(group[0]) != task]
            own = [run for group in groups if task_of(group[0]) == task for run in group]
            if sum(map(len, others)) < FEWEST_OF_A_KIND:
                continue
            reference = reference_of(None, learn_priors(others))
            scores = [
                np.array([step.scores.telemetry for step in Monitor(settings, reference).observe(reports_of(run))])
                for run in own
            ]
            yield Judged(
                task, kind, len(own), steps_of([own]), sum(map(len, others)), steps_of(others),
                count_alarms(scores, 1.0), threshold_within(scores, BUDGET),
            )  # fmt: skip


def judged_lines(judged: Sequence[Judged]) -> list[str]:
    """A row for each task and kind, and the largest threshold of all."""
    heading = (
        "| task | kind | runs | steps | priors: runs | priors: steps | false alarms | in 1,000 steps | threshold |"
    )
    lines = [heading, "|---" * 9 + "|"]
    for one in judged:
        basis = f"{one.runs} | {one.steps} | {one.prior_runs} | {one.prior_steps}"
        rate = 1000 * one.alarms / one.steps
        lines.append(f"| {one.task} | {one.kind} | {basis} | {one.alarms} | {rate:.2f} | {one.threshold:.3f} |")
    if judged:
        lines.append(f"largest threshold: {max(one.threshold for one in judged):.3f} times the one in force")
    return lines


def main() -> None:
    """Fit the priors to the recorded healthy runs and write them, or check them task by task."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--out", type=Path, default=ROOT / "rftfm_ray" / "assets" / "priors.json")
    parser.add_argument("--check", action="store_true", help="judge each task by priors of the others; write nothing")
    options = parser.parse_args()
    every = list(runs(options.data))
    if not every:
        parser.error(f"{options.data} holds no runs; make them with python -m benchmarks.priors_runs")
    kinds = by_kind(every)
    print("\n".join(basis_lines(kinds)))
    if options.check:
        print("\n".join(judged_lines(list(judge_others(every)))))
        return
    inside = options.data.resolve().relative_to(ROOT) if options.data.resolve().is_relative_to(ROOT) else options.data
    command = COMMAND if options.data == DATA else f"{COMMAND} --data {inside}"
    priors = ShippedPriors.of(command, kinds)
    write_atomic(options.out, SHIPPED.dump_json(priors) + b"\n")
    print(", ".join(f"{count} runs, {kind}" for kind, count in sorted(priors.runs.items())), f"-> {options.out}")


if __name__ == "__main__":
    main()
