"""Recorded runs of a FaultBench: step rows in Parquet shards, the outcome of each run in JSON, and a manifest.

A shard is complete when its list of runs exists, because the list is written last. The rows of a fork begin after the
step at which it left the healthy run of its group; a reader puts that run's rows before them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from rftfm_ray.errors import BenchError
from rftfm_ray.faultbench.runs.plan import Entry
from rftfm_ray.files import write_atomic
from rftfm_ray.signals.groups import SEPARATORS
from rftfm_ray.signals.schema import SIGNALS, verifier_error_rate
from rftfm_ray.types import StepId
from rftfm_ray.verdicts import StepReport

FORMAT = 1
MANIFEST = "manifest.json"
AGAIN = "make it again with `rftfm faultbench generate`"
NAMES = tuple(signal.name for signal in SIGNALS)
# Times depend on the machine and are not part of a run.
TIMES = tuple(signal.name for signal in SIGNALS if signal.unit == "s")
# Follows from two others; runs that were recorded before it do not hold it.
DERIVED = "verifier_error_rate"
# Runs that were recorded before these do not hold them either, and nothing else says what they were.
ADDED = SEPARATORS
ADDED_KEYS = ("dirty", "overrides", "below")
"""Keys of an entry that the first benchmark does not have."""
_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)

Rows = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Outcome:
    """Outcome of a run: for each fault the step that switched it on and the step of its effect, None without an effect;
    and the error that ended the run early, if any."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    switched: tuple[int, ...]
    effects: tuple[Annotated[int, Field(ge=1)] | None, ...]
    error: str = ""


@dataclass(frozen=True, slots=True)
class Record:
    """A run as it is stored: `rows` (N, signals) from step `entry.fork + 1` on."""

    entry: Entry
    outcome: Outcome
    rows: Rows


@dataclass(frozen=True, slots=True, eq=False)
class Recorded:
    """A complete run: `values` (N, signals) of the steps from 1 to N. Compares by identity."""

    entry: Entry
    outcome: Outcome
    values: Rows

    def __len__(self) -> int:
        return len(self.values)

    def signal(self, name: str) -> NDArray[np.float64]:
        """One signal (N)."""
        return self.values[:, NAMES.index(name)].astype(np.float64)

    def reports(self) -> Iterator[StepReport]:
        """Its steps as the guard would have seen them."""
        for step, row in enumerate(self.values.tolist(), start=1):
            yield StepReport(StepId(0, step, step), step, tuple(row))


