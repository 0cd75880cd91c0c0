"""Parquet in closed parts, written by a thread of their own: an open Parquet file has no footer and cannot be read."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rftfm_ray.errors import RecordError
from rftfm_ray.files import PRIVATE_DIR, write_atomic

Work = Callable[[], None]
QUEUE_LENGTH = 256


class BackgroundWriter:
    """Does work in order on one thread. What goes wrong there is raised at the next call here."""

    def __init__(self) -> None:
        self._queue: queue.Queue[Work | None] = queue.Queue(QUEUE_LENGTH)
        self._error: Exception | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="rftfm-records", daemon=True)
        self._thread.start()

    def submit(self, work: Work) -> None:
        """Queue `work`; waits when the thread is far behind.

        Raises:
            RecordError: when earlier work failed.
        """
        if self._closed:
            raise RecordError("The run's records are closed; nothing more can be written to them.")
        self._check()
        self._queue.put(work)

    def wait(self) -> None:
        """Wait until what is queued is done.

        Raises:
            RecordError: when work failed.
        """
        is_done = threading.Event()
        self.submit(is_done.set)
        # After a failure nothing more is done.
        while not is_done.wait(0.05):
            self._check()
        self._check()

    def close(self) -> None:
        """Finish what is queued and end the thread. Safe to call twice.

        Raises:
            RecordError: when work failed.
        """
        if not self._closed:
            self._closed = True
            self._queue.put(None)
            self._thread.join()
            self._check()

    def _check(self) -> None:
        if self._error is not None:
            raise RecordError(
                f"The run's records cannot be written ({self._error}); make room or give another --run-dir."
            ) from self._error

    def _work(self) -> None:
        while (work := self._queue.get()) is not None:
            if self._error is None:
                try:
                    work()
                except Exception as error:  # noqa: BLE001 - whatever it is, the run's own thread must learn of it
                    self._error = error


class PartFolder:
    """A folder of `part-NNNNN.parquet`. Every part appears complete or not at all."""

    def __init__(self, folder: Path, schema: pa.Schema, retention_bytes: int | None = None) -> None:
        self._folder = folder
        self._schema = schema
        self._retention_bytes = retention_bytes
        self._next = 0
        folder.mkdir(mode=PRIVATE_DIR, exist_ok=True)

    def write(self, rows: Sequence[Mapping[str, object]]) -> None:
        """Write one part and then remove the oldest beyond the retention limit; the newest always stays."""
        final = self._folder / f"part-{self._next:05d}.parquet"
        table = pa.Table.from_pylist([dict(row) for row in rows], schema=self._schema)
        buffer = pa.BufferOutputStream()
        pq.write_table(table, buffer, compression="zstd")
        write_atomic(final, buffer.getvalue().to_pybytes())
        self._next += 1
        self._retain()

    def _retain(self) -> None:
        if self._retention_bytes is None:
            return
        parts = _parts(self._folder)
        sizes = {part: part.stat().st_size for part in parts}
        total = sum(sizes.values())
        for part in parts[:-1]:
            if total <= self._retention_bytes:
                return
            part.unlink()
            total -= sizes[part]


def _parts(folder: Path) -> list[Path]:
    """Closed parts by number. Names alone do not sort: from 100000 on they are longer than those before."""
    return sorted(folder.glob("part-*.parquet"), key=lambda part: (len(part.name), part.name))


def read_parts(folder: Path, schema: pa.Schema, older: Sequence[pa.Schema] = ()) -> pa.Table:
    """All closed parts of a folder as one table; empty when there is none yet.

    Args:
        folder: of the parts.
        schema: of the table.
        older: earlier ones that parts may have, some columns of numbers short; these are NaN there.

    Raises:
        RecordError: names a part that cannot be read.
    """
    tables = []
    for part in _parts(folder):
        try:
            table = pq.read_table(part)
            if any(table.schema.names == one.names and table.schema.metadata == one.metadata for one in older):
                table = _completed(table, schema)
            if table.schema.names != schema.names or table.schema.metadata != schema.metadata:
                raise RecordError(f"{part} has another schema than {schema.metadata}; read it with its own version.")
            tables.append(table.cast(schema))
        except FileNotFoundError:
            # Retention of a run that goes on may remove a part between the listing and the reading.
            continue
        except (OSError, pa.ArrowException) as error:
            raise RecordError(f"{part} cannot be read ({error}); it is damaged or of another version.") from error
    return pa.concat_tables(tables) if tables else schema.empty_table()


def _completed(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table with all columns of a schema, NaN where it has none of the name."""
    missing = pa.array(np.full(len(table), np.nan))
    columns = [table[name] if name in table.column_names else missing for name in schema.names]
    return pa.table(columns, names=schema.names).replace_schema_metadata(schema.metadata)
