"""A part of a task's code that hangs uses up its own threads: the other tool instance, verdicts and probes go on."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import pytest

from rftfm_ray.rollout.channels import CallId, EpisodeId, Grade, Grader, TaskReward, ToolInstance, ToolPool, task_tools
from rftfm_ray.rollout.environment import Channels, trusted_channels
from rftfm_ray.rollout.grading import Answered, grade_all
from rftfm_ray.rollout.tool_calls import Asked, Reply, replies, shadow_or_late
from rftfm_ray.tasks.api import Observation, Problem, Transcript, Verdict
from rftfm_ray.tasks.calculator import Calculator
from rftfm_ray.tasks.workers import LEFT_BEHIND, NotAskedError, WorkerPools
from rftfm_ray.types import Levers, StepId

TASK = Calculator()
PROBLEMS = TASK.pool(16, 0)
TIMEOUT_S = 0.1
COUNT = 2
FAILED_OVER = Levers(tool_instance=1)


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """What calls that hang wait for; opened at the end, so that no thread outlives its test."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def channels(gate: threading.Event) -> Channels:
    """A live environment whose first tool instance and whose verifier hang while the gate is closed."""
    sound, verdict = task_tools(TASK)[0], TaskReward(TASK)

    def hanging(call: CallId, problem: Problem, text: str) -> Observation | None:
        gate.wait()
        return sound(call, problem, text)

    def judge(episode: EpisodeId, problem: Problem, transcript: Transcript) -> Verdict:
        gate.wait()
        return verdict(episode, problem, transcript)

    pool, grader = ToolPool(TASK, (hanging, sound)), Grader(TASK, judge, 0, 0.0)
    return Channels(pool, grader, None, WorkerPools(COUNT, TIMEOUT_S))


def ask(channels: Channels, step: int) -> list[Reply]:
    """The calls of a step that solve every problem."""
    at = StepId(0, step, step)
    solutions = [TASK.reference(problem) for problem in PROBLEMS]
    calls = [
        Asked(CallId(EpisodeId(at, problem.key, 0), 0), problem, solution.turns[0])
        for problem, solution in zip(PROBLEMS, solutions, strict=True)
        if solution is not None
    ]
    return replies(channels.tools, calls, channels.workers)


def grade(channels: Channels, step: int) -> Sequence[Grade | None]:
    """Verdicts on right answers to every problem."""
    at = StepId(0, step, step)
    solutions = [(problem, TASK.reference(problem)) for problem in PROBLEMS]
    answers = [Answered(EpisodeId(at, p.key, 0), p, solution) for p, solution in solutions if solution is not None]
    return grade_all(channels, TASK, at, answers)


def test_tool_that_hangs_leaves_threads_to_the_instance_that_takes_over(channels: Channels) -> None:
    assert all(reply.observation is None for reply in ask(channels, 1))
    assert channels.workers.tool(0).left_behind == COUNT * LEFT_BEHIND
    channels.set_levers(FAILED_OVER)
    assert all(reply.observation is not None for reply in ask(channels, 2))
    assert channels.workers.tool(1).left_behind == 0


def test_tool_and_verifier_that_hang_leave_verdicts_to_the_probes(channels: Channels) -> None:
    ask(channels, 1)
    assert grade(channels, 1) == [None] * len(PROBLEMS)
    probes = trusted_channels(TASK, channels)
    assert all(reply.observation is not None for reply in ask(probes, 1))
    assert all(verdict is not None and verdict.correct for verdict in grade(probes, 1))
    assert (probes.workers.timeout_s, probes.failures) == (TIMEOUT_S, channels.failures)


def test_call_that_is_not_made_has_taken_no_time(channels: Channels) -> None:
    made, not_made = ask(channels, 1)[0], ask(channels, 2)[0]
    assert type(made.error) is TimeoutError
    assert made.ended - made.began == pytest.approx(TIMEOUT_S)
    assert type(not_made.error) is NotAskedError
    assert not_made.ended == not_made.began


def test_reason_tells_a_verifier_that_was_not_asked_from_a_late_one(channels: Channels) -> None:
    reasons = []
    for step in (1, 2):
        grade(channels, step)
        reasons.append(channels.failures.reason(StepId(0, step, step)))
    assert f"gave no verdict within {TIMEOUT_S:g} s" in reasons[0]
    assert f"it was not asked, because {COUNT * LEFT_BEHIND} earlier calls of it have not returned" in reasons[1]


def test_idle_instance_that_hangs_is_unwell_until_it_answers(channels: Channels, gate: threading.Event) -> None:
    step, problems = StepId(0, 1, 1), PROBLEMS[:2]
    assert shadow_or_late(channels.tools, step, problems, channels.workers) == []
    channels.set_levers(FAILED_OVER)
    assert shadow_or_late(channels.tools, step, problems, channels.workers) == [False]
    gate.set()
    assert shadow_or_late(channels.tools, step, problems, channels.workers) == [True, True]


def test_retried_calls_keep_their_order_among_first_tries() -> None:
    """A second try is made on the next instance, while other calls have their first."""
    seen: list[int] = []

    def instance(index: int) -> ToolInstance:
        def answer(call: CallId, problem: Problem, text: str) -> Observation | None:
            seen.append(index)
            raise ValueError(f"{problem.key} by {index}")

        return answer

    calls = [
        Asked(CallId(EpisodeId(StepId(0, 1, 1), problem.key, 0), 0, tries), problem, "")
        for tries, problem in zip([0, 1, 0, 1], PROBLEMS, strict=False)
    ]
    pool = ToolPool(TASK, (instance(0), instance(1)))
    expected = [f"{each.problem.key} by {each.call.tries}" for each in calls]
    assert [str(reply.error) for reply in replies(pool, calls, WorkerPools(1))] == expected
    assert seen == [0, 0, 1, 1]
