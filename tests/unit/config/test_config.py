"""Configuration: defaults, typed overrides, and one sentence for everything that cannot be run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from rftfm_ray.config import RunConfig, TextPrivacy, load_config, parse_config
from rftfm_ray.errors import ConfigError
from rftfm_ray.types import GuardMode
from rftfm_ray.verdicts import Family

EXAMPLES = Path(__file__).parents[3] / "examples"


def refusal(attempt: Callable[[], object]) -> str:
    """The message of the ConfigError that `attempt` ends with, after checking that it is one sentence."""
    with pytest.raises(ConfigError) as caught:
        attempt()
    message = str(caught.value)
    assert "\n" not in message
    assert message == message.strip()
    assert message[0].isupper() or message[0] == "/"
    assert message.endswith((".", "?"))
    assert ". " not in message
    assert "? " not in message
    return message


def refused(*overrides: str) -> str:
    """The one sentence that refuses these overrides."""
    return refusal(lambda: load_config(None, list(overrides)))


def refused_file(path: Path, content: str | bytes) -> str:
    """The one sentence that refuses a file with this content."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return refusal(lambda: load_config(path, []))


def test_no_file_and_no_overrides_give_the_defaults() -> None:
    assert load_config(None, []) == RunConfig() == parse_config({})


def test_defaults_are_the_shipped_model_and_the_small_task() -> None:
    config = RunConfig()
    assert (config.model.path, config.task.name, config.guard.mode) == ("builtin:tiny", "addition", "observe")
    assert config.records.text is TextPrivacy.NONE
    assert (config.probe.every, config.probe.size, config.probe.final_size) == (5, 256, 1024)
    assert (config.inject, config.max_paid_steps) == ((), 0)


def test_configuration_is_immutable() -> None:
    config = RunConfig()
    with pytest.raises(ValidationError, match="frozen"):
        config.learner.lr = 1.0  # type: ignore[misc]


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_example_configurations_load(path: Path) -> None:
    config = load_config(path, [])
    # A data set has the name of its file's folder.
    name = config.task.name if config.data.train is None else f"{Path(config.data.train).parts[0]}_gpu"
    assert name.removeprefix("reasoning_gym:") == path.stem


@pytest.mark.parametrize(
    ("override", "read", "expected"),
    [
        ("steps=7", lambda c: c.steps, 7),
        ("steps=7.0", lambda c: c.steps, 7),
        ("learner.lr=3e-4", lambda c: c.learner.lr, 3e-4),
        ("learner.lr=1", lambda c: c.learner.lr, 1.0),
        ("learner.adam_betas=[0.5, 0.75]", lambda c: c.learner.adam_betas, (0.5, 0.75)),
        ("algorithm.normalize_std=false", lambda c: c.algorithm.normalize_std, False),
        ("algorithm.normalize_std=null", lambda c: c.algorithm.normalize_std, None),
        ("algorithm.name=reinforce_pp", lambda c: c.algorithm.name, "reinforce_pp"),
        ("critic.value_clip=null", lambda c: c.critic.value_clip, None),
        ("records.text=hash", lambda c: c.records.text, TextPrivacy.HASH),
        ("model.path=dir/a=b", lambda c: c.model.path, "dir/a=b"),
        ("task.name=tasks/mine.py:Mine", lambda c: c.task.name, "tasks/mine.py:Mine"),
        ("task.name=[", lambda c: c.task.name, "["),
        ("task={pool_size: 64}", lambda c: c.task.pool_size, 64),
        ("inject=[OD-1@15:30, TE-1@3]", lambda c: c.inject, ("OD-1@15:30", "TE-1@3")),
        ("guard.act_on=[OD, TE]", lambda c: c.guard.act_on, (Family.OD, Family.TE)),
        ("guard.policy=mine.py:Mine", lambda c: c.guard.policy, "mine.py:Mine"),
        ("guard.policy=null", lambda c: c.guard.policy, None),
        ("report.at_end=false", lambda c: c.report.at_end, False),
    ],
)
def test_override_sets_one_key_with_its_type(override: str, read: Callable[[RunConfig], Any], expected: object) -> None:
    value = read(load_config(None, [override]))
    assert value == expected
    assert type(value) is type(expected)


def test_override_leaves_all_other_keys_alone() -> None:
    changed = load_config(None, ["learner.lr=0.5"]).model_dump()
    changed["learner"]["lr"] = RunConfig().learner.lr
    assert changed == RunConfig().model_dump()


