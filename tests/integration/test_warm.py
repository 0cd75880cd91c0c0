"""Runs that follow each other on one set of actors are, bit for bit, the runs that new actors make."""

from __future__ import annotations

import math
from pathlib import Path

import pyarrow as pa
import pytest

from rftfm_ray.actors.warm import WarmActors
from rftfm_ray.config import RunConfig, load_config
from rftfm_ray.driver.run import train
from rftfm_ray.metrics import Timings
from rftfm_ray.telemetry.recorder import read_steps

pytestmark = pytest.mark.usefixtures("cluster")

SHORT = [
    "steps=4", "algorithm.prompts_per_step=6", "algorithm.samples_per_prompt=4", "probe.size=32", "probe.every=2",
    "probe.final_size=64", "checkpoints.at_end=false", "report.at_end=false", "channels.golden_every=2",
    "channels.known_calls_every=2",
]  # fmt: skip
TIMED = {*Timings.__dataclass_fields__, "tool_latency_s", "tool_latency_max_s", "tool_error_latency_s"}


def config(*overrides: str) -> RunConfig:
    """A run of two seconds."""
    return load_config(None, [*SHORT, *overrides])


ADDITION = config("task.name=addition", "seed=1", "learner.lr=2e-4")
CALCULATOR = config("task.name=calculator", "algorithm.name=ppo", "seed=2")
# A reward spike, and steps far too large: nothing of it may be left for the run that follows.
DIVERGED = config("task.name=calculator", "algorithm.name=ppo", "seed=3", "inject=[OD-1@1:30,RF-1@2:2]")


def rows(folder: Path) -> dict[str, list[float | None]]:
    """Recorded columns that the seed determines; NaN as None, so that equal means equal."""
    table: pa.Table = read_steps(folder)
    columns = table.drop_columns(sorted(TIMED & set(table.column_names))).to_pydict()
    return {name: [None if isinstance(v, float) and math.isnan(v) else v for v in c] for name, c in columns.items()}


def test_warm_actors_make_the_runs_that_new_ones_make(runs: Path, warm: WarmActors) -> None:
    order = [("a", ADDITION), ("b", CALCULATOR), ("c", DIVERGED), ("b-again", CALCULATOR), ("a-again", ADDITION)]
    for name, wanted in order:
        train(wanted, runs / f"warm-{name}", warm=warm)
    train(CALCULATOR, runs / "cold-b")
    found = {name: rows(runs / f"warm-{name}") for name, _ in order}
    assert found["b"] == found["b-again"] == rows(runs / "cold-b")
    assert found["a"] == found["a-again"]
    # Another seed alone makes another run, and the faults were there.
    assert found["c"]["reward_mean"] != found["b"]["reward_mean"]
    assert (found["c"]["kl_ref"][-1] or 0) > 10 * (found["b"]["kl_ref"][-1] or 1)


def test_more_prompt_tokens_than_one_pass_takes_can_be_sampled(runs: Path, warm: WarmActors) -> None:
    """Prompts of nine tokens, 512 of them at once: none may be cut over two passes."""
    wide = config("task.name=calculator", "steps=1", "probe.final_size=512", "probe.sampled_share=1", "probe.every=0")
    summary = train(wide, runs / "wide", warm=warm)
    assert 0.1 < summary.probe_sampled_first < summary.probe_first < 0.7
