"""Everything that an episode is played against: tools, rewards, and their checks."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rftfm_ray.rollout.channels import Grader, TaskReward, ToolPool, task_tools
from rftfm_ray.tasks.api import Task
from rftfm_ray.tasks.workers import WorkerPools
from rftfm_ray.types import Levers, StepId

if TYPE_CHECKING:
    from rftfm_ray.rollout.checks import Checks

logger = logging.getLogger(__name__)


class FailureLog:
    """Says once a step that verdicts have failed, however many. Shared by training and probes of one actor."""

    def __init__(self) -> None:
        self._said = -1

    def failed(self, step: StepId, task: Task, errors: Sequence[BaseException], asked: int) -> None:
        """Log failed verdicts of `asked`, unless this step or a later one has been logged."""
        if not errors or step.paid_step <= self._said:
            return
        self._said = step.paid_step
        logger.warning(
            "Step %d: the verifier of task %s failed on %d of %d answers, which are masked and neither right nor "
            "wrong; the first: %s",
            step.step, task.name, len(errors), asked, errors[0],
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Channels:
    """What an episode reaches: its tools, and the way to its reward. `checks` are made beside it, None: none.

    `workers` run the task's code behind them, each part of it in threads of its own; `failures` says that verdicts have
    failed.
    """

    tools: ToolPool
    grader: Grader
    checks: Checks | None = None
    workers: WorkerPools = field(default_factory=WorkerPools)
    failures: FailureLog = field(default_factory=FailureLog)

    def set_levers(self, levers: Levers) -> None:
        """Hand levers on."""
        self.tools.set_levers(levers)
        self.grader.set_levers(levers)


def trusted_channels(task: Task, beside: Channels | None = None) -> Channels:
    """The task's own environment and verifier, past every instance that can be faulty: what probes go through.

    They share the log of `beside`, if there is one, and its limits, but none of its threads: a live tool or verifier
    that hangs must not leave probes without a verdict.
    """
    grader = Grader(task, TaskReward(task), seed=0, sample_rate=0.0)
    pool = ToolPool(task, task_tools(task))
    if beside is None:
        return Channels(pool, grader)
    return Channels(pool, grader, None, beside.workers.separate(), beside.failures)
