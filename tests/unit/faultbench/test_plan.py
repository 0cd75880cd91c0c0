"""What the benchmark without background is made of: shares, splits and forks, exactly as it was recorded."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from rftfm_ray.faultbench.runs.dataset import read_entries, read_manifest, read_records, write_records
from rftfm_ray.faultbench.runs.drawing import COUNTED_BEFORE
from rftfm_ray.faultbench.runs.generate import Job
from rftfm_ray.faultbench.runs.plan import CHECKPOINT_EVERY, Entry, Kind, Split
from rftfm_ray.faultbench.runs.sizes import SIZES, entries_of, left_out
from rftfm_ray.faults.calibration import table
from rftfm_ray.faults.catalogue import parse_fault
from rftfm_ray.faults.controls import CONTROLS, is_control, parse_control
from rftfm_ray.faults.kinds import CATALOGUE

FOLDER = Path(__file__).parents[3] / "benchmarks" / "data" / "faultbench"
FULL = entries_of(SIZES["full"])
FAULTS = [entry for entry in FULL if entry.kind is Kind.FAULT]


def of_kind(kind: Kind) -> list[Entry]:
    """Runs of a kind."""
    return [entry for entry in FULL if entry.kind is kind]


def test_there_are_as_many_runs_as_promised() -> None:
    assert len(of_kind(Kind.HEALTHY)) >= 240
    assert len(of_kind(Kind.CONTROL)) >= 150
    assert [entry.steps for entry in of_kind(Kind.LONG)] == [500] * 16
    assert len(of_kind(Kind.DECLARED_FAULT)) >= 30
    assert Counter((entry.code, entry.level) for entry in FAULTS) == Counter(
        {(code, level): count for code in CATALOGUE for level, count in (("easy", 20), ("hard", 28))}
    )
    assert len({entry.name for entry in FULL}) == len(FULL)
    assert all(30 <= entry.steps <= 60 for entry in FULL if entry.kind is not Kind.LONG)


@pytest.mark.parametrize("kind", [Kind.HEALTHY, Kind.CONTROL])
def test_half_of_the_healthy_runs_and_controls_have_a_critic(kind: Kind) -> None:
    algorithms = Counter(entry.algorithm for entry in of_kind(kind))
    assert 0.4 < algorithms["ppo"] / sum(algorithms.values()) < 0.6
    assert len({entry.task for entry in of_kind(kind)}) == 2


def test_the_larger_model_has_at_most_a_quarter() -> None:
    assert 0.1 < sum(entry.size == "small" for entry in FULL) / len(FULL) <= 0.25


def test_a_quarter_of_the_faults_begins_at_step_1_and_the_rest_in_the_middle_half() -> None:
    first = [entry for entry in FAULTS if entry.onset == 1]
    assert len(first) == len(FAULTS) / 4
    for entry in FAULTS:
        learned = parse(entry)[1]
        low, high = (0.12, 0.3) if learned else (0.25, 0.75)
        assert entry.onset == 1 or round(low * entry.steps) <= entry.onset <= round(high * entry.steps)


def parse(entry: Entry) -> tuple[str, bool]:
    """Duration of an entry's fault, and whether it works through learning."""
    spec = parse_fault(entry.inject[-1].replace(":easy", "").replace(":hard", ""))
    duration = "ramp" if spec.ramp else "transient" if spec.duration else "persistent"
    return duration, bool(CATALOGUE[spec.code].mechanism(spec.mechanism).learned)


def test_durations_are_drawn_three_to_one_to_one() -> None:
    counts = Counter(parse(entry)[0] for entry in FAULTS if not parse(entry)[1])
    shares = {name: count / sum(counts.values()) for name, count in counts.items()}
    assert shares == pytest.approx({"persistent": 0.6, "ramp": 0.2, "transient": 0.2}, abs=0.04)
    assert all(parse(entry)[0] != "transient" for entry in FAULTS if parse(entry)[1])


def test_what_grows_is_whole_for_a_window() -> None:
    for entry in FAULTS:
        if "ramp" in entry.inject[0]:
            assert parse_fault(entry.inject[0].replace(f":{entry.level}", "")).full_step + 5 <= entry.steps + 1


def test_every_mechanism_is_there_in_every_split() -> None:
    mechanisms = {(entry.inject[0].partition("mechanism=")[2].partition(",")[0], entry.split) for entry in FAULTS}
    drawn = {m.name for kind in CATALOGUE.values() for m in kind.mechanisms if m.since == 1}
    assert mechanisms == {(name, split) for name in drawn for split in Split}


