"""The absolute readings of a step log: which ran, on how many rows, what they found, and what the others lack. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from rftfm_ray.detection.detectors.readings import names_of, sentence, usable
from rftfm_ray.detection.readings.base import AbsoluteReading, Family, Rule, Said
from rftfm_ray.detection.readings.levels import FEWEST_WRONG
from rftfm_ray.detection.readings.table import TABLE, Entry, beside_entries
from rftfm_ray.detection.statistics.change_points import FEWEST
from rftfm_ray.detection.statistics.cusum import RECOVERED
from rftfm_ray.integrations.steplog import StepLog
from rftfm_ray.signals.logged import BESIDE, NOT_FINITE

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]

FOUND, SILENT, NOT_RUN = "found", "silent", "not run"
FAMILIES_WITHOUT_CHECK = frozenset((str(Family.ROLLOUT), str(Family.CRITIC), str(Family.FINITE)))
"""Families that are read by readings alone; each of the others has a check of `logs.EXPECTED` too."""
OF_AGREEING: Mapping[str, int] = {
    "zero_variance_group_rate": 1, "all_right_group_rate": 1, "reward_std": -1, "grad_norm": -1,
}  # fmt: skip
"""What groups that agree move, as they do where a task is solved, and to which side."""
# Values of an update, one of which a log must have for the share of rows that are not finite.
_OF_UPDATES = ("loss", "policy_loss", "grad_norm", "kl_ref", "entropy")


@dataclass(frozen=True, slots=True)
class ReadingRun:
    """One reading of a log.

    Attributes:
        name: of the reading.
        family: what it is about.
        grade: note, warning or critical.
        inputs: columns that it may read, by their names in the dictionary.
        state: `found`, `silent` or `not run`.
        rows: rows that had all of its inputs.
        lacks: what it would take to run it, in words; empty where it ran.
    """

    name: str
    family: str
    grade: str
    inputs: tuple[str, ...]
    state: str
    rows: int
    lacks: str


@dataclass(frozen=True, slots=True)
class Break:
    """Rows of a log (from 0) at which a reading was broken: the first, that of its alarm, and the last.

    `signal` is the one that shows it: of the rule, or another of its inputs where the log lacks that.
    """

    rule: Rule
    signal: str
    first: int
    raised: int
    last: int
    says: str


@dataclass(frozen=True, slots=True)
class LogReadings:
    """What all readings say of a log: the runs of each, and the breaks in the order of the table."""

    runs: tuple[ReadingRun, ...]
    breaks: tuple[Break, ...]

    def read_names(self) -> frozenset[str]:
        """Names of the columns that a reading that ran may have read."""
        return frozenset(name for run in self.runs if run.state != NOT_RUN for name in run.inputs)

    def families_read(self) -> frozenset[str]:
        """Families of which at least one reading ran."""
        return frozenset(run.family for run in self.runs if run.state != NOT_RUN)

    def families_lacking_rows(self) -> frozenset[str]:
        """Families that have columns, and of which no reading had enough rows."""
        return frozenset(run.family for run in self.runs if run.rows) - self.families_read()


def read(log: StepLog) -> LogReadings:
    """Show a log to every reading."""
    values = {name: usable(column) for name, column in log.values.items()}
    finite = not_finite_rows(log.values)
    if finite is not None:
        values[NOT_FINITE] = finite
    runs, breaks = list[ReadingRun](), list[Break]()
    for entry in (*TABLE, *beside_entries(name for name in values if name.startswith(BESIDE))):
        reading = entry.build()
        if not all(any(name in values for name in names) for names in entry.rule.needs):
            runs.append(_run(entry, NOT_RUN, 0, _columns_lacking(entry.rule, values)))
            continue
        rows, complete, columns = _rows(reading, values)
        count = int(complete.sum())
        found = list(_breaks(reading, rows, complete, columns, log)) if count and reading.may_break(columns) else []
        breaks += found
        lacking = count < entry.rule.fewest
        lacks = f"{entry.rule.fewest} rows with {_either(entry.rule.needs)}" if lacking else ""
        state = FOUND if found else NOT_RUN if lacking else SILENT
        runs.append(_run(entry, state, count, lacks))
    return LogReadings(tuple(runs), tuple(breaks))


def _run(entry: Entry, state: str, rows: int, lacks: str) -> ReadingRun:
    rule = entry.rule
    return ReadingRun(rule.name, str(rule.family), str(rule.grade), rule.inputs, state, rows, lacks)


def _either(needs: Sequence[tuple[str, ...]]) -> str:
    return " and ".join(" or ".join(names) for names in needs)


def _columns_lacking(rule: Rule, values: Mapping[str, Floats]) -> str:
    missing = [names for names in rule.needs if not any(name in values for name in names)]
    return f"a column {_either(missing)}"


def not_finite_rows(values: Mapping[str, Floats]) -> Floats | None:
    """1 at rows where a value of the update was logged and is not finite, 0 where all are; None without such a column.

    Several such rows before the first finite one are NaN: mixed precision looks for its scale there.
    """
    columns = [values[name] for name in _OF_UPDATES if name in values]
    if not columns:
        return None
    logged = ~np.isnan(np.stack(columns))
    wrong = (np.isinf(np.stack(columns)) & logged).any(0)
    rows = np.where(logged.any(0), wrong.astype(np.float64), math.nan)
    sound = np.flatnonzero(rows == 0)
    before = int(sound[0]) if len(sound) else len(rows)
    if before > 1:
        rows[:before] = math.nan
    return rows


def _rows(reading: AbsoluteReading, values: Mapping[str, Floats]) -> tuple[Ints, Mask, dict[str, Floats]]:
    """Rows that a reading takes: their places (N), whether each has all inputs, and the columns (N) that it may read.

    The others have what it follows.
    """
    names = [name for name in names_of(reading) if name in values]
    measured = {name: np.isfinite(values[name]) for name in names}
    needs = [[measured[name] for name in either if name in measured] for either in reading.rule.needs]
    complete = np.all([np.any(columns, 0) for columns in needs], 0)
    rows = np.flatnonzero(np.any([complete, *(measured[name] for name in reading.follows if name in measured)], 0))
    return rows, complete[rows], {name: values[name][rows] for name in names}


def _breaks(
    reading: AbsoluteReading, rows: Ints, complete: Mask, columns: Mapping[str, Floats], log: StepLog
) -> Iterator[Break]:
    rule = reading.rule
    signal = _shown_by(rule, log.values)
    column = log.columns.get(signal, signal)
    current, last = None, 0
    for number, said in _said(reading, rows, complete, columns):
        if said.score >= 1.0:
            last = number - 1
            if current is None:
                says = sentence(column, said.value, rule.says)
                current = Break(rule, signal, said.since - 1, last, last, says)
        elif said.score <= RECOVERED and current is not None:
            yield replace(current, last=last)
            current = None
    if current is not None:
        yield replace(current, last=last)


def _said(
    reading: AbsoluteReading, rows: Ints, complete: Mask, columns: Mapping[str, Floats]
) -> Iterator[tuple[int, Said]]:
    """What a reading says after each row that has all its inputs, with the row's number."""
    numbers, measured = (rows + 1).tolist(), reading.excesses(columns)
    if measured is not None:
        for number, excess, value in zip(numbers, *(each.tolist() for each in measured), strict=True):
            yield number, reading.take_measured(number, excess, value)
        return
    by_row = zip(*(values.tolist() for values in columns.values()), strict=True)
    for number, has_inputs, row in zip(numbers, complete.tolist(), by_row, strict=True):
        named = dict(zip(columns, row, strict=True))
        if has_inputs:
            yield number, reading.take(number, named)
        else:
            reading.follow(named)


