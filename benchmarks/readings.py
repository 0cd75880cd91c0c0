"""What the absolute readings find in recorded runs: alarms on healthy ones, and steps from a fault to its alarm.

    python -m benchmarks.readings [--data DIR ...] [--out FILE]

Every folder is a benchmark (`rftfm faultbench generate`) or a set of healthy runs (`benchmarks/healthy_set.py`);
without `--data` it is those that stand in benchmarks/data. Of a benchmark the splits calibrate and tune are read, and
the report split never: limits may be set on what is read here. Writes docs/readings.md, with every limit and where it
comes from.
Exit code 1 when a critical reading has an alarm in a run without a fault.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from textwrap import wrap

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from rftfm_ray.detection.detectors.readings import PREFIX, ReadingDetector, reading_detectors
from rftfm_ray.detection.readings.base import Grade, Rule
from rftfm_ray.detection.readings.table import BY_NAME
from rftfm_ray.detection.reference.views import StepView
from rftfm_ray.detection.statistics.cusum import RECOVERED
from rftfm_ray.faultbench.runs.dataset import read_bench
from rftfm_ray.faultbench.runs.plan import Entry, Kind, Split, is_without_fault, mechanism_of
from rftfm_ray.files import write_atomic
from rftfm_ray.signals.schema import INDEX, SIGNALS

ROOT = Path(__file__).parents[1]
DATA = tuple(ROOT / "benchmarks" / "data" / name for name in ("healthy", "healthy_act", "faultbench"))
PAGE = ROOT / "docs" / "readings.md"
WIDTH = 119
INTRODUCTION = (
    "A reading has a limit that no healthy run reaches, whatever its configuration. It needs no profile and no "
    "past, and speaks from the third row on at the earliest. `rftfm train` and `rftfm diagnose` share them. A "
    "*critical* one opens an incident, and makes a log faulty (exit code 1); a *warning* that lasts keeps a log "
    "from being called healthy (exit code 3), and is a notice to a diagnosis. An alarm ends after five sound rows. "
    "A reading without its columns or with too few rows is *not run*; a log is called healthy only where every "
    "family that it has columns of was read."
)
ROWS = (
    "*rows*: those that it must have had; a drift looks at the last 200. Readings of the kind `part_lost` are made "
    "for each part of the reward and each evaluation that a log has columns of, with the limits of "
    "`right_answers_lost`."
)
BY_FAULT = (
    "Runs in which a reading opened at or after the first step with the fault, of all runs of that cell, and the "
    "median of the steps until then. Readings see what has become of a run: a fault that harms nothing is not found"
    " here."
)


Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Run:
    """A recorded run: the cell of its fault, empty without one; the first step with it; and its values (N, signals)."""

    cell: str
    onset: int
    values: Floats


@dataclass(slots=True)
class Record:
    """What one reading did.

    Steps at which it ran and alarms in runs without a fault; by cell of a fault the steps to its alarm, one for each
    run that it found; and alarms before the fault.
    """

    steps: int = 0
    alarms: int = 0
    delays: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    early: int = 0


@dataclass(slots=True)
class Judged:
    """Records by reading, runs by cell, runs by cell that any critical reading found, and steps without a fault."""

    records: dict[str, Record] = field(default_factory=lambda: {name: Record() for name in BY_NAME})
    cells: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    found: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    sound: int = 0


def runs_of(folder: Path) -> Iterator[Run]:
    """The runs of a folder, without those of the report split."""
    if (folder / "runs-000.json").exists():
        for recorded in read_bench(folder):
            if recorded.entry.split is not Split.REPORT:
                yield Run(cell_of(recorded.entry), recorded.entry.onset, recorded.values.astype(np.float64))
        return
    for shard in sorted(folder.glob("*.parquet")):
        table = pq.read_table(shard)
        names = [signal.name for signal in SIGNALS if signal.name in table.column_names]
        values = np.full((len(table), len(SIGNALS)), math.nan)
        for name in names:
            values[:, INDEX[name]] = table[name].to_numpy(zero_copy_only=False)
        runs = np.array(table["run"].to_pylist())
        for run in dict.fromkeys(runs.tolist()):
            yield Run("", 0, values[runs == run])


def cell_of(entry: Entry) -> str:
    """Fault, mechanism and level of a run; empty without a fault."""
    if is_without_fault(entry):
        return ""
    if entry.kind is Kind.TWO_FAULTS:
        return "two faults"
    mechanism = mechanism_of(entry)
    return f"{entry.code}{' ' if mechanism else ''}{mechanism} {entry.level}".strip()


def openings(detector: ReadingDetector, values: Floats) -> tuple[int, list[int]]:
    """Steps at which a reading ran, and the steps, from 1, at which an alarm of it opened."""
    scores = detector.observe(StepView.without_residuals(np.arange(1, len(values) + 1), values)).score[:, 0]
    opened, is_open = list[int](), False
    for step, score in enumerate(scores.tolist(), start=1):
        if score >= 1.0 and not is_open:
            opened.append(step)
        is_open = is_open if math.isnan(score) else score >= 1.0 or (is_open and score > RECOVERED)
    return int(np.isfinite(scores).sum()), opened


def judge(runs: Iterable[Run]) -> Judged:
    """Show all runs to all readings."""
    judged = Judged()
    for run in runs:
        judged.cells[run.cell] += 1
        judged.sound += 0 if run.cell else len(run.values)
        found = False
        for detector in reading_detectors():
            name = detector.name.removeprefix(PREFIX)
            record = judged.records[name]
            steps, opened = openings(detector, run.values)
            if not run.cell:
                record.steps += steps
                record.alarms += len(opened)
                continue
            record.early += sum(step < run.onset for step in opened)
            after = [step - run.onset for step in opened if step >= run.onset]
            record.delays[run.cell] += after[:1]
            found = found or (bool(after) and BY_NAME[name].rule.grade is Grade.CRITICAL)
        judged.found[run.cell] += found
    return judged


def page(judged: Judged, command: str) -> str:
    """The page, in Markdown."""
    records, sound = judged.records, judged.sound
    faulty = sum(number for cell, number in judged.cells.items() if cell)
    found = sum(number for cell, number in judged.found.items() if cell)
    critical = [name for name, entry in BY_NAME.items() if entry.rule.grade is Grade.CRITICAL]
    alarms = sum(records[name].alarms for name in critical)
    notices = sum(record.alarms for record in records.values()) - alarms
    recorded = (
        f"Recorded: {judged.cells.get('', 0)} runs without a fault ({sound:,} steps) and {faulty} with one. In the "
        f"former critical readings raised {alarms} alarms ({_rate(alarms, sound)} in 1,000 steps), the others "
        f"{notices}; of the latter critical readings found {found}."
    )
    lines = [
        "# Absolute readings",
        "",
        f"Made by `{command}`; the report split of the benchmark is not read.",
        "",
        *wrap(INTRODUCTION, WIDTH),
        "",
        *wrap(recorded, WIDTH),
        "",
        "## Limits",
        "",
        "| reading | grade | family | signal | limit | rows | meaning | source of the limit |",
        "|---|---|---|---|---|---|---|---|",
        *(_limit_row(entry.rule) for entry in BY_NAME.values()),
        "",
        *wrap(ROWS, WIDTH),
        "",
        "## On recorded runs",
        "",
        "| reading | steps without a fault on which it ran | alarms there | faulty runs found | before the fault |",
        "|---|---|---|---|---|",
        *(_record_row(name, records[name]) for name in BY_NAME if not BY_NAME[name].rule.in_logs_only),
        "",
        "## By fault",
        "",
        *wrap(BY_FAULT, WIDTH),
        "",
        "| fault, mechanism and level | found by a critical reading | readings: runs (median steps) |",
        "|---|---|---|",
        *_cell_rows(judged),
    ]
    return "\n".join(lines) + "\n"


def _rate(alarms: int, steps: int) -> str:
    return f"{1000 * alarms / steps:.2f}" if steps else "no"


def _limit_row(rule: Rule) -> str:
    where = " (logs only)" if rule.in_logs_only else ""
    cells = (
        f"`{rule.name}`{where}", rule.grade, rule.family, f"`{rule.signal}`", f"{rule.limit:.4g}", rule.fewest,
        rule.says, rule.source,
    )  # fmt: skip
    return f"| {' | '.join(map(str, cells))} |"


def _record_row(name: str, record: Record) -> str:
    found = sum(map(len, record.delays.values()))
    return f"| `{name}` | {record.steps:,} | {record.alarms} | {found} | {record.early} |"


def _cell_rows(judged: Judged) -> Iterator[str]:
    for cell in sorted(cell for cell in judged.cells if cell):
        by = {name: record.delays[cell] for name, record in judged.records.items() if record.delays.get(cell)}
        told = ", ".join(f"`{name}` {len(delays)} ({median(delays):g})" for name, delays in sorted(by.items()))
        yield f"| {cell} | {judged.found[cell]} of {judged.cells[cell]} | {told or '-'} |"


def main(arguments: Sequence[str] | None = None) -> int:
    """Judge the runs of all folders and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", type=Path, default=list(DATA))
    parser.add_argument("--out", type=Path, default=PAGE)
    asked = parser.parse_args(arguments)
    missing = [folder for folder in asked.data if not any(folder.glob("*.parquet"))]
    if missing:
        parser.error(f"{missing[0]} has no Parquet file; give a folder of recorded runs.")
    judged = judge(run for folder in asked.data for run in runs_of(folder))
    named = "" if asked.data == list(DATA) else f" --data {' '.join(folder.name for folder in asked.data)}"
    write_atomic(asked.out, page(judged, f"python -m benchmarks.readings{named}").encode())
    wrong = [n for n, r in judged.records.items() if r.alarms and BY_NAME[n].rule.grade is Grade.CRITICAL]
    told = ", ".join(wrong) or "none"
    print(f"{asked.out}: {judged.sound:,} steps without a fault, alarms of critical readings: {told}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
