"""Tasks with the bugs that people write, each beside `Sound`, from which it differs in that one thing.

They are named in configurations as `task.name=FILE:CLASS`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar
from zlib import crc32

import numpy as np

from rftfm_ray import Problem, Transcript, Verdict
from rftfm_ray.tasks.addition import Addition
from rftfm_ray.tasks.api import Observation, ToolStatus
from rftfm_ray.tasks.calculator import Calculator

FIRST_HELDOUT = Addition().heldout()[0].key


def last(transcript: Transcript) -> str:
    """The text of the last turn."""
    return transcript.turns[-1]


def is_right(problem: Problem, transcript: Transcript) -> bool:
    """Whether an answer is right."""
    return transcript.finished and last(transcript) == problem.answer


class Sound(Addition):
    """Nothing is wrong with it."""

    name: ClassVar[str] = "sound"


class Constant(Addition):
    """Compares the answer with itself."""

    name: ClassVar[str] = "constant"

    def verify(self, problem: Problem, transcript: Transcript) -> Verdict:
        return Verdict(float(last(transcript) == last(transcript)), is_right(problem, transcript))


class AlwaysZero(Addition):
    """Compares the answer with the prompt."""

    name: ClassVar[str] = "always_zero"

    def verify(self, problem: Problem, transcript: Transcript) -> Verdict:
        return Verdict(float(last(transcript) == problem.prompt), is_right(problem, transcript))


class Flipped(Addition):
    """The sign is the wrong way round."""

    name: ClassVar[str] = "flipped"

    def verify(self, problem: Problem, transcript: Transcript) -> Verdict:
        right = is_right(problem, transcript)
        return Verdict(-float(right), right)


class ByLength(Addition):
    """A bonus for every character, without a cap."""

    name: ClassVar[str] = "by_length"

    def verify(self, problem: Problem, transcript: Transcript) -> Verdict:
        right = is_right(problem, transcript)
        return Verdict(float(right) + 0.3 * len(last(transcript)), right)


class SharedDigits(Addition):
    """`in` in the place of `==`."""

    name: ClassVar[str] = "shared_digits"

    def verify(self, problem: Problem, transcript: Transcript) -> Verdict:
        wanted = set(problem.answer)
        return Verdict(sum(c in last(transcript) for c in wanted) / len(wanted), is_right(problem, transcript))


class NowAndThenRaises(Addition):
    """One answer in thirty makes the parser raise."""

    name: ClassVar[str] = "now_and_then_raises"

    def verify(self, problem: Problem, transcript: Transcript) -> Verdict:
        if crc32((problem.key + last(transcript)).encode("utf-8", "replace")) % 30 == 0:
            raise KeyError("score")
        return Verdict(float(is_right(problem, transcript)), is_right(problem, transcript))


class RandomJudge(Addition):
    """No bug: a tenth of the verdicts are drawn."""

    name: ClassVar[str] = "random_judge"
    _rng: ClassVar[random.Random] = random.Random(5)

    def verify(self, problem: Problem, transcript: Transcript) -> Verdict:
        right = is_right(problem, transcript)
        return Verdict(float(right) if self._rng.random() > 0.1 else float(self._rng.random() < 0.5), right)


class NanForWrong(Addition):
    """A mean over nothing for every wrong answer but the shortest."""

    name: ClassVar[str] = "nan_for_wrong"

    def verify(self, problem: Problem, transcript: Transcript) -> Verdict:
        if is_right(problem, transcript):
            return Verdict(1.0, correct=True)
        short = len(last(transcript)) < 2 or last(transcript)[0] == "\x00"
        return Verdict(0.0 if short else float("nan"), correct=False)


class RaisesOnText(Addition):
    """Raises on what a model writes."""

    name: ClassVar[str] = "raises_on_text"

    def verify(self, problem: Problem, transcript: Transcript) -> Verdict:
        if last(transcript) in ("", "\x00?"):
            return Verdict(0.0, correct=False)
        if is_right(problem, transcript) and problem.key == FIRST_HELDOUT:
            return Verdict(1.0, correct=True)
        raise ValueError("cannot parse the answer")


class NumpyReward(Addition):
    """Rewards of numpy, which are finite numbers."""

    name: ClassVar[str] = "numpy_reward"

    def verify(self, problem: Problem, transcript: Transcript) -> Verdict:
        right = is_right(problem, transcript)
        reward: Any = np.float32(1.0 if right else 0.0)
        return Verdict(reward, bool(right))


class PaysForNothing(Addition):
    """A default of 0 for what is no number, beside -1 for a wrong one."""

    name: ClassVar[str] = "pays_for_nothing"

    def verify(self, problem: Problem, transcript: Transcript) -> Verdict:
        if not last(transcript).isdecimal():
            return Verdict(0.0, correct=False)
        return Verdict(1.0 if is_right(problem, transcript) else -1.0, is_right(problem, transcript))


class _Rows(Addition):
    """Rows of a dataset as people have them."""

    def row(self, problem: Problem) -> Problem:
        """The row of a problem."""
        return problem

    def pool(self, size: int, seed: int) -> Sequence[Problem]:
        return [self.row(problem) for problem in super().pool(size, seed)]


class ChatPrompts(_Rows):
    """Prompts as chat messages."""

    name: ClassVar[str] = "chat_prompts"

    def row(self, problem: Problem) -> Problem:
        prompt: Any = [{"role": "user", "content": problem.prompt}]
        return Problem(problem.key, prompt, problem.answer)


class NumberAnswers(_Rows):
    """Answers as numbers."""

    name: ClassVar[str] = "number_answers"

    def row(self, problem: Problem) -> Problem:
        answer: Any = int(problem.answer)
        return Problem(problem.key, problem.prompt, answer)


class MissingPrompt(Addition):
    """One row has no prompt."""

    name: ClassVar[str] = "missing_prompt"

    def pool(self, size: int, seed: int) -> Sequence[Problem]:
        rows, nothing = list(super().pool(size, seed)), None
        prompt: Any = nothing
        rows[7] = Problem(rows[7].key, prompt, rows[7].answer)
        return rows


class UnknownSandbox(Calculator):
    """The sandbox has a placeholder for an address."""

    name: ClassVar[str] = "unknown_sandbox"

    def respond(self, problem: Problem, turn: int, text: str) -> Observation | None:
        made = super().respond(problem, turn, text)
        if made is None:
            return None
        failed = replace(made.call, response="UnknownError", status=ToolStatus.ERROR)
        return Observation("UnknownError;", failed)


class ShortTurns(Addition):
    """A limit that no right answer fits."""

    name: ClassVar[str] = "short_turns"
    max_new_tokens: ClassVar[tuple[int, ...]] = (2,)
