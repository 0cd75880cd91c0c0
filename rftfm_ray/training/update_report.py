"""What the learner answers after a step.

A driver loads the module in which an answer's class stands: here it loads no torch, which takes seconds.
"""

from __future__ import annotations

from dataclasses import dataclass

from rftfm_ray.metrics import CreditMetrics, UpdateMetrics
from rftfm_ray.types import RejectedUpdate


@dataclass(frozen=True, slots=True)
class UpdateReport:
    """The result of one step of learning.

    `reference_s`: seconds from its start to the end of the reference's first pass. `snapshots`: steps that the learner
    can be rolled back to afterwards.
    """

    metrics: UpdateMetrics
    credit: CreditMetrics
    vetoes: tuple[RejectedUpdate, ...]
    reference_s: float = 0.0
    snapshots: tuple[int, ...] = ()
