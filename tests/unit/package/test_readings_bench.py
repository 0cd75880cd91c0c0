"""The benchmark of absolute readings: what it counts, which runs it reads, and what its page says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks import readings
from benchmarks.readings import Floats, Run, cell_of, judge, main, page, runs_of
from rftfm_ray.detection.readings.table import BY_NAME
from rftfm_ray.faultbench.runs.dataset import Outcome, Recorded
from rftfm_ray.faultbench.runs.plan import Entry, Kind, Split
from rftfm_ray.signals.schema import INDEX, SIGNALS

FAULT = Entry(
    "one", Kind.FAULT, Split.TUNE, 1, "addition", "grpo", "tiny", 40, ("OD-1@21:mechanism=gain,duration=ramp",), "easy",
    21,
)  # fmt: skip
HEALTHY = replace(FAULT, name="sound", kind=Kind.HEALTHY, inject=(), level="", onset=0)


def values(steps: int = 40, *, broken_from: int = 0) -> Floats:
    """A run with nothing but a KL, which is impossible from a step on."""
    table: Floats = np.full((steps, len(SIGNALS)), np.nan)
    table[:, INDEX["kl_ref"]] = 0.1
    if broken_from:
        table[broken_from - 1 :, INDEX["kl_ref"]] = 500.0
    return table


def test_alarms_without_a_fault_and_delays_after_one_are_counted_apart() -> None:
    judged = judge([Run("", 0, values()), Run("OD-1 gain easy", 21, values(broken_from=21)), Run("x", 21, values())])
    record = judged.records["kl_impossible"]
    assert (record.steps, record.alarms, dict(record.delays), record.early) == (
        40,
        0,
        {"OD-1 gain easy": [2], "x": []},
        0,
    )
    assert judged.found == {"": 0, "OD-1 gain easy": 1, "x": 0}
    assert judged.sound == 40
    early = judge([Run("x", 30, values(broken_from=5))])
    assert (early.records["kl_impossible"].early, early.found["x"]) == (1, 0)
    assert judge([Run("", 0, values(broken_from=5))]).records["kl_impossible"].alarms == 1


def test_runs_of_the_report_split_are_not_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "runs-000.json").touch()
    outcome, rows = Outcome((), ()), values().astype(np.float32)
    every = [Recorded(replace(entry, split=split), outcome, rows) for split in Split for entry in (FAULT, HEALTHY)]
    monkeypatch.setattr(readings, "read_bench", lambda _: every)
    assert [run.cell for run in runs_of(tmp_path)] == ["OD-1 gain easy", ""] * 2


def test_healthy_rows_are_read_run_by_run(tmp_path: Path) -> None:
    rows = {"run": ["a", "a", "b"], "kl_ref": [0.1, 0.2, 0.3]}
    pq.write_table(pa.table(rows), tmp_path / "steps-000.parquet")
    assert [run.values[:, INDEX["kl_ref"]].tolist() for run in runs_of(tmp_path)] == [[0.1, 0.2], [0.3]]


def test_cells_are_named_by_fault_mechanism_and_level() -> None:
    assert cell_of(HEALTHY) == ""
    assert cell_of(replace(FAULT, kind=Kind.TWO_FAULTS)) == "two faults"


def test_page_has_every_limit_with_its_source_and_every_cell() -> None:
    judged = judge([Run("", 0, values()), Run("OD-1 gain easy", 21, values(broken_from=21))])
    text = page(judged, "python -m benchmarks.readings")
    for name, entry in BY_NAME.items():
        assert f"`{name}`" in text
        assert entry.rule.source in text
    assert "| OD-1 gain easy | 1 of 1 |" in text
    assert "0 alarms (0.00 in 1,000 steps)" in " ".join(text.split())


def test_a_folder_without_runs_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--data", str(tmp_path)])
    assert "has no Parquet file" in capsys.readouterr().err


def test_a_critical_alarm_without_a_fault_is_an_exit_code(tmp_path: Path) -> None:
    def write(rows: Floats) -> int:
        pq.write_table(
            pa.table({"run": ["a"] * len(rows), "kl_ref": rows[:, INDEX["kl_ref"]]}), tmp_path / "steps-000.parquet"
        )
        return main(["--data", str(tmp_path), "--out", str(tmp_path / "page.md")])

    assert write(values()) == 0
    assert write(values(broken_from=5)) == 1
    assert "`kl_impossible` | 40 | 1 |" in (tmp_path / "page.md").read_text()