def test_override_wins_over_the_file_and_a_later_one_over_an_earlier_one(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("steps: 3\nlearner: {lr: 0.25, weight_decay: 0.5}\n", encoding="utf-8")
    config = load_config(path, ["learner.lr=0.5", "seed=1", "seed=2"])
    assert (config.steps, config.learner.lr, config.learner.weight_decay, config.seed) == (3, 0.5, 0.5, 2)


@pytest.mark.parametrize("item", ["steps", "=4", "", "="])
def test_override_that_is_not_key_value_is_refused(item: str) -> None:
    message = refused(item)
    assert repr(item) in message
    assert "key=value" in message


def test_override_below_a_value_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("steps: 3\n", encoding="utf-8")
    message = refusal(lambda: load_config(path, ["steps.more=4"]))
    assert "'steps.more'" in message


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("stepz", "steps"),
        ("lerner", "learner"),
        ("learner.lrr", "learner.lr"),
        ("algorithm.kl_coeff", "algorithm.kl_coef"),
        ("rollout.num_actor", "rollout.num_actors"),
        ("temperature", "rollout.temperature"),
        ("learner.betas", "learner.adam_betas"),
        ("lr", "learner.lr"),
        ("learner.pool_size", "task.pool_size"),
    ],
)
def test_unknown_key_suggests_the_nearest(key: str, nearest: str) -> None:
    message = refused(f"{key}=1")
    assert f"key {key};" in message
    assert message.endswith(f"did you mean {nearest}?")


def test_unknown_key_that_is_near_to_nothing_says_where_all_keys_are() -> None:
    message = refused("zzzzzz=1")
    assert "zzzzzz" in message
    assert "rftfm config" in message


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("steps", "many"),
        ("steps", "1.5"),
        ("steps", "0"),
        ("seed", "-1"),
        ("seed", "2147483648"),
        ("task", "5"),
        ("task.name", "5"),
        ("task.pool_size", "0"),
        ("model.dtype", "float16"),
        ("algorithm.samples_per_prompt", "0"),
        ("algorithm.clip_low", "1"),
        ("algorithm.kl_coef", "-0.1"),
        ("algorithm.normalize_std", "perhaps"),
        ("algorithm.name", "dapo"),
        ("algorithm.advantage_clip", "0"),
        ("algorithm.group_filter", "2"),
        ("critic.lr", "0"),
        ("critic.gamma", "0.49"),
        ("critic.gamma", "1.01"),
        ("critic.gae_lambda", "-0.1"),
        ("critic.value_clip", "0"),
        ("critic.value_coef", "-1"),
        ("critic.warmup_steps", "-1"),
        ("rollout.top_p", "1.5"),
        ("rollout.block_size", "8"),
        ("rollout.max_model_len", "15"),
        ("learner.zero_stage", "4"),
        ("learner.lr", "0"),
        ("learner.adam_betas", "0.9"),
        ("learner.step_kl_samples", "-1"),
        ("gate.grad_norm_factor", "1"),
        ("probe.size", "15"),
        ("records.text", "some"),
        ("records.trajectory_rate", "1.5"),
        ("probe.final_size", "15"),
        ("max_paid_steps", "-1"),
        ("inject", "OD-1@3"),
        ("rollout.tool_retries", "-1"),
        ("rollout.tool_backoff_s", "-0.1"),
        ("report.samples", "perhaps"),
        ("guard.mode", "watch"),
        ("guard.mode", "true"),
        ("guard.act_on", "TE"),
        ("guard.act_on", "[XX]"),
        ("guard.fallback", "off"),
        ("guard.policy_timeout_s", "0"),
        ("guard.warmup_steps", "2"),
        ("guard.false_alarm_steps", "99"),
        ("guard.regrade_rate", "1.5"),
        ("guard.regrade_noise", "0"),
        ("guard.budget", "-1"),
        ("guard.on_give_up", "stop"),
        ("guard.on_lost", "halt"),
    ],
)
def test_value_of_wrong_type_or_out_of_range_is_refused_by_key(key: str, value: str) -> None:
    assert f"{key}=" in refused(f"{key}={value}")


