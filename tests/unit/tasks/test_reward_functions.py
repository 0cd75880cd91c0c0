"""Reward functions as people write them for TRL and verl, and what they may give."""

from __future__ import annotations

import time
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rftfm_ray.config import RunConfig
from rftfm_ray.errors import RewardError, TaskError
from rftfm_ray.plugins import packed
from rftfm_ray.tasks.api import Problem, Transcript, Verdict
from rftfm_ray.tasks.dataset import DataTask, Turns
from rftfm_ray.tasks.loading import check_task
from rftfm_ray.tasks.reward_functions import RewardPart, Row, lists_of, parts_of

FUNCTIONS = """
import asyncio

def length(prompts, completions, **kwargs):
    return [float(len(c)) for c in completions]

def chatty(prompts, completions, level, **kwargs):
    return [float(len(c[0]["content"]) * l) for c, l in zip(completions, level)]

async def slow(completions, answer):
    await asyncio.sleep(0)
    return [float(c == a) for c, a in zip(completions, answer)]

def maybe(completions, **kwargs):
    return [None if c == "skip" else 1.0 for c in completions]

def compute_score(data_source, solution_str, ground_truth, extra_info=None):
    return {"score": 0.5 if solution_str == ground_truth else -0.5, "acc": solution_str == ground_truth}

def plain_score(data_source, solution_str, ground_truth, extra_info=None):
    return (data_source == "gsm8k") + float(solution_str == ground_truth) + extra_info["index"]

def two(completions, **kwargs):
    return [1.0, 2.0]

def number(completions, **kwargs):
    return 1.0

def raises(completions, **kwargs):
    raise KeyError("gold")

def with_ids(completions, completion_ids):
    return [0.0]

def strange(answer):
    return 0.0

def picky(completions, **kwargs):
    if "skip" in completions:
        raise ValueError("not that")
    return [1.0] * len(completions)

async def patient(data_source, solution_str, ground_truth, extra_info=None):
    await asyncio.sleep(0.1)
    if solution_str == "3":
        raise ValueError("three")
    return 1.0

VALUE = None
def given(completions, **kwargs):
    return [VALUE]
"""


@pytest.fixture
def functions(tmp_path: Path) -> Path:
    """A file of reward functions."""
    path = tmp_path / "mine.py"
    path.write_text(FUNCTIONS)
    return path


def part(functions: Path, name: str) -> RewardPart:
    """One of them."""
    (found,) = parts_of([f"{functions}:{name}"], ())
    return found


def problem(answer: str = "4", **columns: Any) -> Problem:
    """A row of a data set."""
    return Problem("key", "2+2=", answer, columns)


def test_a_function_of_trl_gets_lists_and_the_columns_of_the_row(functions: Path) -> None:
    assert part(functions, "length").asked(problem(answer="4", level=3), "abc").reward == 3.0
    chat = problem(level=2, messages=[{"role": "user", "content": "2+2="}])
    assert part(functions, "chatty").asked(chat, "abc").reward == 6.0


def test_an_async_function_that_takes_some_columns_alone(functions: Path) -> None:
    row = problem(answer="4", level=1)
    with_answer = Problem(row.key, row.prompt, row.answer, {"answer": "4", "level": 1})
    assert part(functions, "slow").asked(with_answer, "4").reward == 1.0
    assert part(functions, "slow").asked(with_answer, "5").reward == 0.0


def test_a_function_of_verl_gets_its_four_arguments(functions: Path) -> None:
    row = Problem(
        "key", "p", "4", {"data_source": "gsm8k", "reward_model": {"ground_truth": "4"}, "extra_info": {"index": 7}}
    )
    graded = part(functions, "compute_score").asked(row, "4")
    assert (graded.reward, graded.is_right) == (0.5, True)
    assert part(functions, "compute_score").asked(row, "5").is_right is False
    assert part(functions, "plain_score").asked(row, "4").reward == 9.0


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("two", "returned 2 rewards for 1 answer"),
        ("number", r"returned 1\.0; it must return a list"),
        ("raises", "raised KeyError: 'gold'"),
    ],
)
def test_what_is_no_reward_is_no_zero(functions: Path, name: str, said: str) -> None:
    with pytest.raises(RewardError, match=said):
        part(functions, name).asked(problem(), "4")


@pytest.mark.parametrize(
    "value",
    [1, True, np.float32(1), np.int64(1), np.array([1.0]), torch.tensor(1.0), torch.tensor([1]), Fraction(2, 2)],
)  # fmt: skip
def test_numbers_of_every_type_are_taken(functions: Path, value: object) -> None:
    found = part(functions, "given")
    found.grade.__closure__[0].cell_contents.__globals__["VALUE"] = value  # type: ignore[index]
    assert found.asked(problem(), "4").reward == 1.0


@pytest.mark.parametrize(
    "value",
    [
        float("nan"), float("inf"), -1e39, "1", [1.0], Decimal("NaN"), torch.tensor([1.0, 2.0]), np.zeros(0), object(),
    ],
)  # fmt: skip
def test_what_is_no_finite_number_is_a_failure(functions: Path, value: object) -> None:
    found = part(functions, "given")
    found.grade.__closure__[0].cell_contents.__globals__["VALUE"] = value  # type: ignore[index]
    with pytest.raises(RewardError, match="Reward function"):
        found.asked(problem(), "4")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("strange", r"strange\(answer\) is of no form that is known"),
        ("with_ids", "asks for completion_ids, which is not known where answers are graded"),
        ("missing", "defines no missing"),
        ("VALUE", "VALUE is no function"),
    ],
)
def test_what_cannot_be_called_is_said_before_the_run(functions: Path, name: str, said: str) -> None:
    with pytest.raises(TaskError, match=said):
        part(functions, name)


