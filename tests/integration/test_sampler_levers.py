"""Levers of the sampler on vLLM: under a fault of the sampler the tokens and log-probs are those without it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from rftfm_ray.actors.warm import WarmActors
from rftfm_ray.batch import TrajectoryBatch
from rftfm_ray.config import load_config
from rftfm_ray.driver.guard import NoGuard
from rftfm_ray.driver.remediation import RemedyExecutor
from rftfm_ray.driver.session import Session
from rftfm_ray.errors import SyncError
from rftfm_ray.incidents.orders import Order, OrderRole
from rftfm_ray.planning import plan
from rftfm_ray.training.update_report import UpdateReport
from rftfm_ray.types import Action, Levers

SMALL = ["algorithm.prompts_per_step=8", "algorithm.samples_per_prompt=4", "probe.size=16", "snapshots.every=0"]


def step(
    warm: WarmActors, folder: Path, *faults: str, levers: Levers | None = None
) -> tuple[TrajectoryBatch, UpdateReport]:
    """The first step of a run with faults, under levers."""
    run = plan(load_config(None, [*SMALL, f"inject=[{', '.join(repr(f) for f in faults)}]"]), folder / "run")
    session = Session(dataclasses.replace(run, name="sampler-levers"), warm.take(run))
    session.resync()
    session.move_levers(levers or Levers())
    position = next(session.positions())
    trajectories = session.generate(position)
    report, _ = session.train(position, trajectories)
    return session.fetch(trajectories), session.fetch_report(report)


@pytest.fixture(scope="module")
def clean(warm: WarmActors, tmp_path_factory: pytest.TempPathFactory) -> tuple[TrajectoryBatch, UpdateReport]:
    """The same step without a fault."""
    return step(warm, tmp_path_factory.mktemp("clean"))


CASES = [
    ("PG-1@1:15", Levers(end_bias=-15.0)),
    ("PG-3L@1:27", Levers(end_bias=27.0)),
    ("PG-3S@1:12", Levers(end_bias=-12.0)),
    ("OD-3@1:0.7", Levers(temperature_scale=1 / 0.3)),
    ("OD-3@1:0.7,mechanism=colder", Levers(temperature_scale=1 / 0.3)),
    ("PG-3S@1:1,mechanism=token_cap", Levers(tokens_scale=2.0)),
    ("TE-3@1:1", Levers(tokens_scale=2.0)),
    ("PG-2@1:10", Levers(rollout_path=1)),
    ("PG-1@1:1,mechanism=blank", Levers(rollout_path=1)),
]


@pytest.mark.parametrize(("fault", "levers"), CASES)
def test_lever_undoes_a_fault_of_the_sampler(
    warm: WarmActors, tmp_path: Path, clean: tuple[TrajectoryBatch, UpdateReport], fault: str, levers: Levers
) -> None:
    healthy, usual = clean
    broken, shown = step(warm, tmp_path, fault)
    assert not np.array_equal(broken.tokens, healthy.tokens)
    mended, report = step(warm, tmp_path, fault, levers=levers)
    np.testing.assert_array_equal(mended.tokens, healthy.tokens)
    np.testing.assert_allclose(mended.logprobs, healthy.logprobs, atol=1e-4)
    np.testing.assert_array_equal(mended.reward, healthy.reward)
    assert report.metrics.rollout_kl < 1e-8
    assert report.metrics.entropy == pytest.approx(usual.metrics.entropy, abs=1e-5)
    if "mechanism" not in fault and not fault.startswith("TE"):
        assert shown.metrics.rollout_kl > 1e-3


def test_restarted_actors_serve_the_learners_weights_where_sending_again_does_not(
    warm: WarmActors, tmp_path: Path
) -> None:
    overrides = [*SMALL, "learner.lr=0.001", "inject=['OD-2@1:1,mechanism=unsynced']", "sync.parity_every=0"]
    run = plan(load_config(None, overrides), tmp_path / "run")
    session = Session(dataclasses.replace(run, name="restarted"), warm.take(run))
    session.resync()
    position = next(session.positions())
    report, weights = session.train(position, session.generate(position))
    session.fetch_synced(session.sync(weights), position)
    session.fetch_report(report)
    events: list[dict[str, object]] = []
    records = SimpleNamespace(event=lambda kind, step, **found: events.append({"kind": kind, **found}))
    executor = RemedyExecutor(session, NoGuard(), cast("Any", records), 16)
    order = Order(1, 1, OrderRole.REMEDY, "again", "why", Levers(), actions=(Action.RESYNC,))
    executor.carry_out(order, position.id)
    assert events == [{"kind": "resync", "sent": 3, "mismatch": 1.0}]
    with pytest.raises(SyncError, match="does not serve the learner's weights"):
        session.parity()
    executor.carry_out(dataclasses.replace(order, actions=(Action.RESTART_ROLLOUT,)), position.id)
    assert session.parity() < 1e-3
