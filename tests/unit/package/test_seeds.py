"""Seeds of runs: no seed belongs to two benchmarks, or to a benchmark and a script."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from benchmarks import calibrate_faults, healthy_act, healthy_set
from benchmarks.seeds import (
    BACKGROUND,
    BLOCKS,
    CALIBRATION,
    EXAMPLES,
    HEALTHY_ACT,
    HEALTHY_ACT_PROFILES,
    HEALTHY_SET,
    PRIORS,
)
from rftfm_ray.errors import BenchError
from rftfm_ray.faultbench.remediation.drawing import SIZES as REMEDIATION
from rftfm_ray.faultbench.remediation.drawing import units_of
from rftfm_ray.faultbench.remediation.healthy import healthy_runs
from rftfm_ray.faultbench.remediation.making import fork_seed, profile_seeds
from rftfm_ray.faultbench.remediation.pairs import Arm, Role
from rftfm_ray.faultbench.runs.seeds import MOST_BENCH_SEED, MOST_GROUPS, seeds_of
from rftfm_ray.faultbench.runs.sizes import SIZES, entries_of
from rftfm_ray.faultbench.runs.strengths import visible

ROOT = Path(__file__).parents[3]
MAKES_RUNS = re.compile(r"driver\.run import|ExperimentRunner\(|rftfm_ray.+train|\"train\"")
# They read recorded rows, or time the reading of a log, or make or judge the runs of another command with its seeds.
READERS = {
    "detection", "diagnosis", "preflight", "priors", "provenance", "remake", "seeds", "separators_clock", "signals",
    "thresholds", "watch_cost",
}  # fmt: skip


def planned() -> Mapping[str, set[int]]:
    """Seeds of the plans of all benchmarks: every size, for the bench seeds 1 to 3."""
    detection = {
        f"{name} {seed}": {entry.seed for entry in entries_of(size, seed, visible)}
        for name, size in SIZES.items()
        for seed in (1, 2, 3)
    }
    return detection | {f"remediation {seed}": remediation_seeds(seed) for seed in (1, 2, 3)}


def remediation_seeds(seed: int) -> set[int]:
    """Seeds of all runs of a remediation benchmark; those of healthy runs, of forks and of profiles are apart."""
    trunks = {pair.trunk for size in REMEDIATION.values() for unit in units_of(size, seed) for pair in unit.pairs}
    healthy = healthy_runs(max(size.healthy for size in REMEDIATION.values()), seed)
    seeds = [trunk.seed for trunk in trunks] + [run.trunk.seed for run in healthy]
    forks = [
        fork_seed(Arm(trunk, Role.CLEAN, number=number), seed)
        for trunk in [*trunks, *(run.trunk for run in healthy)]
        for number in range(5)
    ]  # fmt: skip
    profiles = [own for dirty in (False, True) for own in profile_seeds(seed, dirty=dirty)]
    every = [*seeds, *forks, *profiles]
    assert len(set(every)) == len(every), "no two runs share a seed"
    return set(every)


def scripts() -> Mapping[str, set[int]]:
    """Seeds that scripts give their runs, as their own constants and plans say."""
    return {
        "calibrate_faults": {seed for stage in calibrate_faults.stages() for seed in stage.plan.all}
        | set(calibrate_faults.LOSS_SEEDS),
        "healthy_set": {arm.seed for arm in healthy_set.arms()},
        "healthy_act": {healthy_act.drawn(index).seed for index in range(healthy_act.RUNS)}
        | {healthy_act.FIRST_PROFILE_SEED + n for n in range(max(healthy_act.PROFILE_RUNS.values()))},
    }


def test_no_seed_belongs_to_two_benchmarks_or_to_a_script() -> None:
    blocks = {block for some in BLOCKS.values() for block in some}
    known = {EXAMPLES, HEALTHY_SET, CALIBRATION, BACKGROUND, HEALTHY_ACT, HEALTHY_ACT_PROFILES, PRIORS}
    assert known == blocks
    every = {**planned(), **{str(block): set(block) for block in blocks}}
    assert len(every) == 3 * (len(SIZES) + 1) + len(blocks)
    for (one, seeds), (other, others) in itertools.combinations(every.items(), 2):
        assert not seeds & others, f"{one} and {other} share seeds"


@pytest.mark.parametrize(("script", "seeds"), scripts().items())
def test_a_script_keeps_to_its_block(script: str, seeds: set[int]) -> None:
    assert seeds
    assert all(any(seed in block for block in BLOCKS[script]) for seed in seeds)


def test_every_script_that_makes_runs_has_a_block() -> None:
    making = {path.stem for path in (ROOT / "benchmarks").glob("*.py") if MAKES_RUNS.search(path.read_text())}
    assert len(making) > 5
    assert making - READERS - set(BLOCKS) == set(), "give it a block in benchmarks/seeds.py"


def test_recorded_runs_have_the_seeds_of_their_bench() -> None:
    folder = ROOT / "benchmarks" / "data" / "faultbench"
    size = SIZES[json.loads((folder / "manifest.json").read_text())["size"]]
    recorded = {
        item["entry"]["seed"] for path in folder.glob("runs-*.json") for item in json.loads(path.read_text())
    }  # fmt: skip
    assert recorded == set(seeds_of(1, size.block)[: len(recorded)]) == set(range(10_000, 10_256))


@pytest.mark.parametrize("seed", [0, -1, 2148])
def test_a_bench_seed_without_seeds_for_runs_is_refused(seed: int) -> None:
    with pytest.raises(BenchError, match=f"--seed {seed} has no seeds"):
        seeds_of(seed)
    assert seeds_of(MOST_BENCH_SEED, 2)[-1] < 2**31
    assert len(seeds_of(2)) == MOST_GROUPS
