"""What a benchmark is made of: its runs, each with its kind, split, background, and faults or controls. Pure.

Runs of one seed form a group: a healthy run and its forks. All runs of a group belong to one split and have the same
background.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from enum import StrEnum

from rftfm_ray.faults.kinds import CATALOGUE

Combination = tuple[str, str]
COMBINATIONS: tuple[Combination, ...] = tuple(itertools.product(("addition", "calculator"), ("grpo", "ppo")))
BACKGROUNDS = ("clean", "dirty")
"""Names of runs without the background and with it, in the order of pages."""
# Forks leave the healthy run at its checkpoints, which fall on the steps of held-out probes.
CHECKPOINT_EVERY = 5


class Split(StrEnum):
    """What a run is for: to know what is healthy, to set thresholds, or to be reported."""

    CALIBRATE = "calibrate"
    TUNE = "tune"
    REPORT = "report"


class Kind(StrEnum):
    """What a run is."""

    HEALTHY = "healthy"
    LONG = "long"
    CONTROL = "twin"  # As it stands in the committed plans of the benchmark.
    FAULT = "fault"
    DECLARED_FAULT = "declared_fault"
    TWO_FAULTS = "two_faults"


@dataclass(frozen=True, slots=True)
class Entry:
    """One run.

    Attributes:
        name: its name, unique in the benchmark.
        kind: what it is.
        split: of its seed.
        seed: of the run, shared by all runs of its group.
        task: name of the task.
        algorithm: name of the algorithm.
        size: of the shipped model.
        steps: of the run.
        inject: faults and controls, as `rftfm train --inject` takes them.
        level: one of `NAMED_LEVELS`; empty without a fault.
        onset: first step with a fault or control; 0 without.
        fork: last step that it shares with the healthy run of its group; 0 for a run of its own.
        dirty: whether its seed has the background.
        overrides: `key=value` of a healthy run that is not configured as the others.
        below: whether its fault lies below the background: healthy runs with the same background hide it.
    """

    name: str
    kind: Kind
    split: Split
    seed: int
    task: str
    algorithm: str
    size: str
    steps: int
    inject: tuple[str, ...] = ()
    level: str = ""
    onset: int = 0
    fork: int = 0
    dirty: bool = False
    overrides: tuple[str, ...] = ()
    below: bool = False

    @property
    def background(self) -> str:
        """Name of its background, one of `BACKGROUNDS`."""
        return BACKGROUNDS[self.dirty]

    @property
    def codes(self) -> tuple[str, ...]:
        """Codes of its faults."""
        codes = (text.partition("@")[0] for text in self.inject)
        return tuple(code for code in codes if code in CATALOGUE)

    @property
    def code(self) -> str:
        """Code of its fault, the name of its control, or nothing."""
        faults = [text for text in self.inject if text.partition("@")[0] in CATALOGUE]
        return next(iter(faults or self.inject), "").partition("@")[0]


def duration_of(entry: Entry) -> str:
    """Duration of a fault: persistent, ramp or transient."""
    return next((name for name in ("ramp", "transient") if f"duration={name}" in entry.inject[-1]), "persistent")


def mechanism_of(entry: Entry) -> str:
    """Mechanism of an entry's fault."""
    return entry.inject[-1].partition("mechanism=")[2].partition(",")[0]


def is_without_fault(entry: Entry) -> bool:
    """Whether a run has no fault: a healthy one, or one with a benign control."""
    return entry.kind in (Kind.HEALTHY, Kind.LONG, Kind.CONTROL)
