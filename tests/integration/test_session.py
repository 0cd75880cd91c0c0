"""A started group of real actors, driven verb by verb: versions, restores, refused updates, levers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import ray

from rftfm_ray.actors.calls import wait_for
from rftfm_ray.actors.group import ActorGroup, start_group
from rftfm_ray.batch import TrajectoryBatch, concatenate
from rftfm_ray.config import RunConfig, load_config
from rftfm_ray.driver.run import START
from rftfm_ray.driver.session import Session
from rftfm_ray.errors import ConfigError, LearnerError, PlacementError, RolloutError, SyncError
from rftfm_ray.models import resolve_model
from rftfm_ray.tasks.loading import check_task, load_task
from rftfm_ray.types import Levers, Position, Veto

pytestmark = pytest.mark.usefixtures("cluster")

WAIT_S = 120.0


def configure(*overrides: str) -> RunConfig:
    """A small run with a snapshot after every step."""
    small = ["algorithm.prompts_per_step=4", "algorithm.samples_per_prompt=4", "probe.size=16", "snapshots.every=1"]
    return load_config(None, [*small, "learner.lr=2e-4", *overrides])


@pytest.fixture(scope="module")
def started(cluster: None) -> Iterator[tuple[RunConfig, ActorGroup]]:
    """One group for all tests of the file."""
    config = configure()
    task = load_task("addition")
    pool, heldout = check_task(task, config)
    group = start_group("session-test", config, str(resolve_model(config.model.path)), task, [*pool, *heldout])
    yield config, group
    group.stop()


@pytest.fixture
def session(started: tuple[RunConfig, ActorGroup]) -> Session:
    """A session at the start; the learner is put back to its first snapshot, if it has one."""
    config, group = started
    pool, heldout = check_task(load_task("addition"), config)
    if 0 in ray.get(group.learner.snapshot_steps.remote()):
        ray.get(group.learner.restore_snapshot.remote(0))
    fresh = Session(config, group, pool, heldout, START)
    fresh.resync()
    fresh.snapshot()
    return fresh


def next_position(session: Session) -> Position:
    """Where the session will stand after its next step."""
    return next(session.positions())


def train_step(session: Session) -> tuple[TrajectoryBatch, Any]:
    """One whole step; its trajectories and report."""
    position = next_position(session)
    trajectories = session.generate(position)
    report, weights = session.train(position, trajectories)
    synced = session.sync(weights)
    batch = session.fetch(trajectories)
    done = session.fetch_report(report)
    session.fetch_synced(synced, position)
    return batch, done


def weights_of(group: ActorGroup) -> dict[str, Any]:
    """The learner's weights."""
    update = ray.get(group.learner.weights.remote(0))
    return {name: np.array(array) for name, array in update.arrays.items()}


def same(first: dict[str, Any], second: dict[str, Any]) -> bool:
    """Whether two sets of weights are equal bit for bit."""
    return first.keys() == second.keys() and all(np.array_equal(first[n], second[n]) for n in first)


def test_a_rollout_refuses_every_version_but_its_own(session: Session, started: tuple[RunConfig, ActorGroup]) -> None:
    _, group = started
    with pytest.raises(SyncError, match="holds model version 0 and was asked for 1"):
        wait_for([group.rollouts[0].score.remote([[5, 6]], 1)], WAIT_S, "scoring")
    update = ray.get(group.learner.weights.remote(7))
    damaged = dataclasses.replace(update, checksum=update.checksum ^ 1)
    with pytest.raises(SyncError, match="checksum"):
        wait_for([group.rollouts[0].load_weights.remote(damaged)], WAIT_S, "syncing")
    assert ray.get(group.rollouts[0].load_weights.remote(update)).version == 7
    with pytest.raises(SyncError, match="holds model version 7"):
        session.parity()


def test_parity_finds_a_rollout_with_other_weights(session: Session, started: tuple[RunConfig, ActorGroup]) -> None:
    _, group = started
    assert session.parity() < 1e-4
    from rftfm_ray.rollout.weights import pack_weights

    other = weights_of(group)
    other["lm_head.weight"] = other["lm_head.weight"] * 1.05
    ray.get(group.rollouts[0].load_weights.remote(pack_weights(0, other)))
    with pytest.raises(SyncError, match=r"differ by .* nats at model version 0"):
        session.parity()


