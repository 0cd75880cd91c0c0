"""Loggers that a run writes to beside its own records."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from rftfm_ray.config.sections import Section

PACKAGES: Mapping[str, str] = {"tensorboard": "tensorboardX", "wandb": "wandb"}
"""Modules that loggers are written with."""


class LoggingConfig(Section):
    """Where metrics go beside the run's own records, with incidents and remedies marked, over the consumed step."""

    to: tuple[Literal["tensorboard", "wandb"], ...] = ()
    """`tensorboard`: event files in `tensorboard/` of the run directory. `wandb`: Weights & Biases, which goes by its
    own variables such as WANDB_MODE, and keeps its files in the run directory."""
    project: str = "rftfm"
    """Project of W&B."""
    group: str | None = None
    """Group of W&B that the run belongs to."""
