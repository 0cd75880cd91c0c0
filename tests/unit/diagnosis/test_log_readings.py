"""`rftfm diagnose` on logs of other trainers: what is wrong from the first row, or slowly, and too little to tell.

The logs are made here, in the shape of those that people publish: a run that learns, and what went wrong with it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner, Result

from rftfm_ray.cli.app import app
from rftfm_ray.diagnosis.log_readings import not_finite_rows, read
from rftfm_ray.diagnosis.logs import judge_log
from rftfm_ray.integrations.steplog import StepLog, read_log

Floats = NDArray[np.float64]
Columns = dict[str, Floats]
PART, RATIO, GAP = (
    "rewards/accuracy/mean",
    "sampling/importance_sampling_ratio/mean",
    "sampling/sampling_logp_difference",
)
TO_VERL = {
    "reward": "critic/score/mean", "kl": "actor/kl_loss", "loss": "actor/pg_loss", "grad_norm": "actor/grad_norm",
    "entropy": "actor/entropy", "completions/mean_length": "response_length/mean", "learning_rate": "actor/lr",
    "completions/clipped_ratio": "response_length/clip_ratio",
}  # fmt: skip
TO_OPENRLHF = {
    "loss": "train/policy_loss", "kl": "train/kl", "reward": "train/reward", "grad_norm": "train/actor_grad_norm",
    "completions/mean_length": "train/response_length", "learning_rate": "train/actor_lr",
    "entropy": "train/entropy_loss",
}  # fmt: skip


def learning(steps: int = 60, seed: int = 0) -> Columns:
    """A run that learns, as TRL's GRPO trainer logs it."""
    rng, step = np.random.default_rng(seed), np.arange(steps)
    level = 0.2 + 0.4 * step / (step + 60)

    def shaken(spread: float) -> Floats:
        values: Floats = spread * rng.standard_normal(steps)
        return values

    reward = np.clip(level + shaken(0.04), 0, 1)
    return {
        "reward": reward,
        PART: reward,
        "reward_std": 0.32 + shaken(0.02),
        "frac_reward_zero_std": np.clip(0.2 + shaken(0.04), 0, 1),
        "loss": shaken(0.003),
        "grad_norm": 0.35 * np.exp(shaken(0.25)),
        "learning_rate": 1e-6 * (1 - step / (steps + 1)),
        "kl": np.maximum(0.004 * step / (step + 20) * np.exp(shaken(0.1)), 0),
        "entropy": 0.46 - 0.08 * step / steps + shaken(0.01),
        "completions/mean_length": 210 - 20 * step / steps + shaken(9.0),
        "completions/clipped_ratio": np.clip(0.02 + shaken(0.01), 0, 1),
        f"{GAP}/mean": 0.0118 + shaken(0.0005),
        f"{GAP}/max": 0.45 + shaken(0.07),
        RATIO: 1 + shaken(0.002),
    }


