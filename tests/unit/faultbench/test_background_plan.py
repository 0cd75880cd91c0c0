"""Plans of clean and dirty runs: what holds for the benchmark, and for one of any size."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rftfm_ray.errors import BenchError
from rftfm_ray.faultbench.runs.dataset import NAMES, Outcome, Record, read_entries, read_records, write_records
from rftfm_ray.faultbench.runs.drawing import APART, Size
from rftfm_ray.faultbench.runs.generate import SECONDS_PER_STEP, Job, config_of
from rftfm_ray.faultbench.runs.plan import BACKGROUNDS, CHECKPOINT_EVERY, Entry, Kind, Split, mechanism_of
from rftfm_ray.faultbench.runs.seeds import is_dirty, seeds_of
from rftfm_ray.faultbench.runs.sizes import SIZES, entries_of, left_out
from rftfm_ray.faultbench.runs.strengths import CellState, StrengthCell, visible
from rftfm_ray.faults.calibration import NAMED_LEVELS
from rftfm_ray.faults.kinds import CATALOGUE

SIZE = SIZES["background"]
HOURS, MOST_BYTES = 9.0, 30_000_000
BYTES_PER_STEP = 150
"""Of the recorded benchmark: 7.8 MB of rows and lists for 51,239 steps."""
# The background hides a mechanism, one has no harm, and one never has an effect in time.
HIDDEN, HARMLESS, LATE = ("RF-2", "zeroed"), ("OD-3", "cold_sampler"), ("PG-1", "empty_reward")


def state_of(cell: StrengthCell) -> CellState:
    """A calibration in which nearly everything is visible."""
    key = cell.code, cell.mechanism
    if key == HIDDEN and cell.dirty and cell.level == "hard":
        return CellState.BELOW
    if key == HARMLESS and cell.level == "harm":
        return CellState.NO_HARM
    return CellState.LATE if key == LATE and cell.task == "calculator" else CellState.CONFIRMED


ENTRIES = entries_of(SIZE, 2, state_of)
FAULTS = [entry for entry in ENTRIES if entry.kind is Kind.FAULT]


def of_kind(kind: Kind) -> list[Entry]:
    """Runs of a kind."""
    return [entry for entry in ENTRIES if entry.kind is kind]


def test_every_headline_cell_has_enough_reported_runs() -> None:
    cells = Counter((e.level, e.background) for e in FAULTS if e.split is Split.REPORT and not e.below)
    assert set(cells) == {(level, background) for level in NAMED_LEVELS for background in BACKGROUNDS}
    # One in ten may have no effect in its run.
    assert min(cells.values()) * 0.9 >= 150


def test_all_kinds_of_runs_are_there_half_of_them_dirty() -> None:
    counts = Counter((entry.kind, entry.background) for entry in ENTRIES)
    for kind, least in ((Kind.HEALTHY, 280), (Kind.LONG, 20), (Kind.CONTROL, 150), (Kind.DECLARED_FAULT, 40),
                        (Kind.TWO_FAULTS, 80)):  # fmt: skip
        clean, dirty = counts[kind, "clean"], counts[kind, "dirty"]
        assert clean + dirty >= least
        assert abs(clean - dirty) <= 4
    assert {e.steps for e in of_kind(Kind.LONG)} == {500}
    assert Counter((e.split, e.background) for e in of_kind(Kind.LONG))[Split.REPORT, "dirty"] == 6
    assert len({entry.name for entry in ENTRIES}) == len(ENTRIES)


def test_profiles_are_full_in_every_stratum_of_the_small_model_and_have_three_runs_elsewhere() -> None:
    calibrate = Counter(
        (e.size, e.task, e.algorithm, e.dirty)
        for e in of_kind(Kind.HEALTHY)
        if e.split is Split.CALIBRATE and not e.overrides
    )
    assert len(calibrate) == 16
    assert all(count >= {"tiny": 8, "small": 3}[key[0]] for key, count in calibrate.items())


def test_healthy_runs_of_other_configurations_never_calibrate_and_nothing_is_forked_from_them() -> None:
    others = [entry for entry in ENTRIES if entry.overrides]
    assert len(others) == 40
    assert {entry.kind for entry in others} == {Kind.HEALTHY}
    assert {entry.split for entry in others} == {Split.TUNE, Split.REPORT}
    assert len({entry.overrides for entry in others}) == 40
    assert not {e.seed for e in others} & {e.seed for e in ENTRIES if e.inject}
    assert Counter(e.background for e in others) == {"clean": 20, "dirty": 20}
    # Four minibatches, the most that the background has, divide every number of prompts.
    assert all(int(entry.overrides[-1].partition("=")[2]) % 4 == 0 for entry in others)


def test_a_quarter_of_the_faults_begins_at_step_1_in_every_cell() -> None:
    for level in NAMED_LEVELS:
        for background in BACKGROUNDS:
            cell = [e for e in FAULTS if (e.level, e.background) == (level, background) and not e.below]
            assert sum(e.onset == 1 for e in cell) / len(cell) == pytest.approx(0.25, abs=0.03)


def test_every_fault_and_mechanism_is_there_in_both_backgrounds() -> None:
    dealt = {(e.code, mechanism_of(e), e.level, e.dirty) for e in FAULTS if e.split is Split.REPORT}
    for kind in CATALOGUE.values():
        for mechanism in kind.mechanisms:
            for level in NAMED_LEVELS:
                for dirty in (False, True):
                    key = kind.code, mechanism.name
                    is_there = not (key == HARMLESS and level == "harm")
                    assert ((*key, level, dirty) in dealt) is is_there, (key, level, dirty)


def test_what_the_background_hides_is_marked_and_in_no_cell() -> None:
    below = [e for e in ENTRIES if e.below]
    assert {(e.code, mechanism_of(e), e.level, e.dirty, e.split) for e in below} == {
        (*HIDDEN, "hard", True, Split.REPORT)
    }
    assert len(below) == SIZE.below
    hidden = [e for e in FAULTS if (e.code, mechanism_of(e), e.level, e.dirty) == (*HIDDEN, "hard", True)]
    assert hidden == below


def test_what_cannot_exist_is_listed() -> None:
    listed = left_out(SIZE, state_of)
    assert len([line for line in listed if line.endswith("no strength is harmful")]) == 8
    assert "OD-3 by cold_sampler, harm, dirty, addition with grpo: no strength is harmful" in listed
    assert "PG-1 by empty_reward, easy, clean, calculator with ppo: no effect in time" in listed
    assert not [e for e in FAULTS if (e.code, mechanism_of(e), e.task) == (*LATE, "calculator")]


def test_a_strength_that_nobody_has_measured_is_refused_with_its_cell_and_the_command() -> None:
    def unmeasured(cell: StrengthCell) -> CellState:
        return CellState.UNMEASURED if cell.level == "harm" and cell.code == "TE-3" else CellState.CONFIRMED

    with pytest.raises(BenchError, match=r"TE-3 by limit, harm, clean, addition .* \d+ more; .*calibrate"):
        entries_of(SIZE, 2, unmeasured)


@pytest.mark.parametrize("level", ["harm", "easy"])
def test_level_that_is_known_in_one_combination_is_dealt_there_alone(level: str) -> None:
    def once(cell: StrengthCell) -> CellState:
        is_there = cell.level != level or (cell.task, cell.algorithm) == ("calculator", "ppo")
        return CellState.CONFIRMED if is_there else CellState.UNMEASURED

    harmful = [e for e in entries_of(SIZE, 2, once) if e.kind is Kind.FAULT and e.level == level]
    assert {(e.task, e.algorithm) for e in harmful} == {("calculator", "ppo")}
    assert len({(e.code, mechanism_of(e)) for e in harmful}) == sum(len(k.mechanisms) for k in CATALOGUE.values())


def test_a_fault_without_harm_leaves_its_runs_to_the_others() -> None:
    def harmless(cell: StrengthCell) -> CellState:
        return CellState.NO_HARM if cell.level == "harm" and cell.code[:2] in ("TE", "CA") else CellState.CONFIRMED

    counts = Counter((e.level, e.dirty) for e in entries_of(SIZE, 2, harmless) if e.kind is Kind.FAULT)
    assert set(counts.values()) == {320}


def test_it_fits_into_the_time_and_the_repository() -> None:
    steps = sum(entry.steps - entry.fork for entry in ENTRIES)
    hours = steps * SECONDS_PER_STEP / 2 / 3600
    # Minibatches and reports of more columns: a quarter more for the dirty half.
    assert hours * 1.125 < HOURS
    assert 1.5 * steps * BYTES_PER_STEP < MOST_BYTES


def test_pairs_are_of_two_families_and_half_of_them_apart() -> None:
    for entry in of_kind(Kind.TWO_FAULTS):
        one, other = (text.partition("@")[0] for text in entry.inject)
        assert CATALOGUE[one].family != CATALOGUE[other].family
    gaps = Counter(
        int(e.inject[1].partition("@")[2].partition(":")[0]) - e.onset for e in of_kind(Kind.TWO_FAULTS)
    )  # fmt: skip
    assert gaps == {0: 40, APART: 40}


def test_the_small_size_needs_no_calibration_and_has_both_backgrounds() -> None:
    entries = Job("", "smoke", 1).entries
    assert sum(entry.steps - entry.fork for entry in entries) < 600
    for kind in (Kind.HEALTHY, Kind.FAULT):
        assert {entry.background for entry in entries if entry.kind is kind} == set(BACKGROUNDS)
    assert {entry.background for entry in entries if entry.overrides} == set(BACKGROUNDS)
    Job("", "smoke", 1).check()


def test_the_configuration_of_a_run_has_the_background_of_its_seed_and_its_own_values() -> None:
    entries = Job("", "smoke", 1).entries
    for entry in entries:
        config = config_of(entry)
        assert (config.background.tool_failures > 0) is entry.dirty
        assert (config.sync.dtype == "bfloat16") is entry.dirty
        assert (config.algorithm.minibatches > 1) is entry.dirty
        assert config.inject == ()
    other = next(entry for entry in entries if entry.overrides and entry.dirty)
    config = config_of(other, guard={"mode": "act"})
    assert f"learner.lr={config.learner.lr:.4g}" == other.overrides[0]
    assert config.algorithm.prompts_per_step % config.algorithm.minibatches == 0
    assert config.guard.mode == "act"
    assert config.seed == other.seed
    assert not any(f":{level}" in text for entry in entries for text in entry.inject for level in NAMED_LEVELS)


sizes = st.builds(
    Size,
    groups=st.fixed_dictionaries({"tiny": st.sampled_from(["CTR", "CRTR", "CRTRCR", "RTC" * 3])}),
    long=st.integers(0, 9),
    faults=st.dictionaries(st.sampled_from(NAMED_LEVELS), st.integers(0, 40), min_size=1),
    controls=st.integers(0, 30),
    declared=st.integers(0, 20),
    pairs=st.integers(0, 12),
    steps=st.tuples(st.integers(12, 30), st.integers(31, 60)),
    backgrounds=st.sampled_from([(False,), (False, True)]),
    other=st.integers(0, 12),
    below=st.integers(0, 2),
    block=st.integers(0, 3),
)


@settings(max_examples=40, deadline=None)
@given(sizes, st.integers(1, 2000))
def test_a_plan_of_any_size_keeps_the_rules(size: Size, seed: int) -> None:
    entries = entries_of(size, seed, visible)
    assert len({e.name for e in entries}) == len(entries)
    by_seed: dict[int, list[Entry]] = {}
    for entry in entries:
        by_seed.setdefault(entry.seed, []).append(entry)
        assert entry.seed in seeds_of(seed, size.block)
        assert entry.dirty is (is_dirty(entry.seed) if len(size.backgrounds) > 1 else False)
        assert entry.fork % CHECKPOINT_EVERY == 0
        assert 0 <= entry.fork < max(entry.onset, 1)
        assert bool(entry.onset) is bool(entry.inject)
        assert entry.onset <= entry.steps
    for group in by_seed.values():
        root, *forks = group
        assert not root.inject
        assert all(fork.inject for fork in forks)
        same = ("split", "task", "algorithm", "size", "steps", "dirty", "overrides")
        assert len({tuple(getattr(entry, name) for name in same) for entry in group}) == 1
    healthy = Counter((e.dirty, e.split, e.task, e.algorithm) for e in entries if not e.inject and e.name[0] == "h")
    for (dirty, split, task, algorithm), count in healthy.items():
        assert not dirty or healthy[False, split, task, algorithm] == count
    counts = Counter((e.level, e.dirty) for e in entries if e.kind is Kind.FAULT)
    assert counts == {(n, dirty): count for n, count in size.faults.items() for dirty in size.backgrounds if count}


def test_a_size_with_backgrounds_has_other_seeds_than_one_without() -> None:
    clean = replace(SIZES["smoke"], backgrounds=(False,))
    assert {e.seed % 2 for e in entries_of(clean, 1, visible)} == {0, 1}
    assert not any(e.dirty for e in entries_of(clean, 1, visible))


def written(entries: tuple[Entry, ...], path: Path) -> list[Entry]:
    """What a shard of these runs, of one step each after their fork, says of them."""
    rows = np.zeros((1, len(NAMES)), np.float32)
    write_records(path, [Record(entry, Outcome((), ()), rows) for entry in entries])
    assert [record.entry for record in read_records(path)] == list(entries)
    return read_entries(path)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 2000), st.booleans())
def test_entries_are_read_as_they_were_written(seed: int, below: bool) -> None:
    entries = tuple(replace(entry, below=below) for entry in entries_of(SIZES["smoke"], seed))
    with TemporaryDirectory() as folder:
        assert written(entries, Path(folder) / "runs-000") == list(entries)


def test_a_folder_with_runs_of_another_plan_is_refused(tmp_path: Path) -> None:
    job = Job(str(tmp_path), "smoke", 1)
    written(job.entries, tmp_path / "runs-000")
    job.check()
    assert job.missing() == []
    written((replace(job.entries[0], dirty=True), *job.entries[1:]), tmp_path / "runs-000")
    with pytest.raises(BenchError, match="runs-000 has other runs than `--size smoke --seed 1` plans"):
        job.check()


def test_the_time_that_is_left_is_that_of_the_missing_runs(tmp_path: Path) -> None:
    job = Job(str(tmp_path), "smoke", 1)
    steps = sum(entry.steps - entry.fork for entry in job.entries)
    assert job.hours(2) == pytest.approx(steps * SECONDS_PER_STEP / 7200)
    written(job.entries, tmp_path / "runs-000")
    assert job.hours(2) == 0
