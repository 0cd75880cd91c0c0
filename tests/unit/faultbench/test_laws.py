"""Laws of a recorded step: what they measure, when they say nothing, and what faulty credit does to them."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import cast

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks import law_silence
from benchmarks.law_silence import Silence, SilenceCase, from_line, list_silence_cases, measured, page, to_line
from rftfm_ray.batch import TrajectoryBatch
from rftfm_ray.config import RunConfig, load_config
from rftfm_ray.config.settings import nominal_settings
from rftfm_ray.faultbench.runs.laws import CHECKS, is_broken, largest
from rftfm_ray.faultbench.runs.runner import RunHistory
from rftfm_ray.faults.catalogue import parse_fault
from rftfm_ray.faults.kinds import CATALOGUE, Law
from rftfm_ray.faults.learning import faulty_learner
from rftfm_ray.metrics import StepRow
from rftfm_ray.training.credit import CreditErrors, Rule, assign, credit_metrics
from rftfm_ray.types import StepId
from tests.unit.doubles import step_row

BATCH = {
    "reward_mean": 0.34, "correct_rate": 0.5, "tool_calls_mean": 0.8, "turns_mean": 1.8, "valid_rate": 1.0,
    "tool_error_rate": 0.0, "zero_variance_group_rate": 0.25, "trajectory_count": 96.0, "length_mean": 3.0,
    "turn_limit_rate": 0.0, "truncated_rate": 0.0, "reward_min": -0.2, "reward_std": 0.4, "length_max": 5.0,
}  # fmt: skip
UPDATE = {
    "loss": 0.102, "policy_loss": 0.1, "kl_ref": 0.1, "entropy": 0.7, "value_loss": math.nan, "rollout_kl": 1e-12,
    "changed_rate": 1.0, "vetoes": 0, "grad_norm": 0.5,
}  # fmt: skip
# Of groups of eight, a quarter of them without a spread.
CREDIT = {"advantage_mean": 0.0, "advantage_std": math.sqrt(0.75 * 7 / 8), "return_early": 0.3, "return_late": 0.3}


def row(**figures: float) -> StepRow:
    """A step of the calculator in which every law holds but for what `figures` say."""
    made = step_row(3)
    parts = {"batch": BATCH, "update": UPDATE, "credit": CREDIT}
    changed = {
        part: dataclasses.replace(getattr(made, part), **{n: figures.get(n, v) for n, v in usual.items()})
        for part, usual in parts.items()
    }
    return dataclasses.replace(made, **changed)


def config(*overrides: str) -> RunConfig:
    """A run of the calculator."""
    return load_config(None, ["task.name=calculator", *overrides])


def broken(step: StepRow, run: RunConfig) -> set[Law]:
    """Laws that a step breaks."""
    return {law for law, residual in largest([step], run).items() if is_broken(law, residual)}


def test_there_is_a_residual_for_every_law_and_all_of_them_hold_on_a_sound_step() -> None:
    assert set(CHECKS) == set(Law)
    assert broken(row(), config()) == set()
    assert not any(math.isnan(residual) for residual in largest([row()], config()).values())


@pytest.mark.parametrize(
    ("figures", "law"),
    [
        ({"advantage_mean": 1e-3}, Law.ADVANTAGE_MEAN),
        ({"advantage_std": 0.9}, Law.ADVANTAGE_SPREAD),
        ({"return_early": 0.299}, Law.RETURNS),
        ({"loss": 0.103}, Law.LOSS),
        ({"reward_mean": 0.35}, Law.REWARD),
        ({"rollout_kl": 1e-6}, Law.ROLLOUT),
        ({"changed_rate": 0.9}, Law.WEIGHTS),
        ({"tool_error_rate": 0.01}, Law.TOOL_ERRORS),
        ({"turns_mean": 1.9}, Law.TURNS),
    ],
)
def test_a_law_is_broken_by_its_own_figure_and_by_no_other(figures: dict[str, float], law: Law) -> None:
    assert broken(row(**figures), config()) == {law}


@pytest.mark.parametrize(
    ("overrides", "law", "figures"),
    [
        (["algorithm.advantage_clip=1"], Law.ADVANTAGE_MEAN, {"advantage_mean": 0.1}),
        (["algorithm.name=reinforce_pp"], Law.ADVANTAGE_MEAN, {"advantage_mean": 0.1}),
        (["algorithm.advantage_clip=1"], Law.ADVANTAGE_SPREAD, {"advantage_std": 0.5}),
        (["algorithm.normalize_std=false"], Law.ADVANTAGE_SPREAD, {"advantage_std": 0.5}),
        (["algorithm.name=rloo"], Law.ADVANTAGE_SPREAD, {"advantage_std": 0.5}),
        (["critic.gamma=0.9"], Law.RETURNS, {"return_early": 0.1}),
        (["algorithm.minibatches=2"], Law.LOSS, {"loss": 0.5}),
        (["algorithm.loss_aggregation=sequence"], Law.LOSS, {"loss": 0.5}),
        ([], Law.LOSS, {"loss": 0.5, "vetoes": 1}),
        (["task.name=mine:Task"], Law.REWARD, {"reward_mean": 0.9}),
        ([], Law.WEIGHTS, {"changed_rate": 0.0, "vetoes": 1}),
        ([], Law.WEIGHTS, {"changed_rate": 0.0, "grad_norm": 0.0}),
    ],
)
def test_a_law_says_nothing_where_it_need_not_hold(overrides: list[str], law: Law, figures: dict[str, float]) -> None:
    assert math.isnan(largest([row(**figures)], config(*overrides))[law])


def test_declared_coefficients_are_those_that_count() -> None:
    with_entropy = row(loss=0.102 - 0.01 * 0.7)
    assert broken(with_entropy, config("algorithm.entropy_coef=0.01")) == set()
    assert broken(with_entropy, config()) == {Law.LOSS}
    with_critic = row(value_loss=0.4, loss=0.102 + 0.1 * 0.4, advantage_std=1.0)
    assert broken(with_critic, config("algorithm.name=ppo")) == set()
    assert broken(row(reward_mean=3.4), config("task.reward_scale=10")) == set()


def test_residual_of_several_steps_is_the_largest_that_is_known() -> None:
    steps = [row(reward_mean=0.35), row(reward_mean=0.24), row(reward_mean=math.nan)]
    assert largest(steps, config())[Law.REWARD] == pytest.approx(-0.1)
    assert math.isnan(largest([], config())[Law.REWARD])


def batch_of(rng: np.random.Generator, groups: int = 12, size: int = 8) -> TrajectoryBatch:
    """As much of a batch as credit needs: rewards of 0 and 1, answers of one to five tokens."""
    count = groups * size
    group = np.repeat(np.arange(groups, dtype=np.int32), size)
    counts = rng.integers(1, 6, count)

    class Part:
        """Groups, rewards and lengths."""

        valid: NDArray[np.bool_] = np.ones(count, np.bool_)
        reward = (rng.random(count) < rng.random(groups)[group]).astype(np.float32)

        def __init__(self) -> None:
            self.group = group

        def __len__(self) -> int:
            return count

        def action_counts(self) -> NDArray[np.int64]:
            """Tokens of every trajectory."""
            return counts

    return cast("TrajectoryBatch", Part())


CREDIT_FAULTS = [
    (kind.code, m.name) for kind in CATALOGUE.values() for m in kind.mechanisms if kind.code in ("CA-1", "CA-2", "CA-3")
]


@pytest.mark.parametrize("algorithm", ["grpo", "ppo"])
@pytest.mark.parametrize(("code", "name"), CREDIT_FAULTS)
def test_faults_of_credit_break_the_laws_that_they_are_said_to_break(code: str, name: str, algorithm: str) -> None:
    mechanism = CATALOGUE[code].mechanism(name)
    if algorithm not in mechanism.algorithms:
        return
    rng, step = np.random.default_rng(4), StepId(0, 3, 3)
    batch, run = batch_of(rng), config(f"algorithm.name={algorithm}", "task.name=addition")
    seams = faulty_learner([parse_fault(f"{code}@3,mechanism={name}")], 1)
    gamma = seams.settings(step, nominal_settings(run)).gamma
    rule = Rule(algorithm, True, gamma, 0.95, None, group_filter=False)
    values = rng.normal(size=int(batch.action_counts().sum())).astype(np.float32) if algorithm == "ppo" else None
    values = None if values is None else seams.values(step, batch, values)
    credit = seams.delivered(step, batch, seams.assigned(step, batch, assign(batch, rule, values)))
    metrics = credit_metrics(batch, credit, rule, CreditErrors(), values)
    by_group = batch.reward.reshape(-1, 8)
    flat = float((by_group == by_group[:, :1]).all(axis=1).mean())
    judged = dataclasses.replace(row(zero_variance_group_rate=flat), credit=metrics)
    found = broken(judged, run) & {Law.ADVANTAGE_MEAN, Law.ADVANTAGE_SPREAD, Law.RETURNS}
    assert found <= set(mechanism.breaks)
    assert bool(found) is bool(mechanism.breaks)


def test_bench_has_every_mechanism_that_keeps_all_laws_and_all_of_them_when_asked() -> None:
    later, every = list(list_silence_cases()), list(list_silence_cases(every=True))
    assert {(c.code, c.mechanism) for c in later} == {
        (k.code, m.name) for k in CATALOGUE.values() for m in k.mechanisms if m.since > 1
    }
    assert {(c.code, c.mechanism) for c in every} == {
        (k.code, m.name) for k in CATALOGUE.values() for m in k.mechanisms
    }
    assert len(set(every)) == len(every)
    assert {c.algorithm for c in later if c.mechanism == "permuted"} == {"grpo", "ppo"}
    assert {c.code for c in list_silence_cases(only=["CA-2"])} == {"CA-2"}


def history(*steps: StepRow) -> RunHistory:
    """A run of these steps."""
    numbered = [dataclasses.replace(step, id=StepId(0, n, n)) for n, step in enumerate(steps, start=1)]
    return RunHistory(tuple(numbered), (), (), 0.5)


def silence(mechanism: str = "marked_right", **figures: float) -> Silence:
    """A case whose faulty steps have these figures."""
    case = SilenceCase("RF-1", mechanism, "calculator", "grpo")
    sound = row()
    faulty = history(sound, sound, sound, row(**figures), row(**figures))
    return measured(case, history(*[sound] * 5), faulty, config())


def test_case_is_as_declared_unless_it_breaks_what_it_is_said_to_keep() -> None:
    kept = silence(reward_mean=0.54, correct_rate=0.7)
    assert (kept.broken(), kept.is_as_declared()) == ([], True)
    assert kept.moved == pytest.approx(0.2)
    lost = silence(reward_mean=0.54)
    assert (lost.broken(), lost.is_as_declared()) == ([Law.REWARD], False)
    assert silence("wrong_answers", reward_mean=0.54).is_as_declared()
    # A law that the healthy run breaks shows nothing of the fault.
    unsound = dataclasses.replace(kept, healthy={**kept.healthy, Law.TURNS: 1.0})
    assert not unsound.is_as_declared()


def test_case_is_stored_and_read_back() -> None:
    one = silence(reward_mean=0.54)
    unknown = dataclasses.replace(one, faulty={**one.faulty, Law.LOSS: math.nan})
    back = from_line(to_line(unknown))
    assert math.isnan(back.faulty[Law.LOSS])
    assert from_line(to_line(one)) == one
    assert json.loads(to_line(one))["mechanism"] == "marked_right"


def test_page_shows_what_is_broken_and_counts_what_is_as_declared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(law_silence, "version", lambda name: "1")
    text = page([silence(reward_mean=0.54, correct_rate=0.7), silence(reward_mean=0.54)])
    assert "1 of 2 cases break only what" in text
    lines = [line for line in text.splitlines() if line.startswith("| RF-1")]
    assert [("**0.2**" in line, line.endswith("| **no** |")) for line in lines] == [(False, False), (True, True)]
    assert len({line.count("|") for line in text.splitlines() if line.startswith("|")}) == 1
