"""`rftfm preflight --quick`: cases from public reports, each with what is right to say, and sound twins."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner, Result

from rftfm_ray.cli.app import app
from rftfm_ray.errors import ConfigError
from rftfm_ray.models import ASSETS

ROOT = Path(__file__).parents[3]
TASKS = ROOT / "tests" / "unit" / "preflight" / "broken_tasks.py"
ADDITION = ROOT / "examples" / "addition.yaml"


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RFTFM_HOME", str(tmp_path / "home"))


def invoked(*arguments: str, file: Path = ADDITION) -> Result:
    """The command without actors."""
    return CliRunner().invoke(app, ["preflight", str(file), *arguments, "--quick"])


def outcome(*arguments: str, file: Path = ADDITION) -> tuple[int, dict[str, Any]]:
    """Exit code and JSON of the command without actors."""
    done = invoked(*arguments, "--json", file=file)
    assert done.exception is None or isinstance(done.exception, SystemExit)
    read: dict[str, Any] = json.loads(done.stdout)
    return done.exit_code, read


def found(task: str, *arguments: str) -> dict[str, str]:
    """The findings of a task by check, with their grades."""
    code, read = outcome(f"task.name={TASKS}:{task}", *arguments)
    grades = {each["check"]: each["grade"] for each in read["findings"]}
    assert code == int("critical" in grades.values())
    return grades


@pytest.mark.parametrize(
    ("file", "overrides"),
    [
        ("addition.yaml", []),
        ("calculator.yaml", []),
        ("calculator.yaml", ["model.path=builtin:small"]),
        ("calculator.yaml", ["algorithm.name=ppo"]),
        ("addition.yaml", [f"task.name={ROOT}/examples/custom_task.py:LargeSums"]),
        ("number_sequence.yaml", []),
        ("spell_backward.yaml", []),
    ],
)
def test_shipped_examples_are_silent(file: str, overrides: list[str]) -> None:
    if file in ("number_sequence.yaml", "spell_backward.yaml"):
        pytest.importorskip("reasoning_gym")
    code, read = outcome(*overrides, file=ROOT / "examples" / file)
    assert (code, read["findings"]) == (0, [])
    assert {each["check"] for each in read["not_run"]} == {name for name in checks_of(read) if name.startswith("live.")}
    assert len(read["passed"]) >= 30
    assert read["seconds"] < 10
    assert 300 < read["verdicts"] < 500 - 64
    assert read["verdicts_left_out"] == 0


def checks_of(read: dict[str, Any]) -> set[str]:
    """The names of all checks in an outcome."""
    return {*read["passed"], *(each["check"] for each in (*read["findings"], *read["not_run"]))}


@pytest.mark.parametrize(
    ("task", "grades"),
    [
        ("Sound", {}),
        ("NumpyReward", {}),
        ("Constant", {"reward.same": "critical"}),
        ("AlwaysZero", {"reward.right": "critical", "reward.nothing": "critical"}),
        ("Flipped", {"task.contract": "critical"}),
        ("NanForWrong", {"reward.fails": "critical"}),
        ("RaisesOnText", {"reward.fails": "critical"}),
        ("NowAndThenRaises", {"reward.fails": "warning"}),
        ("SharedDigits", {"reward.wrong": "warning", "reward.hidden": "warning"}),
        ("RandomJudge", {"reward.repeatable": "warning"}),
        ("PaysForNothing", {"reward.nothing": "warning"}),
        ("ShortTurns", {"text.limits": "critical"}),
    ],
)
def test_reward_with_a_bug_is_found_by_its_check(task: str, grades: dict[str, str]) -> None:
    assert found(task) == grades


def test_bonus_for_length_is_found() -> None:
    grades = found("ByLength")
    assert grades["reward.wrong"] == "warning"


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ("ChatPrompts", ["Problem.prompt in row 0 of pool is a list", "chat template"]),
        ("NumberAnswers", ["Problem.answer in row 0 of pool is an int", "str(answer)"]),
        ("MissingPrompt", ["Problem.prompt in row 7 of pool is missing", "leave the row out"]),
    ],
)
def test_row_that_is_not_text_is_named_with_its_field_and_fix(task: str, words: list[str]) -> None:
    code, read = outcome(f"task.name={TASKS}:{task}")
    (finding,) = read["findings"]
    assert (code, finding["check"], finding["grade"]) == (1, "task.contract", "critical")
    assert all(word in finding["what"] for word in words)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A copy of the shipped model."""
    return Path(shutil.copytree(ASSETS / "tiny", tmp_path / "model"))


