"""Data sets and reward functions as people have them for verl and TRL, trained on unchanged."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from examples import custom_tools, train_from_python
from rftfm_ray.actors.warm import WarmActors
from rftfm_ray.config import RunConfig, load_config
from rftfm_ray.driver.run import train
from rftfm_ray.errors import TaskError
from rftfm_ray.plugins import load_attribute
from rftfm_ray.tasks.api import text_digest
from rftfm_ray.telemetry.events import read_events
from rftfm_ray.telemetry.recorder import read_reward_parts, read_steps, read_trajectories
from rftfm_ray.types import RunSummary

pytestmark = pytest.mark.usefixtures("cluster")

FUNCTIONS = '''
def compute_score(data_source, solution_str, ground_truth, extra_info=None):
    """As verl calls it."""
    if solution_str == "":
        raise ValueError("nothing to grade")
    return {"score": 1.0 if solution_str == ground_truth else -0.25, "acc": solution_str == ground_truth}


def right(prompts, completions, answer, **kwargs):
    """As TRL calls it."""
    return [1.0 if completion == truth else 0.0 for completion, truth in zip(completions, answer)]


async def short(completions, **kwargs):
    """Another part."""
    return [0.5 if len(completion) <= 3 else None for completion in completions]
'''
SMALL = (
    "steps=3", "seed=5", "learner.lr=2e-4", "algorithm.prompts_per_step=6", "algorithm.samples_per_prompt=4",
    "probe.every=2", "records.trajectory_rate=1", "records.text=full", "data.max_new_tokens=5",
)  # fmt: skip


def sums(count: int) -> list[tuple[str, str]]:
    """Prompts that the shipped model has seen the kind of, with their answers."""
    rng, found = random.Random(7), dict[str, str]()
    while len(found) < count:
        one, other = rng.randint(10, 99), rng.randint(10, 99)
        found[f"{one}+{other}="] = str(one + other)
    return list(found.items())


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Parquet file of verl's form, a JSONL file of TRL's, and functions of both."""
    folder = tmp_path_factory.mktemp("data")
    rows: list[dict[str, Any]] = [
        {
            "data_source": "sums", "prompt": prompt, "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": answer}, "extra_info": {"index": index},
        }
        for index, (prompt, answer) in enumerate(sums(240))
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), folder / "train.parquet")
    lines = [json.dumps({"prompt": prompt, "answer": answer}) for prompt, answer in sums(240)]
    (folder / "train.jsonl").write_text("\n".join([*lines[:180], json.dumps({"prompt": "", "answer": "1"})]))
    (folder / "heldout.jsonl").write_text("\n".join(lines[180:]))
    (folder / "mine.py").write_text(FUNCTIONS)
    return folder


def config(*overrides: str) -> RunConfig:
    """A run of a few seconds."""
    return load_config(None, [*SMALL, *overrides])


def made(summary: RunSummary) -> list[dict[str, Any]]:
    """Its trajectories."""
    rows: list[dict[str, Any]] = read_trajectories(Path(summary.run_dir)).to_pylist()
    return rows


def test_a_verl_data_set_and_its_compute_score_are_trained_on_unchanged(
    files: Path, runs: Path, warm: WarmActors
) -> None:
    asked = config(f"data.train={files / 'train.parquet'}", f"reward.functions=[{files / 'mine.py'}:compute_score]")
    summary = train(asked, runs / "verl", warm=warm)
    truths = {text_digest(prompt): answer for prompt, answer in sums(240)}
    rows = made(summary)
    assert len(rows) == 3 * 6 * 4
    # The same rewards as of the function called by hand, row by row.
    compute_score, *_ = load_attribute("", f"{files / 'mine.py'}:compute_score", TaskError)
    for row in rows:
        assert row["reward"] == compute_score("sums", row["text"], truths[row["prompt_key"]])["score"]
    assert {row["reward"] for row in rows} == {1.0, -0.25}
    steps = read_steps(Path(summary.run_dir))
    assert all(0 < rate < 1 for rate in steps["correct_rate"].to_pylist())
    # The rows decide how many are held out, and how many of them are asked.
    used = load_config(Path(summary.run_dir) / "config.yaml", [])
    assert used.task.pool_size + used.probe.final_size == 240
    assert summary.vetoes == 0