@dataclass(frozen=True, slots=True)
class _ListedRun:
    """A run in the list of a shard."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    entry: Entry
    outcome: Outcome


_LIST = TypeAdapter(tuple[_ListedRun, ...])


def write_records(path: Path, records: Sequence[Record]) -> None:
    """Write records as `path`.parquet and then `path`.json; equal records are equal bytes."""
    names = [record.entry.name for record in records]
    columns: dict[str, Any] = {
        "run": pa.array(np.repeat(np.array(names), [len(r.rows) for r in records]).tolist(), pa.string()),
        "step": pa.array(np.concatenate([np.arange(len(r.rows)) + r.entry.fork + 1 for r in records]).astype(np.int32)),
    }
    table = np.concatenate([record.rows for record in records])
    columns |= {name: pa.array(table[:, index]) for index, name in enumerate(NAMES) if name not in TIMES}
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink, compression="zstd", compression_level=19)
    write_atomic(path.with_suffix(".parquet"), sink.getvalue().to_pybytes())
    write_atomic(path.with_suffix(".json"), _listed(records))


def _listed(records: Sequence[Record]) -> bytes:
    """The list of the runs of a shard. What later benchmarks have added to an entry is left out where it says nothing,
    so that a shard without it keeps its bytes."""
    tree = _LIST.dump_python(tuple(_ListedRun(record.entry, record.outcome) for record in records), mode="json")
    for item in tree:
        item["entry"] = {key: value for key, value in item["entry"].items() if value or key not in ADDED_KEYS}
    return (json.dumps(tree, indent=1, ensure_ascii=False) + "\n").encode()


def read_entries(path: Path) -> list[Entry]:
    """The runs that a shard lists, in order.

    Raises:
        BenchError: when the list cannot be read or is damaged; names the file and the fix.
    """
    return [item.entry for item in _read_list(path)]


def _read_list(path: Path) -> tuple[_ListedRun, ...]:
    try:
        return _LIST.validate_json(path.with_suffix(".json").read_bytes())
    except OSError as error:
        raise BenchError(f"{path} cannot be read ({error.strerror or error}); {AGAIN}.") from None
    except ValidationError as error:
        raise BenchError(f"{path} is damaged ({' '.join(str(error).split())[:120]}); {AGAIN}.") from None


def read_records(path: Path) -> list[Record]:
    """Read records that `write_records` has written; times are NaN.

    Raises:
        BenchError: when they cannot be read or are damaged; names the file and the fix.
    """
    listed = _read_list(path)
    try:
        table = pq.read_table(path.with_suffix(".parquet"))
        values = np.full((len(table), len(NAMES)), np.nan, np.float32)
        for index, name in enumerate(NAMES):
            if name in ADDED and name not in table.column_names:
                continue
            if name == DERIVED and name not in table.column_names:
                rates = zip(table["valid_rate"].to_pylist(), table["failed_rate"].to_pylist(), strict=True)
                values[:, index] = [verifier_error_rate(valid, failed) for valid, failed in rates]
            elif name not in TIMES:
                values[:, index] = table[name].to_numpy()
        runs, steps = np.array(table["run"].to_pylist()), table["step"].to_numpy()
    except OSError as error:
        raise BenchError(f"{path} cannot be read ({error.strerror or error}); {AGAIN}.") from None
    except (pa.ArrowException, KeyError, ValueError) as error:
        raise BenchError(f"{path} is damaged ({' '.join(str(error).split())[:120]}); {AGAIN}.") from None
    records = []
    for item in listed:
        of_run = runs == item.entry.name
        if steps[of_run].tolist() != list(range(item.entry.fork + 1, item.entry.fork + 1 + int(of_run.sum()))):
            raise BenchError(f"{path} is damaged (steps of {item.entry.name} are not in a row); {AGAIN}.")
        records.append(Record(item.entry, item.outcome, values[of_run]))
    return records


def expand_forks(records: Sequence[Record]) -> Iterator[Recorded]:
    """Expand forks: put the rows that they share with the healthy run of their seed before their own.

    Raises:
        BenchError: when that run is missing.
    """
    roots: Mapping[int, Record] = {r.entry.seed: r for r in records if not r.entry.inject}
    for record in records:
        entry = record.entry
        if entry.fork == 0:
            yield Recorded(entry, record.outcome, record.rows)
            continue
        if entry.seed not in roots or len(roots[entry.seed].rows) < entry.fork:
            raise BenchError(f"The healthy run of {entry.name} is missing; {AGAIN}.")
        yield Recorded(entry, record.outcome, np.concatenate([roots[entry.seed].rows[: entry.fork], record.rows]))


def shard_path(folder: Path, index: int) -> Path:
    """Where a shard is, without suffix."""
    return folder / f"runs-{index:03d}"


def is_complete(path: Path) -> bool:
    """Whether all records of a shard have been written."""
    return path.with_suffix(".json").exists()


@dataclass(frozen=True, slots=True)
class Manifest:
    """Size, seed, versions, machine and file hashes of a benchmark, and the cells that it has no runs of."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    size: str
    seed: int
    runs: int
    steps: int
    command: str
    versions: dict[str, str]
    machine: str
    minutes: float
    calibration_sha256: str
    sha256: dict[str, str]
    format: int = FORMAT
    left_out: tuple[str, ...] = ()


_MANIFEST = TypeAdapter(Manifest)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write it, which says that the benchmark is complete."""
    write_atomic(folder / MANIFEST, _MANIFEST.dump_json(manifest, indent=1) + b"\n")


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a complete benchmark.

    Raises:
        BenchError: when there is none, or another format.
    """
    try:
        manifest = _MANIFEST.validate_json((folder / MANIFEST).read_bytes())
    except OSError:
        raise BenchError(f"{folder} holds no complete benchmark (no {MANIFEST}); {AGAIN}.") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise BenchError(f"{folder / MANIFEST} is damaged ({where}: {first['msg']}); {AGAIN}.") from None
    if manifest.format != FORMAT:
        raise BenchError(f"{folder} has format {manifest.format}, this version reads {FORMAT}; {AGAIN}.")
    return manifest


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    return sha256(path.read_bytes()).hexdigest()


def read_bench(folder: Path) -> list[Recorded]:
    """All runs of a complete benchmark, checked against the hashes of its manifest.

    Raises:
        BenchError: names the file that is missing or has been altered, and the fix.
    """
    manifest, runs = read_manifest(folder), list[Recorded]()
    for name, expected in sorted(manifest.sha256.items()):
        file = folder / name
        if Path(name).name != name or not file.is_file():
            raise BenchError(f"{folder} lacks {name}; {AGAIN}.")
        if digest(file) != expected:
            raise BenchError(f"{file} is not as its manifest says; {AGAIN}.")
        if file.suffix == ".parquet":
            runs += expand_forks(read_records(file.with_suffix("")))
    return runs
