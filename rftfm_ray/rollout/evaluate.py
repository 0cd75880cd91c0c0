"""Accuracy of a model directory on tasks, with vLLM in this process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from rftfm_ray.config import RolloutConfig
from rftfm_ray.rollout.engine import VllmEngine
from rftfm_ray.rollout.episodes import EpisodeRules, EpisodeRunner, ServedModel
from rftfm_ray.rollout.jobs import probe_jobs
from rftfm_ray.rollout.text import TextCodec
from rftfm_ray.tasks.api import Task
from rftfm_ray.types import Sampling, StepId


def evaluate(model: Path, config: RolloutConfig, seed: int, tasks: Sequence[Task]) -> Iterator[str]:
    """One line per task: greedy and sampled accuracy on all held-out problems, and calls per episode."""
    served = ServedModel(VllmEngine(str(model), "float32", config), TextCodec(str(model)), config.max_model_len)
    for task in tasks:
        runner = EpisodeRunner(served, task, EpisodeRules(seed))
        jobs = probe_jobs(task.heldout())
        greedy = runner.run(jobs, StepId(0, 0, 0), Sampling(0.0, 1.0), 0)
        sampled = runner.run(jobs, StepId(0, 0, 0), Sampling(1.0, 1.0), 0)
        calls = len(sampled.call_turn) / len(sampled)
        right = [float(np.mean(part.correct[part.valid])) if part.valid.any() else np.nan for part in (greedy, sampled)]
        yield (
            f"{task.name}: held-out accuracy greedy {right[0]:.3f}, sampled {right[1]:.3f}, "
            f"{calls:.2f} tool calls per episode"
        )
