"""Tasks of `reasoning_gym`: problems of a seed, held-out ones, the library's verdicts, and what is refused."""

from __future__ import annotations

import inspect
import itertools
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from ray import cloudpickle

from rftfm_ray.config import load_config, parse_config
from rftfm_ray.errors import RewardError, TaskError
from rftfm_ray.models import ASSETS
from rftfm_ray.rollout.text import TextCodec
from rftfm_ray.tasks import gym
from rftfm_ray.tasks.api import Problem, Task, Transcript
from rftfm_ray.tasks.gym import EVALUATING, Generator, GymTask
from rftfm_ray.tasks.loading import check_task, load_task
from rftfm_ray.tasks.rewards import verify

EXAMPLES = Path(__file__).parents[3] / "examples"
NAMES = ("number_sequence", "spell_backward")
SHORT_WORDS = Generator("spell_backward", ("max_word_len=5",))


@cache
def example_task(name: str) -> Task:
    """The task of an example file."""
    config = load_config(EXAMPLES / f"{name}.yaml", [])
    return load_task(config.task.name, config.task.options)


def sentence(attempt: Callable[[], object]) -> str:
    """The message of the TaskError that `attempt` ends with, after checking that it is one sentence."""
    with pytest.raises(TaskError) as caught:
        attempt()
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    assert ". " not in message
    return message


@pytest.fixture(scope="module", params=NAMES)
def task(request: pytest.FixtureRequest) -> Task:
    """The task of each example."""
    return example_task(request.param)


@pytest.fixture(scope="module")
def words() -> GymTask:
    """Words of three to five letters to be spelt backward."""
    return GymTask(SHORT_WORDS)


@pytest.mark.parametrize("name", NAMES)
def test_example_keeps_the_contract_that_is_checked_at_submit(name: str) -> None:
    config = load_config(EXAMPLES / f"{name}.yaml", [])
    pool, heldout, _ = check_task(example_task(name), config)
    assert (len(pool), len(heldout)) == (256, 1024)


def test_seed_decides_the_pool_and_nothing_of_the_held_out_part(task: Task) -> None:
    before = task.heldout()
    assert task.pool(200, 5) == task.pool(200, 5)
    assert {p.prompt for p in task.pool(200, 5)} != {p.prompt for p in task.pool(200, 6)}
    again = type(task)(task._generator)  # type: ignore[call-arg, attr-defined]
    gym._HELDOUT.clear()
    assert again.heldout() == before


def test_prompts_are_distinct_and_never_in_both_parts(task: Task) -> None:
    heldout = {p.prompt for p in task.heldout()}
    assert len(heldout) == len(task.heldout())
    for seed in range(3):
        pool = [p.prompt for p in task.pool(300, seed)]
        assert len(set(pool)) == len(pool) == 300
        assert not heldout & set(pool)


def test_demonstrations_never_show_a_held_out_prompt(task: Task) -> None:
    heldout, rng = {p.prompt for p in task.heldout()}, random.Random(0)
    shown = [task.demonstration(rng) for _ in range(2000)]
    assert not heldout & {d.problem.prompt for d in shown}
    assert all(d.pieces == ((d.problem.answer, True),) for d in shown)


