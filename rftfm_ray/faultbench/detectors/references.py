"""References that the guard compares the runs of a benchmark with, one for each mode that a user can choose.

Everything is learnt from the calibrate split. The correlation model of a task is learnt from the other tasks alone,
because the task of a user is not in the benchmark. It is learnt from runs of all backgrounds.

A profile is of healthy runs with the same background, and has their facts, as `rftfm profile fit` writes them. A run of
another configuration is compared with it as a live run is: the signals that the difference moves are left out.
"""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from functools import cached_property

import numpy as np

from rftfm_ray.config import RunConfig
from rftfm_ray.detection.reference.comparison import compare, facts_of, merged
from rftfm_ray.detection.reference.correlation import FEWEST_RUNS
from rftfm_ray.detection.reference.fitting import RunSeries, fit_profile
from rftfm_ray.detection.reference.mixture import FULL_RUNS, Mode, Reference, reference_of
from rftfm_ray.detection.reference.priors import (
    CRITIC,
    NO_CRITIC,
    KindPriors,
    has_enough_signals,
    learn_priors,
    shipped,
)
from rftfm_ray.detection.reference.profile import Facts, FactValue, Profile
from rftfm_ray.errors import BenchError
from rftfm_ray.faultbench.detectors.strata import (
    Stratum,
    healthy_by_stratum,
    series,
    stratum_of,
)
from rftfm_ray.faultbench.runs.dataset import NAMES, Recorded
from rftfm_ray.faultbench.runs.declared import watched
from rftfm_ray.faultbench.runs.generate import config_of
from rftfm_ray.faultbench.runs.plan import Entry

SMALL_RUNS = 3
DRAWS = 10
_Key = tuple[tuple[str, FactValue], ...]


class ReferenceMode(StrEnum):
    """How many healthy runs of its kind a run is compared with: none, a small profile, or all that there are."""

    NONE = "none"
    THREE = "three"
    PROFILE = "profile"

    @property
    def threshold_mode(self) -> Mode:
        """The mode of the monitor's reference, which has a multiplier of its own."""
        return {ReferenceMode.NONE: Mode.NONE, ReferenceMode.THREE: Mode.SMALL, ReferenceMode.PROFILE: Mode.FULL}[self]

    @property
    def label(self) -> str:
        """Its name in tables and pages."""
        return {
            ReferenceMode.NONE: "no profile",
            ReferenceMode.THREE: f"profile of {SMALL_RUNS} runs",
            ReferenceMode.PROFILE: f"profile of {FULL_RUNS} runs or more",
        }[self]


