"""A started group of real actors, driven verb by verb: versions, restores, refused updates, levers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import ray

from rftfm_ray.actors.calls import Limit, Pending, wait_for
from rftfm_ray.actors.group import ActorGroup, start_group
from rftfm_ray.batch import TrajectoryBatch, concatenate
from rftfm_ray.config import RunConfig, load_config
from rftfm_ray.driver.session import START, Session
from rftfm_ray.errors import ConfigError, LearnerError, PlacementError, RolloutError, SyncError
from rftfm_ray.planning import RunPlan, plan
from rftfm_ray.rollout.weights import WeightsUpdate, pack_weights
from rftfm_ray.types import Levers, Rejection, TrainingCursor

pytestmark = pytest.mark.usefixtures("cluster")

T = TypeVar("T")


def configure(*overrides: str) -> RunConfig:
    """A small run with a snapshot after every step, of which memory has room for one."""
    small = ["algorithm.prompts_per_step=4", "algorithm.samples_per_prompt=4", "probe.size=16", "snapshots.every=1"]
    return load_config(None, [*small, f"snapshots.max_bytes={5 << 20}", "learner.lr=2e-4", *overrides])


def planned(name: str, config: RunConfig, tmp_path: Path) -> RunPlan:
    """A plan of a run, which nobody makes."""
    return dataclasses.replace(plan(config, tmp_path / name), name=name)


def get(call: Pending[T], doing: str = "being tested") -> T:
    """The result of one call."""
    return wait_for([call], Limit(120.0), doing)[0]


def given(value: T, group: ActorGroup) -> Pending[T]:
    """A value as if the learner had made it."""
    return Pending(ray.put(value), group.learner.role)


@pytest.fixture(scope="module")
def started(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunPlan, ActorGroup]]:
    """One group for all tests of the file."""
    run = planned("session-test", configure(), tmp_path_factory.mktemp("session"))
    group = start_group(run)
    yield run, group
    group.stop()


@pytest.fixture
def group(started: tuple[RunPlan, ActorGroup]) -> ActorGroup:
    """Its actors."""
    return started[1]


@pytest.fixture
def session(started: tuple[RunPlan, ActorGroup]) -> Session:
    """A session at the start; the learner is put back to its first snapshot, if it has one."""
    run, group = started
    if 0 in get(group.learner.snapshot_steps()):
        get(group.learner.restore_snapshot(0, 0))
    fresh = Session(run, group)
    fresh.resync()
    fresh.snapshot()
    return fresh


def next_position(session: Session) -> TrainingCursor:
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
    update = get(group.learner.weights(0))
    return {name: np.array(array) for name, array in update.arrays.items()}


def same(first: dict[str, Any], second: dict[str, Any]) -> bool:
    """Whether two sets of weights are equal bit for bit."""
    return first.keys() == second.keys() and all(np.array_equal(first[n], second[n]) for n in first)


def load(group: ActorGroup, update: WeightsUpdate) -> int:
    """The version that the rollout actor serves after a load."""
    return get(group.rollouts.load_weights(given(update, group))[0]).version


def test_a_rollout_refuses_every_version_but_its_own(session: Session, group: ActorGroup) -> None:
    with pytest.raises(SyncError, match="holds model version 0 and was asked for 1"):
        get(group.rollouts.score([[5, 6]], 1)[0])
    update = get(group.learner.weights(7))
    damaged = dataclasses.replace(update, checksum=update.checksum ^ 1)
    with pytest.raises(SyncError, match="checksum"):
        load(group, damaged)
    assert load(group, update) == 7
    with pytest.raises(SyncError, match="holds model version 7"):
        session.parity()


def test_parity_finds_a_rollout_with_other_weights(session: Session, group: ActorGroup) -> None:
    assert session.parity() < 1e-4
    other = weights_of(group)
    other["lm_head.weight"] = other["lm_head.weight"] * 1.05
    load(group, pack_weights(0, other))
    with pytest.raises(SyncError, match=r"differ by .* nats at model version 0"):
        session.parity()


def test_a_restored_learner_repeats_its_steps_bit_for_bit(
    session: Session, group: ActorGroup, started: tuple[RunPlan, ActorGroup]
) -> None:
    train_step(session)
    middle = weights_of(group)
    batch, report = train_step(session)
    end = weights_of(group)
    assert "step-000001.safetensors" in {path.name for path in started[0].snapshots.iterdir()}, "memory has no room"
    position = get(group.learner.restore_snapshot(1, 1))
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


def test_restoring_drops_later_snapshots(session: Session, group: ActorGroup) -> None:
    train_step(session)
    _, report = train_step(session)
    assert report.snapshots == get(group.learner.snapshot_steps()) == (0, 1, 2)
    get(group.learner.restore_snapshot(1, 3))
    assert get(group.learner.snapshot_steps()) == (0, 1)
    with pytest.raises(LearnerError, match=r"no snapshot of step 2; the ring holds steps \[0, 1\]"):
        get(group.learner.restore_snapshot(2, 4))


def test_a_refused_update_changes_nothing_and_the_next_one_is_as_if_it_had_not_been(
    session: Session, group: ActorGroup
) -> None:
    position = next_position(session)
    batch = concatenate([get(call) for call in session.generate(position)])

    def train(trajectories: TrajectoryBatch) -> tuple[Any, WeightsUpdate]:
        report, update = group.learner.train(position, [given(trajectories, group)], snapshot=False)
        return get(report), get(update)

    poisoned = dataclasses.replace(batch, reward=np.full_like(batch.reward, np.nan))
    before = weights_of(group)
    report, update = train(poisoned)
    assert [record.veto for record in report.vetoes] == [Rejection.NON_FINITE_ADVANTAGE]
    assert report.metrics.vetoes == 1
    assert same(weights_of(group), before)
    assert same({n: np.array(a) for n, a in update.arrays.items()}, before)
    train(batch)
    after_veto = weights_of(group)
    get(group.learner.restore_snapshot(0, 0))
    train(batch)
    assert same(weights_of(group), after_veto)


def test_levers_move_the_settings_in_force_and_come_back_with_a_snapshot(session: Session, group: ActorGroup) -> None:
    config = configure()
    get(group.learner.set_levers(Levers(lr_scale=0.1, kl_coef_scale=5.0, minibatches=2)))
    _, report = train_step(session)
    assert report.metrics.lr == pytest.approx(config.learner.lr * 0.1)
    assert report.metrics.kl_coef == pytest.approx(config.algorithm.kl_coef * 5)
    with pytest.raises(ConfigError, match=r"Lever lr_scale=21\.0 is out of bounds"):
        get(group.learner.set_levers(Levers(lr_scale=21.0)))
    get(group.learner.restore_snapshot(0, 0))
    session.position = START
    session.resync()
    _, report = train_step(session)
    assert report.metrics.lr == pytest.approx(config.learner.lr)


def test_a_group_that_does_not_fit_is_refused_in_a_sentence(tmp_path: Path) -> None:
    config = configure("placement.timeout_s=1", "placement.cpus_per_rollout=50")
    with pytest.raises(PlacementError, match=r"needs 51 CPU in 2 pieces, and after 1 s the cluster has .* of 8 CPU"):
        start_group(planned("too-large", config, tmp_path))


@pytest.mark.slow
def test_a_prompt_that_does_not_fit_is_refused_and_nothing_stays(tmp_path: Path) -> None:
    config = configure("rollout.max_model_len=16", "task.name=calculator")
    with pytest.raises(ConfigError, match=r"takes 9 tokens and its first turn up to 12, more than .*max_model_len=16"):
        start_group(planned("too-long", config, tmp_path))
    with pytest.raises(ValueError, match="Failed to look up actor"):
        ray.get_actor("too-long/learner-0", namespace="rftfm")


def test_death_is_blamed_on_the_actor_that_died_and_a_replaced_one_works_again(tmp_path: Path) -> None:
    run = planned("dying", configure("rollout.num_actors=2"), tmp_path)
    group = start_group(run)
    try:
        session = Session(run, group)
        session.resync()
        position = next_position(session)
        dead = group.rollouts.roles[1]
        ray.kill(ray.get_actor(dead.actor_name, namespace="rftfm"))
        trajectories = session.generate(position)
        report, weights = session.train(position, trajectories)
        # Nothing but the trajectories was wrong with the update, nor with the sync that waits for it.
        for fetch in (
            lambda: session.fetch(trajectories),
            lambda: session.fetch_report(report),
            lambda: session.fetch_synced(session.sync(weights), position),
        ):
            with pytest.raises(RolloutError, match="rollout-1 died while"):
                fetch()
        group.replace(dead)
        session.resync()
        assert len(session.fetch(session.generate(position))) == 16
        ray.kill(ray.get_actor(group.learner.role.actor_name, namespace="rftfm"))
        report, weights = session.train(position, session.generate(position))
        with pytest.raises(LearnerError, match="learner-0 died while training"):
            session.fetch_report(report)
        with pytest.raises(LearnerError, match="learner-0 died while taking over weights"):
            session.fetch_synced(session.sync(weights), position)
        group.replace(group.learner.role)
        session.resync()
        assert session.parity() < 1e-4
    finally:
        group.stop()


def test_answer_that_does_not_come_names_who_is_late_and_the_key(session: Session, group: ActorGroup) -> None:
    position = next_position(session)
    trajectories = session.generate(position)
    report, _ = session.train(position, trajectories)
    with pytest.raises(
        RolloutError, match=r"rollout-0 did not answer within 0 s while training; raise learner\.timeout_s"
    ):
        wait_for([report], Limit(0.0, "learner.timeout_s"), "training")
    get(report)
