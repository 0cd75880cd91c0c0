"""Strengths of the levels of a case: easy and hard by how far a signal moves, harm by what accuracy it costs.

Both are searched on a logarithmic scale of the distance from where a strength does nothing, within the bounds of the
mechanism, on some seeds, and confirmed on others. That no strength reaches a level is a result as well (`Finding`).
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from rftfm_ray.faultbench.runs.calibrate import (
    EASY_AIM,
    EASY_LEAST,
    HARD_AIM,
    HARD_RANGE,
    Aim,
    CalibrationCase,
    in_range,
    search,
)
from rftfm_ray.faults.calibration import HARM, LEVELS, Calibration, Finding
from rftfm_ray.faults.kinds import Strength

AIMS = {"easy": Aim(EASY_AIM, 4.7, 7.0), "hard": Aim(HARD_AIM, 1.2, 1.7)}
LEAST = {"easy": EASY_LEAST, "hard": HARD_RANGE[0]}
HARMFUL = 0.1
"""Loss of accuracy from which on a strength is called harmful."""
HARM_LOSS = 0.15
"""Least mean loss of accuracy of the level `harm`."""
HARM_STEPS = 40
# The search aims higher than the level asks for, so that fresh seeds confirm it.
HARM_AIM = 0.17
# Standard deviation of the loss between seeds, on the large side.
LUCK = 0.05
CLEARLY = 3.0
HARM_TRIES = 6
# Distances that differ by less count as the same: a try costs minutes.
CLOSE = 1.3
# After fresh seeds have not confirmed a harm.
GROWTH = 1.3
# From a strength that is harmful in runs without a background: two such steps around the level leave less than `CLOSE`.
NEARBY = 1.6


class Measures(Protocol):
    """What a bench measures of a case (`calibrate.Bench`)."""

    def shifts(self, case: CalibrationCase, strength: float, seeds: Sequence[int]) -> list[float]:
        """By seed, how far the signal has moved; NaN where the effect has not come in time."""

    def loss(self, case: CalibrationCase, strength: float, seeds: Sequence[int], steps: int) -> list[float]:
        """By seed, the loss of held-out accuracy."""


@dataclass(frozen=True, slots=True)
class SeedPlan:
    """Seeds of a search: a part of them searches first, all of them decide, fresh ones confirm, others do so again."""

    searched: tuple[int, ...]
    calibrated: tuple[int, ...]
    fresh: tuple[int, ...]
    fresher: tuple[int, ...]

    @property
    def all(self) -> tuple[int, ...]:
        """Every seed."""
        return (*self.calibrated, *self.fresh, *self.fresher)


class Shifts:
    """Shifts of a case, each measured once."""

    def __init__(self, bench: Measures, case: CalibrationCase) -> None:
        self._bench = bench
        self.case = case
        self._known: dict[tuple[float, int], float] = {}

    def with_effect(self, strength: float, seeds: Sequence[int]) -> list[float]:
        """Shifts of the runs that had an effect."""
        for seed in seeds:
            if (strength, seed) not in self._known:
                (self._known[strength, seed],) = self._bench.shifts(self.case, strength, [seed])
        return [d for seed in seeds if not math.isnan(d := self._known[strength, seed])]

    def known(self, seeds: Sequence[int]) -> list[tuple[float, float]]:
        """Strengths that all of the seeds have been asked for, with their mean shifts."""
        strengths = sorted({strength for strength, _ in self._known})
        return [(s, self.mean(s, seeds)) for s in strengths if all((s, seed) in self._known for seed in seeds)]

    def mean(self, strength: float, seeds: Sequence[int]) -> float:
        """Mean shift; 0 where no run had an effect."""
        return statistics.fmean(self.with_effect(strength, seeds) or [0.0])

    def row(self, level: str, strength: float, seeds: Sequence[int], fresh: Sequence[int]) -> Calibration:
        """Measured figures of a strength."""
        case, d_fresh = self.case, self.mean(strength, fresh)
        return Calibration(
            **dataclasses.asdict(case), level=level, strength=strength, signal=case.kind.signal,
            d=round(self.mean(strength, seeds), 3), d_fresh=round(d_fresh, 3), seeds=len(seeds),
            seeds_fresh=len(fresh), reached=len(self.with_effect(strength, fresh)) / len(fresh),
            confirmed=in_range(level, d_fresh),
        )  # fmt: skip


def calibrate(bench: Measures, case: CalibrationCase, plan: SeedPlan, start: float | None = None) -> list[Calibration]:
    """Calibrate the levels easy and hard of a case; the search begins at `start`, by default at the usual strength."""
    shifts = Shifts(bench, case)
    return [_level(shifts, level, plan, start) for level in LEVELS]


def _level(shifts: Shifts, level: str, plan: SeedPlan, start: float | None) -> Calibration:
    bounds, waits = shifts.case.kind.strength, bool(shifts.case.kind.learned)
    begun = bounds if start is None else dataclasses.replace(bounds, default=start)
    measure, tries = partial(shifts.mean, seeds=plan.searched), 3 if waits else 6
    # What the search for the other level has measured serves this one.
    strength = search(measure, begun, AIMS[level], tries, shifts.known(plan.searched))
    if not in_range(level, shifts.mean(strength, plan.calibrated)) and not waits:
        # Few seeds have misled the search: it is repeated on all of them.
        strength = _searched_again(shifts, level, strength, plan.calibrated)
    row = shifts.row(level, strength, plan.calibrated, plan.fresh)
    if not (row.confirmed or waits or _is_out_of_reach(shifts, level, plan.calibrated)):
        seeds = (*plan.calibrated, *plan.fresh)
        row = shifts.row(level, _searched_again(shifts, level, strength, seeds), seeds, plan.fresher)
    if row.confirmed or not _is_out_of_reach(shifts, level, plan.calibrated):
        return row
    below = shifts.case.dirty and shifts.mean(bounds.high, plan.calibrated) < HARD_RANGE[0]
    return dataclasses.replace(row, finding=Finding.BELOW if below else Finding.NEVER)


def _searched_again(shifts: Shifts, level: str, strength: float, seeds: Sequence[int]) -> float:
    bounds = dataclasses.replace(shifts.case.kind.strength, default=strength)
    return search(partial(shifts.mean, seeds=seeds), bounds, AIMS[level], tries=3)


def _is_out_of_reach(shifts: Shifts, level: str, seeds: Sequence[int]) -> bool:
    """Whether the largest strength does not move the signal as far as a level asks for."""
    return shifts.mean(shifts.case.kind.strength.high, seeds) < LEAST[level]


class Losses:
    """Losses of accuracy of a case, each measured once; a search stops asking seeds when more would not change it."""

    def __init__(self, bench: Measures, case: CalibrationCase) -> None:
        self._bench = bench
        self.case = case
        self._known: dict[tuple[float, int], float] = {}

    def of(self, strength: float, seeds: Sequence[int]) -> list[float]:
        """Losses of all of the seeds."""
        for seed in seeds:
            if (strength, seed) not in self._known:
                (self._known[strength, seed],) = self._bench.loss(self.case, strength, [seed], HARM_STEPS)
        return [self._known[strength, seed] for seed in seeds]

    def mean(self, strength: float, seeds: Sequence[int]) -> float:
        """Mean loss over all of the seeds."""
        return statistics.fmean(self.of(strength, seeds))

    def glimpse(self, strength: float, seeds: Sequence[int]) -> float:
        """Mean loss over as many of the seeds as it takes to tell it from the level."""
        for count in range(2, len(seeds)):
            if is_decided(losses := self.of(strength, seeds[:count])):
                return statistics.fmean(losses)
        return self.mean(strength, seeds)


def is_decided(losses: Sequence[float]) -> bool:
    """Whether the mean of some seeds' losses is so far from the level that luck does not explain it."""
    return abs(statistics.fmean(losses) - HARM_AIM) > CLEARLY * LUCK / math.sqrt(len(losses))


