"""The shipped tasks: problems, verifiers, the calculator's answers."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from rftfm_ray.errors import TaskError
from rftfm_ray.tasks.addition import Addition, problem
from rftfm_ray.tasks.api import Problem, ToolCall, ToolStatus, Transcript, Verdict
from rftfm_ray.tasks.calculator import PRICE_PER_CALL, Calculator

SUM = problem(17, 58)
TRIPLE = problem(12, 34, 56)
CALL = ToolCall(0, "calculator", "12+34+56", "102", ToolStatus.OK)

Shipped = Addition | Calculator
shipped_tasks = pytest.mark.parametrize("task", [Addition(), Calculator()], ids=lambda task: task.name)


def value_of(prompt: str) -> int:
    """The sum that a prompt asks for, worked out apart from the code under test."""
    assert prompt.endswith("=")
    return sum(int(term) for term in prompt[:-1].split("+"))


def test_a_problem_is_prompt_key_and_sum() -> None:
    assert Problem(key="17+58=", prompt="17+58=", answer="75") == SUM


@shipped_tasks
def test_pool_and_heldout_ask_for_sums_of_two_digit_numbers(task: Shipped) -> None:
    operands = {"addition": 2, "calculator": 3}[task.name]
    for drawn in (*task.pool(500, seed=3), *task.heldout()):
        terms = drawn.prompt.removesuffix("=").split("+")
        assert len(terms) == operands
        assert all(len(term) == 2 and 10 <= int(term) <= 99 for term in terms)
        assert drawn.answer == str(value_of(drawn.prompt))
        assert drawn.key == drawn.prompt


@shipped_tasks
def test_pool_has_the_asked_size_of_distinct_problems(task: Shipped) -> None:
    for size in (1, 256, 5000):
        pool = task.pool(size, seed=0)
        assert len(pool) == size
        assert len({p.key for p in pool}) == size


@shipped_tasks
def test_pool_is_a_function_of_its_seed(task: Shipped) -> None:
    assert task.pool(200, seed=1) == type(task)().pool(200, seed=1)
    assert task.pool(200, seed=1) != task.pool(200, seed=2)
    assert len({p.key for p in task.pool(200, seed=1)} & {p.key for p in task.pool(200, seed=2)}) < 100


@shipped_tasks
def test_heldout_is_fixed_distinct_and_at_least_a_thousand(task: Shipped) -> None:
    heldout = task.heldout()
    assert len(heldout) >= 1000
    assert len({p.prompt for p in heldout}) == len(heldout)
    assert heldout == type(task)().heldout()


@shipped_tasks
def test_largest_pool_shares_no_prompt_with_heldout(task: Shipped) -> None:
    size = min(task.max_pool, 20_000)
    assert not {p.prompt for p in task.pool(size, seed=0)} & {p.prompt for p in task.heldout()}


@shipped_tasks
def test_demonstrations_never_hold_a_heldout_prompt(task: Shipped) -> None:
    rng, heldout = random.Random(0), {p.prompt for p in task.heldout()}
    assert not any(task.demonstration(rng).problem.prompt in heldout for _ in range(20_000))


@shipped_tasks
def test_pool_that_is_too_large_is_refused(task: Shipped) -> None:
    with pytest.raises(TaskError, match=rf"task.pool_size={task.max_pool + 1} .*{task.max_pool} of {task.name}"):
        task.pool(task.max_pool + 1, seed=0)


@shipped_tasks
def test_reference_earns_the_best_reward_of_its_kind(task: Shipped) -> None:
    drawn = task.heldout()[0]
    reference = task.reference(drawn)
    calls = len(reference.calls)
    assert task.verify(drawn, reference) == Verdict(reward=1 - PRICE_PER_CALL * calls, correct=True)


@pytest.mark.parametrize("turns", [("75",), ("", "75"), ("wrong", "75")])
def test_addition_judges_the_last_turn(turns: tuple[str, ...]) -> None:
    assert Addition().verify(SUM, Transcript(turns)) == Verdict(1.0, correct=True)


@pytest.mark.parametrize("answer", ["", "74", "075", "75 ", " 75", "+75", "75=", "7", "755", "75\n", "\u0667\u0665"])
@shipped_tasks
def test_anything_but_the_exact_answer_is_wrong(task: Shipped, answer: str) -> None:
    assert task.verify(SUM, Transcript((answer,))) == Verdict(0.0, correct=False)


@shipped_tasks
def test_right_answer_of_an_unfinished_episode_is_wrong(task: Shipped) -> None:
    cut = Transcript((SUM.answer,), finished=False)
    assert task.verify(SUM, cut) == Verdict(0.0, correct=False)


@shipped_tasks
def test_unfinished_episode_without_a_turn_is_wrong(task: Shipped) -> None:
    assert task.verify(SUM, Transcript((), finished=False)) == Verdict(0.0, correct=False)


@pytest.mark.parametrize("calls", [0, 1, 2])
@pytest.mark.parametrize("right", [True, False])
def test_every_call_costs_its_price_whatever_the_answer(calls: int, right: bool) -> None:
    transcript = Transcript(("c12+34+56;", "102" if right else "103"), calls=(CALL,) * calls)
    verdict = Calculator().verify(TRIPLE, transcript)
    assert verdict.correct is right
    assert verdict.reward == pytest.approx((1.0 if right else 0.0) - 0.2 * calls)


def test_call_costs_also_when_the_episode_is_cut_off() -> None:
    cut = Transcript(("c12+34+56;", "102"), calls=(CALL,), finished=False)
    assert Calculator().verify(TRIPLE, cut).reward == pytest.approx(-0.2)


def test_calculator_answers_a_call_with_the_sum_and_records_it() -> None:
    observed = Calculator().respond(TRIPLE, 0, "c12+34+56;")
    assert observed is not None
    assert observed.text == "102;"
    assert observed.call == CALL


@pytest.mark.parametrize("request_text", ["", "12+", "1234", "1 + 2", "c1", "e", "1+1+1+1+1", "12=", ";"])
def test_calculator_answers_an_unreadable_call_with_e(request_text: str) -> None:
    observed = Calculator().respond(TRIPLE, 0, f"c{request_text};")
    assert observed is not None
    assert observed.text == "e;"
    assert observed.call == ToolCall(0, "calculator", request_text, "e", ToolStatus.UNPARSABLE)


@pytest.mark.parametrize("text", ["", "102", "102;", ";", "c", "c12+34+56", "12+34;", " c1;"])
def test_text_that_is_no_call_ends_the_episode(text: str) -> None:
    assert Calculator().respond(TRIPLE, 0, text) is None


def test_second_turn_is_never_a_call() -> None:
    assert Calculator().respond(TRIPLE, 1, "c12+34+56;") is None


def test_addition_never_answers() -> None:
    assert Addition().respond(SUM, 0, "c1+2;") is None


def test_reference_of_the_calculator_is_one_call_and_the_answer() -> None:
    assert Calculator().reference(TRIPLE) == Transcript(("c12+34+56;", "102"), calls=(CALL,))


def test_demonstrations_of_a_call_show_what_the_calculator_would_answer() -> None:
    calculator, rng, seen = Calculator(), random.Random(1), Counter[str]()
    for _ in range(2000):
        shown = calculator.demonstration(rng)
        seen["unreadable"] += len(shown.pieces) == 3 and shown.pieces[1][0] == "e;"
        if len(shown.pieces) == 1 or shown.pieces[1][0] == "e;":
            seen["direct"] += len(shown.pieces) == 1
            continue
        (call, _), (observation, learnt), _ = shown.pieces
        observed = calculator.respond(shown.problem, 0, call)
        assert observed is not None
        assert (observed.text, learnt) == (observation, False)
        seen["call"] += 1
    assert min(seen["direct"], seen["call"]) > 500
    assert 0 < seen["unreadable"] < 200
