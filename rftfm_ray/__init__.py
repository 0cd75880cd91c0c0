"""Reinforcement fine-tuning on Ray that detects faults, diagnoses them, applies a remedy and verifies it."""

from typing import TYPE_CHECKING

from rftfm_ray.config import RunConfig, load_config
from rftfm_ray.errors import RftfmError
from rftfm_ray.metrics import StepRow
from rftfm_ray.policies.api import PolicyContext
from rftfm_ray.tasks import Observation, Problem, Task, ToolCall, ToolStatus, Transcript, Verdict
from rftfm_ray.types import Action, Levers, RunSummary
from rftfm_ray.verdicts import Decision, Outcome, Remedy

if TYPE_CHECKING:
    from rftfm_ray.driver.run import train

__all__ = [
    "Action",
    "Decision",
    "Levers",
    "Observation",
    "Outcome",
    "PolicyContext",
    "Problem",
    "Remedy",
    "RftfmError",
    "RunConfig",
    "RunSummary",
    "StepRow",
    "Task",
    "ToolCall",
    "ToolStatus",
    "Transcript",
    "Verdict",
    "load_config",
    "train",
]


def __getattr__(name: str) -> object:
    # Ray takes a second to import; those who only write a task need not wait for it.
    if name == "train":
        from rftfm_ray.driver.run import train

        return train
    raise AttributeError(f"module 'rftfm_ray' has no attribute {name!r}")
