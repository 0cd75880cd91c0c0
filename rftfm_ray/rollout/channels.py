"""Access to tools and rewards: instances that may fail, and the trusted verifier that must not fail.

A tool has two instances and a reward one live channel; each is a plain callable, so that a drill can put a
faulty one in its place. The trusted verifier is the task itself, called past all of them.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from rftfm_ray.tasks.api import Observation, Problem, Task, ToolStatus, Transcript, Verdict, text_digest, unit_hash
from rftfm_ray.tasks.rewards import verify
from rftfm_ray.types import Levers, StepId

if TYPE_CHECKING:
    pass

INSTANCES = 2
# Rewards travel as float32.
REWARD_TOLERANCE = 1e-5
# One group in so many asks the idle tool instances about a call whose answer is known.
SHADOW_EVERY = 4

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EpisodeId:
    """Identity of a trajectory: `refill` counts how often it was drawn again."""

    step: StepId
    key: str
    sample: int
    refill: int = 0


@dataclass(frozen=True, slots=True)
class CallId:
    """Identity of a try of a tool call; both count from 0."""

    episode: EpisodeId
    turn: int
    tries: int = 0


class ToolInstance(Protocol):
    """One instance of a task's environment."""

    def __call__(self, call: CallId, problem: Problem, text: str) -> Observation | None:
        """The answer to a turn, or None when the episode is over; an error is raised.

        What is made here carries the digest of its text; what is handed on keeps the digest that it came with.
        """


class RewardChannel(Protocol):
    """A way to rewards."""

    def __call__(self, episode: EpisodeId, problem: Problem, transcript: Transcript) -> Verdict:
        """The verdict; RewardError without one."""


class TaskTool:
    """The task's own environment. It stamps what it answers."""

    def __init__(self, task: Task) -> None:
        self._task = task

    def __call__(self, call: CallId, problem: Problem, text: str) -> Observation | None:
        observation = self._task.respond(problem, call.turn, text)
        if observation is None or observation.digest:
            return observation
        return dataclasses.replace(observation, digest=text_digest(observation.text))


class TaskReward:
    """The task's own verifier."""

    def __init__(self, task: Task) -> None:
        self._task = task

    def __call__(self, episode: EpisodeId, problem: Problem, transcript: Transcript) -> Verdict:
        del episode
        return verify(self._task, problem, transcript)


def task_tools(task: Task) -> tuple[ToolInstance, ...]:
    """Two independent instances of the task's environment."""
    return tuple(TaskTool(task.instance(number)) for number in range(INSTANCES))


class ToolPool:
    """The instances of a tool: which one is asked first, and how often a failed call is tried again."""

    def __init__(self, task: Task, instances: Sequence[ToolInstance], retries: int = 0, backoff_s: float = 0.0) -> None:
        self._task = task
        self._instances = tuple(instances)
        self._nominal_retries = retries
        self._backoff_s = backoff_s
        self._first = 0
        self._retries = retries

    def set_levers(self, levers: Levers) -> None:
        """Follow `tool_instance` and `tool_retries`."""
        self._first = 0 if levers.tool_instance is None else levers.tool_instance
        self._retries = self._nominal_retries if levers.tool_retries is None else levers.tool_retries

    def instance(self, tries: int) -> int:
        """Index of the instance whose turn it is after `tries` failed tries of a call."""
        return (self._first + tries) % len(self._instances)

    @property
    def idle(self) -> tuple[int, ...]:
        """Indices of the instances that are not asked first; empty while instance 0 is the first one."""
        return tuple(index for index in range(len(self._instances)) if self._first not in (0, index))

    def ask(self, call: CallId, problem: Problem, text: str) -> Observation | None:
        """One try, on the instance whose turn it is."""
        return self._instances[self.instance(call.tries)](call, problem, text)

    def retry_after_s(self, tries: int) -> float | None:
        """Wait before a call that failed `tries` times is tried again, or None when it is not."""
        return self._backoff_s * 2 ** (tries - 1) if tries <= self._retries else None

    def shadow(self, step: StepId, problems: Sequence[Problem], only: Sequence[int] | None = None) -> list[bool]:
        """Ask the idle instances about calls whose answers are known, all of them or `only` some: are they well?

        Nothing of it reaches a trajectory.
        """
        asked = self.idle if only is None else only
        if not asked:
            return []
        return _ask_known([self._instances[index] for index in asked], step, recorded_calls(self._task, problems))

    def known(self, step: StepId, calls: Sequence[Call]) -> list[bool]:
        """Ask the instance that is asked first about `calls`: is it well? Nothing of it reaches a trajectory."""
        return _ask_known([self._instances[self._first]], step, calls)


Call = tuple[Problem, Transcript]
"""A problem, and a transcript that solves it; its first call is one whose answer is known."""


