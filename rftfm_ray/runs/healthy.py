"""Reads step rows of healthy runs for `rftfm profile fit`, from run directories and tables."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from rftfm_ray.config import load_config
from rftfm_ray.detection.reference.comparison import facts_of
from rftfm_ray.detection.reference.fitting import RunSeries, surviving_rows
from rftfm_ray.detection.reference.profile import Facts
from rftfm_ray.errors import ConfigError, ProfileError
from rftfm_ray.runs.counts import counts_of
from rftfm_ray.runs.ending import OF_THE_MODEL, ending_problems
from rftfm_ray.runs.reader import find_run, read_run
from rftfm_ray.runs.words import clean, plural
from rftfm_ray.signals.schema import INDEX, verifier_error_rate
from rftfm_ray.telemetry.journal import JOURNAL, read_journal
from rftfm_ray.telemetry.recorder import read_steps

Columns = Mapping[str, NDArray[np.float64]]

# Gaps are not recorded as columns: the share of right answers in training minus that of the probe.
GAPS = {"probe_gap": "probe_accuracy", "sampled_gap": "probe_sampled_accuracy"}
KEY = ("attempt", "step", "paid_step")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A run that a profile may be fitted to.

    Attributes:
        name: as the user gave it.
        series: its step rows; those that a rollback has undone are left out.
        facts: what moves signals in its configuration; None for a table.
        doubt: evidence that it was not healthy; empty without any.
    """

    name: str
    series: RunSeries
    facts: Facts | None
    doubt: str


def read_candidate(text: str) -> Candidate:
    """Read a run directory, the name of a run, or a Parquet or CSV file with one row a step.

    Raises:
        ProfileError: names the file and what is wrong with it.
        RftfmError: when there is no such run, or its records are damaged.
    """
    path = Path(text).expanduser()
    if path.is_file():
        return Candidate(text, _series(text, _read_table(path)), None, "")
    run_dir = find_run(text)
    series = _series(text, _columns(read_steps(run_dir)))
    facts, doubts = _configured(run_dir / "config.yaml")
    doubts += [*_judged(run_dir / JOURNAL), *_ended(run_dir)]
    return Candidate(text, series, facts, " and ".join(doubts))


def _configured(path: Path) -> tuple[Facts | None, list[str]]:
    try:
        config = load_config(path, [])
    except ConfigError as error:
        return None, [f"does not say what it ran ({str(error).rstrip('.')})"]
    return facts_of(config), [f"had faults injected ({', '.join(config.inject)})"] if config.inject else []


def _judged(path: Path) -> list[str]:
    """Incidents and applied remedies in the journal, if there is one."""
    if not path.exists():
        return []
    counts = counts_of(read_journal(path)[0])
    remedies = plural(counts.remedies, "applied remedy", "applied remedies")
    doubt = f"has {plural(counts.incidents, 'incident')} and {remedies} in its journal"
    return [doubt] if counts.incidents or counts.remedies else []


def _ended(run_dir: Path) -> list[str]:
    """What its own records say against the model that a run ended with. Incidents are counted from the journal."""
    problems = [problem for problem in ending_problems(read_run(run_dir)) if problem.kind in OF_THE_MODEL]
    return [f"ended badly ({' '.join(problem.message for problem in problems).rstrip('.')})"] if problems else []


def _series(name: str, columns: Columns) -> RunSeries:
    if "step" not in columns:
        raise ProfileError(f"{clean(name)} has no column `step`; give step rows, one a step.")
    steps = _whole_numbers(name, "step", columns["step"])
    if not steps.size:
        raise ProfileError(f"{clean(name)} has no recorded step; leave it out.")
    rows = np.arange(steps.size)
    if "attempt" in columns:
        attempts = _whole_numbers(name, "attempt", columns["attempt"])
        paid = _whole_numbers(name, "paid_step", columns["paid_step"]) if "paid_step" in columns else steps
        if len(np.unique(np.stack([attempts, steps, paid]), axis=1).T) < steps.size:
            raise ProfileError(f"{clean(name)} has a step of one attempt twice; give each run by itself.")
        rows = surviving_rows(attempts, steps, paid)
    values = {signal: columns[signal][rows] for signal in columns if signal in INDEX}
    for gap, probe in GAPS.items():
        if gap not in values and "correct_rate" in values and probe in values:
            values[gap] = values["correct_rate"] - values[probe]
    if "verifier_error_rate" not in values and {"valid_rate", "failed_rate"} <= columns.keys():
        rates = zip(columns["valid_rate"][rows], columns["failed_rate"][rows], strict=True)
        values["verifier_error_rate"] = np.array([verifier_error_rate(valid, failed) for valid, failed in rates])
    return RunSeries(steps[rows], values, clean(name))


def _whole_numbers(name: str, column: str, values: NDArray[np.float64]) -> NDArray[np.int64]:
    if not (np.isfinite(values).all() and (values == np.floor(values)).all() and (np.abs(values) < 2**53).all()):
        raise ProfileError(f"{clean(name)} has a {column} that is not a whole number below 2^53; correct it there.")
    return values.astype(np.int64)


def _read_table(path: Path) -> Columns:
    if path.suffix.lower() == ".csv":
        return _read_csv(path)
    try:
        return _columns(pq.read_table(path))
    except (OSError, ValueError, pa.ArrowException) as error:
        why = " ".join(str(error).split())[:200]
        raise ProfileError(f"{clean(str(path))} is neither CSV nor Parquet that can be read ({clean(why)}).") from None


def _columns(table: pa.Table) -> Columns:
    """Signals and keys of a table as floats, NaN for null; keys beyond 2^53 are rounded and refused later."""
    wanted = [name for name in table.schema.names if name in INDEX or name in KEY]
    return {name: table.column(name).cast(pa.float64(), safe=False).to_numpy().astype(np.float64) for name in wanted}


def _read_csv(path: Path) -> Columns:
    columns: dict[str, list[float]] = {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            wanted = [name for name in reader.fieldnames or () if name in INDEX or name in KEY]
            for row in reader:
                for name in wanted:
                    columns.setdefault(name, []).append(_number(path, reader.line_num, name, row[name]))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ProfileError(f"{clean(str(path))} cannot be read as CSV ({clean(str(error))}); check the file.") from None
    return {name: np.array(values, np.float64) for name, values in columns.items()}


def _number(path: Path, line: int, name: str, text: str | None) -> float:
    if not text:
        return math.nan
    try:
        return float(text)
    except ValueError:
        raise ProfileError(
            f"{clean(str(path))} line {line}: {name}={clean(text[:40])} is not a number; correct it there."
        ) from None
