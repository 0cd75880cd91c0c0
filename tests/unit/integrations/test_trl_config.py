"""What a run of TRL declares, as its training configuration says it."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from rftfm_ray.config.declared import Aggregation, DeclaredRate, Normalization, RateCourse
from rftfm_ray.errors import LogError
from rftfm_ray.integrations.trl_config import TrlConfig, declared_by_trl, read_trl_config

PARTS = ("rewards/a/mean", "rewards/b/mean")


def test_defaults_are_those_of_trl() -> None:
    known = {f.name: f.default for f in dataclasses.fields(importlib.import_module("trl").GRPOConfig)}
    for name, field in TrlConfig.model_fields.items():
        assert field.default == known[name] or known[name] is dataclasses.MISSING, name


def test_keys_of_a_configuration_are_read_as_json_and_as_yaml(tmp_path: Path) -> None:
    tree = {"loss_type": "grpo", "beta": 0.04, "num_generations": 4, "learning_rate": 1e-6, "scale_rewards": True,
            "max_steps": 100, "logging_steps": 1, "output_dir": "x", "reward_weights": [1.0, 1.0]}  # fmt: skip
    (tmp_path / "a.json").write_text(json.dumps(tree))
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(tree))
    # As people write it: to YAML 1.1 this is text.
    (tmp_path / "b.yaml").write_text("loss_type: grpo\nlearning_rate: 1e-6\nbeta: 4e-2\nnum_generations: 4\n")
    config = read_trl_config(tmp_path / "a.json")
    assert config == read_trl_config(tmp_path / "a.yaml")
    assert read_trl_config(tmp_path / "b.yaml").beta == 0.04
    declared = declared_by_trl(config, PARTS)
    assert (declared.aggregation, declared.kl_coef, declared.group_size) == (Aggregation.SEQUENCE, 0.04, 4)
    assert declared.normalization is Normalization.GROUP
    assert declared.rate == DeclaredRate(1e-6, 100, 0, RateCourse.LINEAR)
    assert declared.reward is not None
    assert declared.reward.parts == ((PARTS[0], 1.0), (PARTS[1], 1.0))
    assert declared.token_limit == 512


@pytest.mark.parametrize(
    ("keys", "updates"),
    [
        ({}, 1), ({"num_iterations": 3}, 3), ({"steps_per_generation": 4}, 4),
        ({"steps_per_generation": 4, "gradient_accumulation_steps": 4}, 1),
        ({"steps_per_generation": 4, "gradient_accumulation_steps": 8}, 1),
        ({"steps_per_generation": 4, "gradient_accumulation_steps": 2, "num_iterations": 2}, 4),
        ({"generation_batch_size": 32, "per_device_train_batch_size": 8}, 4),
    ],
)  # fmt: skip
def test_updates_of_a_batch_are_counted(keys: dict[str, int], updates: int) -> None:
    assert declared_by_trl(TrlConfig(**keys)).updates == updates


@pytest.mark.parametrize(
    "keys",
    [
        {"mask_truncated_completions": True}, {"use_vllm": True}, {"delta": 2.0}, {"top_entropy_quantile": 0.2},
        {"use_adaptive_entropy": True}, {"off_policy_mask_threshold": 0.1}, {"loss_type": "cispo"},
    ],
)  # fmt: skip
def test_what_reweights_tokens_is_told(keys: dict[str, object]) -> None:
    assert declared_by_trl(TrlConfig(**keys)).reweights_tokens
    assert not declared_by_trl(TrlConfig()).reweights_tokens


def test_reward_of_functions_in_an_unknown_order_is_not_declared() -> None:
    assert declared_by_trl(TrlConfig(reward_weights=(1.0, 2.0)), PARTS).reward is None
    assert declared_by_trl(TrlConfig(reward_weights=(2.0, 2.0)), PARTS).reward is not None
    # Two reward functions of one name are one column.
    assert declared_by_trl(TrlConfig(), PARTS).reward is None
    assert declared_by_trl(TrlConfig(reward_weights=(2.0, 2.0)), PARTS[:1]).reward is None
    assert declared_by_trl(TrlConfig(reward_weights=(1.0,)), PARTS).reward is None


def test_rate_of_an_unknown_course_and_longest_answers_of_means_are_not_declared() -> None:
    assert declared_by_trl(TrlConfig()).rate is None
    assert declared_by_trl(TrlConfig(max_steps=9, lr_scheduler_type="cosine")).rate is None
    warm = declared_by_trl(TrlConfig(max_steps=50, warmup_steps=0.1)).rate
    assert warm == DeclaredRate(1e-6, 50, 5, RateCourse.LINEAR)
    assert declared_by_trl(TrlConfig(logging_steps=10)).token_limit is None


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[1, 2]", "no keys"), ("steps: 3", "no key of GRPOConfig"), ("beta: much", "beta is 'much'"),
        ("{", "neither JSON nor YAML"), ("scale_rewards: sometimes", "scale_rewards is 'sometimes'"),
        ("num_generations: 1", "num_generations is '1'"), ("a: &a [*a]", "no key of GRPOConfig"),
    ],
)  # fmt: skip
def test_bad_files_are_refused_with_the_key_and_the_fix(tmp_path: Path, text: str, named: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(LogError, match="GRPOConfig") as error:
        read_trl_config(path)
    assert named in str(error.value)
    with pytest.raises(LogError, match="cannot be read"):
        read_trl_config(tmp_path / "missing")


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_no_bytes_break_the_reader(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(data)
    with contextlib.suppress(LogError):
        assert isinstance(read_trl_config(path), TrlConfig)
