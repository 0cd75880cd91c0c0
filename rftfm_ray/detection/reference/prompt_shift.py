"""What is asked of a policy, and when that has changed. Pure; numpy, O(1) a step.

No policy and no fault of a run chooses its prompts. Where they have changed, what follows from them (rewards, lengths,
entropies) has changed for a good reason, whether or not somebody has declared it: its reference is gone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from rftfm_ray.detection.stateful import Kind, Stateful
from rftfm_ray.signals.groups import PROMPT_SIGNALS

Floats = NDArray[np.float64]

# The shift that is looked for, in standard deviations, and the evidence in nats that makes it certain.
SIZE, CERTAIN = 2.0, 8.0
# A residual beyond this says no more than this: one batch alone is no change.
LARGEST = 4.0


class DataShift(Stateful):
    """Watches the prompts of one run."""

    STATE: ClassVar[Mapping[str, Kind]] = {"_sums": Kind.ARRAY}

    def __init__(self) -> None:
        self._sums = np.zeros((2, len(PROMPT_SIGNALS)))

    def first(self, residuals: Floats) -> int | None:
        """Take steps' residuals (N, `PROMPT_SIGNALS`) up to the one with which a change of the prompts is certain.

        NaN stands for no residual. Returns the row; None when all steps were taken and there was none.

        The residuals that follow must be against what is usual since.
        """
        if not np.isfinite(residuals).any():
            # What is not measured speaks against a change, as what is not moved does.
            self._sums = np.maximum(0.0, self._sums - len(residuals) * SIZE * SIZE / 2)
            return None
        z = np.clip(np.nan_to_num(residuals, nan=0.0), -LARGEST, LARGEST)
        ratios = SIZE * (np.stack([z, -z], axis=1) - SIZE / 2)
        for row, ratio in enumerate(ratios):
            self._sums = np.maximum(0.0, self._sums + ratio)
            if self._sums.max() >= CERTAIN:
                self._sums = np.zeros(self._sums.shape)
                return row
        return None
