"""Durable checkpoints: safetensors and JSON, a manifest with hashes written last, one atomic rename.

A checkpoint is a directory `step-000040` with

    model/                the weights as a Hugging Face directory that can be served as it is
    rank-0.safetensors    this rank's fp32 master weights, optimizer moments and step counts, RNG
    state.json            position in the run, levers, the gate's window, and the layout it belongs to
    config.yaml           the configuration of the run; checkpoints of earlier versions lack it
    manifest.json         size and SHA-256 of every other file

Loading unpickles nothing, and every file is checked against the manifest before it is used. Beside the checkpoints a
link `best` names the one with the best held-out accuracy, which `prune` never removes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from rftfm_ray.errors import CheckpointError
from rftfm_ray.files import PRIVATE_DIR, PRIVATE_FILE, publish, sync_directory
from rftfm_ray.types import Levers, ProbeResult, TrainingCursor

FORMAT = 1
NAME = re.compile(r"step-(\d{6,})(?:-a(\d+))?")
STAGING_PREFIX = ".staging-"
CONFIG = "config.yaml"
BEST = "best"
"""Name of the link to the best checkpoint."""


@dataclass(frozen=True, slots=True)
class TrainerState:
    """The position of a run without its tensors.

    `cursor` counts the prompts drawn so far, `probe` are the answers of a held-out probe that is not complete yet,
    `policy` is what the remediation policy remembers, and `quarantine` are keys of prompts that are kept out;
    checkpoints of earlier versions have none of the last three.
    """

    attempt: int
    step: int
    paid_step: int
    model_version: int
    cursor: int
    world_size: int
    zero_stage: int
    levers: Levers
    grad_norms: tuple[float, ...]
    config_sha256: str
    probe: tuple[ProbeResult, ...] = ()
    policy: str = ""
    quarantine: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SaveOrder:
    """What a checkpoint needs beside the learner's own state.

    Attributes:
        folder: where it goes, beside earlier ones.
        position: of the run.
        config_sha256: of the run's configuration.
        is_best: whether it becomes the best of its folder.
        probe: as in `TrainerState`.
        policy: as in `TrainerState`.
        quarantine: as in `TrainerState`.
        keep_all: whether checkpoints that are there stay, however many the configuration allows.
    """

    folder: str
    position: TrainingCursor
    config_sha256: str
    is_best: bool = False
    probe: tuple[ProbeResult, ...] = ()
    policy: str = ""
    quarantine: tuple[str, ...] = ()
    keep_all: bool = False


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A complete checkpoint whose files have been verified."""

    path: Path
    state: TrainerState


_STATE = TypeAdapter(TrainerState)


def stage(folder: Path, step: int) -> Path:
    """A new, empty staging directory below `folder`; staging directories that a crash left behind are removed."""
    folder.mkdir(mode=PRIVATE_DIR, parents=True, exist_ok=True)
    for left in folder.glob(f"{STAGING_PREFIX}*"):
        shutil.rmtree(left)
    staging = folder / f"{STAGING_PREFIX}{step:06d}"
    staging.mkdir(mode=PRIVATE_DIR)
    return staging


