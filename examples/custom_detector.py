"""A detector of your own: `rftfm faultbench score --detector examples/custom_detector.py:RewardShift`.

It is fitted on the runs of one split, its threshold is set on those of a second, and it is scored on those of a third,
exactly as ours is.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rftfm_ray.faultbench.runs.dataset import Recorded
from rftfm_ray.faultbench.runs.plan import Kind


class RewardShift:
    """Rewards that have left those of healthy runs of the same task and algorithm, as the mean of five steps."""

    name = "reward_shift"
    WINDOW = 5

    def fit(self, runs: Sequence[Recorded]) -> None:
        """What is usual at each step, and what runs vary by around it. No fault needs to be known."""
        healthy: dict[tuple[str, str], list[NDArray[np.float64]]] = {}
        for run in runs:
            if run.entry.kind is Kind.HEALTHY:
                healthy.setdefault((run.entry.task, run.entry.algorithm), []).append(run.signal("reward_mean"))
        self._usual = {}
        for cell, rewards in healthy.items():
            steps = min(map(len, rewards))
            table = np.stack([each[:steps] for each in rewards])
            self._usual[cell] = table.mean(0), float((table - table.mean(0)).std())

    def scores(self, run: Recorded) -> NDArray[np.float64]:
        """One score a step (N), from that step and earlier ones: the higher, the more it looks like a fault."""
        mean, spread = self._usual[run.entry.task, run.entry.algorithm]
        rewards = run.signal("reward_mean")
        # Beyond the shortest healthy run its last step has to do.
        usual = mean[np.minimum(np.arange(len(rewards)), len(mean) - 1)]
        apart = (rewards - usual) / spread
        return np.array([abs(apart[max(0, step + 1 - self.WINDOW) : step + 1].mean()) for step in range(len(apart))])
