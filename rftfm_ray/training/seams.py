"""What stands between the parts of a learner. What is here is sound: it hands on what it is given."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rftfm_ray.batch import TrajectoryBatch
from rftfm_ray.training.credit import Credit
from rftfm_ray.types import Settings, StepId


class LearnerSeams:
    """Between schedule, settings, critic, estimator, loss and optimizer; fault injection puts others in its place."""

    def factor(self, step: StepId, factor: float) -> float:
        """The schedule's factor as the learner reads it; the rate that is reported shows it."""
        del step
        return factor

    def gain(self, step: StepId) -> float:
        """What the optimizer makes of the rate that it is told."""
        del step
        return 1.0

    def held(self, step: StepId) -> float:
        """Share of the weights that the optimizer leaves as they are."""
        del step
        return 0.0

    def settings(self, step: StepId, settings: Settings) -> Settings:
        """The settings that loss and estimator go by; who computes advantages once more goes by the same."""
        del step
        return settings

    def values(self, step: StepId, batch: TrajectoryBatch, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """(A,) the critic's values, as they reach the estimator."""
        del step, batch
        return values

    def assigned(self, step: StepId, batch: TrajectoryBatch, credit: Credit) -> Credit:
        """Credit as the estimator gives it: the commit gate looks at it next."""
        del step, batch
        return credit

    def delivered(self, step: StepId, batch: TrajectoryBatch, credit: Credit) -> Credit:
        """Credit as it reaches the loss, after the commit gate has looked at it."""
        del step, batch
        return credit
