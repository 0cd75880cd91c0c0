"""Checks of room and of the learning rate, at their limits."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rftfm_ray.config import RunConfig, load_config, parse_config
from rftfm_ray.models import ASSETS, read_facts, read_tensors
from rftfm_ray.preflight import rates, room
from rftfm_ray.preflight.findings import Checked, Grade, run_checks
from rftfm_ray.preflight.model_files import read_weights
from rftfm_ray.preflight.rates import LARGEST_MOVE, SMALLEST_MOVE, RateFacts
from rftfm_ray.preflight.room import RoomFacts, free_memory, room_facts
from tests.unit.preflight.doubles import finding, names

EXAMPLES = Path(__file__).parents[3] / "examples"
GIB = 1 << 30
ENOUGH = RoomFacts(Path("/runs"), 100 * GIB, GIB, 4, 64 * GIB, GIB, on_gpu=False)


def checked(facts: RoomFacts) -> Checked:
    """The checks of room."""
    return run_checks(room.CHECKS, facts)


def test_enough_room_is_silent() -> None:
    assert (checked(ENOUGH).findings, checked(ENOUGH).not_run) == ((), ())


@pytest.mark.parametrize(("free", "grade"), [(GIB - 1, Grade.CRITICAL), (GIB, Grade.WARNING), (2 * GIB, None)])
def test_disk_that_is_nearly_full_is_found(free: int, grade: Grade | None) -> None:
    found = checked(replace(ENOUGH, disk_free=free)).findings
    assert [(each.check, each.grade, each.key) for each in found] == (
        [] if grade is None else [("room.disk", grade, "checkpoints.keep")]
    )


def test_memory_that_does_not_hold_the_models_is_a_warning() -> None:
    found = finding(checked(replace(ENOUGH, memory_free=GIB)), "room.memory")
    assert found.what == ("Learner, rollout actors and snapshots need about 1.0 GiB of memory, and 1.0 GiB are free.")


@pytest.mark.parametrize("change", [{"memory_free": None}, {"on_gpu": True}, {"disk_free": None}])
def test_room_that_cannot_be_seen_is_not_judged(change: dict[str, Any]) -> None:
    outcome = checked(replace(ENOUGH, **change))
    assert (outcome.findings, len(outcome.not_run)) == ((), 1)


def test_needs_grow_with_what_is_kept(tmp_path: Path) -> None:
    def needs(**sections: Any) -> RoomFacts:
        return room_facts(parse_config(sections), 10**6, tmp_path, is_local=True)

    plain = needs()
    assert plain.checkpoints == 4
    assert needs(checkpoints={"keep": 5}).disk_needed - plain.disk_needed == 3 * 16 * 10**6
    assert needs(checkpoints={"every": 0, "at_end": False}).checkpoints == 0
    assert needs(records={"retention_mib": 1024}).disk_needed - plain.disk_needed == 512 << 20
    assert needs(snapshots={"keep": 8}).memory_needed - plain.memory_needed == 4 * 12 * 10**6
    assert needs(rollout={"num_actors": 2}).memory_needed > plain.memory_needed
    assert needs(algorithm={"kl_coef": 0}).memory_needed == plain.memory_needed - 4 * 10**6
    assert needs(placement={"gpus_per_learner": 1}).on_gpu
    assert plain.disk_free is not None
    assert plain.disk_free > 0


def test_memory_is_what_kernel_and_container_leave(tmp_path: Path) -> None:
    proc, groups = tmp_path / "proc", tmp_path / "cgroup"
    proc.mkdir()
    groups.mkdir()
    assert free_memory(proc, groups) is None
    (proc / "meminfo").write_text("MemTotal: 8000 kB\nMemAvailable:    4000 kB\n")
    assert free_memory(proc, groups) == 4000 << 10
    (groups / "memory.max").write_text("2097152\n")
    (groups / "memory.current").write_text("1048576\n")
    (groups / "memory.stat").write_text("anon 5\ninactive_file 4096\n")
    assert free_memory(proc, groups) == 1048576 + 4096
    (groups / "memory.max").write_text("max\n")
    assert free_memory(proc, groups) == 4000 << 10
    (proc / "meminfo").write_text("MemAvailable: much\n")
    assert free_memory(proc, groups) is None


def moved(lr: float, steps: int = 60, size: float = 0.04, updates: int = 1) -> Checked:
    """The checks of a rate."""
    return run_checks(rates.CHECKS, RateFacts(lr, updates, steps, size))


@pytest.mark.parametrize(
    ("lr", "found"),
    [
        (3e-3, {"rate.large"}),
        (LARGEST_MOVE * 0.04 * 1.01, {"rate.large"}),
        (LARGEST_MOVE * 0.04 * 0.99, set()),
        (1e-6, set()),
        (SMALLEST_MOVE * 0.04 / 60 * 1.01, set()),
        (SMALLEST_MOVE * 0.04 / 60 * 0.99, {"rate.small"}),
        (1e-9, {"rate.small"}),
    ],
)
def test_rate_is_judged_by_the_weights_that_it_moves(lr: float, found: set[str]) -> None:
    assert names(moved(lr)) == found


def test_updates_of_a_step_count() -> None:
    assert names(moved(1e-3, updates=4)) == {"rate.large"}


@pytest.mark.parametrize("size", [math.nan, 0.0])
def test_rate_is_not_judged_without_weights(size: float) -> None:
    assert {each.check for each in moved(3e-3, size=size).not_run} == {"rate.large", "rate.small"}


@pytest.mark.parametrize("name", ["addition", "calculator", "number_sequence", "spell_backward"])
@pytest.mark.parametrize("steps", [4, 40, 1000])
def test_shipped_examples_have_room_and_rates(name: str, steps: int, tmp_path: Path) -> None:
    config: RunConfig = load_config(EXAMPLES / f"{name}.yaml", [f"steps={steps}"])
    folder = ASSETS / config.model.path.removeprefix("builtin:")
    size = read_weights(read_tensors(folder)).size
    assert moved(config.learner.lr, steps, size).findings == ()
    needed = room_facts(config, read_facts(folder).parameters, tmp_path, is_local=True)
    assert needed.disk_needed < 2 * GIB > needed.memory_needed


SEVEN_BILLION = 7_600_000_000


def test_large_model_is_told_where_its_snapshots_go_and_how_large_they_are(tmp_path: Path) -> None:
    facts = room_facts(parse_config({}), SEVEN_BILLION, tmp_path, is_local=True)
    assert (facts.in_memory, facts.in_files) == (0, 4)
    note = finding(run_checks({"room.snapshots": room.snapshots}, facts), "room.snapshots")
    assert note.grade is Grade.NOTE
    assert note.what == f"Each of 4 snapshots takes about 84.9 GiB: all are written to {tmp_path / 'snapshots'}."
    assert facts.disk_needed > 4 * 12 * SEVEN_BILLION
    # What is written is copied first, one at a time.
    none = room_facts(parse_config({"snapshots": {"every": 0}}), SEVEN_BILLION, tmp_path, is_local=True)
    assert facts.memory_needed - none.memory_needed == 12 * SEVEN_BILLION
    assert none.in_files == 0


def test_snapshots_stay_in_memory_as_far_as_they_may(tmp_path: Path) -> None:
    def split(**keys: Any) -> tuple[int, int]:
        facts = room_facts(parse_config({"snapshots": keys}), 10**6, tmp_path, is_local=True)
        return facts.in_memory, facts.in_files

    assert split() == (4, 0)
    assert split(max_bytes=25 * 10**6) == (2, 2)
    assert split(max_bytes=25 * 10**6, spill=False) == (4, 0), "refused elsewhere"
    some = room_facts(parse_config({"snapshots": {"max_bytes": 25 * 10**6}}), 10**6, tmp_path, is_local=True)
    what = finding(run_checks({"room.snapshots": room.snapshots}, some), "room.snapshots").what
    assert "2 stay in memory and 2 are written to" in what
    assert run_checks({"room.snapshots": room.snapshots}, ENOUGH).findings == ()
