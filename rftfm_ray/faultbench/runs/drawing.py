"""Draws the runs of a benchmark from one seed: healthy runs first, then those with a fault or control, which are dealt
to them. Pure."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from rftfm_ray.faultbench.runs.calibrate import WINDOW
from rftfm_ray.faultbench.runs.plan import CHECKPOINT_EVERY, COMBINATIONS, Combination, Entry, Kind, Split
from rftfm_ray.faultbench.runs.runner import RATES
from rftfm_ray.faultbench.runs.seeds import SeedSupply
from rftfm_ray.faultbench.runs.strengths import CALLING, CellState, Strengths
from rftfm_ray.faults.catalogue import RAMP_STEPS
from rftfm_ray.faults.controls import CONTROLS
from rftfm_ray.faults.kinds import CATALOGUE, Mechanism

# Steps before the onset that give the baseline for what a policy learns to do.
COUNTED_BEFORE = 5
LEARNING_STEPS = 45
APART = 10
# Faults that can be in every replica; half of their runs have them there.
REPLICATED = ("TE-1",)
# What healthy runs of other configurations have in place of the defaults: factors of the learning rate, temperatures,
# KL coefficients, and numbers of prompts that every number of minibatches of the background divides.
LR_FACTORS, TEMPERATURES, KL_COEFS, PROMPTS = (0.5, 2.0), (0.7, 1.2), (0.0, 0.1), (8, 12, 24, 32)
# The larger model costs three times as much: of the healthy runs of other configurations one in five has it.
SMALL_EVERY = 5
SPLITS: Mapping[str, Split] = {"C": Split.CALIBRATE, "T": Split.TUNE, "R": Split.REPORT}
"""Letters of patterns of splits."""
QUARTERS = "CRTR"
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Size:
    """Number of runs of each kind. Patterns of splits are letters of `SPLITS`, and are repeated as often as needed.

    Attributes:
        groups: splits of the healthy runs by size of the model, for every combination and background.
        long: healthy runs of `long_steps`.
        faults: runs with one fault in each background, by level; all faults that are visible there have equally many.
        controls: runs with a benign control.
        declared: runs with a fault on top of a declared change.
        pairs: runs with two faults, half at once and half `APART` steps apart.
        steps: fewest and most steps of a run.
        long_steps: steps of the long ones.
        combinations: tasks and algorithms.
        codes: the faults.
        mechanisms: by fault, the names of those that it has; all of a fault that is not named.
        backgrounds: whether runs have the background: without it, or half without and half with it.
        other: healthy runs of other configurations.
        below: reported runs of every mechanism at every level and background that hides it.
        fault_splits: pattern of the splits of runs with one fault.
        long_splits: pattern of the splits of long runs.
        is_calibrated: whether faults have the measured strengths of their level, or the default ones.
        block: of seeds (`seeds_of`).
    """

    groups: Mapping[str, str]
    long: int
    faults: Mapping[str, int]
    controls: int
    declared: int
    pairs: int
    steps: tuple[int, int] = (30, 60)
    long_steps: int = 500
    combinations: tuple[Combination, ...] = COMBINATIONS
    codes: tuple[str, ...] = tuple(CATALOGUE)
    mechanisms: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    backgrounds: tuple[bool, ...] = (False,)
    other: int = 0
    below: int = 0
    fault_splits: str = QUARTERS
    long_splits: str = QUARTERS
    is_calibrated: bool = True
    block: int = 0


def split_at(pattern: str, index: int) -> Split:
    """Split of the run with an index, by a pattern that is repeated."""
    return SPLITS[pattern[index % len(pattern)]]


def draw_groups(size: Size, seed: int, supply: SeedSupply) -> list[Entry]:
    """Healthy runs that others are forks of, of all lengths in every combination and background."""
    rng, entries = random.Random(f"groups-{seed}"), list[Entry]()
    low, high = size.steps
    for model, (task, algorithm), dirty in itertools.product(size.groups, size.combinations, size.backgrounds):
        pattern = size.groups[model]
        lengths = [low + round((high - low) * index / max(1, len(pattern) - 1)) for index in range(len(pattern))]
        rng.shuffle(lengths)
        for index, steps in enumerate(lengths):
            number, split = supply.next(dirty=dirty), split_at(pattern, index)
            name = f"healthy-{number}"
            entries.append(Entry(name, Kind.HEALTHY, split, number, task, algorithm, model, steps, dirty=dirty))
    return entries


def draw_long(size: Size, supply: SeedSupply) -> Iterator[Entry]:
    """Long healthy runs."""
    for index in range(size.long):
        (task, algorithm), dirty = _at(size.combinations, index), _background_at(size, index)
        number = supply.next(dirty=dirty)
        split = split_at(size.long_splits, index // len(size.combinations))
        name = f"long-{number}"
        yield Entry(name, Kind.LONG, split, number, task, algorithm, "tiny", size.long_steps, dirty=dirty)


def draw_others(size: Size, seed: int, supply: SeedSupply) -> Iterator[Entry]:
    """Healthy runs of other configurations: another learning rate, temperature, KL coefficient and batch size.

    None of them calibrates: a profile is of runs of one configuration.
    """
    rng = random.Random(f"others-{seed}")
    for index in range(size.other):
        (task, algorithm), dirty = _at(size.combinations, index), _background_at(size, index)
        overrides = (
            f"learner.lr={RATES[task] * LR_FACTORS[0] * (LR_FACTORS[1] / LR_FACTORS[0]) ** rng.random():.4g}",
            f"rollout.temperature={rng.uniform(*TEMPERATURES):.3g}",
            f"algorithm.kl_coef={rng.uniform(*KL_COEFS):.3g}",
            f"algorithm.prompts_per_step={rng.choice(PROMPTS)}",
        )
        model = "small" if index % SMALL_EVERY == SMALL_EVERY - 1 and "small" in size.groups else "tiny"
        number, steps = supply.next(dirty=dirty), rng.randint(*size.steps)
        split = split_at("RRT", index)
        yield Entry(
            f"other-{number}", Kind.HEALTHY, split, number, task, algorithm, model, steps, dirty=dirty,
            overrides=overrides,
        )  # fmt: skip


class Dealer:
    """Deals runs to groups that can have them, evenly."""

    def __init__(self, groups: Sequence[Entry], rng: random.Random) -> None:
        self._groups = groups
        self._rng = rng
        self._load = {group.seed: 0 for group in groups}

    def group(self, split: Split, wanted: Sequence[Combination], *, dirty: bool, least_steps: int = 0) -> Entry:
        """Take the group with the fewest runs in a wanted combination, drawn uniformly; one with at least `least_steps`
        where there is one."""
        candidates = [g for g in self._groups if g.split is split and g.dirty is dirty]
        candidates = [g for g in candidates if (g.task, g.algorithm) in wanted]
        candidates = [g for g in candidates if g.steps >= least_steps] or candidates
        combination = self._rng.choice(sorted({(g.task, g.algorithm) for g in candidates}))
        fitting = [g for g in candidates if (g.task, g.algorithm) == combination]
        least = min(self._load[g.seed] for g in fitting)
        chosen = self._rng.choice([g for g in fitting if self._load[g.seed] == least])
        self._load[chosen.seed] += 1
        return chosen

    def between(self, low: float, high: float) -> int:
        """A step; the first one where there is none between."""
        first = max(1, round(low))
        return self._rng.randint(first, max(first, round(high)))


def draw_controls(size: Size, dealer: Dealer) -> Iterator[Entry]:
    """Runs with a benign control."""
    calling = any(task in CALLING for task, _ in size.combinations)
    names = [name for name, control in CONTROLS.items() if calling or not control.needs_tool]
    for index in range(size.controls):
        control, turn = CONTROLS[_at(names, index)], index // len(names)
        wanted = [c for c in size.combinations if c[0] in CALLING or not control.needs_tool]
        group = dealer.group(split_at(QUARTERS, turn + index), wanted, dirty=_at(size.backgrounds, turn // 2 + index))
        onset = dealer.between(0.25 * group.steps, 0.75 * group.steps)
        name, inject = f"{control.name}-{index}", (f"{control.name}@{onset}",)
        yield _forked(replace(group, name=name, kind=Kind.CONTROL, inject=inject, onset=onset))


def draw_faults(size: Size, dealer: Dealer, strengths: Strengths) -> Iterator[Entry]:
    """Runs with one fault, in every cell of level and background."""
    shares = {
        (level, dirty): _shares(count, [code for code in size.codes if _options(strengths, code, level, dirty=dirty)])
        for level, count in size.faults.items()
        for dirty in size.backgrounds
    }
    for code, level, dirty in itertools.product(size.codes, size.faults, size.backgrounds):
        deal = _FaultDeal(code, level, shares[level, dirty].get(code, 0), dirty)
        yield from _of_fault(size, dealer, strengths, deal)


def _shares(count: int, codes: Sequence[str]) -> dict[str, int]:
    """Runs of each fault, as even as can be."""
    return {code: count // len(codes) + (index < count % len(codes)) for index, code in enumerate(codes)}


def _options(
    strengths: Strengths, code: str, level: str, *, dirty: bool, at_once: bool = False
) -> list[Mechanism]:  # fmt: skip
    """Mechanisms of a fault that are visible at a level; those alone that act by themselves, if `at_once`."""
    return [
        mechanism
        for mechanism in strengths.mechanisms_of(code)
        if not (at_once and mechanism.learned)
        and strengths.combinations_for(level, (code, mechanism), dirty=dirty)
    ]  # fmt: skip


def _at_once(size: Size, strengths: Strengths) -> dict[bool, dict[str, list[Mechanism]]]:
    """Mechanisms that act by themselves and are visible when easy, by background and fault."""
    return {
        dirty: {
            code: options
            for code in size.codes
            if (options := _options(strengths, code, "easy", dirty=dirty, at_once=True))
        }
        for dirty in size.backgrounds
    }


@dataclass(frozen=True, slots=True)
class _FaultDeal:
    """How many runs a fault has at a level in a background."""

    code: str
    level: str
    count: int
    dirty: bool


def _of_fault(size: Size, dealer: Dealer, strengths: Strengths, deal: _FaultDeal) -> Iterator[Entry]:
    """Runs with one fault: a quarter from step 1, the others in the middle half of the run; three in five are
    persistent, one in five is a ramp, one in five is transient."""
    code, level, count, dirty = deal.code, deal.level, deal.count, deal.dirty
    label = f"{code}-{level}" + ("-dirty" if dirty else "")
    rng = random.Random(label)
    possible = _options(strengths, code, level, dirty=dirty)
    first = _shuffled(rng, count, [True, False, False, False])
    durations = _shuffled(rng, count, ["", "", "", ",duration=ramp", ",duration=transient"])
    for index in range(count):
        # Mechanisms take turns within each split: every run of a split is of another one.
        mechanism = possible[(index // len(size.fault_splits) + index) % len(possible)]
        duration = durations[index]
        if mechanism.learned and duration == ",duration=transient":
            # A learnt behaviour is not forgotten in ten steps, so a transient fault would never have its effect.
            duration = ""
        group = dealer.group(
            split_at(size.fault_splits, index), strengths.combinations_for(level, (code, mechanism), dirty=dirty),
            dirty=dirty, least_steps=LEARNING_STEPS if mechanism.learned else 0,
        )  # fmt: skip
        # A learnt fault needs the rest of the run to take effect.
        low, high = (0.12, 0.3) if mechanism.learned else (0.25, 0.75)
        # A ramp is at full strength for at least the window that it was calibrated with.
        latest = group.steps - RAMP_STEPS - WINDOW if "ramp" in duration else group.steps
        onset = 1 if first[index] else dealer.between(low * group.steps, min(high * group.steps, latest))
        text = _text(size, code, mechanism, onset, level) + _replicas(code, rng) + duration
        entry = replace(group, name=f"{label}-{index}", kind=Kind.FAULT, inject=(text,), level=level, onset=onset)
        yield _forked(entry, mechanism)


def draw_below(size: Size, dealer: Dealer, strengths: Strengths) -> Iterator[Entry]:
    """Reported runs with faults that the background hides, persistent and from the middle of the run on."""
    for level, dirty, code in itertools.product(size.faults, size.backgrounds, size.codes):
        for mechanism in strengths.mechanisms_of(code):
            hidden = strengths.with_state((code, mechanism), level, CellState.BELOW, dirty=dirty)
            for index in range(size.below if hidden else 0):
                group = dealer.group(Split.REPORT, hidden, dirty=dirty)
                low, high = (0.12, 0.3) if mechanism.learned else (0.25, 0.75)
                onset = dealer.between(low * group.steps, high * group.steps)
                name = f"{code}-{level}{'-dirty' if dirty else ''}-below-{mechanism.name}-{index}"
                text = _text(size, code, mechanism, onset, level)
                entry = replace(group, name=name, kind=Kind.FAULT, inject=(text,), level=level, onset=onset, below=True)
                yield _forked(entry, mechanism)


def _text(size: Size, code: str, mechanism: Mechanism, onset: int, level: str) -> str:
    strength = level if size.is_calibrated else f"{mechanism.strength.default:g}"
    return f"{code}@{onset}:{strength},mechanism={mechanism.name}"


def _replicas(code: str, rng: random.Random) -> str:
    return ",instances=all" if code in REPLICATED and rng.random() < 0.5 else ""


def _background_at(size: Size, index: int) -> bool:
    """Background of the run with an index, where combinations take turns: each has both equally often."""
    turn = index // len(size.combinations) if len(size.combinations) % 2 == 0 else 0
    return _at(size.backgrounds, index + turn)


def _at(items: Sequence[Item], index: int) -> Item:
    return items[index % len(items)]


def _shuffled(rng: random.Random, count: int, pattern: Sequence[Item]) -> list[Item]:
    items = [_at(pattern, index) for index in range(count)]
    rng.shuffle(items)
    return items


def _forked(entry: Entry, mechanism: Mechanism | None = None) -> Entry:
    """A run as a fork of its healthy one, from the last checkpoint before anything happens in it."""
    before = COUNTED_BEFORE if mechanism is not None and mechanism.learned else 0
    fork = max(0, (entry.onset - 1 - before) // CHECKPOINT_EVERY * CHECKPOINT_EVERY)
    return replace(entry, fork=fork)


def draw_declared(size: Size, dealer: Dealer, strengths: Strengths) -> Iterator[Entry]:
    """Easy faults on top of a declared change."""
    changes = [name for name, control in CONTROLS.items() if control.declared]
    by_background = _at_once(size, strengths)
    for index in range(size.declared):
        # Backgrounds change with every round of splits and of faults, so that each has both.
        dirty = _at(size.backgrounds, index // len(QUARTERS) + index // len(size.codes))
        options = by_background[dirty]
        codes = list(options)
        code = _at(codes, index)
        mechanism = _at(options[code], index // len(codes))
        wanted = strengths.combinations_for("easy", (code, mechanism), dirty=dirty)
        group = dealer.group(split_at(QUARTERS, index), wanted, dirty=dirty)
        change, onset = group.steps // 4, dealer.between(0.4 * group.steps, 0.75 * group.steps)
        inject = f"{_at(changes, index)}@{change}", _text(size, code, mechanism, onset, "easy")
        entry = replace(group, name=f"declared-{index}", kind=Kind.DECLARED_FAULT, inject=inject, level="easy")
        yield replace(_forked(replace(entry, onset=change)), onset=onset)


def draw_pairs(size: Size, dealer: Dealer, strengths: Strengths) -> Iterator[Entry]:
    """Two easy faults of different families in one run."""
    rng, by_background = random.Random("pairs"), _at_once(size, strengths)
    for index in range(size.pairs):
        dirty = _at(size.backgrounds, index // len(QUARTERS))
        options = by_background[dirty]
        while True:
            one, other = rng.sample(list(options), 2)
            first, second = rng.choice(options[one]), rng.choice(options[other])
            combinations = strengths.combinations_for("easy", (one, first), (other, second), dirty=dirty)
            if CATALOGUE[one].family != CATALOGUE[other].family and combinations:
                break
        group = dealer.group(split_at(QUARTERS, index), combinations, dirty=dirty)
        onset = dealer.between(0.25 * group.steps, 0.6 * group.steps)
        later = onset + APART * ((index // len(QUARTERS) + index) % 2)
        inject = _text(size, one, first, onset, "easy"), _text(size, other, second, later, "easy")
        entry = replace(group, name=f"pair-{index}", kind=Kind.TWO_FAULTS, inject=inject, level="easy", onset=onset)
        yield _forked(entry)
