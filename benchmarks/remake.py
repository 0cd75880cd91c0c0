"""Makes the recorded runs of chosen mechanisms again with the installed code, and puts them into their shards.

    python -m benchmarks.remake CODE:MECHANISM ... [--data DIR] [--size background] [--seed 2] [--workers 2]

For a benchmark that was made before the code of a mechanism, or of what is measured in it, was changed. Of each seed
that has such a run its healthy run is made too, from which the others are forked; it must equal the recorded one, bit
for bit, or nothing is replaced. Finished seeds wait below DIR/.remade, so the command can be stopped at any moment and
given again. The manifest is written anew.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.util import ActorPool

from rftfm_ray.driver.cluster import connect
from rftfm_ray.faultbench.runs.dataset import (
    MANIFEST,
    NAMES,
    TIMES,
    Record,
    is_complete,
    read_records,
    shard_path,
    write_records,
)
from rftfm_ray.faultbench.runs.generate import Job, config_of, make_group
from rftfm_ray.faultbench.runs.plan import Entry
from rftfm_ray.faultbench.runs.runner import ExperimentRunner

MEASURED = [index for index, name in enumerate(NAMES) if name not in TIMES]


def has(entry: Entry, mechanisms: Collection[tuple[str, str]]) -> bool:
    """Whether a run has one of the mechanisms, each a code and a name."""
    injected = {(text.partition("@")[0], _mechanism(text)) for text in entry.inject}
    return not injected.isdisjoint(mechanisms)


def _mechanism(text: str) -> str:
    """The mechanism that an injected fault names; empty where it leaves it to the catalogue."""
    options = dict(part.split("=", 1) for part in text.partition(":")[2].split(",") if "=" in part)
    return options.get("mechanism", "")


def wanted(job: Job, mechanisms: Collection[tuple[str, str]]) -> dict[int, list[Entry]]:
    """By seed the healthy run and the runs to be made again, of the seeds that have some."""
    found = {}
    for seed, group in job.groups().items():
        chosen = [entry for entry in group if has(entry, mechanisms)]
        if chosen:
            found[seed] = [entry for entry in group if not entry.inject or entry in chosen]
    return found


def replaced(recorded: Sequence[Record], made: Sequence[Record]) -> tuple[list[Record], list[str]]:
    """Records with those in place that were made again, and the names of healthy runs that came out otherwise."""
    again = {record.entry.name: record for record in made}
    unequal = [
        record.entry.name
        for record in recorded
        if not record.entry.inject and record.entry.name in again and not same(record, again[record.entry.name])
    ]
    return [again.get(record.entry.name, record) for record in recorded], unequal


def same(one: Record, other: Record) -> bool:
    """Whether two records of a run are equal, but for times."""
    if one.outcome != other.outcome or one.rows.shape != other.rows.shape:
        return False
    return np.array_equal(one.rows[:, MEASURED], other.rows[:, MEASURED], equal_nan=True)


class Maker:
    """Makes the runs of one seed after the other, on actors that stay."""

    def __init__(self, job: Mapping[str, Any]) -> None:
        self._job, self._runner = Job(**job), ExperimentRunner()

    def make(self, entries: Sequence[Entry], out: Path) -> int:
        """Make runs of a seed, and store them; returns the seed."""
        write_records(out, make_group(self._runner, entries, out.with_name(f"checkpoints-{out.name}")))
        return entries[0].seed


def make(job: Job, groups: Mapping[int, Sequence[Entry]], folder: Path, workers: int) -> None:
    """Make the seeds that are not below `folder` yet, `workers` at a time."""
    missing = [seed for seed in groups if not is_complete(folder / str(seed))]
    runs = sum(len(groups[seed]) for seed in missing)
    print(f"{runs} runs of {len(missing)} of {len(groups)} seeds are to be made", flush=True)
    if not missing:
        return
    folder.mkdir(parents=True, exist_ok=True)
    connect(config_of(groups[missing[0]][0]), runs=workers + 1)
    maker: Any = ray.remote(num_cpus=0.01)(Maker)
    pool = ActorPool([maker.remote(asdict(job)) for _ in range(workers)])
    made = pool.map_unordered(lambda actor, seed: actor.make.remote(groups[seed], folder / str(seed)), missing)
    for number, seed in enumerate(made, start=1):
        print(f"{number}/{len(missing)} seed {seed}", flush=True)


def put_in_place(job: Job, groups: Mapping[int, Sequence[Entry]], folder: Path) -> list[str]:
    """Replace runs in their shards, unless a healthy run came out otherwise; the names of those."""
    shards, unequal = dict[Path, list[Record]](), list[str]()
    for index, seeds in enumerate(job.shards()):
        made = [record for seed in seeds if seed in groups for record in read_records(folder / str(seed))]
        if made:
            path = shard_path(job.folder, index)
            shards[path], otherwise = replaced(read_records(path), made)
            unequal += otherwise
    if not unequal:
        (job.folder / MANIFEST).unlink(missing_ok=True)
        for path, records in shards.items():
            write_records(path, records)
        job.finish()
        shutil.rmtree(folder)
    return unequal


def main() -> None:
    """Make the runs, and put them in place."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("mechanisms", nargs="+", metavar="CODE:MECHANISM")
    parser.add_argument("--data", type=Path, default=Path(__file__).parent / "data" / "faultbench_background")
    parser.add_argument("--size", default="background")
    parser.add_argument("--seed", type=int, default=2)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    job = Job(str(arguments.data.resolve()), arguments.size, arguments.seed)
    job.check()
    groups = wanted(job, {(code, name) for code, _, name in (text.partition(":") for text in arguments.mechanisms)})
    if not groups:
        sys.exit(f"No run has one of {', '.join(arguments.mechanisms)}; write each as CODE:MECHANISM.")
    folder = job.folder / ".remade"
    make(job, groups, folder, arguments.workers)
    unequal = put_in_place(job, groups, folder)
    if unequal:
        sys.exit(f"Nothing was replaced: {len(unequal)} healthy runs came out otherwise, for example {unequal[0]}.")


if __name__ == "__main__":
    main()
