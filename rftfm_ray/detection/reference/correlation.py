"""How healthy runs' signals go together, learnt from their residuals, and what departs from that. Pure; numpy.

The bank of directions (`detection.bank`) needs the covariance of healthy residuals, how they follow the prompts, and a
level for each direction. All three come from a few healthy runs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from rftfm_ray.detection.reference.profile import AGAIN, TogetherProfile
from rftfm_ray.detection.statistics.matched_filters import (
    LARGEST,
    SHRUNK,
    Bank,
    Sort,
    Sums,
    Template,
    build,
    covariance_of,
)
from rftfm_ray.detection.statistics.thresholds import level_for, peaks
from rftfm_ray.errors import ProfileError
from rftfm_ray.signals.groups import PROMPT_SIGNALS, TELEMETRY

Floats = NDArray[np.float64]

# Steps to a block of a run whose peaks are counted, and healthy steps to one false alarm of all directions together.
BLOCK, FALSE_ALARM_STEPS = 10, 2000.0
# Steps' worth of prompts that change nothing: what few runs show of how residuals follow them is not all true.
RIDGE = 50.0
# Parts of the runs that are left out in turn: a covariance is too good for the runs that it was learnt from.
FOLDS = 4
FEWEST_RUNS = 3
# Digits after the point that a file keeps.
DIGITS = 6


@dataclass(frozen=True, slots=True)
class Trust:
    """How far what some runs have shown is believed in others.

    Attributes:
        shrunk: share of the identity in a correlation.
        believed: how many steps of a run its spreads are worth; see `bank.Sums`.
    """

    shrunk: float
    believed: float


OF_ITS_KIND = Trust(SHRUNK, math.inf)
"""Of the same task, algorithm and size."""
OF_OTHERS = Trust(0.5, 4.0)
"""Of another task."""


@dataclass(frozen=True, slots=True)
class Together:
    """What healthy runs of one kind have shown.

    Attributes:
        slopes: (`PROMPT_SIGNALS`, `TELEMETRY`) how residuals follow those of the prompts.
        bank: the directions of what can be measured in them.
        levels: of each direction, reached once in `FALSE_ALARM_STEPS` by all of them.
        believed: how many steps of a run its spreads are worth.
    """

    slopes: Floats
    bank: Bank
    levels: Floats
    believed: float = math.inf

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        # Detectors are copied every few steps; what never changes need not be.
        del memo
        return self

    def adjusted(self, residuals: Floats) -> Floats:
        """Residuals (N, `TELEMETRY`) less what the prompts of each step explain, from (N, `COLUMNS`)."""
        return _adjusted(residuals, self.slopes)

    def sums(self) -> Sums:
        """The sums of a new run."""
        return Sums(self.bank, self.levels, self.believed)


def learn(residuals: Sequence[Floats], templates: Sequence[Template], trust: Trust = OF_ITS_KIND) -> Together:
    """From residuals (N, `COLUMNS`) of at least `FEWEST_RUNS` healthy runs, measured as those of a new run will be."""
    if len(residuals) < FEWEST_RUNS:
        raise ValueError(f"{FEWEST_RUNS} healthy runs are needed, and there are {len(residuals)}")
    measured = np.asarray(np.isfinite(np.concatenate(residuals)[:, : len(TELEMETRY)]).any(0))
    slopes, covariance = _fitted(residuals, trust)
    bank = build(TELEMETRY, measured, covariance, templates)
    highest = []
    for fold in range(min(FOLDS, len(residuals))):
        known = [run for place, run in enumerate(residuals) if place % FOLDS != fold]
        left_out = [run for place, run in enumerate(residuals) if place % FOLDS == fold]
        theirs, found = _fitted(known, trust)
        other = build(TELEMETRY, measured, found, templates, like=bank)
        highest += [peaks(Sums(other, believed=trust.believed).over(_adjusted(run, theirs)), BLOCK) for run in left_out]
    table, per_step = np.concatenate(highest), 1 / FALSE_ALARM_STEPS / len(bank.directions)
    levels = [level_for(table[:, place], BLOCK, per_step) for place in range(len(bank.directions))]
    return Together(slopes, bank, np.array(levels), trust.believed)


def kept(found: Together) -> TogetherProfile:
    """What a profile file holds of it. Faults' directions stay out: they are no property of healthy runs."""
    bank = found.bank
    measured = {direction.name for direction in bank.directions}
    places = [place for place, name in enumerate(bank.signals) if name in measured]
    table, slopes = bank.covariance[np.ix_(places, places)], found.slopes[:, places]
    levels = zip(bank.directions, found.levels.tolist(), strict=True)
    return TogetherProfile(
        signals=tuple(bank.signals[place] for place in places),
        slopes=tuple(map(tuple, np.round(slopes, DIGITS).tolist())),
        covariance=tuple(map(tuple, np.round(table, DIGITS).tolist())),
        levels={str(one): round(level, DIGITS) for one, level in levels if one.sort is not Sort.FAULT},
    )


