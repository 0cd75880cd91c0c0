"""Searches the strengths of faults that are called easy and hard, by how far they shift a signal.

`d` is the mean over seeds of (faulty - healthy run of the same seed) of the signal that was named in advance, over the
five steps from the effect's onset on and in the direction in which it moves, over the standard deviation of that signal
between healthy runs at the same steps, which counts as no less than one event in the batch for rates, and 1e-3
otherwise. `LOGARITHMIC` signals are taken as natural logarithms.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rftfm_ray.config import RunConfig
from rftfm_ray.faultbench.runs.runner import ExperimentRunner, HowToRun, RunHistory, quick
from rftfm_ray.faults.kinds import CATALOGUE, Mechanism, Strength
from rftfm_ray.signals.dictionary import DICTIONARY, Scale

WINDOW = 5
# Accepted range of d, and the value that a search aims at.
EASY_LEAST, EASY_AIM = 4.0, 5.5
HARD_RANGE, HARD_AIM = (1.0, 2.0), 1.45
LEAST_SPREAD = 1e-3
LEARNER_FAMILIES = ("OD", "CA")
# Mechanisms of these families that act before the learner, or in both in the same way.
IN_SAMPLER = ("cold_sampler", "colder")


@dataclass(frozen=True, slots=True)
class CalibrationCase:
    """A case that gets its own strength: a mechanism of a fault, on a task, with an algorithm, clean or dirty.

    A `dirty` one is measured in runs with the background of the benchmark, against healthy runs with the same.
    """

    task: str
    algorithm: str
    code: str
    mechanism: str
    dirty: bool = False

    @property
    def kind(self) -> Mechanism:
        """The mechanism."""
        return CATALOGUE[self.code].mechanism(self.mechanism)


def list_cases(
    tasks: Sequence[str], tools: Sequence[str], *, learned: bool = False, dirty: bool = False
) -> Iterator[CalibrationCase]:
    """List all cases whose mechanism works through learning, or all others; `tools` are the tasks with a tool.

    A mechanism that acts before the learner does not depend on the algorithm and is measured with grpo. A mechanism
    that acts in the learner is measured with grpo and ppo.
    """
    for algorithm in ("grpo", "ppo"):
        for task in tasks:
            for kind in CATALOGUE.values():
                for mechanism in kind.mechanisms:
                    here = algorithm in mechanism.algorithms and (task in tools or not mechanism.needs_tool)
                    twice = kind.family in LEARNER_FAMILIES and mechanism.name not in IN_SAMPLER
                    if here and (algorithm == "grpo" or twice) and bool(mechanism.learned) is learned:
                        yield CalibrationCase(task, algorithm, kind.code, mechanism.name, dirty)


@dataclass(frozen=True, slots=True)
class Healthy:
    """Histories of healthy runs by seed, and the spread of their signals."""

    histories: dict[int, RunHistory]

    def spread(self, signal: str, batch: int, steps: NDArray[np.int64]) -> float:
        """Standard deviation of a signal between runs, over `steps` (from 0), root mean square; never below its
        floor."""
        values = np.array([history.signal(signal)[steps] for history in self.histories.values()])
        scale = math.sqrt(float(np.nanmean(np.nanvar(values, axis=0, ddof=1))))
        floor = 1 / batch if DICTIONARY[signal].scale is Scale.RATE else LEAST_SPREAD
        return max(scale, floor)


class Bench:
    """Measures cases on forks of healthy runs: `onset` is the first step after the fork.

    Args:
        runner: makes the runs.
        configure: the configuration of a run, by case and seed; it has the background of the case.
        onset: of the faults.
        seeds: of all runs.
        horizon: last step of runs that wait for an effect.
    """

    def __init__(
        self,
        runner: ExperimentRunner,
        configure: Callable[[CalibrationCase, int], RunConfig],
        onset: int,
        seeds: Sequence[int],
        horizon: int,
    ) -> None:
        self._runner = runner
        self._configure = configure
        self._onset = onset
        self._seeds = seeds
        self._horizon = horizon
        self._healthy: dict[tuple[str, str, bool, bool], Healthy] = {}
        self._ends: dict[tuple[str, str, bool, int], float] = {}

    def _config(self, case: CalibrationCase, seed: int) -> RunConfig:
        last = self._horizon if case.kind.learned else self._onset + WINDOW - 1
        return quick(self._configure(case, seed), max_paid_steps=last)

    def _run(self, case: CalibrationCase, seed: int, inject: Sequence[str] = ()) -> RunHistory:
        config = self._config(case, seed)
        # Steps after the window are not used.
        follow = WINDOW if inject and case.kind.learned else None
        return self._runner.run(config, inject, self._runner.trunk(config, self._onset - 1), HowToRun(follow))

    def healthy(self, case: CalibrationCase) -> Healthy:
        """Healthy runs of all seeds from the fork on, as long as the runs of a case."""
        key = case.task, case.algorithm, case.dirty, bool(case.kind.learned)
        if key not in self._healthy:
            self._healthy = {key: Healthy({seed: self._run(case, seed) for seed in self._seeds})}
        return self._healthy[key]

    def shifts(self, case: CalibrationCase, strength: float, seeds: Sequence[int]) -> list[float]:
        """By seed, how far the signal has moved, in standard deviations between healthy runs; NaN where the effect
        has not come in time."""
        healthy, mechanism, shifts = self.healthy(case), case.kind, list[float]()
        for seed in seeds:
            text = f"{case.code}@{self._onset}:{strength!r},mechanism={case.mechanism}"
            history = self._run(case, seed, (text,))
            (effect,) = history.effects
            window = np.arange(WINDOW) + (len(history.rows) if effect is None else effect - self._onset)
            if window[-1] >= len(history.rows):
                shifts.append(math.nan)
                continue
            # A run that waited for its effect ends with its window.
            usual = healthy.histories[seed].signal(mechanism.signal)[: len(history.rows)]
            apart = history.signal(mechanism.signal) - usual
            spread = healthy.spread(mechanism.signal, self._batch(case, seed), window)
            shifts.append(mechanism.direction * float(np.nanmean(apart[window])) / spread)
        return shifts

    def _batch(self, case: CalibrationCase, seed: int) -> int:
        algorithm = self._config(case, seed).algorithm
        return algorithm.prompts_per_step * algorithm.samples_per_prompt

    def loss(self, case: CalibrationCase, strength: float, seeds: Sequence[int], steps: int) -> list[float]:
        """By seed, the loss of final held-out accuracy that a fault causes in a run of `steps` without a guard.

        A run that an error ends has lost all of it.
        """
        losses = []
        for seed in seeds:
            tree = {"every": 0, "final_size": 1024, "sampled_share": 0.0}
            config = quick(self._configure(case, seed), max_paid_steps=steps, probe=tree)
            fork = self._runner.trunk(config, self._onset - 1)
            key = case.task, case.algorithm, case.dirty, seed
            if key not in self._ends:
                self._ends[key] = self._runner.run(config, (), fork).accuracy
            text = f"{case.code}@{self._onset}:{strength!r},mechanism={case.mechanism}"
            ended = self._runner.run(config, (text,), fork, HowToRun(may_fail=True))
            losses.append(self._ends[key] - (0.0 if ended.error else ended.accuracy))
        return losses


@dataclass(frozen=True, slots=True)
class Aim:
    """What a search aims at, and the range that it accepts."""

    value: float
    low: float
    high: float


def search(
    measure: Callable[[float], float],
    bounds: Strength,
    aim: Aim,
    tries: int = 6,
    known: Sequence[tuple[float, float]] = (),
) -> float:
    """A strength at which `measure` gives what is aimed at: a secant in the logarithms of strength and shift.

    The strength is rounded to three digits. Where the bounds end before, it is the nearest one. `known` are strengths
    that have been measured before, with what they gave; without any the search begins at the default strength.
    """

    def rounded(distance: float) -> float:
        strength = float(f"{bounds.neutral + distance:.3g}")
        return min(max(strength, bounds.low, bounds.neutral * 1.01), bounds.high)

    low = bounds.low - bounds.neutral or 0.001
    high, distance = bounds.high - bounds.neutral, bounds.default - bounds.neutral
    tried = list(known)
    if any(shift for _, shift in tried):
        distance = min(max(_next(tried, bounds.neutral, aim.value), low), high)
    for _ in range(tries):
        strength = rounded(distance)
        if any(strength == old for old, _ in tried):
            break
        shift = measure(strength)
        tried.append((strength, shift))
        if aim.low <= shift <= aim.high:
            break
        distance = min(max(_next(tried, bounds.neutral, aim.value), low), high)
    # Nearest by ratio: half of the aim is as far away as twice the aim.
    return min(tried, key=lambda pair: abs(math.log(max(pair[1], 1e-3) / aim.value)))[0]


def _next(tried: Sequence[tuple[float, float]], neutral: float, aim: float) -> float:
    """Next distance from neutral: between the two points around the aim, or beyond the nearest point."""
    below = max((p for p in tried if p[1] < aim), default=None, key=lambda p: p[1])
    above = min((p for p in tried if p[1] >= aim), default=None, key=lambda p: p[1])
    if below is None or above is None:
        strength, shift = below or above or tried[-1]
        step = math.log(aim / max(shift, 0.05))
        return (strength - neutral) * math.exp(max(-2.5, min(2.5, step)))
    x = [math.log(max(s - neutral, 1e-6)) for s, _ in (below, above)]
    y = [math.log(max(d, 0.05)) for _, d in (below, above)]
    share = (math.log(aim) - y[0]) / (y[1] - y[0]) if y[1] > y[0] else 0.5
    return math.exp(x[0] + (x[1] - x[0]) * min(0.9, max(0.1, share)))


def in_range(level: str, d: float) -> bool:
    """Whether a shift is that of a level."""
    return d >= EASY_LEAST if level == "easy" else HARD_RANGE[0] <= d <= HARD_RANGE[1]
