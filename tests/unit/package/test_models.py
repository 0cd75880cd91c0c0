"""Models: where they are, what their headers say, and whether they fit the run. No weights are loaded."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from typing import Any, NoReturn

import huggingface_hub
import pytest

from rftfm_ray.config import RunConfig, load_config
from rftfm_ray.errors import ConfigError, ModelError
from rftfm_ray.models import (
    ASSETS,
    BUILTIN_NAMES,
    BYTES_PER_PARAMETER,
    TASK_POLICIES,
    ModelSize,
    check_model,
    read_facts,
    read_tensors,
    resolve_model,
)

TINY = ASSETS / "tiny"


def fetch_nothing(*arguments: object, **options: object) -> NoReturn:
    """Stands in for the hub client."""
    raise ConnectionError("no network")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A copy of the shipped model."""
    return Path(shutil.copytree(TINY, tmp_path / "model"))


def configure(path: Path, **sections: Any) -> RunConfig:
    """A run of the model at `path`."""
    return RunConfig.model_validate({"model": {"path": str(path)}, **sections})


def write_header(file: Path, header: object) -> None:
    """A safetensors file without data."""
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text)


@pytest.mark.parametrize("name", [*ModelSize, *TASK_POLICIES])
def test_builtin_name_is_the_shipped_directory(name: str) -> None:
    assert resolve_model(f"builtin:{name}") == ASSETS / name
    assert (ASSETS / name / "config.json").is_file()


@pytest.mark.parametrize("name", TASK_POLICIES)
def test_policy_of_a_task_fits_the_run_of_its_example(name: str) -> None:
    config = load_config(Path(__file__).parents[3] / "examples" / f"{name}.yaml", [])
    assert check_model(config) == read_facts(ASSETS / name)


def test_default_model_is_one_that_ships() -> None:
    assert RunConfig().model.path in BUILTIN_NAMES


@pytest.mark.parametrize("name", ["builtin:", "builtin:large", "builtin:Tiny", "builtin:tiny/x", "builtin:../tiny"])
def test_unknown_builtin_name_is_refused_with_those_that_there_are(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch_nothing)
    with pytest.raises(ModelError) as caught:
        resolve_model(name)
    named = "builtin:tiny, builtin:small, builtin:number_sequence or builtin:spell_backward"
    assert str(caught.value).startswith(f"model.path={name} is not a shipped model; use {named},")


def test_directory_is_made_absolute(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(model.parent)
    assert resolve_model("model") == model.resolve()
    assert resolve_model(str(model)) == model.resolve()


def test_directory_may_lie_below_home(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(model.parent))
    assert resolve_model("~/model") == model.resolve()


@pytest.mark.parametrize("name", ["/no/model", "./no/model", "../model", "~/no-such-model", "model", "a/b/c"])
def test_path_that_is_not_there_is_refused_without_asking_the_hub(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*arguments: object, **options: object) -> NoReturn:
        pytest.fail("the hub was asked")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", never)
    with pytest.raises(ModelError, match=r"is not a directory; give .*builtin:tiny") as caught:
        resolve_model(name)
    assert f"model.path={name} " in str(caught.value)


def test_hub_id_that_cannot_be_fetched_is_a_model_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch_nothing)
    with pytest.raises(ModelError, match=r"^model\.path=org/name .*\(ConnectionError\); check the name"):
        resolve_model("org/name")


def test_hub_id_gives_the_fetched_directory_and_fetches_no_pickles(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, list[str]]] = []

    def fetch(name: str, *, allow_patterns: list[str]) -> str:
        asked.append((name, allow_patterns))
        return str(model)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    assert resolve_model("org/name") == model
    ((name, patterns),) = asked
    assert name == "org/name"
    assert {"*.json", "*.safetensors"} <= set(patterns)
    assert not any(Path(f"weights{end}").match(p) for end in (".bin", ".pt", ".pkl", ".pth", ".py") for p in patterns)


@pytest.mark.parametrize("size", ModelSize)
def test_parameters_are_those_that_torch_counts(size: ModelSize) -> None:
    from transformers import AutoModelForCausalLM

    facts = read_facts(ASSETS / size)
    loaded = AutoModelForCausalLM.from_pretrained(ASSETS / size)
    assert facts.parameters == sum(p.numel() for p in loaded.parameters())
    assert (facts.path, facts.max_positions) == (ASSETS / size, loaded.config.max_position_embeddings)


