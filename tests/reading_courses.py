"""Courses on which each absolute reading must speak, and sound ones that come near them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Course = Mapping[str, Sequence[float] | Floats]


def noise(size: int, spread: float, seed: int) -> Floats:
    """Normal values about 0."""
    return spread * np.random.default_rng(seed).standard_normal(size)


def rises(steps: int = 60, start: float = 0.2, end: float = 0.8, seed: int = 1) -> Floats:
    """A level that goes from one value to another, with noise."""
    level: Floats = np.linspace(start, end, steps) + noise(steps, 0.02, seed)
    return level


def hill(steps: int = 60, top: float = 0.8, end: float = 0.05) -> Floats:
    """A level that is learnt in the first half, and lost in the second."""
    half = steps // 2
    return np.concatenate([rises(half, 0.1, top), np.linspace(top, end, 8), np.full(steps - half - 8, end)])


def shaken(value: float, steps: int = 60, spread: float = 0.05, seed: int = 3) -> Floats:
    """A positive value with multiplicative noise."""
    level: Floats = value * np.exp(noise(steps, spread, seed))
    return level


def flat(value: float, steps: int = 60) -> Floats:
    """The same value at every row."""
    return np.full(steps, value)


def every_second_row() -> Floats:
    """Values that are not finite at every second row."""
    return (np.arange(60) % 2).astype(np.float64)


def breaks_at(row: int, before: float, after: float, seed: int) -> Floats:
    """A level that changes at one row."""
    level: Floats = np.where(np.arange(60) < row, before, after) * np.exp(noise(60, 0.05, seed))
    return level


def three(*rows: int) -> Course:
    """Three signals that change, each at a row of its own."""
    sizes = {"entropy": (0.5, 1.5), "grad_norm": (0.3, 3.0), "length_mean": (200.0, 60.0)}
    return {name: breaks_at(row, *sizes[name], seed=row) for name, row in zip(sizes, rows, strict=True)}


LONG = 200
"""Rows of a drift: one window."""
Case = tuple[Course, Course, int]
"""A broken course, a sound one that comes near it, and the latest row at which the alarm must be open."""
CASES: Mapping[str, Callable[[], Case]] = {
    # Equal rewards of answers that differ in being right; a run that has solved its task has them too.
    "groups_agree": lambda: (
        {"zero_variance_group_rate": flat(1), "correct_rate": rises(), "reward_mean": flat(3)},
        {"zero_variance_group_rate": [0.2] * 20 + [1.0] * 40, "correct_rate": [0.5] * 20 + [1.0] * 40,
         "reward_mean": [0.5] * 20 + [1.0] * 40},
        3,
    ),
    "groups_agree_from_start": lambda: ({"reward_std": flat(0)}, {"reward_std": [0.0, 0.0, 0.3] + [0.0] * 57}, 3),
    "gradient_zero": lambda: (
        {"grad_norm": flat(0), "trajectory_count": flat(128)},
        {"grad_norm": [0.3, 0.0, 0.0] * 20, "trajectory_count": flat(128)},
        10,
    ),
    "rate_zero": lambda: ({"lr": flat(0)}, {"lr": [0.0, 0.0, *([1e-6] * 57), 0.0]}, 3),
    "updates_refused": lambda: (
        {"vetoes": flat(1), "correct_rate": flat(0.5)}, {"vetoes": flat(1), "correct_rate": flat(1.0)}, 5,
    ),
    "kl_impossible": lambda: ({"kl_ref": shaken(1e6)}, {"kl_ref": [0.1, 500.0, 0.1] * 20}, 3),
    "kl_large": lambda: ({"kl_ref": shaken(40)}, {"kl_ref": shaken(15)}, 3),
    "step_kl_impossible": lambda: ({"step_kl": shaken(30)}, {"kl_old": shaken(0.5)}, 3),
    "entropy_impossible": lambda: ({"entropy": shaken(20)}, {"entropy": shaken(9)}, 3),
    "entropy_huge": lambda: ({"entropy": shaken(9)}, {"entropy": shaken(3.4)}, 3),
    "certain_but_wrong": lambda: (
        {"entropy": shaken(0.003), "correct_rate": flat(0.1)},
        {"entropy": shaken(0.003), "correct_rate": flat(0.9)},
        10,
    ),
    "rollout_ratio": lambda: (
        {"rollout_ratio_mean": shaken(0.6)}, {"rollout_ratio_mean": shaken(0.95, spread=0.02)}, 3,
    ),
    "rollout_kl": lambda: ({"rollout_kl": shaken(0.3)}, {"rollout_kl": shaken(0.01)}, 3),
    "rollout_gap": lambda: ({"rollout_gap_mean": shaken(0.8)}, {"rollout_gap_mean": shaken(0.03)}, 3),
    "rollout_gap_max": lambda: ({"rollout_gap_max": shaken(8)}, {"rollout_gap_max": shaken(1.5)}, 3),
    "ratio_impossible": lambda: ({"ratio_max": shaken(5e8)}, {"ratio_max": shaken(20)}, 3),
    "clip_share": lambda: (
        {"clip_high_rate": flat(0.4), "clip_low_rate": flat(0.3)},
        {"clip_high_rate": flat(0.2), "clip_low_rate": flat(0.2)},
        5,
    ),
    "critic_worse_than_none": lambda: (
        {"explained_variance": flat(-3)}, {"explained_variance": [-3.0] * 9 + [-0.2] * 51}, 20,
    ),
    # A reward that does not need the end of answers is learnt all the same.
    "cut_off": lambda: (
        {"truncated_rate": flat(0.98), "reward_mean": shaken(0.02)},
        {"truncated_rate": np.linspace(0.5, 1.0, 60), "reward_mean": rises()},
        5,
    ),
    # An addition has answers of one length, and they end by themselves.
    "length_pinned": lambda: (
        {"length_mean": flat(512), "length_max": flat(512)},
        {"length_mean": flat(4), "length_max": flat(4), "truncated_rate": flat(0.0)},
        10,
    ),
    "not_finite_share": lambda: (
        {"not_finite": every_second_row()}, {"not_finite": [0.0] * 20 + [1.0] + [0.0] * 20 + [1.0] + [0.0] * 18}, 8,
    ),
    "reward_lost": lambda: ({"reward_mean": hill()}, {"reward_mean": hill(end=0.5)}, 50),
    "paid_for_wrong": lambda: (
        {"reward_mean": rises(start=1.7, end=19), "correct_rate": flat(0)},
        {"reward_mean": rises(start=1.7, end=19), "correct_rate": rises(start=0, end=0.3)},
        20,
    ),
    "right_answers_lost": lambda: (
        {"reward_mean": rises(), "correct_rate": rises(start=0.4, end=0.0)},
        # Both fall: that is no reward that pays for something else.
        {"reward_mean": rises(start=0.8, end=0.2), "correct_rate": rises(start=0.4, end=0.0)},
        50,
    ),
    "held_out_lost": lambda: (
        {"reward_mean": rises(20), "probe_accuracy": [0.9] * 8 + [0.6, 0.5, 0.4] + [0.3] * 9},
        {"reward_mean": rises(20), "probe_accuracy": rises(20, 0.9, 0.8)},
        16,
    ),
    "kl_without_gain": lambda: (
        {"reward_mean": rises(150, 0.8, 0.8), "kl_ref": np.geomspace(0.05, 4.0, 150)},
        {"reward_mean": rises(150, 0.2, 0.9), "kl_ref": np.geomspace(0.05, 4.0, 150)},
        149,
    ),
    "broke_together": lambda: (
        three(40, 40, 40),
        three(40, 45, 50),
        43,
    ),
    "drift_correct_rate": lambda: (
        {"correct_rate": rises(LONG, 0.9, 0.3)}, {"correct_rate": rises(LONG, 0.3, 0.9)}, 240,
    ),
    "drift_entropy": lambda: ({"entropy": rises(LONG, 0.4, 2.4)}, {"entropy": rises(LONG, 0.4, 0.9)}, 240),
    "drift_grad_norm": lambda: (
        {"grad_norm": np.geomspace(0.1, 10, LONG)}, {"grad_norm": np.geomspace(0.1, 0.3, LONG)}, 300,
    ),
    "drift_rollout_kl": lambda: (
        {"rollout_kl": np.linspace(0.001, 0.05, LONG)}, {"rollout_kl": np.linspace(0.001, 0.006, LONG)}, 240,
    ),
    "drift_rollout_gap_mean": lambda: (
        {"rollout_gap_mean": rises(LONG, 0.1, 0.5)}, {"rollout_gap_mean": shaken(0.01, LONG)}, 240,
    ),
    "drift_rollout_ratio_mean": lambda: (
        {"rollout_ratio_mean": np.linspace(1.0, 0.7, LONG)}, {"rollout_ratio_mean": shaken(1.0, LONG, 0.01)}, 300,
    ),
    "drift_truncated_rate": lambda: (
        {"truncated_rate": np.linspace(0, 0.8, LONG)}, {"truncated_rate": np.linspace(0, 0.2, LONG)}, 240,
    ),
    "drift_empty_rate": lambda: (
        {"empty_rate": np.linspace(0, 0.8, LONG)}, {"empty_rate": np.linspace(0, 0.1, LONG)}, 240,
    ),
    "drift_repeated_bigram_rate": lambda: (
        {"repeated_bigram_rate": np.linspace(0, 0.8, LONG)}, {"repeated_bigram_rate": np.linspace(0, 0.2, LONG)}, 240,
    ),
    "drift_failed_rate": lambda: (
        {"failed_rate": np.linspace(0, 0.4, LONG)}, {"failed_rate": np.linspace(0, 0.1, LONG)}, 240,
    ),
    "drift_tool_error_rate": lambda: (
        {"tool_error_rate": np.linspace(0, 0.4, LONG)}, {"tool_error_rate": np.linspace(0, 0.1, LONG)}, 240,
    ),
    "drift_clip_high_rate": lambda: (
        {"clip_high_rate": np.linspace(0, 0.8, LONG)}, {"clip_high_rate": np.linspace(0, 0.2, LONG)}, 240,
    ),
    "drift_clip_low_rate": lambda: (
        {"clip_low_rate": np.linspace(0, 0.8, LONG)}, {"clip_low_rate": np.linspace(0, 0.2, LONG)}, 240,
    ),
    "drift_explained_variance": lambda: (
        {"explained_variance": np.linspace(0.8, -0.4, LONG)}, {"explained_variance": np.linspace(-0.4, 0.8, LONG)}, 240,
    ),
}  # fmt: skip
