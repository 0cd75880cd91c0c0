"""Seams between the parts of a learner. The seams here are healthy: they pass values on unchanged."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rftfm_ray.batch import TrajectoryBatch
from rftfm_ray.training.credit import Credit
from rftfm_ray.types import Settings, StepId


class LearnerSeams:
    """Seams between schedule, settings, critic, estimator, loss and optimizer; fault injection replaces them."""

    def factor(self, step: StepId, factor: float) -> float:
        """The schedule's factor as the learner reads it; the reported rate includes it."""
        del step
        return factor

    def gain(self, step: StepId) -> float:
        """Factor that the optimizer applies to its rate; the reported rate does not include it."""
        del step
        return 1.0

    def epsilon(self, step: StepId) -> float:
        """What is added to the optimizer's epsilon."""
        del step
        return 0.0

    def forgotten_share(self, step: StepId) -> float:
        """Share of its second moments that the optimizer loses before a step."""
        del step
        return 0.0

    def frozen_share(self, step: StepId) -> float:
        """Share of the weights that the optimizer does not update."""
        del step
        return 0.0

    def settings(self, step: StepId, settings: Settings) -> Settings:
        """The settings of loss and estimator; the recomputation of advantages uses the same."""
        del step
        return settings

    def temperature(self, step: StepId, temperature: float) -> float:
        """The temperature at which the learner computes log-probs."""
        del step
        return temperature

    def values(self, step: StepId, batch: TrajectoryBatch, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """(A,) the critic's values as they reach the estimator."""
        del step, batch
        return values

    def assigned(self, step: StepId, batch: TrajectoryBatch, credit: Credit) -> Credit:
        """Credit as the estimator gives it, before the commit gate checks it."""
        del step, batch
        return credit

    def delivered(self, step: StepId, batch: TrajectoryBatch, credit: Credit) -> Credit:
        """Credit as it reaches the loss, after the commit gate has checked it."""
        del step, batch
        return credit
