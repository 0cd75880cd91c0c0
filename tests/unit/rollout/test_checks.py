"""What is asked beside the trajectories: golden responses, known calls and replays, and when they are due."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import pytest

from rftfm_ray.config import ChannelsConfig
from rftfm_ray.errors import RewardError
from rftfm_ray.faults.catalogue import parse_fault
from rftfm_ray.faults.rewards import faulty_reward
from rftfm_ray.faults.tools import faulty_tools
from rftfm_ray.rollout.channels import (
    CallId,
    EpisodeId,
    Grader,
    RewardChannel,
    TaskReward,
    ToolInstance,
    ToolPool,
    recorded_calls,
    task_tools,
)
from rftfm_ray.rollout.checks import Answer, Checks, GoldenGrade, Replayed, due, golden_set, replay
from rftfm_ray.tasks.addition import Addition, problem
from rftfm_ray.tasks.api import Observation, Problem, Task, ToolCall, ToolStatus, Transcript, Verdict, text_digest
from rftfm_ray.tasks.calculator import Calculator
from rftfm_ray.tasks.workers import Workers
from rftfm_ray.types import Check, Levers, StepId

STEP = StepId(attempt=1, step=10, paid_step=12)
TRIPLE = problem(12, 34, 56)
HELDOUT = Calculator().heldout()[:8]
EPISODES = [EpisodeId(StepId(0, n % 7, n % 7), f"p{n % 40}", n // 40) for n in range(2000)]
CALLED = Answer(0, "c12+34+56;", ended=False, observation="102;")
ENDED = Answer(1, "102;", ended=True, observation=None)


def checks(task: Task | None = None, problems: Sequence[Problem] = HELDOUT, **settings: Any) -> Checks:
    """Checks of the calculator, prepared."""
    made = Checks(task or Calculator(), ChannelsConfig(**settings), seed=3)
    made.prepare(problems)
    return made


def golden(channel: RewardChannel, levers: Levers | None = None) -> list[GoldenGrade]:
    """The golden set of the calculator through a live channel."""
    grader = Grader(Calculator(), channel, 3, 0.0)
    grader.set_levers(levers or Levers())
    return checks().golden(STEP, grader, Workers(1))


@pytest.mark.parametrize("every", [3, 0])
def test_what_is_asked_for_is_made_in_the_next_batch_and_its_revisions_alone(every: int) -> None:
    grader = Grader(Calculator(), TaskReward(Calculator()), 3, 0.0)
    made, between = checks(golden_every=every), StepId(0, 4, 4)

    def is_made() -> bool:
        return bool(made.golden(between, grader, Workers(1)))

    made.ask([Check.GOLDEN])
    assert not is_made(), "of the batch under way nothing was asked"
    made.begin()
    # What is switched off stays off.
    assert (is_made(), is_made()) == (every > 0, every > 0)
    made.begin()
    assert not is_made()


def test_golden_set_has_a_right_and_a_wrong_response_to_every_problem() -> None:
    task = Calculator()
    responses = golden_set(task, HELDOUT)
    assert [(r.problem.key, r.right) for r in responses] == [(p.key, right) for p in HELDOUT for right in (True, False)]
    assert {(r.right, r.trusted) for r in responses} == {(True, 0.8), (False, -0.2)}
    for response in responses:
        assert task.verify(response.problem, response.transcript) == Verdict(response.trusted, response.right)
        # A wrong response is a whole one.
        assert (len(response.transcript.turns), len(response.transcript.calls)) == (2, 1)


def test_problems_with_the_same_answer_are_no_wrong_responses_to_each_other() -> None:
    same = [problem(10, 20), problem(20, 10), problem(11, 19), problem(10, 21)]
    assert [r.right for r in golden_set(Addition(), same)] == [True, False] * 4
    assert [r.right for r in golden_set(Addition(), same[:3])] == [True] * 3
    assert [r.right for r in golden_set(Addition(), same[:1])] == [True]
    assert golden_set(Addition(), []) == ()


def test_response_whose_worth_the_trusted_verifier_does_not_confirm_is_left_out() -> None:
    class Partial(Addition):
        """Has no reference to one problem, a wrong one to another, and cannot judge a third."""

        def reference(self, problem: Problem) -> Transcript:
            if problem.answer == "31":
                raise LookupError("unknown")
            return Transcript(("0",)) if problem.answer == "32" else super().reference(problem)

        def verify(self, problem: Problem, transcript: Transcript) -> Verdict:
            if problem.answer == "33":
                raise RuntimeError("gone")
            return Verdict(1.0, correct=True) if problem.answer == "34" else super().verify(problem, transcript)

    problems = [problem(10, n) for n in range(20, 26)]
    result = {(r.problem.answer, r.right) for r in golden_set(Partial(), problems)}
    # 30 lacks a wrong response, because the reference to the next problem is unknown; everything is right for 34.
    assert result == {("30", True), ("31", False), ("32", False), ("34", True), ("35", True), ("35", False)}


def test_sound_channel_gives_what_golden_responses_are_worth() -> None:
    grades = golden(TaskReward(Calculator()))
    assert [g.right for g in grades] == [True, False] * 8
    assert all(g.live == g.trusted for g in grades)
    assert golden(TaskReward(Calculator()), Levers(reward_limit=0.1, regrade_rate=1.0)) == grades


@pytest.mark.parametrize("fault", ["RF-1@1:4,mechanism=wrong_answers", "RF-1@1:4,mechanism=outliers"])
def test_channel_that_overpays_is_off_on_golden_responses(fault: str) -> None:
    grades = golden(faulty_reward(TaskReward(Calculator()), [parse_fault(fault)], 3))
    off = [g for g in grades if abs(g.live - g.trusted) > 1]
    assert off
    assert all(g.live - g.trusted == pytest.approx(4) for g in off)
    if "wrong" in fault:
        assert {g.right for g in off} == {False}
        assert len(off) == 8


def test_channel_that_is_down_gives_no_number_and_breaks_nothing() -> None:
    def refuse(episode: EpisodeId, problem: Problem, transcript: Transcript) -> Verdict:
        raise RewardError("There is no verdict.")

    grades = golden(refuse)
    assert len(grades) == 16
    assert all(math.isnan(g.live) and not math.isnan(g.trusted) for g in grades)


def test_golden_responses_have_identities_of_their_own() -> None:
    asked: list[EpisodeId] = []

    def noting(episode: EpisodeId, problem: Problem, transcript: Transcript) -> Verdict:
        asked.append(episode)
        return Verdict(0.0, correct=False)

    golden(noting)
    once = [(p.key, sample) for p in HELDOUT for sample in (-1, -2)]
    assert asked == [EpisodeId(STEP, key, sample, refill) for refill in (0, 1) for key, sample in once], (
        "graded twice: the second time under an identity of its own, or a grader that remembers answers from memory"
    )


@pytest.mark.parametrize(("every", "steps"), [(0, []), (1, [1, 2, 3, 4, 5, 6]), (3, [3, 6]), (5, [5])])
def test_checks_are_due_by_the_step_as_it_may_be_rewound(every: int, steps: list[int]) -> None:
    made, tools = checks(golden_every=every, known_calls_every=every), ToolPool(Calculator(), task_tools(Calculator()))
    grader = Grader(Calculator(), TaskReward(Calculator()), 3, 0.0)
    at = [StepId(2, step, step + 50) for step in range(1, 7)]
    assert [s.step for s in at if due(s, every)] == steps
    assert [s.step for s in at if made.golden(s, grader, Workers(1))] == steps
    assert [s.step for s in at if made.known_calls(s, tools)] == steps


def down(call: CallId, problem: Problem, text: str) -> Observation | None:
    """A tool that is down."""
    raise ConnectionError("down")


def known(first: ToolInstance, second: ToolInstance, instance: int, **settings: Any) -> list[bool]:
    """Known calls to a pool in which `instance` is asked first."""
    pool = ToolPool(Calculator(), (first, second))
    pool.set_levers(Levers(tool_instance=instance))
    return checks(**settings).known_calls(STEP, pool)


def test_known_calls_go_to_the_instance_that_is_asked_first() -> None:
    sound, _ = task_tools(Calculator())
    assert known(sound, down, 0) == known(down, sound, 1) == [True] * 4
    assert known(sound, down, 1) == known(down, sound, 0) == [False] * 4


@pytest.mark.parametrize(("most", "asked"), [(1, 1), (4, 4), (8, 8), (9, 8)])
def test_known_calls_are_no_more_than_there_are(most: int, asked: int) -> None:
    sound, other = task_tools(Calculator())
    assert known(sound, other, 0, known_calls=most) == [True] * asked


def test_known_calls_strike_as_often_as_the_fault_and_by_their_own_identity() -> None:
    tools = faulty_tools(task_tools(Calculator()), [parse_fault("TE-1@1:0.5")], 3)
    pool, made = ToolPool(Calculator(), tools), checks(known_calls=8, known_calls_every=1)
    result = [ok for n in range(1, 101) for ok in made.known_calls(StepId(0, n, n), pool)]
    assert sum(result) / len(result) == pytest.approx(0.5, abs=0.08)


def test_task_without_calls_has_no_known_ones() -> None:
    made = checks(Addition(), Addition().heldout()[:8])
    assert made.known_calls(STEP, ToolPool(Addition(), task_tools(Addition()))) == []
    assert recorded_calls(Addition(), Addition().heldout()[:8]) == ()


def test_shadow_and_known_calls_ask_all_instances_between_them() -> None:
    asked: list[tuple[int, str]] = []

    def noting(own: int) -> ToolInstance:
        def ask(call: CallId, problem: Problem, text: str) -> Observation | None:
            asked.append((own, problem.key))
            return Calculator().respond(problem, call.turn, text)

        return ask

    pool = ToolPool(Calculator(), (noting(0), noting(1)))
    pool.set_levers(Levers(tool_instance=1))
    assert checks(known_calls=1).known_calls(STEP, pool) == pool.shadow(STEP, HELDOUT[:1]) == [True]
    assert asked == [(1, HELDOUT[0].key), (0, HELDOUT[0].key)]


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([CALLED], Replayed(True, True)),
        ([CALLED, ENDED], Replayed(True, True)),
        ([dataclasses.replace(CALLED, observation="103;")], Replayed(False, True)),
        ([dataclasses.replace(CALLED, text="c12+34+57;")], Replayed(False, True)),
        ([dataclasses.replace(CALLED, observation=None)], Replayed(True, True)),
        ([dataclasses.replace(CALLED, ended=True, observation=None)], Replayed(True, False)),
        ([CALLED, dataclasses.replace(ENDED, ended=False, observation="0;")], Replayed(True, False)),
        ([dataclasses.replace(CALLED, observation="9;"), dataclasses.replace(ENDED, ended=False)],
         Replayed(False, False)),
    ],
    ids=["as it was", "as it ended", "another observation", "another text", "none stands", "ended early",
         "never ended", "both"],
)  # fmt: skip
def test_replay_tells_altered_observations_from_a_wrong_end(answers: list[Answer], expected: Replayed) -> None:
    assert replay(Calculator(), TRIPLE, answers) == expected


def test_replay_that_fails_is_no_finding() -> None:
    class Failing(Calculator):
        def respond(self, problem: Problem, turn: int, text: str) -> Any:
            if turn:
                raise ConnectionError("gone")
            return Observation("0;", ToolCall(0, "", "", "0", ToolStatus.OK))

    class Odd(Calculator):
        def respond(self, problem: Problem, turn: int, text: str) -> Any:
            return "<html>502</html>"

    assert replay(Failing(), TRIPLE, [CALLED, ENDED]) is None
    assert replay(Failing(), TRIPLE, [CALLED]) == Replayed(False, True)
    assert replay(Odd(), TRIPLE, [CALLED]) is None


def replayed(made: Checks, episodes: Sequence[EpisodeId] = EPISODES) -> set[EpisodeId]:
    """Which episodes are replayed."""
    return {episode for episode in episodes if made.replay(episode, TRIPLE, [CALLED]) is not None}


def test_replayed_are_about_their_share_by_identity_in_every_order() -> None:
    chosen = replayed(checks(replay_rate=0.25))
    assert len(chosen) == pytest.approx(500, rel=0.15)
    assert replayed(checks(replay_rate=0.25), EPISODES[700:][::-1]) == chosen & set(EPISODES[700:])
    assert chosen < replayed(checks(replay_rate=0.5))
    rewound = [dataclasses.replace(e, step=dataclasses.replace(e.step, step=90)) for e in EPISODES]
    assert len(replayed(checks(replay_rate=0.25), rewound)) == len(chosen)
    refilled = {dataclasses.replace(e, refill=1) for e in EPISODES}
    assert {dataclasses.replace(e, refill=0) for e in replayed(checks(replay_rate=0.25), [*refilled])} != chosen
    assert (replayed(checks(replay_rate=0.0)), replayed(checks(replay_rate=1.0))) == (set(), set(EPISODES))


def test_replay_and_regrading_choose_apart() -> None:
    grader = Grader(Calculator(), TaskReward(Calculator()), 3, 0.25)
    grades = {e: grader.grade(e, TRIPLE, Transcript(("1",))) for e in EPISODES}
    regraded = {e for e, grade in grades.items() if grade is not None and not math.isnan(grade.trusted)}
    both = regraded & replayed(checks(replay_rate=0.25))
    assert len(both) == pytest.approx(125, rel=0.3)


def test_episode_that_put_nothing_to_its_environment_is_not_replayed() -> None:
    assert checks(replay_rate=1.0).replay(EPISODES[0], TRIPLE, []) is None


def test_digest_is_that_of_the_text_and_the_same_everywhere() -> None:
    assert text_digest("102;") == "9bae713967ba2606"
    assert text_digest("102;") != text_digest("102; ")
    assert text_digest("\ud800") != text_digest("")
