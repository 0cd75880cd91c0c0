"""Laws on the logs of others: what is judged, what is not, and how a break is reported."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from rftfm_ray.cli.app import app
from rftfm_ray.detection.laws.table import LAWS
from rftfm_ray.diagnosis.log_laws import SHOWN, laws_of
from rftfm_ray.diagnosis.logs import judge_log
from rftfm_ray.integrations.steplog import StepLog, read_log
from rftfm_ray.integrations.trl_config import TrlConfig, declared_by_trl

Columns = dict[str, NDArray[np.float64]]
STEPS = 60
CONFIG = {
    "loss_type": "grpo",
    "max_steps": STEPS,
    "learning_rate": 1e-4,
    "logging_steps": 1,
    "max_completion_length": 16,
    "reward_weights": [1.0, 1.0],
}


def columns(seed: int = 1) -> Columns:
    """What TRL logs of a sound run: two reward functions, one update a batch, no KL term."""
    rng, step = np.random.default_rng(seed), np.arange(STEPS)
    right, form = 0.3 + 0.3 * rng.random(STEPS), 0.5 * rng.random(STEPS)
    return {
        "step": step + 1.0, "reward": right + form, "rewards/right/mean": right, "rewards/form/mean": form,
        "loss": rng.normal(0, 1e-8, STEPS), "entropy": 1.0 + 0.1 * rng.random(STEPS),
        "grad_norm": 0.5 + 0.1 * rng.random(STEPS), "learning_rate": 1e-4 * (STEPS - step) / STEPS,
        "clip_ratio/low_mean": np.zeros(STEPS), "clip_ratio/high_mean": np.zeros(STEPS),
        "completions/max_length": np.full(STEPS, 16.0), "completions/clipped_ratio": np.full(STEPS, 0.2),
        "completions/mean_length": 9 + rng.random(STEPS), "frac_reward_zero_std": np.zeros(STEPS),
    }  # fmt: skip


def written(folder: Path, figures: Columns) -> Path:
    """A log in JSONL."""
    path = folder / "log.jsonl"
    rows = [{name: column[row] for name, column in figures.items()} for row in range(STEPS)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def log_of(folder: Path, figures: Columns) -> StepLog:
    """The same as it is read."""
    return read_log(written(folder, figures))


def test_laws_of_logs_are_laws() -> None:
    assert set(SHOWN) <= set(LAWS)


def test_sound_log_keeps_every_law_that_can_be_judged(tmp_path: Path) -> None:
    log = log_of(tmp_path, columns())
    assert set(log.reward_parts) == {"rewards/right/mean", "rewards/form/mean"}
    assert not log.unused
    laws = {law.name: law for law in laws_of(log, declared_by_trl(TrlConfig(**CONFIG), tuple(log.reward_parts)))}
    assert set(laws) == {"reward", "centred_loss", "clip", "rate", "limit"}
    assert all(law.rows == STEPS and not law.broken and law.largest < 1 for law in laws.values())
    # Without a configuration only what the log shows by itself.
    (own,) = laws_of(log, None)
    assert (own.name, own.rows, own.broken) == ("own_reward", STEPS - 8, ())
    assert [alarm.kind for alarm in judge_log(log, None).alarms if alarm.kind.startswith("law")] == []


@pytest.mark.parametrize(
    ("law", "column", "change"),
    [
        ("reward", "reward", lambda c: c["reward"] + 0.1),
        ("centred_loss", "loss", lambda c: c["loss"] + 0.5 * c["entropy"]),
        ("clip", "clip_ratio/low_mean", lambda c: c["clip_ratio/low_mean"] + 0.01),
        ("rate", "learning_rate", lambda c: 3 * c["learning_rate"]),
        ("limit", "completions/max_length", lambda c: c["completions/max_length"] / 2),
        ("flat", "frac_reward_zero_std", lambda c: np.ones(STEPS)),
    ],
)  # fmt: skip
def test_break_is_an_alarm_from_its_first_row_to_its_last(
    tmp_path: Path, law: str, column: str, change: object
) -> None:
    figures = columns()
    late = np.arange(STEPS) >= 20
    assert callable(change)
    log = log_of(tmp_path, {**figures, column: np.where(late, change(figures), figures[column])})
    declared = declared_by_trl(TrlConfig(**CONFIG), tuple(log.reward_parts))
    verdict = judge_log(log, declared)
    (alarm,) = [each for each in verdict.alarms if each.kind.startswith("law")]
    assert (alarm.kind, alarm.first_step, alarm.raised_step, alarm.last_step) == (f"law_{law}", 21, 21, STEPS)
    assert verdict.verdict == "faulty"
    (check,) = [each for each in verdict.laws if each.name == law]
    assert check.broken == STEPS - 20
    assert ("coefficient -0.5" in check.strength) is (law == "centred_loss")


def test_single_broken_row_is_an_alarm_that_has_recovered(tmp_path: Path) -> None:
    figures = columns()
    figures["reward"][30] += 1.0
    log = log_of(tmp_path, figures)
    (alarm,) = [each for each in judge_log(log).alarms if each.kind == "law_own_reward"]
    assert (alarm.first_step, alarm.last_step, alarm.recovered) == (31, 31, True)


def test_command_line_says_which_laws_held_and_which_broke(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps(CONFIG))
    path = written(tmp_path, columns())
    result = CliRunner().invoke(app, ["diagnose", str(path), "--trl-config", str(config)])
    assert "Law clip held on 60 rows: before the first update of a step no ratio is clipped." in result.output
    figures = columns()
    figures["loss"] = figures["loss"] + 0.5 * figures["entropy"]
    result = CliRunner().invoke(app, ["diagnose", str(written(tmp_path, figures)), "--trl-config", str(config)])
    assert result.exit_code == 1
    assert "Law centred_loss broken on 60 of 60 rows (as an entropy bonus of coefficient -0.5)" in result.output
    parsed = CliRunner().invoke(app, ["diagnose", str(path), "--trl-config", str(config), "--json"])
    assert {law["name"] for law in json.loads(parsed.output)["laws"]} >= {"reward", "clip", "rate", "limit"}
    config.write_text("[]")
    refused = CliRunner().invoke(app, ["diagnose", str(path), "--trl-config", str(config)])
    assert refused.exit_code != 0