class References:
    """References of runs, learnt from the calibrate split of a benchmark.

    Args:
        calibrate: its runs.
        shipped_priors: take the installed priors, which know the tasks of the benchmark, instead of learning some from
            other tasks.
        columns: signals that runs are restricted to; None for all.
    """

    def __init__(
        self,
        calibrate: Sequence[Recorded],
        *,
        shipped_priors: bool = False,
        columns: Collection[str] | None = None,
    ) -> None:
        runs = calibrate if columns is None else [restrict_to(run, columns) for run in calibrate]
        self._healthy = healthy_by_stratum(runs)
        self._whole = healthy_by_stratum(calibrate)
        self._shipped_priors = shipped_priors
        self._columns = columns
        self._profiles: dict[tuple[Stratum, ReferenceMode, int], Profile] = {}
        self._references: dict[tuple[Stratum, ReferenceMode, int, tuple[str, ...]], Reference] = {}
        self._configured: dict[Entry, tuple[RunConfig, _Key]] = {}
        self._moved: dict[tuple[_Key, _Key], tuple[str, ...]] = {}

    def covers(self, entry: Entry, mode: ReferenceMode) -> bool:
        """Whether a run has a reference in a mode: a full profile needs `FULL_RUNS` healthy runs."""
        return mode is not ReferenceMode.PROFILE or len(self._of_stratum(entry)) >= FULL_RUNS

    def draws(self, entry: Entry, mode: ReferenceMode) -> int:
        """Number of different references of a run in a mode."""
        if mode is not ReferenceMode.THREE:
            return 1
        return min(DRAWS, math.comb(len(self._of_stratum(entry)), SMALL_RUNS))

    def reference(self, entry: Entry, mode: ReferenceMode, draw: int = 0) -> Reference:
        """What a run is compared with in a draw; draws beyond `draws` repeat the first ones.

        Raises:
            BenchError: when there are too few healthy runs of its kind.
        """
        draw %= max(1, self.draws(entry, mode))
        profile = None if mode is ReferenceMode.NONE else self._profile(entry, mode, draw)
        moved = () if profile is None else self._moved_in(entry, profile)
        key = stratum_of(entry), mode, draw, moved
        if key not in self._references:
            self._references[key] = reference_of(profile, self._priors_of(entry), moved)
        return self._references[key]

    def _moved_in(self, entry: Entry, profile: Profile) -> tuple[str, ...]:
        """Signals that a profile says nothing about in a run, because that has another configuration."""
        if entry not in self._configured:
            config = watched(entry)
            self._configured[entry] = config, _key_of(facts_of(config))
        config, ours = self._configured[entry]
        key = ours, _key_of(profile.facts or {})
        if key not in self._moved:
            self._moved[key] = compare(profile, config).moved
        return self._moved[key]

    def prepare(self, entries: Collection[Entry], mode: ReferenceMode) -> None:
        """Fit every reference of these runs in a mode, before worker processes are forked from this one."""
        for entry in entries:
            for draw in range(self.draws(entry, mode)):
                self.reference(entry, mode, draw)

    def _of_stratum(self, entry: Entry) -> list[Recorded]:
        return self._healthy.get(stratum_of(entry), [])

    def _profile(self, entry: Entry, mode: ReferenceMode, draw: int) -> Profile:
        stratum, healthy = stratum_of(entry), self._of_stratum(entry)
        key = stratum, mode, draw
        if key not in self._profiles:
            if len(healthy) < SMALL_RUNS:
                raise BenchError(
                    f"The calibrate split has {len(healthy)} healthy runs like {entry.name}, and a profile of three "
                    "needs three; generate more runs."
                )
            if mode is ReferenceMode.THREE:
                healthy = random.Random(f"{' '.join(stratum)} {draw}").sample(healthy, SMALL_RUNS)
            priors = self._priors_of(entry)
            self._profiles[key] = fit_profile(
                [series(run) for run in healthy], common_facts([facts_of(config_of(run.entry)) for run in healthy]),
                None if priors is None else priors.healthy,
            )  # fmt: skip
        return self._profiles[key]

    def _priors_of(self, entry: Entry) -> KindPriors | None:
        kind = _kind_of(entry.algorithm)
        priors = shipped(kind) if self._shipped_priors else self._priors.get((entry.task, kind))
        if priors is None or self._columns is None:
            return priors
        healthy = self._of_stratum(entry)
        measured = [name for name in NAMES if any(np.isfinite(run.signal(name)).any() for run in healthy)]
        return priors if has_enough_signals(priors, measured) else None

    @cached_property
    def _priors(self) -> Mapping[tuple[str, str], KindPriors]:
        """Priors from the other tasks, by task and kind of algorithm; learnt with all signals, as shipped ones are."""
        runs_by_kind: dict[tuple[str, str], list[list[RunSeries]]] = {}
        for (task, algorithm, *_), healthy in self._whole.items():
            runs_by_kind.setdefault((task, _kind_of(algorithm)), []).append([series(run) for run in healthy])
        priors: dict[tuple[str, str], KindPriors] = {}
        for task, kind in runs_by_kind:
            others = [
                some for key, group in runs_by_kind.items() if key[0] != task and key[1] == kind for some in group
            ]
            if sum(map(len, others)) >= FEWEST_RUNS:
                priors[task, kind] = learn_priors(others)
        return priors


def _kind_of(algorithm: str) -> str:
    return CRITIC if algorithm == "ppo" else NO_CRITIC


def _key_of(facts: Facts) -> _Key:
    return tuple(facts.items())


def common_facts(facts: Sequence[Facts]) -> Facts:
    """The facts of a profile of runs (one or more) whose own facts these are: those that all have, and where they
    differ all values."""
    first = facts[0]
    keys = [key for key in first if all(key in other for other in facts)]
    return {
        key: first[key]
        if all(other[key] == first[key] for other in facts)
        else merged(key, (other[key] for other in facts))
        for key in keys
    }


def restrict_to(run: Recorded, columns: Collection[str]) -> Recorded:
    """Restrict a run to some signals, as if no others were logged."""
    is_logged = np.array([name in columns for name in NAMES])
    return replace(run, values=np.where(is_logged, run.values, np.float32(np.nan)))
