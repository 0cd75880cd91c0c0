"""Checks of the learning rate against the size of the weights that it moves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from rftfm_ray.preflight.findings import Check, Finding, Grade, NotRun, Outcome

LARGEST_MOVE = 0.05
"""Share of its size by which a step may move a typical weight. AdamW moves it by about the rate (Kingma and Ba,
arXiv 1412.6980, section 2.1), so at more than this all weights are replaced within twenty steps. The shipped examples
are at 0.002 to 0.006 (`python -m benchmarks.preflight`); at 0.07 the shipped sums are unlearnt."""
SMALLEST_MOVE = 1e-4
"""Share of its size that a run must be able to move a typical weight by. Published runs of 100 and more steps at rates
of 1e-7 to 1e-6 and weights of 0.02 are at 0.0005 and above."""


@dataclass(frozen=True, slots=True)
class RateFacts:
    """Learning rate, updates of a step and steps of a run; `size` is the root mean square of the weights."""

    lr: float
    updates: int
    steps: int
    size: float


def large(facts: RateFacts) -> Outcome:
    """A step moves weights by a large part of their size."""
    if not math.isfinite(facts.size) or facts.size == 0:
        return NotRun("the weights were not measured")
    move = facts.lr * facts.updates / facts.size
    if move <= LARGEST_MOVE:
        return None
    what = (
        f"learner.lr={facts.lr:g} moves a weight by up to {facts.lr * facts.updates:.2g} in a step, and typical "
        f"weights are of the size {facts.size:.2g}: {move:.0%} of it."
    )
    return Finding(Grade.WARNING, what, "A few steps replace what the model has learnt before.", "learner.lr")


def small(facts: RateFacts) -> Outcome:
    """All steps together cannot move weights noticeably."""
    if not math.isfinite(facts.size) or facts.size == 0:
        return NotRun("the weights were not measured")
    move = facts.lr * facts.updates * facts.steps / facts.size
    if move >= SMALLEST_MOVE:
        return None
    what = (
        f"learner.lr={facts.lr:g} moves a weight by at most {move * facts.size:.2g} in all of steps={facts.steps}, and "
        f"typical weights are of the size {facts.size:.2g}."
    )
    return Finding(Grade.WARNING, what, "The policy does not change.", "learner.lr")


CHECKS: Mapping[str, Check[RateFacts]] = {"rate.large": large, "rate.small": small}
