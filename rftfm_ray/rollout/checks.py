"""Checks beside the trajectories: responses and calls with known answers, and replayed episodes.

None of it reaches a trajectory. The golden set goes through the live reward channel, the known calls through the tool
instance that is asked first, and the replay past all of them, to the task's own environment.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial

from rftfm_ray.config import ChannelsConfig
from rftfm_ray.errors import RewardError
from rftfm_ray.rollout.channels import Call, EpisodeId, Grader, ToolPool, chosen, known_reference, recorded_calls
from rftfm_ray.tasks.api import Observation, Problem, Task, Transcript
from rftfm_ray.tasks.rewards import verify
from rftfm_ray.tasks.workers import Workers
from rftfm_ray.types import Check, StepId

logger = logging.getLogger(__name__)

# Samples count from 0, so no trajectory has the identity of a golden response.
RIGHT, WRONG = -1, -2


@dataclass(frozen=True, slots=True)
class GoldenResponse:
    """A response whose worth is known; `trusted` is what the trusted verifier gives for it, before any scale."""

    problem: Problem
    transcript: Transcript
    right: bool
    trusted: float


@dataclass(frozen=True, slots=True)
class GoldenGrade:
    """Rewards of the live channel for a golden response, asked for twice: NaN where it failed."""

    right: bool
    live: float
    again: float
    trusted: float


@dataclass(frozen=True, slots=True)
class Answer:
    """What the environment said to a turn.

    Attributes:
        turn: which turn, from 0.
        text: the turn as it was put to the environment.
        ended: whether the episode was over.
        observation: what stands in the transcript for it; None where nothing does, or what the tool itself has called
            a failure.
    """

    turn: int
    text: str
    ended: bool
    observation: str | None


@dataclass(frozen=True, slots=True)
class Replayed:
    """Whether the trusted environment gave the same observations, and ended the episode at the same turn."""

    observation_ok: bool
    termination_ok: bool


def golden_set(task: Task, problems: Sequence[Problem], workers: Workers | None = None) -> tuple[GoldenResponse, ...]:
    """A known-right and a known-wrong response to each of `problems`, as far as the trusted verifier agrees.

    The wrong one is the reference of the next problem that has another answer: well formed, and not a solution.
    """
    calls: list[Callable[[], GoldenResponse | None]] = []
    references = [known_reference(task, problem) for problem in problems]
    for index, problem in enumerate(problems):
        others = [(index + shift) % len(problems) for shift in range(1, len(problems))]
        wrong = next((references[other] for other in others if problems[other].answer != problem.answer), None)
        for transcript, right in ((references[index], True), (wrong, False)):
            if transcript is not None:
                calls.append(partial(_golden, task, problem, transcript, right=right))
    # A response without a verdict is left out.
    responses = (workers or Workers()).run(calls)
    return tuple(response for response in responses if isinstance(response, GoldenResponse))


def _golden(task: Task, problem: Problem, transcript: Transcript, *, right: bool) -> GoldenResponse | None:
    try:
        verdict = verify(task, problem, transcript)
    except RewardError:
        return None
    return GoldenResponse(problem, transcript, right, verdict.reward) if verdict.correct is right else None


def replay(task: Task, problem: Problem, answers: Sequence[Answer]) -> Replayed | None:
    """Replay every turn in the environment of `task`; None where it fails, because a failure is not a finding.

    Where one of the two has ended the episode, observations are not compared: it is one finding, not two.
    """
    observation_ok = termination_ok = True
    try:
        for answer in answers:
            again = task.respond(problem, answer.turn, answer.text)
            termination_ok &= (again is None) == answer.ended
            if again is not None and answer.observation is not None:
                observation_ok &= _text(again) == answer.observation
    except Exception as error:  # noqa: BLE001 - the task's code may raise anything
        logger.warning("The replay of an episode of task %s has failed and does not count: %r", task.name, error)
        return None
    return Replayed(observation_ok, termination_ok)


def _text(observation: Observation) -> str:
    text: object = observation.text
    if not isinstance(text, str):
        raise TypeError("an observation without a text")
    return text


class Checks:
    """The checks of one rollout actor: what they ask, and when they are due.

    Args:
        task: whose environment and verifier are the trusted ones.
        settings: when each is due, and how much it asks.
        seed: of the run; chooses what is replayed together with a trajectory's identity.
    """

    def __init__(self, task: Task, settings: ChannelsConfig, seed: int) -> None:
        self._task = task
        self._settings = settings
        self._seed = seed
        self._golden: tuple[GoldenResponse, ...] = ()
        self._calls: tuple[Call, ...] = ()
        self._next: frozenset[Check] = frozenset()
        self._asked: frozenset[Check] = frozenset()

    def prepare(self, problems: Sequence[Problem], workers: Workers | None = None) -> None:
        """Take `problems`, which are never trained on, as those whose answers are known."""
        self._golden = golden_set(self._task, problems, workers)
        self._calls = recorded_calls(self._task, problems)[: self._settings.known_calls]

    def ask(self, checks: Collection[Check]) -> None:
        """Have checks made in the next batch, whatever their cadence; what is switched off stays off."""
        self._next = frozenset(checks)

    def begin(self) -> None:
        """Begin a batch: what was asked for before it is made in it, and in its revisions."""
        self._asked, self._next = self._next, frozenset()

    def _is_due(self, check: Check, step: StepId, every: int) -> bool:
        return due(step, every) or (every > 0 and check in self._asked)

    def golden(self, step: StepId, grader: Grader, workers: Workers) -> list[GoldenGrade]:
        """The golden responses through the live channel of `grader`; empty in steps in which they are not due."""
        if not self._is_due(Check.GOLDEN, step, self._settings.golden_every):
            return []

        def live(response: GoldenResponse, times: int) -> float:
            episode = EpisodeId(step, response.problem.key, RIGHT if response.right else WRONG, times)
            return grader.live(episode, response.problem, response.transcript)

        # A loophole pays an answer each time; a channel that errs by chance does not.
        asked = workers.run([partial(live, response, times) for times in (0, 1) for response in self._golden])
        rewards = [math.nan if isinstance(reward, BaseException) else reward for reward in asked]
        first, again = rewards[: len(self._golden)], rewards[len(self._golden) :]
        return [
            GoldenGrade(response.right, live_reward, second, grader.scaled(step, response.trusted))
            for response, live_reward, second in zip(self._golden, first, again, strict=True)
        ]

    def known_calls(self, step: StepId, tools: ToolPool) -> list[bool]:
        """Whether the tool instance that is asked first answers recorded calls as it should; empty when not due."""
        every = self._settings.known_calls_every
        return tools.known(step, self._calls) if self._is_due(Check.KNOWN_CALLS, step, every) else []

    def replay(
        self, episode: EpisodeId, problem: Problem, answers: Sequence[Answer], *, always: bool = False
    ) -> Replayed | None:
        """Replay the episode, if it has a turn that went to its environment, and is chosen or all are."""
        if not answers or not (always or chosen("replay", self._seed, episode, self._settings.replay_rate)):
            return None
        return replay(self._task, problem, answers)


def due(step: StepId, every: int) -> bool:
    """Whether something with cadence `every` (0: never) is due in `step`."""
    return every > 0 and step.step % every == 0
