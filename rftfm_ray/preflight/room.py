"""Checks of room: on the disk for checkpoints and records, in memory for models, in either for snapshots."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rftfm_ray.config import RunConfig
from rftfm_ray.preflight.findings import Check, Finding, Grade, NotRun, Outcome

CHECKPOINT_BYTES = 16
"""Bytes per parameter of a checkpoint: the model, its master weights and two Adam moments, each in float32."""
LEARNER_BYTES = 24
"""Bytes per parameter of the learner: what a checkpoint holds, the gradient, and a copy that is sent away."""
REFERENCE_BYTES = 4
ROLLOUT_BYTES = 8
"""Bytes per parameter of a rollout actor: its weights, and those that arrive."""
SNAPSHOT_BYTES = 12
SPARE = 0.9
"""Share of what is free that a run may take; estimates are no better than that."""


@dataclass(frozen=True, slots=True)
class RoomFacts:
    """What a run needs and what there is, in bytes; None where it cannot be known."""

    folder: Path
    disk_free: int | None
    disk_needed: int
    checkpoints: int
    memory_free: int | None
    memory_needed: int
    on_gpu: bool
    snapshot: int = 0
    in_memory: int = 0
    in_files: int = 0


def room_facts(config: RunConfig, parameters: int, folder: Path, *, is_local: bool) -> RoomFacts:
    """Estimate what a run needs, and look what there is.

    Args:
        config: of the run.
        parameters: of the model.
        folder: of the run; it need not exist.
        is_local: whether the actors run on this machine.
    """
    keep = config.checkpoints
    # One is written before an older one is removed.
    count = keep.keep + keep.best + 1 if keep.every or keep.at_end else 0
    disk = count * parameters * CHECKPOINT_BYTES + (config.records.retention_mib << 20)
    reference = REFERENCE_BYTES if config.algorithm.kl_coef > 0 else 0
    snapshot = parameters * SNAPSHOT_BYTES
    kept = config.snapshots.keep if config.snapshots.every else 0
    in_memory = min(kept, config.snapshots.max_bytes // max(1, snapshot)) if config.snapshots.spill else kept
    disk += (kept - in_memory) * snapshot
    rollout = config.rollout.num_actors * (parameters * ROLLOUT_BYTES + (config.rollout.kv_cache_mib << 20))
    # One is copied before it is written.
    memory = parameters * (LEARNER_BYTES + reference) + max(in_memory, min(kept, 1)) * snapshot + rollout
    placed = config.placement
    on_gpu = placed.gpus_per_learner > 0 or placed.gpus_per_rollout > 0
    free = free_memory() if is_local else None
    return RoomFacts(
        folder, free_disk(folder), disk, count, free, memory, on_gpu, snapshot, in_memory, kept - in_memory
    )


def free_disk(folder: Path) -> int | None:
    """Free bytes where a folder would be made; None where that cannot be seen."""
    try:
        existing = next(place for place in (folder, *folder.parents) if place.exists())
        return shutil.disk_usage(existing).free
    except (OSError, StopIteration):
        return None


def free_memory(proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes of memory that are free, by the kernel and by the limit of the container; None where neither says."""
    available = [_available(proc / "meminfo"), _left_in_group(groups)]
    known = [value for value in available if value is not None]
    return min(known) if known else None


def _available(file: Path) -> int | None:
    try:
        lines = dict(line.split(":", 1) for line in file.read_text(encoding="utf-8").splitlines() if ":" in line)
        return int(lines["MemAvailable"].split()[0]) << 10
    except (OSError, ValueError, KeyError, IndexError):
        return None


def _left_in_group(folder: Path) -> int | None:
    """What the limit of a control group leaves: `memory.max` less `memory.current`, its page cache not counted."""
    try:
        most = (folder / "memory.max").read_text(encoding="utf-8").strip()
        used = int((folder / "memory.current").read_text(encoding="utf-8"))
        fields = dict(line.split() for line in (folder / "memory.stat").read_text(encoding="utf-8").splitlines())
        return None if most == "max" else int(most) - used + int(fields.get("inactive_file", "0"))
    except (OSError, ValueError):
        return None


def disk(facts: RoomFacts) -> Outcome:
    """Checkpoints and records do not fit on the disk."""
    if facts.disk_free is None:
        return NotRun("the free space of the run directory cannot be seen")
    if facts.disk_needed <= SPARE * facts.disk_free:
        return None
    what = (
        f"The run directory needs up to {_size(facts.disk_needed)} for {facts.checkpoints} checkpoints, "
        f"{'snapshots, ' if facts.in_files else ''}and the records, and {_size(facts.disk_free)} are free."
    )
    grade = Grade.CRITICAL if facts.disk_needed > facts.disk_free else Grade.WARNING
    return Finding(grade, what, "The run ends when the disk is full.", "checkpoints.keep")


def memory(facts: RoomFacts) -> Outcome:
    """Models and snapshots do not fit into memory."""
    if facts.on_gpu:
        return NotRun("models are on GPUs, whose memory is not seen from here")
    if facts.memory_free is None:
        return NotRun("the actors may run on other machines")
    if facts.memory_needed <= SPARE * facts.memory_free:
        return None
    what = (
        f"Learner, rollout actors and snapshots need about {_size(facts.memory_needed)} of memory, and "
        f"{_size(facts.memory_free)} are free."
    )
    return Finding(Grade.WARNING, what, "An actor may be killed in the middle of the run.", "snapshots.keep")


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def snapshots(facts: RoomFacts) -> Outcome:
    """Snapshots for rollbacks lie in files, because memory has no room for them."""
    if not facts.in_files:
        return None
    where = f"{facts.in_memory} stay in memory and {facts.in_files} are" if facts.in_memory else "all are"
    what = (
        f"Each of {facts.in_memory + facts.in_files} snapshots takes about {_size(facts.snapshot)}: {where} written to "
        f"{facts.folder / 'snapshots'}."
    )
    return Finding(Grade.NOTE, what, "Writing one takes time every snapshots.every steps.", "snapshots.max_bytes")


CHECKS: Mapping[str, Check[RoomFacts]] = {
    "room.disk": disk, "room.memory": memory, "room.snapshots": snapshots,
}  # fmt: skip

LOCAL = "RAY_ADDRESS"


def is_local() -> bool:
    """Whether a run of this process has its actors on this machine: no cluster is named."""
    return not os.environ.get(LOCAL)
