"""The recorded healthy runs: whole, small, of one seed each, and without a broken identity in any step."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rftfm_ray.detection.detectors.identities import IDENTITIES
from rftfm_ray.detection.reference.views import StepView, values_of
from rftfm_ray.signals.groups import SEPARATORS
from rftfm_ray.signals.schema import SIGNALS
from rftfm_ray.types import StepId
from rftfm_ray.verdicts import StepReport

DATA = Path(__file__).parents[3] / "benchmarks" / "data" / "healthy"
MOST_BYTES = 5_000_000


@pytest.fixture(scope="module")
def manifest() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DATA / "manifest.json").read_text())
    return found


@pytest.fixture(scope="module")
def table() -> pa.Table:
    return pa.concat_tables([pq.read_table(path) for path in sorted(DATA.glob("*.parquet"))])


def reports(table: pa.Table) -> Iterator[tuple[str, StepReport]]:
    """Every recorded step as the guard saw it; NaN for what rows leave out."""
    columns = {name: table[name].to_numpy() for name in table.column_names if name != "run"}
    values = np.column_stack([columns.get(s.name, np.full(len(table), np.nan)) for s in SIGNALS])
    for run, step, row in zip(table["run"].to_pylist(), columns["step"].tolist(), values.tolist(), strict=True):
        yield run, StepReport(StepId(0, step, step), step - 1, tuple(row))


def test_files_are_those_of_the_manifest(manifest: dict[str, Any]) -> None:
    found = {path.name: sha256(path.read_bytes()).hexdigest() for path in DATA.glob("*.parquet")}
    assert found == manifest["sha256"]
    assert sum(path.stat().st_size for path in DATA.iterdir()) <= MOST_BYTES


def test_hundred_whole_runs_with_a_seed_each(manifest: dict[str, Any], table: pa.Table) -> None:
    runs = table["run"].to_pylist()
    assert sorted(set(runs)) == sorted(manifest["runs"])
    assert len(set(runs)) == 100
    assert len({run.rsplit("-", 1)[1] for run in runs}) == 100
    assert {tuple(run.split("-")[:3]) for run in runs} == {
        (task, algorithm, size)
        for task in ("addition", "calculator")
        for algorithm in ("grpo", "ppo")
        for size in ("tiny", "small")
    }
    assert len(table) == 100 * manifest["steps"]
    assert all(field.type in (pa.float32(), pa.int32(), pa.string()) for field in table.schema)


def test_no_identity_is_broken_in_any_step(table: pa.Table) -> None:
    runs, every = zip(*reports(table), strict=True)
    view = StepView.without_residuals(*values_of(every))
    broken = [
        (runs[row], int(view.steps[row]), identity.name)
        for identity in IDENTITIES
        for row in np.flatnonzero(identity.broken(view)).tolist()
    ]
    assert broken == []


def test_every_identity_was_there_to_be_broken(table: pa.Table) -> None:
    # The figures of a run that was recorded before the separators do not hold them.
    unrecorded = {identity.signal for identity in IDENTITIES} - set(table.column_names)
    assert unrecorded in (set(), {identity.signal for identity in IDENTITIES} & set(SEPARATORS))
    for identity in IDENTITIES:
        if identity.signal not in unrecorded:
            measured = np.isfinite(table[identity.signal].to_numpy())
            # Every fifth update of 4,000 is replayed.
            assert measured.sum() >= (500 if identity.signal == "update_gain" else 1000), identity.name


def test_runs_learn(table: pa.Table) -> None:
    frame: dict[str, list[tuple[float, float]]] = {}
    columns = (table[name].to_pylist() for name in ("run", "step", "correct_rate"))
    for run, step, right in zip(*columns, strict=True):
        frame.setdefault(run, []).append((step, right))
    gains = []
    for points in frame.values():
        ordered = [right for _, right in sorted(points)]
        gains.append(math.fsum(ordered[-5:]) / 5 - math.fsum(ordered[:5]) / 5)
    assert min(gains) > 0.05
