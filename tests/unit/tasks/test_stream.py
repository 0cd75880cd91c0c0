"""The order of training prompts; a share of them from a part of the pool: hard ones, long ones, few ones."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rftfm_ray.config import RunConfig, load_config
from rftfm_ray.errors import TaskError
from rftfm_ray.tasks.addition import Addition, problem
from rftfm_ray.tasks.api import Problem, Task, Transcript, Verdict
from rftfm_ray.tasks.calculator import Calculator
from rftfm_ray.tasks.loading import check_task, hard_part, harder_half
from rftfm_ray.tasks.stream import Part, PromptStream
from rftfm_ray.types import StepId

POOL = tuple(Addition().pool(64, 0))
HALF = harder_half(Addition(), POOL)
STEP = StepId(0, 3, 5)
seeds, cursors, counts, shares = st.integers(0, 99), st.integers(0, 300), st.integers(1, 32), st.floats(0, 1)
FEW = tuple(problem(10, n) for n in range(10, 17))


def keys(problems: tuple[Problem, ...]) -> list[str]:
    """Keys of problems, in order."""
    return [p.key for p in problems]


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**31 - 1), cursor=st.integers(0, 100), count=st.integers(0, 30))
def test_stream_is_a_function_of_seed_and_cursor(seed: int, cursor: int, count: int) -> None:
    full = PromptStream(FEW, seed).take(0, 130)
    assert PromptStream(FEW, seed).take(cursor, count) == full[cursor : cursor + count]


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**31 - 1), number=st.integers(0, 1000))
def test_every_pass_is_a_permutation_of_the_pool(seed: int, number: int) -> None:
    taken = PromptStream(FEW, seed).take(number * len(FEW), len(FEW))
    assert sorted(keys(taken)) == sorted(keys(FEW))


@settings(max_examples=50, deadline=None)
@given(cursors=st.lists(st.integers(0, 60), max_size=8), cursor=st.integers(0, 60))
def test_stream_does_not_depend_on_what_was_taken_before(cursors: list[int], cursor: int) -> None:
    used = PromptStream(FEW, seed=5)
    for earlier in cursors:
        used.take(earlier, 9)
    assert used.take(cursor, 9) == PromptStream(FEW, seed=5).take(cursor, 9)


def test_take_crosses_the_border_between_passes() -> None:
    stream, size = PromptStream(FEW, seed=0), len(FEW)
    assert stream.take(size - 2, 4) == stream.take(0, size)[-2:] + stream.take(size, size)[:2]


def test_passes_and_seeds_are_ordered_differently() -> None:
    pool = tuple(problem(10, n) for n in range(10, 60))
    orders = {PromptStream(pool, seed).take(number * 50, 50) for seed in range(3) for number in range(3)}
    assert len(orders) == 9


def mixed(share: float, seed: int = 0, part: Sequence[Problem] = HALF) -> PromptStream:
    """A stream of which a share comes from a part."""
    return PromptStream(POOL, seed, [Part("hard", part, lambda _: share)])


def as_ever(seed: int, cursor: int, count: int) -> list[Problem]:
    """The order of prompts, written down once more."""
    result = []
    for position in range(cursor, cursor + count):
        order = list(range(len(POOL)))
        random.Random(f"prompts/{seed}/{position // len(POOL)}").shuffle(order)
        result.append(POOL[order[position % len(POOL)]])
    return result


@given(seed=seeds, cursor=cursors, count=counts)
def test_without_a_share_the_order_is_as_ever(seed: int, cursor: int, count: int) -> None:
    wanted = as_ever(seed, cursor, count)
    assert list(mixed(0.0, seed).take(cursor, count, STEP)) == wanted
    assert list(mixed(1.0, seed).take(cursor, count)) == wanted
    assert list(PromptStream(POOL, seed).take(cursor, count, STEP)) == wanted


@given(seed=seeds, cursor=cursors, count=counts, share=shares)
def test_share_is_kept_within_one_and_the_rest_stays_in_its_place(
    seed: int, cursor: int, count: int, share: float
) -> None:
    part = [Problem(f"own {n}", "", "") for n in range(32)]
    taken, plain = mixed(share, seed, part).take(cursor, count, STEP), as_ever(seed, cursor, count)
    own = [found in part for found in taken]
    assert abs(sum(own) - share * count) < 1 + 1e-9
    assert all(mine or found == usual for found, usual, mine in zip(taken, plain, own, strict=True))
    assert mixed(share, seed, part).take(cursor, count, STEP) == taken


@given(seed=seeds, steps=st.integers(0, 12), share=shares)
def test_no_prompt_stands_twice_in_a_step_within_a_pass(seed: int, steps: int, share: float) -> None:
    taken = mixed(share, seed).take(8 * steps, 8, STEP)
    assert len({found.key for found in taken}) == 8


def test_part_is_seen_whole_before_it_comes_again() -> None:
    stream = mixed(1.0)
    taken = [found.key for step in range(4) for found in stream.take(8 * step, 8, STEP)]
    assert sorted(taken) == sorted(found.key for found in HALF)
    assert taken != [found.key for step in range(4, 8) for found in stream.take(8 * step, 8, STEP)]
    assert taken != [found.key for step in range(4) for found in mixed(1.0, seed=1).take(8 * step, 8, STEP)]


def test_part_that_is_too_small_leaves_the_other_places_alone() -> None:
    own = [Problem(f"own {n}", "", "") for n in range(3)]
    taken = mixed(1.0, part=own).take(0, 8, STEP)
    assert sorted(found.key for found in taken[:3]) == ["own 0", "own 1", "own 2"]
    assert list(taken[3:]) == as_ever(0, 3, 5)


def test_of_two_parts_the_later_one_wins_and_each_has_its_own_time() -> None:
    long = [Problem(f"own {n}", "", "") for n in range(32)]
    parts = [Part("hard", HALF, lambda _: 1.0), Part("long", long, lambda step: 0.5 if step.paid_step > 4 else 0.0)]
    stream = PromptStream(POOL, 0, parts)
    assert set(stream.take(0, 8, StepId(0, 9, 4))) <= set(HALF)
    later = stream.take(0, 8, StepId(0, 1, 5))
    assert [found in long for found in later] == [False, True] * 4
    assert set(later[::2]) <= set(HALF)


@given(seed=seeds, cursor=cursors, count=counts, share=shares)
def test_figures_are_those_of_the_prompts_that_are_taken(seed: int, cursor: int, count: int, share: float) -> None:
    stream, task = mixed(share, seed), Addition()
    taken = stream.take(cursor, count, STEP)
    lengths, answers, difficulty, _ = stream.figures(cursor, count, STEP, task.difficulty)
    assert lengths == sum(len(found.prompt) for found in taken) / count
    assert answers == sum(len(found.answer) for found in taken) / count
    assert difficulty == sum(task.difficulty(found) for found in taken) / count


def test_repeats_are_those_of_ten_batches() -> None:
    pool, task = Addition().pool(256, 0), Addition()

    def repeated(stream: PromptStream, cursor: int) -> float:
        return stream.figures(cursor, 8, STEP, task.difficulty)[3]

    plain = PromptStream(pool, 0)
    assert [repeated(plain, cursor) for cursor in range(0, 256, 8)] == [0.0] * 32
    # The next pass may begin with what the one before has ended with.
    ended = {found.key for found in plain.take(256 - 80, 80)}
    begun = [found.key in ended for found in plain.take(256, 8)]
    assert repeated(plain, 256) == sum(begun) / 8
    few = PromptStream(pool, 0, [Part("few", pool[:16], lambda step: float(step.paid_step >= 5))])
    assert repeated(few, 80) == 1.0
    assert repeated(few, 0) == 0.0, "there is nothing before"
    assert few.figures(80, 8, StepId(0, 2, 4), task.difficulty)[3] == 0.0, "the part has no share yet"


@given(a=st.integers(10, 99), b=st.integers(10, 99))
def test_difficulty_of_a_sum_counts_its_carries(a: int, b: int) -> None:
    ones = a % 10 + b % 10 > 9
    wanted = ones + (a // 10 + b // 10 + ones > 9)
    assert Addition().difficulty(problem(a, b)) == wanted


@pytest.mark.parametrize(
    ("operands", "carries"), [((10, 20, 30), 0), ((19, 19, 19), 1), ((50, 30, 30), 1), ((99, 99, 99), 2)]
)
def test_difficulty_of_three_terms_counts_columns(operands: tuple[int, ...], carries: int) -> None:
    assert Calculator().difficulty(problem(*operands)) == carries


class Even(Addition):
    """Sums that are all equally hard."""

    def difficulty(self, problem: Problem) -> float:
        return 1.0


class Broken(Addition):
    """A difficulty that is none."""

    fails: ClassVar[bool] = False

    def difficulty(self, problem: Problem) -> float:
        if self.fails:
            raise ValueError("oops")
        return float("nan")


class Failing(Broken):
    """A difficulty that raises."""

    fails: ClassVar[bool] = True


class Plain(Task):
    """A task that says nothing of difficulty."""

    name: ClassVar[str] = "plain"
    max_new_tokens: ClassVar[tuple[int, ...]] = (4,)

    def pool(self, size: int, seed: int) -> Sequence[Problem]:
        return POOL[:size]

    def heldout(self) -> Sequence[Problem]:
        return Addition().heldout()

    def verify(self, problem: Problem, transcript: Transcript) -> Verdict:
        return Addition().verify(problem, transcript)


def test_harder_half_is_no_easier_than_the_other() -> None:
    for task, pool in ((Addition(), POOL), (Calculator(), Calculator().pool(51, 3))):
        half = harder_half(task, pool)
        assert len(half) == len(pool) // 2
        others = [found for found in pool if found not in half]
        assert min(map(task.difficulty, half)) >= max(map(task.difficulty, others))
        assert [found for found in pool if found in half] == list(half)


@pytest.mark.parametrize(
    ("task", "why"),
    [
        (Even(), "equally hard"),
        (Plain(), "equally hard"),
    ],
)
def test_hard_prompts_of_a_task_that_cannot_tell_them_are_refused_before_start(task: Task, why: str) -> None:
    small = ["task.pool_size=64"]
    check_task(task, load_config(None, small))
    for hard in ("task.hard_share=0.5", "changes=['task.hard_share=0.5@9']"):
        with pytest.raises(TaskError, match=why):
            check_task(task, load_config(None, [*small, hard]))


@pytest.mark.parametrize(("task", "why"), [(Broken(), "gave NaN"), (Failing(), "raised ValueError: oops")])
def test_difficulty_that_is_none_is_refused_before_start(task: Task, why: str) -> None:
    with pytest.raises(TaskError, match=why):
        check_task(task, load_config(None, ["task.pool_size=64"]))


def test_hard_share_follows_the_changes_of_the_configuration() -> None:
    config = RunConfig.model_validate({"task": {"hard_share": 0.25}, "changes": ("task.hard_share=1@9",)})
    part = hard_part(Addition(), POOL, config)
    assert [part.share(StepId(0, step, 99)) for step in (1, 8, 9, 40)] == [0.25, 0.25, 1.0, 1.0]
    assert part.problems == HALF


@settings(max_examples=60, deadline=None)
@given(seed=seeds, cursor=cursors, count=st.integers(1, 7), apart=st.sets(st.sampled_from(keys(FEW)), max_size=3))
def test_nobody_learns_from_what_is_kept_out_and_all_others_stay_where_they_were(
    seed: int, cursor: int, count: int, apart: set[str]
) -> None:
    whole, stream = PromptStream(FEW, seed), PromptStream(FEW, seed)
    assert stream.keep_out(apart) == len(apart)
    usual, taken = whole.take(cursor, count), stream.take(cursor, count)
    assert not apart & set(keys(taken))
    assert [new for old, new in zip(usual, taken, strict=True) if old.key not in apart] == [
        old for old in usual if old.key not in apart
    ]
    if len(set(keys(usual))) == count <= len(FEW) - len(apart):
        assert len(set(keys(taken))) == count, "no problem comes twice while others are left"


def test_too_large_a_quarantine_is_refused_and_changes_nothing() -> None:
    stream = PromptStream(FEW, seed=0)
    assert stream.keep_out(keys(FEW[:2])) == 2
    assert stream.keep_out(keys(FEW[2:4])) == 0
    assert stream.quarantine == set(keys(FEW[:2]))
    assert stream.keep_out(keys(FEW[1:3])) == 1, "up to half of the pool"


def test_part_gives_no_problem_that_is_kept_out() -> None:
    stream = PromptStream(POOL, 3, [Part("hard", HALF, lambda step: 1.0)])
    apart = keys(HALF[:8])
    assert stream.keep_out(apart)
    for cursor in range(0, 160, 16):
        assert not set(apart) & set(keys(stream.take(cursor, 16, STEP)))