def test_a_restored_learner_repeats_its_steps_bit_for_bit(
    session: Session, started: tuple[RunConfig, ActorGroup]
) -> None:
    _, group = started
    train_step(session)
    middle = weights_of(group)
    batch, report = train_step(session)
    end = weights_of(group)
    position = ray.get(group.learner.restore_snapshot.remote(1))
    assert same(weights_of(group), middle)
    assert (position.id.step, position.model_version, position.cursor) == (1, 1, 4)
    session.position = position
    session.resync()
    assert session.parity() < 1e-4
    again, repeated = train_step(session)
    assert np.array_equal(batch.tokens, again.tokens)
    assert np.array_equal(batch.logprobs, again.logprobs)
    # By what they print, in which NaN equals NaN; the time that it took is no part of it.
    assert repr(dataclasses.replace(report, reference_s=0.0)) == repr(dataclasses.replace(repeated, reference_s=0.0))
    assert same(weights_of(group), end)


def test_restoring_drops_later_snapshots(session: Session, started: tuple[RunConfig, ActorGroup]) -> None:
    _, group = started
    train_step(session)
    train_step(session)
    ray.get(group.learner.restore_snapshot.remote(1))
    assert ray.get(group.learner.snapshot_steps.remote()) == (0, 1)
    with pytest.raises(LearnerError, match=r"no snapshot of step 2; the ring holds steps \[0, 1\]"):
        wait_for([group.learner.restore_snapshot.remote(2)], WAIT_S, "restoring")


def test_a_refused_update_changes_nothing_and_the_next_one_is_as_if_it_had_not_been(
    session: Session, started: tuple[RunConfig, ActorGroup]
) -> None:
    _, group = started
    position = next_position(session)
    batch = concatenate(ray.get(session.generate(position)))
    poisoned = dataclasses.replace(batch, reward=np.full_like(batch.reward, np.nan))
    before = weights_of(group)
    report, update = ray.get(group.learner.train.options(num_returns=2).remote(position, False, poisoned))
    assert [record.veto for record in report.vetoes] == [Veto.NON_FINITE_ADVANTAGE]
    assert report.metrics.vetoes == 1
    assert same(weights_of(group), before)
    assert same({n: np.array(a) for n, a in update.arrays.items()}, before)
    ray.get(group.learner.train.options(num_returns=2).remote(position, False, batch))
    after_veto = weights_of(group)
    ray.get(group.learner.restore_snapshot.remote(0))
    ray.get(group.learner.train.options(num_returns=2).remote(position, False, batch))
    assert same(weights_of(group), after_veto)


def test_levers_move_the_settings_in_force_and_come_back_with_a_snapshot(
    session: Session, started: tuple[RunConfig, ActorGroup]
) -> None:
    config, group = started
    ray.get(group.learner.set_levers.remote(Levers(lr_scale=0.1, kl_coef_scale=5.0, minibatches=2)))
    _, report = train_step(session)
    assert report.metrics.lr == pytest.approx(config.learner.lr * 0.1)
    assert report.metrics.kl_coef == pytest.approx(config.algorithm.kl_coef * 5)
    with pytest.raises(ConfigError, match=r"Lever lr_scale=2\.0 is out of bounds"):
        wait_for([group.learner.set_levers.remote(Levers(lr_scale=2.0))], WAIT_S, "moving levers")
    ray.get(group.learner.restore_snapshot.remote(0))
    session.position = START
    session.resync()
    _, report = train_step(session)
    assert report.metrics.lr == pytest.approx(config.learner.lr)


def test_a_group_that_does_not_fit_is_refused_in_a_sentence() -> None:
    config = configure("placement.timeout_s=1", "placement.cpus_per_rollout=50")
    task = load_task("addition")
    with pytest.raises(PlacementError, match=r"needs 51 CPU in 2 pieces, and after 1 s the cluster has .* of 8 CPU"):
        start_group("too-large", config, str(resolve_model(config.model.path)), task, [])


@pytest.mark.slow
def test_a_prompt_that_does_not_fit_is_refused_and_nothing_stays() -> None:
    config = configure("rollout.max_model_len=16", "task.name=calculator")
    task = load_task("calculator")
    pool, _ = check_task(task, config)
    with pytest.raises(ConfigError, match=r"takes 9 tokens and its first turn up to 12, more than .*max_model_len=16"):
        start_group("too-long", config, str(resolve_model(config.model.path)), task, pool)
    with pytest.raises(ValueError, match="Failed to look up actor"):
        ray.get_actor("too-long/learner-0", namespace="rftfm")


def test_the_death_of_a_rollout_actor_is_a_sentence() -> None:
    config = configure()
    task = load_task("addition")
    pool, heldout = check_task(task, config)
    group = start_group("dying", config, str(resolve_model(config.model.path)), task, pool)
    try:
        session = Session(config, group, pool, heldout, START)
        session.resync()
        ray.kill(group.rollouts[0])
        with pytest.raises(RolloutError, match="An actor died while generating"):
            session.fetch(session.generate(next_position(session)))
    finally:
        group.stop()
