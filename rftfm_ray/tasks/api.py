"""What a task is: prompts, an environment that may answer a turn, and a verifier."""

from __future__ import annotations

import abc
import copy
import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar


@dataclass(frozen=True, slots=True)
class Problem:
    """One prompt and what its verifier needs to know; `key` names it across runs.

    `columns` is what else its row of a data set holds, for reward functions; it is no part of what a problem is.
    """

    key: str
    prompt: str
    answer: str
    columns: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)


class ToolStatus(StrEnum):
    """How a tool call ended. A call that cannot be parsed is the model's doing; error and time-out are the tool's.

    A `TimeoutError` that the environment raises is a time-out, anything else that it raises an error.
    """

    OK = "ok"
    UNPARSABLE = "unparsable"
    ERROR = "error"
    TIMEOUT = "timeout"


FAILURES = (ToolStatus.ERROR, ToolStatus.TIMEOUT)
"""Endings of a call that are the tool's doing."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One tool call of an episode, as the environment saw it. `latency_s` and `tries` are filled in by the rollout."""

    turn: int
    tool: str
    request: str
    response: str
    status: ToolStatus
    latency_s: float = 0.0
    tries: int = 1


@dataclass(frozen=True, slots=True)
class Observation:
    """What the environment appends to the transcript after a turn.

    `digest` is `text_digest(text)`, taken where the text was made and handed on unchanged. Where it is empty, the
    rollout takes it as soon as `Task.respond` has returned.
    """

    text: str
    call: ToolCall
    digest: str = ""


@dataclass(frozen=True, slots=True)
class Transcript:
    """What a verifier sees: the text of every turn of the model, and its tool calls in order.

    `finished` is False when the episode was cut off (token or turn limit) instead of ended by the model.
    """

    turns: tuple[str, ...]
    calls: tuple[ToolCall, ...] = ()
    finished: bool = True


@dataclass(frozen=True, slots=True)
class Verdict:
    """A verifier's judgement: the reward that trains, and whether the answer is right (held-out accuracy).

    `parts` is what each of `Task.parts` gave, None where it does not apply; it says how the reward came about, and two
    verdicts are equal without it.
    """

    reward: float
    correct: bool
    parts: tuple[float | None, ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True)
class Demonstration:
    """A worked episode for the warm start: (text, learnt) pieces after the prompt; observations are not learnt."""

    problem: Problem
    pieces: tuple[tuple[str, bool], ...] = field(default=())


class Task(abc.ABC):
    """A task: a source of problems, an environment, a verifier.

    Subclasses are stateless: every method is a pure function of its arguments, so that an episode can be
    replayed anywhere. It is: of a share of the episodes every turn is put to `respond` again, and what comes back
    must be the same (`channels.replay_rate`). `max_new_tokens` holds one limit per turn; its length is the largest
    number of turns. `stop` is the text that ends a turn without ending the episode ("" when there is one turn only).
    """

    name: ClassVar[str]
    max_new_tokens: ClassVar[tuple[int, ...]]
    stop: ClassVar[str] = ""
    asks_at_end: ClassVar[bool] = False
    """Whether a turn that the model ends with an end token is put to `respond` too, as chat models call tools; such an
    episode is over where `respond` gives None."""
    parts: ClassVar[tuple[str, ...]] = ()
    """Names of the parts of the reward, where it has several that are worth a signal each."""
    in_processes: ClassVar[bool] = False
    """Whether verdicts are asked for in processes of their own, several at a time, by `verify_all`: for code that may
    not end, or that would hold up its process."""
    knows_references: ClassVar[bool] = True
    """Whether `reference` solves a problem; False where only the verifier knows what a right answer is."""

    @abc.abstractmethod
    def pool(self, size: int, seed: int) -> Sequence[Problem]:
        """`size` distinct training problems, drawn by `seed`, none of them held out."""

    @abc.abstractmethod
    def heldout(self) -> Sequence[Problem]:
        """The held-out problems: distinct, fixed, never trained on, in an order that has no meaning.

        At least `probe.size` of them; those beyond are not asked.
        """

    @abc.abstractmethod
    def verify(self, problem: Problem, transcript: Transcript) -> Verdict:
        """Judge a transcript. A wrong or unreadable answer is a verdict, never an exception.

        Where it raises, gives no finite number, or takes longer than `verifier.timeout_s`, the answer is masked, which
        is neither right nor wrong. It is called from `verifier.workers` threads at a time.
        """

    def verify_all(self, asked: Sequence[tuple[Problem, Transcript]]) -> Sequence[Verdict | Exception]:
        """Judge several transcripts at once, in their order; what `verify` raises stands in its place."""
        verdicts: list[Verdict | Exception] = []
        for problem, transcript in asked:
            try:
                verdicts.append(self.verify(problem, transcript))
            except Exception as error:  # noqa: BLE001 - whoever asks says what it means
                verdicts.append(error)
        return verdicts

    def respond(self, problem: Problem, turn: int, text: str) -> Observation | None:
        """The environment's answer to a turn of the model, or None when the episode is over.

        `turn` counts from 0; `text` is the turn up to and including `stop`.
        """
        del problem, turn, text
        return None

    def instance(self, number: int) -> Task:
        """One of several instances of the environment, from 0: one is asked where another fails.

        By default a copy of this one.
        """
        del number
        return copy.deepcopy(self)

    def reference(self, problem: Problem) -> Transcript:
        """A transcript that solves `problem`; it must verify as correct. Checked before a run starts."""
        return Transcript(turns=(problem.answer,))

    def demonstration(self, rng: random.Random) -> Demonstration:
        """A worked episode on a problem that is not held out, for the warm start; by default the reference to one."""
        (problem,) = self.pool(1, rng.randrange(2**31))
        return reference_demonstration(self, problem)

    def difficulty(self, problem: Problem) -> float:
        """How hard `problem` is, larger for a harder one, in any unit; what `task.hard_share` goes by."""
        del problem
        return 0.0


def reference_demonstration(task: Task, problem: Problem) -> Demonstration:
    """The reference to `problem` as a demonstration: all turns of the model are learnt, no observation is."""
    pieces: list[tuple[str, bool]] = []
    for turn, text in enumerate(task.reference(problem).turns):
        pieces.append((text, True))
        observed = task.respond(problem, turn, text)
        if observed is not None:
            pieces.append((observed.text, False))
    return Demonstration(problem, tuple(pieces))


def scaled_limits(limits: Sequence[int], scale: float) -> tuple[int, ...]:
    """A task's limits of tokens per turn under `task.token_scale`: rounded, and at least 1."""
    return tuple(limits) if scale == 1 else tuple(max(1, round(limit * scale)) for limit in limits)


def text_digest(text: str) -> str:
    """A hash of `text` as 16 hexadecimal digits; equal on every machine and in every process."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def unit_hash(*parts: object) -> float:
    """A fixed pseudo-random number in [0, 1) for `parts`; equal on every machine and in every process."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") / 2**64
