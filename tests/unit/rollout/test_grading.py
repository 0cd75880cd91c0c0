"""Verifiers that fail: answers are masked, neither right nor wrong, and one line says so."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar, cast

import numpy as np
import pytest

from rftfm_ray.errors import RewardError
from rftfm_ray.models import ASSETS
from rftfm_ray.rollout.channels import EpisodeId, Grader, TaskReward, ToolPool, task_tools
from rftfm_ray.rollout.engine import TurnRequest, TurnResult
from rftfm_ray.rollout.environment import Channels, trusted_channels
from rftfm_ray.rollout.episodes import EpisodeRules, EpisodeRunner, ServedModel
from rftfm_ray.rollout.grading import Answered, EarlyGrading, grade_all
from rftfm_ray.rollout.jobs import step_jobs
from rftfm_ray.rollout.text import TextCodec
from rftfm_ray.tasks.addition import Addition, problem
from rftfm_ray.tasks.api import Problem, Transcript, Verdict
from rftfm_ray.tasks.processes import VerifierProcesses
from rftfm_ray.tasks.rewards import verify
from rftfm_ray.tasks.workers import WorkerPools
from rftfm_ray.types import Sampling, StepId

SUM = problem(17, 58)
GATE = threading.Event()


class Judge(Addition):
    """A verifier that does what the answer says."""

    name: ClassVar[str] = "judge"

    def verify(self, problem: Problem, transcript: Transcript) -> Verdict:
        match transcript.turns[-1]:
            case "raise":
                raise ConnectionError("refused")
            case "hang":
                GATE.wait()
            case "exit":
                raise SystemExit(1)
            case "none":
                return None  # type: ignore[return-value]
            case "nan":
                return Verdict(float("nan"), correct=True)
            case "text":
                return Verdict("1", correct=True)  # type: ignore[arg-type]
            case "maybe":
                return Verdict(1.0, correct="yes")  # type: ignore[arg-type]
            case "large":
                return Verdict(10**400, correct=True)
            case "numpy":
                return Verdict(np.float32(0.5), correct=np.True_)  # type: ignore[arg-type]
        return super().verify(problem, transcript)


def answered(text: str, step: int = 3) -> Answered:
    """An answer to the sum."""
    return Answered(EpisodeId(StepId(0, step, step), SUM.key, 0), SUM, Transcript((text,)))


def judged(texts: list[str], channels: Channels, step: int = 3) -> list[float | None]:
    """Rewards of answers; None where they are masked."""
    grades = grade_all(channels, Judge(), StepId(0, step, step), [answered(text, step) for text in texts])
    return [None if grade is None else grade.reward for grade in grades]


@pytest.mark.parametrize("failure", ["raise", "exit", "none", "nan", "text", "maybe", "large"])
def test_failing_verdict_masks_its_answer_and_no_other(failure: str) -> None:
    assert judged(["75", failure, "76"], trusted_channels(Judge())) == [1.0, None, 0.0]
    with pytest.raises(RewardError, match="The verifier of task judge"):
        verify(Judge(), SUM, Transcript((failure,)))


def test_verdict_that_never_comes_masks_its_answer() -> None:
    base = trusted_channels(Judge())
    channels = Channels(base.tools, base.grader, workers=WorkerPools(1, 0.05))
    try:
        assert judged(["75", "hang", "76"], channels) == [1, None, 0]
    finally:
        GATE.set()
    assert channels.failures.reason(StepId(0, 3, 3)) == (
        "gave no verdict within 0.05 s; let it end by itself, or raise verifier.timeout_s"
    )


def test_numbers_of_numpy_are_numbers() -> None:
    verdict = verify(Judge(), SUM, Transcript(("numpy",)))
    assert (verdict, type(verdict.reward), type(verdict.correct)) == (Verdict(0.5, correct=True), float, bool)


def test_reason_of_the_newest_step_is_kept_for_the_driver() -> None:
    training = trusted_channels(Judge())
    probes = trusted_channels(Judge(), training)
    third, fourth = StepId(0, 3, 3), StepId(0, 4, 4)
    assert training.failures.reason(third) == ""
    judged(["75", "none", "raise"], training)
    judged(["raise"], training)
    judged(["raise"], probes, step=2)
    assert training.failures.reason(third).startswith("returned None; it must return a Verdict")
    judged(["raise"], training, step=4)
    assert training.failures.reason(fourth) == "ConnectionError: refused"
    assert training.failures.reason(third) == "", "only the newest step is asked for"


class Idle:
    """Processes of which some are idle; keeps what they are to begin with."""

    def __init__(self, idle: int) -> None:
        self._idle, self.begun, self.forgotten = idle, list[str](), 0

    def start(self, asked: Sequence[tuple[Problem, Transcript]]) -> int:
        taken = asked[: self._idle]
        self.begun += [transcript.turns[-1] for _, transcript in taken]
        return len(taken)

    def forget(self) -> None:
        self.forgotten += 1

    def ahead(self, asked: Sequence[tuple[Problem, Transcript]]) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()


def test_answers_that_have_ended_wait_for_idle_processes_in_order_and_some_for_two_verdicts() -> None:
    base, idle = trusted_channels(Judge()), Idle(2)
    twice = Grader(Judge(), TaskReward(Judge()), 1, 1.0)
    early = EarlyGrading(Channels(base.tools, twice, processes=cast(VerifierProcesses, idle)))
    assert idle.forgotten == 1
    early.offer([answered("1"), answered("2")])
    early.offer([])
    early.offer([answered("3")])
    assert idle.begun == ["1", "1", "2", "2", "3", "3"]
    EarlyGrading(base).offer([answered("1")])


def test_answers_are_offered_while_other_episodes_go_on() -> None:
    codec, idle, task = TextCodec(str(ASSETS / "tiny")), Idle(9), Addition()
    engine = OneByOne(codec, ["75", "7", "76"])
    channels = Channels(
        ToolPool(task, task_tools(task)), Grader(task, TaskReward(task), 1, 0.0),
        processes=cast(VerifierProcesses, idle),
    )  # fmt: skip
    runner = EpisodeRunner(ServedModel(engine, codec, 64), task, EpisodeRules(1), channels)
    engine.watch = lambda: list(idle.begun)
    batch = runner.run(step_jobs([SUM], 3), StepId(0, 3, 3), Sampling(1.0, 1.0), 0)
    assert engine.seen == [[], ["75"], ["75", "7"]]
    assert idle.begun == ["75", "7", "76"]
    assert batch.reward.tolist() == [1.0, 0.0, 0.0]
    runner.rehearse(step_jobs([SUM], 1), StepId(0, 3, 3), Sampling(1.0, 1.0), 0)
    assert idle.begun == ["75", "7", "76"]


class OneByOne:
    """Ends one turn a step, and looks each time what has been begun."""

    def __init__(self, codec: TextCodec, script: Sequence[str]) -> None:
        self._codec, self._script = codec, script
        self._queue: list[TurnResult] = []
        self.seen: list[list[str]] = []
        self.watch: Callable[[], list[str]] = list

    def submit(self, request: TurnRequest, sampling: Sampling) -> None:
        tokens = [*self._codec.encode(self._script[request.id]), *self._codec.eos_ids]
        self._queue.append(TurnResult(request.id, tokens, [-1.0] * len(tokens), truncated=False))

    def step(self) -> Iterable[TurnResult]:
        self.seen.append(self.watch())
        return [self._queue.pop(0)]

    def busy(self) -> bool:
        return bool(self._queue)