def written(folder: Path, columns: Mapping[str, Floats]) -> Path:
    """A log in JSONL."""
    path = folder / "log.jsonl"
    rows = zip(*columns.values(), strict=True)
    lines = [
        json.dumps({"step": n, **dict(zip(columns, map(float, row), strict=True))}) for n, row in enumerate(rows, 1)
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def asked(folder: Path, columns: Mapping[str, Floats], *options: str) -> Result:
    """What the command says of a log."""
    return CliRunner().invoke(app, ["diagnose", str(written(folder, columns)), *options])


def dead(reward: float) -> Columns:
    """Every group has had equal rewards from the first row on, and the gradient has been 0."""
    columns = learning()
    nothing = ("reward_std", "loss", "grad_norm", "kl")
    return columns | {name: np.zeros(60) for name in nothing} | {
        "reward": np.full(60, reward), "frac_reward_zero_std": np.ones(60), PART: columns[PART] * (reward > 0),
    }  # fmt: skip


def lost_rows(share: float) -> Columns:
    """Loss, gradient and KL are not finite in a share of rows."""
    columns = learning(90)
    wrong = np.random.default_rng(4).random(90) < share if share < 0.5 else np.arange(90) % 2 == 1
    return columns | {name: np.where(wrong, math.nan, columns[name]) for name in ("loss", "grad_norm", "kl")}


def apart(kind: str) -> Columns:
    """Rollout and learner part company."""
    steps = 60 if kind == "from start" else 120
    columns, step = learning(steps), np.arange(steps)
    if kind == "from start":
        return columns | {f"{GAP}/mean": np.full(60, 0.8), f"{GAP}/max": np.full(60, 7.8), RATIO: np.full(60, 3e-7)}
    if kind == "jumps":
        del columns[RATIO]
        return columns | {f"{GAP}/mean": np.where(step < 80, 0.0118, 0.9), f"{GAP}/max": np.where(step < 80, 0.45, 9.0)}
    return columns | {RATIO: 1 - 0.28 * (step / 119) ** 2, f"{GAP}/mean": 0.011 * np.exp(step / 36)}


def hacked() -> Columns:
    """The format saturates and pays, and accuracy dies."""
    columns, step = learning(120), np.arange(120)
    noise = np.random.default_rng(9).standard_normal(120)
    accuracy = np.clip(0.36 * (1 - step / 80) + 0.02 * noise, 0, 1)
    form = 0.4 + 0.58 / (1 + np.exp(-(step - 45) / 8))
    return columns | {PART: accuracy, "rewards/format/mean": form, "reward": accuracy + form}


BROKEN: Mapping[str, tuple[Callable[[], Columns], str, tuple[int, int]]] = {
    # The case, what is found, and the first and last step at which it may be said to begin.
    "dead": (lambda: dead(3.0), "groups_agree", (1, 1)),
    "all rewards 0": (lambda: dead(0.0), "gradient_zero", (1, 1)),
    "rate 0": (lambda: learning() | {"learning_rate": np.zeros(60)}, "rate_zero", (1, 1)),
    "huge KL": (lambda: learning() | {"kl": np.full(60, 1e6)}, "kl_impossible", (1, 1)),
    "every second row": (lambda: lost_rows(0.5), "not_finite_share", (2, 2)),
    "a third of the rows": (lambda: lost_rows(0.3), "not_finite_share", (1, 10)),
    "apart from the start": (lambda: apart("from start"), "rollout_ratio", (1, 1)),
    "apart at once": (lambda: apart("jumps"), "rollout_gap", (81, 81)),
    "apart slowly": (lambda: apart("grows"), "rollout_ratio", (90, 110)),
    "reward hacking": (hacked, "part_lost:accuracy", (40, 80)),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_wrong_from_the_first_row_or_slowly_is_found_with_its_step(case: str, tmp_path: Path) -> None:
    make, reading, (earliest, latest) = BROKEN[case]
    result = asked(tmp_path, make(), "--json")
    verdict = json.loads(result.stdout)
    assert (result.exit_code, verdict["verdict"]) == (1, "faulty")
    found = next(alarm for alarm in verdict["alarms"] if alarm["kind"] == reading)
    assert earliest <= found["first_step"] <= latest
    assert found["column"] in found["says"]
    assert not {warning["signal"] for warning in verdict["warnings"]} & {alarm["signal"] for alarm in verdict["alarms"]}
    run = next(run for run in verdict["readings"] if run["name"] == reading)
    assert (run["state"], run["grade"]) == ("found", "critical")
    assert found["says"] in " ".join(asked(tmp_path, make()).stdout.split())


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("names", [{}, TO_VERL, TO_OPENRLHF], ids=["trl", "verl", "openrlhf"])
def test_healthy_logs_of_other_trainers_are_healthy(names: Mapping[str, str], seed: int, tmp_path: Path) -> None:
    columns = learning(300, seed)
    if names:
        columns = {names[name]: values for name, values in columns.items() if name in names}
    result = asked(tmp_path, columns, "--json")
    verdict = json.loads(result.stdout)
    assert (verdict["alarms"], verdict["warnings"], verdict["needed"]) == ([], [], [])
    assert (result.exit_code, verdict["verdict"]) == (0, "healthy")
    assert {run["state"] for run in verdict["readings"]} == {"silent", "not run"}


def test_two_rows_of_a_hundred_that_are_not_finite_are_borne(tmp_path: Path) -> None:
    columns = learning(100)
    for row in (30, 70):
        columns["loss"][row] = columns["grad_norm"][row] = math.nan
    assert asked(tmp_path, columns).exit_code == 0


def few_groups(groups: int, seed: int, *, steps: int = 200) -> StepLog:
    """A task that is solved, with few groups of eight answers a row: they agree by chance, then nearly always."""
    rng, step = np.random.default_rng(seed), np.arange(steps) / steps
    ease = -0.4 + 3.9 / (1 + np.exp(-(step - rng.uniform(0.2, 0.6)) / rng.uniform(0.03, 0.15)))
    right = rng.random((steps, groups, 8)) < (1 / (1 + np.exp(-ease)))[:, None, None]
    agree = (right.std(2) == 0).mean(1)
    columns = {
        "reward_mean": right.mean((1, 2)),
        "reward_std": right.std(2, ddof=1).mean(1),
        "zero_variance_group_rate": agree,
        "grad_norm": np.exp(0.4 * rng.standard_normal(steps)) * (agree < 1),
        "entropy": (0.5 - 0.2 * step) * np.exp(0.05 * rng.standard_normal(steps)),
        "kl_ref": 0.001 + 0.05 * step,
        "length_mean": 200 + 8 * rng.standard_normal(steps),
        "loss": 0.01 * rng.standard_normal(steps),
    }
    return StepLog(np.arange(1, steps + 1), columns, {name: name for name in columns}, (), (), False)


def test_rates_of_few_groups_leap_by_chance_and_where_a_task_is_solved_and_are_no_alarm() -> None:
    verdicts = [judge_log(few_groups(groups, seed)) for groups in (1, 2, 4, 8) for seed in range(5)]
    assert [verdict.alarms for verdict in verdicts if verdict.alarms] == []


def test_groups_that_agree_because_a_task_is_lost_are_an_alarm() -> None:
    log = few_groups(4, 1)
    for name, value in (
        ("reward_mean", 0.0),
        ("reward_std", 0.0),
        ("zero_variance_group_rate", 1.0),
        ("grad_norm", 0.0),
    ):
        log.values[name][-40:] = value
    assert {"groups_agree", "gradient_zero"} <= {alarm.kind for alarm in judge_log(log).alarms}


def test_a_warning_that_lasts_is_no_health_and_one_that_is_over_is(tmp_path: Path) -> None:
    columns = learning(80)
    names = ("loss", "reward", "reward_std", "entropy", "completions/mean_length", "grad_norm")
    columns = {name: columns[name] for name in names} | {f"{GAP}/max": np.full(80, 8.0)}
    result = asked(tmp_path, columns)
    assert result.exit_code == 3
    assert result.stdout.startswith("no alarm, and a warning that lasts")
    assert "far apart at some token of every row" in " ".join(result.stdout.split())
    columns[f"{GAP}/max"][20:] = 0.4
    columns[f"{GAP}/max"][:3] = 0.4
    over = asked(tmp_path, columns, "--json")
    assert json.loads(over.stdout)["warnings"][0]["recovered"]


def test_too_few_rows_are_not_enough_to_tell_and_it_says_what_would_be(tmp_path: Path) -> None:
    result = asked(tmp_path, {name: values[:8] for name, values in learning().items()})
    assert result.exit_code == 3
    assert result.stdout.startswith("no alarm, and not enough to tell")
    assert "To tell it takes entropy: 12 rows with entropy" in result.stdout


def test_one_family_with_columns_and_without_rows_keeps_a_log_from_being_healthy(tmp_path: Path) -> None:
    columns = learning()
    columns["entropy"][5:] = math.nan
    path = written(tmp_path, columns)
    path.write_text(path.read_text().replace("NaN", "null"))
    result = CliRunner().invoke(app, ["diagnose", str(path), "--json"])
    verdict = json.loads(result.stdout)
    assert (result.exit_code, verdict["verdict"]) == (3, "unknown")
    assert verdict["needed"] == ["entropy: 12 rows with entropy"]


def test_readings_that_are_not_run_say_what_they_lack() -> None:
    log = StepLog(np.arange(1, 31), {"entropy": np.full(30, 0.5)}, {"entropy": "entropy"}, (), (), False)
    runs = {run.name: run for run in read(log).runs}
    assert (runs["entropy_huge"].state, runs["entropy_huge"].rows) == ("silent", 30)
    assert (runs["drift_entropy"].state, runs["drift_entropy"].lacks) == ("not run", "200 rows with entropy")
    assert runs["kl_impossible"].lacks == "a column kl_ref"
    assert runs["step_kl_impossible"].lacks == "a column kl_old or step_kl"


def test_rows_before_the_first_finite_one_are_a_search_for_a_scale_unless_it_is_one() -> None:
    infinite = math.inf
    assert not_finite_rows({"reward_mean": np.ones(3)}) is None
    several = not_finite_rows({"loss": np.array([infinite, infinite, 1, infinite, math.nan])})
    np.testing.assert_equal(several, [math.nan, math.nan, 0, 1, math.nan])
    np.testing.assert_equal(not_finite_rows({"loss": np.array([infinite, 1.0])}), [1, 0])


def test_parts_of_the_reward_and_evaluations_are_read_under_their_own_names(tmp_path: Path) -> None:
    columns = {"reward": np.ones(3), "rewards/format/mean": np.ones(3), "rewards/format/std": np.ones(3),
               "eval_reward": np.ones(3), "eval_loss": np.ones(3), "val-core/gsm8k/acc/mean@8": np.ones(3)}  # fmt: skip
    log = read_log(written(tmp_path, columns))
    assert set(log.values) == {"reward_mean", "beside:format", "beside:eval_reward", "beside:val-core/gsm8k/acc/mean@8"}
    assert set(log.unused) == {"rewards/format/std", "eval_loss"}
