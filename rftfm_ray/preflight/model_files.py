"""Checks of a model by its files alone: weights, vocabulary, end and padding tokens, precision."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rftfm_ray.models import TensorFact, read_model_config, read_tensors
from rftfm_ray.preflight.findings import Check, Finding, Grade, NotRun, Outcome, listed
from rftfm_ray.preflight.texts import Tokenizer

READ_BYTES = 1 << 30
"""Weights that are read at most: a second or two from a warm disk. Of larger models the first bytes of each tensor."""
READ_S = 3.0
"""Seconds after which reading weights ends; what was not read is said."""
EXPONENT = {"F32": (np.uint32, 0x7F800000), "F16": (np.uint16, 0x7C00), "BF16": (np.uint16, 0x7F80)}
"""Bits of the exponent by precision: where all of them are set, a value is NaN or infinite."""
WIDTH = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight", "embed_in.weight", "tok_embeddings.weight")
LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.")


@dataclass(frozen=True, slots=True)
class Weights:
    """What the values of a model's weights are like.

    Attributes:
        unsound: names of tensors that hold NaN or infinity.
        read: bytes that were looked at.
        total: bytes that there are.
        size: root mean square of the values of matrices; NaN where none was read.
    """

    unsound: tuple[str, ...]
    read: int
    total: int
    size: float


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """The files of a model.

    Attributes:
        config: `config.json`.
        generation: `generation_config.json`; empty where there is none.
        tensors: by the headers of the weight files.
        weights: their values.
        tokenizer: None where its files do not tell.
        most_id: the largest token id of the tokenizer; None likewise.
        end_ids: ids of the tokens that the tokenizer ends a text with.
        dtype: `model.dtype`.
    """

    config: Mapping[str, Any]
    generation: Mapping[str, Any]
    tensors: Sequence[TensorFact]
    weights: Weights
    tokenizer: Tokenizer | None
    most_id: int | None
    end_ids: tuple[int, ...]
    dtype: str

    @property
    def embedding_rows(self) -> int | None:
        """Rows of the input embedding; None where no tensor has a name of one."""
        found = (t.shape[0] for t in self.tensors if t.shape and t.name.endswith(EMBEDDINGS))
        return next(found, None)


def read_model(path: Path, dtype: str) -> ModelFacts:
    """Everything that the files of a model say; weights are read as far as there is time.

    Raises:
        ModelError: when a file is missing or unreadable.
    """
    tensors = read_tensors(path)
    raw = _tokenizer_of(path)
    settings = _json(path / "tokenizer_config.json")
    tokenizer, most_id, end_ids = (None, None, ()) if raw is None else _tokenizer(path, raw, settings)
    generation = _json(path / "generation_config.json")
    weights = read_weights(tensors)
    return ModelFacts(read_model_config(path), generation, tensors, weights, tokenizer, most_id, end_ids, dtype)


def read_weights(tensors: Sequence[TensorFact], most: int = READ_BYTES, seconds: float = READ_S) -> Weights:
    """Look for values that are not finite, and measure those of the matrices.

    Args:
        tensors: where the values are.
        most: bytes in all; of larger models an equal share of the first bytes of each tensor.
        seconds: after which no further tensor is read.
    """
    began, total = time.monotonic(), sum(t.end - t.begin for t in tensors)
    share = min(1.0, most / total) if total else 1.0
    unsound, read, squares, count = [], 0, 0.0, 0
    for tensor in tensors:
        if tensor.dtype not in EXPONENT or time.monotonic() - began > seconds:
            continue
        kind, exponent = EXPONENT[tensor.dtype]
        width = np.dtype(kind).itemsize
        entries = math.ceil((tensor.end - tensor.begin) // width * share)
        bits = np.fromfile(tensor.file, dtype=kind, count=entries, offset=tensor.begin)
        read += bits.nbytes
        if np.any((bits & exponent) == exponent):
            unsound.append(tensor.name)
        elif len(tensor.shape) > 1:
            values = _values(bits, tensor.dtype)
            with np.errstate(over="ignore"):
                squares, count = squares + float(np.dot(values, values)), count + len(values)
    return Weights(tuple(unsound), read, total, math.sqrt(squares / count) if count else math.nan)


def _values(bits: np.ndarray[Any, Any], dtype: str) -> np.ndarray[Any, Any]:
    if dtype == "BF16":
        return (bits.astype(np.uint32) << 16).view(np.float32)
    return bits.view(np.float32) if dtype == "F32" else bits.view(np.float16).astype(np.float32)


def _json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _tokenizer_of(path: Path) -> Any:
    """The tokenizer of `tokenizer.json`, None where there is none that loads; the rollout refuses a damaged one."""
    file = path / "tokenizer.json"
    if not file.is_file():
        return None
    # The library of the actors' tokenizer, without transformers around it, which takes seconds to load.
    from tokenizers import Tokenizer as Loaded

    try:
        return Loaded.from_file(str(file))
    except Exception:  # noqa: BLE001 - the library raises bare exceptions for damaged files
        return None


def _tokenizer(path: Path, raw: Any, settings: Mapping[str, Any]) -> tuple[Tokenizer, int, tuple[int, ...]]:
    end = _text(settings.get("eos_token")) or _text(_json(path / "special_tokens_map.json").get("eos_token"))
    unknown = raw.token_to_id(_text(settings.get("unk_token"))) if settings.get("unk_token") else None
    template = _template(path, settings)
    special = [token.content for token in raw.get_added_tokens_decoder().values() if token.special]
    id_of = raw.token_to_id(end) if end else None
    most = max(raw.get_vocab(with_added_tokens=True).values(), default=-1)

    def encode(text: str) -> Sequence[int]:
        ids: Sequence[int] = raw.encode(text, add_special_tokens=False).ids
        return ids

    def decode(ids: Sequence[int]) -> str:
        text: str = raw.decode(list(ids), skip_special_tokens=False)
        return text

    tokenizer = Tokenizer(
        encode, decode, (end,) if end else (), unknown, bool(template),
        tuple(mark for mark in special if mark in template),
    )  # fmt: skip
    return tokenizer, most, () if id_of is None else (id_of,)


def _text(token: object) -> str:
    """A special token of a configuration, which holds it as text or as an object with a content."""
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) else ""


def _template(path: Path, settings: Mapping[str, Any]) -> str:
    file = path / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8", errors="replace")
    declared = settings.get("chat_template")
    return declared if isinstance(declared, str) else json.dumps(declared) if declared else ""


def finite(facts: ModelFacts) -> Outcome:
    """Weights that are NaN or infinite."""
    weights = facts.weights
    if weights.unsound:
        what = f"Weights are not finite in {len(weights.unsound)} tensors: {listed(list(weights.unsound))}."
        why = "Every log-prob is NaN, so nothing can be generated or learnt."
        return Finding(Grade.CRITICAL, what, why, "model.path")
    if weights.read < weights.total:
        part = f"{weights.read / 2**20:.0f} of {weights.total / 2**20:.0f} MiB"
        return NotRun(f"{part} of the weights were read, and are finite")
    return None


def vocabulary(facts: ModelFacts) -> Outcome:
    """Tokens of the tokenizer that the embedding has no row for."""
    rows = facts.embedding_rows
    if facts.most_id is None:
        return NotRun("the model has no tokenizer.json that loads")
    if rows is None:
        return NotRun("no tensor has the name of an embedding")
    declared = facts.config.get("vocab_size")
    if isinstance(declared, int) and declared != rows:
        what = f"config.json says vocab_size={declared}, and the embedding has {rows} rows."
        return Finding(
            Grade.CRITICAL, what, "The weights do not load into the model of this configuration.", "model.path"
        )
    if facts.most_id < rows:
        return None
    what = f"The tokenizer has tokens up to number {facts.most_id}, and the embedding has {rows} rows."
    why = "A prompt with such a token ends the run; resize the embedding, or take the model's own tokenizer."
    return Finding(Grade.CRITICAL, what, why, "model.path")


def layers(facts: ModelFacts) -> Outcome:
    """Layers that the configuration names and the weight files lack, or the other way round."""
    declared = next((facts.config[name] for name in ("num_hidden_layers", "n_layer") if name in facts.config), None)
    found = {int(match.group(1)) for t in facts.tensors if (match := LAYER.search(t.name))}
    if not isinstance(declared, int) or not found:
        return NotRun("config.json or the names of the weights say nothing about layers")
    missing = sorted(set(range(declared)) - found)
    if missing:
        what = f"The weight files hold no weight of layer {listed([str(n) for n in missing])} of {declared}."
        return Finding(Grade.CRITICAL, what, "Missing layers start from random weights.", "model.path")
    return None


def ends(facts: ModelFacts) -> Outcome:
    """End tokens that the configuration names and the tokenizer does not have, or ends with another."""
    declared = facts.generation.get("eos_token_id", facts.config.get("eos_token_id"))
    ids = [i for i in (declared if isinstance(declared, list) else [declared]) if isinstance(i, int)]
    rows = facts.embedding_rows
    if rows is not None and any(i >= rows or i < 0 for i in ids):
        what = f"eos_token_id={listed([str(i) for i in ids])} is not among the {rows} tokens of the embedding."
        return Finding(Grade.CRITICAL, what, "The model can never end an answer by itself.", "model.path")
    if not facts.end_ids:
        return NotRun("the files of the tokenizer name no token that ends a sequence")
    if not ids or set(ids) & set(facts.end_ids):
        return None
    what = f"The tokenizer ends a text with token {facts.end_ids[0]}, the model's configuration with {ids[0]}."
    why = "Both end an answer here; the one that the model was not trained to give is left in the text of others."
    return Finding(Grade.WARNING, what, why, "model.path")


def padding(facts: ModelFacts) -> Outcome:
    """A padding token without a row in the embedding."""
    pad, rows = facts.config.get("pad_token_id"), facts.embedding_rows
    if not isinstance(pad, int) or rows is None or 0 <= pad < rows:
        return None
    what = f"pad_token_id={pad} is not among the {rows} tokens of the embedding."
    return Finding(Grade.WARNING, what, "Libraries that pad with it fail or read another row.", "model.path")


def precision(facts: ModelFacts) -> Outcome:
    """Weights that are rounded when they are loaded."""
    sizes: dict[str, int] = {}
    for tensor in facts.tensors:
        sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.end - tensor.begin
    most = max(sizes, key=lambda name: sizes[name], default="")
    if most not in WIDTH:
        return NotRun(f"the weights are of the type {most}" if most else "there are no weights")
    if facts.dtype == "bfloat16" and most != "BF16":
        what = f"The weights are stored in {WIDTH[most]}, and model.dtype=bfloat16 rounds them to 8 bits."
        return Finding(
            Grade.NOTE, what, "The run starts from slightly other weights than the files hold.", "model.dtype"
        )
    return None


CHECKS: Mapping[str, Check[ModelFacts]] = {
    "model.finite": finite,
    "model.vocabulary": vocabulary,
    "model.layers": layers,
    "model.ends": ends,
    "model.padding": padding,
    "model.precision": precision,
}
ReadModel = Callable[[Path, str], ModelFacts]
