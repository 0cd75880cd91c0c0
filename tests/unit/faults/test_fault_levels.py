"""Strengths that are called easy and hard: looked up in the table of what was measured."""

from __future__ import annotations

import dataclasses
import json
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rftfm_ray.config import RunConfig, load_config
from rftfm_ray.errors import FaultError
from rftfm_ray.faults import calibration
from rftfm_ray.faults.calibration import NAMED_LEVELS, Calibration, Finding, StrengthKey, calibrated
from rftfm_ray.faults.catalogue import check_faults, parse_fault
from rftfm_ray.faults.kinds import CATALOGUE
from rftfm_ray.tasks.addition import Addition
from rftfm_ray.tasks.api import Task
from rftfm_ray.tasks.calculator import Calculator

# Before any test puts another one in its place.
SHIPPED = calibration.table()
ROW = Calibration(
    "addition", "grpo", "RF-1", "outliers", "easy", 2.5, "reward_mean",
    d=5.0, d_fresh=4.8, seeds=20, seeds_fresh=8, reached=1.0, confirmed=True,
)  # fmt: skip
TABLE = (
    dataclasses.replace(ROW, algorithm="ppo", strength=3.5),
    ROW,
    dataclasses.replace(ROW, level="hard", strength=0.5),
    dataclasses.replace(ROW, code="CA-1", mechanism="biased_values", algorithm="ppo", strength=0.75),
    dataclasses.replace(ROW, strength=6.5, dirty=True),
    dataclasses.replace(ROW, level="harm", strength=9.5, d=math.nan, d_fresh=math.nan, reached=math.nan),
    dataclasses.replace(ROW, level="harm", mechanism="wrong_answers", strength=1000, finding=Finding.NO_HARM),
)


@pytest.fixture(autouse=True)
def small_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table of a few rows."""
    monkeypatch.setattr(calibration, "table", lambda: TABLE)


def run_of(*inject: str, algorithm: str = "grpo") -> RunConfig:
    """A run of ten steps with these faults."""
    return load_config(None, ["steps=10", f"algorithm.name={algorithm}"]).model_copy(update={"inject": inject})


def refusal(text: str, task: Task, algorithm: str = "grpo") -> str:
    """The one sentence that refuses a fault before the start."""
    with pytest.raises(FaultError) as caught:
        check_faults(run_of(text, algorithm=algorithm), task)
    message = str(caught.value)
    assert message.startswith(f"inject={text!r}")
    assert message.count("inject=") == 1
    assert message.endswith(".")
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("text", "algorithm", "strength"),
    [
        ("RF-1@3:easy,mechanism=outliers", "grpo", 2.5),
        ("RF-1@3:hard,mechanism=outliers", "grpo", 0.5),
        ("RF-1@3:easy,mechanism=outliers", "ppo", 3.5),
        # Those of grpo stand for an algorithm that has none, not those of the first row.
        ("RF-1@3:easy,mechanism=outliers", "rloo", 2.5),
        ("CA-1@3:easy", "ppo", 0.75),
        ("RF-1@3:harm,mechanism=outliers", "grpo", 9.5),
        ("RF-1@3:harm,mechanism=outliers", "ppo", 9.5),
    ],
)
def test_levels_are_the_strengths_of_task_algorithm_and_mechanism(text: str, algorithm: str, strength: float) -> None:
    (spec,) = check_faults(run_of(text, algorithm=algorithm), Addition())
    assert spec.strength == strength
    assert spec == dataclasses.replace(parse_fault(re.sub(":(easy|hard|harm)", "", text)), strength=strength)


def test_row_of_any_algorithm_stands_for_one_that_has_none() -> None:
    assert calibrated(StrengthKey("addition", "grpo", "CA-1", "biased_values", "easy")) == 0.75


@pytest.mark.parametrize("text", ["RF-1@3:easy", "RF-1@3: hard", "CA-1@3:hard"])
def test_level_without_a_strength_is_refused(text: str) -> None:
    message = refusal(text, Addition(), "ppo")
    assert "has no strength that is called" in message
    assert "on task addition; give a number" in message


@pytest.mark.parametrize("section", [{"preset": "dirty"}, {"tool_failures": 0.1}])
def test_run_with_a_background_has_the_strengths_of_that_background(section: dict[str, object]) -> None:
    text = "RF-1@3:easy,mechanism=outliers"
    config = run_of(text)
    dirty = RunConfig.model_validate({**config.model_dump(), "background": section}).model_copy(
        update={"inject": config.inject}
    )
    assert [check_faults(one, Addition())[0].strength for one in (config, dirty)] == [2.5, 6.5]
    # A level that was measured without a background says nothing of a run with one.
    hard = dirty.model_copy(update={"inject": (text.replace("easy", "hard"),)})
    with pytest.raises(FaultError, match="called hard on task addition with a background; give a number"):
        check_faults(hard, Addition())


def test_fault_that_no_strength_makes_harmful_is_refused_with_what_was_found() -> None:
    message = refusal("RF-1@3:harm", Addition())
    assert "no strength that is called harm on task addition (searched up to 1000: no strength is harmful)" in message


@given(
    st.builds(
        Calibration,
        st.just("addition"),
        st.just("ppo"),
        st.just("RF-1"),
        st.just("outliers"),
        st.sampled_from(NAMED_LEVELS),
        st.floats(0.01, 100),
        st.just("reward_mean"),
        d=st.floats(allow_infinity=False),
        d_fresh=st.floats(allow_infinity=False),
        seeds=st.integers(0, 40),
        seeds_fresh=st.integers(0, 40),
        reached=st.floats(0, 1) | st.just(math.nan),
        confirmed=st.booleans(),
        accuracy_loss=st.none() | st.floats(-1, 1),
        loss_seeds=st.integers(0, 9),
        harmful=st.none() | st.booleans(),
        dirty=st.booleans(),
        finding=st.sampled_from(Finding),
        loss_fresh=st.none() | st.floats(-1, 1),
    )
)
def test_row_is_written_and_read_back(row: Calibration) -> None:
    text = json.dumps(row.to_json(), allow_nan=False)
    assert repr(Calibration.from_json(json.loads(text))) == repr(row)


def test_level_of_another_task_is_not_taken() -> None:
    assert "on task calculator" in refusal("RF-1@3:easy,mechanism=outliers", Calculator())


@pytest.mark.parametrize(
    ("text", "reason"),
    [("TE-1@3:easy", "task addition calls no tool; use task.name=calculator"), ("CA-1@3:easy", "algorithm.name=ppo")],
)
def test_what_cannot_be_had_is_refused_for_that_and_not_for_its_level(text: str, reason: str) -> None:
    assert reason in refusal(text, Addition())


def test_levels_mean_nothing_without_a_table() -> None:
    with pytest.raises(FaultError, match=r"^inject='RF-1@3:easy': the strength of RF-1 .* from 0\.01 to 1000\.$"):
        parse_fault("RF-1@3:easy")
    assert parse_fault("RF-1@3:easy", lambda code, mechanism, level: 7.0).strength == 7.0


def test_table_that_ships_speaks_of_what_there_is() -> None:
    keys = [(row.task, row.algorithm, row.code, row.mechanism, row.level, row.dirty) for row in SHIPPED]
    assert len(keys) == len(set(keys))
    for row in SHIPPED:
        mechanism = CATALOGUE[row.code].mechanism(row.mechanism)
        assert row.signal == mechanism.signal
        assert row.level in NAMED_LEVELS
        assert mechanism.strength.low <= row.strength <= mechanism.strength.high