def test_parameters_of_all_shards_are_summed_and_a_scalar_is_one(model: Path) -> None:
    write_header(model / "model.safetensors", {"__metadata__": {"format": "pt"}, "a": {"shape": [3, 5]}})
    write_header(model / "other.safetensors", {"b": {"shape": [7]}, "scale": {"shape": []}})
    assert read_facts(model).parameters == 15 + 7 + 1


def test_positions_are_unknown_where_the_configuration_does_not_say(model: Path) -> None:
    (model / "config.json").write_text("{}")
    assert read_facts(model).max_positions is None


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", None], ids=["empty", "cut", "not utf-8", "missing"])
def test_configuration_that_cannot_be_read_is_refused(model: Path, content: bytes | None) -> None:
    (model / "config.json").unlink()
    if content is not None:
        (model / "config.json").write_bytes(content)
    with pytest.raises(ModelError, match=r"config\.json cannot be read .*; give a Hugging Face model directory"):
        read_facts(model)


def test_configuration_that_is_not_an_object_has_no_positions(model: Path) -> None:
    (model / "config.json").write_text("[1, 2]")
    assert read_facts(model).max_positions is None


def test_model_without_safetensors_is_refused(model: Path) -> None:
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"has no \*\.safetensors file; convert the weights"):
        read_facts(model)


@pytest.mark.parametrize("size", [0, 5, 8, 100])
def test_truncated_weights_are_refused_by_name(model: Path, size: int) -> None:
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:size])
    with pytest.raises(ModelError, match=r"model\.safetensors is not a readable safetensors file .*; fetch it again"):
        read_facts(model)


@pytest.mark.parametrize("header", [[1], {"a": 3}, {"a": {}}, {"a": {"shape": ["x"]}}, {"a": {"shape": 3}}])
def test_header_of_another_form_is_refused(model: Path, header: object) -> None:
    write_header(model / "model.safetensors", header)
    with pytest.raises(ModelError, match="not a readable safetensors file"):
        read_facts(model)


def test_header_that_claims_to_be_longer_than_its_file_is_not_read(model: Path) -> None:
    (model / "model.safetensors").write_bytes(struct.pack("<Q", 2**62) + b"{}")
    with pytest.raises(ModelError, match="header is longer than the file"):
        read_facts(model)


def test_default_model_is_the_tiny_one_and_fits() -> None:
    assert check_model(RunConfig()) == read_facts(TINY)


@pytest.mark.parametrize("size", ModelSize)
def test_shipped_model_fits_an_otherwise_default_run(size: ModelSize) -> None:
    assert check_model(RunConfig.model_validate({"model": {"path": f"builtin:{size}"}})) == read_facts(ASSETS / size)


def test_length_may_be_all_positions_and_not_one_more(model: Path) -> None:
    assert check_model(configure(model, rollout={"max_model_len": 128})).max_positions == 128
    with pytest.raises(ConfigError, match=r"^rollout\.max_model_len=129 is more than the 128 positions .*; lower it"):
        check_model(configure(model, rollout={"max_model_len": 129}))


def test_length_is_not_judged_where_positions_are_unknown(model: Path) -> None:
    declared = json.loads((model / "config.json").read_text())
    del declared["max_position_embeddings"]
    (model / "config.json").write_text(json.dumps(declared))
    assert check_model(configure(model, rollout={"max_model_len": 4096})).max_positions is None


def test_snapshots_may_fill_their_memory_and_not_pass_it() -> None:
    needed = 3 * BYTES_PER_PARAMETER * read_facts(TINY).parameters
    room = {"keep": 3, "max_bytes": needed, "spill": False}
    check_model(RunConfig.model_validate({"snapshots": room}))
    short = room | {"max_bytes": needed - 1}
    with pytest.raises(ConfigError, match=rf"^snapshots\.keep=3 .* {needed} bytes, .*max_bytes={needed - 1}; raise it"):
        check_model(RunConfig.model_validate({"snapshots": short}))
    check_model(RunConfig.model_validate({"snapshots": short | {"spill": True}}))


def test_without_snapshots_their_memory_is_not_judged() -> None:
    check_model(RunConfig.model_validate({"snapshots": {"every": 0, "max_bytes": 1}}))