@pytest.mark.parametrize("value", ["nan", ".nan", "inf", ".inf", "-.inf", "1e999"])
@pytest.mark.parametrize("key", ["learner.lr", "algorithm.kl_coef", "rollout.temperature", "sync.parity_max_gap"])
def test_number_that_is_not_finite_is_refused(key: str, value: str) -> None:
    assert f"{key}=" in refused(f"{key}={value}")


def test_not_a_number_is_refused_where_no_bound_would_catch_it() -> None:
    assert "finite" in refused("learner.lr=.nan")
    assert "finite" in refusal(lambda: parse_config({"learner": {"max_grad_norm": float("inf")}}))


@pytest.mark.parametrize(
    ("refusing", "allowing", "keys"),
    [
        (
            ["algorithm.prompts_per_step=32", "task.pool_size=31"],
            ["algorithm.prompts_per_step=32", "task.pool_size=32"],
            ["algorithm.prompts_per_step=32", "task.pool_size=31"],
        ),
        (
            ["algorithm.minibatches=3"],
            ["algorithm.minibatches=4"],
            ["algorithm.minibatches=3", "algorithm.prompts_per_step=16"],
        ),
        (["algorithm.minibatches=32"], ["algorithm.minibatches=16"], ["algorithm.minibatches=32"]),
        (["rollout.num_actors=17"], ["rollout.num_actors=16"], ["rollout.num_actors=17"]),
        (
            ["model.dtype=bfloat16", "learner.zero_stage=0"],
            ["model.dtype=bfloat16", "learner.zero_stage=1"],
            ["model.dtype=bfloat16", "learner.zero_stage=0"],
        ),
        (
            ["rollout.block_size=16"],
            ["rollout.block_size=16", "placement.gpus_per_rollout=1"],
            ["rollout.block_size=16"],
        ),
        (["rollout.temperature=0"], ["rollout.temperature=0.1"], ["rollout.temperature=0"]),
        (["probe.every=17", "probe.size=16"], ["probe.every=16", "probe.size=16"], ["probe.every=17", "probe.size=16"]),
        (
            ["probe.every=17", "probe.size=16"],
            ["probe.every=17", "probe.size=16", "probe.spread=false"],
            ["spread=false"],
        ),
        (
            ["algorithm.samples_per_prompt=1"],
            ["algorithm.samples_per_prompt=1", "algorithm.name=ppo"],
            ["algorithm.samples_per_prompt=1", "algorithm.name=grpo"],
        ),
        (
            ["algorithm.samples_per_prompt=1", "algorithm.name=rloo"],
            ["algorithm.samples_per_prompt=1", "algorithm.name=reinforce_pp"],
            ["algorithm.samples_per_prompt=1", "algorithm.name=rloo"],
        ),
        (
            ["algorithm.samples_per_prompt=1", "algorithm.name=ppo", "algorithm.group_filter=true"],
            ["algorithm.samples_per_prompt=2", "algorithm.name=ppo", "algorithm.group_filter=true"],
            ["algorithm.samples_per_prompt=1", "algorithm.group_filter=true"],
        ),
        (
            ["algorithm.name=ppo", "critic.warmup_steps=40"],
            ["algorithm.name=ppo", "critic.warmup_steps=39"],
            ["critic.warmup_steps=40", "steps=40"],
        ),
        (["learner.warmup_steps=40"], ["learner.warmup_steps=39"], ["learner.warmup_steps=40", "steps=40"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_impossible_combination_is_refused_at_its_border(
    refusing: list[str], allowing: list[str], keys: list[str]
) -> None:
    load_config(None, allowing)
    message = refused(*refusing)
    assert all(key.lower() in message.lower() for key in keys)


@pytest.mark.parametrize("mode", GuardMode)
def test_every_guard_mode_is_read_from_file_and_override(tmp_path: Path, mode: GuardMode) -> None:
    path = tmp_path / "run.yaml"
    # Bare: to YAML 1.1, off is false.
    path.write_text(f"guard: {{mode: {mode}}}\n", encoding="utf-8")
    assert load_config(path, []).guard.mode is mode
    assert load_config(None, [f"guard.mode={mode}"]).guard.mode is mode


def test_unknown_family_is_refused_with_those_that_there_are() -> None:
    message = refused("guard.act_on=[TE, XX]")
    assert "key guard.act_on='XX'" in message
    assert all(repr(family.value) in message for family in Family)


@pytest.mark.parametrize(
    ("override", "end"),
    [
        ("steps=ten", "key steps='ten' must be a whole number, for example steps=40."),
        ("steps=1.5", "key steps=1.5 must be a whole number, for example steps=40."),
        ("learner.lr=fast", "key learner.lr='fast' must be a number, for example learner.lr=0.0003."),
        ("algorithm.advantage_clip=x", "key algorithm.advantage_clip='x' must be a number."),
        ("guard.detectors=x.py:A", "must be a list; write guard.detectors=[x.py:A]."),
        ("changes=[learner.lrr=1e-4@30]", "did you mean learner.lr?"),
    ],
)
def test_refusal_ends_with_what_to_write(override: str, end: str) -> None:
    assert refused(override).endswith(end)


def test_missing_file_is_refused_by_path(tmp_path: Path) -> None:
    path = tmp_path / "absent.yaml"
    message = refusal(lambda: load_config(path, []))
    assert str(path) in message
    assert "No such file" in message


def test_directory_instead_of_a_file_is_refused(tmp_path: Path) -> None:
    assert str(tmp_path) in refusal(lambda: load_config(tmp_path, []))


def test_invalid_yaml_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    message = refused_file(path, "steps: 3\nlearner: {lr: 1}}\n")
    assert str(path) in message
    assert "line 2" in message


@pytest.mark.parametrize("content", ["a: !!python/object:os.system x", "\x00", b"\xff\xfe\x80"])
def test_unsafe_or_undecodable_yaml_is_refused(tmp_path: Path, content: str | bytes) -> None:
    assert "not valid YAML" in refused_file(tmp_path / "run.yaml", content)


@pytest.mark.parametrize(("content", "kind"), [("- steps\n- 3\n", "list"), ("steps\n", "str"), ("3", "int")])
def test_yaml_that_is_not_a_mapping_is_refused(tmp_path: Path, content: str, kind: str) -> None:
    assert kind in refused_file(tmp_path / "run.yaml", content)


@pytest.mark.parametrize("content", ["", "# nothing but a comment\n"])
def test_empty_file_means_the_defaults(tmp_path: Path, content: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(content, encoding="utf-8")
    assert load_config(path, []) == RunConfig()


rates, weights = (st.floats(min_value=1e-300, max_value=most) for most in (1.0, 1000.0))
trees = st.fixed_dictionaries(
    {},
    optional={
        "seed": st.integers(0, 2**31 - 1),
        "steps": st.integers(1, 10**9),
        "model": st.fixed_dictionaries({"path": st.text(max_size=20)}),
        "learner": st.fixed_dictionaries({"lr": rates, "adam_betas": st.tuples(st.just(0.5), st.floats(0, 0.999))}),
        "algorithm": st.fixed_dictionaries({"normalize_std": st.booleans(), "kl_coef": weights}),
        "records": st.fixed_dictionaries({"text": st.sampled_from([p.value for p in TextPrivacy])}),
        "inject": st.lists(st.text(max_size=9), max_size=2),
        "background": st.fixed_dictionaries({"tool_failures": st.floats(0, 0.5), "length_spread": st.floats(0, 1)})
        | st.just({"preset": "dirty"}),
        "sync": st.fixed_dictionaries({"dtype": st.sampled_from(["float32", "bfloat16"])}),
        "guard": st.fixed_dictionaries(
            {
                "mode": st.sampled_from([mode.value for mode in GuardMode]),
                "act_on": st.lists(st.sampled_from([family.value for family in Family]), max_size=3),
                "policy": st.none() | st.text(max_size=9),
            }
        ),
    },
)


@settings(max_examples=60, deadline=None)
@given(tree=trees)
def test_yaml_of_a_configuration_reads_back_to_the_same_value(
    tmp_path_factory: pytest.TempPathFactory, tree: dict[str, Any]
) -> None:
    config = parse_config(tree)
    path = tmp_path_factory.getbasetemp() / "round_trip.yaml"
    path.write_text(config.to_yaml(), encoding="utf-8")
    assert load_config(path, []) == config


@pytest.mark.parametrize("text", ["{[a, b]: 1}", "? {a: 1}\n: 2\n", "steps: 1\nsteps: 2\n"])
def test_keys_that_are_no_names_or_stand_twice_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(ConfigError, match="is not valid YAML near line") as caught:
        load_config(tmp_path / "run.yaml", [])
    assert "\n" not in str(caught.value)
