"""Mean shifts of faults: mean differences of the faulty and the healthy run of a seed, in standard deviations. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from rftfm_ray.faultbench.detectors.strata import Floats, background_of
from rftfm_ray.faultbench.runs.dataset import Recorded
from rftfm_ray.faultbench.runs.plan import Entry, Kind, mechanism_of

# Steps from the effect on over which a shift is taken.
WINDOW = 10
# Residuals are clipped here: healthy residuals are not normal that far out.
LARGEST = 8.0

Fault = tuple[str, ...]
Kinds = tuple[str, ...]


def fault_of(entry: Entry) -> Fault:
    """Code, mechanism, level and background of an entry's fault."""
    return entry.code, mechanism_of(entry), entry.level, *background_of(entry)


def kind_of(entry: Entry) -> Kinds:
    """What runs must have in common to measure the same signals with the same noise."""
    return entry.task, entry.algorithm, *background_of(entry)


def mean_shifts(runs: Sequence[Recorded], residuals: Callable[[Recorded], Floats]) -> dict[Fault, Floats]:
    """Mean shift (signals) of every fault over the first steps of its effect, by the residuals (N, signals) of runs.

    A signal that only one run of a pair has measured at a step does not count at that step.
    """
    healthy = {run.entry.seed: run for run in runs if run.entry.kind is Kind.HEALTHY}
    shifts: dict[Fault, list[Floats]] = {}
    for run in runs:
        effect = run.outcome.effects[0] if run.entry.kind is Kind.FAULT else None
        if effect is None or effect > len(run):
            continue
        one, other = (np.clip(residuals(each), -LARGEST, LARGEST) for each in (run, healthy[run.entry.seed]))
        steps = slice(effect - 1, min(effect - 1 + WINDOW, len(one), len(other)))
        difference: Floats = np.nan_to_num(one[steps] - other[steps], nan=0.0).mean(0)
        shifts.setdefault(fault_of(run.entry), []).append(difference)
    return {fault: np.stack(some).mean(0) for fault, some in sorted(shifts.items())}
