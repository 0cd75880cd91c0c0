"""The command line: mistakes end in one sentence before any Ray, and the configuration explains itself."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from pydantic_core import to_jsonable_python
from typer.testing import CliRunner

from rftfm_ray import planning
from rftfm_ray.cli.app import app
from rftfm_ray.cli.train import announced
from rftfm_ray.config import RunConfig, Section, load_config
from rftfm_ray.errors import RunDirError
from rftfm_ray.faults.drill import plan_drill
from rftfm_ray.models import read_facts
from rftfm_ray.tasks.loading import load_task
from rftfm_ray.types import GuardMode

ROOT = Path(__file__).parents[3]
TINY = ROOT / "rftfm_ray" / "assets" / "tiny"
COMMANDS = ("train", "config", "warmstart", "status", "journal", "report")
# Weight and two moments of four bytes per parameter, four snapshots.
SNAPSHOTS = 3 * 4 * 4 * read_facts(TINY).parameters
# Nobody listens there: a run that went as far as Ray would end otherwise, and with 1.
NO_CLUSTER = "127.0.0.1:1"
RAISING_TASK = """
from rftfm_ray.tasks.addition import Addition

class Broken(Addition):
    def verify(self, problem, transcript):
        raise KeyError("no verdict")
"""

POLICIES = """
class Undecided:
    pass

class TooManyArguments:
    def decide(self, ctx, more):
        return None
