"""Step rows of runs from before the separators: they are read, and so is a run that went on with them."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rftfm_ray.errors import RecordError
from rftfm_ray.metrics import BatchMetrics, CheckMetrics, CreditMetrics, StepRow, Timings, UpdateMetrics
from rftfm_ray.signals.groups import SEPARATORS
from rftfm_ray.telemetry.parts import PartFolder
from rftfm_ray.telemetry.recorder import OLDER_STEP_SCHEMAS, STEP_SCHEMA, read_steps, step_record
from rftfm_ray.types import StepId


def record(step: int) -> dict[str, int | float]:
    """A row of which every figure is its step."""

    def fill(kind: type[Any]) -> Any:
        return kind(**{field.name: step if field.type == "int" else float(step) for field in dataclasses.fields(kind)})

    parts = map(fill, (BatchMetrics, UpdateMetrics, CreditMetrics, Timings, CheckMetrics))
    return step_record(StepRow(StepId(0, step, step), step, *parts))


WITHOUT_ERRORS, WITHOUT_SEALS, WITHOUT_SEPARATORS = OLDER_STEP_SCHEMAS
OF_ERRORS = ("regrade_by_form", "golden_repeat_mismatch_rate")
LACKING = {
    WITHOUT_ERRORS: OF_ERRORS,
    WITHOUT_SEALS: (*OF_ERRORS, "sample_mismatch_rate"),
    WITHOUT_SEPARATORS: SEPARATORS,
}  # fmt: skip


def write_older(folder: Path, steps: list[int], schema: pa.Schema) -> None:
    """A part as it was written before."""
    PartFolder(folder, schema).write([{name: record(step)[name] for name in schema.names} for step in steps])


@pytest.mark.parametrize("older", OLDER_STEP_SCHEMAS, ids=lambda schema: schema.metadata[b"rftfm_schema"].decode())
def test_older_rows_lack_what_came_later_and_nothing_else(tmp_path: Path, older: pa.Schema) -> None:
    assert len(STEP_SCHEMA) - len(older) == len(LACKING[older])
    parts = tmp_path / "steps"
    PartFolder(parts, STEP_SCHEMA).write([record(3)])
    (parts / "part-00000.parquet").rename(parts / "part-00001.parquet")
    write_older(parts, [1, 2], older)
    table = read_steps(tmp_path)
    assert table.schema.equals(STEP_SCHEMA)
    assert table["entropy"].to_pylist() == [1, 2, 3]
    for name in LACKING[older]:
        first, second, third = table[name].to_pylist()
        assert math.isnan(first)
        assert math.isnan(second)
        assert third == 3


def test_rows_that_lack_more_or_say_another_version_are_refused(tmp_path: Path) -> None:
    for number, schema in enumerate((
        pa.schema([field for field in WITHOUT_SEPARATORS if field.name != "entropy"], WITHOUT_SEPARATORS.metadata),
        WITHOUT_SEPARATORS.with_metadata({"rftfm_schema": "steps/2"}),
    )):  # fmt: skip
        run = tmp_path / str(number)
        run.mkdir()
        write_older(run / "steps", [1], schema)
        assert pq.read_schema(next((run / "steps").glob("*.parquet"))).names == schema.names
        with pytest.raises(RecordError, match="another schema"):
            read_steps(run)
