"""Damaged step records of a run are refused with one sentence."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rftfm_ray.errors import RecordError
from rftfm_ray.runs.reader import read_run
from rftfm_ray.telemetry.recorder import STEP_SCHEMA


@pytest.mark.parametrize("column", ["attempt", "step", "paid_step"])
@pytest.mark.parametrize(("value", "shown"), [(None, "null"), (-1, "-1"), (2**62, str(2**62))])
def test_row_without_a_possible_step_is_refused(tmp_path: Path, column: str, value: int | None, shown: str) -> None:
    row: dict[str, object] = {field.name: 0 if pa.types.is_integer(field.type) else 0.5 for field in STEP_SCHEMA}
    (tmp_path / "steps").mkdir()
    table = pa.Table.from_pylist([row, row | {column: value}], schema=STEP_SCHEMA)
    pq.write_table(table, tmp_path / "steps" / "part-00000.parquet")
    with pytest.raises(RecordError, match=f"steps has a row with {column}={shown}, which is not a count") as caught:
        read_run(tmp_path)
    assert str(caught.value).endswith(".")
