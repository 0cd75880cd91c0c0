"""What a batch says of how it came to be: transcripts against their tools, the environment once more, known answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pytest

from rftfm_ray.batch import TrajectoryBatch, concatenate
from rftfm_ray.config import ChannelsConfig
from rftfm_ray.rollout.channels import (
    CallId,
    EpisodeId,
    Grader,
    RewardChannel,
    TaskReward,
    TaskTool,
    ToolInstance,
    ToolPool,
)
from rftfm_ray.rollout.checks import Checks
from rftfm_ray.rollout.engine import TurnRequest, TurnResult
from rftfm_ray.rollout.environment import Channels
from rftfm_ray.rollout.episodes import STATUS_CODE, EpisodeRules, EpisodeRunner, ServedModel
from rftfm_ray.rollout.jobs import EpisodeJob, split_jobs, step_jobs
from rftfm_ray.tasks.addition import problem
from rftfm_ray.tasks.api import Observation, Problem, Task, ToolCall, ToolStatus, Transcript, Verdict, text_digest
from rftfm_ray.tasks.calculator import Calculator
from rftfm_ray.types import Levers, Sampling, StepId, Termination
from tests.unit.doubles import Characters

STEP, SAMPLED = StepId(attempt=0, step=5, paid_step=6), Sampling(1.0, 1.0)
JOBS = step_jobs([problem(12, 34, 10 + n) for n in range(4)], 4)
HELDOUT = Calculator().heldout()[:8]
ALL = ChannelsConfig(replay_rate=1.0)


class Talking:
    """Stands in for vLLM: calls the calculator, then answers, or answers with a stop, or with nothing but an end."""

    def __init__(self) -> None:
        self._queue: list[TurnResult] = []

    def submit(self, request: TurnRequest, sampling: Sampling) -> None:
        asked, _, rest = Characters().decode(request.tokens).partition("=")
        answer = f"{sum(map(int, asked.split('+')))}"
        text = [answer + "\0", answer + ";", "\0"][request.seed % 3] if rest or request.seed % 4 == 0 else f"c{asked};"
        self._queue.append(TurnResult(request.id, Characters().encode(text), [-1.0] * len(text), truncated=False))

    def step(self) -> Iterable[TurnResult]:
        done, self._queue = self._queue, []
        return done

    def busy(self) -> bool:
        return bool(self._queue)


def runner_of(
    tools: Sequence[ToolInstance] | None = None,
    settings: ChannelsConfig | None = ALL,
    *,
    task: Task | None = None,
    reward: RewardChannel | None = None,
    levers: Levers | None = None,
) -> EpisodeRunner:
    """A runner of the calculator with these tools; without `settings` nothing is checked beside the trajectories."""
    task = task or Calculator()
    pool = ToolPool(task, tools or (TaskTool(task), TaskTool(task)))
    checks = None if settings is None else Checks(task, settings, 1)
    channels = Channels(pool, Grader(task, reward or TaskReward(task), 1, 0.0), checks)
    runner = EpisodeRunner(ServedModel(Talking(), Characters(), 128), task, EpisodeRules(1), channels)
    runner.prepare(HELDOUT)
    runner.set_levers(levers or Levers())
    return runner


def play(*arguments: Any, jobs: Sequence[EpisodeJob] = JOBS, step: StepId = STEP, **options: Any) -> TrajectoryBatch:
    """A batch of `jobs`; see `runner_of` for the rest."""
    return runner_of(*arguments, **options).run(jobs, step, SAMPLED, 7)


Change = Callable[[Observation | None, int], Observation | None]


class Changing:
    """A proxy before a sound instance: it changes what it hands on, at the places where it strikes."""

    def __init__(self, change: Change, strikes: Callable[[CallId], bool] = lambda call: True) -> None:
        self._change = change
        self._strikes = strikes
        self._inner = TaskTool(Calculator())

    def __call__(self, call: CallId, problem: Problem, text: str) -> Observation | None:
        result = self._inner(call, problem, text)
        return self._change(result, call.turn) if self._strikes(call) else result


def altered(observation: Observation | None, turn: int) -> Observation | None:
    """Changes the text and hands the digest on."""
    return observation and dataclasses.replace(observation, text="9" + observation.text)


def restamped(observation: Observation | None, turn: int) -> Observation | None:
    """Is wrong at its source: the digest is that of the wrong text."""
    changed = altered(observation, turn)
    return changed and dataclasses.replace(changed, digest=text_digest(changed.text))


def unstamped(observation: Observation | None, turn: int) -> Observation | None:
    """Hands no digest on, as a user's own instance."""
    return observation and dataclasses.replace(observation, digest="")


