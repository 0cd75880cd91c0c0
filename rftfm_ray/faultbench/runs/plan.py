"""What FaultBench is made of: every run of it, drawn from one seed. Pure.

Runs of one seed stand in a group: a healthy run and forks of it. A group belongs to one split, with all its runs.
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
Cell = tuple[str, str]
CELLS: tuple[Cell, ...] = tuple(itertools.product(("addition", "calculator"), ("grpo", "ppo")))
CALLING = ("calculator",)
STEPS = (30, 60)
# Forks leave the healthy run at its checkpoints, which fall on the steps of held-out probes.
CHECKPOINT_EVERY = 5
# Where what a policy is paid for is counted, so many steps before the onset say what it did before.
COUNTED_BEFORE = 5
LEARNING_STEPS = 45
APART = 10
# Share of runs in which what has to be learnt must have its effect in time.
LEAST_REACHED = 0.25
# Half of the faults that can sit in every replica do.
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
    """How many runs of what.

    Attributes:
        groups: healthy runs by size of the model, for every cell.
        long: healthy runs of `long_steps`.
        easy: runs of each fault.
        hard: runs of each fault.
        controls: runs with a benign control.
        declared: runs with a fault on top of a declared change.
        pairs: runs with two faults, half at once and half `APART` steps apart.
        steps: fewest and most steps of a run.
        long_steps: steps of the long ones.
        cells: tasks and algorithms.
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
    cells: tuple[Cell, ...] = CELLS
    codes: tuple[str, ...] = tuple(CATALOGUE)


SIZES = {
    "full": Size({"tiny": 48, "small": 12}, long=16, easy=20, hard=28, controls=152, declared=32, pairs=60),
    "smoke": Size(
        {"tiny": 12}, long=0, easy=4, hard=0, controls=4, declared=0, pairs=0, steps=(12, 16),
        cells=(("calculator", "grpo"),), codes=("RF-1", "PG-1", "OD-2", "CA-2", "TE-1"),
    ),
}  # fmt: skip
"""The benchmark, and one that takes minutes."""
_DEALT = (Split.CALIBRATE, Split.REPORT, Split.TUNE, Split.REPORT)


def entries_of(size: Size, seed: int = 1) -> tuple[Entry, ...]:
    """All runs of a benchmark, group by group; the same for the same arguments."""
    groups = _groups(size, seed)
    dealer = _Dealer(groups, random.Random(f"dealer-{seed}"))
    entries = [*groups, *_long(size, len(groups)), *_controls(size, dealer), *_declared(size, dealer)]
    for code in size.codes:
        for level, count in zip(LEVELS, (size.easy, size.hard), strict=True):
            entries += _faults(size, dealer, code, level, count)
    entries += _pairs(size, dealer)
    return tuple(sorted(entries, key=lambda e: (e.seed, e.fork > 0 or bool(e.inject), e.name)))


def _groups(size: Size, seed: int) -> list[Entry]:
    """Healthy runs; every fourth of a cell calibrates, every fourth tunes, the others are reported."""
    rng, found, number = random.Random(f"groups-{seed}"), list[Entry](), FIRST_SEED
    low, high = size.steps
    for model, (task, algorithm) in itertools.product(size.groups, size.cells):
        count = size.groups[model]
        lengths = [low + round((high - low) * place / max(1, count - 1)) for place in range(count)]
        rng.shuffle(lengths)
        for place, steps in enumerate(lengths):
            split = _DEALT[place % len(_DEALT)]
            found.append(Entry(f"healthy-{number}", Kind.HEALTHY, split, number, task, algorithm, model, steps))
            number += 1
    return found


