"""Doubles that several files of tests share: a tokenizer, the handle of an actor, a step row; and recorded runs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pyarrow.parquet as pq

from rftfm_ray.actors.calls import Pending
from rftfm_ray.actors.group import ActorGroup, LearnerGroup, RolloutGroup, roles_of
from rftfm_ray.config import RunConfig
from rftfm_ray.faultbench.runs.dataset import NAMES, Outcome, Recorded
from rftfm_ray.faultbench.runs.plan import Entry, Kind, Split
from rftfm_ray.metrics import BatchMetrics, CheckMetrics, CreditMetrics, StepRow, Timings, UpdateMetrics
from rftfm_ray.models import ASSETS
from rftfm_ray.planning import RunPlan
from rftfm_ray.rollout.text import TextCodec
from rftfm_ray.tasks.addition import Addition
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

    def decode_all(self, sequences: Sequence[Sequence[int]]) -> list[str]:
        return [self.decode(tokens) for tokens in sequences]

    def ids_containing(self, text: str) -> tuple[int, ...]:
        return (ord(text),) if text else ()


class Method:
    """A remote method that says what it was called with, once for every result that it has."""

    def __init__(self, actor: str, name: str, results: int = 0) -> None:
        self._called = (actor, name)
        self._results = results

    def remote(self, *arguments: object) -> tuple[object, ...]:
        called = (*self._called, *arguments)
        return (called,) * self._results if self._results else called

    def options(self, num_returns: int) -> Method:
        return Method(*self._called, num_returns)


class Actor:
    """Stands in for the handle of an actor."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, method: str) -> Method:
        return Method(self._name, method)


def make_plan(config: RunConfig, **parts: Any) -> RunPlan:
    """A plan of a run of addition that nobody has checked; `parts` are fields of it."""
    facts, nobody = cast("Any", SimpleNamespace(path=ASSETS / "tiny", parameters=1)), cast("Any", None)
    plan = RunPlan("run", config, Path("run"), Addition(), (), (), facts, None, nobody, None)
    return dataclasses.replace(plan, **parts)


def make_group(plan: RunPlan) -> ActorGroup:
    """The actors of a run, each of which says what it was asked."""
    own, *others = roles_of(plan)
    rollouts = RolloutGroup(others, [Actor(role.name) for role in others])
    return ActorGroup(plan, LearnerGroup(own, Actor(own.name)), rollouts, cast("Any", None))


def asked(calls: Iterable[Pending[Any]]) -> list[Any]:
    """What the actors of `make_group` say that they were asked."""
    return [call.reference for call in calls]


def row(id_: StepId, **values: float) -> dict[str, Any]:
    """A step row in which everything is NaN but the common figures and `values`."""
    unknown = {name: 0 if str(kind) == "int64" else math.nan for name, kind in
               zip(STEP_SCHEMA.names, STEP_SCHEMA.types, strict=True)}  # fmt: skip
    place = {"attempt": id_.attempt, "step": id_.step, "paid_step": id_.paid_step}
    common = {"reward_mean": 0.1 * id_.paid_step, "reward_q10": 0.0, "reward_q90": 1.0, "kl_ref": 0.01, "step_s": 0.5}
    return unknown | place | common | values
