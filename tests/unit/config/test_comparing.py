"""What differs between two configurations, and resuming under another one than the checkpoint's."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from rftfm_ray.config import RunConfig, config_differences, known_keys, load_config
from rftfm_ray.config.comparing import IDENTITY
from rftfm_ray.errors import ResumeError
from rftfm_ray.planning import check_resume
from rftfm_ray.training import checkpoints
from rftfm_ray.training.checkpoints import TrainerState
from rftfm_ray.types import Levers

BASE = load_config(None, ["steps=40"])


def checkpoint(folder: Path, text: str | None, levers: Levers | None = None) -> Path:
    """A complete checkpoint of step 4 that holds this configuration, or none."""
    origin = folder / "origin"
    origin.mkdir()
    staging = checkpoints.stage(folder / "checkpoints", 4)
    checkpoints.write_rank(staging, 0, {"weight": np.ones(1, np.float32)})
    checkpoints.write_model(staging, {"weight": np.ones(1, np.float32)}, origin)
    if text is not None:
        checkpoints.write_config(staging, text)
    return checkpoints.commit(staging, TrainerState(0, 4, 4, 4, 64, 1, 2, levers or Levers(), (), "")).path


def test_differences_are_keys_with_both_values() -> None:
    other = load_config(None, ["steps=50", "learner.lr=1e-4", "guard.act_on=[RF,OD]", "guard.profile=p.json"])
    assert [str(difference) for difference in config_differences(BASE, other)] == [
        "steps was 40, and is 50 now",
        "learner.lr was 0.0003, and is 0.0001 now",
        "guard.act_on was [TE,NUMERICAL,SYNC], and is [RF,OD] now",
        "guard.profile was null, and is p.json now",
    ]
    assert config_differences(BASE, load_config(None, ["steps=40"])) == ()


def test_keys_of_the_identity_exist() -> None:
    assert set(IDENTITY) <= set(known_keys())


@pytest.mark.parametrize(
    "override",
    [
        "seed=5", "task.name=calculator", "task.options=[max_n=5]", "task.pool_size=32", "task.hard_share=0.25",
        "model.path=builtin:small",
        "model.dtype=bfloat16", "algorithm.name=rloo", "algorithm.prompts_per_step=8",
        "algorithm.samples_per_prompt=4", "background.length_spread=0.5", "background.difficulty_walk=0.5",
    ],
)  # fmt: skip
def test_what_makes_it_another_run_is_refused_unless_asked_for(
    override: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, other = checkpoint(tmp_path, BASE.to_yaml()), load_config(None, ["steps=40", override])
    key, _, value = override.partition("=")
    with pytest.raises(ResumeError) as caught:
        check_resume(path, other)
    assert str(caught.value).startswith(f"Checkpoint {path} belongs to another run: {key} was ")
    assert str(caught.value).endswith(f"and is {value} now. Resume with the same values, or add --allow-changes.")
    assert caught.value.exit_code == 2
    check_resume(path, other, allow_changes=True)
    assert caplog.messages == [f"Resumed under another configuration: {config_differences(BASE, other)[0]}."]


def test_what_leaves_it_the_same_run_is_said_in_a_line_each(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = checkpoint(tmp_path, BASE.to_yaml())
    check_resume(path, BASE)
    assert caplog.messages == []
    check_resume(path, load_config(None, ["steps=50", "learner.lr=1e-4"]))
    assert caplog.messages == [
        "Resumed under another configuration: steps was 40, and is 50 now.",
        "Resumed under another configuration: learner.lr was 0.0003, and is 0.0001 now.",
    ]
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


def test_planned_change_of_the_prompts_of_steps_that_are_made_is_another_run(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, BASE.to_yaml())
    with pytest.raises(ResumeError, match=r"algorithm.prompts_per_step was not changed, and is 4@3 now"):
        check_resume(path, load_config(None, ["steps=40", "changes=[algorithm.prompts_per_step=4@3]"]))
    for later in ("algorithm.prompts_per_step=4@5", "learner.lr=1e-4@3"):
        check_resume(path, load_config(None, ["steps=40", f"changes=[{later}]"]))


def test_levers_that_a_checkpoint_brings_along_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = checkpoint(tmp_path, BASE.to_yaml(), Levers(lr_scale=0.1, regrade_rate=1.0))
    check_resume(path, BASE)
    (message,) = caplog.messages
    assert "lr_scale=0.1, regrade_rate=1. These levers stay as they are" in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "holds no configuration, so nothing was compared: an earlier version wrote it."),
        ("seed: [", "cannot be read, so nothing was compared"),
        ("old_key: 1\n", "cannot be read, so nothing was compared: Unknown configuration key old_key"),
        ("[1]\n", "cannot be read, so nothing was compared"),
        ("", "cannot be read, so nothing was compared"),
    ],
)
def test_checkpoint_without_a_readable_configuration_is_used_and_that_is_said(
    text: str | None, words: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    check_resume(checkpoint(tmp_path, text), RunConfig(steps=50, seed=9))
    (message,) = caplog.messages
    assert words in message


def test_checkpoint_without_a_manifest_is_not_taken_for_a_run(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, BASE.to_yaml())
    (path / "manifest.json").unlink()
    with pytest.raises(ResumeError, match="is not a checkpoint; give another one"):
        check_resume(path, BASE)


def test_limit_of_the_parity_follows_the_precision() -> None:
    half = ["model.dtype=bfloat16"]
    assert load_config(None, []).parity_limit == 1e-3
    assert load_config(None, half).parity_limit == 2.0
    assert load_config(None, ["sync.dtype=bfloat16"]).parity_limit == 0.5
    assert load_config(None, [*half, "sync.dtype=bfloat16"]).parity_limit == 2.0
    assert load_config(None, [*half, "sync.parity_max_gap=0.5"]).parity_limit == 0.5
