"""The held-out probe, made while the learner learns: its problems are dealt over the steps between two results.

A rollout actor has nothing to do during an update. A share of the problems fits into that time where all of them
do not, so each step answers `size / every` problems with the weights that generated it, and after `every` steps each
problem has been answered once. What is confirmed before something costly is done is probed whole, at one version.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from rftfm_ray.actors.calls import Pending
from rftfm_ray.config import ProbeConfig
from rftfm_ray.driver.session import Session
from rftfm_ray.rollout.jobs import ProbeCounts
from rftfm_ray.types import Position, ProbeResult, StepId


class HeldOutProbe:
    """Deals the problems of a probe over steps and adds the answers up."""

    def __init__(self, config: ProbeConfig, session: Session) -> None:
        self._config = config
        self._session = session
        self._parts: list[ProbeResult] = []
        self.after_s = 0.0
        """Seconds of an update in which the learner's reference pass has use for another core."""

    def start(self, step: StepId) -> list[Pending[ProbeCounts]]:
        """Start answering the problems that are due in `step`, at the version that is served now."""
        every, sizes = self._config.every, (self._config.size, self._config.sampled(self._config.size))
        if not every:
            return []
        turn = (step.step - 1) % every
        if self._config.spread:
            greedy, sampled = (slice(n * turn // every, n * (turn + 1) // every) for n in sizes)
            return self._session.start_probe(greedy, sampled, self.after_s)
        greedy, sampled = (slice(0, n) for n in sizes)
        return self._session.start_probe(greedy, sampled) if turn == 0 and step.step > 1 else []

    def finish(self, asked: Sequence[Pending[ProbeCounts]], step: StepId, made: Position) -> ProbeResult | None:
        """Wait for what `start` began in `step`; a result when every problem has been answered."""
        if not asked:
            return None
        part = self._session.fetch_probe(asked, made)
        if not self._config.spread:
            return part
        turn = (step.step - 1) % self._config.every
        # After a rollback or a resume in the middle of a round, the round is left unfinished.
        self._parts = [*self._parts, part] if turn == len(self._parts) else []
        if turn + 1 < self._config.every or not self._parts:
            return None
        parts, self._parts = self._parts, []
        return join(parts)

    def restart(self) -> None:
        """The run has gone back: answers of the abandoned attempt do not count."""
        self._parts = []


def join(parts: Sequence[ProbeResult]) -> ProbeResult:
    """One result of several on different problems, called by the newest of them."""

    def share(accuracy: str, size: str) -> tuple[float, int]:
        total = sum(getattr(part, size) for part in parts)
        right = sum(getattr(part, accuracy) * getattr(part, size) for part in parts if getattr(part, size))
        return (right / total if total else math.nan), total

    greedy, sampled = share("accuracy", "size"), share("sampled_accuracy", "sampled_size")
    return ProbeResult(parts[-1].step, parts[-1].model_version, *greedy, *sampled, sum(part.seconds for part in parts))
