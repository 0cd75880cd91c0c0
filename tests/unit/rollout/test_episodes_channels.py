"""Episodes over tools that fail: retries in the engine's loop, refills, revision under other levers, shadow calls."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pytest

from rftfm_ray.batch import TrajectoryBatch, concatenate
from rftfm_ray.faults import rewards, tools
from rftfm_ray.faults.catalogue import parse_fault
from rftfm_ray.rollout import episodes as module
from rftfm_ray.rollout import tool_calls
from rftfm_ray.rollout.channels import (
    SHADOW_EVERY,
    CallId,
    EpisodeId,
    Grader,
    RewardChannel,
    TaskReward,
    TaskTool,
    ToolInstance,
    ToolPool,
    task_tools,
)
from rftfm_ray.rollout.engine import TurnRequest, TurnResult
from rftfm_ray.rollout.environment import Channels
from rftfm_ray.rollout.episodes import STATUS_CODE, EpisodeRules, EpisodeRunner, ServedModel
from rftfm_ray.rollout.jobs import EpisodeJob, probe_jobs, split_jobs, step_jobs
from rftfm_ray.tasks.addition import problem
from rftfm_ray.tasks.api import Observation, Problem, Task, ToolCall, ToolStatus, Transcript, Verdict
from rftfm_ray.tasks.calculator import Calculator
from rftfm_ray.types import Levers, Sampling, StepId, Termination
from tests.unit.doubles import Characters

STEP, SAMPLED = StepId(attempt=0, step=3, paid_step=3), Sampling(1.0, 1.0)
PROBLEMS = [problem(12, 34, 10 + n) for n in range(10)]
JOBS = step_jobs(PROBLEMS[:4], 4)
ERROR = STATUS_CODE[ToolStatus.ERROR]

Rule = Callable[[CallId], bool]


class Clock:
    """Stands in for `time`: moves when a turn is made, and when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []
        self.story: list[str] = []

    def perf_counter(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


class SeededEngine:
    """Calls the calculator, then answers as the request's seed will have it; makes one turn a second."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or Clock()
        self._queue: list[TurnResult] = []
        self.requests: list[TurnRequest] = []

    def submit(self, request: TurnRequest, sampling: Sampling) -> None:
        self.requests.append(dataclasses.replace(request, tokens=list(request.tokens)))
        asked, _, rest = Characters().decode(request.tokens).partition("=")
        right = sum(map(int, asked.split("+")))
        text = f"{right if request.seed % 2 else request.seed % 1000}\0" if rest else f"c{asked};"
        tokens = Characters().encode(text)
        self._queue.append(TurnResult(request.id, tokens, [-1 / (1 + request.seed % 97)] * len(tokens), False))

    def step(self) -> Iterable[TurnResult]:
        self._clock.now += 1.0
        done = self._queue.pop(0)
        self._clock.story.append(f"turn of {done.id}")
        return [done]

    def busy(self) -> bool:
        return bool(self._queue)


class Flaky:
    """A tool instance that is down for calls of a kind, and notes all of them."""

    def __init__(self, rule: Rule, clock: Clock | None = None) -> None:
        self._rule = rule
        self._clock = clock or Clock()
        self._inner = TaskTool(Calculator())
        self.asked: list[CallId] = []

    def __call__(self, call: CallId, problem: Problem, text: str) -> Observation | None:
        self.asked.append(call)
        self._clock.story.append(f"try {call.tries} for {problem.key}")
        if self._rule(call):
            raise ConnectionError("down")
        return self._inner(call, problem, text)


class Giving:
    """A tool instance that gives the same to every call."""

    def __init__(self, given: object) -> None:
        self._given = given

    def __call__(self, call: CallId, problem: Problem, text: str) -> Any:
        return self._given


@dataclasses.dataclass
class Played:
    """A runner with what it reaches, and the batch that it has made."""

    runner: EpisodeRunner
    engine: SeededEngine
    batch: TrajectoryBatch


def play(
    tools: Sequence[ToolInstance],
    levers: Levers | None = None,
    jobs: Sequence[EpisodeJob] = JOBS,
    *,
    reward: RewardChannel | None = None,
    rate: float = 0.0,
    clock: Clock | None = None,
    task: Task | None = None,
    backoff_s: float = 0.0,
    limit: int = 128,
) -> Played:
    """A batch of `jobs` with these tool instances, under `levers`."""
    task, engine = task or Calculator(), SeededEngine(clock)
    channels = Channels(ToolPool(task, tools, 0, backoff_s), Grader(task, reward or TaskReward(task), 1, rate))
    runner = EpisodeRunner(ServedModel(engine, Characters(), limit), task, EpisodeRules(1), channels)
    runner.set_levers(levers or Levers())
    return Played(runner, engine, runner.run(jobs, STEP, SAMPLED, 7))


def same(left: TrajectoryBatch, right: TrajectoryBatch, *but: str) -> None:
    """Assert that all columns are equal, but for those named and how long tools took."""
    for field in dataclasses.fields(TrajectoryBatch):
        if field.name not in (*but, "call_latency_s"):
            one, other = getattr(left, field.name), getattr(right, field.name)
            np.testing.assert_array_equal(one, other, err_msg=field.name)


def trajectory(batch: TrajectoryBatch, index: int) -> dict[str, Any]:
    """All columns of one trajectory."""
    one, result = slice(int(batch.offsets[index]), int(batch.offsets[index + 1])), {}
    for field in dataclasses.fields(TrajectoryBatch):
        column = getattr(batch, field.name)
        if field.name in ("tokens", "action", "logprobs"):
            result[field.name] = column[one].tolist()
        elif field.name in ("call_turn", "call_status", "call_tries", "call_requests", "call_responses"):
            result[field.name] = [column[c] for c in np.flatnonzero(batch.call_trajectory == index)]
        elif not field.name.startswith(("offsets", "call_", "shadow_", "known_", "observation_", "golden_", "turn_")):
            result[field.name] = column[index]
    return result


def always(call: CallId) -> bool:
    """Every call fails."""
    return True


def never(call: CallId) -> bool:
    """No call fails."""
    return False


def odd_at_first(call: CallId) -> bool:
    """Calls of odd samples fail until they are drawn anew."""
    return call.episode.sample % 2 == 1 and call.episode.refill == 0


SOUND = (Flaky(never), Flaky(never))
ODD_DOWN = (Flaky(odd_at_first), Flaky(odd_at_first))
ODD = [job.sample % 2 == 1 for job in JOBS]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(tool_calls, "time", clock)
    return clock


@pytest.mark.parametrize(("first", "order"), [(None, [0, 1, 0, 1]), (1, [1, 0, 1, 0])])
def test_call_that_fails_on_all_tries_masks_its_trajectory_and_is_an_error(first: int | None, order: list[int]) -> None:
    tools = [Flaky(always), Flaky(always)]
    # Of a group that asks nobody aside.
    batch = play(tools, Levers(tool_instance=first, tool_retries=3), JOBS[4:5]).batch
    asked = [[call.tries for call in tool.asked] for tool in tools]
    assert asked == [[tries for tries, instance in enumerate(order) if instance == own] for own in (0, 1)]
    assert (batch.valid.tolist(), batch.termination.tolist()) == ([False], [Termination.FAILED])
    assert np.isnan([batch.reward[0], batch.live_reward[0], batch.trusted_reward[0]]).all()
    assert (batch.call_status.tolist(), batch.call_tries.tolist()) == ([ERROR], [4])
    assert (batch.call_requests, batch.call_responses) == (("c12+34+11;",), ("ConnectionError",))


def test_call_that_succeeds_in_the_end_leaves_nothing_but_its_tries() -> None:
    tools = (Flaky(lambda call: call.tries < 2), Flaky(always))
    batch = play(tools, Levers(tool_retries=5)).batch
    same(batch, play(SOUND).batch, "call_tries")
    assert batch.call_tries.tolist() == [3] * len(JOBS)
    assert batch.valid.all()


def test_waits_between_tries_double_and_start_anew_with_the_next_call(clock: Clock) -> None:
    tools = (Flaky(always), Flaky(lambda call: call.tries < 3))
    batch = play(tools, Levers(tool_retries=3), JOBS[:1], clock=clock, backoff_s=0.5).batch
    assert clock.slept == pytest.approx([0.5, 1.0, 2.0])
    assert batch.call_latency_s.tolist() == pytest.approx([3.5])


def test_other_episodes_go_on_while_a_call_waits_to_be_tried_again(clock: Clock) -> None:
    first, second, third = (p.key for p in PROBLEMS[:3])
    tool = Flaky(lambda call: call.episode.key == first and call.tries == 0, clock)
    jobs = probe_jobs(PROBLEMS[:3])
    batch = play((tool, tool), Levers(tool_retries=1), jobs, clock=clock, backoff_s=2.5).batch
    assert clock.story == [
        "turn of 0", f"try 0 for {first}",
        "turn of 1", f"try 0 for {second}",
        "turn of 2", f"try 0 for {third}",
        # The call was due after three and a half seconds, in the middle of this turn.
        "turn of 1", f"try 1 for {first}",
        "turn of 2", "turn of 0",
    ]  # fmt: skip
    assert clock.slept == []
    assert batch.call_latency_s.tolist() == pytest.approx([3.0, 0.0, 0.0])
    same(batch, play(SOUND, jobs=jobs, clock=clock).batch, "call_tries")


WELL = ToolCall(0, "calculator", "1+1", "2", ToolStatus.OK)


@pytest.mark.parametrize(
    "given",
    ["<html>502</html>", 502, Observation(502, WELL), Observation("2;", "2")],  # type: ignore[arg-type]
    ids=["text", "number", "text that is none", "call that is none"],
)
def test_answer_of_a_wrong_type_is_an_error(given: object) -> None:
    batch = play((Giving(given), Giving(given)), jobs=JOBS[:1]).batch
    assert (batch.call_status.tolist(), batch.valid.tolist()) == ([ERROR], [False])
    mended = play((Giving(given), TaskTool(Calculator())), Levers(tool_retries=1), JOBS[:1]).batch
    assert (mended.call_tries.tolist(), mended.valid.tolist()) == ([2], [True])


@pytest.mark.parametrize(("status", "tries"), [(ToolStatus.ERROR, 3), (ToolStatus.UNPARSABLE, 1)])
def test_what_the_tool_declares_is_told_to_the_model_and_only_an_error_is_tried_again_before(
    status: ToolStatus, tries: int
) -> None:
    declared = Giving(Observation("e;", ToolCall(0, "calculator", "12+34+10", "e", status)))
    batch = play((declared, declared), Levers(tool_retries=2), JOBS[:1]).batch
    assert (batch.call_status.tolist(), batch.call_tries.tolist()) == ([STATUS_CODE[status]], [tries])
    assert batch.valid.tolist() == [True]
    assert batch.texts[0].startswith("c12+34+10;e;")


def test_masked_trajectories_are_drawn_anew_and_the_others_stay_bit_for_bit() -> None:
    masked, refilled = play(ODD_DOWN), play(ODD_DOWN, Levers(refill_rounds=1))
    assert masked.batch.valid.tolist() == [not odd for odd in ODD]
    assert refilled.batch.valid.all()
    assert refilled.batch.refills.tolist() == [int(odd) for odd in ODD]
    for index, odd in enumerate(ODD):
        if not odd:
            np.testing.assert_equal(trajectory(refilled.batch, index), trajectory(masked.batch, index))
    first = {(r.id, r.seed) for r in masked.engine.requests}
    again = [r for r in refilled.engine.requests if (r.id, r.seed) not in first]
    assert [r.id for r in again[: sum(ODD)]] == [index for index, odd in enumerate(ODD) if odd]
    assert len(again) == 2 * sum(ODD)
    refilled.runner.set_levers(Levers())
    same(refilled.runner.run(JOBS, STEP, SAMPLED, 7), masked.batch)


def test_refills_end_with_their_rounds_and_with_what_they_are_for() -> None:
    tools = (Flaky(lambda call: call.episode.refill < 1 + call.episode.sample), Flaky(always))
    batch = play(tools, Levers(refill_rounds=3)).batch
    assert batch.refills.tolist() == [1, 2, 3, 3] * 4
    assert batch.valid.tolist() == [True, True, True, False] * 4


def test_only_tool_failures_are_refilled() -> None:
    class Unverified(Calculator):
        def verify(self, problem: Problem, transcript: Transcript) -> Verdict:
            raise RuntimeError("gone")

    levers = Levers(refill_rounds=2)
    unverified, crowded = play(SOUND, levers, task=Unverified()), play(SOUND, levers, limit=9)
    for played, requests in ((unverified, 2 * len(JOBS)), (crowded, 0)):
        assert not played.batch.valid.any()
        assert played.batch.refills.tolist() == [0] * len(JOBS)
        assert len(played.engine.requests) == requests


def shifted(episode: EpisodeId, problem: Problem, transcript: Transcript) -> Verdict:
    """A live channel that gives four more than is due."""
    verdict = Calculator().verify(problem, transcript)
    return dataclasses.replace(verdict, reward=verdict.reward + 4)


def test_revision_grades_anew_without_generating_where_nothing_has_failed() -> None:
    played = play(SOUND, reward=shifted)
    made = len(played.engine.requests)
    played.runner.set_levers(Levers(regrade_rate=1.0, refill_rounds=2))
    revised = played.runner.revise(STEP)
    assert len(played.engine.requests) == made
    same(revised, played.batch, "reward", "trusted_reward", "trusted_correct", "seal")
    np.testing.assert_allclose(revised.reward, played.batch.reward - 4, atol=1e-6)
    np.testing.assert_array_equal(revised.trusted_reward, revised.reward)
    played.runner.set_levers(Levers())
    same(played.runner.revise(STEP), played.batch)


def test_revision_is_what_the_batch_would_have_been_under_its_levers() -> None:
    levers = Levers(refill_rounds=1, regrade_rate=0.5, reward_limit=0.75)
    played = play(ODD_DOWN, reward=shifted)
    played.runner.set_levers(levers)
    revised = played.runner.revise(STEP)
    same(revised, play(ODD_DOWN, levers, reward=shifted).batch)
    for index, odd in enumerate(ODD):
        if not odd:
            assert trajectory(revised, index)["tokens"] == trajectory(played.batch, index)["tokens"]


def test_refills_of_a_revision_go_to_the_instance_of_the_new_levers() -> None:
    tools = (Flaky(always), Flaky(never))
    played = play(tools)
    assert not played.batch.valid.any()
    played.runner.set_levers(Levers(tool_instance=1, refill_rounds=1))
    revised = played.runner.revise(STEP)
    assert revised.valid.all()
    assert revised.refills.tolist() == [1] * len(JOBS)


def test_only_the_last_step_can_be_revised() -> None:
    played = play(SOUND)
    fresh = EpisodeRunner(ServedModel(SeededEngine(), Characters(), 128), Calculator(), EpisodeRules(1))
    for runner, step in ((played.runner, dataclasses.replace(STEP, attempt=1)), (fresh, STEP)):
        with pytest.raises(ValueError, match="the last batch is not that of"):
            runner.revise(step)


def test_idle_instances_are_asked_aside_by_the_first_sample_of_some_groups() -> None:
    jobs = step_jobs(PROBLEMS, 2)
    tools = (Flaky(lambda call: call.episode.key == PROBLEMS[4].key), Flaky(never))
    batch = play(tools, Levers(tool_instance=1), jobs).batch
    expected = [p.key for group, p in enumerate(PROBLEMS) if group % SHADOW_EVERY == 0]
    assert tools[0].asked == [CallId(EpisodeId(STEP, key, -1), 0) for key in expected]
    assert batch.shadow_ok.tolist() == [True, False, True]
    assert len(tools[1].asked) == len(jobs)


@pytest.mark.parametrize("idle", [Flaky(always), Flaky(never), Giving("<html>"), Giving(None)])
def test_nothing_of_a_shadow_call_reaches_a_trajectory(idle: ToolInstance) -> None:
    failed_over = play((idle, TaskTool(Calculator())), Levers(tool_instance=1)).batch
    same(failed_over, play(SOUND).batch, "shadow_ok")
    assert len(failed_over.shadow_ok) == 1


@pytest.mark.parametrize("parts", [2, 3, 4])
def test_faults_retries_refills_and_grades_do_not_depend_on_the_number_of_runners(parts: int) -> None:
    faults = [parse_fault("TE-1@1:0.5,instances=all"), parse_fault("RF-1@1:2,mechanism=outliers")]
    struck = tools.faulty_tools(task_tools(Calculator()), faults, 1)
    reward = rewards.faulty_reward(TaskReward(Calculator()), faults, 1)
    levers = Levers(tool_instance=1, tool_retries=1, refill_rounds=1, regrade_rate=0.5, reward_limit=2.5)
    full = play(struck, levers, reward=reward, rate=0.25).batch
    shares = split_jobs(JOBS, 4, parts)
    joined = concatenate([play(struck, levers, share, reward=reward, rate=0.25).batch for share in shares])
    same(joined, full)
    # Each of them has happened.
    assert set(full.valid.tolist()) == {True, False}
    assert set(full.call_tries.tolist()) == {1, 2}
    assert set(full.refills.tolist()) == {0, 1}
    assert {math.isnan(value) for value in full.trusted_reward[full.valid].tolist()} == {True, False}
    assert (np.abs(full.live_reward[full.valid]) > 1).any()