def restored(found: TogetherProfile, trust: Trust = OF_ITS_KIND) -> Together:
    """From a file.

    Raises:
        ProfileError: when it is not what `kept` gives.
    """
    size = len(found.signals)
    shapes = [len(row) for row in (*found.slopes, *found.covariance)] == [size] * (len(PROMPT_SIGNALS) + size)
    if not size or not shapes or not set(found.signals) <= set(TELEMETRY) or len(set(found.signals)) < size:
        raise ProfileError(f"The profile's `together` is damaged (its sizes or signals do not fit); {AGAIN}.")
    places = [TELEMETRY.index(name) for name in found.signals]
    slopes, covariance = np.zeros((len(PROMPT_SIGNALS), len(TELEMETRY))), np.eye(len(TELEMETRY))
    slopes[:, places], covariance[np.ix_(places, places)] = found.slopes, found.covariance
    if not np.allclose(covariance, covariance.T, atol=1e-9) or np.linalg.eigvalsh(covariance)[0] <= 0:
        raise ProfileError(f"The profile's `together` is damaged (its covariance is none); {AGAIN}.")
    measured = np.isin(np.arange(len(TELEMETRY)), places)
    bank = build(TELEMETRY, measured, covariance, ())
    try:
        levels = np.array([found.levels[str(direction)] for direction in bank.directions])
    except KeyError as error:
        raise ProfileError(f"The profile's `together` is damaged (no level of {error}); {AGAIN}.") from None
    return Together(slopes, bank, levels, trust.believed)


def _fitted(residuals: Sequence[Floats], trust: Trust) -> tuple[Floats, Floats]:
    """Slopes (`PROMPT_SIGNALS`, `TELEMETRY`), and the covariance (`TELEMETRY`, `TELEMETRY`) of what they leave."""
    slopes = _slopes(np.concatenate(residuals))
    return slopes, covariance_of([_adjusted(run, slopes) for run in residuals], trust.shrunk)


def _slopes(table: Floats) -> Floats:
    """Ridge regression of residuals on those of the prompts, over the steps at which a signal was measured."""
    asked = np.clip(np.nan_to_num(table[:, len(TELEMETRY) :], nan=0.0), -LARGEST, LARGEST)
    found = np.zeros((len(PROMPT_SIGNALS), len(TELEMETRY)))
    for place in range(len(TELEMETRY)):
        there = np.isfinite(table[:, place])
        x, y = asked[there], np.clip(table[there, place], -LARGEST, LARGEST)
        found[:, place] = np.linalg.solve(x.T @ x + RIDGE * np.eye(len(PROMPT_SIGNALS)), x.T @ y)
    return found


def _adjusted(residuals: Floats, slopes: Floats) -> Floats:
    own, asked = residuals[:, : len(TELEMETRY)], residuals[:, len(TELEMETRY) :]
    explained: Floats = np.clip(np.nan_to_num(asked, nan=0.0), -LARGEST, LARGEST) @ slopes
    return own - explained