"""

Rftfm = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def rftfm(tmp_path: Path) -> Rftfm:
    """Runs the command in an empty directory, with RFTFM_HOME at `tmp_path / "home"`."""
    for name in ("home", "cwd", "path"):
        (tmp_path / name).mkdir()
    (tmp_path / "run.yaml").write_text("task: {name: addition}\n")
    env = {**os.environ, "RFTFM_HOME": str(tmp_path / "home"), "RAY_ADDRESS": NO_CLUSTER, "HF_HUB_OFFLINE": "1"}

    def run(*arguments: object, without_ray: bool = False) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "rftfm_ray", *map(str, arguments)]
        if without_ray:
            (tmp_path / "path" / "ray.py").write_text("raise SystemError('ray must not be imported')\n")
        own = {**env, "PYTHONPATH": f"{tmp_path / 'path'}{os.pathsep}{ROOT}"}
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path / "cwd", env=own, timeout=120)

    return run


def check_refusal(done: subprocess.CompletedProcess[str], tmp_path: Path, *parts: str) -> None:
    """Exit code 2, one line that holds `parts`, and nothing left behind."""
    lines = done.stderr.splitlines()
    assert done.returncode == 2, done.stderr
    assert lines[-1].startswith("rftfm: ")
    assert [part for part in parts if part not in lines[-1]] == []
    assert len(lines) == 1, done.stderr
    assert done.stdout == ""
    assert list((tmp_path / "home").iterdir()) == []
    assert list((tmp_path / "cwd").iterdir()) == []


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("learner.lrr=0.1", ["learner.lrr", "did you mean learner.lr?"]),
        ("steps=many", ["steps='many'", "a whole number, for example steps=40"]),
        ("learner.warmup_steps=40", ["learner.warmup_steps=40", "steps=40", "lower it"]),
        ("--guard=watch", ["guard.mode='watch'", "'off', 'observe', 'advise' or 'act'"]),
        ("guard.act_on=[TE, XX]", ["guard.act_on='XX'", "'RF', 'PG', 'OD', 'CA', 'TE'"]),
    ],
    ids=["unknown key", "wrong type", "impossible combination", "guard mode", "family"],
)
def test_bad_configuration_is_refused_before_ray_is_imported(
    rftfm: Rftfm, tmp_path: Path, override: str, parts: list[str]
) -> None:
    check_refusal(rftfm("train", tmp_path / "run.yaml", override, without_ray=True), tmp_path, *parts)


def test_keys_alone_are_a_configuration(rftfm: Rftfm, tmp_path: Path) -> None:
    # A slash of a URL stays where it is.
    done = rftfm("train", "reward.functions=[http://host/score]", "data.train=none.jsonl")
    check_refusal(done, tmp_path, "none.jsonl")
    done = rftfm("train", "reward.functions=[http:/host/score]", "data.train=none.jsonl")
    check_refusal(done, tmp_path, "reward.functions=http:/host/score")
    check_refusal(rftfm("preflight", "steps=0", without_ray=True), tmp_path, "steps")


def test_missing_configuration_file_is_refused_before_ray_is_imported(rftfm: Rftfm, tmp_path: Path) -> None:
    missing = tmp_path / "none.yaml"
    check_refusal(rftfm("train", missing, without_ray=True), tmp_path, str(missing), "check the path")


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("task.name=chess", ["task.name=chess", "addition, calculator", "file.py:Class"]),
        ("model.path=/no/such/model", ["model.path=/no/such/model", "not a directory", "builtin:tiny"]),
        (
            "snapshots.max_bytes=1000 snapshots.spill=false",
            ["snapshots.keep=4", f"{SNAPSHOTS} bytes", "snapshots.max_bytes=1000", "lower", "snapshots.spill=true"],
        ),
    ],
    ids=["unknown task", "missing model directory", "snapshots that do not fit"],
)
def test_what_cannot_run_is_refused_before_ray_is_started(
    rftfm: Rftfm, tmp_path: Path, override: str, parts: list[str]
) -> None:
    check_refusal(rftfm("train", tmp_path / "run.yaml", *override.split()), tmp_path, *parts)


@pytest.mark.parametrize("written", [("--steps", "10"), ("--steps=10",)], ids=["two words", "one word"])
def test_key_that_is_given_as_an_option_says_how_it_is_written(
    rftfm: Rftfm, tmp_path: Path, written: tuple[str, ...]
) -> None:
    check_refusal(rftfm("train", tmp_path / "run.yaml", *written), tmp_path, "--steps is a key", "write steps=10")


def test_what_is_no_checkpoint_is_refused_with_where_those_of_a_run_are(rftfm: Rftfm, tmp_path: Path) -> None:
    done = rftfm("train", tmp_path / "run.yaml", "--resume", tmp_path / "nope")
    check_refusal(done, tmp_path, "no checkpoint directory", "check the path")
    assert done.stderr.count(str(tmp_path / "nope")) == 1
    run = tmp_path / "run"
    run.mkdir()
    done = rftfm("train", tmp_path / "run.yaml", "--resume", run)
    check_refusal(done, tmp_path, f"{run} is not a checkpoint; give another one")
    (run / "config.yaml").write_text("")
    done = rftfm("train", tmp_path / "run.yaml", "--resume", run)
    check_refusal(done, tmp_path, f"its checkpoints are in {run}/checkpoints/")


def test_profile_that_is_not_json_is_refused_so(rftfm: Rftfm, tmp_path: Path) -> None:
    done = rftfm("train", tmp_path / "run.yaml", f"guard.profile={tmp_path / 'run.yaml'}")
    check_refusal(done, tmp_path, f"guard.profile={tmp_path / 'run.yaml'}", "it is not JSON", "rftfm profile fit")


@pytest.mark.parametrize(("mode", "is_used"), [("off", False), ("observe", False), ("advise", True), ("act", True)])
def test_policy_that_the_guard_does_not_ask_is_worth_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: str, is_used: bool
) -> None:
    policy = f"guard.policy={ROOT / 'examples' / 'custom_policy.py'}:SlowDown"
    planning.plan(load_config(None, [policy, f"guard.mode={mode}"]), tmp_path / "run")
    assert (f"is not used with guard.mode={mode}; add --guard act" in caplog.text) is not is_used
    caplog.clear()
    planning.plan(load_config(None, [f"guard.mode={mode}"]), tmp_path / "run")
    assert caplog.text == ""


def test_train_announces_what_is_injected_and_changed() -> None:
    inject = ["OD-1@20:30", "RF-1@3:2,duration=5", "slow_tool@4"]
    background = ["background.tool_failures=0.02", "background.difficulty_walk=0.5"]
    config = load_config(None, ["task.name=calculator", "changes=[learner.lr=1e-4@30]", *background])
    config = config.model_copy(update={"inject": tuple(inject)})
    drill = plan_drill(config, load_task("calculator"), ())
    assert list(announced(drill, config)) == [
        "Background of an experiment, from the first step to the last: tool_failures=0.02, difficulty_walk=0.5.",
        "Injected: OD-1 from step 20 on (gain, strength 30)",
        "Injected: RF-1 from step 3 for 5 steps (wrong_answers, strength 2)",
        "Injected: benign control slow_tool from step 4 on (strength 0.005)",
        "Planned change: learner.lr=0.0001 from step 30 on",
    ]


@pytest.mark.parametrize(
    ("fault", "parts"),
    [
        ("OD-7@3", ["inject='OD-7@3'", "did you mean OD-3?", "RF-1, RF-2, RF-3, PG-1", "controls slow_tool"]),
        ("OD-1@41", ["inject='OD-1@41'", "step 41", "steps=40", "raise steps"]),
        ("TE-1@3", ["inject='TE-1@3'", "task addition calls no tool", "task.name=calculator"]),
    ],
    ids=["unknown code", "beyond the run", "no tool"],
)
def test_fault_that_cannot_be_is_refused(rftfm: Rftfm, tmp_path: Path, fault: str, parts: list[str]) -> None:
    check_refusal(rftfm("train", tmp_path / "run.yaml", "--inject", fault), tmp_path, *parts)


@pytest.mark.parametrize(
    ("policy", "parts"),
    [
        ("absent.py:Mine", ["does not exist", "absent.py"]),
        ("raising.py:Mine", ["does not import", "RuntimeError: not today"]),
        ("mine.py:Undecided", ["Undecided has no method decide(self, ctx)"]),
        ("mine.py:TooManyArguments", ["TooManyArguments.decide must take one argument", "'more'"]),
    ],
    ids=["no file", "does not import", "no decide", "wrong arguments"],
)
def test_policy_that_cannot_be_asked_is_refused(rftfm: Rftfm, tmp_path: Path, policy: str, parts: list[str]) -> None:
    (tmp_path / "mine.py").write_text(POLICIES)
    (tmp_path / "raising.py").write_text("raise RuntimeError('not today')\n")
    done = rftfm("train", tmp_path / "run.yaml", f"guard.policy={tmp_path / policy}")
    check_refusal(done, tmp_path, "guard.policy", *parts)


def planned(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> RunConfig:
    """The configuration that `rftfm train` with these arguments wants to run."""
    result: list[RunConfig] = []

    def stop(config: RunConfig, *_: object, **__: object) -> None:
        result.append(config)
        raise RunDirError("Far enough.")

    monkeypatch.setattr(planning, "plan", stop)
    done = CliRunner().invoke(app, ["train", *map(str, arguments)])
    assert isinstance(done.exception, RunDirError)
    (config,) = result
    return config


@pytest.mark.parametrize("mode", GuardMode)
def test_guard_option_wins_over_file_and_override(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, mode: GuardMode
) -> None:
    (tmp_path / "run.yaml").write_text("guard: {mode: advise, budget: 9}\n")
    config = planned(monkeypatch, tmp_path / "run.yaml", "guard.mode=observe", "--guard", mode)
    assert (config.guard.mode, config.guard.budget) == (mode, 9)
    assert planned(monkeypatch, tmp_path / "run.yaml").guard.mode is GuardMode.ADVISE


def test_injected_faults_are_added_to_those_of_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("inject: [TE-1@5]\n")
    options = ("--inject", "OD-1@15:30", "--inject", "RF-1@3,duration=2")
    config = planned(monkeypatch, tmp_path / "run.yaml", *options)
    assert config.inject == ("TE-1@5", "OD-1@15:30", "RF-1@3,duration=2")
    assert planned(monkeypatch, tmp_path / "run.yaml").inject == ("TE-1@5",)


def test_tokenizer_without_end_of_sequence_is_refused(rftfm: Rftfm, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(TINY, model)
    declared = json.loads((model / "tokenizer_config.json").read_text())
    del declared["eos_token"]
    (model / "tokenizer_config.json").write_text(json.dumps(declared))
    done = rftfm("train", tmp_path / "run.yaml", f"model.path={model}")
    check_refusal(done, tmp_path, f"model.path={model}", "end-of-sequence", "set eos_token")


def test_task_whose_verifier_raises_is_refused(rftfm: Rftfm, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(RAISING_TASK)
    done = rftfm("train", tmp_path / "run.yaml", f"task.name={tmp_path / 'broken.py'}:Broken")
    check_refusal(done, tmp_path, "verifier of task addition", "KeyError", "no verdict", "must return a Verdict")


def test_run_directory_that_holds_something_is_refused(rftfm: Rftfm, tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "kept").write_text("old")
    check_refusal(rftfm("train", tmp_path / "run.yaml", "--run-dir", full), tmp_path, str(full), "--run-dir")
    assert [(path.name, path.read_text()) for path in full.iterdir()] == [("kept", "old")]


def test_run_directory_below_a_file_is_refused(rftfm: Rftfm, tmp_path: Path) -> None:
    below = tmp_path / "run.yaml" / "run"
    done = rftfm("train", tmp_path / "run.yaml", "--run-dir", below)
    check_refusal(done, tmp_path, str(below), f"the file {tmp_path / 'run.yaml'}", "--run-dir")


def test_warm_start_never_overwrites_a_directory(rftfm: Rftfm, tmp_path: Path) -> None:
    check_refusal(rftfm("warmstart", tmp_path / "cwd", without_ray=True), tmp_path, str(tmp_path / "cwd"), "exists")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [(["--target", "0.4"], "--target"), (["steps=3"], "steps=3"), (["no_such_task.yaml"], "no_such_task.yaml")],
)
def test_warm_start_refuses_what_it_ignores(arguments: list[str], named: str, rftfm: Rftfm, tmp_path: Path) -> None:
    check_refusal(rftfm("warmstart", tmp_path / "new", *arguments), tmp_path, named)
    assert not (tmp_path / "new").exists()


def test_help_names_every_command_without_ray(rftfm: Rftfm) -> None:
    done = rftfm("--help", without_ray=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert all(command in done.stdout for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    done = CliRunner().invoke(app, [command, "--help"])
    assert done.exit_code == 0
    assert "Usage" in done.stdout


def leaves(section: Section, prefix: str = "") -> dict[str, object]:
    """Every dotted key with its value."""
    result: dict[str, object] = {}
    for name in type(section).model_fields:
        value = getattr(section, name)
        result |= leaves(value, f"{prefix}{name}.") if isinstance(value, Section) else {prefix + name: value}
    return result


def test_config_lists_every_key_once_with_its_default() -> None:
    done = CliRunner().invoke(app, ["config"])
    shown = dict(line.split("  ")[0].strip().split("=", 1) for line in done.stdout.splitlines())
    plain = {key: to_jsonable_python(value) for key, value in leaves(RunConfig()).items()}
    expected = {key: value if isinstance(value, str) else json.dumps(value) for key, value in plain.items()}
    assert len(done.stdout.splitlines()) == len(expected)
    assert shown == expected


def test_config_shows_the_meaning_of_a_key() -> None:
    lines = CliRunner().invoke(app, ["config"]).stdout.splitlines()
    (line,) = [line for line in lines if line.startswith("probe.size=")]
    assert line.endswith("Held-out problems of a probe, answered greedily.")


def test_every_key_has_a_meaning_with_its_choices() -> None:
    lines = dict(line.split("=", 1) for line in CliRunner().invoke(app, ["config"]).stdout.splitlines())
    without = [key for key, text in lines.items() if not text.rstrip().endswith(".")]
    assert without == []
    for key, choices in {
        "learner.lr_schedule": "One of constant, linear, cosine.",
        "algorithm.loss_aggregation": "One of token, sequence.",
        "records.text": "One of none, hash, full.",
        "guard.fallback": "One of playbook, none.",
        "learner.zero_stage": "One of 0, 1, 2, 3.",
    }.items():
        assert lines[key].endswith(choices)
    assert "One of" not in lines["guard.mode"] + lines["guard.act_on"], "they explain each"


def test_config_takes_the_keys_that_change_a_file(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("steps: 7\n")
    done = CliRunner().invoke(app, ["config", str(tmp_path / "run.yaml"), "learner.lr=1e-4", "steps=9"])
    resolved = RunConfig.model_validate(yaml.safe_load(done.stdout))
    assert (resolved.steps, resolved.learner.lr) == (9, 1e-4)


def test_config_with_a_file_resolves_it_to_all_keys(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("steps: 7\nlearner: {lr: 1.0e-4}\n")
    done = CliRunner().invoke(app, ["config", str(tmp_path / "run.yaml")])
    resolved = RunConfig.model_validate(yaml.safe_load(done.stdout))
    changed = {key for key, value in leaves(resolved).items() if value != leaves(RunConfig())[key]}
    assert (resolved.steps, resolved.learner.lr) == (7, 1e-4)
    assert changed == {"steps", "learner.lr"}
