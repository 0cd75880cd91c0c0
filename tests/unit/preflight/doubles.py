"""A sound task whose parts tests break one at a time, and what preflight makes of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from rftfm_ray.preflight.asking import AskLimits, TaskAnswers, examine
from rftfm_ray.preflight.findings import Checked, Finding, run_checks
from rftfm_ray.preflight.rewards import CHECKS, RewardFacts
from rftfm_ray.tasks.api import Problem, Task, Transcript, Verdict

LIMITS = AskLimits(verdicts=400, seconds=30.0, call_s=10.0, workers=8)


class Sums(Task):
    """Sums of two numbers: 1 for the right one."""

    name: ClassVar[str] = "sums"
    max_new_tokens: ClassVar[tuple[int, ...]] = (5,)

    def pool(self, size: int, seed: int) -> Sequence[Problem]:
        return [Problem(f"{a}", f"{a}+{a + 17}=", str(2 * a + 17)) for a in range(20, 20 + size)]

    def heldout(self) -> Sequence[Problem]:
        return [Problem(f"{a}", f"{a}+5=", str(a + 5)) for a in range(1000, 3000)]

    def verify(self, problem: Problem, transcript: Transcript) -> Verdict:
        right = transcript.finished and transcript.turns[-1] == problem.answer
        return Verdict(float(right), right)


Reward = Callable[[Problem, Transcript], Any]


def sums(verify: Reward | None = None, **parts: Any) -> Task:
    """`Sums` with another verifier or other attributes."""
    if verify is not None:
        parts["verify"] = lambda self, problem, transcript: verify(problem, transcript)
    changed: type[Task] = type("Changed", (Sums,), parts)
    return changed()


def last(transcript: Transcript) -> str:
    """The text of the last turn."""
    return transcript.turns[-1]


def is_right(problem: Problem, transcript: Transcript) -> bool:
    """Whether an answer is right."""
    return last(transcript) == problem.answer


def asked(task: Task, limits: AskLimits = LIMITS) -> TaskAnswers:
    """What the code of a task says."""
    return examine(task, list(task.pool(32, 0)), limits)


def facts(answers: TaskAnswers, **changes: Any) -> RewardFacts:
    """The facts of a run with default settings."""
    values: dict[str, Any] = {
        "verdicts_per_step": 128, "at_a_time": 8, "has_critic": False, "regrade_noise": 0.001, "timeout_s": 60.0,
    }  # fmt: skip
    return RewardFacts(answers, **(values | changes))


def judged(task: Task, limits: AskLimits = LIMITS, **changes: Any) -> Checked:
    """The checks of the reward and the tools of a task."""
    return run_checks(CHECKS, facts(asked(task, limits), **changes))


def finding(checked: Checked, name: str) -> Finding:
    """The finding of a check."""
    (found,) = (each for each in checked.findings if each.check == name)
    return found


def names(checked: Checked) -> set[str]:
    """The checks that have found something."""
    return {each.check for each in checked.findings}