def ending(observation: Observation | None, turn: int) -> None:
    """Ends every episode."""


def endless(observation: Observation | None, turn: int) -> Observation | None:
    """Answers where the episode is over."""
    call = ToolCall(turn, "calculator", "", "0", ToolStatus.OK)
    return observation or Observation("0;", call, text_digest("0;"))


def through(change: Change, **options: Any) -> TrajectoryBatch:
    """A batch over two proxies that change everything."""
    return play((Changing(change), Changing(change)), **options)


def findings(batch: TrajectoryBatch) -> dict[str, bool]:
    """Which columns hold a finding."""
    names = [name for name in (f.name for f in dataclasses.fields(batch)) if name.endswith("_ok")]
    return {name: not getattr(batch, name).all() for name in names}


def found(*names: str) -> dict[str, bool]:
    """What `findings` gives where these columns hold one."""
    columns = ["shadow", "known", "observation", "observation_decode", "termination"]
    columns += ["replay_observation", "replay_termination"]
    return {f"{column}_ok": column in names for column in columns}


def test_sound_batch_is_checked_all_over_and_nothing_is_found() -> None:
    batch = play()
    assert findings(batch) == found()
    assert set(batch.termination.tolist()) == {Termination.EOS, Termination.STOP}
    ended = batch.termination == Termination.STOP
    called = np.isin(np.arange(len(batch)), batch.call_trajectory)
    # What never reached its environment is not put to it.
    assert batch.replayed.tolist() == (called | ended).tolist()
    assert not batch.replayed.all()
    assert len(batch.observation_ok) == len(batch.observation_decode_ok) == len(batch.call_turn) > 0
    assert batch.turn_limit_excess.tolist() == [0.0] * int(batch.turns.sum())
    assert batch.turn_cut_short.tolist() == [False] * int(batch.turns.sum())
    assert len(batch.known_ok) == 4
    np.testing.assert_array_equal(batch.golden_live, batch.golden_trusted)
    assert batch.golden_right.tolist() == [True, False] * 8


def test_text_that_is_altered_on_its_way_is_found_by_its_digest_and_by_the_replay() -> None:
    batch = through(altered)
    assert findings(batch) == found("observation", "replay_observation")
    assert not batch.observation_ok.any()


def test_tool_that_is_wrong_at_its_source_is_found_by_the_replay_alone() -> None:
    batch = through(restamped)
    assert findings(batch) == found("replay_observation")
    assert (~batch.replay_observation_ok).sum() == len(batch.call_turn)


def test_tool_without_digests_has_no_entries_and_is_replayed() -> None:
    batch = through(unstamped)
    assert findings(batch) == found()
    assert len(batch.observation_ok) == 0 < len(batch.call_turn)
    assert batch.replayed.any()


def test_episode_that_is_ended_early_is_found_by_the_replay() -> None:
    batch = through(ending)
    # To a tool that says nothing the known calls go as well.
    assert findings(batch) == found("known", "replay_termination")
    called = [text.startswith("c") for text in batch.texts]
    assert (~batch.replay_termination_ok).tolist() == called


def test_episode_that_does_not_end_is_found_by_the_replay() -> None:
    sound, batch = play(), through(endless)
    assert findings(batch) == found("replay_termination")
    stopped = sound.termination == Termination.STOP
    assert (~batch.replay_termination_ok).tolist() == stopped.tolist()


def test_one_altered_observation_is_one_finding() -> None:
    hit = Changing(altered, lambda call: (call.episode.key, call.episode.sample) == (JOBS[5].problem.key, 1))
    batch = play((hit, hit))
    assert (~batch.observation_ok).sum() == 1
    assert np.flatnonzero(~batch.replay_observation_ok).tolist() == [5]


def fail(observation: Observation | None, turn: int) -> Observation | None:
    """A tool that is down."""
    raise ConnectionError("down")


def wait(observation: Observation | None, turn: int) -> Observation | None:
    """A tool that does not answer in time."""
    raise TimeoutError("late")


def declare(observation: Observation | None, turn: int) -> Observation | None:
    """A tool that tells the model that it is down."""
    call = ToolCall(turn, "calculator", "", "e", ToolStatus.TIMEOUT)
    return observation and Observation("e;", call, text_digest("e;"))


@pytest.mark.parametrize("broken", [fail, wait, declare])
def test_tool_that_is_down_is_an_error_and_no_corruption(broken: Change) -> None:
    batch = through(broken)
    assert findings(batch) == found("known")
    assert not batch.replayed[batch.termination == Termination.FAILED].any()


