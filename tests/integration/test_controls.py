"""Benign controls on the real stack: identities hold, nothing differs before the onset, and each does what it says."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rftfm_ray.actors.warm import WarmActors
from rftfm_ray.config import RunConfig, load_config
from rftfm_ray.detection.detectors.identities import IDENTITIES
from rftfm_ray.detection.reference.views import StepView, values_of
from rftfm_ray.driver.run import train
from rftfm_ray.faults.controls import CONTROLS, longer_answers, parse_control
from rftfm_ray.incidents.state import EntryKind
from rftfm_ray.metrics import StepRow, Timings
from rftfm_ray.signals.schema import report_of
from rftfm_ray.tasks.addition import Addition
from rftfm_ray.tasks.loading import harder_half
from rftfm_ray.telemetry.events import read_events
from rftfm_ray.telemetry.journal import JOURNAL, read_journal
from rftfm_ray.telemetry.recorder import read_steps, read_trajectories
from rftfm_ray.types import RunSummary
from rftfm_ray.verdicts import OutcomeKind

pytestmark = pytest.mark.usefixtures("cluster")

ONSET, STEPS = 6, 12
SMALL = [
    "seed=5",
    f"steps={STEPS}",
    "algorithm.prompts_per_step=8",
    "algorithm.samples_per_prompt=4",
    "learner.lr=2e-4",
    "probe.size=80",
    "probe.final_size=80",
    "checkpoints.at_end=false",
    "report.at_end=false",
    "records.text=full",
    "records.trajectory_rate=1",
    # Every identity and channel is asked as often as it can be.
    "guard.regrade_rate=1",
    "channels.replay_rate=1",
    "channels.golden_every=1",
    "channels.known_calls_every=1",
    "sync.parity_every=2",
]
CALLING = ("task.name=calculator",)
TIMES = {*Timings.__dataclass_fields__, "tool_latency_s", "tool_latency_max_s", "tool_error_latency_s"}
Columns = dict[str, list[Any]]


@dataclass(frozen=True)
class Ran:
    """A run that has ended, with its rows."""

    summary: RunSummary
    config: RunConfig
    rows: list[StepRow]

    @property
    def folder(self) -> Path:
        """Where its records are."""
        return Path(self.summary.run_dir)

    @property
    def columns(self) -> Columns:
        """Columns of its rows; NaN as None, so that equal means equal."""
        table = read_steps(self.folder)
        return {
            name: [None if isinstance(v, float) and math.isnan(v) else v for v in table[name].to_pylist()]
            for name in table.column_names
        }

    @property
    def determined(self) -> Columns:
        """Those that the seed determines."""
        return {name: values for name, values in self.columns.items() if name not in TIMES}

    def events(self, kind: str) -> list[dict[str, Any]]:
        """Its events of a kind."""
        return [dict(event) for event in read_events(self.folder / "events.jsonl") if event["kind"] == kind]

    def prompts(self, step: int) -> list[str]:
        """The prompts of a step, each once for every group."""
        table = read_trajectories(self.folder).to_pylist()
        return [row["prompt_key"] for row in table if row["step"] == step and row["sample"] == 0]


Run = Callable[..., Ran]


@pytest.fixture(scope="module")
def run(runs: Path, warm: WarmActors) -> Run:
    """Make a run of a few seconds, or give the one of the same configuration that has been made."""
    made: dict[tuple[str, ...], Ran] = {}
    numbers = itertools.count()

    def make(*overrides: str, anew: bool = False, resume: Path | None = None) -> Ran:
        found = None if anew or resume else made.get(overrides)
        if found is None:
            rows: list[StepRow] = []
            config, folder = load_config(None, [*SMALL, *overrides]), runs / f"control-{next(numbers)}"
            found = Ran(train(config, folder, resume, observe=rows.append, warm=warm), config, rows)
            if resume is None:
                made.setdefault(overrides, found)
        return found

    return make


def broken(ran: Ran) -> list[tuple[str, int]]:
    """Every identity that a step breaks."""
    steps, values = values_of([report_of(row) for row in ran.rows])
    view = StepView.without_residuals(steps, values)
    found = [(i.name, step) for i in IDENTITIES for step in steps[i.broken(view)].tolist()]
    excess = ("lr_excess", "schedule_excess")
    return found + [(name, row.id.step) for row in ran.rows for name in excess if getattr(row.checks, name) != 0]


def wrong(ran: Ran) -> set[float]:
    """Shares of what independent channels find wrong, over a run: 0 alone when nothing is."""
    columns = ran.columns
    names = ("regrade_mismatch_rate", "golden_mismatch_rate", "trained_mismatch_rate", "known_call_error_rate")
    return {share for name in names for share in columns[name] if share is not None}


def before(columns: Columns) -> Columns:
    """The rows from before the onset."""
    return {name: values[: ONSET - 1] for name, values in columns.items()}


def mean(ran: Ran, name: str, since: int = ONSET) -> float:
    """Mean of a column from a step on."""
    values = ran.columns[name][since - 1 :]
    return float(sum(values) / len(values))


def pair(run: Run, control: str, *overrides: str) -> tuple[Ran, Ran]:
    """A run with a control and its healthy one; what must be so of every control has been checked."""
    spec = parse_control(control)
    ran, healthy = run(*overrides, f"inject=['{control}']"), run(*overrides)
    assert len(ran.rows) == len(healthy.rows) == ran.config.steps
    assert broken(ran) == []
    assert wrong(ran) == {0.0}
    assert ran.summary.incidents == ()
    assert before(ran.determined) == before(healthy.determined)
    (event,) = ran.events("control")
    told = {key: event[key] for key in ("name", "declared", "strength", "switch_step")}
    assert told == {
        "name": spec.name, "declared": spec.kind.declared, "strength": spec.strength, "switch_step": ONSET,
    }  # fmt: skip
    declared = [entry for entry in read_journal(ran.folder / JOURNAL)[0] if entry.kind is EntryKind.DECLARED]
    assert [entry.id.step for entry in declared] == ([ONSET] if spec.kind.declared else [])
    changes = [(change["key"], change["step"]) for change in ran.events("declared")]
    assert changes == ([(spec.kind.key, ONSET)] if spec.kind.key else [])
    return ran, healthy


@pytest.mark.parametrize(
    ("control", "column", "old", "new"),
    [
        ("lr_step@6", "lr", 2e-4, 6e-5),
        ("batch_size@6", "trajectory_count", 32, 64),
        ("batch_size@6:0.5", "trajectory_count", 32, 16),
        ("group_size@6", "trajectory_count", 32, 64),
        ("reward_scale@6", "reward_max", 1.0, 10.0),
    ],
)
def test_declared_change_is_made_at_its_step_and_breaks_nothing(
    run: Run, control: str, column: str, old: float, new: float
) -> None:
    ran, healthy = pair(run, control)
    assert ran.columns[column] == pytest.approx([old] * (ONSET - 1) + [new] * (STEPS - ONSET + 1))
    assert healthy.columns[column] == pytest.approx([old] * STEPS)


def test_group_size_leaves_the_prompts_and_batch_size_the_groups(run: Run) -> None:
    grouped, healthy = pair(run, "group_size@6")
    assert grouped.prompts(STEPS) == healthy.prompts(STEPS)
    batched, _ = pair(run, "batch_size@6")
    assert len(batched.prompts(STEPS)) == 16
    assert batched.prompts(ONSET) == healthy.prompts(ONSET) + healthy.prompts(ONSET + 1)


def test_rescaled_rewards_train_as_before(run: Run) -> None:
    ran, healthy = pair(run, "reward_scale@6")
    assert mean(ran, "reward_mean") == pytest.approx(10 * mean(healthy, "reward_mean"), rel=1e-5)
    for name in ("correct_rate", "length_mean"):
        assert ran.columns[name] == healthy.columns[name]


def test_cooler_sampling_is_surer_at_learner_and_rollout(run: Run) -> None:
    ran, healthy = pair(run, "temperature@6")
    assert mean(ran, "entropy") < 0.9 * mean(healthy, "entropy")
    assert mean(ran, "sampling_logprob_mean") > 0.9 * mean(healthy, "sampling_logprob_mean")
    # They agree on what was sampled at which temperature.
    assert max(ran.columns["rollout_gap_max"]) < 1e-4


def test_harder_prompts_come_from_the_harder_half(run: Run) -> None:
    ran, healthy = pair(run, "harder_prompts@6")
    task = Addition()
    hard = {problem.key for problem in harder_half(task, task.pool(256, 5))}
    assert all(set(ran.prompts(step)) <= hard for step in range(ONSET, STEPS + 1))
    assert not set(healthy.prompts(ONSET)) <= hard
    assert mean(ran, "correct_rate") < mean(healthy, "correct_rate")


def test_longer_turns_are_cut_off_no_more(run: Run) -> None:
    ran, healthy = pair(run, "longer_tokens@6:1", *CALLING, "task.token_scale=0.5")
    assert min(healthy.columns["truncated_rate"]) > 0.1
    assert set(ran.columns["truncated_rate"][ONSET - 1 :]) == {0.0}
    assert mean(ran, "length_max") > 6 >= max(healthy.columns["length_q50"])


def test_resumed_run_goes_on_to_the_bit(run: Run) -> None:
    ran, healthy = pair(run, "resume@6")
    assert ran.determined == healthy.determined
    (event,) = ran.events("resumed")
    assert event["step"] == ONSET - 1
    assert Path(str(event["checkpoint"])).parent == ran.folder / "controls"


@pytest.mark.slow
def test_restarted_rollout_actor_changes_nothing_and_can_be_used_again(run: Run) -> None:
    ran, healthy = pair(run, "restart_rollout@6")
    assert ran.determined == healthy.determined
    usual = sorted(ran.columns["step_s"])[STEPS // 2]
    assert ran.columns["step_s"][ONSET - 1] > 5 * usual, "that step waits for the new one"
    assert run(anew=True).determined == healthy.determined


def test_orders_reach_the_actor_that_was_restarted(run: Run) -> None:
    acting = ("steps=22", "guard.mode=act", "guard.act_on=[RF]", "guard.verify_steps=4")
    ran = run(*acting, "inject=['restart_rollout@6','RF-1@12:2']")
    entries, _ = read_journal(ran.folder / JOURNAL)
    outcomes = [dict(entry.fields)["outcome"] for entry in entries if entry.kind is EntryKind.OUTCOME]
    assert outcomes == [OutcomeKind.MITIGATED.value]
    assert ran.columns["reward_max"][-1] <= 1.0, "it grades again as the others do"


def test_slow_tool_answers_as_ever(run: Run) -> None:
    ran, healthy = pair(run, "slow_tool@6", *CALLING)
    assert ran.determined == healthy.determined
    latency = ran.columns["tool_latency_s"]
    assert max(latency[: ONSET - 1]) < 0.002
    assert min(latency[ONSET - 1 :]) > 0.003


@pytest.mark.slow
def test_answers_grow_longer_where_longer_ones_are_right(run: Run) -> None:
    ran, healthy = pair(run, "length_growth@6:1", "steps=18")
    long = {problem.key for problem in longer_answers(Addition().pool(256, 5))}
    shares = [len(long & set(ran.prompts(step))) / 8 for step in range(1, 19)]
    assert sum(shares[:5]) / 5 < 0.75
    assert shares[15:] == [1.0] * 3
    assert mean(ran, "length_mean", 16) > mean(healthy, "length_mean", 16) + 0.1
    assert set(ran.columns["truncated_rate"]) == {0.0}


@pytest.mark.slow
def test_entropy_decays_where_few_problems_are_mastered(run: Run) -> None:
    ran, healthy = pair(run, "entropy_decay@6:8", "steps=30", "learner.lr=3e-4")
    prompts = {frozenset(ran.prompts(step)) for step in range(ONSET, 31)}
    assert len(prompts) == 1
    assert len(prompts.pop()) == 8
    assert mean(ran, "entropy", 26) < 0.6 * mean(healthy, "entropy", 26)
    assert mean(ran, "correct_rate", 26) > mean(healthy, "correct_rate", 26) + 0.2


def test_every_control_is_tried() -> None:
    text = Path(__file__).read_text(encoding="utf-8")
    assert [name for name in CONTROLS if f'"{name}@{ONSET}' not in text] == []


def test_rollback_over_a_change_makes_it_again_at_its_step(run: Run) -> None:
    acting = ("steps=22", "guard.mode=act", "guard.act_on=[OD]", "guard.verify_steps=4")
    ran = run(*acting, "changes=['task.token_scale=2@12']", "inject=['OD-1@12:30,duration=3']")
    assert ran.rows[-1].id.attempt == 1
    assert [(event["attempt"], event["step"]) for event in ran.events("declared")] == [(0, 12), (1, 12)]
    journal = read_journal(ran.folder / JOURNAL)[0]
    told = [dict(e.fields)["change"] for e in journal if e.kind is EntryKind.DECLARED]
    assert told.count("configuration") == 2
    # The alarm asks for a replay of the next update, which still has the fault in it.
    assert broken(ran) == [("update_gain", 11)]


@pytest.mark.slow
def test_resume_past_a_change_has_it_in_force_and_declares_nothing(run: Run) -> None:
    changes = "changes=['algorithm.prompts_per_step=16@4']"
    first = run("steps=6", changes, "checkpoints.every=3")
    whole = run(changes)
    assert [row.batch.trajectory_count for row in first.rows] == [32.0] * 3 + [64.0] * 3
    for step, declared in ((3, [4]), (6, [])):
        resumed = run(changes, resume=first.folder / "checkpoints" / f"step-{step:06d}")
        assert [event["step"] for event in resumed.events("declared")] == declared
        found = [row.batch.reward_mean for row in resumed.rows]
        assert found == whole.columns["reward_mean"][step:]