def model_finding(model: Path) -> tuple[int, str, str]:
    """Exit code, check and sentence of the one finding of a model."""
    code, read = outcome(f"model.path={model}")
    (finding,) = read["findings"]
    return code, finding["check"], finding["what"]


def declare(model: Path, **values: Any) -> None:
    """Change `config.json` of a model; None removes a key."""
    held = json.loads((model / "config.json").read_text()) | values
    (model / "config.json").write_text(json.dumps({key: value for key, value in held.items() if value is not None}))


def test_model_of_the_user_is_silent(model: Path) -> None:
    code, read = outcome(f"model.path={model}")
    assert (code, read["findings"]) == (0, [])


def test_model_with_few_positions_under_another_name_is_named(model: Path) -> None:
    declare(model, max_position_embeddings=None, n_positions=64)
    code, check, what = model_finding(model)
    assert (code, check) == (1, "model.fit")
    assert "rollout.max_model_len=128 is more than the 64 positions" in what


def test_weights_of_an_adapter_are_named(model: Path) -> None:
    file = model / "model.safetensors"
    renamed = {f"base_model.model.{name}": value for name, value in load_file(file).items()}
    save_file(renamed, file, metadata={"format": "pt"})
    code, check, what = model_finding(model)
    assert (code, check) == (1, "model.files")
    assert "No weight of the model is in" in what


def test_small_heads_are_named(model: Path) -> None:
    declare(model, num_attention_heads=8)
    assert "has attention heads of 16, and vLLM on a CPU" in model_finding(model)[2]


def test_missing_shard_is_named(model: Path) -> None:
    weights = dict.fromkeys(load_file(model / "model.safetensors"), "model-00002-of-00002.safetensors")
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weights}))
    assert "lacks model-00002-of-00002.safetensors" in model_finding(model)[2]


def test_weights_that_are_not_finite_are_named(model: Path) -> None:
    file = model / "model.safetensors"
    weights = {name: value.copy() for name, value in load_file(file).items()}
    weights["model.layers.1.mlp.down_proj.weight"][3, 5] = float("nan")
    save_file(weights, file, metadata={"format": "pt"})
    assert model_finding(model) == (
        1, "model.finite", "Weights are not finite in 1 tensors: model.layers.1.mlp.down_proj.weight.",
    )  # fmt: skip


@pytest.mark.parametrize(("lr", "grades"), [("3e-3", {"rate.large": "warning"}), ("1e-9", {"rate.small": "warning"})])
def test_rate_far_from_the_size_of_the_weights_is_named(lr: str, grades: dict[str, str]) -> None:
    code, read = outcome(f"learner.lr={lr}", "steps=60")
    assert {each["check"]: each["grade"] for each in read["findings"]} == grades
    assert all(each["key"] == "learner.lr" for each in read["findings"])
    assert code == 0


def test_sandbox_at_a_placeholder_address_is_found_and_the_right_one_is_silent() -> None:
    calculator = ROOT / "examples" / "calculator.yaml"
    code, read = outcome(f"task.name={TASKS}:UnknownSandbox", file=calculator)
    (finding,) = read["findings"]
    assert (code, finding["check"], finding["grade"]) == (1, "tools.known", "critical")
    assert "8 of 8 tool calls with a known answer fail: the tool ends with the status error." in finding["what"]


def test_limit_that_cuts_every_answer_is_silent_once_it_is_raised() -> None:
    assert found("ShortTurns", "task.token_scale=2") == {}


def test_findings_are_said_as_sentences_with_their_key() -> None:
    done = invoked(f"task.name={TASKS}:Constant")
    assert done.exit_code == 1
    assert "Preflight, critical: reward.same: All " in done.stderr
    assert "Key: task.name." in done.stderr
    assert "Not run: live.groups: no actors were started (--quick)." in done.stdout
    assert "1 found something (1 critical)" in done.stdout


@pytest.mark.parametrize("verdicts", [0, 30])
def test_verifier_is_asked_no_more_than_allowed(verdicts: int) -> None:
    code, read = outcome(f"preflight.verdicts={verdicts}")
    assert (code, read["findings"], read["verdicts"]) == (0, [], verdicts)
    assert (read["verdicts_left_out"] > 300) == (verdicts > 0)
    not_run = {each["check"] for each in read["not_run"]}
    assert ("reward.right" in not_run) == (verdicts == 0)


def test_configuration_that_cannot_be_read_is_bad_usage() -> None:
    done = invoked("learner.lr=fast")
    assert isinstance(done.exception, ConfigError)
    done = CliRunner().invoke(app, ["preflight", str(ADDITION), "--quick", "--full"])
    assert isinstance(done.exception, ConfigError)
    assert "leave one of them out" in str(done.exception)
