"""The termination that follows from a trajectory: the one that the loop gave, and another one when it lied."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rftfm_ray.batch import TrajectoryBatch
from rftfm_ray.rollout.channels import CallId, Grader, TaskReward, ToolPool
from rftfm_ray.rollout.engine import TurnRequest, TurnResult
from rftfm_ray.rollout.environment import Channels
from rftfm_ray.rollout.episodes import EpisodeRules, EpisodeRunner, ServedModel
from rftfm_ray.rollout.jobs import step_jobs
from rftfm_ray.rollout.termination import Ended, Limits, implied_termination
from rftfm_ray.rollout.text import TextCodec
from rftfm_ray.tasks.api import Observation, Problem, Task, ToolCall, ToolStatus, Transcript, Verdict
from rftfm_ray.types import Levers, Sampling, StepId, Termination

STEP, SAMPLED = StepId(0, 3, 3), Sampling(1.0, 1.0)
EOS, OTHER_EOS, STOP = 0, 1, ord(";")


class Characters(TextCodec):
    """A tokenizer of one token per character, with two ends."""

    eos_ids = (EOS, OTHER_EOS)

    def __init__(self) -> None:
        pass

    def encode(self, text: str) -> list[int]:
        return [ord(character) for character in text]

    def decode(self, tokens: Sequence[int]) -> str:
        return "".join(map(chr, tokens))

    def decode_all(self, sequences: Sequence[Sequence[int]]) -> list[str]:
        return [self.decode(tokens) for tokens in sequences]

    def ids_containing(self, text: str) -> tuple[int, ...]:
        return (STOP, ord(":")) if text else ()


Lie = Callable[[TurnResult], TurnResult]


class DrawingEngine:
    """Draws a turn by its seed, as vLLM ends one: at a stop token before it looks at the limit. May lie about it."""

    def __init__(self, lie: Lie = lambda result: result) -> None:
        self._lie = lie
        self._queue: list[TurnResult] = []

    def submit(self, request: TurnRequest, sampling: Sampling) -> None:
        rng, said = random.Random(request.seed), list[int]()
        while not said or (said[-1] not in request.stop_token_ids and len(said) < request.max_tokens):
            said += rng.choices([EOS, OTHER_EOS, STOP, ord(":"), ord("a"), ord("b")], [1, 1, 3, 1, 4, 4])
        truncated = said[-1] not in request.stop_token_ids
        self._queue.append(self._lie(TurnResult(request.id, said, [-1.0] * len(said), truncated)))

    def step(self) -> Iterable[TurnResult]:
        done, self._queue = self._queue[:1], self._queue[1:]
        return done

    def busy(self) -> bool:
        return bool(self._queue)


class Moody(Task):
    """Answers, ends, declares an error or fails, by a hash of what it is asked."""

    name = "moody"
    stop = ";"

    def __init__(self, limits: tuple[int, ...], seed: int) -> None:
        self.max_new_tokens = limits  # type: ignore[misc]
        self._seed = seed

    def pool(self, size: int, seed: int) -> Sequence[Problem]:
        return []

    def heldout(self) -> Sequence[Problem]:
        return []

    def respond(self, problem: Problem, turn: int, text: str) -> Observation | None:
        rng = random.Random(f"{self._seed}/{problem.key}/{turn}/{text}")
        mood = rng.choice(["end", "answer", "answer", "answer", "declare", "fail", "wait"])
        if mood == "end":
            return None
        if mood in ("fail", "wait"):
            raise (TimeoutError if mood == "wait" else ConnectionError)("no answer")
        status = ToolStatus.ERROR if mood == "declare" else ToolStatus.OK
        # An observation may be empty, and may hold what ends a turn.
        text = "".join(rng.choices(";\0xy", k=rng.choice([0, 0, 1, 2, 4])))
        return Observation(text, ToolCall(turn, "moody", "", text, status))

    def verify(self, problem: Problem, transcript: Transcript) -> Verdict:
        return Verdict(0.0, correct=False)


class Flaky:
    """A tool instance that fails at first, now and then."""

    def __init__(self, task: Task) -> None:
        self._task = task

    def __call__(self, call: CallId, problem: Problem, text: str) -> Observation | None:
        if call.tries == 0 and (call.episode.sample + call.episode.refill) % 3 == 0:
            raise TimeoutError("slow")
        return self._task.respond(problem, call.turn, text)


def play(seed: int, engine: DrawingEngine | None = None) -> TrajectoryBatch:
    """A batch of a task, a length, prompts and levers that `seed` draws."""
    rng = random.Random(seed)
    task = Moody(tuple(rng.randint(1, 4) for _ in range(rng.randint(1, 3))), seed)
    task.asks_at_end = seed % 2 == 1  # type: ignore[misc]
    limit, tools = rng.randint(3, 16), [Flaky(task), Flaky(task)]
    channels = Channels(ToolPool(task, tools), Grader(task, TaskReward(task), 1, 0.0))
    runner = EpisodeRunner(
        ServedModel(engine or DrawingEngine(), Characters(), limit), task, EpisodeRules(seed), channels
    )
    runner.set_levers(Levers(tool_retries=rng.randint(0, 2), refill_rounds=rng.randint(0, 2)))
    prompts = ["p;\0:p"[: rng.randint(1, 5)] for _ in range(4)]
    problems = [Problem(f"{i}", prompt, "") for i, prompt in enumerate(prompts)]
    return runner.run(step_jobs(problems, 4), STEP, SAMPLED, 7)


@given(seed=st.integers(0, 10**9))
@settings(max_examples=300)
def test_healthy_episode_has_the_termination_that_follows(seed: int) -> None:
    assert play(seed).termination_ok.all()


def test_episodes_of_all_kinds_are_drawn() -> None:
    seen = {(int(end), int(turns)) for seed in range(100) for end, turns in zip(*ends(play(seed)), strict=True)}
    assert {end for end, _ in seen} == set(Termination)
    assert {turns for _, turns in seen} == {0, 1, 2, 3}
    assert any(play(seed).refills.any() for seed in range(100))


def ends(batch: TrajectoryBatch) -> tuple[list[int], list[int]]:
    """Terminations and turns of a batch."""
    return batch.termination.tolist(), batch.turns.tolist()


def early(result: TurnResult) -> TurnResult:
    """A turn that breaks off and is called cut, or that lacks its end."""
    return dataclasses.replace(result, tokens=[ord("a")], logprobs=[-1.0], truncated=True)


def unstopped(result: TurnResult) -> TurnResult:
    """A turn at its limit that is called stopped, so that the environment is asked."""
    return dataclasses.replace(result, truncated=False)


def cut(result: TurnResult) -> TurnResult:
    """A turn that has ended itself and is called cut."""
    return dataclasses.replace(result, truncated=True)


@pytest.mark.parametrize("lie", [early, unstopped, cut])
def test_turns_that_end_without_a_reason_are_found(lie: Lie) -> None:
    result = np.concatenate([play(seed, DrawingEngine(lie)).termination_ok for seed in range(60)])
    assert 0.1 < (~result).mean() < 1


def ended(text: str, roles: str, turns: int, statuses: Sequence[ToolStatus] = (), withheld: int | None = None) -> Ended:
    """A trajectory of characters; `a` is chosen."""
    calls = [ToolCall(turn, "", "", "", status) for turn, status in enumerate(statuses)]
    return Ended([ord(c) for c in text], [role == "a" for role in roles], turns, calls, withheld)


LIMITS = Limits(frozenset({0}), frozenset({0, STOP}), (4, 3), 12)
OK, DOWN = ToolStatus.OK, ToolStatus.ERROR
CASES = [
    (ended("pp1\0", "ppaa", 1), Termination.EOS),
    (ended("pp123\0", "ppaaaa", 1), Termination.EOS),
    (ended("pp1;x2\0", "ppaaoaa", 2, [OK]), Termination.EOS),
    (ended("pp1;", "ppaa", 1), Termination.STOP),
    (ended("pp123;", "ppaaaa", 1), Termination.STOP),
    (ended("pp1;2;", "ppaaaa", 2, [OK]), Termination.STOP),
    (ended("pp1234", "ppaaaa", 1), Termination.MAX_TOKENS),
    (ended("pp1;234", "ppaaaaa", 2, [OK]), Termination.MAX_TOKENS),
    (ended("pp1;xxxxxx23", "ppaaooooooaa", 2, [OK]), Termination.MAX_TOKENS),
    (ended("pp1;", "ppaa", 1, [OK], 8), Termination.MAX_TOKENS),
    (ended("pppppppppp12", "ppppppppppaa", 1), Termination.MAX_TOKENS),
    (ended("pp1;x2;", "ppaaoaa", 2, [OK, OK], 0), Termination.MAX_TURNS),
    (ended("pp1;x2;", "ppaaoaa", 2, [OK, DOWN], 9), Termination.MAX_TURNS),
    (ended("pp1;", "ppaa", 1, [DOWN]), Termination.FAILED),
    (ended("pp1;x2;", "ppaaoaa", 2, [OK, ToolStatus.TIMEOUT]), Termination.FAILED),
    (ended("p" * 12, "p" * 12, 0), Termination.FAILED),
]
ASKING = dataclasses.replace(LIMITS, asks_at_end=True)
ASKED_AT_END = [
    (ended("pp1\0", "ppaa", 1), Termination.EOS),
    (ended("pp1;", "ppaa", 1), Termination.STOP),
    (ended("pp1\0x2\0", "ppaaoaa", 2, [OK]), Termination.EOS),
    (ended("pp1\0x23", "ppaaoaa", 2, [OK]), None),
    (ended("pp1\0x234", "ppaaoaaa", 2, [OK]), Termination.MAX_TOKENS),
    (ended("pp1\0x2\0", "ppaaoaa", 2, [OK, OK], 3), Termination.MAX_TURNS),
    (ended("pp1\0", "ppaa", 1, [OK], 8), Termination.MAX_TOKENS),
    (ended("pp1\0", "ppaa", 1, [OK], 2), None),
    (ended("pp1\0", "ppaa", 1, [DOWN]), Termination.FAILED),
    (ended("pp1\0", "ppaa", 1, [OK]), None),
]


@pytest.mark.parametrize(("trajectory", "expected"), ASKED_AT_END)
def test_termination_where_the_environment_is_asked_at_an_end_token(
    trajectory: Ended, expected: Termination | None
) -> None:
    assert implied_termination(trajectory, ASKING) is expected


@pytest.mark.parametrize(("trajectory", "expected"), CASES)
def test_termination_follows_from_the_trajectory(trajectory: Ended, expected: Termination) -> None:
    assert implied_termination(trajectory, LIMITS) is expected


@pytest.mark.parametrize(
    "trajectory",
    [
        ended("pp12", "ppaa", 1),
        ended("pp", "pp", 0),
        ended("pp1;", "ppaa", 2),
        ended("pp1;", "ppaa", 1, [OK]),
        ended("pp1;", "ppaa", 1, [OK], 7),
        ended("pp1;x", "ppaao", 1, [OK]),
        ended("pp1\0", "ppaa", 1, [OK], 0),
        ended("pp1;2\0", "ppaaaa", 2),
        ended("pp1;2;3\0", "ppaaaaaa", 3, [OK, OK]),
        ended("pp1\0;", "ppaaa", 1),
        ended("pp1;x23456", "ppaaoaaaaa", 2, [OK]),
    ],
    ids=[
        "cut early", "never begun", "a turn too many", "no answer and no failure", "stopped though there is room",
        "stopped before its next turn", "asked after the end", "went on without a call", "more turns than allowed",
        "went on after the end", "longer than its turn",
    ],
)  # fmt: skip
def test_trajectory_that_should_not_be_has_no_termination(trajectory: Ended) -> None:
    assert implied_termination(trajectory, LIMITS) is None


@pytest.mark.parametrize("recorded", Termination)
@pytest.mark.parametrize(("trajectory", "expected"), CASES)
def test_any_other_termination_differs(trajectory: Ended, expected: Termination, recorded: Termination) -> None:
    assert (implied_termination(trajectory, LIMITS) is recorded) == (recorded is expected)
