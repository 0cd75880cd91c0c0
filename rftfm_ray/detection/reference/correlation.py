"""The correlation model of healthy runs, learnt from their residuals. Pure; numpy.

It holds all that the CUSUMs of a run need: the covariance of healthy residuals, how residuals follow the prompts, the
long-run variance of each contrast, and a threshold level for each contrast. It is learnt from healthy runs of the same
kind, mixed with what runs of other tasks have shown, or from other tasks only.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Self

import numpy as np
from numpy.typing import NDArray

from rftfm_ray.detection.reference.profile import REFIT, JointProfile, PriorProfile
from rftfm_ray.detection.statistics.correlations import (
    LARGEST,
    Moments,
    long_run_variances,
    mixed,
    ridge_slopes,
    shrunken,
)
from rftfm_ray.detection.statistics.matched_filters import Cusums, FilterBank
from rftfm_ray.detection.statistics.thresholds import FALSE_ALARM_STEPS, level_for, peaks
from rftfm_ray.errors import ProfileError
from rftfm_ray.signals.groups import PROMPT_SIGNALS, TELEMETRY

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

_TELEMETRY = slice(len(TELEMETRY))
# Steps that a correlation of other tasks is worth beside the profile's own, and share of the identity in the mixture.
PRIOR_STEPS, SHRUNK = 100.0, 0.1
# Share of the identity in a correlation from other tasks only; steps of a run that its variances are worth.
SHRUNK_OTHERS, PRIOR_WEIGHT = 0.2, 7.0
# Ridge of the slopes on the prompts, in steps: few runs overstate how residuals follow the prompts.
RIDGE = 50.0
# Bounds of a residual's standard deviation: the profile's own is the largest, and the smallest is for signals that
# hardly move.
LEAST_SPREAD, LARGEST_SPREAD = 0.3, 1.0
# Steps of a sum whose variance is the long-run one; how many sums, and single steps, the prior is worth.
SUMMED, PRIOR_SUMS, PRIOR_SINGLE = 6, 30.0, 20.0
# Folds of cross-validation over runs: a covariance fits the runs that it was learnt from too well.
PARTS = 8
# Steps to a block of a run whose peaks are counted.
PEAK_STEPS = 10
# Evidence in nats that all contrasts against a profile reach once in `FALSE_ALARM_STEPS` healthy steps. It is 1.5 times
# what theory gives for independent normal contrasts: healthy runs are not normal, and differ from each other.
PROFILE_LEVEL = 20.0
# Degrees of freedom per run, at most: the steps of one run are not independent, because runs differ in how fast they
# learn.
FREE_PER_RUN = 4.0
# Shift of the CUSUM, in standard deviations: against a profile a shift lasts; the self-baseline adapts to it in time.
SIZE, SIZE_OWN = 1.5, 2.0
FEWEST_RUNS = 3
"""Healthy runs of other tasks that learning from them needs at least."""
# Decimals that a file keeps.
DIGITS = 6


@dataclass(frozen=True, slots=True, eq=False)
class CorrelationModel:
    """The correlation of S signals in healthy runs.

    Attributes:
        slopes: (`PROMPT_SIGNALS`, S) how residuals follow those of the prompts.
        bank: the contrasts (K = 2 S) of the signals.
        levels: (K) evidence in nats that all contrasts together reach once in `FALSE_ALARM_STEPS` healthy steps.
        size: the shift of the CUSUM, in standard deviations.
        prior_weight: steps of a run that the bank's variances are worth; infinity for runs of the bank's own kind.
        freedom: degrees of freedom of the standard deviations that residuals were divided by.
    """

    slopes: Floats
    bank: FilterBank
    levels: Floats
    size: float
    prior_weight: float = math.inf
    freedom: float = math.inf

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        # Immutable: a copy is not needed.
        del memo
        return self

    def adjusted(self, residuals: Floats) -> Floats:
        """Residuals (N, S) less what the prompts of each step explain, from (N, `COLUMNS`)."""
        return _adjusted(residuals, self.slopes, _columns(self.bank.signals))

    def cusums(self) -> Cusums:
        """The CUSUMs of a new run."""
        return Cusums(self.bank, self.size, self.prior_weight, self.freedom)

    def without(self, signals: Collection[str]) -> Self | None:
        """The model of the signals that remain without some; None where none remains.

        Their covariance is a part of the whole one. A conditional contrast is then conditional on fewer signals, down
        to none of them, where it is the residual itself over its standard deviation. So its long-run variance is taken
        as the larger of the two. Levels hold for more contrasts than remain. Prompts that are left out explain nothing.
        """
        names, size = self.bank.signals, len(self.bank.signals)
        left = np.array([index for index, name in enumerate(names) if name not in signals], np.intp)
        if len(left) == size and not set(signals) & set(PROMPT_SIGNALS):
            return self
        if not len(left):
            return None
        slopes = self.slopes[:, left].copy()
        slopes[[index for index, name in enumerate(PROMPT_SIGNALS) if name in signals]] = 0.0
        covariance = self.bank.covariance[np.ix_(left, left)]
        alone, conditional = self.bank.variances[left], self.bank.variances[size + left]
        variances = np.concatenate([alone, np.maximum(conditional, alone / np.diag(covariance))])
        bank = FilterBank(tuple(names[index] for index in left), covariance, variances)
        return replace(self, slopes=slopes, bank=bank, levels=self.levels[np.concatenate([left, size + left])])

    def to_profile(self) -> JointProfile:
        """What a file holds of it."""
        return JointProfile(
            signals=self.bank.signals, slopes=_rows(self.slopes), covariance=_rows(self.bank.covariance),
            variances=_row(self.bank.variances), levels=_row(self.levels), size=self.size,
            believed=_finite(self.prior_weight), freedom=_finite(self.freedom),
        )  # fmt: skip

    @classmethod
    def from_profile(cls, joint: JointProfile) -> Self:
        """From a file.

        Raises:
            ProfileError: when it is not what `to_profile` gives.
        """
        slopes, covariance = _tables(joint)
        variances, levels = np.array(joint.variances), np.array(joint.levels)
        if not len(variances) == len(levels) == 2 * len(joint.signals):
            raise ProfileError(f"The profile's `joint` is damaged (its variances or levels do not fit); {REFIT}.")
        bank = FilterBank(joint.signals, covariance, variances)
        prior_weight, freedom = (math.inf if number is None else number for number in (joint.believed, joint.freedom))
        return cls(slopes, bank, levels, joint.size, prior_weight, freedom)


@dataclass(frozen=True, slots=True, eq=False)
class PriorCorrelation:
    """What healthy runs of other tasks have shown of residuals against a profile, for all of `TELEMETRY`.

    Attributes:
        slopes: (`PROMPT_SIGNALS`, `TELEMETRY`) how residuals follow those of the prompts.
        correlation: (`TELEMETRY`, `TELEMETRY`) of what that leaves.
        variances: (`TELEMETRY`) of it.
        long_run: (2, `TELEMETRY`) long-run variance of contrasts, of the signals by themselves and conditional ones.
        known: (`TELEMETRY`) which signals those runs measured.
    """

    slopes: Floats
    correlation: Floats
    variances: Floats
    long_run: Floats
    known: Mask

    @classmethod
    def nothing(cls) -> Self:
        """The prior without any data."""
        size = len(TELEMETRY)
        return cls(
            np.zeros((len(PROMPT_SIGNALS), size)), np.eye(size), np.ones(size), np.ones((2, size)), np.zeros(size, bool)
        )

    @classmethod
    def of(cls, residuals: Sequence[Floats]) -> Self:
        """Learn from residuals (N, `COLUMNS`) of healthy runs against profiles that exclude them."""
        start = cls.nothing()
        slopes = _slopes(residuals, start.slopes)
        moments = Moments.of([_adjusted(run, slopes) for run in residuals])
        known = np.diag(moments.counts) > 0
        start.long_run[:, known] = _variances(_left_out(residuals, start, known), np.ones(2 * known.sum())).reshape(
            2, -1
        )
        return cls(slopes, moments.correlation(), np.where(known, moments.variances(), 1.0), start.long_run, known)

    def to_profile(self) -> PriorProfile:
        """What a file holds of it."""
        columns = np.flatnonzero(self.known)
        return PriorProfile(
            signals=tuple(TELEMETRY[column] for column in columns), slopes=_rows(self.slopes[:, columns]),
            covariance=_rows(self.correlation[np.ix_(columns, columns)]), variances=_row(self.variances[columns]),
            long_run=_rows(self.long_run[:, columns]),
        )  # fmt: skip

    @classmethod
    def from_profile(cls, prior: PriorProfile) -> Self:
        """From a file.

        Raises:
            ProfileError: when it is not what `to_profile` gives.
        """
        slopes, correlation = _tables(prior)
        size = len(prior.signals)
        if len(prior.variances) != size or [len(row) for row in prior.long_run] != [size, size]:
            raise ProfileError(f"The prior's variances do not fit its signals; {REFIT}.")
        learnt, columns = cls.nothing(), [TELEMETRY.index(name) for name in prior.signals]
        learnt.slopes[:, columns], learnt.correlation[np.ix_(columns, columns)] = slopes, correlation
        learnt.variances[columns], learnt.known[columns] = prior.variances, True
        learnt.long_run[:, columns] = prior.long_run
        return learnt


def learn_of_kind(residuals: Sequence[Floats], prior: PriorCorrelation) -> CorrelationModel:
    """Learn from two or more healthy runs of the same kind, and from a prior of other tasks.

    Args:
        residuals: (N, `COLUMNS`) of each run against the mean of the others.
        prior: `PriorCorrelation.nothing()` without any.
    """
    runs = len(residuals)
    measured = np.asarray(np.isfinite(np.concatenate(residuals)[:, : len(TELEMETRY)]).any(0))
    slopes, covariance = _fit_with_prior(residuals, prior, measured)
    variances = _variances(_left_out(residuals, prior, measured), prior.long_run[:, measured].ravel())
    bank = FilterBank(_names(measured), covariance, variances)
    levels = np.full(len(bank.variances), PROFILE_LEVEL)
    return CorrelationModel(slopes[:, measured], bank, levels, SIZE, freedom=FREE_PER_RUN * runs)


def learn_of_others(residuals: Sequence[Floats]) -> CorrelationModel:
    """Learn from healthy runs of other tasks only.

    Args:
        residuals: (N, `COLUMNS`) of each run against its self-baseline.

    Raises:
        ValueError: for fewer than `FEWEST_RUNS`.
    """
    if len(residuals) < FEWEST_RUNS:
        raise ValueError(f"{FEWEST_RUNS} healthy runs are needed, and there are {len(residuals)}")
    measured = np.asarray(np.isfinite(np.concatenate(residuals)[:, : len(TELEMETRY)]).any(0))
    slopes, covariance = _fit_without_prior(residuals, measured)
    left_out = list[tuple[FilterBank, Floats]]()
    for part in range(min(PARTS, len(residuals))):
        others = [run for index, run in enumerate(residuals) if index % PARTS != part]
        part_slopes, part_covariance = _fit_without_prior(others, measured)
        bank = _unscaled(measured, part_covariance)
        left_out += [(bank, _adjusted(run, part_slopes)[:, measured]) for run in residuals[part::PARTS]]
    variances = _variances([bank.along(run) for bank, run in left_out], np.ones(2 * int(measured.sum())))
    highest = [
        peaks(
            Cusums(FilterBank(bank.signals, bank.covariance, variances), SIZE_OWN, PRIOR_WEIGHT).over(run), PEAK_STEPS
        )
        for bank, run in left_out
    ]
    # Both sides of a contrast share one level.
    table = np.concatenate(highest).reshape(-1, 2, len(variances))
    per_step = 1 / FALSE_ALARM_STEPS / (2 * len(variances))
    levels = [level_for(table[:, :, column].ravel(), PEAK_STEPS, per_step) for column in range(len(variances))]
    bank = FilterBank(_names(measured), covariance, variances)
    return CorrelationModel(slopes[:, measured], bank, np.array(levels), SIZE_OWN, PRIOR_WEIGHT)


def _left_out(residuals: Sequence[Floats], prior: PriorCorrelation, measured: Mask) -> list[Floats]:
    """Contrasts (N, K) of each run, from the covariance and the variances of the other runs and a prior."""
    contrasts = list[Floats]()
    for part in range(min(PARTS, len(residuals))):
        others = [run for index, run in enumerate(residuals) if index % PARTS != part]
        slopes, covariance = _fit_with_prior(others, prior, measured)
        bank = _unscaled(measured, covariance)
        contrasts += [bank.along(_adjusted(run, slopes)[:, measured]) for run in residuals[part::PARTS]]
    return contrasts


def _names(measured: Mask) -> tuple[str, ...]:
    return tuple(name for name, is_measured in zip(TELEMETRY, measured, strict=True) if is_measured)


def _unscaled(measured: Mask, covariance: Floats) -> FilterBank:
    return FilterBank(_names(measured), covariance, np.ones(2 * len(covariance)))


def _fit_with_prior(residuals: Sequence[Floats], prior: PriorCorrelation, measured: Mask) -> tuple[Floats, Floats]:
    """Slopes (`PROMPT_SIGNALS`, `TELEMETRY`), and the covariance (S, S) of the measured signals after their removal."""
    slopes = _slopes(residuals, prior.slopes)
    moments = Moments.of([_adjusted(run, slopes) for run in residuals])
    steps = PRIOR_STEPS * np.outer(prior.known, prior.known).astype(np.float64)
    correlation = mixed(moments.correlation(), moments.counts, prior.correlation, steps)
    squares, counts = np.diag(moments.squares), np.diag(moments.counts)
    variances = (PRIOR_STEPS * prior.variances + squares) / (PRIOR_STEPS + counts)
    return slopes, _covariance(correlation, variances, SHRUNK, measured)


def _fit_without_prior(residuals: Sequence[Floats], measured: Mask) -> tuple[Floats, Floats]:
    """Slopes and covariance as in `_fit_with_prior`, without a prior."""
    slopes = _slopes(residuals, np.zeros((len(PROMPT_SIGNALS), len(TELEMETRY))))
    moments = Moments.of([_adjusted(run, slopes) for run in residuals])
    return slopes, _covariance(moments.correlation(), moments.variances(), SHRUNK_OTHERS, measured)


def _covariance(correlation: Floats, variances: Floats, shrunk: float, measured: Mask) -> Floats:
    spreads = np.clip(np.sqrt(variances), LEAST_SPREAD, LARGEST_SPREAD)[measured]
    covariance: Floats = shrunken(correlation[np.ix_(measured, measured)], shrunk) * np.outer(spreads, spreads)
    return covariance


def _variances(left_out: Sequence[Floats], prior: Floats) -> Floats:
    """Long-run variance (K) of contrasts (N, K) of left-out runs, never below that of a single step."""
    single = long_run_variances(left_out, 1, np.ones(len(prior)), PRIOR_SINGLE)
    return np.maximum(single, long_run_variances(left_out, SUMMED, prior, PRIOR_SUMS))


def _slopes(residuals: Sequence[Floats], prior: Floats) -> Floats:
    table = np.concatenate(residuals)
    return ridge_slopes(_prompts(table), table[:, : len(TELEMETRY)], prior, RIDGE)


def _prompts(residuals: Floats) -> Floats:
    """Residuals (N, `PROMPT_SIGNALS`) of the prompts; 0 where they explain nothing."""
    prompts: Floats = np.clip(np.nan_to_num(residuals[:, len(TELEMETRY) :], nan=0.0), -LARGEST, LARGEST)
    return prompts


@lru_cache(maxsize=8)
def _columns(signals: tuple[str, ...]) -> NDArray[np.intp]:
    return np.array([TELEMETRY.index(name) for name in signals], np.intp)


def _adjusted(residuals: Floats, slopes: Floats, columns: NDArray[np.intp] | slice = _TELEMETRY) -> Floats:
    """Residuals (N, columns) less what the prompts explain by slopes (`PROMPT_SIGNALS`, columns)."""
    own: Floats = residuals[:, columns]
    # Signal by signal: the rounding of a matrix product would depend on the number of steps.
    for prompt, slope in zip(_prompts(residuals).T, slopes, strict=True):
        own = own - prompt[:, None] * slope
    return own


def _tables(joint: JointProfile | PriorProfile) -> tuple[Floats, Floats]:
    """Slopes and covariance of a file.

    Raises:
        ProfileError: when their sizes or signals do not fit, or no runs have such a covariance.
    """
    size = len(joint.signals)
    fits = [len(row) for row in (*joint.slopes, *joint.covariance)] == [size] * (len(PROMPT_SIGNALS) + size)
    if not size or not fits or not set(joint.signals) <= set(TELEMETRY) or len(set(joint.signals)) < size:
        raise ProfileError(f"The profile's `joint` is damaged (its sizes or signals do not fit); {REFIT}.")
    slopes, covariance = np.array(joint.slopes), np.array(joint.covariance)
    definite = isinstance(joint, PriorProfile) or np.linalg.eigvalsh(covariance)[0] > 0
    if not np.allclose(covariance, covariance.T, atol=1e-9) or not definite or np.diag(covariance).min() <= 0:
        raise ProfileError(f"The profile's `joint` is damaged (no runs have such a covariance); {REFIT}.")
    return slopes, covariance


def _rows(table: Floats) -> tuple[tuple[float, ...], ...]:
    return tuple(_row(row) for row in table)


def _row(values: Floats) -> tuple[float, ...]:
    return tuple(np.round(values, DIGITS).tolist())


def _finite(value: float) -> float | None:
    return None if math.isinf(value) else value
