"""Plans the runs of FaultBench, all drawn from one seed. Pure.

Runs of one seed form a group: a healthy run and its forks. All runs of a group belong to one split.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TypeVar

from rftfm_ray.faultbench.runs.calibrate import HARD_RANGE, WINDOW
from rftfm_ray.faults.calibration import LEVELS, Calibration, table
from rftfm_ray.faults.catalogue import RAMP_STEPS
from rftfm_ray.faults.controls import CONTROLS
from rftfm_ray.faults.kinds import CATALOGUE, FaultKind, Mechanism

FIRST_SEED = 10_000
Combination = tuple[str, str]
COMBINATIONS: tuple[Combination, ...] = tuple(itertools.product(("addition", "calculator"), ("grpo", "ppo")))
CALLING = ("calculator",)
STEPS = (30, 60)
# Forks leave the healthy run at its checkpoints, which fall on the steps of held-out probes.
CHECKPOINT_EVERY = 5
# Steps before the onset that give the baseline for what a policy learns to do.
COUNTED_BEFORE = 5
LEARNING_STEPS = 45
APART = 10
# Least share of runs in which a learnt fault must have its effect in time.
LEAST_REACHED = 0.25
# Faults that can be in every replica; half of their runs have them there.
REPLICATED = ("TE-1",)
Item = TypeVar("Item")


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
        level: `easy` or `hard`; empty without a fault.
        onset: first step with a fault or control; 0 without.
        fork: last step that it shares with the healthy run of its group; 0 for a run of its own.
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

    @property
    def code(self) -> str:
        """Code of its fault, the name of its control, or nothing."""
        faults = [text for text in self.inject if text.partition("@")[0] in CATALOGUE]
        return next(iter(faults or self.inject), "").partition("@")[0]


@dataclass(frozen=True, slots=True)
class Size:
    """Number of runs of each kind.

    Attributes:
        groups: healthy runs by size of the model, for every combination.
        long: healthy runs of `long_steps`.
        easy: runs of each fault.
        hard: runs of each fault.
        controls: runs with a benign control.
        declared: runs with a fault on top of a declared change.
        pairs: runs with two faults, half at once and half `APART` steps apart.
        steps: fewest and most steps of a run.
        long_steps: steps of the long ones.
        combinations: tasks and algorithms.
        codes: the faults.
    """

    groups: dict[str, int]
    long: int
    easy: int
    hard: int
    controls: int
    declared: int
    pairs: int
    steps: tuple[int, int] = (30, 60)
    long_steps: int = 500
    combinations: tuple[Combination, ...] = COMBINATIONS
    codes: tuple[str, ...] = tuple(CATALOGUE)


SIZES = {
    "full": Size({"tiny": 48, "small": 12}, long=16, easy=20, hard=28, controls=152, declared=32, pairs=60),
    "smoke": Size(
        {"tiny": 12}, long=0, easy=4, hard=0, controls=4, declared=0, pairs=0, steps=(12, 16),
        combinations=(("calculator", "grpo"),), codes=("RF-1", "PG-1", "OD-2", "CA-2", "TE-1"),
    ),
}  # fmt: skip
"""The benchmark, and one that takes minutes."""
_DEALT = (Split.CALIBRATE, Split.REPORT, Split.TUNE, Split.REPORT)


def entries_of(size: Size, seed: int = 1) -> tuple[Entry, ...]:
    """All runs of a benchmark, group by group; the same for the same arguments."""
    groups = _groups(size, seed)
    dealer = _Dealer(groups, random.Random(f"dealer-{seed}"), seed)
    entries = [*groups, *_long(size, len(groups)), *_controls(size, dealer), *_declared(size, dealer)]
    for code in size.codes:
        for level, count in zip(LEVELS, (size.easy, size.hard), strict=True):
            entries += _faults(size, dealer, code, level, count)
    entries += _pairs(size, dealer)
    return tuple(sorted(entries, key=lambda e: (e.seed, e.fork > 0 or bool(e.inject), e.name)))


def _groups(size: Size, seed: int) -> list[Entry]:
    """Healthy runs; every fourth of a combination calibrates, every fourth tunes, the others are reported."""
    rng, entries, number = random.Random(f"groups-{seed}"), list[Entry](), FIRST_SEED
    low, high = size.steps
    for model, (task, algorithm) in itertools.product(size.groups, size.combinations):
        count = size.groups[model]
        lengths = [low + round((high - low) * index / max(1, count - 1)) for index in range(count)]
        rng.shuffle(lengths)
        for index, steps in enumerate(lengths):
            split = _DEALT[index % len(_DEALT)]
            entries.append(Entry(f"healthy-{number}", Kind.HEALTHY, split, number, task, algorithm, model, steps))
            number += 1
    return entries


def _long(size: Size, first: int) -> Iterator[Entry]:
    for index in range(size.long):
        task, algorithm = size.combinations[index % len(size.combinations)]
        split, number = _DEALT[index // len(size.combinations) % len(_DEALT)], FIRST_SEED + first + index
        yield Entry(f"long-{number}", Kind.LONG, split, number, task, algorithm, "tiny", size.long_steps)


class _Dealer:
    """Deals runs to groups that can have them, evenly."""

    def __init__(self, groups: Sequence[Entry], rng: random.Random, bench: int) -> None:
        self._groups = groups
        self._rng = rng
        self._bench = bench
        self._load = {group.seed: 0 for group in groups}

    def group(self, split: Split, wanted: Sequence[Combination], least_steps: int = 0) -> Entry:
        """Take the group with the fewest runs in a wanted combination, drawn uniformly; one with at least `least_steps`
        where there is one."""
        candidates = [g for g in self._groups if g.split is split and (g.task, g.algorithm) in wanted]
        candidates = [g for g in candidates if g.steps >= least_steps] or candidates
        combination = self._rng.choice(sorted({(g.task, g.algorithm) for g in candidates}))
        fitting = [g for g in candidates if (g.task, g.algorithm) == combination]
        least = min(self._load[g.seed] for g in fitting)
        chosen = self._rng.choice([g for g in fitting if self._load[g.seed] == least])
        self._load[chosen.seed] += 1
        return chosen

    def mechanisms(self, code: str, level: str) -> list[Mechanism]:
        """Mechanisms of a fault that this bench draws at a level; later ones need a strength of that level."""
        known = {row.mechanism for row in table() if (row.code, row.level, row.dirty) == (code, level, False)}
        return [m for m in CATALOGUE[code].mechanisms if m.since == 1 or (m.since <= self._bench and m.name in known)]

    def between(self, low: float, high: float) -> int:
        """A step; the first one where there is none between."""
        first = max(1, round(low))
        return self._rng.randint(first, max(first, round(high)))


def _shares(count: int) -> list[Split]:
    return [_DEALT[index % len(_DEALT)] for index in range(count)]


def _combinations_for(size: Size, level: str, *faults: tuple[str, Mechanism]) -> list[Combination]:
    """Combinations that all of the faults can run in: those with confirmed strengths of the level, else those in which
    the faults are visible, else all."""
    possible = [
        (task, algorithm)
        for task, algorithm in size.combinations
        if all(algorithm in m.algorithms and (task in CALLING or not m.needs_tool) for _, m in faults)
    ]
    known = [
        combination
        for combination in possible
        if all(_is_like(_is_confirmed, combination, code, m, level) for code, m in faults)
    ]
    seen = [
        combination
        for combination in possible
        if all(_is_like(_is_seen, combination, code, m, level) for code, m in faults)
    ]
    return known or seen or possible


def _is_like(
    wanted: Callable[[Calibration], bool], combination: Combination, code: str, mechanism: Mechanism, level: str
) -> bool:
    """Whether the row that `calibrated` takes for a level in a combination is as wanted."""
    task, algorithm = combination
    key = task, code, mechanism.name, level, False
    rows = [row for row in table() if (row.task, row.code, row.mechanism, row.level, row.dirty) == key]
    own = [row for row in rows if row.algorithm == algorithm] or [row for row in rows if row.algorithm == "grpo"]
    return any(map(wanted, own or rows))


def _is_confirmed(row: Calibration) -> bool:
    return row.confirmed


def _is_seen(row: Calibration) -> bool:
    """Whether an effect comes often enough and is visible. Where entropy falls by itself, as on calculator, a
    fault that does nothing would also count as having an effect."""
    return row.d_fresh >= HARD_RANGE[0] and row.reached >= LEAST_REACHED


def _faults(size: Size, dealer: _Dealer, code: str, level: str, count: int) -> Iterator[Entry]:
    """Runs with one fault: a quarter from step 1, the others in the middle half of the run; three in five are
    persistent, one in five is a ramp, one in five is transient."""
    kind = CATALOGUE[code]
    rng = random.Random(f"{code}-{level}")
    possible = [m for m in dealer.mechanisms(code, level) if _combinations_for(size, level, (code, m))]
    first = _shuffled(rng, count, [True, False, False, False])
    durations = _shuffled(rng, count, ["", "", "", ",duration=ramp", ",duration=transient"])
    for index, split in enumerate(_shares(count)):
        # Mechanisms take turns within each split: every fourth entry is of another one.
        mechanism = possible[(index // len(_DEALT) + index) % len(possible)]
        duration = durations[index]
        if mechanism.learned and duration == ",duration=transient":
            # A learnt behaviour is not forgotten in ten steps, so a transient fault would never have its effect.
            duration = ""
        group = dealer.group(
            split, _combinations_for(size, level, (code, mechanism)), LEARNING_STEPS if mechanism.learned else 0
        )
        # A learnt fault needs the rest of the run to take effect.
        low, high = (0.12, 0.3) if mechanism.learned else (0.25, 0.75)
        # A ramp is at full strength for at least the window that it was calibrated with.
        latest = group.steps - RAMP_STEPS - WINDOW if "ramp" in duration else group.steps
        onset = 1 if first[index] else dealer.between(low * group.steps, min(high * group.steps, latest))
        text = _text(kind, mechanism, onset, level, rng) + duration
        yield _fork(group, f"{code}-{level}-{index}", Kind.FAULT, (text,), level, onset, mechanism)


def _text(kind: FaultKind, mechanism: Mechanism, onset: int, level: str, rng: random.Random) -> str:
    replicas = ",instances=all" if kind.code in REPLICATED and rng.random() < 0.5 else ""
    return f"{kind.code}@{onset}:{level},mechanism={mechanism.name}{replicas}"


def _shuffled(rng: random.Random, count: int, pattern: Sequence[Item]) -> list[Item]:
    items = [pattern[index % len(pattern)] for index in range(count)]
    rng.shuffle(items)
    return items


def _fork(
    group: Entry, name: str, kind: Kind, inject: tuple[str, ...], level: str, onset: int, mechanism: Mechanism | None
) -> Entry:
    before = COUNTED_BEFORE if mechanism is not None and mechanism.learned else 0
    fork = max(0, (onset - 1 - before) // CHECKPOINT_EVERY * CHECKPOINT_EVERY)
    return replace(group, name=name, kind=kind, inject=inject, level=level, onset=onset, fork=fork)


def _controls(size: Size, dealer: _Dealer) -> Iterator[Entry]:
    calling = any(task in CALLING for task, _ in size.combinations)
    names = [name for name, control in CONTROLS.items() if calling or not control.needs_tool]
    for index in range(size.controls):
        control = CONTROLS[names[index % len(names)]]
        split = _DEALT[(index // len(names) + index) % len(_DEALT)]
        group = dealer.group(split, [c for c in size.combinations if c[0] in CALLING or not control.needs_tool])
        onset = dealer.between(0.25 * group.steps, 0.75 * group.steps)
        yield _fork(group, f"{control.name}-{index}", Kind.CONTROL, (f"{control.name}@{onset}",), "", onset, None)


def _at_once(dealer: _Dealer, code: str) -> list[Mechanism]:
    """Mechanisms of a fault that act by themselves."""
    return [mechanism for mechanism in dealer.mechanisms(code, "easy") if not mechanism.learned]


def _declared(size: Size, dealer: _Dealer) -> Iterator[Entry]:
    """Easy faults on top of a declared change."""
    changes = [name for name, control in CONTROLS.items() if control.declared]
    codes = [code for code in size.codes if _at_once(dealer, code)]
    for index, split in enumerate(_shares(size.declared)):
        kind = CATALOGUE[codes[index % len(codes)]]
        mechanism = _at_once(dealer, kind.code)[index // len(codes) % len(_at_once(dealer, kind.code))]
        group = dealer.group(split, _combinations_for(size, "easy", (kind.code, mechanism)))
        change, onset = group.steps // 4, dealer.between(0.4 * group.steps, 0.75 * group.steps)
        inject = f"{changes[index % len(changes)]}@{change}", f"{kind.code}@{onset}:easy,mechanism={mechanism.name}"
        entry = _fork(group, f"declared-{index}", Kind.DECLARED_FAULT, inject, "easy", change, mechanism)
        yield replace(entry, onset=onset)


def _pairs(size: Size, dealer: _Dealer) -> Iterator[Entry]:
    """Two easy faults of different families in one run."""
    rng = random.Random("pairs")
    codes = [code for code in size.codes if _at_once(dealer, code)]
    for index, split in enumerate(_shares(size.pairs)):
        while True:
            one, other = rng.sample(codes, 2)
            first, second = rng.choice(_at_once(dealer, one)), rng.choice(_at_once(dealer, other))
            combinations = _combinations_for(size, "easy", (one, first), (other, second))
            if CATALOGUE[one].family != CATALOGUE[other].family and combinations:
                break
        group = dealer.group(split, combinations)
        onset = dealer.between(0.25 * group.steps, 0.6 * group.steps)
        later = onset + APART * ((index // len(_DEALT) + index) % 2)
        inject = f"{one}@{onset}:easy,mechanism={first.name}", f"{other}@{later}:easy,mechanism={second.name}"
        yield _fork(group, f"pair-{index}", Kind.TWO_FAULTS, inject, "easy", onset, None)


def duration_of(entry: Entry) -> str:
    """Duration of a fault: persistent, ramp or transient."""
    return next((name for name in ("ramp", "transient") if f"duration={name}" in entry.inject[-1]), "persistent")


def mechanism_of(entry: Entry) -> str:
    """Mechanism of an entry's fault."""
    return entry.inject[-1].partition("mechanism=")[2].partition(",")[0]


def is_without_fault(entry: Entry) -> bool:
    """Whether a run has no fault: a healthy one, or one with a benign control."""
    return entry.kind in (Kind.HEALTHY, Kind.LONG, Kind.CONTROL)
