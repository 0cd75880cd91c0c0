"""Recorded runs that are made again: which ones, and when they take the place of the old ones."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from benchmarks.remake import has, put_in_place, replaced, same, wanted
from rftfm_ray.faultbench.runs import generate
from rftfm_ray.faultbench.runs.dataset import MANIFEST, NAMES, Outcome, Record, read_records, shard_path, write_records
from rftfm_ray.faultbench.runs.generate import Job
from rftfm_ray.faultbench.runs.plan import Entry

LOST = {("OD-1", "lost_moments")}


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """The first shards of the shipped plan, with rows of zeros."""
    whole = Job("", "background", 2)
    groups = whole.groups()
    seeds = [seed for shard in whole.shards()[:2] for seed in shard]
    job = Job(str(tmp_path_factory.mktemp("bench")), "background", 2)
    job.__dict__["entries"] = tuple(entry for seed in seeds for entry in groups[seed])
    for index, shard in enumerate(job.shards()):
        write_records(shard_path(job.folder, index), [record(entry) for seed in shard for entry in groups[seed]])
    return job


def record(entry: Entry, value: float = 0.0) -> Record:
    """A run whose signals are all the same."""
    rows = np.full((entry.steps - entry.fork, len(NAMES)), value, np.float32)
    return Record(entry, Outcome((), ()), rows)


def test_runs_are_chosen_by_code_and_mechanism_with_the_healthy_run_of_their_seed(job: Job) -> None:
    groups = wanted(job, LOST)
    assert groups
    for seed, group in groups.items():
        healthy, *others = group
        assert (healthy.inject, healthy.seed) == ((), seed)
        assert others
        assert all(any("OD-1@" in text and "mechanism=lost_moments" in text for text in e.inject) for e in others)
    chosen = {entry.name for group in groups.values() for entry in group if entry.inject}
    assert chosen == {entry.name for entry in job.entries if has(entry, LOST)}
    assert not wanted(job, {("OD-1", "no_such")})


def test_only_what_was_made_again_is_replaced_and_healthy_runs_must_be_equal(job: Job) -> None:
    ((_, (healthy, *others)), *_) = wanted(job, LOST).items()
    recorded = [record(healthy), *map(record, others), record(dataclasses.replace(others[0], name="another"))]
    found, unequal = replaced(recorded, [record(healthy), *(record(entry, 1.0) for entry in others)])
    assert [float(each.rows.max()) for each in found] == [0.0, *[1.0] * len(others), 0.0]
    assert unequal == []
    _, unequal = replaced(recorded, [record(healthy, 1.0)])
    assert unequal == [healthy.name]
    missing = record(healthy, np.nan)
    assert same(missing, missing)
    assert not same(missing, record(healthy))


def test_shards_are_written_anew_only_when_every_healthy_run_is_equal(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = wanted(job, LOST)
    # The catalogue and the packages of another machine are not what is tested.
    monkeypatch.setattr(generate.Job, "check", lambda _: None)
    for seed, group in groups.items():
        write_records(tmp_path / str(seed), [record(entry, 1.0) for entry in group])
    before = shard_path(job.folder, 0).with_suffix(".parquet").read_bytes()
    assert len(put_in_place(job, groups, tmp_path)) == len(groups)
    assert shard_path(job.folder, 0).with_suffix(".parquet").read_bytes() == before
    for seed, (healthy, *others) in groups.items():
        write_records(tmp_path / str(seed), [record(healthy), *(record(entry, 1.0) for entry in others)])
    assert put_in_place(job, groups, tmp_path) == []
    assert (job.folder / MANIFEST).exists()
    assert not tmp_path.exists()
    for index in range(len(job.shards())):
        for each in read_records(shard_path(job.folder, index)):
            assert each.rows[:, NAMES.index("loss")].max() == float(has(each.entry, LOST))
