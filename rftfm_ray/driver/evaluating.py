"""Evaluations of a run: sets of problems that are answered whole, at its start, at a cadence, and at its end."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

from rftfm_ray.driver.checkpointing import CheckpointWriter, due
from rftfm_ray.driver.session import Session
from rftfm_ray.metrics import Evaluation
from rftfm_ray.planning import RunPlan
from rftfm_ray.rollout.jobs import AnswerCount
from rftfm_ray.telemetry.records import RunRecords
from rftfm_ray.types import TrainingCursor


class Evaluator:
    """Answers the sets of `eval.sets` when they are due, and hands on what comes of it.

    Args:
        plan: of the run.
        session: asks the rollout actors.
        records: get an event for each set.
        tell: is told of each.
    """

    def __init__(
        self, plan: RunPlan, session: Session, records: RunRecords, tell: Callable[[Evaluation], None]
    ) -> None:
        self._plan, self._config = plan, plan.config.eval
        self._session, self._records, self._tell = session, records, tell
        self._newest: TrainingCursor | None = None

    def after_step(self, checkpoints: CheckpointWriter) -> None:
        """Evaluate after a step where that is due."""
        if due(self._session.position.id.step, self._config.every):
            self.run(checkpoints)

    def run(self, checkpoints: CheckpointWriter | None = None) -> None:
        """Evaluate all sets at the current version, once; `checkpoints` take in the one that decides."""
        now = self._session.position
        if self._newest == now:
            return
        self._newest = now
        for evaluated in self._plan.evals:
            began = time.perf_counter()
            problems = evaluated.problems[: self._config.size]
            counts = self._session.evaluate(problems, self._config.samples)
            seconds = time.perf_counter() - began
            found = evaluation(evaluated.name, now, counts, self._config.samples, seconds)
            self._records.evaluation(found)
            self._tell(found)
            if checkpoints is not None and found.name == self._config.best:
                checkpoints.evaluated(found.accuracy)


def evaluation(
    name: str, at: TrainingCursor, counts: Sequence[AnswerCount], samples: int, seconds: float
) -> Evaluation:
    """What the answers to a set come to. A problem of which an answer has no verdict is left out."""
    whole = [count for count in counts if count.graded == samples]
    ungraded = sum(samples - count.graded for count in counts)
    known = len(whole) if 2 * len(whole) >= len(counts) else 0
    right = [count.right for count in whole]
    accuracy = sum(right) / (known * samples) if known else math.nan
    sizes = sorted({k for power in range(1, 31) if (k := 2**power) < samples} | ({samples} if samples > 1 else set()))
    chances = tuple((k, sum(pass_at(samples, c, k) for c in right) / known if known else math.nan) for k in sizes)
    return Evaluation(name, at.id, at.model_version, known, samples, accuracy, chances, ungraded, seconds)


def pass_at(samples: int, right: int, k: int) -> float:
    """Chance that one of k answers is right, of `samples` answers of which `right` are.

    The estimator of arXiv 2107.03374, section 2.1: 1 - C(samples - right, k) / C(samples, k), which has no bias.
    """
    return 1.0 - math.comb(samples - right, k) / math.comb(samples, k)
