"""Checks of a model's files: the shipped models are silent, and each check finds a model with its defect."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from rftfm_ray.models import ASSETS, TASK_POLICIES, ModelSize, read_tensors
from rftfm_ray.preflight.findings import Checked, Grade, run_checks
from rftfm_ray.preflight.model_files import CHECKS, read_model, read_weights
from tests.unit.preflight.doubles import finding, names


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A copy of the shipped model."""
    return Path(shutil.copytree(ASSETS / "tiny", tmp_path / "model"))


def checked(path: Path, dtype: str = "float32") -> Checked:
    """The checks of a model's files."""
    return run_checks(CHECKS, read_model(path, dtype))


def change(path: Path, name: str, **values: Any) -> None:
    """Change values of a JSON file of a model; None removes one."""
    file = path / name
    held = json.loads(file.read_text()) | values
    file.write_text(json.dumps({key: value for key, value in held.items() if value is not None}))


def rewrite(path: Path, **changes: Any) -> None:
    """Change weights of a model; None removes a tensor."""
    weights = load_file(path / "model.safetensors")
    for name, value in changes.items():
        full = next(n for n in weights if n.endswith(name.replace("__", ".")))
        if value is None:
            del weights[full]
        else:
            weights[full] = value(weights[full].copy())
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("name", [*ModelSize, *TASK_POLICIES])
def test_shipped_model_is_silent_in_every_check(name: str) -> None:
    outcome = checked(ASSETS / name)
    assert (outcome.findings, outcome.not_run) == ((), ())


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_single_weight_that_is_not_finite_is_found_by_its_tensor(model: Path, value: float) -> None:
    def spoil(weights: Any) -> Any:
        weights[3, 5] = value
        return weights

    rewrite(model, layers__1__mlp__down_proj__weight=spoil)
    found = finding(checked(model), "model.finite")
    assert found.grade is Grade.CRITICAL
    assert "in 1 tensors: model.layers.1.mlp.down_proj.weight" in found.what


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_of_half_precision_are_read_too(model: Path, value: float) -> None:
    def half(weights: Any) -> Any:
        weights[3, 5] = value
        return weights.astype(np.float16)

    rewrite(model, layers__1__mlp__down_proj__weight=half)
    assert "model.finite" in names(checked(model))


def test_bfloat16_is_read_by_its_bits(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file as save

    for value, unsound in ((1e38, 0), (float("nan"), 1)):
        values = torch.full((4, 4), 3.0, dtype=torch.bfloat16)
        values[2, 1] = value
        save({"w": values}, tmp_path / "a.safetensors")
        assert len(read_weights(read_tensors(tmp_path)).unsound) == unsound


def test_size_of_weights_is_that_of_the_matrices() -> None:
    weights = load_file(ASSETS / "tiny" / "model.safetensors")
    matrices = np.concatenate([w.ravel() for w in weights.values() if w.ndim > 1])
    read = read_weights(read_tensors(ASSETS / "tiny"))
    assert read.size == pytest.approx(float(np.sqrt(np.mean(matrices.astype(np.float64) ** 2))), rel=1e-4)
    assert read.read == read.total == sum(w.nbytes for w in weights.values())


def test_weights_beyond_the_limit_are_said_to_be_unread() -> None:
    tensors = read_tensors(ASSETS / "tiny")
    read = read_weights(tensors, most=1 << 16)
    assert 0 < read.read < read.total / 2
    assert read_weights(tensors, seconds=-1.0).read == 0


def test_tokenizer_with_more_tokens_than_the_embedding_is_critical(model: Path) -> None:
    held = json.loads((model / "tokenizer.json").read_text())
    vocabulary = held["model"]["vocab"]
    vocabulary["extra"] = 40
    (model / "tokenizer.json").write_text(json.dumps(held))
    found = finding(checked(model), "model.vocabulary")
    assert (found.grade, "number 40, and the embedding has 19 rows" in found.what) == (Grade.CRITICAL, True)


def test_vocabulary_of_another_size_than_the_embedding_is_critical(model: Path) -> None:
    change(model, "config.json", vocab_size=32)
    assert "vocab_size=32, and the embedding has 19 rows" in finding(checked(model), "model.vocabulary").what


@pytest.mark.parametrize("declared", [3, 4])
def test_layer_without_weights_is_critical(model: Path, declared: int) -> None:
    change(model, "config.json", num_hidden_layers=declared)
    found = finding(checked(model), "model.layers")
    assert (found.grade, f"of {declared}" in found.what) == (Grade.CRITICAL, True)


def test_end_token_beyond_the_embedding_is_critical(model: Path) -> None:
    change(model, "generation_config.json", eos_token_id=50)
    assert finding(checked(model), "model.ends").grade is Grade.CRITICAL


def test_end_tokens_that_differ_are_a_warning_and_a_list_with_both_is_none(model: Path) -> None:
    change(model, "generation_config.json", eos_token_id=2)
    assert finding(checked(model), "model.ends").grade is Grade.WARNING
    change(model, "generation_config.json", eos_token_id=[2, 1])
    assert checked(model).findings == ()


def test_tokenizer_without_an_end_is_not_judged(model: Path) -> None:
    change(model, "tokenizer_config.json", eos_token=None)
    assert "model.ends" in {each.check for each in checked(model).not_run}


def test_end_token_may_be_written_as_an_object(model: Path) -> None:
    change(model, "tokenizer_config.json", eos_token={"content": "<eos>", "lstrip": False})
    assert checked(model).findings == ()
    assert read_model(model, "float32").end_ids == (1,)


@pytest.mark.parametrize(
    ("pad", "found"), [(18, set()), (19, {"model.padding"}), (-1, {"model.padding"}), (None, set())]
)
def test_padding_token_must_have_a_row(model: Path, pad: int | None, found: set[str]) -> None:
    change(model, "config.json", pad_token_id=pad)
    assert names(checked(model)) == found


def test_rounding_of_the_weights_is_noted(model: Path) -> None:
    found = finding(checked(model, "bfloat16"), "model.precision")
    assert (found.grade, found.key) == (Grade.NOTE, "model.dtype")


def test_model_without_a_tokenizer_json_is_not_judged_on_it(model: Path) -> None:
    (model / "tokenizer.json").unlink()
    outcome = checked(model)
    assert outcome.findings == ()
    assert {each.check for each in outcome.not_run} == {"model.vocabulary", "model.ends"}


def test_damaged_tokenizer_is_not_judged(model: Path) -> None:
    (model / "tokenizer.json").write_text("{")
    assert "model.vocabulary" in {each.check for each in checked(model).not_run}
