"""Everything that an episode is played against: tools, rewards, and their checks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rftfm_ray.rollout.channels import Grader, TaskReward, ToolPool, task_tools
from rftfm_ray.tasks.api import Task
from rftfm_ray.types import Levers

if TYPE_CHECKING:
    from rftfm_ray.rollout.checks import Checks


@dataclass(frozen=True, slots=True)
class Channels:
    """What an episode reaches: its tools, and the way to its reward. `checks` are made beside it, None: none."""

    tools: ToolPool
    grader: Grader
    checks: Checks | None = None

    def set_levers(self, levers: Levers) -> None:
        """Hand levers on."""
        self.tools.set_levers(levers)
        self.grader.set_levers(levers)


def trusted_channels(task: Task) -> Channels:
    """The task's own environment and verifier, past every instance that can be faulty: what probes go through."""
    return Channels(ToolPool(task, task_tools(task)), Grader(task, TaskReward(task), seed=0, sample_rate=0.0))