def _shown_by(rule: Rule, values: Mapping[str, Floats]) -> str:
    if rule.signal == NOT_FINITE:
        return next((name for name in _OF_UPDATES if name in values and np.isinf(values[name]).any()), NOT_FINITE)
    return next((name for name in (rule.signal, *rule.inputs) if name in values), rule.signal)


def is_told(values: Mapping[str, Floats], found: Break, stretches: Iterable[tuple[int, int]]) -> bool:
    """Whether a share of rows that are not finite is that of stretches of them, which have alarms of their own.

    Args:
        values: of the log.
        found: a break of any reading.
        stretches: first and last row of each such alarm.
    """
    rows = not_finite_rows(values) if found.rule.signal == NOT_FINITE else None
    if rows is None:
        return False
    apart = rows == 1
    for first, last in stretches:
        apart[first : last + 1] = False
    return int(apart.sum()) <= FEWEST_WRONG


def is_of_solving(values: Mapping[str, Floats], signal: str, first: int, raised: int) -> bool:
    """Whether a jump of a signal shows that groups begin to agree because the task is solved: the reward rises.

    Args:
        values: of the log.
        signal: that jumped.
        first: row of the jump.
        raised: row of its alarm.
    """
    side = OF_AGREEING.get(signal, 0)
    if not side or "reward_mean" not in values:
        return False
    return side * _moved(values[signal], first, raised) > 0 and _moved(values["reward_mean"], first, raised) > 0


def _moved(values: Floats, first: int, raised: int) -> float:
    """By how much a signal has moved from the rows before a jump to those until its alarm; NaN if unknown."""
    known = np.where(np.isfinite(values), values, math.nan)
    before, after = known[max(0, first - FEWEST) : first], known[first : raised + 1]
    if np.isnan(before).all() or np.isnan(after).all():
        return math.nan
    return float(np.nanmean(after) - np.nanmean(before))


def lacks(
    values: Mapping[str, Floats], missing: Mapping[str, Sequence[str]], readings: LogReadings, *, enough: bool
) -> tuple[str, ...]:
    """What it would take to call a log healthy: rows of what has columns, and other columns where these are too few.

    Args:
        values: of the log.
        missing: checks that were not run, with the signals of which each needs one.
        readings: of the log.
        enough: whether enough checks were run, whatever the others lack.
    """
    rows, columns = list[str](), list[str]()
    for name, signals in missing.items():
        has = [signal for signal in signals if signal in values]
        (rows if has else columns).append(f"{name}: {FEWEST} rows with {' or '.join(has or signals)}")
    # A family that has a check was read by it.
    for family in sorted(readings.families_lacking_rows() & FAMILIES_WITHOUT_CHECK):
        lacking = [run.lacks for run in readings.runs if run.family == family and run.rows]
        rows.append(f"{family}: {lacking[0]}")
    return (*rows, *columns) if rows or not enough else ()
