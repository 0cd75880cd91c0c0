"""Detectors of laws and floors over a run: alarms, levers, parts of a run, states, and what the first steps teach."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rftfm_ray.config import parse_config
from rftfm_ray.config.declared import Aggregation, Declared, DeclaredCourse, RewardRule
from rftfm_ray.detection.detectors.laws import (
    DeclaredDetector,
    FloorDetector,
    LawDetector,
    OwnRewardDetector,
)
from rftfm_ray.detection.detectors.rates import LearntRateDetector
from rftfm_ray.detection.laws.declaring import declared_course
from rftfm_ray.detection.laws.floors import ROWS as FLOOR_ROWS
from rftfm_ray.detection.laws.own_reward import ROWS, learn_own_reward
from rftfm_ray.detection.laws.table import FLOOR_TABLE, LAWS
from rftfm_ray.detection.monitor import Monitor
from rftfm_ray.detection.reference.views import StepView
from rftfm_ray.detection.suite import TOOL_ERRORS, MonitorSettings, monitor_settings
from rftfm_ray.signals.schema import INDEX
from rftfm_ray.types import Levers
from rftfm_ray.verdicts import DeclaredChange, Evidence, StepReport, Symptom
from tests.detecting import (
    NO_REFERENCE,
    Watched,
    assert_same,
    joined,
    make_reports,
    recorded_faults,
    view_of,
)
from tests.unit.detection.laws.figures import declared

HEALTHY = Path(__file__).parents[4] / "benchmarks" / "data" / "healthy"
RULE = RewardRule((("correct_rate", 1.0), ("tool_calls_mean", -0.2)), 0.2)


def law(name: str, *stages: tuple[int, Declared]) -> Watched:
    """The detector of one law, under what is declared for parts of the run."""
    return Watched(LawDetector(LAWS[name], stages or ((1, declared(reward=RULE)),)))


def floor(name: str, **facts: object) -> Watched:
    """The detector of one floor."""
    return Watched(FloorDetector(FLOOR_TABLE[name], ((1, declared(**facts)),)))


def test_break_is_an_alarm_of_its_step_with_what_the_law_gives() -> None:
    symptoms = law("reward").show(reward_mean=[0.5, 0.9, 0.5], correct_rate=[0.6] * 3, tool_calls_mean=[0.5] * 3)
    assert list(symptoms) == [2]
    (symptom,) = symptoms[2]
    assert symptom.reference == pytest.approx(0.5)
    assert symptom.strength == pytest.approx(0.4)
    assert replace(symptom, reference=0.5, strength=0.4) == Symptom(
        detector="law:reward", signal="reward_mean", evidence=Evidence.LAW, alarm=True, direction=1, value=0.9,
        reference=0.5, score=math.inf, onset=2, onset_low=2, strength=0.4,
        reason="the mean reward is not the declared function of its parts (reward_mean is 0.9, and the law gives 0.5: "
        "reward that nothing declared pays for, a trajectory 0.4)",
    )  # fmt: skip


def test_hidden_entropy_bonus_is_read_off_with_its_size() -> None:
    parts = {"policy_loss": [0.1], "kl_ref": [0.5], "entropy": [0.7], "vetoes": [0.0]}
    (symptom,) = law("loss").show(loss=[0.1 + 0.01 + 5 * 0.7], **parts)[1]
    assert symptom.direction == 1
    assert symptom.strength == pytest.approx(-5.0)
    assert symptom.reason.endswith("as an entropy bonus of coefficient -5)")


def test_unmeasured_step_leaves_an_open_break_with_its_strength_open() -> None:
    watching = law("loss")
    sound = {"policy_loss": [0.1], "kl_ref": [0.5], "entropy": [0.7], "vetoes": [0.0]}
    (first,) = watching.show(loss=[0.11 + 0.7], **sound)[1]
    (later,) = watching.show(2, loss=[math.nan], **sound)[2]
    assert later == first
    assert watching.show(3, loss=[0.11], **sound) == {}


def test_law_goes_by_the_part_of_the_run_that_a_step_is_in() -> None:
    figures = {"correct_rate": [0.5] * 4, "tool_calls_mean": [0.0] * 4, "reward_mean": [0.5, 0.5, 1.0, 1.0]}
    scaled = (3, declared(reward=RULE.scaled(2)))
    assert law("reward", (1, declared(reward=RULE)), scaled).show(**figures) == {}
    assert list(law("reward").show(**figures)) == [3, 4]
    assert list(law("reward", (1, declared(reward=RULE.scaled(2))), (3, declared(reward=RULE))).show(**figures)) == [
        1, 2, 3, 4,
    ]  # fmt: skip


def test_nothing_is_said_where_nothing_is_declared() -> None:
    assert Watched(LawDetector(LAWS["advantage_mean"], ())).show(advantage_mean=[1.0, 2.0]) == {}


@pytest.mark.parametrize(
    ("name", "levers", "figures"),
    [
        ("reward", Levers(regrade_rate=1.0), {"reward_mean": 0.9, "correct_rate": 0.5, "tool_calls_mean": 0.0}),
        ("advantage_mean", Levers(advantage_clip=1.0), {"advantage_mean": 0.1}),
        ("loss", Levers(minibatches=2), {"loss": 0.5, "policy_loss": 0.1, "kl_ref": 0.1, "vetoes": 0.0}),
        ("loss", Levers(freeze_policy=1), {"loss": 0.5, "policy_loss": 0.1, "kl_ref": 0.1, "vetoes": 0.0}),
        ("loss", Levers(kl_coef_scale=10.0), {"loss": 0.12, "policy_loss": 0.1, "kl_ref": 0.1, "vetoes": 0.0}),
        (
            "loss", Levers(entropy_coef=0.1),
            {"loss": 0.1 + 0.002 - 0.07, "policy_loss": 0.1, "kl_ref": 0.1, "entropy": 0.7, "vetoes": 0.0},
        ),
        ("returns", Levers(gamma=0.9), {"return_early": 0.4, "return_late": 0.5, "reward_min": 0.0, "length_max": 4.0}),
    ],
)  # fmt: skip
def test_what_a_lever_breaks_on_purpose_is_no_alarm(name: str, levers: Levers, figures: dict[str, float]) -> None:
    series = {key: [value] for key, value in figures.items()}
    watching = law(name)
    assert list(watching.show(**series)) == [1]
    watching._latch.close(watching.detector.adopt(levers))
    assert watching.show(2, **series) == {}
    # A lever that is adopted again closes nothing, and one that has returned is law again.
    assert not watching.detector.adopt(levers)
    assert len(watching.detector.adopt(Levers())) == len(watching.detector.outputs)
    assert list(watching.show(3, **series)) == [3]


def test_levers_reach_laws_through_the_monitor_and_survive_in_its_state() -> None:
    watched = MonitorSettings(5, 1_000, 0.001, 256, ((1, declared(reward=RULE)),))
    wrong = {"reward_mean": [0.9], "correct_rate": [0.5], "tool_calls_mean": [0.0]}

    def broken(monitor: Monitor, step: int) -> bool:
        (observed,) = monitor.observe(make_reports(step, **wrong))
        return any(symptom.detector == "law:reward" for symptom in observed.symptoms)

    monitor = Monitor(watched, NO_REFERENCE)
    assert broken(monitor, 1)
    monitor.declare(DeclaredChange("levers", 2, (), "order 1", levers=Levers(regrade_rate=1.0)))
    assert not broken(monitor, 2)
    restored = Monitor(watched, NO_REFERENCE)
    restored.load_state_dict(monitor.state_dict())
    assert not broken(restored, 3)
    restored.declare(DeclaredChange("levers", 4, (), "order 2", levers=Levers()))
    assert broken(restored, 4)
    (observed,) = restored.observe(make_reports(5, **wrong))
    assert observed.scores.law == math.inf


@pytest.mark.parametrize("kind", ["law", "own", "floor"])
@settings(max_examples=25)
@given(seed=st.integers(0, 2**32 - 1), cuts=st.sets(st.integers(1, 39), max_size=5))
def test_chunks_change_nothing(kind: str, seed: int, cuts: set[int]) -> None:
    rng = np.random.default_rng(seed)
    right, calls = rng.random(40), rng.random(40)
    reward = right - 0.2 * calls + 0.3 * (rng.random(40) < 0.1)
    kl = np.abs(rng.normal(1e-6, 1e-6, 40)) * np.where(rng.random(40) < 0.1, 1e3, 1)
    reports = make_reports(1, reward_mean=reward.tolist(), correct_rate=right.tolist(), tool_calls_mean=calls.tolist(),
                           rollout_kl=kl.tolist())  # fmt: skip
    stages = (
        (1, declared(reward=RULE if kind == "law" else None)),
        (17, declared(reward=RULE if kind == "law" else None)),
    )

    def made() -> DeclaredDetector:
        if kind == "law":
            return LawDetector(LAWS["reward"], stages)
        return OwnRewardDetector(stages) if kind == "own" else FloorDetector(FLOOR_TABLE["rollout"], stages)

    whole, one, other = made().observe(view_of(reports)), made(), made()
    parts = []
    for first, end in zip([0, *sorted(cuts)], [*sorted(cuts), 40], strict=True):
        parts.append(one.observe(view_of(reports[first:end])))
        other.load_state_dict(one.state_dict())
        one, other = other, one
    assert_same(whole, joined(parts))


def test_own_reward_is_learnt_where_it_is_exact_and_silent_where_not() -> None:
    rng = np.random.default_rng(7)
    right, calls, length = rng.random(30), rng.random(30), 5 + rng.random(30)
    exact = right - 0.2 * calls - 0.01 * length + 0.3
    parts = {"correct_rate": right.tolist(), "tool_calls_mean": calls.tolist(), "length_mean": length.tolist()}
    faulty = exact + 0.05 * (np.arange(30) >= 20)
    symptoms = Watched(OwnRewardDetector(())).show(reward_mean=faulty.tolist(), **parts)
    assert list(symptoms) == list(range(21, 31))
    assert symptoms[21][0].direction == 1
    assert "+1 correct_rate -0.2 tool_calls_mean -0.01 length_mean +0.3" in symptoms[21][0].reason
    noisy = exact + rng.normal(0, 1e-4, 30)
    assert Watched(OwnRewardDetector(())).show(reward_mean=noisy.tolist(), **parts) == {}
    # A reward that is declared has the law of its declaration.
    course = ((1, declared(reward=RULE)),)
    assert Watched(OwnRewardDetector(course)).show(reward_mean=faulty.tolist(), **parts) == {}


def test_part_that_has_not_varied_silences_the_learnt_law_once_it_moves() -> None:
    right = np.linspace(0.2, 0.8, 20)
    calls = np.where(np.arange(20) < 12, 0.0, 0.5)
    reward = right - 0.2 * calls
    watching = Watched(OwnRewardDetector(()))
    assert watching.show(reward_mean=reward.tolist(), correct_rate=right.tolist(), tool_calls_mean=calls.tolist()) == {}
    missing = Watched(OwnRewardDetector(()))
    calls_late = np.where(np.arange(20) < 12, np.nan, 0.5)
    assert (
        missing.show(reward_mean=reward.tolist(), correct_rate=right.tolist(), tool_calls_mean=calls_late.tolist())
        == {}
    )


def test_learnt_reward_is_learnt_again_after_a_declared_change() -> None:
    right = np.linspace(0.2, 0.8, 30)
    reward = np.where(np.arange(30) < 15, right, 2 * right)
    watching = Watched(OwnRewardDetector(()))
    assert watching.show(reward_mean=reward[:15].tolist(), correct_rate=right[:15].tolist()) == {}
    watching.forget(("reward_mean",), 16)
    assert watching.show(16, reward_mean=reward[15:].tolist(), correct_rate=right[15:].tolist()) == {}
    late = {"reward_mean": [1.9], "correct_rate": [0.5]}
    assert list(watching.show(31, **late)) == [31]


@given(st.integers(0, 2**32 - 1), st.lists(st.floats(-3, 3), min_size=4, max_size=4), st.floats(-5, 5))
def test_learnt_weights_are_those_of_the_reward(seed: int, weights: Sequence[float], constant: float) -> None:
    rng = np.random.default_rng(seed)
    parts = rng.random((ROWS, 4))
    reward = parts @ np.array(weights) + constant
    learnt = learn_own_reward(reward, parts)
    if learnt is None:
        spread, singular = np.ptp(reward), np.linalg.svd((parts - parts.mean(0)) / parts.std(0), compute_uv=False)
        assert spread < 1e-5 or singular.min() < 0.1
        return
    later = rng.random((20, 4))
    assert np.abs(learnt.residuals(later @ np.array(weights) + constant, later)).max() < 1e-4
    assert learn_own_reward(reward + rng.normal(0, 1e-2, ROWS), parts) is None


def test_floor_is_bounded_by_what_the_configuration_accepts_before_it_is_learnt() -> None:
    # A gap of 0.001 nats is accepted: k3 is at most 5e-7.
    assert list(floor("rollout", parity_gap=1e-3).show(rollout_kl=[1e-9, 1e-6])) == [2]
    assert floor("rollout").show(rollout_kl=[1e-9, 1e-6]) == {}


def test_floor_is_a_multiple_of_the_first_steps_and_never_below_its_tolerance() -> None:
    noisy = [1e-4] * FLOOR_ROWS
    symptoms = floor("rollout").show(rollout_kl=[*noisy, 9e-4, 1.1e-3, 2e-4])
    assert list(symptoms) == [FLOOR_ROWS + 2]
    (symptom,) = symptoms[FLOOR_ROWS + 2]
    assert (symptom.evidence, symptom.detector) == (Evidence.TELEMETRY, "floor:rollout")
    assert symptom.score == pytest.approx(1.1)
    assert floor("rollout").show(rollout_kl=[*[1e-13] * FLOOR_ROWS, 9e-9]) == {}


def test_floor_of_unmoved_weights_and_of_losses_over_several_updates() -> None:
    step = {"vetoes": 0.0, "grad_norm": 1.0, "lr": 1e-4, "valid_rate": 1.0}
    held = {"changed_rate": [0.999] * FLOOR_ROWS + [0.5, 0.999]}
    others = {name: [value] * (FLOOR_ROWS + 2) for name, value in step.items()}
    symptoms = floor("weights", full_precision=True).show(**held, **others)
    assert {at: [each.direction for each in found] for at, found in symptoms.items()} == {FLOOR_ROWS + 1: [-1]}
    assert floor("weights").show(**held, **others) == {}
    losses = np.array([*[0.1005] * FLOOR_ROWS, 3.6])
    parts = {"policy_loss": [0.1] * len(losses), "kl_ref": [0.0] * len(losses), "entropy": [0.7] * len(losses)}
    for facts in ({"updates": 2}, {"aggregation": Aggregation.SEQUENCE}):
        assert list(floor("loss_parts", **facts).show(loss=losses.tolist(), **parts)) == [FLOOR_ROWS + 1]
    assert floor("loss_parts").show(loss=losses.tolist(), **parts) == {}


def test_floor_of_ratios_is_for_several_updates_a_step() -> None:
    moved = [*[2e-3] * FLOOR_ROWS, 0.04, 0.06]
    assert list(floor("old_policy", updates=4).show(kl_old=moved)) == [FLOOR_ROWS + 2]
    assert floor("old_policy").show(kl_old=moved) == {}


def test_floor_is_learnt_again_after_a_declared_change() -> None:
    watching = floor("rollout")
    assert watching.show(rollout_kl=[1e-12] * FLOOR_ROWS) == {}
    watching.forget(("rollout_kl",), FLOOR_ROWS + 1)
    assert watching.show(FLOOR_ROWS + 1, rollout_kl=[1e-4] * (FLOOR_ROWS + 5)) == {}


def tool_floor() -> Watched:
    """The floor of failing tools, with a threshold of ten nats."""
    return Watched(LearntRateDetector(TOOL_ERRORS, "floor:tool_error_rate", 10.0))


def test_floor_of_tool_errors_is_what_the_first_steps_show() -> None:
    calls = [80.0] * 60
    clean = [0.0] * 8 + [0.1] * 52
    assert min(tool_floor().show(tool_error_rate=clean, tool_call_count=calls)) <= 13
    # The same rate from the first step on is this run's own.
    assert tool_floor().show(tool_error_rate=[0.1] * 60, tool_call_count=calls) == {}
    watching = tool_floor()
    assert watching.show(tool_error_rate=clean[:8], tool_call_count=calls[:8]) == {}
    watching.forget(("tool_error_rate",), 9)
    assert watching.show(9, tool_error_rate=clean[8:], tool_call_count=calls[8:]) == {}


@given(st.integers(0, 2**32 - 1), st.floats(0.0, 0.05))
def test_floor_of_tool_errors_is_calm_while_tools_fail_as_they_did(seed: int, rate: float) -> None:
    failed = np.random.default_rng(seed).binomial(80, rate, 60) / 80
    assert tool_floor().show(tool_error_rate=failed.tolist(), tool_call_count=[80.0] * 60) == {}


def declared_of(run: str) -> MonitorSettings:
    """What the configuration of a recorded run declares."""
    name = "addition" if run.startswith("arithmetic") else "calculator"
    return monitor_settings(parse_config({"task": {"name": name}}))


@pytest.mark.parametrize(
    "run", ["calculator_300", "arithmetic_300", "calculator_1", "calculator_2", "arithmetic_1", "arithmetic_2"]
)
def test_no_law_fires_on_recorded_healthy_runs(run: str) -> None:
    reports: list[StepReport] = recorded_faults()[run]
    course = declared_of(run).declared
    for detector in (*(LawDetector(each, course) for each in LAWS.values()), OwnRewardDetector(()),
                     *(FloorDetector(each, course) for each in FLOOR_TABLE.values())):  # fmt: skip
        assert Watched(detector).observe(reports) == {}, detector.name


def recorded_healthy() -> Iterator[tuple[str, DeclaredCourse, StepView]]:
    """The recorded healthy runs of two tasks and two algorithms, with what their configurations declare."""
    for file in sorted(HEALTHY.glob("steps-*.parquet")):
        table = pq.read_table(file).to_pydict()
        names = np.array(table["run"])
        for run in dict.fromkeys(table["run"]):
            rows = np.flatnonzero(names == run)
            values = np.full((len(rows), len(INDEX)), np.nan)
            for name in set(table) & set(INDEX):
                values[:, INDEX[name]] = np.array(table[name], float)[rows]
            task, algorithm, *_ = run.split("-")
            course = declared_course(parse_config({"task": {"name": task}, "algorithm": {"name": algorithm}}))
            yield run, course, StepView.without_residuals(np.array(table["step"], np.int64)[rows], values)


def test_laws_apply_to_all_recorded_healthy_runs_and_none_fires() -> None:
    shown: dict[str, int] = {}
    for run, course, view in recorded_healthy():
        for detector in (*(LawDetector(each, course) for each in LAWS.values()), OwnRewardDetector(()),
                         *(FloorDetector(each, course) for each in FLOOR_TABLE.values())):  # fmt: skip
            with np.errstate(all="ignore"):
                scores = detector.observe(view)
            assert not (scores.score >= 1).any(), (run, detector.name)
            judged = ~np.isnan(scores.reference).all(axis=1)
            shown[detector.name] = shown.get(detector.name, 0) + int(judged.sum())
    steps = 80 * 40
    for name in ("advantage_mean", "advantage_spread", "returns", "loss", "ratio", "clip", "reward", "turns"):
        assert shown[f"law:{name}"] >= 0.9 * steps, name
    assert shown["law:surrogate"] >= 0.4 * steps
    assert shown["floor:rollout"] >= 0.9 * steps


def test_configuration_declares_its_parts() -> None:
    config = parse_config({
        "steps": 30, "algorithm": {"name": "ppo"}, "critic": {"warmup_steps": 4},
        "changes": ["task.reward_scale=2@11"], "task": {"name": "calculator"},
    })  # fmt: skip
    course = declared_course(config)
    assert [first for first, _ in course] == [1, 5, 11]
    (_, warm), (_, usual), (_, scaled) = course
    assert (warm.frozen, usual.frozen) == (True, False)
    assert warm.value_coef == config.critic.value_coef
    assert (usual.reward, scaled.reward) == (RULE, RULE.scaled(2))
    mine = parse_config({"task": {"name": "mine:Task"}})
    assert declared_course(mine)[0][1].reward is None
