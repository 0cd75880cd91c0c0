"""Reads the step log of somebody else's run: CSV, JSONL or Parquet, a row a step; or TRL's trainer_state.json.

Cells and rows that cannot be read are left out and listed in the notes, so that a verdict on the rest can be marked as
a verdict on a part. A file in which nothing can be read is refused.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rftfm_ray.errors import LogError
from rftfm_ray.integrations.aliases import STEPS, canonical, is_reward_part

LARGEST = 2 << 30
HISTORY = "log_history"
"""The list of rows in the trainer_state.json that Hugging Face's trainers leave in a checkpoint, TRL's among them."""
BOM = b"\xef\xbb\xbf"
FIX = "give a CSV, JSONL or Parquet file with a row for every step"
# Beyond this share of unreadable rows a file is something else.
MOST_BROKEN = 0.5
LARGEST_STEP = 1e12

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class StepLog:
    """A step log as it was interpreted.

    Attributes:
        steps: (N) as the log counts them, each once and rising.
        values: (N) by name of a signal; NaN where nothing was logged, infinite where the cell holds a value that is
            not finite, NaN included.
        columns: the column that each signal was read from.
        unused: columns that are unknown or hold text.
        notes: observations about the file, one sentence each.
        damaged: whether a part of the file could not be read, so that a verdict covers the rest only.
        reward_parts: (N) means of single reward functions, by the column of each; NaN where none was logged.
    """

    steps: NDArray[np.int64]
    values: dict[str, Floats]
    columns: dict[str, str]
    unused: tuple[str, ...]
    notes: tuple[str, ...]
    damaged: bool
    reward_parts: dict[str, Floats] = field(default_factory=dict)


@dataclass(slots=True)
class _Notes:
    """Observations so far."""

    lines: list[str] = field(default_factory=list)
    damaged: bool = False

    def add_unreadable(self, text: str) -> None:
        """Note that a part of the file could not be read."""
        self.lines.append(text)
        self.damaged = True


@dataclass(slots=True)
class _Table:
    """Columns as the file has them: cells to be parsed, or (rows) numbers as `_number` returns them."""

    columns: Mapping[str, Sequence[Any] | Floats]
    rows: int
    notes: _Notes


def read_log(path: Path) -> StepLog:
    """Read a step log.

    Raises:
        LogError: when there is nothing to judge; names the file, what is wrong, and the fix.
    """
    data = _bytes(path)
    table = _READERS[_format(path, data)](path, data)
    if not table.rows:
        raise LogError(f"{path} has no row that can be read; {FIX}.")
    return _interpret(path, table)


def _bytes(path: Path) -> bytes:
    try:
        if path.stat().st_size > LARGEST:
            raise LogError(f"{path} is larger than {LARGEST >> 30} GiB; give the log of one run.")
        data = path.read_bytes()
    except OSError as error:
        raise LogError(f"{path} cannot be read ({error.strerror}); check the path.") from None
    if not data.strip():
        raise LogError(f"{path} is empty; {FIX}.")
    return data


def _format(path: Path, data: bytes) -> str:
    if data.startswith(b"PAR1"):
        return "parquet"
    if b"\0" in data:
        raise LogError(f"{path} is binary and not a Parquet file; {FIX}.")
    begin = data.removeprefix(BOM).lstrip()[:1]
    if begin == b"{" and HISTORY.encode() in data:
        return "state"
    return "jsonl" if begin in (b"{", b"[") else "csv"


def _text(path: Path, data: bytes, notes: _Notes) -> str:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        notes.add_unreadable(f"The file is not UTF-8 from byte {error.start} on.")
        readable = data[: error.start].decode("utf-8-sig")
        if not readable.strip():
            raise LogError(f"{path} is not UTF-8 text; {FIX}.") from None
        return readable
    if not text.strip():
        raise LogError(f"{path} is empty; {FIX}.")
    return text


def _read_parquet(path: Path, data: bytes) -> _Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(pa.BufferReader(data))
        columns = {name: _cells(table[name]) for name in dict.fromkeys(table.column_names)}
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:120]
        raise LogError(f"{path} is a damaged Parquet file ({reason}); write it again.") from None
    return _Table(columns, table.num_rows, _Notes())


def _cells(column: Any) -> list[Any] | Floats:
    """Cells of a column of Arrow: all at once where the file says that they are numbers."""
    import pyarrow as pa

    if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)):
        cells: list[Any] = column.to_pylist()
        return cells
    numbers: Floats = np.array(column.cast(pa.float64(), safe=False).fill_null(math.nan).to_numpy())
    written = np.isnan(numbers) & ~column.is_null().to_numpy()
    numbers[written] = math.inf
    return numbers


def _read_jsonl(path: Path, data: bytes) -> _Table:
    notes = _Notes()
    # Only "\n" ends a line of JSON: str.splitlines() also splits at U+2028 and others that a string may hold.
    lines = [line for line in _text(path, data, notes).split("\n") if line.strip()]
    decoder = json.JSONDecoder(strict=False)
    rows, broken = list[dict[str, Any]](), list[int]()
    for number, line in enumerate(lines, start=1):
        try:
            row = decoder.decode(line)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict):
            rows.append(row)
        else:
            broken.append(number)
    _note_broken(path, notes, broken, len(lines), "hold no JSON object")
    return _table_of(rows, notes)


def _table_of(rows: Sequence[Mapping[str, Any]], notes: _Notes) -> _Table:
    names = dict.fromkeys(str(name) for row in rows for name in row)
    return _Table({name: [row.get(name) for row in rows] for name in names}, len(rows), notes)


def _read_state(path: Path, data: bytes) -> _Table:
    """The rows of a trainer's state; a file of JSONL that only names its key somewhere is read as one."""
    notes = _Notes()
    try:
        state = json.loads(_text(path, data, notes), strict=False)
    except (ValueError, RecursionError):
        return _read_jsonl(path, data)
    history = state.get(HISTORY)
    if not isinstance(history, list):
        return _read_jsonl(path, data)
    rows = [row for row in history if isinstance(row, dict)]
    if len(rows) < len(history):
        notes.add_unreadable(f"{len(history) - len(rows)} of {len(history)} entries of {HISTORY} hold no JSON object.")
    return _table_of(rows, notes)