def test_faults_are_drawn_where_they_show() -> None:
    # Healthy runs of calculator lose their entropy, which is no effect of a fault; rewards for empty answers teach
    # it nothing in time.
    for mechanism in ("negative_entropy", "empty_reward"):
        assert {entry.task for entry in FAULTS if mechanism in entry.inject[0]} == {"addition"}
    shown = {(row.task, row.code, row.mechanism, row.level) for row in table() if row.confirmed}
    known = {key[1:] for key in shown}
    for entry in FAULTS:
        mechanism = entry.inject[0].partition("mechanism=")[2].partition(",")[0]
        if (entry.code, mechanism, entry.level) in known:
            assert (entry.task, entry.code, mechanism, entry.level) in shown


def test_a_seed_belongs_to_one_split_and_kind_of_run() -> None:
    for runs in Job("", "full", 1).groups().values():
        assert len({(e.split, e.task, e.algorithm, e.size, e.steps) for e in runs}) == 1
        assert runs[0].kind in (Kind.HEALTHY, Kind.LONG)
        assert all(entry.inject for entry in runs[1:])
    shares = Counter(entry.split for entry in FULL)
    assert {name: n / len(FULL) for name, n in shares.items()} == pytest.approx(
        {Split.CALIBRATE: 0.25, Split.TUNE: 0.25, Split.REPORT: 0.5}, abs=0.01
    )
    for code in CATALOGUE:
        counts = Counter((entry.level, entry.split) for entry in FAULTS if entry.code == code)
        assert counts["easy", Split.REPORT] == 10
        assert counts["hard", Split.REPORT] == 14


def test_forks_leave_before_anything_happens_and_at_a_checkpoint() -> None:
    for entry in FULL:
        first = min(
            [parse_control(t).onset if is_control(t) else int(t.partition("@")[2].split(":")[0]) for t in entry.inject]
            or [0]
        )
        assert entry.fork % CHECKPOINT_EVERY == 0
        assert entry.fork < max(first, 1)
        if entry.kind is Kind.FAULT and parse(entry)[1] and entry.fork:
            assert entry.fork < entry.onset - COUNTED_BEFORE


def test_controls_and_declared_changes_are_all_there() -> None:
    assert {entry.code for entry in of_kind(Kind.CONTROL)} == set(CONTROLS)
    declared = {entry.inject[0].partition("@")[0] for entry in of_kind(Kind.DECLARED_FAULT)}
    assert declared == {name for name, control in CONTROLS.items() if control.declared}


def test_pairs_are_of_two_families_and_half_of_them_apart() -> None:
    pairs = [[parse_fault(text.replace(":easy", "")) for text in entry.inject] for entry in of_kind(Kind.TWO_FAULTS)]
    assert all(CATALOGUE[one.code].family != CATALOGUE[other.code].family for one, other in pairs)
    assert Counter(other.onset - one.onset for one, other in pairs) == {0: 30, 10: 30}


def test_shards_are_whole_groups_of_about_a_hundred_runs() -> None:
    job = Job("", "full", 1)
    groups = job.groups()
    sizes = [sum(len(groups[seed]) for seed in seeds) for seeds in job.shards()]
    assert all(100 <= size < 110 for size in sizes[:-1])
    assert [seed for seeds in job.shards() for seed in seeds] == list(groups)


def test_the_same_seed_gives_the_same_benchmark_and_another_one_another() -> None:
    assert entries_of(SIZES["full"]) == FULL
    assert entries_of(SIZES["full"], seed=2) != FULL


def test_the_plan_is_that_of_the_recorded_runs() -> None:
    manifest = read_manifest(FOLDER)
    job = Job(str(FOLDER), manifest.size, manifest.seed)
    recorded = [entry for index in range(len(job.shards())) for entry in read_entries(FOLDER / f"runs-{index:03d}")]
    assert recorded == list(FULL)
    assert manifest.runs == len(FULL)
    job.check()


def test_a_recorded_shard_is_written_again_byte_for_byte(tmp_path: Path) -> None:
    records = read_records(FOLDER / "runs-000")
    write_records(tmp_path / "runs-000", records)
    assert (tmp_path / "runs-000.json").read_bytes() == (FOLDER / "runs-000.json").read_bytes()


def test_what_never_has_an_effect_in_time_is_listed_and_has_no_runs() -> None:
    listed = left_out(SIZES["full"])
    assert "OD-3 by negative_entropy, easy, clean, calculator with grpo: no effect in time" not in listed
    assert "PG-1 by empty_reward, easy, clean, calculator with grpo: no effect in time" in listed
    assert not any(e.task == "calculator" for e in FAULTS if "empty_reward" in e.inject[0])