def test_problems_are_the_same_in_every_process(words: GymTask) -> None:
    code = (
        "from rftfm_ray.tasks.gym import Generator, GymTask;"
        f"t = GymTask({SHORT_WORDS!r}); print([p.prompt for p in [*t.pool(20, 3), *t.heldout()[:20]]])"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "12345", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str([p.prompt for p in [*words.pool(20, 3), *words.heldout()[:20]]])


def test_task_travels_and_grades_as_before(words: GymTask) -> None:
    travelled = cloudpickle.loads(cloudpickle.dumps(words))
    problem = words.heldout()[0]
    assert travelled.heldout()[0] == problem
    assert travelled.verify(problem, Transcript((problem.answer,))).correct


def test_its_own_answers_are_right_and_fit_the_limit(task: Task) -> None:
    for problem in [*task.pool(200, 0), *task.heldout()[:200]]:
        verdict = verify(task, problem, task.reference(problem))
        assert (verdict.reward, verdict.correct) == (1.0, True)
        assert len(problem.answer) < task.max_new_tokens[0]


def test_other_answers_are_wrong(task: Task) -> None:
    problems = task.heldout()[:200]
    for problem, other in itertools.pairwise(problems):
        if other.answer.lower() != problem.answer.lower():
            verdict = verify(task, problem, Transcript((other.answer,)))
            assert verdict.reward < 1
            assert not verdict.correct


def test_reward_is_the_librarys_score(words: GymTask) -> None:
    problem = next(p for p in words.heldout() if len(p.answer) == 4)
    half = problem.answer[:2] + "##"
    assert verify(words, problem, Transcript((half,))).reward == pytest.approx(0.5)


def test_cut_off_answer_earns_nothing_though_it_is_right(task: Task) -> None:
    problem = task.heldout()[0]
    verdict = task.verify(problem, Transcript((problem.answer,), finished=False))
    assert (verdict.reward, verdict.correct) == (0.0, False)


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=20))
@example("")
@example("\ud800")
@example("\x00")
@example("\u0661\u0662")
@example("<unk><pad>")
@example("1e999")
def test_any_text_has_a_verdict(text: str) -> None:
    for task in map(example_task, NAMES):
        problem = task.heldout()[0]
        verdict = verify(task, problem, Transcript((text,)))
        assert 0 <= verdict.reward <= 1
        assert verdict.correct == (text.lower() == problem.answer.lower())


