"""What every shipped task keeps to: pure methods, problems kept apart, answers that fit, verdicts for every text."""

from __future__ import annotations

import hashlib
import math
import os
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ray import cloudpickle

from rftfm_ray.config import RunConfig
from rftfm_ray.models import ASSETS
from rftfm_ray.rollout.channels import ToolPool, task_tools
from rftfm_ray.rollout.text import TextCodec
from rftfm_ray.tasks.api import Problem, Task, ToolCall, ToolStatus, Transcript, Verdict
from rftfm_ray.tasks.loading import TASKS, check_task, load_task
from rftfm_ray.types import Levers, StepId

POOL = 300
SEEDS = (0, 1, 17)

every_task = pytest.mark.parametrize("task", [kind() for kind in TASKS.values()], ids=list(TASKS))
turns = st.one_of(st.text(max_size=16), st.text("0123456789+-=c;e", max_size=16))
calls = st.builds(ToolCall, st.integers(0, 3), st.text(), st.text(), st.text(), st.sampled_from(ToolStatus))
transcripts = st.builds(
    Transcript,
    st.lists(turns, min_size=1, max_size=3).map(tuple),
    st.lists(calls, max_size=2).map(tuple),
    st.booleans(),
)


@pytest.fixture(scope="module")
def codec() -> TextCodec:
    """The shipped tokenizer."""
    return TextCodec(str(ASSETS / "tiny"))


def some_problems(task: Task) -> list[Problem]:
    """Problems of both kinds."""
    return [*task.pool(POOL, 0), *task.heldout()]


def everything(task: Task) -> list[object]:
    """What the methods of `task` say about a few problems."""
    said: list[object] = [list(task.pool(POOL, 3)), list(task.heldout())]
    for problem in some_problems(task)[:: POOL // 10]:
        reference = task.reference(problem)
        said += [reference, task.verify(problem, reference), task.verify(problem, Transcript(("nonsense",)))]
        said += [task.respond(problem, turn, text) for turn, text in enumerate(reference.turns)]
    return said


@every_task
def test_name_under_which_it_is_found_is_its_own(task: Task) -> None:
    assert type(load_task(task.name)) is type(task)


@every_task
def test_contract_check_at_submit_passes_on_the_defaults(task: Task) -> None:
    config = RunConfig()
    pool, heldout, _ = check_task(task, config)
    assert (len(pool), len(heldout)) == (config.task.pool_size, max(config.probe.size, config.probe.final_size))


@every_task
def test_same_arguments_give_the_same_results(task: Task) -> None:
    first = everything(task)
    assert everything(task) == first
    assert everything(type(task)()) == first
    assert vars(task) == {}


@every_task
def test_problems_are_the_same_in_every_process(task: Task) -> None:
    code = (
        "import hashlib, sys; from rftfm_ray.tasks.loading import load_task; t = load_task(sys.argv[1]);"
        f"print(hashlib.sha256(repr([*t.pool({POOL}, 3), *t.heldout()]).encode()).hexdigest())"
    )
    own = hashlib.sha256(repr([*task.pool(POOL, 3), *task.heldout()]).encode()).hexdigest()
    done = subprocess.run(
        [sys.executable, "-c", code, task.name],
        env={**os.environ, "PYTHONHASHSEED": "12345"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == own


@every_task
def test_task_and_its_values_travel(task: Task) -> None:
    travelled = cloudpickle.loads(cloudpickle.dumps(task))
    assert everything(travelled) == everything(task)
    values = everything(task)
    assert cloudpickle.loads(cloudpickle.dumps(values)) == values


@every_task
def test_pool_is_distinct_and_apart_from_heldout_for_every_seed(task: Task) -> None:
    heldout = task.heldout()
    kept_out = {p.prompt for p in heldout}
    assert len(heldout) >= 1000
    assert len(kept_out) == len({p.key for p in heldout}) == len(heldout)
    for seed in SEEDS:
        pool = task.pool(POOL, seed)
        assert len(pool) == len({p.key for p in pool}) == len({p.prompt for p in pool}) == POOL
        assert not {p.prompt for p in pool} & kept_out


@every_task
def test_reference_is_right_and_follows_from_the_environment(task: Task) -> None:
    for problem in some_problems(task):
        reference = task.reference(problem)
        assert task.verify(problem, reference).correct
        observed = [task.respond(problem, turn, text) for turn, text in enumerate(reference.turns)]
        assert reference.calls == tuple(o.call for o in observed if o is not None)
        assert all(o is not None for o in observed[:-1])
        assert observed[-1] is None


@every_task
def test_every_instance_of_its_tool_answers_the_call_of_the_reference(task: Task) -> None:
    pool, problems = ToolPool(task, task_tools(task)), some_problems(task)
    pool.set_levers(Levers(tool_instance=1))
    asked = sum(bool(task.reference(problem).calls) for problem in problems)
    assert pool.shadow(StepId(0, 1, 1), problems) == [True] * asked
    assert asked == (len(problems) if len(task.max_new_tokens) > 1 else 0)


@every_task
def test_prompts_answers_and_observations_survive_the_shipped_tokenizer(task: Task, codec: TextCodec) -> None:
    for problem in some_problems(task):
        reference = task.reference(problem)
        texts = [problem.prompt, problem.answer, *reference.turns, *(call.response for call in reference.calls)]
        assert [codec.decode(codec.encode(text)) for text in texts] == texts


@every_task
def test_reference_and_end_fit_the_limits_of_turns_and_sequence(task: Task, codec: TextCodec) -> None:
    for problem in some_problems(task):
        reference = task.reference(problem)
        assert len(reference.turns) <= len(task.max_new_tokens)
        lengths = [len(codec.encode(text)) for text in reference.turns]
        lengths[-1] += 1
        assert all(length <= limit for length, limit in zip(lengths, task.max_new_tokens, strict=False))
        assert len(codec.encode(problem.prompt)) + sum(task.max_new_tokens) <= RunConfig().rollout.max_model_len


@every_task
def test_every_turn_but_the_last_ends_with_a_stop_that_the_tokenizer_knows(task: Task, codec: TextCodec) -> None:
    assert bool(task.stop) == (len(task.max_new_tokens) > 1)
    assert bool(codec.ids_containing(task.stop)) == bool(task.stop)
    for problem in some_problems(task):
        *before, last = task.reference(problem).turns
        assert all(text.endswith(task.stop) for text in before)
        assert not task.stop or task.stop not in last


@every_task
@settings(max_examples=100, deadline=None)
@given(transcript=transcripts, seed=st.integers(0, 999))
def test_every_transcript_has_a_finite_verdict(task: Task, transcript: Transcript, seed: int) -> None:
    verdict = task.verify(task.pool(1, seed)[0], transcript)
    assert isinstance(verdict, Verdict)
    assert math.isfinite(verdict.reward)
    assert transcript.finished or not verdict.correct


@every_task
@settings(max_examples=100, deadline=None)
@given(text=turns, turn=st.integers(0, 3))
def test_environment_answers_or_ends_for_every_text(task: Task, text: str, turn: int) -> None:
    (problem,) = task.pool(1, 0)
    observed = task.respond(problem, turn, text + task.stop)
    assert observed is None or observed.call.turn == turn
    assert task.respond(problem, turn, text + task.stop) == observed