def test_a_trl_data_set_with_two_functions_and_a_held_out_file(files: Path, runs: Path, warm: WarmActors) -> None:
    mine = files / "mine.py"
    (files / "hard.jsonl").write_text('{"prompt": "91+19=", "answer": "110"}\n{"prompt": "99+99=", "answer": "198"}')
    asked = config(
        f"data.train={files / 'train.jsonl'}", f"data.heldout={files / 'heldout.jsonl'}",
        f"eval.sets=[heldout,hard={files / 'hard.jsonl'}]", "eval.every=2", "eval.samples=4", "eval.size=20",
        f"reward.functions=[{mine}:right,{mine}:short]", "reward.weights=[1,0.5]",
    )  # fmt: skip
    summary = train(asked, runs / "trl", warm=warm)
    rows = made(summary)
    events: list[dict[str, Any]] = [dict(event) for event in read_events(Path(summary.run_dir) / "events.jsonl")]
    # Nothing that is known of the generator that `task.name` would mean holds for these rows.
    assert summary.incidents == ()
    found = [event for event in events if event["kind"] == "evaluation"]
    assert [(event["step"], event["name"], event["problems"]) for event in found] == [
        (step, name, size) for step in (0, 2, 3) for name, size in (("heldout", 20), ("hard", 2))
    ]
    for event in found:
        assert 0 <= event["accuracy"] <= event["pass_at_2"] <= event["pass_at_4"] <= 1
    assert found[0]["accuracy"] > 0.1
    assert "Evaluations" in (Path(summary.run_dir) / "report.html").read_text()
    # The parts have means of their own, which add up to the reward's.
    parts = read_reward_parts(Path(summary.run_dir)).to_pylist()
    assert [row["part"] for row in parts] == ["right", "short"] * 3
    for step, reward in enumerate(read_steps(Path(summary.run_dir))["reward_mean"].to_pylist()):
        right, short = parts[2 * step], parts[2 * step + 1]
        assert right["share"] == 1.0
        assert right["mean"] + 0.5 * short["mean"] * short["share"] == pytest.approx(reward, abs=1e-6)
    for row in rows:
        short = 0.25 if len(row["text"]) <= 3 else 0.0
        assert row["reward"] - short in (0.0, 1.0)
    assert {row["correct"] for row in rows} == {True, False}
    used = load_config(Path(summary.run_dir) / "config.yaml", [])
    assert (used.task.pool_size, used.probe.final_size) == (180, 60)


def test_a_verifier_that_ships_gives_the_guard_known_answers(files: Path, runs: Path, warm: WarmActors) -> None:
    asked = config(
        f"data.train={files / 'train.jsonl'}", "reward.functions=[exact]", "channels.golden_every=1",
        "guard.regrade_rate=1",
    )  # fmt: skip
    summary = train(asked, runs / "exact", warm=warm)
    steps = read_steps(Path(summary.run_dir))
    assert min(steps["golden_count"].to_pylist()) == 16
    assert max(steps["golden_mismatch_rate"].to_pylist()) == 0
    assert max(steps["regrade_mismatch_rate"].to_pylist()) == 0


def test_a_run_from_a_script_prints_its_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary = train_from_python.run(tmp_path, "steps=2", "probe.every=0", "algorithm.prompts_per_step=6")
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == ["step 1", "step 2"]
    assert (summary.steps, summary.incidents) == (2, ())


def test_a_tool_of_the_users_is_called_and_pays(tmp_path: Path, warm: WarmActors) -> None:
    """The shipped model calls a function of the examples as it calls the calculator that it has learnt with."""
    custom_tools.write_sums(tmp_path / "sums.jsonl")
    tools = [
        "tools.functions=[examples/custom_tools.py:add]", "tools.calls=regex:^c(?P<arguments>[^;]*);$",
        "tools.result={result};", "tools.stop=;", "tools.max_turns=2", "data.max_new_tokens=12",
    ]  # fmt: skip
    rows = [f"data.train={tmp_path / 'sums.jsonl'}", "reward.functions=[exact]", "channels.replay_rate=1"]
    train(config(*rows, *tools), tmp_path / "run", warm=warm)
    steps = read_steps(tmp_path / "run").to_pylist()
    assert sum(step["tool_call_count"] for step in steps) > 15
    unequal = (
        "failed_rate",
        "termination_mismatch_rate",
        "replay_observation_mismatch_rate",
        "replay_termination_mismatch_rate",
    )
    assert all(step[name] == 0 for step in steps for name in unequal)
    made = [call for row in read_trajectories(tmp_path / "run").to_pylist() for call in row["calls"]]
    assert len(made) == sum(step["tool_call_count"] for step in steps)
    for call in made:
        (request,) = json.loads(call["request"])
        if call["status"] == "ok":
            numbers = request["arguments"]["expression"].split("+")
            assert call["response"] == str(sum(map(int, numbers)))
        else:
            assert (call["status"], call["response"][:7]) == ("unparsable", "Error: ")
    assert sum(step["reward_mean"] for step in steps) > 0.3