def harmful_strengths(
    measure: Callable[[float], float], bounds: Strength, start: float | None = None, tries: int = HARM_TRIES
) -> list[float]:
    """Strengths that cost as much as the level aims at, smallest first; empty where not even the largest does.

    A bisection in the logarithm of the distance from neutral, between the bounds, or in the neighbourhood of `start`.
    The lower bound is taken to be harmless. No strength is larger than the largest, so that what the level asks for
    suffices there.
    """
    low, high = max(bounds.low - bounds.neutral, 1e-6), bounds.high - bounds.neutral
    distance = (bounds.default if start is None else start) - bounds.neutral
    below, above, harmful = low, high, list[float]()
    for count in range(tries):
        strength = _strength(bounds, distance)
        loss = measure(strength)
        if loss >= HARM_AIM:
            above = distance
            harmful.append(strength)
        elif distance == high:
            return [strength] if loss >= HARM_LOSS else []
        else:
            below = distance
        if above / below < CLOSE and harmful:
            break
        if not harmful:
            # Whether there is a harm at all is asked before where it begins.
            distance = high if start is None or count else min(distance * NEARBY, high)
        elif start is not None and below == low:
            distance = max(distance / NEARBY, low)
        else:
            distance = math.sqrt(below * above)
    return sorted(set(harmful))