def _read_csv(path: Path, data: bytes) -> _Table:
    notes = _Notes()
    text = _text(path, data, notes)
    # Lines as the csv module counts them; the first one that is not blank is the header.
    written = list(itertools.dropwhile(lambda line: not line.strip(), io.StringIO(text, newline="")))
    delimiter = max(",;\t", key=written[0].count)
    try:
        lines = [row for row in csv.reader(written, delimiter=delimiter) if row]
    except csv.Error as error:
        raise LogError(f"{path} is not a CSV file ({error}); {FIX}.") from None
    header, *rows = lines
    names = [name.strip() for name in header]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise LogError(f"{path} has two columns {_short(twice)!r}; rename one of them.")
    if all(_number(name) is not None for name in names):
        raise LogError(f"{path} has no header with the names of its columns; add one.")
    broken = [number for number, row in enumerate(rows, start=2) if len(row) != len(names)]
    _note_broken(path, notes, broken, len(rows), f"do not have {len(names)} {'cell' if len(names) == 1 else 'cells'}")
    sound = [row for row in rows if len(row) == len(names)]
    cells = zip(*sound, strict=True) if sound else ([] for _ in names)
    return _Table(dict(zip(names, map(list, cells), strict=True)), len(sound), notes)


_READERS: dict[str, Callable[[Path, bytes], _Table]] = {
    "parquet": _read_parquet,
    "jsonl": _read_jsonl,
    "state": _read_state,
    "csv": _read_csv,
}


def _note_broken(path: Path, notes: _Notes, broken: Sequence[int], total: int, what: str) -> None:
    if len(broken) > MOST_BROKEN * total:
        raise LogError(f"{path} is not a step log: {len(broken)} of its {total} lines {what}; {FIX}.")
    if broken:
        last = " It ends in the middle of one." if broken == [total] or broken == [total + 1] else ""
        notes.add_unreadable(f"{len(broken)} of {total} lines {what}, the first is line {broken[0]}.{last}")


def _short(name: str, longest: int = 60) -> str:
    """A name of a column for a message: a header may be a line of any length."""
    return name if len(name) <= longest else name[: longest - 1] + "…"


def _number(cell: object) -> float | None:
    """A cell as a number; NaN for one that is empty, infinite for a NaN that was written, None for something else."""
    if cell is None or (isinstance(cell, str) and cell.strip().lower() in ("", "none", "null", "n/a", "na")):
        return math.nan
    if isinstance(cell, (bool, int, float, str)):
        try:
            value = float(cell)
        except (ValueError, OverflowError):
            return None
        return math.inf if math.isnan(value) else value
    return None


def _interpret(path: Path, table: _Table) -> StepLog:
    notes, unused, values, columns = table.notes, list[str](), dict[str, Floats](), dict[str, str]()
    texts, parts = list[str](), dict[str, Floats]()
    steps = _steps(path, table, notes)
    used = {name for name in STEPS if name in table.columns}
    for name, cells in table.columns.items():
        signal = canonical(name)
        if is_reward_part(name):
            part, _ = _column(name, cells, notes)
            if part is not None:
                parts[name] = np.where(np.isfinite(part), part, np.nan)
        if signal is None or name in used:
            unused += [] if name in used else [name]
            continue
        column, wrong = _column(name, cells, notes)
        if column is None:
            unused.append(name)
            texts.append(f"{wrong} of {len(cells)} cells of {_short(name)} are not numbers")
        elif signal not in values:
            values[signal], columns[signal] = column, name
        else:
            # Two names for one signal: the first one is taken.
            unused.append(name)
    if not values and texts:
        raise LogError(f"{path} has no column of numbers that is known: {'; '.join(texts[:5])}; write numbers.")
    if not values:
        raise LogError(
            f"{path} has no known column ({', '.join(map(_short, unused[:5])) or 'none'}); name columns as "
            "docs/signals.md says."
        )
    for text in texts:
        notes.add_unreadable(f"{text}: the column is left out.")
    counted = _rows_that_count(steps, notes)
    order = np.unique(steps[counted])
    merged = {name: _merged(column[counted], steps[counted], order) for name, column in values.items()}
    _note_twice(values, steps, counted, notes)
    rewards = {name: _merged(column[counted], steps[counted], order) for name, column in parts.items()}
    return StepLog(order, merged, columns, tuple(unused), tuple(notes.lines), notes.damaged, rewards)


