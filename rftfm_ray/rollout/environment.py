"""Everything that an episode is played against: tools, rewards, and their checks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rftfm_ray.errors import RewardError
from rftfm_ray.rollout.channels import Grader, TaskReward, ToolPool, task_tools
from rftfm_ray.tasks.api import Task
from rftfm_ray.tasks.processes import OutsideTask, VerifierProcesses
from rftfm_ray.tasks.workers import WorkerPools
from rftfm_ray.types import Levers, StepId

if TYPE_CHECKING:
    from rftfm_ray.rollout.checks import Checks

LONGEST_REASON = 160
"""Characters of the reason why a verdict failed."""


class FailureLog:
    """Keeps why the first verdict of the newest step failed. Shared by training and probes of one actor."""

    def __init__(self) -> None:
        self._paid_step = -1
        self._reason = ""

    def failed(self, step: StepId, task: Task, errors: Sequence[BaseException]) -> None:
        """Keep why the first of `errors` happened, unless this step or a later one has one already."""
        if not errors or step.paid_step <= self._paid_step:
            return
        self._paid_step = step.paid_step
        self._reason = " ".join(_reason(errors[0], task).split())[:LONGEST_REASON]

    def reason(self, step: StepId) -> str:
        """Why the first failed verdict of `step` failed; empty when none is known."""
        return self._reason if step.paid_step == self._paid_step else ""


def _reason(error: BaseException, task: Task) -> str:
    """What the task's own code raised, or what was wrong with its verdict."""
    if not isinstance(error, RewardError) or error.__cause__ is not None:
        raised = error.__cause__ or error
        return f"{type(raised).__name__}: {raised}".rstrip(": ")
    return str(error).removeprefix(f"The verifier of task {task.name} ").rstrip(".")


@dataclass(frozen=True, slots=True)
class Channels:
    """What an episode reaches: its tools, and the way to its reward. `checks` are made beside it, None: none.

    `workers` run the task's code behind them, each part of it in threads of its own; `failures` knows why verdicts have
    failed; `processes` give the verdicts of a task that has them given outside.
    """

    tools: ToolPool
    grader: Grader
    checks: Checks | None = None
    workers: WorkerPools = field(default_factory=WorkerPools)
    failures: FailureLog = field(default_factory=FailureLog)
    processes: VerifierProcesses | None = None

    def set_levers(self, levers: Levers) -> None:
        """Hand levers on."""
        self.tools.set_levers(levers)
        self.grader.set_levers(levers)


def trusted_channels(task: Task, beside: Channels | None = None) -> Channels:
    """The task's own environment and verifier, past every instance that can be faulty: what probes go through.

    They share the log of `beside`, if there is one, and its limits, but none of its threads: a live tool or verifier
    that hangs must not leave probes without a verdict. A process that hangs is ended, so processes are shared.
    """
    processes = None if beside is None else beside.processes
    asked = task if processes is None else OutsideTask(task, processes)
    grader = Grader(asked, TaskReward(asked), seed=0, sample_rate=0.0)
    pool = ToolPool(task, task_tools(task))
    if beside is None:
        return Channels(pool, grader)
    return Channels(pool, grader, None, beside.workers.separate(), beside.failures, processes)
