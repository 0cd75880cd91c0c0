"""All pairs of the remediation benchmark, unit by unit; the same for the same size and seed. Pure."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rftfm_ray.errors import BenchError
from rftfm_ray.faultbench.remediation.pairs import BASELINES, GUARDS, Cell, Injected, Pair, Role, Trunk, Unit
from rftfm_ray.faultbench.runs.drawing import APART, REPLICATED
from rftfm_ray.faultbench.runs.plan import BACKGROUNDS, COMBINATIONS
from rftfm_ray.faultbench.runs.seeds import SeedSupply, seeds_of
from rftfm_ray.faults.calibration import HARM, LEVELS, Calibration, Finding, table
from rftfm_ray.faults.kinds import CATALOGUE
from rftfm_ray.taxonomy import family_of
from rftfm_ray.verdicts import Family

FORK = 5
"""Last step that forks share with their healthy run."""
ONSETS = (FORK + 1, FORK + 5)
"""First and last step at which a fault begins: strengths were found harmful from step 6 on, and a policy that has
solved its task is hardly harmed by what comes later."""
TRUNKS = 12
"""Healthy runs of each task, algorithm and background; pairs of different faults share them."""
FORK_SEEDS = 50_000
"""Distance of the sampling seeds of forks from the seeds of healthy runs."""
SPARE = 2
"""Pairs that are drawn for one that is wanted: not every fault is harmful on every seed."""
AGAIN_EVERY = 3
"""Of so many harmful pairs one is run a second time without a guard."""
BLOCK = 4
"""Of the seeds (`seeds_of`)."""
TRANSIENT = "duration=transient"
FAMILIES = tuple(family for family in Family if any(kind.family is family for kind in CATALOGUE.values()))


@dataclass(frozen=True, slots=True)
class RemediationSize:
    """How much of the benchmark is made. Numbers are of harmful pairs, but for the last two.

    Attributes:
        harm: of each fault in each background, at the level of harm.
        baselines: of these, that the baselines are run on too.
        levels: of each fault, easy and hard.
        transient: of each family in each background, for ten steps.
        two_faults: in each background.
        first_step: pairs of each fault with the fault from step 1 on, whether it harms or not.
        healthy: guarded runs without a fault.
        codes: the faults.
        backgrounds: whether runs have the background.
        mechanisms: of each mechanism, at the level of harm, in place of `harm` of each fault.
    """

    harm: int
    baselines: int
    levels: int
    transient: int
    two_faults: int
    first_step: int
    healthy: int
    codes: tuple[str, ...] = tuple(CATALOGUE)
    backgrounds: tuple[bool, ...] = (False, True)
    mechanisms: int = 0


SIZES: Mapping[str, RemediationSize] = {
    "full": RemediationSize(harm=6, baselines=3, levels=6, transient=8, two_faults=15, first_step=5, healthy=300),
    "healthy": RemediationSize(
        harm=0, baselines=0, levels=0, transient=0, two_faults=0, first_step=0, healthy=300,
    ),
    "mechanisms": RemediationSize(
        harm=0, baselines=0, levels=0, transient=0, two_faults=0, first_step=0, healthy=32, backgrounds=(False,),
        mechanisms=2,
    ),
    "smoke": RemediationSize(
        harm=1, baselines=1, levels=0, transient=0, two_faults=0, first_step=0, healthy=2, codes=("RF-1", "OD-1"),
        backgrounds=(False,),
    ),
}  # fmt: skip
"""The whole benchmark, hours; its healthy runs alone; every mechanism that harms without a background twice, about an
hour; and a piece that takes minutes."""


class Trunks:
    """The healthy runs, by task, algorithm and background.

    Args:
        seed: that the benchmark is drawn from.
    """

    def __init__(self, seed: int) -> None:
        supply = SeedSupply(seeds_of(seed, BLOCK), has_backgrounds=True)
        self._trunks = {
            (task, algorithm, dirty): [
                Trunk(task, algorithm, supply.next(dirty=dirty), dirty) for _ in range(TRUNKS)
            ]
            for (task, algorithm), dirty in itertools.product(COMBINATIONS, (False, True))
        }  # fmt: skip

    def at(self, row: Calibration, index: int) -> Trunk:
        """A healthy run that a measured strength is meant for."""
        return self._trunks[row.task, row.algorithm, row.dirty][index % TRUNKS]


def units_of(size: RemediationSize, seed: int = 1) -> tuple[Unit, ...]:
    """All units of a size.

    Raises:
        BenchError: when a fault has no strength that was measured to harm; names it.
    """
    trunks = Trunks(seed)
    units = (
        *_harm(size, trunks), *_mechanisms(size, trunks), *_levels(size, trunks), *_transient(size, trunks),
        *_two_faults(size, trunks), *_first_step(size, trunks),
    )  # fmt: skip
    return tuple(unit for unit in units if unit.quota)


def _rows(levels: Sequence[str], codes: Sequence[str], dirty: bool | None = None) -> list[Calibration]:
    """Measured strengths that harm, in the order of the table."""
    rows = [
        row
        for row in table()
        if row.level in levels and row.code in codes and row.confirmed and row.finding is Finding.REACHED
        and (row.level == HARM or row.harmful) and dirty in (None, row.dirty)
    ]  # fmt: skip
    if not rows:
        where = "" if dirty is None else f" with the {BACKGROUNDS[dirty]} background"
        raise BenchError(
            f"The calibration has no strength of {', '.join(codes)}{where} that was confirmed as harmful; measure one "
            "with `python -m benchmarks.calibrate_faults`."
        )
    return rows


def _pairs(rows: Sequence[Calibration], trunks: Trunks, count: int, options: str = "") -> Iterator[Pair]:
    """Pairs of strengths that take turns; each turn has other healthy runs."""
    for index in range(count):
        row, turn = rows[index % len(rows)], index // len(rows)
        # Faults begin with different healthy runs, so that not all of them share the first few.
        trunk = trunks.at(row, turn + 3 * tuple(CATALOGUE).index(row.code))
        more = [options, "instances=all" if row.code in REPLICATED and turn % 2 else ""]
        onset = random.Random(f"{trunk.name}-{row.code}-{row.mechanism}-{options}").randint(*ONSETS)
        joined = ",".join(filter(None, more))
        yield Pair(trunk, (Injected(row.code, row.mechanism, row.strength, onset, joined),), row.level)


def _harm(size: RemediationSize, trunks: Trunks) -> Iterator[Unit]:
    def roles(number: int) -> tuple[Role, ...]:
        again = (Role.ALONE_AGAIN,) if number % AGAIN_EVERY == 0 else ()
        return (*GUARDS, *again, *(BASELINES if number < size.baselines else ()))

    for code, dirty in itertools.product(size.codes, size.backgrounds if size.harm else ()):
        pairs = tuple(_pairs(_rows((HARM,), (code,), dirty), trunks, SPARE * size.harm))
        yield Unit(Cell.HARM, f"harm-{code}-{BACKGROUNDS[dirty]}", pairs, size.harm, roles)


def _mechanisms(size: RemediationSize, trunks: Trunks) -> Iterator[Unit]:
    for code, dirty in itertools.product(size.codes, size.backgrounds if size.mechanisms else ()):
        rows: dict[str, list[Calibration]] = {}
        for row in _rows((HARM,), (code,), dirty):
            rows.setdefault(row.mechanism, []).append(row)
        for mechanism, own in rows.items():
            # One task and algorithm: the first that was measured.
            pairs = tuple(_pairs(own[:1], trunks, SPARE * size.mechanisms))
            name = f"mechanism-{code}-{mechanism}-{BACKGROUNDS[dirty]}"
            yield Unit(Cell.HARM, name, pairs, size.mechanisms, _guards)


def _levels(size: RemediationSize, trunks: Trunks) -> Iterator[Unit]:
    for code in size.codes if size.levels else ():
        rows = [row for row in table() if row.code == code and row.level in LEVELS and row.harmful]
        if rows:
            pairs = tuple(_pairs(_rows(LEVELS, (code,)), trunks, SPARE * size.levels))
            yield Unit(Cell.LEVELS, f"levels-{code}", pairs, size.levels, _guards)


def _guards(number: int) -> tuple[Role, ...]:
    del number
    return GUARDS


def _transient(size: RemediationSize, trunks: Trunks) -> Iterator[Unit]:
    for family, dirty in itertools.product(FAMILIES, size.backgrounds if size.transient else ()):
        codes = [code for code in size.codes if family_of(code) is family]
        # A learnt behaviour is not forgotten in ten steps, so the fault would not be over.
        rows = [row for row in _rows((HARM,), codes, dirty) if not CATALOGUE[row.code].mechanism(row.mechanism).learned]
        pairs = tuple(_pairs(rows, trunks, 2 * SPARE * size.transient, TRANSIENT))
        name = f"transient-{family}-{BACKGROUNDS[dirty]}"
        yield Unit(Cell.TRANSIENT, name, pairs, size.transient, _guards, forks=FORKS_OF_TRANSIENT)


FORKS_OF_TRANSIENT = 4
"""One more than the mean is of: how often luck alone takes a clean run below the margin."""


def _two_faults(size: RemediationSize, trunks: Trunks) -> Iterator[Unit]:
    for dirty in size.backgrounds if size.two_faults else ():
        rng, rows = random.Random(f"two faults-{dirty}"), _rows((HARM,), size.codes, dirty)
        pairs = list[Pair]()
        while len(pairs) < SPARE * size.two_faults:
            one, other = rng.sample(rows, 2)
            if family_of(one.code) is family_of(other.code) or (one.task, one.algorithm) != (
                other.task,
                other.algorithm,
            ):
                continue
            onset = rng.randint(*ONSETS)
            later = onset + APART * (len(pairs) % 2)
            faults = (
                Injected(one.code, one.mechanism, one.strength, onset),
                Injected(other.code, other.mechanism, other.strength, later),
            )
            pairs.append(Pair(trunks.at(one, len(pairs)), faults, HARM))
        name = f"two-faults-{BACKGROUNDS[dirty]}"
        yield Unit(Cell.TWO_FAULTS, name, tuple(pairs), size.two_faults, _guards)


def _first_step(size: RemediationSize, trunks: Trunks) -> Iterator[Unit]:
    def roles(number: int) -> tuple[Role, ...]:
        del number
        return (Role.GUARDED,)

    for code in size.codes if size.first_step else ():
        rows = _rows((HARM,), (code,))
        pairs = tuple(
            Pair(pair.trunk, tuple(_from_start(fault) for fault in pair.faults), pair.level)
            for pair in _pairs(rows, trunks, size.first_step)
        )
        yield Unit(Cell.FIRST_STEP, f"first-step-{code}", pairs, size.first_step, roles, is_any=True)


def _from_start(fault: Injected) -> Injected:
    return Injected(fault.code, fault.mechanism, fault.strength, 1, fault.options)