def known_reference(task: Task, problem: Problem) -> Transcript | None:
    """A transcript that solves `problem`, or None where the task gives none."""
    if not task.knows_references:
        return None
    try:
        reference: object = task.reference(problem)
    except Exception as error:  # noqa: BLE001 - the task's code: without a known answer nothing can be asked
        logger.warning("Task %s gives no reference for %r: %r; it is not asked about.", task.name, problem.key, error)
        return None
    return reference if isinstance(reference, Transcript) else None


def recorded_calls(task: Task, problems: Sequence[Problem]) -> tuple[Call, ...]:
    """Problems whose reference makes a call, with that reference."""
    references = [(problem, known_reference(task, problem)) for problem in problems]
    return tuple((problem, reference) for problem, reference in references if reference is not None and reference.calls)


def _ask_known(instances: Sequence[ToolInstance], step: StepId, calls: Sequence[Call]) -> list[bool]:
    results = []
    for problem, reference in calls:
        # Samples count from 0: no trajectory has this identity.
        call = CallId(EpisodeId(step, problem.key, -1), reference.calls[0].turn)
        results += [_answers(instance, call, problem, reference) for instance in instances]
    return results


def _answers(instance: ToolInstance, call: CallId, problem: Problem, reference: Transcript) -> bool:
    try:
        observation = instance(call, problem, reference.turns[call.turn])
        if observation is None or observation.call.status is not ToolStatus.OK:
            return False
        return observation.call.response == reference.calls[0].response
    except Exception:  # noqa: BLE001 - the tool's code: that it fails is what is asked
        return False


@dataclass(frozen=True, slots=True)
class Grade:
    """Grade of a transcript. `correct` is the live channel's verdict, and `parts` what its reward is made of.

    Where the trusted verifier was not asked `trusted` is NaN, and `trusted_correct` is False.
    """

    reward: float
    live: float
    trusted: float
    correct: bool
    trusted_correct: bool = False
    parts: tuple[float | None, ...] = ()


RewardScale = Callable[[StepId], float]
"""Factor on all rewards of a step."""


def unscaled(step: StepId) -> float:
    """Rewards as the task gives them."""
    del step
    return 1.0


class Grader:
    """From transcripts to rewards: the live channel, a sample graded again by the trusted verifier, and the levers.

    Args:
        task: whose verifier is the trusted one.
        channel: the live channel.
        seed: of the run; chooses the sample together with a trajectory's identity.
        sample_rate: share of trajectories graded again for the record.
        scale: factor on every reward of a step, whoever grades it.
    """

    def __init__(
        self, task: Task, channel: RewardChannel, seed: int, sample_rate: float, scale: RewardScale = unscaled
    ) -> None:
        self._trusted = TaskReward(task)
        self._channel = channel
        self._seed = seed
        self._sample_rate = sample_rate
        self._scale = scale
        self._levers = Levers()

    def set_levers(self, levers: Levers) -> None:
        """Follow `regrade_rate` and `reward_limit`."""
        self._levers = levers

    def verdicts(self, episode: EpisodeId) -> int:
        """How many verdicts `grade` asks for: the live one, and the trusted one where it is graded again."""
        return 2 if self._chosen(episode) else 1

    def grade(self, episode: EpisodeId, problem: Problem, transcript: Transcript) -> Grade:
        """The reward for training.

        Raises:
            RewardError: without a verdict; the trajectory is then masked, never scored 0.
        """
        live = self._channel(episode, problem, transcript)
        trusted = self._trusted(episode, problem, transcript) if self._chosen(episode) else None
        live_reward = reward = self.scaled(episode.step, live.reward)
        known = math.nan if trusted is None else self.scaled(episode.step, trusted.reward)
        # NaN, where nobody was asked, exceeds nothing.
        if self._levers.regrade_rate is not None and abs(live_reward - known) > REWARD_TOLERANCE:
            reward = known
        if self._levers.reward_limit is not None:
            reward = max(-self._levers.reward_limit, min(self._levers.reward_limit, reward))
        is_right = trusted is not None and trusted.correct
        return Grade(reward, live_reward, known, live.correct, is_right, live.parts)

    def live(self, episode: EpisodeId, problem: Problem, transcript: Transcript) -> float:
        """Reward of the live channel, regardless of the levers.

        Raises:
            RewardError: where it fails.
        """
        return self.scaled(episode.step, self._channel(episode, problem, transcript).reward)

    def scaled(self, step: StepId, reward: float) -> float:
        """Scale a task's own reward to its value in a step."""
        return reward * self._scale(step)

    def _chosen(self, episode: EpisodeId) -> bool:
        lever = self._levers.regrade_rate
        rate = self._sample_rate if lever is None else max(lever, self._sample_rate)
        return chosen("regrade", self._seed, episode, rate)


def chosen(purpose: str, seed: int, episode: EpisodeId, rate: float) -> bool:
    """Whether a trajectory is among the share `rate` that is looked at for `purpose`: decided by its identity."""
    step = episode.step
    identity = (seed, step.attempt, step.paid_step, episode.key, episode.sample, episode.refill)
    return rate > 0 and unit_hash(purpose, *identity) < rate
