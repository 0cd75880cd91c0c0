"""Signals that no column holds are derived from those that do, as they are in a live run."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rftfm_ray.runs.healthy import read_candidate


def test_rate_of_failed_verdicts_is_what_is_neither_valid_nor_failed_before(tmp_path: Path) -> None:
    columns = {"step": [1, 2], "valid_rate": [1.0, 0.75], "failed_rate": [0.0, 0.125]}
    pq.write_table(pa.table(columns), tmp_path / "run.parquet")
    values = read_candidate(str(tmp_path / "run.parquet")).series.values
    assert values["verifier_error_rate"].tolist() == pytest.approx([0.0, 0.125])


def test_recorded_rate_of_failed_verdicts_is_kept(tmp_path: Path) -> None:
    columns = {"step": [1], "valid_rate": [1.0], "failed_rate": [0.0], "verifier_error_rate": [0.5]}
    pq.write_table(pa.table(columns), tmp_path / "run.parquet")
    assert read_candidate(str(tmp_path / "run.parquet")).series.values["verifier_error_rate"].tolist() == [0.5]
