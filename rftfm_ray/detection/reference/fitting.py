"""Fits a profile to healthy runs. Pure; numpy.

Each run is compared with the mean of the others, as a new run will be compared with all of them. So the spread includes
the error of the mean and of the smoothing, with the right degrees of freedom. Autocorrelations come from residuals
around the unsmoothed step-matched mean.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from rftfm_ray.detection.reference.correlation import PriorCorrelation, learn_of_kind
from rftfm_ray.detection.reference.profile import (
    MOST_RUNS,
    MOST_STEPS,
    Facts,
    Profile,
    SignalProfile,
)
from rftfm_ray.detection.reference.residuals import COLUMNS, levels_of
from rftfm_ray.errors import ProfileError
from rftfm_ray.signals.groups import TELEMETRY
from rftfm_ray.signals.scale import LARGEST, level_of
from rftfm_ray.signals.schema import SIGNALS, Scale, Signal
from rftfm_ray.verdicts import StepReport

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

WINDOW = 5
"""Steps of the moving average of the mean."""
SMALLEST = 1e-3
"""Lower bound of every spread."""
FEWEST = 3
"""Residuals that a signal needs to be in the profile."""
LATEST = 10
"""Latest first step of a run: the steps before it are taken to be like it."""
JOINT_RUNS, JOINT_STEPS = 64, 1000
"""Runs, and first steps of each, that the correlation is fitted to; more would add memory and no precision."""


@dataclass(frozen=True, slots=True)
class RunSeries:
    """One healthy run: unique `steps` (N) from 1 on, and values (N) by signal name, NaN where none was measured.

    `name` is used in errors.
    """

    steps: Ints
    values: Mapping[str, Floats]
    name: str = "A run"


def series_of(reports: Sequence[StepReport]) -> RunSeries:
    """Step reports of one run, each step once, as a series."""
    table = np.array([report.values for report in reports], np.float64).reshape(len(reports), len(SIGNALS))
    steps = np.array([report.id.step for report in reports], np.int64)
    return RunSeries(steps, {signal.name: table[:, column] for column, signal in enumerate(SIGNALS)})


def surviving_rows(attempts: Ints, steps: Ints, paid_steps: Ints) -> Ints:
    """Indices (K) of the rows that no rollback has undone, by step; all arguments (N).

    A later attempt replaces the rows of earlier attempts from its first step on.
    """
    order = np.lexsort((paid_steps, steps, attempts))
    surviving: list[int] = []
    first = math.inf
    for row in order[::-1]:
        if steps[row] < first:
            surviving.append(int(row))
            first = steps[row]
    return np.array(surviving[::-1], np.int64)


def fit(runs: Sequence[RunSeries], facts: Facts | None = None) -> Profile:
    """Fit the profile of healthy runs of one kind, over the steps that at least two of them have.

    Raises:
        ProfileError: for fewer than two runs, and for steps or values that cannot be profiled.
    """
    if len(runs) < 2:
        raise ProfileError(
            "A profile needs at least two healthy runs, to tell chance from what every run does; give more."
        )
    if len(runs) > MOST_RUNS:
        raise ProfileError(f"A profile is made of at most {MOST_RUNS} runs; give fewer.")
    for run in runs:
        _check_steps(run)
    first = sorted(int(run.steps.min()) for run in runs)[1]
    if first > LATEST:
        raise ProfileError(f"The runs begin at step {first}, as resumed ones do; give runs from their first step on.")
    steps = int(sorted(int(run.steps.max()) for run in runs)[-2])
    batch = _grid(runs, "trajectory_count", steps)
    count = float(np.median(batch[np.isfinite(batch)])) if np.isfinite(batch).any() else math.nan
    fitted = []
    for signal in SIGNALS:
        signal_profile = _fit_signal(signal, _levels(signal, _grid(runs, signal.name, steps)), count)
        fitted += [] if signal_profile is None else [signal_profile]
    if not fitted:
        raise ProfileError(
            "The runs have no signal in common that was measured at the same steps; give step rows of runs of one kind."
        )
    _check_different(runs)
    return Profile(len(runs), steps, facts, tuple(fitted))


def fit_profile(
    runs: Sequence[RunSeries], facts: Facts | None = None, prior: PriorCorrelation | None = None
) -> Profile:
    """Fit the profile of healthy runs of one kind, with the correlation of their signals.

    Args:
        runs: two or more.
        facts: what the runs have in common in their configuration.
        prior: from healthy runs of other tasks; it dominates in a profile of few runs.

    Raises:
        ProfileError: for fewer than two runs, and for steps or values that cannot be profiled.
    """
    profile = fit(runs, facts)
    residuals = left_out_residuals(runs[:JOINT_RUNS], profile)
    if not any(np.isfinite(run[:, : len(TELEMETRY)]).any() for run in residuals):
        return profile
    model = learn_of_kind(residuals, PriorCorrelation.nothing() if prior is None else prior)
    return replace(profile, joint=model.to_profile())


def left_out_residuals(runs: Sequence[RunSeries], profile: Profile) -> list[Floats]:
    """Residuals (N, `COLUMNS`) of each run against the mean of the others, over the profile's spreads.

    Args:
        runs: two or more of those that the profile was fitted to.
        profile: fitted to them.
    """
    steps = min(profile.steps, JOINT_STEPS)
    spreads = {signal.name: signal.spread for signal in profile.signals}
    grids = np.full((len(runs), steps, len(COLUMNS)), np.nan)
    for grid, run in zip(grids, runs, strict=True):
        within = run.steps <= steps
        grid[run.steps[within] - 1] = levels_of(_table(run)[within])
    residuals = np.full(grids.shape, np.nan)
    for column, name in enumerate(COLUMNS):
        if name not in spreads:
            continue
        for row in range(len(runs)):
            mean, support = _filled(*_smoothed(np.delete(grids[:, :, column], row, 0)))
            scale = spreads[name] * np.sqrt(1 + 1 / support)
            residuals[row, :, column] = (grids[row, :, column] - mean) / scale
    return [table[np.sort(run.steps[run.steps <= steps]) - 1] for table, run in zip(residuals, runs, strict=True)]


def table_of(run: RunSeries) -> tuple[Ints, Floats]:
    """Steps (N) of a run in their order, and its values (N, signals) in the order of a report."""
    order = np.argsort(run.steps)
    return run.steps[order], _table(run)[order]


def _table(run: RunSeries) -> Floats:
    """Values (N, signals) of a run in the order of a report."""
    nothing = np.full(len(run.steps), np.nan)
    return np.stack([run.values.get(signal.name, nothing) for signal in SIGNALS], axis=1)


def _filled(mean: Floats, support: Ints) -> tuple[Floats, Ints]:
    """A mean (T) with its gaps interpolated, and the support (T) of the nearest step that has one."""
    measured = np.flatnonzero(support > 0)
    if not measured.size:
        return mean, np.ones(len(mean), np.int64)
    columns = np.arange(len(mean))
    nearest = measured[np.rint(np.interp(columns, measured, np.arange(measured.size))).astype(np.int64)]
    return np.interp(columns, measured, mean[measured]), support[nearest]


def _check_steps(run: RunSeries) -> None:
    steps = run.steps
    if not steps.size:
        raise ProfileError(f"{run.name} has no step; leave it out.")
    if steps.min() < 1 or steps.max() > MOST_STEPS:
        raise ProfileError(f"{run.name} has steps that are not within 1 and {MOST_STEPS}; leave it out.")
    if np.unique(steps).size < steps.size:
        raise ProfileError(f"{run.name} has step {_twice(steps)} more than once; give each run by itself.")


def _check_different(runs: Sequence[RunSeries]) -> None:
    """Refuse duplicate runs: runs of one seed are equal to the last digit, except in their times."""
    shared = min(int(run.steps.max()) for run in runs)
    seen: dict[bytes, str] = {}
    grids = [_grid(runs, signal.name, shared) for signal in SIGNALS if math.isfinite(signal.floor)]
    for row, run in enumerate(runs):
        digest = hashlib.sha256(b"".join(grid[row].tobytes() for grid in grids)).digest()
        if digest in seen:
            raise ProfileError(
                f"{seen[digest]} and {run.name} are the same up to step {shared}: they have one seed, and say nothing "
                "of chance; give runs of different seeds."
            )
        seen[digest] = run.name


def _twice(steps: Ints) -> int:
    values, counts = np.unique(steps, return_counts=True)
    return int(values[counts > 1][0])


def _grid(runs: Sequence[RunSeries], name: str, steps: int) -> Floats:
    """Values of one signal, (runs, steps); NaN where there is none."""
    grid = np.full((len(runs), steps), np.nan)
    for row, run in zip(grid, runs, strict=True):
        if name in run.values:
            within = run.steps <= steps
            row[run.steps[within] - 1] = run.values[name][within]
    return grid


def _levels(signal: Signal, grid: Floats) -> Floats:
    return level_of(signal, grid)


def _fit_signal(signal: Signal, levels: Floats, batch: float) -> SignalProfile | None:
    """One signal from its levels (runs, steps); None when too little of it was measured or it is never judged."""
    known = np.isfinite(levels)
    free = int(np.maximum(known.sum(0) - 1, 0).sum())
    if free < FEWEST or not math.isfinite(signal.floor):
        return None
    with np.errstate(over="ignore", invalid="ignore"):
        mean, support = _smoothed(levels)
        scatter = _scatter(levels)
        correlation, ratio = _memory(levels)
    filled, counts = _filled(mean, support)
    spread = max(scatter, _floor(signal, mean, batch))
    if not math.isfinite(spread * spread * ratio) or np.nanmax(np.abs(levels)) >= LARGEST:
        raise ProfileError(f"Values of {signal.name} are too large for a profile; look at the runs.")
    measured = np.flatnonzero(known.any(0))
    columns = np.arange(levels.shape[1])
    nearest = measured[np.rint(np.interp(columns, measured, np.arange(measured.size))).astype(np.int64)]
    return SignalProfile(
        name=signal.name,
        mean=tuple(filled.tolist()),
        runs=tuple(known.sum(0)[nearest].tolist()),
        support=tuple(counts.tolist()),
        spread=spread,
        autocorrelation=correlation,
        long_run_variance=max(spread * spread, scatter * scatter * ratio),
        values=int(known.sum()),
    )


def _smoothed(levels: Floats) -> tuple[Floats, Ints]:
    """Centred moving average of the runs' mean (T), and how many values are in it (T); NaN and 0 where none is.

    The window shrinks on both sides alike towards the first and the last step, so that a trend does not bend it.
    """
    known = np.isfinite(levels)
    sums, support = np.where(known, levels, 0.0).sum(0), known.sum(0)
    columns = np.arange(levels.shape[1])
    half = np.minimum(WINDOW // 2, np.minimum(columns, columns[::-1]))
    total, count = sums.copy(), support.copy()
    for offset in range(1, WINDOW // 2 + 1):
        wide = columns[half >= offset]
        total[wide] += sums[wide - offset] + sums[wide + offset]
        count[wide] += support[wide - offset] + support[wide + offset]
    # The mean of a step that was not measured is interpolated, or taken from the nearest step.
    count = np.where(support > 0, count, 0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan), count


def _scatter(levels: Floats) -> float:
    """Standard deviation of one value around the true mean: each run against the smoothed mean of the others."""
    squares: list[float] = []
    for row in range(len(levels)):
        mean, support = _smoothed(np.delete(levels, row, 0))
        errors = (levels[row] - mean) ** 2 / (1 + 1 / np.maximum(support, 1))
        squares += errors[np.isfinite(levels[row]) & (support > 0)].tolist()
    return math.sqrt(math.fsum(squares) / len(squares)) if squares else 0.0


def _memory(levels: Floats) -> tuple[float | None, float]:
    """Autocorrelation at lag 1, and long-run over plain variance.

    Newey and West's estimate with Bartlett weights 1 - j/M, pooled over runs; M = 1.1447 (a N)^(1/3) with
    a = 4 r^2 / (1 - r^2)^2 from the autocorrelation r: Andrews, Econometrica 59 (1991), equations 6.2 and 6.4. N is the
    number of residuals that are free. Residuals of n runs around their common mean are too small by n/(n-1) at every
    lag, which cancels out.
    """
    known = np.isfinite(levels)
    counts = known.sum(0)
    shared = counts >= 2
    means = np.where(known, levels, 0.0).sum(0) / np.maximum(counts, 1)
    rows = [(row - means)[shared & np.isfinite(row)] for row in levels]
    plain = sum(float(row @ row) for row in rows)
    if plain <= 0.0 or not math.isfinite(plain):
        return None, 1.0
    free = int((counts[shared] - 1).sum())
    first = max(-1.0, min(1.0, _lagged(rows, 1) / plain))
    # The formula is not valid near a unit root.
    r2 = min(abs(first), 0.97) ** 2
    bandwidth = 1.1447 * (4 * r2 / (1 - r2) ** 2 * free) ** (1 / 3)
    bandwidth = max(1.0, min(bandwidth, max(row.size for row in rows) / 2))
    total = 1.0
    for lag in range(1, math.ceil(bandwidth)):
        total += 2 * (1 - lag / bandwidth) * _lagged(rows, lag) / plain
    return first, total


def _lagged(rows: Sequence[Floats], lag: int) -> float:
    return sum(float(row[lag:] @ row[:-lag]) for row in rows if row.size > lag)


def _floor(signal: Signal, mean: Floats, batch: float) -> float:
    """The larger of 1 % of the level, the signal's own floor, one trajectory of the batch for rates, and 1e-3.

    `batch` is how many trajectories a step has, NaN when unknown. A held-out probe is not a share of the batch.
    """
    floors = [signal.floor, SMALLEST]
    if signal.scale is Scale.RATIO:
        # 1 % of the level, in nats.
        floors.append(0.01)
    else:
        floors.append(0.01 * float(np.nanmean(np.abs(mean))))
    if signal.scale is Scale.RATE and batch > 0 and not signal.name.startswith("probe"):
        floors.append(1 / batch)
    return max(floors)
