"""Detects a prompt shift. Pure; numpy, O(1) a step.

Neither the policy nor a fault chooses the prompts. After a prompt shift the prompt-dependent signals (rewards, lengths,
entropies) change for a good reason, declared or not, so they lose their reference.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from rftfm_ray.detection.stateful import Kind, Stateful
from rftfm_ray.signals.groups import PROMPT_SIGNALS

Floats = NDArray[np.float64]

# Shift of the CUSUM, in standard deviations, and the evidence in nats that makes it certain.
SIZE, CERTAIN = 2.0, 8.0
# Residuals are clipped at this: one batch is not a shift.
LARGEST = 4.0


class PromptShift(Stateful):
    """Watches the prompts of one run."""

    STATE: ClassVar[Mapping[str, Kind]] = {"_sums": Kind.ARRAY}

    def __init__(self) -> None:
        self._sums = np.zeros((2, len(PROMPT_SIGNALS)))

    def first(self, residuals: Floats) -> int | None:
        """Take steps' residuals (N, `PROMPT_SIGNALS`) up to the one that makes a prompt shift certain.

        NaN means that there is no residual. Returns the row; None when all steps were taken without a shift.

        Later residuals must be against a reference from after the shift.
        """
        if not np.isfinite(residuals).any():
            # Unmeasured steps count as evidence against a shift, as residuals of 0 do.
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
