"""Faulty limits, ends and prompts in whole episodes: what they change, and which identity sees it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pytest

from rftfm_ray.batch import TrajectoryBatch, concatenate
from rftfm_ray.config import ChannelsConfig
from rftfm_ray.faults.catalogue import parse_fault
from rftfm_ray.faults.episodes import FaultySeams
from rftfm_ray.faults.sampler import faulty_sampler
from rftfm_ray.faults.tools import faulty_tools
from rftfm_ray.rollout.channels import CallId, EpisodeId, Grader, TaskReward, ToolPool, task_tools
from rftfm_ray.rollout.checks import Checks
from rftfm_ray.rollout.engine import TurnRequest, TurnResult
from rftfm_ray.rollout.environment import Channels
from rftfm_ray.rollout.episodes import EpisodeRules, EpisodeRunner, ServedModel
from rftfm_ray.rollout.jobs import EpisodeJob, split_jobs, step_jobs
from rftfm_ray.rollout.termination import Limits
from rftfm_ray.tasks.addition import problem
from rftfm_ray.tasks.calculator import Calculator
from rftfm_ray.types import Sampling, StepId, Termination
from tests.unit.doubles import Characters

ON = 5
BEFORE, NOW = StepId(0, ON - 1, ON - 1), StepId(0, ON, ON)
SAMPLED = Sampling(1.0, 1.0)
ANSWERS = ("77", "88", "99")
JOBS = step_jobs([problem(12, 34, 10 + n) for n in range(8)], 4)


class Talking:
    """Stands in for vLLM: calls the calculator and repeats what it says, or answers at once; keeps to its limits."""

    def __init__(self) -> None:
        self._queue: list[TurnResult] = []
        self.asked: list[TurnRequest] = []

    def submit(self, request: TurnRequest, sampling: Sampling) -> None:
        self.asked.append(request)
        asked, _, rest = Characters().decode(request.tokens).partition("=")
        seen = rest.split(";")[-2] if rest.endswith(";") else str(sum(map(int, asked.split("+"))))
        text = f"{seen}\0" if rest or request.seed % 3 == 0 else f"c{asked};"
        if text.endswith("\0") and 0 not in request.stop_token_ids:
            text = text.ljust(request.max_tokens + 1, "\0")
        truncated = len(text) > request.max_tokens
        tokens = Characters().encode(text[: request.max_tokens])
        self._queue.append(TurnResult(request.id, tokens, [-1.0] * len(tokens), truncated))

    def step(self) -> Iterable[TurnResult]:
        done, self._queue = self._queue, []
        return done

    def busy(self) -> bool:
        return bool(self._queue)


def play(*texts: str, step: StepId = NOW, jobs: Sequence[EpisodeJob] = JOBS) -> TrajectoryBatch:
    """A batch of the calculator with faults in every part of its way, and every check made of all of it."""
    faults, task = [parse_fault(text) for text in texts], Calculator()
    pool = ToolPool(task, faulty_tools(task_tools(task), faults, 1))
    channels = Channels(pool, Grader(task, TaskReward(task), 1, 0.0), Checks(task, ChannelsConfig(replay_rate=1.0), 1))
    engine = faulty_sampler(Talking(), faults, 1, (0,))
    runner = EpisodeRunner(
        ServedModel(engine, Characters(), 128), task, EpisodeRules(1), channels, FaultySeams(faults, 1, ANSWERS)
    )
    return runner.run(jobs, step, SAMPLED, 7)


def findings(batch: TrajectoryBatch) -> set[str]:
    """Identities of transcripts that something breaks."""
    columns = {
        "observations": batch.observation_ok,
        "terminations": batch.termination_ok,
        "replayed_observations": batch.replay_observation_ok,
        "replayed_terminations": batch.replay_termination_ok,
        "decoded_observations": batch.observation_decode_ok,
        "turn_limits": batch.turn_limit_excess == 0,
    }
    return {name for name, column in columns.items() if not column.all()}


def same(one: TrajectoryBatch, other: TrajectoryBatch) -> bool:
    """Whether two batches hold the same trajectories."""
    names = ("tokens", "offsets", "termination", "turns", "reward", "correct")
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in names)


EVERY = ["TE-3@5:1", "TE-3@5:1,mechanism=early", "TE-3@5:1,mechanism=never", "TE-2@5:1", "TE-2@5:1,mechanism=source"]
EVERY += ["TE-2@5:1,mechanism=transit", "PG-3S@5:1,mechanism=token_cap", "TE-2@5:1,mechanism=crossed"]
EVERY += ["PG-1@5:1,mechanism=answered_prompt", "PG-3S@5:1,mechanism=begun_prompt", "PG-3L@5:1,mechanism=lost_end"]


@pytest.mark.parametrize("text", EVERY)
def test_episodes_are_as_ever_before_the_onset(text: str) -> None:
    sound = play(step=BEFORE)
    assert findings(sound) == set()
    assert sound.correct.all()
    assert same(play(text, step=BEFORE), sound)
    assert not same(play(text), play())


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("TE-3@5:1", {"turn_limits"}),
        ("TE-3@5:0.5", {"turn_limits"}),
        ("TE-3@5:1,mechanism=early", {"replayed_terminations"}),
        ("TE-3@5:1,mechanism=never", {"terminations"}),
        ("TE-2@5:1", {"decoded_observations"}),
        ("TE-2@5:1,mechanism=source", {"replayed_observations"}),
        ("TE-2@5:1,mechanism=transit", {"observations", "replayed_observations"}),
        ("PG-3S@5:1,mechanism=token_cap", {"terminations"}),
        ("TE-1@5:1,mechanism=garbled", {"replayed_observations"}),
        ("TE-2@5:1,mechanism=crossed", {"decoded_observations"}),
        ("TE-3@5:0.5,mechanism=all_limits", {"turn_limits"}),
        ("PG-1@5:1,mechanism=answered_prompt", set()),
        ("PG-3S@5:1,mechanism=begun_prompt", set()),
        ("PG-3L@5:1,mechanism=lost_end", set()),
    ],
)
def test_identities_see_what_they_can(text: str, shown: set[str]) -> None:
    assert findings(play(text)) == shown


def test_halved_limits_cut_calls_off_and_leave_short_answers_alone() -> None:
    sound, batch = play(), play("TE-3@5:1")
    called = np.array([text.startswith("c") for text in sound.texts])
    cut = batch.termination == Termination.MAX_TOKENS
    # A call takes ten tokens of twelve, an answer at once four.
    assert cut.tolist() == called.tolist()
    assert set(batch.action_counts()[cut].tolist()) == {6}
    assert batch.correct.tolist() == (~called).tolist()
    assert not batch.reward[cut].any()


def test_limits_asked_for_and_given_tell_the_episode_from_the_server() -> None:
    sound, episode, server = play(), play("TE-3@5:1"), play("PG-3S@5:1,mechanism=token_cap")
    assert (sound.turn_limit_excess == 0).all()
    assert not sound.turn_cut_short.any()
    assert np.exp(episode.turn_limit_excess).tolist() == pytest.approx([0.5] * int(episode.turns.sum()), abs=0.1)
    assert not episode.turn_cut_short.any()
    assert (server.turn_limit_excess == 0).all()
    # Turns that are short by themselves are not cut off.
    assert server.turn_cut_short.sum() == (server.termination == Termination.MAX_TOKENS).sum() > 0


def given(batch: TrajectoryBatch, row: int) -> list[int]:
    """Tokens of a trajectory that the model did not choose."""
    one = slice(int(batch.offsets[row]), int(batch.offsets[row + 1]))
    tokens: list[int] = batch.tokens[one][~batch.action[one]].tolist()
    return tokens


def test_every_observation_whose_tokens_say_something_else_is_found() -> None:
    sound, batch = play(), play("TE-2@5:0.5")
    assert batch.call_responses == sound.call_responses
    altered = sum(given(batch, row) != given(sound, row) for row in range(len(batch)))
    assert 0 < (~batch.observation_decode_ok).sum() == altered < len(batch.observation_decode_ok)


def test_share_of_episodes_with_half_their_tokens_is_the_strength() -> None:
    jobs = step_jobs([problem(12, 34, 10 + n) for n in range(60)], 8)
    cut = play("TE-3@5:0.3", jobs=jobs).termination == Termination.MAX_TOKENS
    called = np.array([text.startswith("c") for text in play(jobs=jobs).texts])
    assert cut[called].mean() == pytest.approx(0.3, abs=0.08)
    assert not cut[~called].any()


def test_answer_that_is_not_taken_for_the_end_is_followed_by_another_turn() -> None:
    sound, batch = play(), play("TE-3@5:1,mechanism=never")
    at_once = sound.turns == 1
    assert at_once.any()
    assert batch.turns.tolist() == [2] * len(JOBS)
    assert batch.termination_ok.tolist() == (~at_once).tolist()
    # Only the first of two turns is not taken for the end.
    assert (batch.termination == Termination.EOS).all()


def test_prompt_holds_another_digit_and_every_record_the_right_one() -> None:
    sound, batch = play(), play("TE-2@5:1")
    called = sound.turns == 2
    assert called.any()
    assert batch.correct.tolist() == (~called).tolist()
    assert batch.call_responses == sound.call_responses
    assert batch.tokens.shape == sound.tokens.shape
    differs = np.split(batch.tokens != sound.tokens, sound.offsets[1:-1])
    # One digit of what was observed, and the same of what the policy makes of it.
    assert [int(part.sum()) for part in differs] == [2 if hit else 0 for hit in called]


@pytest.mark.parametrize("text", [text.replace(":1", ":0.5") for text in EVERY])
@pytest.mark.parametrize("parts", [2, 4])
def test_who_is_struck_does_not_depend_on_the_number_of_runners(text: str, parts: int) -> None:
    full = play(text)
    joined = concatenate([play(text, jobs=share) for share in split_jobs(JOBS, 4, parts)])
    assert same(joined, full)
    # Some are struck.
    assert not same(full, play())


def test_limits_are_halved_twice_by_two_faults_and_never_to_nothing() -> None:
    seams = FaultySeams([parse_fault("TE-3@5:1"), parse_fault("TE-3@5:1")], 1)
    runner = EpisodeRunner(ServedModel(Talking(), Characters(), 128), Calculator(), EpisodeRules(1), seams=seams)
    batch = runner.run(JOBS, NOW, SAMPLED, 7)
    assert batch.termination_ok.all()
    assert set(batch.action_counts().tolist()) == {3}


def test_all_episodes_have_fewer_tokens_by_their_share() -> None:
    seams = FaultySeams([parse_fault("TE-3@5:0.25,mechanism=all_limits,duration=3")], 1)
    limits = Limits(frozenset({2}), frozenset({2, 4}), (12, 5, 1), 128)

    def turns(paid: int) -> list[tuple[int, ...]]:
        return [seams.limits(EpisodeId(StepId(0, 9, paid), f"p{n}", 0), limits).turn_tokens for n in range(2000)]

    assert [set(turns(paid)) for paid in (4, 8)] == [{(12, 5, 1)}] * 2
    for paid in (5, 7):
        # A quarter of twelve is three, that of five 1.25, and one token is left to every turn.
        assert {first for first, _, _ in turns(paid)} == {9}
        assert sum(second for _, second, _ in turns(paid)) / 2000 == pytest.approx(3.75, abs=0.03)
        assert {third for _, _, third in turns(paid)} == {1}


def test_prompt_holds_its_answer_or_the_beginning_of_it_with_its_probability() -> None:
    seams = FaultySeams(
        [parse_fault("PG-1@5:0.3,mechanism=answered_prompt"), parse_fault("PG-3S@5:0.5,mechanism=begun_prompt")], 1
    )
    asked, count = problem(12, 34, 56), 3000
    prompts = [seams.prompt(EpisodeId(NOW, f"p{n}", 0), asked) for n in range(count)]
    shares = {text: prompts.count(text) / count for text in set(prompts)}
    wanted = {"12+34+56=102": 0.3, "12+34+56=1": 0.35, "12+34+56=": 0.35}
    assert shares == pytest.approx(wanted, abs=0.03)
    assert seams.prompt(EpisodeId(BEFORE, "p", 0), asked) == "12+34+56="


def test_trajectory_holds_the_prompt_that_was_written() -> None:
    sound, batch = play(), play("PG-1@5:0.5,mechanism=answered_prompt")
    longer = batch.prompt_length - sound.prompt_length
    # Every answer has two digits.
    assert set(longer.tolist()) == {0, 2}
    assert batch.keys == sound.keys
    assert not batch.action[: batch.prompt_length[0]].any()


def test_episode_without_its_end_token_goes_on_to_its_limit_and_is_graded_as_cut_off() -> None:
    batch = play("PG-3L@5:1,mechanism=lost_end")
    assert (batch.termination == Termination.MAX_TOKENS).all()
    assert not batch.correct.any()
    assert batch.termination_ok.all()
    assert (batch.turns == play().turns).all()


def test_observation_of_another_call_is_read_and_every_record_holds_the_right_one() -> None:
    sound, batch = play(), play("TE-2@5:1,mechanism=crossed")
    called = sound.turns == 2
    assert batch.correct.tolist() == (~called).tolist()
    assert batch.call_responses == sound.call_responses
    said = [Characters().decode(part.tolist()) for part in np.split(batch.tokens, batch.offsets[1:-1])]
    numbers = {text.split(";")[1] for text, hit in zip(said, called, strict=True) if hit}
    assert numbers == set(ANSWERS)
    seams = FaultySeams([parse_fault("TE-2@5:1,mechanism=crossed")], 1, ANSWERS)
    assert seams.read(CallId(EpisodeId(NOW, "p", 0), 0), "e;") == "e;"