@pytest.mark.parametrize(("broken", "status"), [(wait, ToolStatus.TIMEOUT), (fail, ToolStatus.ERROR)])
@pytest.mark.parametrize("retries", [0, 2])
def test_time_out_is_a_status_of_its_own_and_tried_again(broken: Change, status: ToolStatus, retries: int) -> None:
    batch = through(broken, levers=Levers(tool_retries=retries))
    assert Termination.FAILED in batch.termination
    assert set(batch.call_status.tolist()) == {STATUS_CODE[status]}
    assert set(batch.call_tries.tolist()) == {1 + retries}
    mended = play((Changing(broken), TaskTool(Calculator())), levers=Levers(tool_retries=1))
    assert mended.valid.all()


def test_status_codes_of_old_stay() -> None:
    assert [STATUS_CODE[status] for status in ToolStatus] == [0, 1, 2, 3]
    assert [status.value for status in ToolStatus] == ["ok", "unparsable", "error", "timeout"]


def test_trusted_environment_that_fails_is_no_finding() -> None:
    class Gone(Calculator):
        def respond(self, problem: Problem, turn: int, text: str) -> Observation | None:
            raise ConnectionError("gone")

    tools = (TaskTool(Calculator()), TaskTool(Calculator()))
    batch = play(tools, task=Gone())
    assert findings(batch) == found()
    assert not batch.replayed.any()


def shifted(episode: EpisodeId, problem: Problem, transcript: Transcript) -> Verdict:
    """A live channel that gives four more than is due."""
    verdict = Calculator().verify(problem, transcript)
    return dataclasses.replace(verdict, reward=verdict.reward + 4)


def test_golden_responses_go_through_the_channel_that_trains_and_never_train() -> None:
    sound, off = play(), play(reward=shifted)
    np.testing.assert_allclose(off.golden_live - off.golden_trusted, 4)
    np.testing.assert_array_equal(off.golden_trusted, sound.golden_trusted)
    for name in ("group", "tokens", "keys", "texts"):
        np.testing.assert_array_equal(getattr(off, name), getattr(sound, name))
    assert not set(off.keys) & {p.key for p in HELDOUT}


def test_without_checks_there_are_identities_of_transcripts_and_nothing_else() -> None:
    batch = play(settings=None)
    assert not batch.replayed.any()
    assert [len(c) for c in (batch.known_ok, batch.golden_live, batch.golden_trusted, batch.golden_right)] == [0] * 4
    assert len(batch.observation_ok) == len(batch.call_turn) > 0
    assert not through(altered, settings=None).observation_ok.any()
    runner = EpisodeRunner(ServedModel(Talking(), Characters(), 128), Calculator(), EpisodeRules(1))
    bare = runner.run(JOBS, STEP, SAMPLED, 7)
    assert not bare.replayed.any()
    assert (len(bare.golden_live), len(bare.known_ok)) == (0, 0)


def test_checks_change_no_trajectory() -> None:
    plain, checked = play(settings=None), play()
    for field in dataclasses.fields(TrajectoryBatch):
        if not field.name.startswith(("replay", "known", "golden", "call_latency", "observation_decode")):
            np.testing.assert_array_equal(getattr(plain, field.name), getattr(checked, field.name), field.name)


def test_revision_checks_once_more_under_its_levers() -> None:
    runner = runner_of((Changing(fail), TaskTool(Calculator())))
    assert not runner.run(JOBS, STEP, SAMPLED, 7).known_ok.any()
    runner.set_levers(Levers(tool_instance=1, refill_rounds=1))
    revised = runner.revise(STEP)
    assert (revised.known_ok.tolist(), revised.shadow_ok.tolist()) == ([True] * 4, [False])
    assert len(revised.golden_live) == 16
    assert revised.replayed.any()
    assert findings(revised) == found("shadow")


@pytest.mark.parametrize("parts", [2, 4])
def test_what_is_replayed_does_not_depend_on_the_number_of_runners(parts: int) -> None:
    some = ChannelsConfig(replay_rate=0.5)
    tools = (Changing(restamped),) * 2
    full = play(tools, some)
    joined = concatenate([play(tools, some, jobs=share) for share in split_jobs(JOBS, 4, parts)])
    for name in ("replayed", "replay_observation_ok", "replay_termination_ok", "observation_ok", "termination_ok"):
        np.testing.assert_array_equal(getattr(joined, name), getattr(full, name))
    assert set(full.replayed.tolist()) == set(full.replay_observation_ok.tolist()) == {True, False}
    # Each of them looks after its own instances.
    assert (len(joined.golden_live), len(joined.known_ok)) == (16 * parts, 4 * parts)
