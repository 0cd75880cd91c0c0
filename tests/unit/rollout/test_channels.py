"""Where tools and rewards are reached: which instance is asked when, what is graded again, and what trains."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from rftfm_ray.errors import RewardError
from rftfm_ray.rollout.channels import INSTANCES, CallId, EpisodeId, Grade, Grader, TaskReward, ToolPool, task_tools
from rftfm_ray.rollout.environment import Channels, trusted_channels
from rftfm_ray.tasks.addition import Addition, problem
from rftfm_ray.tasks.api import Observation, Problem, ToolCall, ToolStatus, Transcript, Verdict
from rftfm_ray.tasks.calculator import Calculator
from rftfm_ray.types import Levers, StepId

SUM, TRIPLE, OTHER = problem(17, 58), problem(12, 34, 56), problem(10, 20, 30)
STEP = StepId(attempt=1, step=3, paid_step=5)
EPISODE = EpisodeId(STEP, TRIPLE.key, 0)
RIGHT, WRONG = Transcript(("75",)), Transcript(("76",))
EPISODES = [EpisodeId(StepId(0, n % 7, n % 7), f"p{n % 40}", n // 40) for n in range(2000)]


class Instance:
    """A tool instance that notes what it is asked, and does what it is told."""

    def __init__(self, answer: Callable[[], object]) -> None:
        self.asked: list[CallId] = []
        self._answer = answer

    def __call__(self, call: CallId, problem: Problem, text: str) -> Any:
        self.asked.append(call)
        return self._answer()


def answer(response: str, status: ToolStatus = ToolStatus.OK) -> Observation:
    """What the calculator answers."""
    return Observation(response + ";", ToolCall(0, "calculator", "12+34+56", response, status))


def fail() -> object:
    """A tool that is down."""
    raise ConnectionError("down")


def make_pool(*answers: Callable[[], object], **options: Any) -> tuple[ToolPool, list[Instance]]:
    """A pool of instances that give these answers."""
    instances = [Instance(given) for given in answers]
    return ToolPool(Calculator(), instances, **options), instances


@pytest.mark.parametrize(("lever", "order"), [(None, [0, 1, 0, 1]), (0, [0, 1, 0, 1]), (1, [1, 0, 1, 0])])
def test_tries_go_round_the_instances_from_the_first_one(lever: int | None, order: list[int]) -> None:
    pool, _ = make_pool(lambda: answer("0"), lambda: answer("1"))
    pool.set_levers(Levers(tool_instance=lever))
    observed = [pool.ask(CallId(EPISODE, 0, tries), TRIPLE, "c12+34+56;") for tries in range(4)]
    assert [o and int(o.call.response) for o in observed] == order


def test_without_its_lever_instance_0_is_the_first_again() -> None:
    pool, instances = make_pool(lambda: answer("0"), lambda: answer("1"))
    for levers in (Levers(tool_instance=1), Levers(tool_retries=2)):
        pool.set_levers(levers)
        pool.ask(CallId(EPISODE, 0), TRIPLE, "c12+34+56;")
    assert [len(instance.asked) for instance in instances] == [1, 1]


def test_error_of_an_instance_is_raised_as_it_is() -> None:
    pool, _ = make_pool(fail, lambda: answer("1"))
    with pytest.raises(ConnectionError, match="down"):
        pool.ask(CallId(EPISODE, 0), TRIPLE, "c12+34+56;")


@pytest.mark.parametrize(("nominal", "lever", "tries"), [(0, None, 0), (2, None, 2), (2, 0, 0), (2, 5, 5), (0, 1, 1)])
def test_lever_wins_over_the_nominal_number_of_retries(nominal: int, lever: int | None, tries: int) -> None:
    pool, _ = make_pool(fail, fail, retries=nominal)
    pool.set_levers(Levers(tool_retries=lever))
    assert [pool.retry_after_s(failed) is not None for failed in range(1, 8)] == [True] * tries + [False] * (7 - tries)
    pool.set_levers(Levers())
    assert sum(pool.retry_after_s(failed) is not None for failed in range(1, 8)) == nominal


def test_wait_doubles_with_each_retry() -> None:
    pool, _ = make_pool(fail, fail, retries=4, backoff_s=0.25)
    assert [pool.retry_after_s(failed) for failed in range(1, 6)] == [0.25, 0.5, 1.0, 2.0, None]


def test_instances_of_a_task_share_nothing() -> None:
    class Remembering(Calculator):
        def __init__(self) -> None:
            self.seen: list[str] = []

        def respond(self, problem: Problem, turn: int, text: str) -> Observation | None:
            self.seen.append(text)
            return answer(str(len(self.seen)))

    task = Remembering()
    first, second = task_tools(task)
    responses = [tool(CallId(EPISODE, 0), TRIPLE, "c1;") for tool in (first, first, second)]
    assert [o and o.call.response for o in responses] == ["1", "2", "1"]
    assert (len(task_tools(task)), task.seen) == (INSTANCES, [])


@pytest.mark.parametrize("lever", [None, 0])
def test_nobody_is_asked_aside_while_instance_0_is_the_first(lever: int | None) -> None:
    pool, instances = make_pool(lambda: answer("102"), lambda: answer("102"))
    pool.set_levers(Levers(tool_instance=lever))
    assert pool.shadow(STEP, [TRIPLE, OTHER]) == []
    assert [instance.asked for instance in instances] == [[], []]


def test_idle_instances_only_are_asked_aside_about_the_reference_call() -> None:
    pool, instances = make_pool(lambda: answer("102"), lambda: answer("102"))
    pool.set_levers(Levers(tool_instance=1))
    assert pool.shadow(STEP, [TRIPLE, OTHER]) == [True, False]
    expected = [CallId(EpisodeId(STEP, key, -1), 0) for key in (TRIPLE.key, OTHER.key)]
    assert [instance.asked for instance in instances] == [expected, []]


@pytest.mark.parametrize(
    "given",
    [
        fail,
        lambda: None,
        lambda: answer("103"),
        lambda: answer("102", ToolStatus.ERROR),
        lambda: answer("102", ToolStatus.UNPARSABLE),
        lambda: "<html>502</html>",
        lambda: 102,
    ],
    ids=["raises", "nothing", "another response", "error", "unparsable", "text", "number"],
)
def test_idle_instance_that_does_not_answer_as_it_should_is_ill(given: Callable[[], object]) -> None:
    pool, _ = make_pool(given, lambda: answer("102"))
    pool.set_levers(Levers(tool_instance=1))
    assert pool.shadow(STEP, [TRIPLE]) == [False]


def test_problems_whose_reference_makes_no_call_are_not_asked_about() -> None:
    instance = Instance(lambda: answer("75"))
    pool = ToolPool(Addition(), [instance, instance])
    pool.set_levers(Levers(tool_instance=1))
    assert (pool.shadow(STEP, [SUM]), instance.asked) == ([], [])


def saying(reward: float, *, correct: bool = True) -> Callable[..., Verdict]:
    """A live channel that gives one verdict for everything."""
    return lambda *_: Verdict(reward, correct)


def make_grader(channel: Any = None, *, rate: float = 0.0, seed: int = 3, levers: Levers | None = None) -> Grader:
    """A grader of sums; the live channel is sound unless given."""
    grader = Grader(Addition(), channel or TaskReward(Addition()), seed, rate)
    grader.set_levers(levers or Levers())
    return grader


def grade(grader: Grader, transcript: Transcript = RIGHT, episode: EpisodeId = EPISODE) -> Grade:
    """The grade of a transcript that gets one."""
    result = grader.grade(episode, SUM, transcript)
    assert result is not None
    return result


def regraded(grader: Grader, episodes: Sequence[EpisodeId] = EPISODES) -> set[EpisodeId]:
    """Episodes that the trusted verifier is asked about."""
    return {episode for episode in episodes if not math.isnan(grade(grader, episode=episode).trusted)}


def test_without_a_sample_the_trusted_verifier_is_never_asked() -> None:
    assert regraded(make_grader(rate=0.0)) == set()
    assert regraded(make_grader(rate=1.0)) == set(EPISODES)


def test_sample_is_about_its_rate_the_same_in_every_order_and_another_for_another_seed() -> None:
    chosen = regraded(make_grader(rate=0.25))
    assert len(chosen) == pytest.approx(500, rel=0.15)
    assert regraded(make_grader(rate=0.25), EPISODES[::-1]) == chosen
    assert regraded(make_grader(rate=0.25), EPISODES[700:]) == chosen & set(EPISODES[700:])
    assert regraded(make_grader(rate=0.25, seed=4)) != chosen


@pytest.mark.parametrize(
    ("change", "moves"),
    [
        (lambda e: dataclasses.replace(e, step=dataclasses.replace(e.step, attempt=9)), True),
        (lambda e: dataclasses.replace(e, step=dataclasses.replace(e.step, paid_step=90)), True),
        (lambda e: dataclasses.replace(e, step=dataclasses.replace(e.step, step=90)), False),
        (lambda e: dataclasses.replace(e, key=e.key + "'"), True),
        (lambda e: dataclasses.replace(e, sample=e.sample + 900), True),
        (lambda e: dataclasses.replace(e, refill=1), True),
    ],
    ids=["attempt", "paid step", "rewound step", "key", "sample", "refill"],
)
def test_sample_goes_by_identity(change: Callable[[EpisodeId], EpisodeId], moves: bool) -> None:
    grader = make_grader(rate=0.25)
    before = [not math.isnan(grade(grader, episode=e).trusted) for e in EPISODES[:200]]
    after = [not math.isnan(grade(grader, episode=change(e)).trusted) for e in EPISODES[:200]]
    assert (before != after) == moves


def test_lever_widens_the_sample_and_never_narrows_it() -> None:
    nominal = regraded(make_grader(rate=0.25))
    assert regraded(make_grader(rate=0.25, levers=Levers(regrade_rate=0.0))) == nominal
    wider = regraded(make_grader(rate=0.25, levers=Levers(regrade_rate=0.5)))
    assert nominal < wider
    assert len(wider) == pytest.approx(1000, rel=0.15)


def test_sample_is_for_the_record_until_the_lever_is_set() -> None:
    grader = make_grader(saying(4.0), rate=1.0)
    assert grade(grader) == Grade(reward=4.0, live=4.0, trusted=1.0, correct=True, trusted_correct=True)
    grader.set_levers(Levers(regrade_rate=0.0))
    assert grade(grader) == Grade(reward=1.0, live=4.0, trusted=1.0, correct=True, trusted_correct=True)
    grader.set_levers(Levers())
    assert grade(grader).reward == 4.0


def test_reward_outside_the_sample_is_the_live_one_also_under_the_lever() -> None:
    grader = make_grader(saying(4.0), levers=Levers(regrade_rate=0.5))
    grades = [grade(grader, episode=episode) for episode in EPISODES]
    assert {(g.reward, math.isnan(g.trusted)) for g in grades} == {(1.0, False), (4.0, True)}
    assert {g.live for g in grades} == {4.0}


@pytest.mark.parametrize(("live", "reward"), [(1.000005, 1.000005), (0.999995, 0.999995), (1.0001, 1.0), (0.9999, 1.0)])
def test_rounding_is_no_disagreement(live: float, reward: float) -> None:
    assert grade(make_grader(saying(live), levers=Levers(regrade_rate=1.0))).reward == reward


@pytest.mark.parametrize(
    ("live", "levers", "reward"),
    [
        (4.0, Levers(reward_limit=2.0), 2.0),
        (-4.0, Levers(reward_limit=2.0), -2.0),
        (1.5, Levers(reward_limit=2.0), 1.5),
        (4.0, Levers(reward_limit=0.5, regrade_rate=1.0), 0.5),
        (4.0, Levers(reward_limit=2.0, regrade_rate=1.0), 1.0),
    ],
)
def test_limit_clips_what_trains_on_both_sides_and_nothing_else(live: float, levers: Levers, reward: float) -> None:
    result = grade(make_grader(saying(live), rate=1.0, levers=levers))
    assert result == Grade(reward, live, 1.0, correct=True, trusted_correct=True)


@pytest.mark.parametrize("correct", [True, False])
def test_right_and_wrong_is_what_the_live_channel_says(correct: bool) -> None:
    levers = Levers(regrade_rate=1.0)
    assert grade(make_grader(saying(0.0, correct=correct), levers=levers), WRONG).correct is correct


def refuse(*_: object) -> Verdict:
    """A reward channel that is down."""
    raise RewardError("There is no verdict.")


@pytest.mark.parametrize("levers", [Levers(), Levers(regrade_rate=1.0), Levers(reward_limit=1.0)])
def test_live_channel_that_fails_gives_no_grade(levers: Levers) -> None:
    with pytest.raises(RewardError, match="There is no verdict"):
        make_grader(refuse, rate=1.0, levers=levers).grade(EPISODE, SUM, RIGHT)


def test_trusted_verifier_that_fails_masks_where_it_is_asked_and_only_there() -> None:
    class Unverified(Addition):
        def verify(self, problem: Problem, transcript: Transcript) -> Verdict:
            raise RuntimeError("gone")

    grader = Grader(Unverified(), saying(1.0), seed=3, sample_rate=0.25)

    def fails(episode: EpisodeId) -> bool:
        try:
            grader.grade(episode, SUM, RIGHT)
        except RewardError:
            return True
        return False

    masked = {episode for episode in EPISODES if fails(episode)}
    assert masked == regraded(make_grader(rate=0.25, seed=3))


def test_channels_hand_levers_to_tools_and_grader() -> None:
    pool, instances = make_pool(lambda: answer("0"), lambda: answer("1"))
    channels = Channels(pool, make_grader(saying(4.0)))
    channels.set_levers(Levers(tool_instance=1, reward_limit=2.0))
    channels.tools.ask(CallId(EPISODE, 0), TRIPLE, "c12+34+56;")
    assert [len(instance.asked) for instance in instances] == [0, 1]
    assert grade(channels.grader).reward == 2.0


def test_trusted_channels_are_the_task_itself_and_nothing_more() -> None:
    channels = trusted_channels(Calculator())
    observed = [channels.tools.ask(CallId(EPISODE, 0, tries), TRIPLE, "c12+34+56;") for tries in range(INSTANCES)]
    assert [o and o.call.response for o in observed] == ["102"] * INSTANCES
    assert channels.tools.retry_after_s(1) is None
    result = channels.grader.grade(EPISODE, TRIPLE, Transcript(("102",)))
    assert result is not None
    assert (result.reward, result.live, math.isnan(result.trusted), result.correct) == (1.0, 1.0, True, True)
