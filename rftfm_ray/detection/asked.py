"""What is asked of a policy, and when that has changed. Pure; numpy, O(1) a step.

No policy and no fault of a run chooses its prompts. Where they have changed, what follows from them (rewards, lengths,
entropies) has changed for a good reason, whether or not somebody has declared it: its reference is gone.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

ASKED: tuple[str, ...] = (
    "prompt_length_mean",
    "answer_length_mean",
    "prompt_difficulty_mean",
    "prompt_repeat_rate",
)
"""Names of the signals that speak of the prompts alone."""
FOLLOWING: tuple[str, ...] = (
    *ASKED, "correct_rate", "sampled_gap", "probe_gap", "kl_ref",
    "reward_mean", "reward_std", "reward_min", "reward_q10", "reward_q50", "reward_q90", "reward_max",
    "length_mean", "length_q10", "length_q50", "length_q90", "length_max", "long_rate", "truncated_rate",
    "zero_variance_group_rate", "all_right_group_rate", "all_wrong_group_rate", "filtered_group_rate",
    "advantage_std", "advantage_max", "advantage_kurtosis",
    "entropy", "entropy_q10", "entropy_q90", "entropy_observed", "sampling_logprob_mean",
    "grad_norm", "update_ratio", "step_kl", "step_ratio_max",
    "distinct_sample_rate", "distinct_bigram_rate", "unique_token_rate", "repeated_bigram_rate",
    "repeated_trigram_rate", "compress_ratio",
    "eos_rate", "stop_rate", "turn_limit_rate", "turns_mean", "empty_rate", "short_rate",
    "tool_call_count", "tool_calls_mean", "tool_unparsable_rate",
)  # fmt: skip
"""Signals whose reference is gone when the prompts are others than before: a policy does on them as well as it can."""
# The shift that is looked for, in spreads, and the evidence in nats that makes it certain.
SIZE, CERTAIN = 2.0, 8.0
# A surprise beyond this says no more than this: one batch alone is no change.
LARGEST = 4.0


class DataShift:
    """Watches the prompts of one run."""

    def __init__(self) -> None:
        self._sums = np.zeros((2, len(ASKED)))

    def add(self, residuals: Floats) -> bool:
        """Take a step's residuals (`ASKED`), NaN where there are none; whether the prompts have changed by now.

        It is said once: the residuals that follow must be against what is usual since.
        """
        z = np.clip(np.nan_to_num(residuals, nan=0.0), -LARGEST, LARGEST)
        self._sums = np.maximum(0.0, self._sums + SIZE * (np.stack([z, -z]) - SIZE / 2))
        certain = bool((self._sums >= CERTAIN).any())
        if certain:
            self._sums[:] = 0.0
        return certain
