"""The held-out probe, run during updates: its problems are spread over the steps between two results.

Rollout actors are idle during an update. A share of the problems fits into that time, so each step answers
`size / every` problems with the weights that generated it, and after `every` steps each problem has been answered once.
The probe that confirms a costly remedy is not spread: it uses one version for all problems.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from rftfm_ray.actors.calls import Pending
from rftfm_ray.config import ProbeConfig
from rftfm_ray.driver.session import Session
from rftfm_ray.rollout.jobs import ProbeCounts
from rftfm_ray.types import ProbeResult, StepId, TrainingCursor


class HeldOutProbe:
    """Spreads the problems of a probe over steps, and joins the results."""

    def __init__(self, config: ProbeConfig, session: Session) -> None:
        self._config = config
        self._session = session
        self.after_s = 0.0
        """Seconds of an update in which the learner's reference pass uses another core."""

    def start(self, step: StepId) -> list[Pending[ProbeCounts]]:
        """Start answering the problems that are due in `step`, at the currently served version."""
        every, sizes = self._config.every, (self._config.size, self._config.sampled(self._config.size))
        if not every:
            return []
        turn = (step.step - 1) % every
        if self._config.spread:
            greedy, sampled = (slice(n * turn // every, n * (turn + 1) // every) for n in sizes)
            return self._session.start_probe(greedy, sampled, self.after_s)
        greedy, sampled = (slice(0, n) for n in sizes)
        return self._session.start_probe(greedy, sampled) if turn == 0 and step.step > 1 else []

    def finish(self, counts: Sequence[Pending[ProbeCounts]], step: StepId, made: TrainingCursor) -> ProbeResult | None:
        """Wait for the calls of `start` in `step`; returns a result when every problem has been answered."""
        if not counts:
            return None
        part = self._session.fetch_probe(counts, made)
        if not self._config.spread:
            return part
        turn = (step.step - 1) % self._config.every
        session = self._session
        # A round that a rollback has interrupted is dropped.
        session.probe_parts = (*session.probe_parts, part) if turn == len(session.probe_parts) else ()
        if turn + 1 < self._config.every or not session.probe_parts:
            return None
        parts, session.probe_parts = session.probe_parts, ()
        return join(parts)

    def restart(self) -> None:
        """Drop the answers of an attempt that a rollback has abandoned."""
        self._session.probe_parts = ()


def join(parts: Sequence[ProbeResult]) -> ProbeResult:
    """One result from several on different problems, with the step and version of the newest."""

    def share(prefix: str) -> tuple[float, int, int]:
        graded, ungraded = (sum(getattr(part, prefix + name) for part in parts) for name in ("size", "ungraded"))
        right = sum(
            getattr(part, f"{prefix}accuracy") * getattr(part, f"{prefix}size")
            for part in parts
            if getattr(part, f"{prefix}size")
        )
        if not graded or graded < ungraded:
            return math.nan, 0, graded + ungraded
        return right / graded, graded, ungraded

    (accuracy, size, ungraded), (sampled, sampled_size, sampled_ungraded) = share(""), share("sampled_")
    seconds = sum(part.seconds for part in parts)
    newest = parts[-1]
    return ProbeResult(
        newest.step, newest.model_version, accuracy, size, sampled, sampled_size, seconds, ungraded, sampled_ungraded
    )
