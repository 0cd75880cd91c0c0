"""Tasks of the stories: `addition` with a reward function as it was in a story, and the same with that mended."""

from __future__ import annotations

import math
import time
from typing import ClassVar

from rftfm_ray.tasks.addition import Addition
from rftfm_ray.tasks.api import Problem, Transcript, Verdict, unit_hash

SHARE = 0.1
"""Share of the problems on which a broken reward function does not do what it should."""


def is_hit(problem: Problem) -> bool:
    """Whether a problem is one of these."""
    return unit_hash("story", problem.key) < SHARE


class PaysNan(Addition):
    """Now and then the reward function returns NaN, as one does that divides by a length of 0."""

    name: ClassVar[str] = "pays_nan"

    def verify(self, problem: Problem, transcript: Transcript) -> Verdict:
        """The verdict of addition, without a number where the problem is hit and the answer wrong."""
        verdict = super().verify(problem, transcript)
        return Verdict(math.nan, correct=False) if is_hit(problem) and not verdict.correct else verdict


class PaysLate(Addition):
    """The reward function asks a service that hangs now and then."""

    name: ClassVar[str] = "pays_late"
    HANGS_S: ClassVar[float] = 2.5

    def verify(self, problem: Problem, transcript: Transcript) -> Verdict:
        """The verdict of addition, much later where the problem is hit and the answer wrong."""
        verdict = super().verify(problem, transcript)
        if is_hit(problem) and not verdict.correct:
            time.sleep(self.HANGS_S)
        return verdict


class PaysAtOnce(Addition):
    """Both mended."""

    name: ClassVar[str] = "pays_at_once"
