"""Held-out accuracies compared: two binomial shares. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable

from rftfm_ray.signals.schema import value
from rftfm_ray.verdicts import StepReport

# A smaller loss of held-out accuracy is not called harm, however large the probe is.
LEAST_LOSS = 0.03
# Standard errors of two probes that their difference may have by chance.
CHANCE = 2.0


def probe_drop(before: float, after: float, size: int) -> float:
    """How many standard errors `after` lies below `before`, both shares of `size` problems; negative for a rise."""
    pooled = (before + after) / 2
    # The resolution of a share is one problem.
    error = math.sqrt(max(2 * pooled * (1 - pooled) / size, (1 / size) ** 2))
    return (before - after) / error


def tolerated_loss(before: float, after: float, size: int) -> float:
    """How far `after` may lie below `before`, both shares of `size` problems, without being called lower.

    The larger of `LEAST_LOSS` and two standard errors of the difference, from the variances of both shares.
    """
    variance = (before * (1 - before) + after * (1 - after)) / size
    return max(LEAST_LOSS, CHANCE * math.sqrt(max(0.0, variance)))


def last_probe(reports: Iterable[StepReport]) -> float:
    """The newest held-out accuracy; NaN when there is none."""
    measured = [v for r in reports if not math.isnan(v := value(r, "probe_accuracy"))]
    return measured[-1] if measured else math.nan
