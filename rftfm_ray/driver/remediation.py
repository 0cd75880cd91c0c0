"""Carrying out an order on the actors of a run: levers everywhere, and the rollback as one transaction.

A rollback puts back everything that determines the next step (model, optimizer, schedule, gate, data cursor,
detector windows), raises attempt and model version, hands the weights to every rollout actor and probes parity; only
then may training go on. What is abandoned stays on disk until retention removes it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rftfm_ray.actors.calls import wait_for
from rftfm_ray.actors.group import ActorGroup
from rftfm_ray.config import RunConfig
from rftfm_ray.driver.session import Session
from rftfm_ray.tasks.api import Problem
from rftfm_ray.types import Position, StepId
from rftfm_ray.verdicts import DeclaredChange, Order

MONITOR_TIMEOUT_S = 60.0


class RemedyExecutor:
    """Effects of orders, for the controller actor. Travels to it by value; holds handles, decides nothing."""

    def __init__(
        self, config: RunConfig, group: ActorGroup, heldout: tuple[Problem, ...], start: Position, monitor: Any,
        checkpoints: Path, config_sha256: str,
    ) -> None:  # fmt: skip
        self._config = config
        self._heldout = heldout[: config.probe.size]
        self._session = Session(config, group, (), self._heldout, start)
        self._monitor = monitor
        self._checkpoints = checkpoints
        self._digest = config_sha256

    def snapshots(self) -> tuple[int, ...]:
        """Steps that the learner can go back to."""
        return self._session.snapshot_steps()

    def probe(self, stand: Position) -> float:
        """Held-out accuracy of the weights that are served now."""
        self._session.position = stand
        return self._session.probe(self._config.probe.size).accuracy

    def carry_out(self, order: Order, stand: Position, following: StepId) -> tuple[Position | None, str]:
        """Do what an order says; the run's new place after a rollback, else None, and the checkpoint of a halt."""
        session = self._session
        session.position = stand
        if order.restore_step is not None:
            session.position = self._restore(order.restore_step, order.skip_batches, stand, following)
        session.move_levers(order.levers)
        if order.restore_step is not None:
            session.resync()
            session.parity()
        saved = session.save(self._checkpoints, self._digest) if order.halt else ""
        return (None if order.restore_step is None else session.position), saved

    def _restore(self, step: int, skip: int, stand: Position, following: StepId) -> Position:
        version = stand.model_version + 1
        restored = self._session.restore(step, version)
        # What was generated for the step under way has been paid for, and is thrown away.
        place = StepId(stand.id.attempt + 1, restored.id.step, following.paid_step)
        skipped = skip * self._config.at(restored.id.step + 1).algorithm.prompts_per_step
        return Position(place, version, restored.cursor + skipped)

    def tell_monitor(self, change: DeclaredChange, rewound_to: int | None) -> None:
        """A change was made on purpose; with `rewound_to` the detectors' windows go back as well."""
        wait_for([self._monitor.changed.remote(change, rewound_to)], MONITOR_TIMEOUT_S, "telling the monitor")

    def regroup(self, group: ActorGroup) -> None:
        """An actor was replaced."""
        self._session = Session(self._config, group, (), self._heldout, self._session.position)
