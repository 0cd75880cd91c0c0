"""Seeds of the runs of benchmarks: no seed belongs to two of them, or to a script below `benchmarks/`. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from rftfm_ray.errors import BenchError
from rftfm_ray.faults.background import background_of

FIRST_SEED = 10_000
"""First seed of the runs of bench seed 1. The scripts below `benchmarks/` have seeds of their own below it, and between
the blocks (`benchmarks/seeds.py`)."""
BENCH_SEEDS = 1_000_000
"""Distance between the first seeds of two bench seeds."""
SIZE_SEEDS = 200_000
"""Distance between the first seeds of two sizes of one bench seed."""
MOST_GROUPS = 100_000
"""Seeds that a benchmark can have; those after them, up to the next block, are left to scripts."""
MOST_BENCH_SEED = 2**31 // BENCH_SEEDS
"""Seeds of runs lie below 2**31 (`RunConfig.seed`)."""


def seeds_of(bench_seed: int, block: int = 0) -> range:
    """All seeds that the runs of a benchmark may have.

    Args:
        bench_seed: the seed that the benchmark is drawn from, from 1 on.
        block: of its size; sizes of one bench seed have different ones.

    Raises:
        BenchError: when there are no such seeds.
    """
    if not 1 <= bench_seed <= MOST_BENCH_SEED:
        raise BenchError(f"--seed {bench_seed} has no seeds for runs; choose one from 1 to {MOST_BENCH_SEED}.")
    first = FIRST_SEED + (bench_seed - 1) * BENCH_SEEDS + block * SIZE_SEEDS
    return range(first, first + MOST_GROUPS)


def is_dirty(seed: int) -> bool:
    """Whether all runs of a seed have the background. Of every two seeds 2k and 2k + 1 one has it."""
    return background_of(seed) is not None


class SeedSupply:
    """Deals the seeds of a benchmark, those with the background apart from those without.

    Args:
        seeds: that may be dealt.
        has_backgrounds: whether the benchmark has runs with the background; without, every seed is clean.
    """

    def __init__(self, seeds: range, *, has_backgrounds: bool) -> None:
        self._clean: Iterator[int] = (seed for seed in seeds if not (has_backgrounds and is_dirty(seed)))
        self._dirty: Iterator[int] = (seed for seed in seeds if has_backgrounds and is_dirty(seed))

    def next(self, *, dirty: bool) -> int:
        """The next seed with the background, or without.

        Raises:
            BenchError: when there is none left.
        """
        seed = next(self._dirty if dirty else self._clean, None)
        if seed is None:
            raise BenchError(f"A benchmark has at most {MOST_GROUPS} seeds; choose a smaller size.")
        return seed
