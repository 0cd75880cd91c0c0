"""The held-out probe, made while the learner learns: its problems are dealt over the steps between two results.

A rollout actor has nothing to do during an update. A share of the problems fits into that time where all of them
do not, so each step answers `size / every` problems with the weights that generated it, and after `every` steps each
problem has been answered once. What is confirmed before something costly is done is probed whole, at one version.
"""

from __future__ import annotations

from typing import Any

from rftfm_ray.actors.learner import Position
from rftfm_ray.config import ProbeConfig
from rftfm_ray.session import Session
from rftfm_ray.types import ProbeResult, StepId


class HeldOutProbe:
    """Deals the problems of a probe over steps and adds the answers up."""

    def __init__(self, config: ProbeConfig, session: Session) -> None:
        self._config = config
        self._session = session
        self._parts: list[ProbeResult] = []

    def start(self, step: StepId) -> list[Any]:
        """Start answering the problems that are due in `step`, at the version that stands now."""
        every, size = self._config.every, self._config.size
        if not every:
            return []
        place = (step.step - 1) % every
        if not self._config.spread:
            return self._session.start_probe(0, size) if place == 0 and step.step > 1 else []
        return self._session.start_probe(size * place // every, size * (place + 1) // every)

    def finish(self, asked: list[Any], step: StepId, made: Position) -> ProbeResult | None:
        """Wait for what `start` began in `step`; a result when every problem has been answered."""
        if not asked:
            return None
        part = self._session.fetch_probe(asked, made)
        if not self._config.spread:
            return part
        place = (step.step - 1) % self._config.every
        # After a rollback or a resume in the middle of a round, the round is left unfinished.
        self._parts = [*self._parts, part] if place == len(self._parts) else []
        if place + 1 < self._config.every or not self._parts:
            return None
        parts, self._parts = self._parts, []
        size = sum(p.size for p in parts)
        accuracy = sum(p.accuracy * p.size for p in parts) / size
        return ProbeResult(part.step, part.model_version, accuracy, size, sum(p.seconds for p in parts))

    def restart(self) -> None:
        """The run has gone back: answers of the abandoned attempt do not count."""
        self._parts = []