def _long(size: Size, first: int) -> Iterator[Entry]:
    for place in range(size.long):
        task, algorithm = size.cells[place % len(size.cells)]
        split, number = _DEALT[place // len(size.cells) % len(_DEALT)], FIRST_SEED + first + place
        yield Entry(f"long-{number}", Kind.LONG, split, number, task, algorithm, "tiny", size.long_steps)


class _Dealer:
    """Deals runs to groups that can have them, evenly."""

    def __init__(self, groups: Sequence[Entry], rng: random.Random) -> None:
        self._groups = groups
        self._rng = rng
        self._load = {group.seed: 0 for group in groups}

    def group(self, split: Split, wanted: Sequence[Cell], least_steps: int = 0) -> Entry:
        """The group with the fewest runs in one of the wanted cells, each of which is as likely; one of at least so
        many steps where there is one."""
        there = [g for g in self._groups if g.split is split and (g.task, g.algorithm) in wanted]
        there = [g for g in there if g.steps >= least_steps] or there
        cell = self._rng.choice(sorted({(g.task, g.algorithm) for g in there}))
        fitting = [g for g in there if (g.task, g.algorithm) == cell]
        least = min(self._load[g.seed] for g in fitting)
        chosen = self._rng.choice([g for g in fitting if self._load[g.seed] == least])
        self._load[chosen.seed] += 1
        return chosen

    def between(self, low: float, high: float) -> int:
        """A step; the first one where there is none between."""
        first = max(1, round(low))
        return self._rng.randint(first, max(first, round(high)))


def _shares(count: int) -> list[Split]:
    return [_DEALT[place % len(_DEALT)] for place in range(count)]


def _cells(size: Size, level: str, *faults: tuple[str, Mechanism]) -> list[Cell]:
    """Where all of the faults can be: at strengths that are known to be of the level, where there is such a place; else
    where they are seen at all, where there is one."""
    possible = [
        (task, algorithm)
        for task, algorithm in size.cells
        if all(algorithm in m.algorithms and (task in CALLING or not m.needs_tool) for _, m in faults)
    ]
    known = [cell for cell in possible if all(_is_like(_is_confirmed, cell, code, m, level) for code, m in faults)]
    seen = [cell for cell in possible if all(_is_like(_is_seen, cell, code, m, level) for code, m in faults)]
    return known or seen or possible


def _is_like(wanted: Callable[[Calibration], bool], cell: Cell, code: str, mechanism: Mechanism, level: str) -> bool:
    """Whether a level is as wanted where it is to be used, by the row that `calibrated` takes."""
    task, algorithm = cell
    rows = [r for r in table() if (r.task, r.code, r.mechanism, r.level) == (task, code, mechanism.name, level)]
    own = [row for row in rows if row.algorithm == algorithm] or [row for row in rows if row.algorithm == "grpo"]
    return any(map(wanted, own or rows))


def _is_confirmed(row: Calibration) -> bool:
    return row.confirmed


def _is_seen(row: Calibration) -> bool:
    """Whether an effect comes often enough, and shows when it does. An entropy that falls by itself, as on calculator,
    has what counts as the effect of a fault that does nothing."""
    return row.d_fresh >= HARD_RANGE[0] and row.reached >= LEAST_REACHED


def _faults(size: Size, dealer: _Dealer, code: str, level: str, count: int) -> Iterator[Entry]:
    """Runs with one fault: a quarter from step 1, the others in the middle half of the run; three in five stay, one in
    five grows, one in five goes."""
    kind = CATALOGUE[code]
    rng = random.Random(f"{code}-{level}")
    possible = [m for m in kind.mechanisms if _cells(size, level, (code, m))]
    first = _shuffled(rng, count, [True, False, False, False])
    courses = _shuffled(rng, count, ["", "", "", ",duration=ramp", ",duration=transient"])
    for place, split in enumerate(_shares(count)):
        # Mechanisms take turns within each split: every fourth entry is of another one.
        mechanism = possible[(place // len(_DEALT) + place) % len(possible)]
        course = courses[place]
        if mechanism.learned and course == ",duration=transient":
            # What has been learnt is not forgotten in ten steps: it would be a fault that never was.
            course = ""
        group = dealer.group(split, _cells(size, level, (code, mechanism)), LEARNING_STEPS if mechanism.learned else 0)
        # What has to be learnt first needs the rest of the run for it.
        low, high = (0.12, 0.3) if mechanism.learned else (0.25, 0.75)
        # What grows is at its full strength for at least as long as the window that it was calibrated by.
        latest = group.steps - RAMP_STEPS - WINDOW if "ramp" in course else group.steps
        onset = 1 if first[place] else dealer.between(low * group.steps, min(high * group.steps, latest))
        text = _text(kind, mechanism, onset, level, rng) + course
        yield _fork(group, f"{code}-{level}-{place}", Kind.FAULT, (text,), level, onset, mechanism)


def _text(kind: FaultKind, mechanism: Mechanism, onset: int, level: str, rng: random.Random) -> str:
    replicas = ",instances=all" if kind.code in REPLICATED and rng.random() < 0.5 else ""
    return f"{kind.code}@{onset}:{level},mechanism={mechanism.name}{replicas}"


def _shuffled(rng: random.Random, count: int, pattern: Sequence[Item]) -> list[Item]:
    found = [pattern[place % len(pattern)] for place in range(count)]
    rng.shuffle(found)
    return found


def _fork(
    group: Entry, name: str, kind: Kind, inject: tuple[str, ...], level: str, onset: int, mechanism: Mechanism | None
) -> Entry:
    before = COUNTED_BEFORE if mechanism is not None and mechanism.learned else 0
    fork = max(0, (onset - 1 - before) // CHECKPOINT_EVERY * CHECKPOINT_EVERY)
    return replace(group, name=name, kind=kind, inject=inject, level=level, onset=onset, fork=fork)


def _controls(size: Size, dealer: _Dealer) -> Iterator[Entry]:
    calling = any(task in CALLING for task, _ in size.cells)
    names = [name for name, control in CONTROLS.items() if calling or not control.needs_tool]
    for place in range(size.controls):
        control = CONTROLS[names[place % len(names)]]
        split = _DEALT[(place // len(names) + place) % len(_DEALT)]
        group = dealer.group(split, [c for c in size.cells if c[0] in CALLING or not control.needs_tool])
        onset = dealer.between(0.25 * group.steps, 0.75 * group.steps)
        yield _fork(group, f"{control.name}-{place}", Kind.CONTROL, (f"{control.name}@{onset}",), "", onset, None)


def _at_once(code: str) -> list[Mechanism]:
    """Mechanisms of a fault that act by themselves."""
    return [mechanism for mechanism in CATALOGUE[code].mechanisms if not mechanism.learned]


def _declared(size: Size, dealer: _Dealer) -> Iterator[Entry]:
    """Easy faults on top of a declared change."""
    changes = [name for name, control in CONTROLS.items() if control.declared]
    codes = [code for code in size.codes if _at_once(code)]
    for place, split in enumerate(_shares(size.declared)):
        kind = CATALOGUE[codes[place % len(codes)]]
        mechanism = _at_once(kind.code)[place // len(codes) % len(_at_once(kind.code))]
        group = dealer.group(split, _cells(size, "easy", (kind.code, mechanism)))
        change, onset = group.steps // 4, dealer.between(0.4 * group.steps, 0.75 * group.steps)
        inject = f"{changes[place % len(changes)]}@{change}", f"{kind.code}@{onset}:easy,mechanism={mechanism.name}"
        entry = _fork(group, f"declared-{place}", Kind.DECLARED_FAULT, inject, "easy", change, mechanism)
        yield replace(entry, onset=onset)


def _pairs(size: Size, dealer: _Dealer) -> Iterator[Entry]:
    """Two easy faults of different families in one run."""
    rng = random.Random("pairs")
    codes = [code for code in size.codes if _at_once(code)]
    for place, split in enumerate(_shares(size.pairs)):
        while True:
            one, other = rng.sample(codes, 2)
            first, second = rng.choice(_at_once(one)), rng.choice(_at_once(other))
            cells = _cells(size, "easy", (one, first), (other, second))
            if CATALOGUE[one].family != CATALOGUE[other].family and cells:
                break
        group = dealer.group(split, cells)
        onset = dealer.between(0.25 * group.steps, 0.6 * group.steps)
        later = onset + APART * ((place // len(_DEALT) + place) % 2)
        inject = f"{one}@{onset}:easy,mechanism={first.name}", f"{other}@{later}:easy,mechanism={second.name}"
        yield _fork(group, f"pair-{place}", Kind.TWO_FAULTS, inject, "easy", onset, None)


def duration_of(entry: Entry) -> str:
    """How a fault goes on: persistent, ramp or transient."""
    return next((name for name in ("ramp", "transient") if f"duration={name}" in entry.inject[-1]), "persistent")


def mechanism_of(entry: Entry) -> str:
    """Mechanism of an entry's fault."""
    return entry.inject[-1].partition("mechanism=")[2].partition(",")[0]


def is_without_fault(entry: Entry) -> bool:
    """Whether nothing is wrong in a run: a healthy one, or one with a benign control."""
    return entry.kind in (Kind.HEALTHY, Kind.LONG, Kind.CONTROL)
