"""`rftfm model`: a model directory that can be trained, from a GGUF file."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class WeightType(StrEnum):
    """Of weights that are written."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


def model(
    source: Annotated[str, typer.Argument(help="smollm2 (SmolLM2-135M-Instruct), or a GGUF file.")],
    out: Annotated[Path, typer.Argument(help="Directory to write the model to; must not exist yet.")],
    dtype: Annotated[WeightType, typer.Option(help="Of the weights.")] = WeightType.FLOAT32,
) -> None:
    """Write a Hugging Face model directory from a GGUF file, to train it with model.path=DIR."""
    # transformers takes seconds to import: not before the arguments are known to be good.
    from rftfm_ray.rollout.engine import prepare_environment

    prepare_environment()
    from rftfm_ray.training.gguf import convert, gguf_file

    made = convert(gguf_file(source), out, dtype.value)
    template = "with a chat template" if made.has_template else "without a chat template"
    print(f"{made.facts.parameters / 1e6:,.1f}M parameters, {template}: {out}")