def _strength(bounds: Strength, distance: float) -> float:
    """The strength at a distance from neutral, with three digits, within the bounds."""
    return min(max(float(f"{bounds.neutral + distance:.3g}"), bounds.low), bounds.high)


def calibrate_harm(bench: Measures, case: CalibrationCase, plan: SeedPlan, start: float | None = None) -> Calibration:
    """Calibrate the level harm of a case: the smallest strength whose mean loss is that of the level.

    `start` is a strength that has the level in runs without the background. It is taken where it has the level here as
    well, so that both backgrounds have the same; else the search begins at it, by default at the usual strength.
    """
    losses, bounds = Losses(bench, case), case.kind.strength
    if start is not None and losses.glimpse(start, plan.calibrated) >= HARM_AIM:
        row = _harm_row(losses, start, plan.calibrated, plan.fresh)
        if row.confirmed and (row.accuracy_loss or 0) >= HARM_LOSS:
            return row
    tried = harmful_strengths(partial(losses.glimpse, seeds=plan.calibrated), bounds, start)
    strength = next((s for s in tried if losses.mean(s, plan.calibrated) >= HARM_LOSS), None)
    if strength is None:
        return _harm_row(losses, bounds.high, plan.calibrated, ())
    row = _harm_row(losses, strength, plan.calibrated, plan.fresh)
    if row.confirmed or strength >= bounds.high:
        return row
    larger = _strength(bounds, (strength - bounds.neutral) * GROWTH)
    return _harm_row(losses, larger, (*plan.calibrated, *plan.fresh), plan.fresher)


def _harm_row(losses: Losses, strength: float, seeds: Sequence[int], fresh: Sequence[int]) -> Calibration:
    """Measured losses of a strength; without fresh seeds it is one that does no harm."""
    case, mean = losses.case, losses.mean(strength, seeds)
    confirming = losses.mean(strength, fresh) if fresh else math.nan
    return Calibration(
        **dataclasses.asdict(case), level=HARM, strength=strength, signal=case.kind.signal, d=math.nan,
        d_fresh=math.nan, seeds=len(seeds), seeds_fresh=len(fresh), reached=math.nan,
        confirmed=confirming >= HARM_LOSS, accuracy_loss=round(mean, 4), loss_seeds=len(seeds),
        harmful=mean >= HARMFUL, loss_fresh=None if math.isnan(confirming) else round(confirming, 4),
        finding=Finding.REACHED if fresh else Finding.NO_HARM,
    )  # fmt: skip