def _column(name: str, cells: Iterable[Any] | Floats, notes: _Notes) -> tuple[Floats | None, int]:
    """A column of numbers, None when fewer than half of its cells are, and how many are not."""
    if isinstance(cells, np.ndarray):
        return cells, 0
    numbers = [_number(cell) for cell in cells]
    wrong = sum(number is None for number in numbers)
    if wrong > len(numbers) / 2:
        return None, wrong
    if wrong:
        notes.add_unreadable(f"{wrong} of {len(numbers)} cells of {_short(name)} are not numbers.")
    return np.array([math.nan if number is None else number for number in numbers], np.float64), wrong


def _steps(path: Path, table: _Table, notes: _Notes) -> NDArray[np.int64]:
    """Steps of all rows, -1 where a row has none; rows are numbered when the file has no such column."""
    name = next((name for name in STEPS if name in table.columns), None)
    if name is None:
        notes.lines.append("No column of steps: rows are numbered.")
        return np.arange(1, table.rows + 1)
    numbers = [_number(cell) for cell in table.columns[name]]
    steps = [int(n) if n is not None and 0 <= n <= LARGEST_STEP and n == int(n) else -1 for n in numbers]
    wrong = steps.count(-1)
    if wrong > len(steps) / 2:
        raise LogError(f"{path} has no whole numbers in its column {name}; number the steps.")
    if wrong:
        rows = "1 row has" if wrong == 1 else f"{wrong} rows have"
        notes.add_unreadable(f"{rows} no whole number as {name}: left out.")
    return np.array(steps, np.int64)


def _rows_that_count(steps: NDArray[np.int64], notes: _Notes) -> NDArray[np.bool_]:
    """Rows that count: a step that comes again later undoes what came between, as going on from a checkpoint does.

    Rows that are only out of order, so that no step comes again after them, all count.
    """
    has_step = steps >= 0
    known = np.where(has_step, steps, np.iinfo(np.int64).max)
    following = np.minimum.accumulate(known[::-1])[::-1]
    early = has_step & (steps > np.append(following[1:], known[-1]))
    undone = early & _repeated_after(steps)
    swapped = early & ~undone
    if swapped.any():
        are = "1 row is" if swapped.sum() == 1 else f"{swapped.sum()} rows are"
        notes.lines.append(f"{are} out of order, the first is that of step {steps[swapped][0]}: sorted by step.")
    if undone.any():
        first, last = int(steps[undone].min()), int(steps[undone].max())
        one, of = undone.sum() == 1, f"step {first}" if first == last else f"steps {first} to {last}"
        rows, is_left = ("1 row", "is") if one else (f"{undone.sum()} rows", "are")
        notes.lines.append(f"The log goes back to an earlier step: {rows} of {of} from before that {is_left} left out.")
    kept: NDArray[np.bool_] = has_step & ~undone
    return kept


def _repeated_after(steps: NDArray[np.int64]) -> NDArray[np.bool_]:
    """By row: whether, at the end of its stretch of rising steps, some step of before comes again later."""
    unique, first = np.unique(steps, return_index=True)
    last = len(steps) - 1 - np.unique(steps[::-1], return_index=True)[1]
    real = unique >= 0
    change = np.zeros(len(steps) + 1, np.int64)
    np.add.at(change, first[real], 1)
    np.add.at(change, last[real], -1)
    repeats = np.cumsum(change)[:-1] > 0
    ends = np.append(np.flatnonzero(np.diff(steps) < 0), len(steps) - 1)
    result: NDArray[np.bool_] = repeats[ends[np.searchsorted(ends, np.arange(len(steps)))]]
    return result


def _note_twice(values: dict[str, Floats], steps: NDArray[np.int64], kept: NDArray[np.bool_], notes: _Notes) -> None:
    """Several rows of a step may share its columns among them; two numbers for one signal are another matter."""
    twice = np.zeros(0, np.int64)
    for column in values.values():
        order, counts = np.unique(steps[kept & ~np.isnan(column)], return_counts=True)
        twice = np.union1d(twice, order[counts > 1])
    if len(twice):
        notes.lines.append(
            f"{'1 step is' if len(twice) == 1 else f'{len(twice)} steps are'} logged more than once, the first is "
            f"{twice[0]}: the last number is used."
        )


def _merged(column: Floats, steps: NDArray[np.int64], order: NDArray[np.int64]) -> Floats:
    """A column in the order of steps: of several rows of a step the last number counts."""
    merged = np.full(len(order), np.nan)
    logged = ~np.isnan(column)
    merged[np.searchsorted(order, steps[logged])] = column[logged]
    return merged
