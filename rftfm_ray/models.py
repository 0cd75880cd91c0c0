"""Where a model is, and whether it can be trained: known before any actor starts, without loading it."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from enum import StrEnum
from math import prod
from pathlib import Path

from rftfm_ray.config import RunConfig
from rftfm_ray.errors import ConfigError, ModelError

ASSETS = Path(__file__).parent / "assets"
BUILTIN = "builtin:"
# Master weight and two Adam moments, each in float32.
BYTES_PER_PARAMETER = 12


class ModelSize(StrEnum):
    """The models that ship: `model.path=builtin:SIZE`."""

    TINY = "tiny"
    SMALL = "small"


TASK_POLICIES = ("number_sequence", "spell_backward")
"""Starting policies of one task that ship, of the tiny size: `model.path=builtin:NAME`, as in examples/NAME.yaml."""
BUILTIN_NAMES = tuple(BUILTIN + name for name in (*ModelSize, *TASK_POLICIES))


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What the files of a model say."""

    path: Path
    parameters: int
    max_positions: int | None


def resolve_model(name: str) -> Path:
    """The directory of `model.path`: a shipped model, a directory, or a hub id fetched into the local cache.

    Raises:
        ModelError: when there is no such model.
    """
    if name in BUILTIN_NAMES:
        return ASSETS / name.removeprefix(BUILTIN)
    shipped = f"{', '.join(BUILTIN_NAMES[:-1])} or {BUILTIN_NAMES[-1]}"
    if name.startswith(BUILTIN):
        raise ModelError(f"model.path={name} is not a shipped model; use {shipped}, or give a directory or a hub id.")
    directory = Path(name).expanduser()
    if directory.is_dir():
        return directory.resolve()
    if directory.is_absolute() or name.startswith((".", "~")) or name.count("/") != 1:
        raise ModelError(
            f"model.path={name} is not a directory; give a Hugging Face model directory, a hub id, or {shipped}."
        )
    from huggingface_hub import snapshot_download

    try:
        patterns = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
        return Path(snapshot_download(name, allow_patterns=patterns))
    except Exception as error:  # the hub client raises many unrelated types
        raise ModelError(
            f"model.path={name} is neither a directory nor a hub id that can be fetched ({type(error).__name__}); "
            "check the name, or download the model and give its directory."
        ) from error


def read_facts(path: Path) -> ModelFacts:
    """Count parameters from the headers of the weight files.

    Raises:
        ModelError: when a file is missing or unreadable.
    """
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        file = path / "config.json"
        raise ModelError(f"{file} cannot be read ({error}); give a Hugging Face model directory.") from None
    files = sorted(path.glob("*.safetensors"))
    if not files:
        raise ModelError(f"{path} has no *.safetensors file; convert the weights, other formats are not loaded.")
    positions = config.get("max_position_embeddings") if isinstance(config, dict) else None
    return ModelFacts(path, sum(_count(file) for file in files), positions if isinstance(positions, int) else None)


def _count(file: Path) -> int:
    try:
        with file.open("rb") as handle:
            (length,) = struct.unpack("<Q", handle.read(8))
            if length > file.stat().st_size:
                raise ValueError("header is longer than the file")
            header = json.loads(handle.read(length))
        return sum(prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
    except (OSError, ValueError, struct.error, TypeError, KeyError, AttributeError) as error:
        raise ModelError(f"{file} is not a readable safetensors file ({error}); fetch it again.") from None


def check_model(config: RunConfig) -> ModelFacts:
    """Resolve the model and check that it fits the run.

    Raises:
        ModelError: when the model or its tokenizer cannot be used.
        ConfigError: when it does not fit the configured lengths or memory.
    """
    facts = read_facts(resolve_model(config.model.path))
    if config.model.path not in BUILTIN_NAMES:
        from rftfm_ray.rollout.text import TextCodec

        TextCodec(str(facts.path))
    if facts.max_positions is not None and config.rollout.max_model_len > facts.max_positions:
        raise ConfigError(
            f"rollout.max_model_len={config.rollout.max_model_len} is more than the {facts.max_positions} positions of "
            f"model.path={config.model.path}; lower it."
        )
    needed = facts.parameters * BYTES_PER_PARAMETER * config.snapshots.keep
    if config.snapshots.every and needed > config.snapshots.max_bytes:
        raise ConfigError(
            f"snapshots.keep={config.snapshots.keep} snapshots of {facts.parameters} parameters take {needed} bytes, "
            f"more than snapshots.max_bytes={config.snapshots.max_bytes}; raise it, or lower snapshots.keep."
        )
    return facts