def test_estimate_covers_what_a_snapshot_holds() -> None:
    assert BYTES_PER_PARAMETER == 3 * 4


def test_tokenizer_of_a_users_model_is_checked(model: Path) -> None:
    (model / "tokenizer.json").write_text("")
    with pytest.raises(ModelError, match="holds no tokenizer that loads"):
        check_model(configure(model))


@pytest.mark.parametrize("name", ["n_positions", "max_sequence_length", "seq_length", "n_ctx"])
def test_positions_are_found_under_the_name_of_the_models_family(model: Path, name: str) -> None:
    (model / "config.json").write_text(json.dumps({name: 64}))
    assert read_facts(model).max_positions == 64
    with pytest.raises(ConfigError, match=r"^rollout\.max_model_len=128 is more than the 64 positions"):
        check_model(configure(model))


def test_positions_of_the_language_model_inside_another_model_count(model: Path) -> None:
    (model / "config.json").write_text(json.dumps({"text_config": {"max_position_embeddings": 96}}))
    assert read_facts(model).max_positions == 96


def test_missing_shard_is_named(model: Path) -> None:
    files = dict.fromkeys("ab", "model-00001-of-00002.safetensors") | {"c": "model-00002-of-00002.safetensors"}
    (model / "model.safetensors").rename(model / "model-00001-of-00002.safetensors")
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    with pytest.raises(
        ModelError, match=r"lacks model-00002-of-00002\.safetensors of the 2 weight files that .* fetch"
    ):
        read_facts(model)
    shutil.copy(model / "model-00001-of-00002.safetensors", model / "model-00002-of-00002.safetensors")
    assert read_facts(model).parameters > 0


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"weight_map": 3}', '{"weight_map": []}'])
def test_index_of_shards_that_cannot_be_read_is_named(model: Path, content: str) -> None:
    (model / "model.safetensors.index.json").write_text(content)
    with pytest.raises(ModelError, match=r"model\.safetensors\.index\.json cannot be read .*; fetch it again"):
        read_facts(model)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["base_model.model.lm_head.weight"], r"No weight of the model is in .* begins with base_model\., for example"),
        (["base_model.model.q.lora_A.weight"], "holds weights of an adapter, for example base_model.model.q.lora_A"),
        (["lm_head.weight", "q.lora_A.weight"], "holds weights of an adapter, for example q.lora_A.weight; merge"),
    ],
    ids=["badly merged", "adapter alone", "adapter beside the model"],
)
def test_weights_of_an_adapter_are_refused(model: Path, names: list[str], message: str) -> None:
    write_header(model / "model.safetensors", {name: {"shape": [2]} for name in names})
    with pytest.raises(ModelError, match=message):
        read_facts(model)


@pytest.mark.parametrize(
    ("changes", "size"),
    [
        ({"num_attention_heads": 8}, 16),
        ({"head_dim": 48}, 48),
        ({"hidden_size": None, "num_attention_heads": None, "n_embd": 128, "n_head": 16}, 8),
    ],
)
def test_heads_that_vllm_lacks_on_a_cpu_are_refused_there(model: Path, changes: dict[str, Any], size: int) -> None:
    declared = json.loads((model / "config.json").read_text()) | changes
    (model / "config.json").write_text(json.dumps(declared))
    with pytest.raises(ModelError, match=rf"has attention heads of {size}, and vLLM on a CPU computes with .* 32, 64"):
        check_model(configure(model))
    check_model(configure(model, placement={"gpus_per_rollout": 1}))


def test_compressed_heads_are_not_judged(model: Path) -> None:
    declared = json.loads((model / "config.json").read_text()) | {"kv_lora_rank": 512, "num_attention_heads": 8}
    (model / "config.json").write_text(json.dumps(declared))
    check_model(configure(model))


def test_tensors_are_where_their_header_says() -> None:
    from safetensors.numpy import load_file

    (file,) = TINY.glob("*.safetensors")
    loaded, data = load_file(file), file.read_bytes()
    tensors = read_tensors(TINY)
    assert {tensor.name for tensor in tensors} == set(loaded)
    for tensor in tensors:
        assert (tensor.shape, tensor.dtype, tensor.file) == (loaded[tensor.name].shape, "F32", file)
        assert data[tensor.begin : tensor.end] == loaded[tensor.name].tobytes()
