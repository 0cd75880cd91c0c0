"""Where a model is, and whether it can be trained: known before any actor starts, without loading it."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import prod
from pathlib import Path
from typing import Any

from rftfm_ray.config import RunConfig
from rftfm_ray.errors import ConfigError, ModelError

ASSETS = Path(__file__).parent / "assets"
BUILTIN = "builtin:"
# Master weight and two Adam moments, each in float32.
BYTES_PER_PARAMETER = 12
# Names of one thing, by family of models.
POSITIONS = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length", "n_ctx")
# `CPUAttentionBackend.get_supported_head_sizes` of vLLM 0.32.
CPU_HEAD_SIZES = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)
INDEX = "model.safetensors.index.json"
ADAPTER = "base_model."
"""What the names of an adapter's weights begin with, and of a model that was saved with its adapter around it."""


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


@dataclass(frozen=True, slots=True)
class TensorFact:
    """A tensor as the header of its file describes it.

    Attributes:
        name: in the model.
        shape: its sizes.
        dtype: as safetensors calls it, for example `F32` or `BF16`.
        file: where it is.
        begin: first byte of its values in the file.
        end: the byte after its values.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    file: Path
    begin: int
    end: int


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
        ModelError: when a file is missing or unreadable, or the files hold an adapter instead of a model.
    """
    config = read_model_config(path)
    tensors = read_tensors(path)
    _check_names(path, tensors)
    return ModelFacts(path, sum(prod(tensor.shape) for tensor in tensors), _integer(config, POSITIONS))


def read_model_config(path: Path) -> dict[str, Any]:
    """What `config.json` of a model says, with the values of its language model on top; empty where it says nothing.

    Raises:
        ModelError: when it is missing or unreadable.
    """
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        file = path / "config.json"
        raise ModelError(f"{file} cannot be read ({error}); give a Hugging Face model directory.") from None
    if not isinstance(config, dict):
        return {}
    text = config.get("text_config")
    return config | text if isinstance(text, dict) else config


def read_tensors(path: Path) -> tuple[TensorFact, ...]:
    """The tensors of a model's weight files, from their headers, file by file.

    Raises:
        ModelError: when a file is missing or unreadable.
    """
    _check_shards(path)
    files = sorted(path.glob("*.safetensors"))
    if not files:
        raise ModelError(f"{path} has no *.safetensors file; convert the weights, other formats are not loaded.")
    return tuple(tensor for file in files for tensor in _tensors(file))


def head_size(config: Mapping[str, Any]) -> int | None:
    """Size of an attention head by `config.json`; None where it does not say, or heads are compressed."""
    if "kv_lora_rank" in config:
        return None
    declared, width = _integer(config, ("head_dim",)), _integer(config, ("hidden_size", "n_embd"))
    heads = _integer(config, ("num_attention_heads", "n_head"))
    return declared or (width // heads if width and heads else None)


def _integer(config: Mapping[str, Any], names: Sequence[str]) -> int | None:
    values = (config.get(name) for name in names)
    return next((value for value in values if isinstance(value, int) and not isinstance(value, bool)), None)


def _check_shards(path: Path) -> None:
    """Refuse a model of several files of which one is missing."""
    index = path / INDEX
    if not index.is_file():
        return
    try:
        files = {str(file) for file in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{index} cannot be read ({error!r}); fetch it again.") from None
    missing = sorted(file for file in files if not (path / file).is_file())
    if missing:
        named = ", ".join(missing[:3]) + (" and others" if len(missing) > 3 else "")
        raise ModelError(
            f"{path} lacks {named} of the {len(files)} weight files that {INDEX} names; fetch the model again."
        )


def _check_names(path: Path, tensors: Sequence[TensorFact]) -> None:
    """Refuse the weights of an adapter: a library would load none of them, and start from random ones."""
    adapter = [tensor.name for tensor in tensors if tensor.name.startswith(ADAPTER) or ".lora_" in tensor.name]
    if not adapter:
        return
    if len(adapter) == len(tensors) and not any(".lora_" in name for name in adapter):
        raise ModelError(
            f"No weight of the model is in {path}: every name begins with {ADAPTER}, for example {adapter[0]}; save "
            "the model that merge_and_unload() of its adapter returns."
        )
    raise ModelError(
        f"{path} holds weights of an adapter, for example {adapter[0]}; merge the adapter into its base model with "
        "merge_and_unload(), and save that."
    )


def _tensors(file: Path) -> list[TensorFact]:
    try:
        with file.open("rb") as handle:
            (length,) = struct.unpack("<Q", handle.read(8))
            if length > file.stat().st_size:
                raise ValueError("header is longer than the file")
            header = json.loads(handle.read(length))
        entries = [(name, entry) for name, entry in header.items() if name != "__metadata__"]
        return [_tensor(file, 8 + length, name, entry) for name, entry in entries]
    except (OSError, ValueError, struct.error, TypeError, KeyError, AttributeError) as error:
        raise ModelError(f"{file} is not a readable safetensors file ({error}); fetch it again.") from None


def _tensor(file: Path, data: int, name: str, entry: Mapping[str, Any]) -> TensorFact:
    shape = tuple(entry["shape"])
    if not all(isinstance(size, int) and size >= 0 for size in shape):
        raise ValueError(f"{name} has the shape {shape}")
    begin, end = entry.get("data_offsets", (0, 0))
    return TensorFact(name, shape, str(entry.get("dtype", "")), file, data + int(begin), data + int(end))


def check_model(config: RunConfig) -> ModelFacts:
    """Resolve the model and check, by its files alone, that it fits the run.

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
    size = head_size(read_model_config(facts.path))
    if not config.placement.gpus_per_rollout and size is not None and size not in CPU_HEAD_SIZES:
        raise ModelError(
            f"model.path={config.model.path} has attention heads of {size}, and vLLM on a CPU computes with heads of "
            f"{', '.join(map(str, CPU_HEAD_SIZES))} alone; choose another model, or set placement.gpus_per_rollout."
        )
    needed = facts.parameters * BYTES_PER_PARAMETER * config.snapshots.keep
    if config.snapshots.every and needed > config.snapshots.max_bytes and not config.snapshots.spill:
        raise ConfigError(
            f"snapshots.keep={config.snapshots.keep} snapshots of {facts.parameters} parameters take {needed} bytes, "
            f"more than snapshots.max_bytes={config.snapshots.max_bytes}; raise it, lower snapshots.keep, or set "
            "snapshots.spill=true."
        )
    return facts
