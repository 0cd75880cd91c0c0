"""Reads the rows of a data set: Parquet, JSONL, JSON, CSV, or a directory that `datasets` has saved.

Rows are dicts of plain Python values. Nothing is unpickled, and no code of a data set is run.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rftfm_ray.errors import DataError

Row = Mapping[str, Any]

SUFFIXES = (".parquet", ".jsonl", ".ndjson", ".json", ".csv")
"""Endings of files that are read."""
TRAIN_SPLITS, HELDOUT_SPLITS = ("train",), ("test", "validation", "valid", "eval", "dev")
"""Names of splits of a saved directory, the preferred one first."""
_DICT = "dataset_dict.json"
_FIX = "give a Parquet, JSONL, JSON or CSV file, or a directory that `Dataset.save_to_disk` has written"
# A CSV cell may hold a long prompt: the module's own limit is 128 KiB.
LONGEST_CELL = 1 << 24


def read_rows(key: str, name: str, splits: Sequence[str]) -> list[Row]:
    """All rows of a data set, in the order of its files.

    Args:
        key: of the configuration, for messages.
        name: file or directory; `DIRECTORY:SPLIT` chooses a split of a saved directory.
        splits: that are taken of a directory with several, the first that there is.

    Raises:
        DataError: when it cannot be read; names key, file, line and fix.
    """
    path, split = _parted(name)
    if not path.exists():
        raise DataError(f"{key}={name} does not exist; check the path.")
    try:
        rows = list(_rows(key, path, split, splits))
    except OSError as error:
        raise DataError(f"{key}={name} cannot be read ({error.strerror or error}); check the file.") from None
    if not rows:
        raise DataError(f"{key}={name} holds no row; {_FIX}.")
    return rows


def _parted(name: str) -> tuple[Path, str]:
    """Path and split: a colon may be part of a name."""
    whole = Path(name).expanduser()
    head, colon, split = name.rpartition(":")
    if whole.exists() or not colon or not Path(head).expanduser().is_dir():
        return whole, ""
    return Path(head).expanduser(), split


def _rows(key: str, path: Path, split: str, splits: Sequence[str]) -> Iterator[Row]:
    if path.is_dir():
        yield from _of_directory(key, path, split, splits)
        return
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        yield from _of_parquet(key, path)
    elif suffix in (".jsonl", ".ndjson"):
        yield from _of_lines(key, path)
    elif suffix == ".json":
        yield from _of_json(key, path)
    elif suffix == ".csv":
        yield from _of_csv(key, path)
    else:
        raise DataError(f"{key}={path} ends with {suffix or 'nothing'}; {_FIX}.")


def _of_directory(key: str, path: Path, split: str, splits: Sequence[str]) -> Iterator[Row]:
    if (path / _DICT).is_file() or split:
        known = sorted(child.name for child in path.iterdir() if child.is_dir())
        chosen = split or next((name for name in splits if name in known), "")
        if chosen not in known:
            raise DataError(
                f"{key}={path} has the splits {', '.join(known) or 'none'}, and no {split or ' or '.join(splits)}; "
                f"name one as {path}:SPLIT."
            )
        path = path / chosen
    arrows, tables = sorted(path.glob("*.arrow")), sorted(path.glob("*.parquet"))
    if not arrows and not tables:
        raise DataError(f"{key}={path} holds neither *.arrow nor *.parquet files; {_FIX}.")
    for file in arrows:
        yield from _of_arrow(key, file)
    for file in [] if arrows else tables:
        yield from _of_parquet(key, file)


def _of_parquet(key: str, path: Path) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches():
                yield from batch.to_pylist()
    except pa.ArrowException as error:
        raise DataError(f"{key}={path} is no Parquet file that can be read ({_line(error)}); {_FIX}.") from None


def _of_arrow(key: str, path: Path) -> Iterator[Row]:
    import pyarrow as pa

    try:
        with pa.memory_map(str(path)) as source:
            for batch in pa.ipc.open_stream(source):
                yield from batch.to_pylist()
    except pa.ArrowException as error:
        raise DataError(f"{key}: {path} is no Arrow file that can be read ({_line(error)}); {_FIX}.") from None


def _of_lines(key: str, path: Path) -> Iterator[Row]:
    for number, line in enumerate(_text(key, path).split("\n"), start=1):
        if line.strip():
            yield _row(key, f"{path}, line {number}", _parsed(key, f"{path}, line {number}", line))


def _of_json(key: str, path: Path) -> Iterator[Row]:
    parsed = _parsed(key, str(path), _text(key, path))
    if isinstance(parsed, dict):
        lists = [value for value in parsed.values() if isinstance(value, list)]
        parsed = lists[0] if len(lists) == 1 else parsed
    if not isinstance(parsed, list):
        raise DataError(f"{key}={path} holds no list of rows; {_FIX}.")
    for number, row in enumerate(parsed, start=1):
        yield _row(key, f"{path}, row {number}", row)


def _of_csv(key: str, path: Path) -> Iterator[Row]:
    csv.field_size_limit(LONGEST_CELL)
    reader = csv.DictReader(io.StringIO(_text(key, path), newline=""), strict=True)
    try:
        for row in reader:
            if None in row:
                raise DataError(f"{key}={path}, line {reader.line_num} has more cells than the heading; correct it.")
            yield row
    except csv.Error as error:
        raise DataError(f"{key}={path}, line {reader.line_num} is not readable ({error}); correct it.") from None


def _text(key: str, path: Path) -> str:
    """The text of a file, with or without a mark of its encoding; lines end as in any system."""
    try:
        return path.read_text(encoding="utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{key}={path} is not UTF-8 (byte {error.start}); save it as UTF-8.") from None


def _parsed(key: str, where: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{key}: {where} is not JSON ({_line(error)}); correct it.") from None


def _row(key: str, where: str, row: object) -> Row:
    if not isinstance(row, dict):
        raise DataError(f"{key}: {where} is a {type(row).__name__} and no object with columns; correct it.")
    return row


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
