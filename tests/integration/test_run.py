"""Whole runs on the real stack: what they leave behind, and that equal seeds give equal runs."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from rftfm_ray.actors.warm import WarmActors
from rftfm_ray.config import RunConfig, load_config
from rftfm_ray.driver.run import train
from rftfm_ray.errors import ResumeError
from rftfm_ray.metrics import StepRow, Timings
from rftfm_ray.planning import plan
from rftfm_ray.telemetry.events import read_events
from rftfm_ray.telemetry.recorder import read_steps, read_trajectories
from rftfm_ray.telemetry.records import summary_json
from rftfm_ray.training import checkpoints
from rftfm_ray.types import RunSummary

pytestmark = pytest.mark.usefixtures("cluster")

SMALL = [
    "steps=6",
    "seed=3",
    "learner.lr=2e-4",
    "algorithm.prompts_per_step=6",
    "algorithm.samples_per_prompt=4",
    "probe.size=64",
    "probe.every=3",
    "sync.parity_every=2",
    "checkpoints.every=3",
    "records.part_steps=4",
    "records.trajectory_rate=1",
]
GUARDED = {"journal.jsonl", "report.html"}
TIMES = set(Timings.__dataclass_fields__)


def config(*overrides: str) -> RunConfig:
    """A run of a few seconds."""
    return load_config(None, [*SMALL, *overrides])


@pytest.fixture(scope="session")
def straight(cluster: None, runs: Path) -> tuple[RunSummary, list[StepRow]]:
    """The run that others are compared with: on actors of its own, as `rftfm train` makes it."""
    rows: list[StepRow] = []
    return train(config(), runs / "straight", observe=rows.append), rows


def without_times(table: pa.Table) -> dict[str, list[float | None]]:
    """Columns that the seed determines; NaN as None, so that equal means equal."""
    columns = table.drop_columns(sorted(TIMES & set(table.column_names))).to_pydict()
    return {
        name: [None if isinstance(v, float) and math.isnan(v) else v for v in values]
        for name, values in columns.items()
    }


def folder_of(summary: RunSummary) -> Path:
    """The run directory."""
    return Path(summary.run_dir)


def test_a_run_leaves_its_records(straight: tuple[RunSummary, list[StepRow]]) -> None:
    summary, observed = straight
    folder = folder_of(summary)
    names = {path.name for path in folder.iterdir()}
    assert names == {"config.yaml", "steps", "trajectories", "events.jsonl", "summary.json", "checkpoints"} | GUARDED
    assert load_config(folder / "config.yaml", []) == config()
    assert json.loads((folder / "summary.json").read_text()) == json.loads(summary_json(summary))
    steps = read_steps(folder)
    assert steps["step"].to_pylist() == steps["paid_step"].to_pylist() == [1, 2, 3, 4, 5, 6]
    assert [len(list((folder / part).glob("part-*.parquet"))) for part in ("steps", "trajectories")] == [2, 2]
    assert steps["reward_mean"].to_pylist() == [row.batch.reward_mean for row in observed]
    assert summary.reward_first == pytest.approx(np.mean(steps["reward_mean"].to_pylist()[:5]))
    assert summary.reward_last == pytest.approx(np.mean(steps["reward_mean"].to_pylist()[-5:]))
    assert (summary.vetoes, summary.guard, summary.incidents, summary.seed, summary.steps) == (0, "observe", (), 3, 6)
    assert 0 < summary.step_time_s_median < summary.first_step_s


def test_rollout_and_learner_hold_the_same_model(straight: tuple[RunSummary, list[StepRow]]) -> None:
    steps = read_steps(folder_of(straight[0]))
    assert max(steps["rollout_gap_max"].to_pylist()) < 1e-4
    gaps = [gap for gap in steps["parity_gap"].to_pylist() if not math.isnan(gap)]
    assert len(gaps) == 3
    assert 0 < max(gaps) < 1e-4


def test_events_tell_the_run_in_order(straight: tuple[RunSummary, list[StepRow]]) -> None:
    summary, _ = straight
    events = list(read_events(folder_of(summary) / "events.jsonl"))
    kinds = [event["kind"] for event in events]
    told = ["probe", "checkpoint", "probe", "checkpoint", "probe"]
    assert kinds == ["run_started", "parity", "preflight", "probe", *told, "run_ended"]
    probes = [event["accuracy"] for event in events if event["kind"] == "probe"]
    assert (probes[0], probes[-1]) == (summary.probe_first, summary.probe_last)


def test_all_trajectories_are_recorded_without_texts(straight: tuple[RunSummary, list[StepRow]]) -> None:
    table = read_trajectories(folder_of(straight[0]))
    assert table.num_rows == 6 * 6 * 4
    assert set(table["termination"].to_pylist()) <= {"eos", "max_tokens"}
    assert table["text"].null_count == table["tokens"].null_count == table.num_rows
    versions = dict(zip(table["step"].to_pylist(), table["model_version"].to_pylist(), strict=True))
    assert versions == {step: step - 1 for step in range(1, 7)}


def test_the_same_seed_gives_the_same_run(
    straight: tuple[RunSummary, list[StepRow]], runs: Path, warm: WarmActors
) -> None:
    again = train(config(), runs / "again", warm=warm)
    first, second = (without_times(read_steps(folder_of(s))) for s in (straight[0], again))
    assert first == second


def test_another_seed_gives_another_run(
    straight: tuple[RunSummary, list[StepRow]], runs: Path, warm: WarmActors
) -> None:
    other = train(config("seed=4", "steps=2", "probe.every=0"), runs / "other", warm=warm)
    first, second = (read_steps(folder_of(s))["loss"].to_pylist() for s in (straight[0], other))
    assert first[:2] != second


def test_two_rollout_actors_give_the_same_run(straight: tuple[RunSummary, list[StepRow]], runs: Path) -> None:
    two = train(config("rollout.num_actors=2"), runs / "two")
    first, second = (without_times(read_steps(folder_of(s))) for s in (straight[0], two))
    for table in (first, second):
        # The largest gap over one engine's and over two engines' scores of the same sequences; and every actor puts
        # known answers and calls to its own instances.
        for name in ("parity_gap", "golden_count", "known_call_count"):
            del table[name]
    assert first == second


def test_a_resumed_run_goes_on_bit_for_bit(
    straight: tuple[RunSummary, list[StepRow]], runs: Path, warm: WarmActors
) -> None:
    summary, _ = straight
    saved = folder_of(summary) / "checkpoints" / "step-000003"
    resumed = train(config(), runs / "resumed", resume=saved, warm=warm)
    first, second = (without_times(read_steps(folder_of(s))) for s in (summary, resumed))
    assert second["step"] == [4, 5, 6]
    assert {name: values[3:] for name, values in first.items()} == second
    ends = [checkpoints.verify(folder_of(s) / "checkpoints" / "step-000006") for s in (summary, resumed)]
    weights = [checkpoints.read_rank(end, 0) for end in ends]
    assert weights[0].keys() == weights[1].keys()
    assert all(np.array_equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_checkpoint_holds_a_model_that_loads(straight: tuple[RunSummary, list[StepRow]]) -> None:
    from transformers import AutoModelForCausalLM

    checkpoint = checkpoints.verify(folder_of(straight[0]) / "checkpoints" / "step-000006")
    model = AutoModelForCausalLM.from_pretrained(checkpoint.path / "model")
    saved = checkpoints.read_model(checkpoint)
    for name, parameter in model.named_parameters():
        assert np.array_equal(parameter.detach().numpy(), saved[name])
    state = checkpoint.state
    assert (state.step, state.model_version, state.cursor, state.zero_stage) == (6, 6, 36, 2)


CALCULATOR = ["task.name=calculator", "steps=2", "probe.every=0", "checkpoints.at_end=false", "records.text=full"]


def test_calculator_episodes_hold_calls_and_masked_observations(runs: Path, warm: WarmActors) -> None:
    folder = folder_of(train(config(*CALCULATOR), runs / "calculator", warm=warm))
    table = read_trajectories(folder).to_pylist()
    called = [row for row in table if row["calls"]]
    assert called
    for row in called:
        call = row["calls"][0]
        assert row["turns"] == (2 if row["termination"] != "failed" else 1)
        assert f"c{call['request']};{call['response']};" in row["text"]
        observed = len(call["response"]) + 1
        assert row["action"].count(False) == row["prompt_length"] + observed
        assert all((p == 0) != a for p, a in zip(row["logprobs"], row["action"], strict=True) if not a)


@pytest.mark.parametrize(
    "overrides",
    [("learner.zero_stage=3", "learner.micro_batch_size=7"), ("learner.zero_stage=0", "algorithm.minibatches=3")],
    ids=["stage-3-micro-batches", "stage-0-minibatches"],
)
def test_other_layouts_of_learning_train(overrides: tuple[str, ...], runs: Path, warm: WarmActors) -> None:
    name = overrides[0].replace("=", "-")
    steps = read_steps(folder_of(train(config(*CALCULATOR, *overrides), runs / name, warm=warm)))
    assert steps["vetoes"].to_pylist() == [0, 0]
    assert max(steps["rollout_gap_max"].to_pylist()) < 1e-4
    assert steps["grad_norm"].to_pylist()[0] > 0


def test_stages_learn_the_same(straight: tuple[RunSummary, list[StepRow]], runs: Path, warm: WarmActors) -> None:
    zero = train(config("learner.zero_stage=0", "steps=3", "checkpoints.at_end=false"), runs / "zero", warm=warm)
    first, second = (read_steps(folder_of(s)) for s in (straight[0], zero))
    assert first["reward_mean"].to_pylist()[:3] == second["reward_mean"].to_pylist()
    np.testing.assert_allclose(first["loss"].to_numpy()[:3], second["loss"].to_numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [(["steps=3"], "is of step 3, and steps=3"), (["learner.zero_stage=3"], "learner.zero_stage=2; resume with")],
)
def test_a_checkpoint_that_does_not_fit_is_refused_at_submit(
    overrides: list[str], words: str, straight: tuple[RunSummary, list[StepRow]], runs: Path
) -> None:
    saved = folder_of(straight[0]) / "checkpoints" / "step-000003"
    with pytest.raises(ResumeError, match=words):
        plan(config(*overrides), runs / "refused", resume=saved)
    with pytest.raises(ResumeError, match=r"no checkpoint directory .*nowhere; check the path"):
        plan(config(), runs / "refused", resume=runs / "nowhere")
    assert not (runs / "refused").exists()