def test_verifier_that_cannot_read_an_answer_calls_it_wrong_and_one_that_fails_is_told_from_it(
    words: GymTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = words.heldout()[0]

    def refuse(answers: Callable[[str], bool]) -> Callable[[str, dict[str, Any]], float]:
        def score(answer: str, entry: dict[str, Any]) -> float:
            if answers(answer):
                raise ArithmeticError(answer)
            return 1.0

        return score

    dataset = gym._dataset(SHORT_WORDS)
    monkeypatch.setattr(dataset, "score_answer", refuse(lambda answer: answer == "?"))
    assert not verify(words, problem, Transcript(("?",))).correct
    assert verify(words, problem, Transcript((problem.answer,))).correct
    monkeypatch.setattr(dataset, "score_answer", refuse(lambda answer: True))
    with pytest.raises(RewardError, match="ArithmeticError"):
        verify(words, problem, Transcript(("?",)))


def test_entry_that_is_another_one_here_is_never_graded(words: GymTask) -> None:
    first, second = words.heldout()[:2]
    mixed = Problem(first.key, second.prompt, second.answer)
    with pytest.raises(RewardError, match="not the same in every process"):
        verify(words, mixed, Transcript((second.answer,)))


def test_options_reach_the_generator() -> None:
    two, long = (GymTask(Generator("spell_backward", (f"min_word_len={n}", f"max_word_len={n}"))) for n in (4, 9))
    assert {len(p.answer) for p in two.pool(50, 0)} == {4}
    assert {len(p.answer) for p in long.pool(50, 0)} == {9}
    assert (two.max_new_tokens, long.max_new_tokens) == ((5,), (10,))


@pytest.mark.parametrize(
    ("option", "named"),
    [
        ("max_word_len", "KEY=VALUE"),
        ("=5", "unknown"),
        ("max_word_lem=5", "the nearest is max_word_len"),
        ("colour=5", "choose one of data_file, max_word_len, min_word_len"),
        ("max_word_len=five", "type str where int is wanted"),
        ("max_word_len=true", "type bool where int is wanted"),
        ("max_word_len=2.5", "type float where int is wanted"),
        ("max_word_len=[", "not readable"),
        ("max_word_len=1", "max_word_len must be >= min_word_len"),
        ("min_word_len=0", "min_word_len must be positive"),
        ("seed=3", "keys seed and task.pool_size"),
        ("size=3", "keys seed and task.pool_size"),
        ("data_file=no_such_file.txt", "FileNotFoundError"),
    ],
)
def test_option_that_the_generator_does_not_take_is_refused(option: str, named: str) -> None:
    message = sentence(lambda: load_task("reasoning_gym:spell_backward", [option]))
    assert message.startswith("task.options")
    assert named in message


def test_option_that_stands_twice_is_refused() -> None:
    message = sentence(lambda: load_task("reasoning_gym:spell_backward", ["max_word_len=5", "max_word_len=6"]))
    assert "sets max_word_len twice" in message


def test_list_is_taken_where_the_generator_has_a_tuple() -> None:
    task = load_task("reasoning_gym:simple_equations", ["max_terms=2", "max_value=9", "operators=[+]",
                                                        "operators_weights=[1.0]"])  # fmt: skip
    assert "*" not in "".join(p.prompt for p in task.pool(20, 0))


@pytest.mark.parametrize("name", ["addition", "module:Class"])
def test_options_are_refused_for_other_tasks(name: str) -> None:
    message = sentence(lambda: load_task(name, ["max_word_len=5"]))
    assert f"not for task.name={name}; remove them" in message


def test_unknown_generator_is_refused_with_the_nearest() -> None:
    message = sentence(lambda: load_task("reasoning_gym:spel_backwards"))
    assert "the nearest is reasoning_gym:spell_backward." in message
    assert "names no generator" in sentence(lambda: load_task("reasoning_gym:"))


@pytest.mark.parametrize("missing", ["reasoning_gym", "pycosat"])
def test_missing_package_is_named_with_the_extra(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for loaded in [name for name in sys.modules if name.split(".")[0] == "reasoning_gym"]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, missing, None)
    message = sentence(lambda: load_task("reasoning_gym:spell_backward"))
    assert f"needs the package {missing}, which does not import here" in message
    assert "rftfm_ray[gym]" in message


@pytest.mark.parametrize("name", sorted(EVALUATING))
def test_generator_whose_verifier_evaluates_answers_is_refused(name: str) -> None:
    assert "evaluates answers" in sentence(lambda: load_task(f"reasoning_gym:{name}"))


def test_every_verifier_that_evaluates_its_argument_is_refused() -> None:
    evaluates = re.compile(r"\b(eval|exec|parse_expr|sympify)\(answer\b")
    for name, (kind, _) in gym._factory().DATASETS.items():
        source = inspect.getsource(sys.modules[kind.__module__])
        # It has a parser of its own of that name, which evaluates nothing.
        if evaluates.search(source) and name != "propositional_logic":
            assert name in EVALUATING


def test_few_prompts_of_a_generator_are_refused_by_their_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gym, "TRIES_PER_PROBLEM", 4)
    task = load_task("reasoning_gym:count_bits", ["max_n=40"])
    message = sentence(lambda: check_task(task, parse_config({})))
    assert re.search(r"gave \d\d distinct problems for task.pool_size=256; lower it", message)


@pytest.mark.parametrize("name", NAMES)
def test_prompts_and_answers_survive_the_tokenizer_of_the_starting_policy(name: str) -> None:
    codec, task = TextCodec(str(ASSETS / name)), example_task(name)
    for problem in [*task.pool(200, 0), *task.heldout()[:200]]:
        for text in (problem.prompt, problem.answer):
            ids = codec.encode(text)
            assert len(ids) == len(text)
            assert codec.unknown_id not in ids
            assert codec.decode(ids) == text


def test_tokenizer_of_the_starting_policy_calls_other_characters_unknown() -> None:
    codec = TextCodec(str(ASSETS / "spell_backward"))
    assert codec.encode("\u00e9\u4e2d")[0] == codec.unknown_id
    assert codec.unknown_id not in codec.encode("a\n\n b~")