def write_rank(staging: Path, rank: int, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write one rank's partition of the learner's state."""
    _write(staging / f"rank-{rank}.safetensors", save(_contiguous(arrays)))


def write_model(staging: Path, arrays: Mapping[str, NDArray[Any]], origin: Path) -> None:
    """Write the weights as a model directory, with configuration and tokenizer of the model they came from."""
    model = staging / "model"
    model.mkdir(mode=PRIVATE_DIR)
    for file in sorted(origin.iterdir()):
        is_weight = file.suffix in {".safetensors", ".bin", ".pt", ".pth"} or file.name.endswith(".index.json")
        if file.is_file() and not is_weight:
            _write(model / file.name, file.read_bytes())
    weights = save(_contiguous(arrays), metadata={"format": "pt"})
    _write(model / "model.safetensors", weights)


def write_config(staging: Path, text: str) -> None:
    """Write the configuration of the run, as YAML."""
    _write(staging / CONFIG, text.encode())


def commit(staging: Path, state: TrainerState) -> Checkpoint:
    """Write state and manifest, and give the checkpoint its name. Only now does the checkpoint exist.

    Raises:
        CheckpointError: when a checkpoint of that name exists.
    """
    suffix = f"-a{state.attempt}" if state.attempt else ""
    final = staging.parent / f"step-{state.step:06d}{suffix}"
    if final.exists():
        raise CheckpointError(f"Checkpoint {final} exists already; it is never overwritten.")
    _write(staging / "state.json", json.dumps({"format": FORMAT, **dataclasses.asdict(state)}, indent=1).encode())
    files = {str(f.relative_to(staging)): _fingerprint(f) for f in _files(staging)}
    _write(staging / "manifest.json", json.dumps({"format": FORMAT, "files": files}, indent=1).encode())
    for directory in (staging / "model", staging):
        if directory.is_dir():
            sync_directory(directory)
    publish(staging, final)
    return Checkpoint(final, state)


def verify(path: Path) -> Checkpoint:
    """Check a checkpoint against its manifest, byte for byte, and read its state.

    Raises:
        CheckpointError: names the file that is missing, altered or unreadable.
    """
    manifest = _read_json(path / "manifest.json")
    _check_format(path / "manifest.json", manifest)
    listed = manifest.get("files")
    if not isinstance(listed, dict) or not listed:
        raise CheckpointError(f"{path / 'manifest.json'} lists no files; use another checkpoint.")
    present = {str(f.relative_to(path)) for f in _files(path)} - {"manifest.json"}
    if present != set(listed):
        wrong = min(present ^ set(listed))
        problem = "is missing" if wrong in listed else "is not in its manifest"
        raise CheckpointError(f"Checkpoint file {path / wrong} {problem}; use another checkpoint.")
    for name, expected in listed.items():
        if _fingerprint(path / name) != expected:
            raise CheckpointError(
                f"Checkpoint file {path / name} has not the size and hash of its manifest; use another checkpoint."
            )
    state = _read_state(path)
    for rank in range(state.world_size):
        if f"rank-{rank}.safetensors" not in listed:
            raise CheckpointError(f"Checkpoint {path} has no file of rank {rank}; use another checkpoint.")
    return Checkpoint(path, state)


def _read_state(path: Path) -> TrainerState:
    values = _read_json(path / "state.json")
    _check_format(path / "state.json", values)
    del values["format"]
    try:
        return _STATE.validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        key = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise CheckpointError(f"{path / 'state.json'} has a wrong value for {key}; use another checkpoint.") from None


def _check_format(file: Path, values: Mapping[str, Any]) -> None:
    if values.get("format") != FORMAT:
        raise CheckpointError(f"{file} is not of format {FORMAT}; load it with the version that wrote it.")


def read_rank(checkpoint: Checkpoint, rank: int) -> dict[str, NDArray[Any]]:
    """One rank's partition.

    Raises:
        CheckpointError: when the checkpoint has no such rank; partitions are never re-cut by guessing.
    """
    if rank >= checkpoint.state.world_size:
        raise CheckpointError(
            f"{checkpoint.path} was saved by {checkpoint.state.world_size} learner ranks and has no rank {rank}; "
            "resume with as many ranks."
        )
    return _load(checkpoint.path / f"rank-{rank}.safetensors")


def read_config(checkpoint: Checkpoint) -> str | None:
    """The configuration that the checkpoint was made under, as YAML; None in those of earlier versions.

    Raises:
        CheckpointError: when it cannot be read.
    """
    file = checkpoint.path / CONFIG
    if not file.exists():
        return None
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{file} cannot be read ({error}); use another checkpoint.") from None


def read_model(checkpoint: Checkpoint) -> dict[str, NDArray[Any]]:
    """The weights by Hugging Face name."""
    return _load(checkpoint.path / "model" / "model.safetensors")


def newest_valid(folder: Path) -> Checkpoint | None:
    """The newest checkpoint in `folder` that passes `verify`, or None."""
    for path in reversed(named(folder)):
        try:
            return verify(path)
        except CheckpointError:
            continue
    return None


def mark_best(checkpoint: Path) -> None:
    """Make a checkpoint the best of its folder, by one atomic rename of a link.

    Raises:
        CheckpointError: when it is incomplete or damaged; the link then stays as it was.
    """
    verify(checkpoint)
    temporary = checkpoint.parent / f".{BEST}.{os.getpid()}.tmp"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(checkpoint.name)
    publish(temporary, checkpoint.parent / BEST)


def best(folder: Path) -> Path | None:
    """The checkpoint that was marked as the best of `folder`; None when none was, or when it has been removed."""
    link = folder / BEST
    marked = folder / link.readlink().name if link.is_symlink() else None
    return marked if marked is not None and marked.is_dir() else None


def prune(folder: Path, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints, at least 1, and the best one.

    Manifests are removed first, so that no partial checkpoint looks valid.
    """
    protected = best(folder)
    for path in named(folder)[: -max(keep, 1)]:
        if path == protected:
            continue
        (path / "manifest.json").unlink(missing_ok=True)
        shutil.rmtree(path)


def named(folder: Path) -> list[Path]:
    """Directories of checkpoints, complete or not, by (attempt, step): a later attempt is newer at any step."""
    matches = [(match, path) for path in folder.glob("step-*") if (match := NAME.fullmatch(path.name))]
    return [path for match, path in sorted(matches, key=lambda pair: (int(pair[0][2] or 0), int(pair[0][1])))]


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if not path.is_dir())


def _contiguous(arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    # Not `ascontiguousarray`, which gives a scalar array an axis.
    return {name: np.asarray(array, order="C") for name, array in arrays.items()}


def _write(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_FILE)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _fingerprint(path: Path) -> dict[str, object]:
    try:
        with path.open("rb") as file:
            return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
    except OSError as error:
        raise CheckpointError(f"Checkpoint file {path} cannot be read ({error.strerror}).") from None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); give a complete checkpoint directory.") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} does not hold a JSON object; give a complete checkpoint directory.")
    return values


def _load(path: Path) -> dict[str, NDArray[Any]]:
    try:
        arrays: dict[str, NDArray[Any]] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} is not a readable safetensors file ({error}); use another checkpoint.") from None
    return arrays
