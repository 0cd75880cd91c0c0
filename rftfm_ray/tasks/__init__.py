"""Tasks: prompts, tools and verifiers."""

from rftfm_ray.tasks.api import Observation, Problem, Task, ToolCall, ToolStatus, Transcript, Verdict

__all__ = ["Observation", "Problem", "Task", "ToolCall", "ToolStatus", "Transcript", "Verdict"]
