"""Benign controls: how they are asked for, what is refused, what they do to a configuration, to data and to tools."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rftfm_ray.config import CHANGEABLE, RunConfig, load_config
from rftfm_ray.errors import FaultError, RftfmError
from rftfm_ray.faults.catalogue import parse_fault
from rftfm_ray.faults.controls import (
    CONTROLS,
    ControlSpec,
    check_controls,
    data_parts,
    expand,
    is_control,
    longer_answers,
    parse_control,
    slow_tools,
)
from rftfm_ray.faults.drill import Drill
from rftfm_ray.planning import plan
from rftfm_ray.rollout.channels import CallId, EpisodeId, task_tools
from rftfm_ray.tasks.addition import Addition
from rftfm_ray.tasks.api import Problem
from rftfm_ray.tasks.calculator import Calculator
from rftfm_ray.types import StepId

UNDECLARED = {"slow_tool", "restart_rollout", "length_growth", "entropy_decay"}
DECLARED = {
    "lr_step", "batch_size", "group_size", "resume", "harder_prompts", "longer_tokens", "temperature", "reward_scale",
}  # fmt: skip
POOL = tuple(Addition().pool(256, 0))


def paid(step: int) -> StepId:
    """A step by its paid number; its own says something else."""
    return StepId(1, 1, step)


def refused(text: str) -> str:
    """What is said of a control that cannot be read."""
    with pytest.raises(FaultError) as caught:
        parse_control(text)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_there_are_twelve_and_four_of_them_are_not_declared() -> None:
    assert {name for name, kind in CONTROLS.items() if not kind.declared} == UNDECLARED
    assert {name for name, kind in CONTROLS.items() if kind.declared} == DECLARED
    for name, kind in CONTROLS.items():
        assert kind.name == name
        assert kind.summary
        assert kind.meaning
        assert kind.low <= kind.default_strength <= kind.high
        assert kind.key in ("", *CHANGEABLE)
        assert not kind.key or kind.declared


@given(name=st.sampled_from(sorted(CONTROLS)), onset=st.integers(2, 999), share=st.floats(0, 1))
def test_control_is_read_as_it_is_written(name: str, onset: int, share: float) -> None:
    kind = CONTROLS[name]
    strength = min(kind.high, max(kind.low, kind.low + share * (kind.high - kind.low)))
    assert parse_control(f"{name}@{onset}") == ControlSpec(name, onset, kind.default_strength)
    assert parse_control(f" {name.upper()}@{onset}:{strength!r} ") == ControlSpec(name, onset, strength)
    assert is_control(f"{name}@{onset}")
    spec = ControlSpec(name, onset, kind.default_strength)
    assert parse_control(str(spec)) == spec
    assert spec.kind is kind


@given(st.text(max_size=20))
def test_whatever_is_written_is_read_or_refused(text: str) -> None:
    try:
        result = parse_control(text)
    except FaultError as error:
        said = str(error)
    else:
        said = repr(text) if result.name in CONTROLS else ""
    assert repr(text) in said


@pytest.mark.parametrize("text", ["OD-1@3", "rf-1@2:3", "TE-1@5,mechanism=error", "", "lr@3"])
def test_faults_are_no_controls(text: str) -> None:
    assert not is_control(text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("lr_stp@5", "there is no control lr_stp (did you mean lr_step?); there are slow_tool, "),
        ("lr_step", "cannot be read; write NAME@STEP[:strength], for example lr_step@15:0.3"),
        ("lr_step@five", "cannot be read"),
        ("lr_step@5:", "cannot be read"),
        ("lr_step@5:fast", "the strength of lr_step is its factor on learner.lr, from 0.01 to 3"),
        ("lr_step@5:nan", "from 0.01 to 3"),
        ("lr_step@5:4", "from 0.01 to 3"),
        ("slow_tool@5:0", "mean of the seconds that a call takes longer, from 0.0001 to 10"),
        ("resume@5:2", "from 1 to 1"),
        ("lr_step@1", "lr_step begins at step 2 at the earliest, because it needs a step before it"),
        ("resume@1", "begins at step 2 at the earliest"),
        ("slow_tool@0", "slow_tool begins at step 1 at the earliest, because steps count from 1"),
    ],
)
def test_control_that_cannot_be_read_is_refused_in_one_sentence(text: str, why: str) -> None:
    assert why in refused(text)


@pytest.mark.parametrize(
    ("text", "change"),
    [
        ("lr_step@6", "learner.lr=8.999999999999999e-05@6"),
        ("lr_step@6:0.5", "learner.lr=0.00015@6"),
        ("batch_size@6", "algorithm.prompts_per_step=32@6"),
        ("batch_size@6:0.5", "algorithm.prompts_per_step=8@6"),
        ("group_size@6", "algorithm.samples_per_prompt=16@6"),
        ("harder_prompts@6", "task.hard_share=1.0@6"),
        ("longer_tokens@6", "task.token_scale=2.0@6"),
        ("temperature@6", "rollout.temperature=0.8@6"),
        ("reward_scale@6", "task.reward_scale=10.0@6"),
    ],
)
def test_declared_control_of_the_configuration_becomes_a_change(text: str, change: str) -> None:
    config = load_config(None, [f"inject=['{text}']"])
    expanded = expand(config, [parse_control(text)])
    assert expanded == config.model_copy(update={"changes": (change,)})
    assert expanded.at(5) is expanded
    assert expand(expanded, [parse_control(text)]) == expanded, "a recorded configuration can be run again"


@pytest.mark.parametrize("name", ["slow_tool", "restart_rollout", "length_growth", "entropy_decay", "resume"])
def test_other_controls_leave_the_configuration_alone(name: str) -> None:
    config = RunConfig()
    assert expand(config, [parse_control(f"{name}@6")]) is config


def test_factors_work_on_what_is_in_force_in_the_order_of_their_steps() -> None:
    config = load_config(None, ["learner.lr=1e-3", "changes=['learner.lr=5e-4@10']"])
    expanded = expand(config, [parse_control(text) for text in ("lr_step@30:0.5", "lr_step@20:0.5", "batch_size@20")])
    rates = [expanded.at(step).learner.lr for step in (9, 10, 20, 30)]
    assert rates == [1e-3, 5e-4, 2.5e-4, 1.25e-4]
    assert expanded.at(20).algorithm.prompts_per_step == 32


@pytest.mark.parametrize(
    ("text", "why", "overrides"),
    [
        ("batch_size@6:16", "'batch_size@6:16' does not fit this run: .*pool_size=128", ["task.pool_size=128"]),
        ("batch_size@6:0.5", "minibatches=16 does not divide", ["algorithm.minibatches=16"]),
        ("group_size@6:0.125", "samples_per_prompt=1 leaves", []),
        ("lr_step@99", "lies outside the run", []),
        ("lr_step@6:1", "leaves learner.lr at 0.0003; choose another strength", []),
        ("batch_size@6:1.01", "leaves algorithm.prompts_per_step at 16", []),
        ("lr_step@6", "set one key at one step", ["changes=['learner.lr=1e-5@6']"]),
    ],
)
def test_control_that_the_configuration_cannot_have_is_refused(text: str, why: str, overrides: list[str]) -> None:
    config = load_config(None, overrides)
    with pytest.raises(FaultError, match=why):
        expand(config, [parse_control(text)])


def unfit(text: str, task: Any = None, pool: tuple[Problem, ...] = POOL, *overrides: str) -> str:
    """What is said of a control that the run cannot have."""
    with pytest.raises(FaultError) as caught:
        check_controls(load_config(None, [*overrides]), [parse_control(text)], task or Addition(), pool)
    return str(caught.value)


def test_controls_that_lack_what_they_need_are_refused() -> None:
    assert "task addition calls no tool; use task.name=calculator" in unfit("slow_tool@6")
    level = tuple(problem for problem in POOL if len(problem.answer) == 3)
    assert "are equally long" in unfit("length_growth@6", pool=level)
    assert "between" in unfit("entropy_decay@6:12")
    assert "algorithm.prompts_per_step=16" in unfit("entropy_decay@6:12")
    assert "task.pool_size=256" in unfit("entropy_decay@6:256")
    assert "prompts_per_step=64" in unfit("entropy_decay@6", None, POOL, "changes=['algorithm.prompts_per_step=64@3']")
    assert "after the last one (steps=40)" in unfit("resume@41")
    assert "after the last one (steps=5)" in unfit("restart_rollout@6", None, POOL, "max_paid_steps=5")
    fine = [parse_control(f"{name}@6") for name in CONTROLS if name != "slow_tool"]
    check_controls(RunConfig(), fine, Addition(), POOL)
    check_controls(RunConfig(), [parse_control("slow_tool@6")], Calculator(), POOL)


def test_plan_holds_controls_and_faults_apart_and_the_changes_that_they_lead_to(tmp_path: Path) -> None:
    config = load_config(None, ["inject=['LR_step@6:0.5','OD-1@3','length_growth@5']"])
    planned = plan(config, tmp_path / "run")
    controls = (ControlSpec("lr_step", 6, 0.5), ControlSpec("length_growth", 5, 0.9))
    assert planned.drill == Drill(config.seed, (parse_fault("OD-1@3"),), controls)
    assert planned.config.changes == ("learner.lr=0.00015@6",)
    assert planned.config.inject == config.inject
    assert [part.name for part in planned.parts] == ["long/5"]
    hard = plan(load_config(None, ["inject=['harder_prompts@6']"]), tmp_path / "run")
    assert [part.name for part in hard.parts] == ["hard"]
    assert plan(RunConfig(), tmp_path / "run").parts == ()


@pytest.mark.parametrize("inject", ["slow_tool@6", "lr_step@1", "lr_step@41", "harder_prompts@6:2", "no_control@3"])
def test_plan_refuses_what_cannot_be(inject: str, tmp_path: Path) -> None:
    with pytest.raises(RftfmError):
        plan(load_config(None, [f"inject=['{inject}']"]), tmp_path / "run")


def test_length_growth_draws_more_and_more_of_the_longer_answers() -> None:
    (part,) = data_parts([parse_control("length_growth@6:0.8")], POOL, 3)
    course = [part.share(paid(step)) for step in (1, 5, 6, 7, 15, 16, 99)]
    assert course == pytest.approx([0, 0, 0.08, 0.16, 0.8, 0.8, 0.8])
    assert part.problems == longer_answers(POOL) == tuple(p for p in POOL if len(p.answer) == 3)


def test_entropy_decay_draws_from_few_problems_of_the_pool() -> None:
    (part,) = data_parts([parse_control("entropy_decay@6:20")], POOL, 3)
    assert [part.share(paid(step)) for step in (1, 5, 6, 7, 99)] == [0, 0, 1, 1, 1]
    assert len({found.key for found in part.problems}) == 20
    assert set(part.problems) <= set(POOL)
    (again,) = data_parts([parse_control("entropy_decay@6:20")], POOL, 3)
    (other,) = data_parts([parse_control("entropy_decay@6:20")], POOL, 4)
    assert again.problems == part.problems != other.problems


def test_slow_tool_answers_the_same_and_takes_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("rftfm_ray.faults.controls.time.sleep", slept.append)
    task, problems = Calculator(), Calculator().pool(64, 0)
    sound, slow = task_tools(task), slow_tools(task_tools(task), [parse_control("slow_tool@6:0.02")], 3)
    assert len(slow) == len(sound)

    def ask(step: int) -> None:
        for number, problem in enumerate(problems):
            call = CallId(EpisodeId(StepId(0, 1, step), problem.key, 0), 0)
            for text in (task.reference(problem).turns[0], "c?;"):
                index = number % 2
                assert slow[index](call, problem, text) == sound[index](call, problem, text)
            assert slow[0](call, problem, problem.answer) is None

    ask(5)
    assert slept == []
    ask(6)
    assert len(slept) == 2 * len(problems), "the end of an episode is no call"
    assert all(0.01 <= seconds <= 0.03 for seconds in slept)
    assert sum(slept) / len(slept) == pytest.approx(0.02, rel=0.1)
    first = list(slept)
    slept.clear()
    ask(6)
    assert slept == first


def test_without_a_slow_tool_the_instances_are_those_that_there_were() -> None:
    tools = task_tools(Calculator())
    assert slow_tools(tools, [parse_control("restart_rollout@3")], 3) == tools


def test_harder_prompts_need_a_task_that_can_tell_them(tmp_path: Path) -> None:
    text = (
        "from rftfm_ray.tasks.addition import Addition\n\n\nclass Even(Addition):\n    name = 'even'\n\n"
        "    def difficulty(self, problem):\n        return 1.0\n"
    )
    file = tmp_path / "even.py"
    file.write_text(text)
    config = load_config(None, [f"task.name={file}:Even", "inject=['harder_prompts@6']"])
    with pytest.raises(RftfmError, match="calls all its problems equally hard"):
        plan(config, tmp_path / "run")
