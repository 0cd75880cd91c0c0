"""Simulated runs of six signals, in which a fault moves some of them a little."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from rftfm_ray.faultbench.runs.dataset import NAMES, Outcome, Recorded
from rftfm_ray.faultbench.runs.plan import Entry, Kind, Split

MEASURED = ("reward_mean", "correct_rate", "entropy", "length_mean", "grad_norm", "kl_ref")
STEPS, ONSET = 40, 16
SHIFTS: Mapping[str, tuple[float, ...]] = {"relation": (1.2, 0, 0, 0, 0, 0), "template": (0, 0, -1.0, 1.0, 1.0, 1.0)}
"""What faults move, in standard deviations of each signal; none is large by itself."""
_COLUMNS = [NAMES.index(name) for name in MEASURED]


def simulated(seed: int, fault: str = "", steps: int = STEPS, onset: int = ONSET, size: float = 1.0) -> Recorded:
    """A run in which rewards follow the share of right answers closely; a fault moves some signals by `size` shifts.

    Beyond the steps that other runs have, all signals rise slowly.
    """
    rng = np.random.default_rng(seed)
    table = rng.normal(size=(steps, len(MEASURED)))
    table[:, 0] = 0.98 * table[:, 1] + 0.2 * table[:, 0]
    table += 0.02 * np.maximum(0, np.arange(steps) - STEPS)[:, None]
    if fault:
        table[onset - 1 :] += size * np.array(SHIFTS[fault])
    values = np.full((steps, len(NAMES)), np.nan, np.float32)
    values[:, _COLUMNS] = 1 + 0.2 * table
    entry = Entry(f"healthy-{seed}", Kind.HEALTHY, Split.CALIBRATE, seed, "addition", "grpo", "tiny", steps)
    if not fault:
        return Recorded(entry, Outcome((), ()), values)
    inject = (f"OD-1@{onset}:hard,mechanism={fault}",)
    entry = replace(entry, name=f"{fault}-{seed}", kind=Kind.FAULT, inject=inject, level="hard", onset=onset)
    return Recorded(entry, Outcome((onset,), (onset,)), values)


def following(seed: int, *, longer: bool = False, asked: bool = False) -> Recorded:
    """A run whose responses follow their right answers in length.

    They may grow over ten steps: because longer ones are asked for, or by themselves.
    """
    run, rng = simulated(seed), np.random.default_rng([seed, 1])
    growth = 3 * np.clip((np.arange(STEPS) - ONSET + 2) / 10, 0, 1) if longer else np.zeros(STEPS)
    wanted = rng.normal(size=STEPS)
    run.values[:, NAMES.index("answer_length_mean")] = 2.6 + 0.12 * (wanted + growth * asked)
    run.values[:, NAMES.index("length_mean")] = 1 + 0.2 * (0.9 * wanted + 0.4 * rng.normal(size=STEPS) + growth)
    return run
