"""LearnerActor: DeepSpeed behind a commit gate. Every update's weights are returned as one object."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rftfm_ray.actors.roles import Role, keep_working, rename_process
from rftfm_ray.batch import TrajectoryBatch, concatenate
from rftfm_ray.config import RunConfig
from rftfm_ray.errors import LearnerError
from rftfm_ray.policies.levers import check_levers
from rftfm_ray.telemetry.metrics import StateGauge
from rftfm_ray.types import ActorState, Check, Levers, TrainingCursor

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from rftfm_ray.rollout.weights import WeightsUpdate
    from rftfm_ray.training.checkpoints import SaveOrder, TrainerState
    from rftfm_ray.training.learner import Learner
    from rftfm_ray.training.seams import LearnerSeams
    from rftfm_ray.training.update_report import UpdateReport


def engine_key(config: RunConfig) -> tuple[object, ...]:
    """The part of a configuration that two runs must share to use one engine and one reference."""
    critic = config.critic if config.algorithm.name == "ppo" else None
    return config.model, config.learner, critic, config.algorithm.kl_coef > 0


class LearnerActor:
    """Learns from trajectories. One rank."""

    def __init__(  # noqa: PLR0913 - a learner is made of what a run has
        self,
        role: Role,
        config: RunConfig,
        model_path: str,
        seams: LearnerSeams,
        snapshots: str = "",
        *,
        reusable: bool = False,
    ) -> None:
        rename_process(role)
        keep_working()
        self._role = role
        self._model_path = Path(model_path)
        self._reusable = reusable
        self._config = config
        self._begin(config, seams, None, snapshots)

    def __repr__(self) -> str:
        return repr(self._role)

    def reset(self, role: Role, config: RunConfig, seams: LearnerSeams, snapshots: str = "") -> None:
        """Begin another run on the same model, bitwise equal to a new actor.

        `snapshots`: folder for snapshots that memory has no room for; empty for none.

        Raises:
            LearnerError: when the actor was not made to be reusable.
        """
        if not self._reusable:
            raise LearnerError(f"{self._role.name} has not kept its first state; create it with reusable=True.")
        rename_process(role)
        self._role = role
        self._ring.close()
        self._begin(config, seams, self._learner, snapshots)

    def _begin(self, config: RunConfig, seams: LearnerSeams, learner: Learner | None, snapshots: str) -> None:
        import torch

        from rftfm_ray.training.learner import Learner
        from rftfm_ray.training.snapshots import SnapshotRing

        self._gauge = StateGauge(self._role.run, self._role.name)
        self._gauge.set(ActorState.STARTING)
        if learner is None or engine_key(config) != engine_key(self._config):
            learner = Learner(config, str(self._model_path), seams)
            self._first = learner.engine.state() if self._reusable else {}
        else:
            learner.begin(config, seams)
            learner.engine.load_state(self._first)
        self._learner: Learner = learner
        torch.manual_seed(config.seed)
        self._config = config
        folder = Path(snapshots) if snapshots and config.snapshots.spill else None
        self._ring = SnapshotRing(config.snapshots.keep, config.snapshots.max_bytes, folder)
        self._gauge.set(ActorState.IDLE)

    def weights(self, version: int) -> WeightsUpdate:
        """The current weights, called `version`, as the rollout actors are to serve them."""
        from rftfm_ray.rollout.weights import pack_weights

        return pack_weights(version, self._learner.engine.export(), self._config.sync.dtype)

    def train(
        self, position: TrainingCursor, snapshot: bool, *parts: TrajectoryBatch
    ) -> tuple[UpdateReport, WeightsUpdate]:
        """One step of learning on the trajectories of all rollout actors, in the order of `parts`.

        Returns the report and the weights after it; with `snapshot` the state after it joins the ring.
        """
        self._gauge.set(ActorState.TRAINING)
        report = self._learner.update(concatenate(parts), position.id, position.model_version - 1)
        if snapshot:
            self.take_snapshot(position)
        update = self.weights(position.model_version)
        self._gauge.set(ActorState.IDLE)
        return dataclasses.replace(report, snapshots=self._ring.steps()), update

    def score(self, sequences: Sequence[Sequence[int]]) -> list[NDArray[np.float32]]:
        """The learner's own log-probs of given sequences, for the parity probe."""
        return self._learner.score(sequences)

    def ask(self, checks: Sequence[Check]) -> None:
        """Have checks made in the next update, whatever their cadence."""
        self._learner.asked = frozenset(checks)

    def set_levers(self, levers: Levers) -> None:
        """Move levers from the next update on.

        Raises:
            ConfigError: when one is out of bounds.
        """
        check_levers(levers)
        self._learner.levers = levers

    def take_snapshot(self, position: TrainingCursor) -> None:
        """Copy the learner's state into the ring."""
        from rftfm_ray.training.snapshots import Snapshot

        learner = self._learner
        tensors, norms = learner.engine.state(), learner.gate.norms
        self._ring.add(Snapshot(position.id, position.model_version, position.cursor, tensors, norms, learner.levers))

    def snapshot_steps(self) -> tuple[int, ...]:
        """Steps whose snapshots the ring holds."""
        return self._ring.steps()

    def restore_snapshot(self, step: int, version: int | None = None) -> TrainingCursor:
        """Restore the learner's state after `step`, levers included; later snapshots are dropped.

        `version` is the new version of its weights; None keeps that of the snapshot.

        Raises:
            LearnerError: when there is no snapshot of that step.
        """
        snapshot = self._ring.get(step)
        self._learner.engine.load_state(snapshot.tensors)
        self._learner.gate.restore(snapshot.grad_norms)
        self._learner.levers = snapshot.levers
        self._ring.drop_after(step)
        return TrainingCursor(snapshot.id, snapshot.model_version if version is None else version, snapshot.cursor)

    def restore_critic(self, step: int) -> None:
        """Restore the critic's head, and its optimizer, as they were after `step`; everything else stays.

        Raises:
            LearnerError: when there is no snapshot of that step, or no critic.
        """
        self._learner.engine.load_critic(self._ring.get(step).tensors)

    def close(self) -> None:
        """End the learner's thread and remove its files, before the actor is ended."""
        self._learner.close()
        self._ring.close()

    def save(self, order: SaveOrder) -> str:
        """Write a durable checkpoint; returns its path once it is complete.

        The best one is marked so before older ones are removed.
        """
        from rftfm_ray.training import checkpoints
        from rftfm_ray.training.engine import to_numpy

        self._gauge.set(ActorState.SAVING)
        position, folder = order.position, Path(order.folder)
        staging = checkpoints.stage(folder, position.id.step)
        learner = self._learner
        checkpoints.write_rank(staging, 0, to_numpy(learner.engine.state()))
        checkpoints.write_model(staging, learner.engine.export(), self._model_path)
        state = checkpoints.TrainerState(
            attempt=position.id.attempt,
            step=position.id.step,
            paid_step=position.id.paid_step,
            model_version=position.model_version,
            cursor=position.cursor,
            world_size=1,
            zero_stage=self._config.learner.zero_stage,
            levers=learner.levers,
            grad_norms=learner.gate.norms,
            config_sha256=order.config_sha256,
            probe=order.probe,
            policy=order.policy,
            quarantine=order.quarantine,
        )
        checkpoints.write_config(staging, self._config.to_yaml())
        path = checkpoints.commit(staging, state).path
        if order.is_best:
            checkpoints.mark_best(path)
        if not order.keep_all:
            checkpoints.prune(folder, self._config.checkpoints.keep)
        self._gauge.set(ActorState.IDLE)
        return str(path)

    def load(self, path: str) -> TrainerState:
        """Restore the state of a checkpoint. Every file is verified before anything is changed.

        Raises:
            CheckpointError: when the checkpoint is damaged.
            LearnerError: when it belongs to another model or ZeRO stage.
        """
        from rftfm_ray.training import checkpoints
        from rftfm_ray.training.engine import from_numpy

        checkpoint = checkpoints.verify(Path(path))
        self._learner.engine.load_state(from_numpy(checkpoints.read_rank(checkpoint, 0)))
        self._learner.gate.restore(checkpoint.state.grad_norms)
        self._learner.levers = checkpoint.state.levers
        return checkpoint.state
