"""A detector of your own: an alarm when rewards leave what is usual for five steps.

It watches a live run beside the shipped detectors with

    rftfm train examples/addition.yaml 'guard.detectors=[examples/custom_detector.py:RewardShift]'

and `rftfm faultbench score --detector examples/custom_detector.py:RewardShift` scores it alone on recorded runs: at its
own threshold, and at one that is tuned to the budget of false alarms.
"""

import numpy as np
from numpy.typing import NDArray

from rftfm_ray.detection.reference.views import StepView


class RewardShift:
    """The mean of the last five residuals of the mean reward, with a threshold of three standard deviations.

    A residual is in standard deviations from healthy runs, where the run has a profile of them, and from the run's own
    past elsewhere.
    """

    name = "reward_shift"
    signals = ("reward_mean",)
    WINDOW, THRESHOLD = 5, 3.0

    def __init__(self) -> None:
        # What a later step needs of earlier ones: the monitor saves it, and a rollback returns to it.
        self.recent: list[float] = []

    def observe(self, view: StepView) -> NDArray[np.float64]:
        """One score a step (N) in units of the threshold: 1 raises an alarm, NaN says that nothing was measured."""
        residuals = view.residual("reward_mean")
        scores = np.full(len(view), np.nan)
        for row in np.flatnonzero(np.isfinite(residuals)).tolist():
            self.recent = [*self.recent, float(residuals[row])][-self.WINDOW :]
            scores[row] = abs(sum(self.recent)) / self.WINDOW / self.THRESHOLD
        return scores
