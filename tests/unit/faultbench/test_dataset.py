"""Recorded runs: what is written is read back, what is damaged is refused, what is missing is made."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rftfm_ray.errors import BenchError
from rftfm_ray.faultbench.reproduce import DIVERGENCES, ROUNDING, SHARED_STEPS, Difference, difference
from rftfm_ray.faultbench.runs.dataset import (
    MANIFEST,
    NAMES,
    TIMES,
    Outcome,
    Record,
    Recorded,
    Rows,
    expand_forks,
    is_complete,
    read_bench,
    read_records,
    write_records,
)
from rftfm_ray.faultbench.runs.generate import Job
from rftfm_ray.faultbench.runs.plan import Entry, Kind, Split
from rftfm_ray.signals.groups import SEPARATORS
from rftfm_ray.signals.schema import value

HEALTHY = Entry("healthy-1", Kind.HEALTHY, Split.TUNE, 1, "addition", "grpo", "tiny", 8)
OUTCOME = Outcome((), ())
FAULTY = Entry("RF-1-easy-0", Kind.FAULT, Split.TUNE, 1, "addition", "grpo", "tiny", 8, ("RF-1@7:easy",), "easy", 7, 5)


def rows_for(entry: Entry) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """Rows that tell the run and the step; times are there as well."""
    rows = np.random.default_rng(len(entry.name) + entry.seed).normal(size=(entry.steps - entry.fork, len(NAMES)))
    rows[0, 3] = np.nan
    return rows.astype(np.float32)


def record(entry: Entry, *effects: int | None) -> Record:
    """A record of an entry."""
    return Record(entry, Outcome((entry.onset,) * len(effects), effects), rows_for(entry))


def without_times(
    rows: np.ndarray[tuple[int, int], np.dtype[np.float32]],
) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """Rows as they are kept."""
    timeless = rows.copy()
    timeless[:, [NAMES.index(name) for name in TIMES]] = np.nan
    return timeless


def test_records_are_read_back_and_forks_get_the_rows_that_they_share(tmp_path: Path) -> None:
    records = [record(HEALTHY), record(FAULTY, None)]
    write_records(tmp_path / "runs", records)
    read = read_records(tmp_path / "runs")
    assert [(r.entry, r.outcome) for r in read] == [(r.entry, r.outcome) for r in records]
    for one, other in zip(read, records, strict=True):
        np.testing.assert_array_equal(one.rows, without_times(other.rows))
    healthy, faulty = expand_forks(read)
    assert (len(healthy), len(faulty)) == (8, 8)
    np.testing.assert_array_equal(faulty.values[:5], healthy.values[:5])
    np.testing.assert_array_equal(faulty.values[5:], read[1].rows)
    report = list(faulty.reports())[6]
    assert (report.id.step, value(report, "entropy")) == (7, faulty.signal("entropy")[6])


def test_rows_of_before_the_separators_are_read_without_them(tmp_path: Path) -> None:
    path = tmp_path / "runs"
    write_records(path, [record(HEALTHY)])
    table = pq.read_table(path.with_suffix(".parquet"))
    pq.write_table(table.drop_columns(list(SEPARATORS)), path.with_suffix(".parquet"))
    (old,) = read_records(path)
    expected = without_times(rows_for(HEALTHY))
    expected[:, [NAMES.index(name) for name in SEPARATORS]] = np.nan
    np.testing.assert_array_equal(old.rows, expected)
    recorded, repeated = (
        Recorded(HEALTHY, OUTCOME, old.rows),
        Recorded(HEALTHY, OUTCOME, without_times(rows_for(HEALTHY))),
    )
    assert difference(recorded, repeated) == Difference("", 0.0, is_exact=True)
    pq.write_table(table.drop_columns(["entropy"]), path.with_suffix(".parquet"))
    with pytest.raises(BenchError, match="damaged"):
        read_records(path)


def test_equal_records_are_equal_bytes(tmp_path: Path) -> None:
    for name in ("one", "other"):
        write_records(tmp_path / name, [record(HEALTHY), record(FAULTY, 7)])
    for suffix in (".parquet", ".json"):
        one, other = (tmp_path / f"{name}{suffix}" for name in ("one", "other"))
        assert one.read_bytes() == other.read_bytes()


def test_fork_without_its_healthy_run_is_refused() -> None:
    with pytest.raises(BenchError, match="healthy run of RF-1-easy-0 is missing"):
        list(expand_forks([record(FAULTY, 7)]))


@given(st.binary(max_size=200))
def test_whatever_stands_there_is_read_or_refused_with_a_sentence(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.mktemp("bench") / "runs"
    write_records(path, [record(HEALTHY)])
    path.with_suffix(".json").write_bytes(data)
    with pytest.raises(BenchError, match="damaged"):
        read_records(path)


@pytest.mark.parametrize("suffix", [".parquet", ".json"])
def test_what_is_cut_off_or_missing_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "runs"
    write_records(path, [record(HEALTHY)])
    file = path.with_suffix(suffix)
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(BenchError, match="damaged"):
        read_records(path)
    file.unlink()
    with pytest.raises(BenchError, match="cannot be read"):
        read_records(path)


def made(job: Job, seed: int) -> None:
    """Make a seed of a job, with rows that tell nothing."""
    records = [record(entry, *([entry.onset] * bool(entry.inject))) for entry in job.groups()[seed]]
    write_records(job.parts / str(seed), records)


def test_job_goes_on_where_it_stood_and_ends_with_a_manifest(tmp_path: Path) -> None:
    job = Job(str(tmp_path), "smoke", 1)
    job.parts.mkdir()
    seeds = list(job.groups())
    assert job.missing() == seeds
    for seed in seeds[:-1]:
        made(job, seed)
    assert (job.missing(), list(job.gather())) == (seeds[-1:], [])
    with pytest.raises(BenchError, match="give the same command again"):
        job.finish()
    job.spend(90.0)
    made(job, seeds[-1])
    assert [path.name for path in job.gather()] == ["runs-000"]
    assert (job.missing(), list(job.gather())) == ([], [])
    job.finish()
    assert not job.parts.exists()
    manifest = json.loads((tmp_path / MANIFEST).read_text())
    assert (manifest["runs"], manifest["minutes"]) == (len(job.entries), 1.5)
    assert [run.entry for run in read_bench(tmp_path)] == list(job.entries)


def test_altered_and_missing_shards_are_found(tmp_path: Path) -> None:
    job = Job(str(tmp_path), "smoke", 1)
    job.parts.mkdir()
    for seed in job.groups():
        made(job, seed)
    list(job.gather())
    with pytest.raises(BenchError, match="no complete benchmark"):
        read_bench(tmp_path)
    job.finish()
    file = tmp_path / "runs-000.json"
    text = file.read_text()
    file.write_text(text.replace('"effects"', '"effects" '))
    with pytest.raises(BenchError, match="not as its manifest says"):
        read_bench(tmp_path)
    file.unlink()
    with pytest.raises(BenchError, match="lacks"):
        read_bench(tmp_path)
    assert not is_complete(tmp_path / "runs-000")


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"format": 1}'])
def test_manifest_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(BenchError, match="damaged"):
        read_bench(tmp_path)


def of(values: Rows, *effects: int | None) -> Recorded:
    """A run of given rows."""
    return Recorded(HEALTHY, Outcome((7,) * len(effects), effects), values)


def test_first_difference_of_two_runs_is_named_and_rounding_is_none() -> None:
    rows, entropy = np.full((8, len(NAMES)), 0.5, np.float32), NAMES.index("entropy")
    assert difference(of(rows), of(rows.copy())) == Difference("", 0.0, is_exact=True)
    shorter = difference(of(rows), of(rows[:-1]))
    assert shorter == Difference("the number of steps, 8 and 7", math.inf, is_exact=False)
    other = rows.copy()
    other[:, NAMES.index(TIMES[0])] = 5
    assert difference(of(rows), of(other)) == Difference("", 0.0, is_exact=True)
    # Another processor adds in another order.
    other[4, entropy] += np.float32(1e-6)
    rounded = difference(of(rows), of(other))
    assert (rounded.where, rounded.is_exact) == ("", False)
    assert 0 < rounded.distance < 1e-3
    # One trajectory of 128 is an event.
    other[5, NAMES.index("correct_rate")] += 1 / 128
    assert difference(of(rows), of(other)).where == "correct_rate from step 6 on"
    for nothing in (np.nan, np.inf):
        other = rows.copy()
        other[2, entropy] = nothing
        assert difference(of(rows), of(other)).where == "entropy from step 3 on"
    rows[2, entropy] = np.nan
    assert difference(of(rows), of(other)).where == "entropy from step 3 on", "infinite is not the same as none"
    assert difference(of(rows, 5), of(rows, 6)).where == "the steps of its effects"


@pytest.mark.parametrize(
    ("rounded_from", "apart_from", "where", "branch"),
    [
        (1, 80, "", 80),
        (1, SHARED_STEPS + 1, "", SHARED_STEPS + 1),
        # An ordinary run is shared whole.
        (1, SHARED_STEPS, f"entropy from step {SHARED_STEPS} on", None),
        # One processor, whose bits must stay equal.
        (80, 80, "entropy from step 80 on", None),
    ],
)
def test_rounding_may_at_last_make_a_long_run_another_one(
    rounded_from: int, apart_from: int, where: str, branch: int | None
) -> None:
    rows, entropy = np.full((100, len(NAMES)), 0.5, np.float32), NAMES.index("entropy")
    other = rows.copy()
    other[rounded_from - 1 :, entropy] += np.float32(1e-6)
    other[apart_from - 1 :, entropy] += 1
    difference_ = difference(of(rows), of(other))
    assert (difference_.where, difference_.branch) == (where, branch)
    if branch is not None:
        assert difference_.distance < 1e-3
        assert [difference_.shares(step) for step in (branch - 1, branch)] == [True, False]


@pytest.mark.parametrize("name", DIVERGENCES)
@pytest.mark.parametrize(
    ("before", "after"), [(0.0, 1e-13), (1e-13, 2e-13), (-1e-13, 1e-13), (1e-10, 1.2e-10), (4e-3, 4e-3 + 1e-9)]
)
def test_rounding_of_a_divergence_is_that_of_its_log_probs(name: str, before: float, after: float) -> None:
    """What is left of a KL of zero is rounding, and its logarithm says nothing."""
    result = divergences_apart(name, before, after)
    assert (result.where, result.is_exact) == ("", False)
    assert result.distance <= ROUNDING


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("rollout_kl", 0.0, 1e-6), ("rollout_kl", 1e-6, 4e-6), ("rollout_kl", 4e-3, 8e-3),
        ("rollout_kl", 0.0, math.nan), ("kl_old", 4e-3, 8e-3), ("kl_ref", 4e-3, 0.1),
    ],
)  # fmt: skip
def test_what_rounding_cannot_do_to_a_divergence_is_a_difference(name: str, before: float, after: float) -> None:
    result = divergences_apart(name, before, after)
    assert result.where == f"{name} from step 4 on"
    assert result.distance > ROUNDING


def divergences_apart(name: str, before: float, after: float) -> Difference:
    """How far two runs are apart in which one signal has another value at step 4."""
    rows = np.full((8, len(NAMES)), 0.5, np.float32)
    rows[:, NAMES.index(name)] = before
    other = rows.copy()
    other[3, NAMES.index(name)] = after
    return difference(of(rows), of(other))
