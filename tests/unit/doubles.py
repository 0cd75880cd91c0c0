"""Doubles that several files of tests share: a tokenizer, the handle of an actor, a step row; and recorded runs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from rftfm_ray.faultbench.runs.dataset import NAMES, Outcome, Recorded
from rftfm_ray.faultbench.runs.plan import Entry, Kind, Split
from rftfm_ray.metrics import BatchMetrics, CheckMetrics, CreditMetrics, StepRow, Timings, UpdateMetrics
from rftfm_ray.rollout.text import TextCodec
from rftfm_ray.telemetry.recorder import STEP_SCHEMA
from rftfm_ray.types import StepId

HEALTHY = Path(__file__).parents[2] / "benchmarks" / "data" / "healthy"


def recorded_runs(shards: int) -> Iterator[Recorded]:
    """Healthy runs of the real stack, ten to a shard; the first two shards are of one task and algorithm."""
    for file in sorted(HEALTHY.glob("steps-*.parquet"))[:shards]:
        table = pq.read_table(file)
        runs = np.array(table["run"].to_pylist())
        for name in dict.fromkeys(runs.tolist()):
            here = runs == name
            values = np.full((int(here.sum()), len(NAMES)), np.nan, np.float32)
            for place, signal in enumerate(NAMES):
                if signal in table.column_names:
                    values[:, place] = table[signal].to_numpy()[here]
            task, algorithm, size, seed = name.rsplit("-", 3)
            entry = Entry(name, Kind.HEALTHY, Split.CALIBRATE, int(seed), task, algorithm, size, len(values))
            yield Recorded(entry, Outcome((), ()), values)


def step_row(step: int) -> StepRow:
    """A step of which nothing but its number matters."""

    def fill(kind: type[Any]) -> Any:
        return kind(*(0.5 for _ in dataclasses.fields(kind)))

    parts = map(fill, (BatchMetrics, UpdateMetrics, CreditMetrics, Timings, CheckMetrics))
    return StepRow(StepId(0, step, step), step, *parts)


class Characters(TextCodec):
    """A tokenizer of one token per character."""

    eos_ids = (0,)

    def __init__(self) -> None:
        pass

    def encode(self, text: str) -> list[int]:
        return [ord(character) for character in text]

    def decode(self, tokens: Sequence[int]) -> str:
        return "".join(map(chr, tokens))

    def ids_containing(self, text: str) -> tuple[int, ...]:
        return (ord(text),) if text else ()


class Method:
    """A remote method that says what it was called with."""

    def __init__(self, actor: str, name: str) -> None:
        self._called = (actor, name)

    def remote(self, *arguments: object) -> tuple[object, ...]:
        return (*self._called, *arguments)


class Actor:
    """Stands in for the handle of an actor."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, method: str) -> Method:
        return Method(self._name, method)


def row(id_: StepId, **values: float) -> dict[str, Any]:
    """A step row in which everything is NaN but the common figures and `values`."""
    unknown = {name: 0 if str(kind) == "int64" else math.nan for name, kind in
               zip(STEP_SCHEMA.names, STEP_SCHEMA.types, strict=True)}  # fmt: skip
    place = {"attempt": id_.attempt, "step": id_.step, "paid_step": id_.paid_step}
    common = {"reward_mean": 0.1 * id_.paid_step, "reward_q10": 0.0, "reward_q90": 1.0, "kl_ref": 0.01, "step_s": 0.5}
    return unknown | place | common | values
