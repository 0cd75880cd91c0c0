"""One episode under way, and the episodes of one call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from rftfm_ray.rollout.channels import EpisodeId
from rftfm_ray.rollout.checks import Answer, GoldenGrade
from rftfm_ray.rollout.jobs import EpisodeJob
from rftfm_ray.rollout.termination import Ended
from rftfm_ray.rollout.tool_calls import Due
from rftfm_ray.tasks.api import FAILURES, Observation, ToolCall, Transcript
from rftfm_ray.types import Sampling, StepId, Termination


@dataclass(frozen=True, slots=True)
class TurnLimit:
    """Tokens of one turn: the most that task and configuration allow, the most that were asked for, and what came.

    Both limits leave room for the sequence. `truncated` is the engine's own word that the limit has ended the turn.
    """

    declared: int
    asked: int
    given: int
    truncated: bool

    @property
    def is_cut_short(self) -> bool:
        """Whether the turn was cut off before it had the tokens that were asked for."""
        return self.truncated and self.given < self.asked


@dataclass(slots=True)
class Episode:
    """A trajectory under way.

    `observations` holds those that are part of it, one for every call but perhaps the last, and `observed` where the
    tokens of each begin and end; `withheld` counts the tokens of one that came and did not fit any more. `asked` are
    the tokens that were declared and asked for in the turn under way, `limits` those of the turns that have ended.
    `tokens_scale` is the lever by which it was begun: its limits stay what they were when the lever moves. `over` says
    that the environment was asked about the last turn and has ended the episode.
    """

    job: EpisodeJob
    tokens: list[int]
    prompt_length: int
    action: list[bool]
    logprobs: list[float]
    turns: list[str] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)
    observations: list[Observation] = field(default_factory=list)
    observed: list[tuple[int, int]] = field(default_factory=list)
    limits: list[TurnLimit] = field(default_factory=list)
    asked: tuple[int, int] = (0, 0)
    withheld: int | None = None
    over: bool = False
    text: str = ""
    termination: Termination | None = None
    refill: int = 0
    tokens_scale: float = 1.0

    def identity(self, step: StepId) -> EpisodeId:
        """Identity of the trajectory."""
        return EpisodeId(step, self.job.problem.key, self.job.sample, self.refill)

    def transcript(self) -> Transcript:
        """The transcript for the verifier."""
        finished = self.termination in (Termination.EOS, Termination.STOP)
        return Transcript(turns=tuple(self.turns), calls=tuple(self.calls), finished=finished)

    def ended(self) -> Ended:
        """The record from which the termination is derived a second time."""
        return Ended(self.tokens, self.action, len(self.turns), self.calls, self.withheld)

    def answers(self) -> list[Answer]:
        """Answers of the environment to every turn that it received; empty for a failed episode."""
        if self.termination is Termination.FAILED:
            return []
        answers = []
        for index, call in enumerate(self.calls):
            stands = index < len(self.observations) and call.status not in FAILURES
            text = self.observations[index].text if stands else None
            answers.append(Answer(call.turn, self.turns[call.turn], ended=False, observation=text))
        if self.over:
            last = len(self.turns) - 1
            answers.append(Answer(last, self.turns[last], ended=True, observation=None))
        return answers


def start(job: EpisodeJob, prompt: Sequence[int], refill: int = 0, tokens_scale: float = 1.0) -> Episode:
    """An episode that holds nothing but its prompt."""
    size = len(prompt)
    return Episode(job, list(prompt), size, [False] * size, [0.0] * size, refill=refill, tokens_scale=tokens_scale)


@dataclass(slots=True)
class Batch:
    """Episodes of one call, and what they were asked with.

    `retries` holds tool calls that wait to be tried again: when, which episode, how many tries there were, and when the
    first one began. `due` holds the episodes whose last turn has ended and that go on, in the order of the engine.
    """

    episodes: list[Episode]
    step: StepId
    sampling: Sampling
    model_version: int
    retries: list[tuple[float, int, int, float]] = field(default_factory=list)
    due: list[Due] = field(default_factory=list)
    shadow_ok: list[bool] = field(default_factory=list)
    known_ok: list[bool] = field(default_factory=list)
    golden: list[GoldenGrade] = field(default_factory=list)
