"""What is asked of a policy, and when that has changed. Pure; numpy, O(1) a step.

No policy and no fault of a run chooses its prompts. Where they have changed, what follows from them (rewards, lengths,
entropies) has changed for a good reason, whether or not somebody has declared it: its reference is gone.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rftfm_ray.signals.groups import PROMPT_SIGNALS

Floats = NDArray[np.float64]

# The shift that is looked for, in spreads, and the evidence in nats that makes it certain.
SIZE, CERTAIN = 2.0, 8.0
# A surprise beyond this says no more than this: one batch alone is no change.
LARGEST = 4.0


class DataShift:
    """Watches the prompts of one run."""

    def __init__(self) -> None:
        self._sums = np.zeros((2, len(PROMPT_SIGNALS)))

    def add(self, residuals: Floats) -> bool:
        """Take a step's residuals (`PROMPT_SIGNALS`), NaN where there are none; whether the prompts have changed by now.

        It is said once: the residuals that follow must be against what is usual since.
        """
        z = np.clip(np.nan_to_num(residuals, nan=0.0), -LARGEST, LARGEST)
        self._sums = np.maximum(0.0, self._sums + SIZE * (np.stack([z, -z]) - SIZE / 2))
        certain = bool((self._sums >= CERTAIN).any())
        if certain:
            self._sums[:] = 0.0
        return certain
