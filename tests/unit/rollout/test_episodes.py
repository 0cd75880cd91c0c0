"""Episodes on a scripted engine: columns, masks, endings and seeds."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rftfm_ray.batch import TrajectoryBatch, concatenate
from rftfm_ray.models import ASSETS
from rftfm_ray.rollout.engine import TurnRequest, TurnResult
from rftfm_ray.rollout.episodes import STATUS_CODE, EpisodeRules, EpisodeRunner, ServedModel
from rftfm_ray.rollout.jobs import EpisodeJob, probe_jobs, request_seed, split_jobs, step_jobs
from rftfm_ray.rollout.text import TextCodec
from rftfm_ray.tasks.addition import Addition, problem
from rftfm_ray.tasks.api import Observation, Problem, Task, ToolCall, ToolStatus, Transcript, Verdict
from rftfm_ray.tasks.calculator import Calculator
from rftfm_ray.types import Sampling, StepId, Termination

SUM, TRIPLE = problem(17, 58), problem(12, 34, 56)
STEP, SAMPLED, GREEDY = StepId(attempt=0, step=3, paid_step=3), Sampling(1.0, 1.0), Sampling(0.0, 1.0)
VERSION = 7
END = "|"
"""Stands for the end-of-sequence token in a script."""


def logprob(token: int) -> float:
    """What the scripted engine says of a token: never 0, and exact in float32."""
    return -0.5 - token / 64


class ScriptedEngine:
    """Says what its script says for every job and turn, until a stop token or the limit; ends turns in any order."""

    def __init__(self, codec: TextCodec, script: Sequence[Sequence[str]], order: random.Random | None = None) -> None:
        self._codec = codec
        self._script = [list(turns) for turns in script]
        self._order = order
        self._queue: list[TurnResult] = []
        self.requests: list[TurnRequest] = []

    def submit(self, request: TurnRequest, sampling: Sampling) -> None:
        self.requests.append(dataclasses.replace(request, tokens=list(request.tokens)))
        said: list[int] = []
        for token in self._tokens(self._script[request.id].pop(0)):
            said.append(token)
            if token in request.stop_token_ids or len(said) == request.max_tokens:
                break
        stopped = said[-1] in request.stop_token_ids
        assert stopped or len(said) == request.max_tokens, "the script ends before the turn does"
        logprobs = [logprob(token) for token in said] if sampling.temperature > 0 else []
        self._queue.append(TurnResult(request.id, said, logprobs, truncated=not stopped))

    def step(self) -> Iterable[TurnResult]:
        count = 1
        if self._order:
            self._order.shuffle(self._queue)
            count = self._order.randint(0, len(self._queue))
        done, self._queue = self._queue[:count], self._queue[count:]
        return done

    def busy(self) -> bool:
        return bool(self._queue)

    def _tokens(self, text: str) -> list[int]:
        ended = text.endswith(END)
        return self._codec.encode(text.removesuffix(END)) + list(self._codec.eos_ids) * ended


@pytest.fixture(scope="module")
def codec() -> TextCodec:
    """The shipped tokenizer: one token per character."""
    return TextCodec(str(ASSETS / "tiny"))


@dataclasses.dataclass
class Played:
    """What came of a script."""

    batch: TrajectoryBatch
    requests: list[TurnRequest]


def play(
    codec: TextCodec,
    task: Task,
    problems: Sequence[Problem],
    script: Sequence[Sequence[str]],
    *,
    sampling: Sampling = SAMPLED,
    limit: int = 128,
    order: random.Random | None = None,
) -> Played:
    """One trajectory for every problem, each saying its line of the script."""
    engine = ScriptedEngine(codec, script, order)
    runner = EpisodeRunner(ServedModel(engine, codec, limit), task, EpisodeRules(1))
    return Played(runner.run(probe_jobs(problems), STEP, sampling, VERSION), engine.requests)


class Raising(Calculator):
    """A calculator that breaks down on a call."""

    def respond(self, problem: Problem, turn: int, text: str) -> Observation | None:
        if text.startswith("c"):
            raise ConnectionError("the calculator is out")
        return None


class Insistent(Calculator):
    """A calculator that answers every turn, so that only the number of turns ends an episode."""

    def respond(self, problem: Problem, turn: int, text: str) -> Observation | None:
        return Observation("0;", ToolCall(turn, "calculator", text, "0", ToolStatus.OK))


class Unverified(Addition):
    """A task whose verifier cannot stand a seven."""

    max_new_tokens: ClassVar[tuple[int, ...]] = (5,)

    def verify(self, problem: Problem, transcript: Transcript) -> Verdict:
        if "7" in transcript.turns[-1]:
            raise RuntimeError("a seven")
        return super().verify(problem, transcript)


class Short(Addition):
    """Turns so short that a right answer cannot end."""

    max_new_tokens: ClassVar[tuple[int, ...]] = (2,)


def test_single_turn_that_ends_itself(codec: TextCodec) -> None:
    batch = play(codec, Addition(), [SUM], [["75|"]]).batch
    said = [*codec.encode("75"), *codec.eos_ids]
    assert batch.tokens.tolist() == codec.encode("17+58=") + said
    assert batch.action.tolist() == [False] * 6 + [True] * 3
    assert batch.logprobs.tolist() == [0.0] * 6 + [logprob(token) for token in said]
    assert batch.prompt_length.tolist() == [6]
    assert batch.termination.tolist() == [Termination.EOS]
    assert (batch.reward.tolist(), batch.correct.tolist(), batch.valid.tolist()) == ([1.0], [True], [True])
    assert (batch.texts, batch.keys) == (("75",), (SUM.key,))
    assert (batch.turns.tolist(), batch.model_version.tolist(), len(batch.call_turn)) == ([1], [VERSION], 0)


def test_turn_is_cut_at_its_limit_and_wrong(codec: TextCodec) -> None:
    batch = play(codec, Addition(), [SUM], [["7575757|"]]).batch
    assert (batch.texts, batch.action_counts().tolist()) == (("75757",), [5])
    assert batch.termination.tolist() == [Termination.MAX_TOKENS]
    assert (batch.reward.tolist(), batch.correct.tolist(), batch.valid.tolist()) == ([0.0], [False], [True])


def test_right_answer_that_is_cut_off_is_wrong(codec: TextCodec) -> None:
    batch = play(codec, Short(), [SUM], [["75|"]]).batch
    assert batch.texts == (SUM.answer,)
    assert (batch.termination.tolist(), batch.reward.tolist()) == ([Termination.MAX_TOKENS], [0.0])


def test_request_asks_for_no_more_than_the_sequence_has_room_for(codec: TextCodec) -> None:
    assert [r.max_tokens for r in play(codec, Addition(), [SUM], [["7"]], limit=7).requests] == [1]
    assert [r.max_tokens for r in play(codec, Addition(), [SUM], [["75|"]], limit=12).requests] == [5]


def test_prompt_that_fills_the_sequence_is_masked(codec: TextCodec) -> None:
    played = play(codec, Addition(), [SUM, SUM], [[], []], limit=6)
    assert played.requests == []
    assert played.batch.termination.tolist() == [Termination.FAILED] * 2
    assert (played.batch.turns.tolist(), played.batch.valid.tolist()) == ([0, 0], [False, False])


def test_call_then_answer(codec: TextCodec) -> None:
    played = play(codec, Calculator(), [TRIPLE], [["c12+34+56;", "102|"]])
    batch = played.batch
    assert batch.texts == ("c12+34+56;102;102",)
    assert batch.tokens.tolist() == [*codec.encode("12+34+56=c12+34+56;102;102"), *codec.eos_ids]
    assert (batch.termination.tolist(), batch.turns.tolist()) == ([Termination.EOS], [2])
    assert batch.reward.tolist() == [pytest.approx(0.8)]
    assert (batch.call_trajectory.tolist(), batch.call_turn.tolist()) == ([0], [0])
    assert batch.call_status.tolist() == [STATUS_CODE[ToolStatus.OK]]
    assert (batch.call_requests, batch.call_responses) == (("12+34+56",), ("102",))
    assert (batch.call_tries.tolist(), batch.refills.tolist(), batch.shadow_ok.tolist()) == ([1], [0], [])
    assert (batch.live_reward.tolist(), np.isnan(batch.trusted_reward).tolist()) == (batch.reward.tolist(), [True])
    assert [codec.decode(r.tokens) for r in played.requests] == ["12+34+56=", "12+34+56=c12+34+56;102;"]
    assert [r.max_tokens for r in played.requests] == [12, 5]


def test_observation_is_not_action_and_has_no_logprob(codec: TextCodec) -> None:
    batch = play(codec, Calculator(), [TRIPLE], [["c12+34+56;", "102|"]]).batch
    expected = [False] * len("12+34+56=") + [True] * len("c12+34+56;") + [False] * len("102;") + [True] * len("102|")
    assert batch.action.tolist() == expected
    assert (batch.logprobs != 0).tolist() == expected
    assert batch.logprobs[batch.action].tolist() == [logprob(token) for token in batch.tokens[batch.action]]


def test_unreadable_call_is_answered_and_the_episode_goes_on(codec: TextCodec) -> None:
    batch = play(codec, Calculator(), [TRIPLE], [["c12+;", "102|"]]).batch
    assert batch.texts == ("c12+;e;102",)
    assert batch.call_status.tolist() == [STATUS_CODE[ToolStatus.UNPARSABLE]]
    assert (batch.reward.tolist(), batch.valid.tolist()) == ([pytest.approx(0.8)], [True])


def test_stop_without_an_answer_of_the_task_ends_the_episode(codec: TextCodec) -> None:
    played = play(codec, Calculator(), [TRIPLE], [["102;"]])
    assert len(played.requests) == 1
    assert played.batch.termination.tolist() == [Termination.STOP]
    assert (played.batch.texts, played.batch.reward.tolist()) == (("102;",), [0.0])


def test_task_that_raises_masks_its_trajectory_only(codec: TextCodec) -> None:
    batch = play(codec, Raising(), [TRIPLE, TRIPLE, TRIPLE], [["102|"], ["c12;", "102|"], ["103|"]]).batch
    assert batch.termination.tolist() == [Termination.EOS, Termination.FAILED, Termination.EOS]
    assert batch.valid.tolist() == [True, False, True]
    assert batch.correct.tolist() == [True, False, False]
    assert np.isnan(batch.reward).tolist() == [False, True, False]
    assert (batch.call_trajectory.tolist(), batch.call_status.tolist()) == ([1], [STATUS_CODE[ToolStatus.ERROR]])
    assert (batch.call_requests, batch.call_responses) == (("c12;",), ("ConnectionError",))


def test_verifier_that_raises_masks_its_trajectory_only(codec: TextCodec) -> None:
    batch = play(codec, Unverified(), [SUM, SUM], [["75|"], ["85|"]]).batch
    assert batch.termination.tolist() == [Termination.EOS, Termination.EOS]
    assert (batch.valid.tolist(), batch.correct.tolist()) == ([False, True], [False, False])
    assert np.isnan(batch.reward).tolist() == [True, False]


def test_turn_limit_ends_the_episode_unfinished(codec: TextCodec) -> None:
    batch = play(codec, Insistent(), [TRIPLE], [["1;", "102;"]]).batch
    assert (batch.termination.tolist(), batch.turns.tolist()) == ([Termination.MAX_TURNS], [2])
    assert (batch.correct.tolist(), batch.valid.tolist(), len(batch.call_turn)) == ([False], [True], 2)
    assert batch.texts == ("1;0;102;",)


def test_no_room_after_an_observation_ends_the_episode_unfinished(codec: TextCodec) -> None:
    played = play(codec, Calculator(), [TRIPLE], [["c12+34+56;"]], limit=len("12+34+56=c12+34+56;102;"))
    assert len(played.requests) == 1
    assert played.batch.termination.tolist() == [Termination.MAX_TOKENS]
    assert played.batch.valid.tolist() == [True]


def test_greedy_turns_have_no_logprobs(codec: TextCodec) -> None:
    batch = play(codec, Calculator(), [TRIPLE], [["c12+34+56;", "102|"]], sampling=GREEDY).batch
    assert (batch.correct.tolist(), len(batch.logprobs)) == ([True], len(batch.tokens))
    assert not batch.logprobs.any()


def test_no_jobs_give_an_empty_batch(codec: TextCodec) -> None:
    batch = play(codec, Addition(), [], []).batch
    assert (len(batch), batch.offsets.tolist(), len(batch.tokens)) == (0, [0], 0)


MIXED_SCRIPT = [["c12+34+56;", "102|"], ["102|"], ["c1+;", "9|"], ["102;"], ["c12+34+56;", "99999"], ["111111111111"]]
MIXED = [TRIPLE] * len(MIXED_SCRIPT)


def same(left: TrajectoryBatch, right: TrajectoryBatch) -> None:
    """Assert that all columns are equal; how long a tool took is chance."""
    for field in dataclasses.fields(TrajectoryBatch):
        if field.name != "call_latency_s":
            one, other = getattr(left, field.name), getattr(right, field.name)
            np.testing.assert_array_equal(one, other, err_msg=field.name)
            assert getattr(one, "dtype", None) == getattr(other, "dtype", None), field.name


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_columns_do_not_depend_on_the_order_in_which_turns_end(codec: TextCodec, seed: int) -> None:
    in_order = play(codec, Calculator(), MIXED, MIXED_SCRIPT)
    shuffled = play(codec, Calculator(), MIXED, MIXED_SCRIPT, order=random.Random(seed))
    same(in_order.batch, shuffled.batch)
    assert {r.seed for r in in_order.requests} == {r.seed for r in shuffled.requests}


def test_lengths_counts_and_offsets_agree(codec: TextCodec) -> None:
    batch = play(codec, Calculator(), MIXED, MIXED_SCRIPT).batch
    assert batch.offsets[0] == 0
    assert batch.offsets[-1] == len(batch.tokens) == len(batch.action) == len(batch.logprobs)
    for i, text in enumerate(batch.texts):
        row = slice(*batch.offsets[i : i + 2])
        tokens, ended = batch.tokens[row].tolist(), batch.termination[i] == Termination.EOS
        assert batch.lengths()[i] == len(tokens) == len(TRIPLE.prompt) + len(text) + ended
        assert codec.decode(tokens) == TRIPLE.prompt + text + "<eos>" * int(ended)
        assert not batch.action[row][: batch.prompt_length[i]].any()
        assert batch.action_counts()[i] == batch.action[row].sum()
    assert batch.turns.tolist() == [2, 1, 2, 1, 2, 1]
    assert batch.call_trajectory.tolist() == [0, 2, 4]


IDENTITY = (1, STEP, EpisodeJob(0, 0, SUM), 0)


@pytest.mark.parametrize(
    "other",
    [
        (2, *IDENTITY[1:]),
        (1, dataclasses.replace(STEP, attempt=1), *IDENTITY[2:]),
        (1, dataclasses.replace(STEP, paid_step=4), *IDENTITY[2:]),
        (1, STEP, EpisodeJob(0, 1, SUM), 0),
        (1, STEP, EpisodeJob(0, 0, TRIPLE), 0),
        (1, STEP, EpisodeJob(0, 0, SUM), 1),
        (*IDENTITY, 1),
    ],
    ids=["run seed", "attempt", "paid step", "sample", "problem", "turn", "refill"],
)
def test_every_part_of_the_identity_changes_the_seed(other: tuple[Any, ...]) -> None:
    assert request_seed(*other) != request_seed(*IDENTITY)


def test_seed_does_not_depend_on_place_or_rewound_step() -> None:
    assert request_seed(1, STEP, EpisodeJob(9, 0, SUM), 0) == request_seed(*IDENTITY)
    assert request_seed(1, dataclasses.replace(STEP, step=1), EpisodeJob(0, 0, SUM), 0) == request_seed(*IDENTITY)
    assert request_seed(*IDENTITY, refill=0) == request_seed(*IDENTITY)
    assert 0 <= request_seed(*IDENTITY) < 2**53


def seeds(codec: TextCodec, jobs: Sequence[EpisodeJob]) -> dict[tuple[str, int, int], int]:
    """Seed of every request that `jobs` lead to, by problem, sample and turn."""
    engine = ScriptedEngine(codec, [["c1+1;", "2|"]] * len(jobs))
    runner = EpisodeRunner(ServedModel(engine, codec, 128), Calculator(), EpisodeRules(1))
    runner.run(jobs, STEP, SAMPLED, VERSION)
    taken: dict[tuple[str, int, int], int] = {}
    for request in engine.requests:
        job, turn = jobs[request.id], int(";" in codec.decode(request.tokens))
        taken[job.problem.key, job.sample, turn] = request.seed
    return taken


def test_requests_carry_distinct_seeds_that_do_not_depend_on_the_batch(codec: TextCodec) -> None:
    jobs = step_jobs([TRIPLE, problem(10, 10, 10)], 3)
    full = seeds(codec, jobs)
    assert len(full) == len(set(full.values())) == 12
    assert seeds(codec, jobs[::-1]) == full
    assert seeds(codec, jobs[:2]) | seeds(codec, jobs[2:]) == full


@pytest.mark.parametrize("parts", [1, 2, 3, 6, 7])
def test_concatenated_shares_equal_the_batch_made_in_one_go(codec: TextCodec, parts: int) -> None:
    batches = []
    for share in split_jobs(probe_jobs(MIXED), 1, parts):
        engine = ScriptedEngine(codec, [MIXED_SCRIPT[job.group] for job in share])
        runner = EpisodeRunner(ServedModel(engine, codec, 128), Calculator(), EpisodeRules(1))
        batches.append(runner.run(share, STEP, SAMPLED, VERSION))
    same(concatenate(batches), play(codec, Calculator(), MIXED, MIXED_SCRIPT).batch)


class PieceCodec(TextCodec):
    """A tokenizer whose tokens hold several characters; the stop may lie within one."""

    pieces = ("", "12+34+56=", "c1", "+1;9", "2;", "2")
    eos_ids = (0,)

    def __init__(self) -> None:
        pass

    def encode(self, text: str) -> list[int]:
        tokens = []
        while text:
            tokens.append(next(i for i, piece in enumerate(self.pieces) if piece and text.startswith(piece)))
            text = text.removeprefix(self.pieces[tokens[-1]])
        return tokens

    def decode(self, tokens: Sequence[int]) -> str:
        return "".join(self.pieces[token] for token in tokens)

    def ids_containing(self, text: str) -> tuple[int, ...]:
        return tuple(i for i, piece in enumerate(self.pieces) if text and text in piece)


def test_turn_ends_at_the_stop_also_within_a_token() -> None:
    batch = play(PieceCodec(), Calculator(), [TRIPLE], [["c1+1;9", "2|"]]).batch
    assert batch.call_requests == ("1+1",)
    assert batch.texts == ("c1+1;2;2",)
    assert batch.tokens.tolist() == [1, 2, 3, 4, 5, 0]
    assert batch.termination.tolist() == [Termination.EOS]