def test_a_name_that_does_not_exist_and_no_function_at_all() -> None:
    with pytest.raises(TaskError, match=r"reward\.functions=exakt is no verifier that ships"):
        parts_of(["exakt"], ())
    with pytest.raises(TaskError, match=r"data\.train has no reward: set reward\.functions"):
        parts_of([], ())


def judged(functions: Path, names: list[str], answer: str, weights: list[float] | None = None) -> Verdict:
    """The verdict of a task of these functions."""
    named = [name if name == "exact" else f"{functions}:{name}" for name in names]
    return DataTask([problem()], [], parts_of(named, weights or ())).verify(problem(), Transcript((answer,)))


def test_the_reward_is_the_weighted_sum_and_the_first_part_says_what_is_right(functions: Path) -> None:
    assert judged(functions, ["exact", "length"], "4", [2.0, 0.5]) == Verdict(2.5, True)
    assert judged(functions, ["exact", "length"], "44", [2.0, 0.5]) == Verdict(1.0, False)
    assert judged(functions, ["length", "exact"], "4") == Verdict(2.0, True)


def test_a_part_that_does_not_apply_is_left_out_and_an_answer_without_any_is_masked(functions: Path) -> None:
    assert judged(functions, ["maybe", "length"], "skip") == Verdict(4.0, False)
    with pytest.raises(RewardError, match="No reward function applies to the row with the key key"):
        judged(functions, ["maybe"], "skip")


def test_a_task_of_verifiers_knows_right_answers_and_one_of_functions_does_not(functions: Path) -> None:
    rows = [Problem(f"k{n}", f"{n}+1=", str(n + 1)) for n in range(64)]
    config = RunConfig.model_validate(
        {"task": {"pool_size": 32}, "probe": {"size": 16, "final_size": 16}, "algorithm": {"prompts_per_step": 8}}
    )
    for names, known in (
        (["exact"], True),
        ([f"{functions}:compute_score"], False),
        (["exact", f"{functions}:length"], False),
    ):
        task = DataTask(rows[:32], rows[32:], parts_of(names, ()))
        assert task.knows_references is known
        assert len(check_task(task, config).pool) == 32
    with pytest.raises(TaskError, match="senseless answer right; name the function that tells right answers first"):
        check_task(DataTask(rows[:32], rows[32:], parts_of([f"{functions}:length"], ())), config)
    with pytest.raises(TaskError, match="Only the reward functions know"):
        task.reference(rows[0])


def test_a_task_travels_without_its_rows(functions: Path) -> None:
    rows = [Problem(f"k{n}", f"{n}+1=", str(n + 1)) for n in range(8)]
    task = packed(DataTask(rows, rows, parts_of(["exact", f"{functions}:length"], ()), turns=Turns(9)))()
    assert (task.size, task.heldout(), task.max_new_tokens) == (0, (), (9,))
    assert task.verify(rows[1], Transcript(("2",))) == Verdict(2.0, True)


def test_a_pool_that_is_smaller_than_the_data_set_is_drawn_by_the_seed() -> None:
    rows = [Problem(f"k{n}", f"{n}", "") for n in range(50)]
    task = DataTask(rows, [], parts_of(["exact"], ()))
    assert task.pool(50, 1) == tuple(rows)
    assert set(task.pool(10, 1)) < set(rows)
    assert task.pool(10, 1) != task.pool(10, 2)


def test_parts_of_a_reward_are_known_by_short_names_and_go_with_the_verdict(functions: Path) -> None:
    names = ["exact", f"{functions}:length", f"{functions}:maybe", "regex:^a:b", "regex:c"]
    task = DataTask([], [], parts_of(names, [2.0, 0.5, 1.0, 1.0, 1.0]))
    assert task.parts == ("exact", "length", "maybe", "regex:^a:b", "regex:c")
    verdict = task.verify(problem(), Transcript(("skip",)))
    assert verdict.parts == (0.0, 4.0, None, 0.0, 0.0)
    assert verdict.reward == 2.0
    # One part is the reward itself.
    alone = DataTask([], [], parts_of(["exact"], ()))
    assert (alone.parts, alone.verify(problem(), Transcript(("4",))).parts) == ((), ())


def test_a_batch_of_answers_is_one_call_and_what_raises_in_it_is_asked_alone(functions: Path) -> None:
    rows = [Row(problem(), answer) for answer in ("a", "skip", "bb")]
    assert [given.reward for given in part(functions, "length").graded(rows)] == [1.0, 4.0, 2.0]  # type: ignore[union-attr]
    # Two rewards are what two answers want, and one too many for one.
    assert [type(given).__name__ for given in part(functions, "two").graded(rows[:2])] == ["Graded", "Graded"]
    assert [type(given).__name__ for given in part(functions, "two").graded(rows)] == ["RewardError"] * 3
    mixed = part(functions, "picky").graded(rows)
    assert [type(given).__name__ for given in mixed] == ["Graded", "RewardError", "Graded"]


def test_scores_that_are_awaited_are_awaited_together(functions: Path) -> None:
    rows = [Row(problem(), str(number)) for number in range(20)]
    began = time.monotonic()
    given = part(functions, "patient").graded(rows)
    assert time.monotonic() - began < 1.0
    assert [type(one).__name__ for one in given] == ["Graded"] * 3 + ["RewardError"] + ["Graded"] * 16
    assert "raised ValueError: three" in str(given[3])


def test_columns_of_rows_are_lists_and_none_where_a_row_lacks_one() -> None:
    rows = [Row(problem(level=1), "a"), Row(problem(hint="h"), "b")]
    assert lists_of(rows) == {
        "prompts": ["2+2=", "2+2="], "completions": ["a", "b"], "level": [1, None], "hint": [None, "h"],
    }  # fmt: skip
