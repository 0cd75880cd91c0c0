"""Recorded runs made once more: whether they have the same rows, and what the detector makes of both."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import ray

from rftfm_ray.driver.cluster import connect
from rftfm_ray.faultbench.detectors.ours import BankScorer
from rftfm_ray.faultbench.detectors.strata import levels
from rftfm_ray.faultbench.runs.dataset import TIMES, Recorded, read_bench
from rftfm_ray.faultbench.runs.generate import config_of, outcome_of, rows_of
from rftfm_ray.faultbench.runs.plan import Split
from rftfm_ray.faultbench.runs.runner import Lab
from rftfm_ray.faultbench.scoring.frozen import FROZEN, read_frozen, split_of
from rftfm_ray.faultbench.scoring.judging import alarms_of
from rftfm_ray.signals.schema import SIGNALS

# Of a signal's floor: what rounding can do and no event does.
ROUNDING = 0.5


@dataclass(frozen=True, slots=True)
class Again:
    """A run that was made once more.

    Attributes:
        name: of the run.
        differs: the first thing of its rows or effects that differs by more than rounding; empty where nothing does.
        apart: the largest difference, in floors of the signals; 0 where all is the same bit for bit.
        alarms: steps of the alarms of the recorded run and of the new one, None before thresholds have been set.
    """

    name: str
    differs: str
    apart: float
    alarms: tuple[tuple[int, ...], tuple[int, ...]] | None

    @property
    def is_same(self) -> bool:
        """Whether rows and alarms are the same."""
        return not self.differs and (self.alarms is None or self.alarms[0] == self.alarms[1])


def verify(folder: Path, sample: int, draw: int) -> Iterator[Again]:
    """Make `sample` recorded runs once more, whole, on actors of their own.

    Raises:
        BenchError: when there is no complete benchmark, or its thresholds are damaged.
    """
    recorded = read_bench(folder)
    drawn = random.Random(draw).sample(recorded, min(sample, len(recorded)))
    watching = Watching(folder, recorded) if (folder / FROZEN).exists() else None
    ours = connect(config_of(drawn[0].entry))
    try:
        for run in drawn:
            with Lab() as lab:
                course = lab.run(config_of(run.entry), run.entry.inject, may_fail=True)
            again = Recorded(run.entry, outcome_of(course), rows_of(course))
            differs, apart = difference(run, again)
            if not differs and again.outcome != run.outcome:
                differs = "the steps of its effects"
            both = None if watching is None else (watching.alarms(run), watching.alarms(again))
            yield Again(run.entry.name, differs, apart, both)
    finally:
        if ours:
            ray.shutdown()


class Watching:
    """Our detector with the frozen threshold of a benchmark.

    Args:
        folder: of the benchmark.
        recorded: its runs.

    Raises:
        BenchError: when thresholds are missing or damaged.
    """

    def __init__(self, folder: Path, recorded: list[Recorded]) -> None:
        self._scorer = BankScorer()
        self._threshold = read_frozen(folder)[0].thresholds[self._scorer.name]
        self._scorer.fit(split_of(recorded, Split.CALIBRATE))

    def alarms(self, run: Recorded) -> tuple[int, ...]:
        """Steps at which it raises an alarm in a run."""
        return tuple(alarm.raised for alarm in alarms_of(self._scorer.scores(run), self._threshold))


def difference(one: Recorded, other: Recorded) -> tuple[str, float]:
    """What a seed determines, in two runs: the first thing that differs, empty where nothing does, and how far they are
    apart at most, in floors of the signals.

    A processor of another kind adds in another order. As long as no token is drawn otherwise for it, all that differs
    is the last digits: less than `ROUNDING` of the smallest change that ever counts.
    """
    if len(one) != len(other):
        return f"its steps, {len(one)} and {len(other)}", math.inf
    signals = [signal for signal in SIGNALS if signal.name not in TIMES]
    names, floors = [signal.name for signal in signals], np.array([signal.floor for signal in signals])
    here, there = levels(one, names), levels(other, names)
    apart = np.nan_to_num(np.abs(here - there), nan=0.0) / floors
    # What is no number must be the same kind of none.
    raw = [np.stack([run.signal(name) for name in names], axis=1) for run in (one, other)]
    alike = (np.isnan(raw[0]) == np.isnan(raw[1])) & (np.isfinite(raw[0]) == np.isfinite(raw[1]))
    apart[~alike] = np.inf
    wrong = np.argwhere(apart > ROUNDING)
    if len(wrong):
        step, place = wrong[0].tolist()
        return f"{names[place]} from step {step + 1} on", float(apart.max())
    return "", float(apart.max(initial=0.0))
