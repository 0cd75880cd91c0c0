"""Shares that a fault raises, since its onset and before: where they are no higher it is hardly that fault.

A healthy share is not 0 where verifiers err and tools fail at times: what counts is whether it rose. Pure; numpy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rftfm_ray.detection.detectors.rates import CLUSTERED
from rftfm_ray.detection.statistics.cusum import bernoulli_ratio

Floats = NDArray[np.float64]

DISAGREES = 0.005
"""Share of verdicts beyond which the reward channel disagrees with the trusted verifier."""
FEWEST = 30.0
"""Events from which a share says something."""
# Standard errors from which a share is higher than before, and nats from which it is the healthy one and not the faulty
# one: both one time in twenty by chance.
HIGHER, HEALTHY_NATS = 1.645, 3.0


@dataclass(frozen=True, slots=True)
class Counted:
    """A share of events.

    Attributes:
        share: signal of it.
        count: signal of the number of its events.
        alarms: signals whose alarm says that it is raised, whatever the newest steps show.
        clustered: events that count as one.
        healthy: its largest healthy and smallest faulty value; None where healthy ones differ from run to run.
    """

    share: str
    count: str
    alarms: frozenset[str]
    clustered: float = 1.0
    healthy: tuple[float, float] | None = None


REGRADING = frozenset(("trained_mismatch_rate", "regrade_mismatch_rate", "golden_mismatch_rate"))
"""Signals whose alarm says that the reward channel and the trusted verifier disagree, and nothing else."""
VERDICTS = Counted(
    "trained_mismatch_rate", "regrade_count", REGRADING | {"verifier_error_rate"},
    healthy=(DISAGREES, 0.1),
)  # fmt: skip
"""Verdicts that the trusted verifier gives again: it errs seldom, on whichever task."""
CALLS = Counted(
    "tool_error_rate", "tool_call_count",
    frozenset(("tool_error_rate", "known_call_error_rate", "tool_shadow_error_rate", "tool_retry_rate")), CLUSTERED,
)  # fmt: skip
EMPTY = Counted("empty_rate", "trajectory_count", frozenset(("empty_rate",)), CLUSTERED, (0.002, 0.02))
"""Answers without a token beside their end: hardly any healthy policy gives them, and short answers have words."""
COUNTED = (VERDICTS, CALLS, EMPTY)
"""In the order of their rows."""
RAISED_BY: Mapping[str, Counted] = {
    "RF-1": VERDICTS, "RF-2": VERDICTS, "RF-3": VERDICTS, "TE-1": CALLS, "PG-1": EMPTY,
}  # fmt: skip
"""The share that a fault raises, by its code."""
NONE_COUNTED: Floats = np.zeros((len(COUNTED), 2))
"""Hits and events (`COUNTED`, 2) before anything was counted."""


def counts_in(values: Floats, columns: Mapping[str, int]) -> Floats:
    """Hits and events (`COUNTED`, 2) of some steps.

    Args:
        values: (N, M) of the steps, NaN where nothing was measured.
        columns: where each signal stands.
    """
    total = NONE_COUNTED.copy()
    for row, counted in enumerate(COUNTED):
        shares, events = values[:, columns[counted.share]], values[:, columns[counted.count]]
        known = np.isfinite(shares) & np.isfinite(events) & (events > 0)
        total[row] = float((np.clip(shares[known], 0, 1) * events[known]).sum()), float(events[known].sum())
    return total


@dataclass(frozen=True, slots=True)
class Past:
    """What shares since an onset are compared with.

    Attributes:
        counts: hits and events (`COUNTED`, 2) of the run before the onset.
        against_profile: (`COUNTED`) standard errors that shares since the onset are above a profile's; NaN without one.
    """

    counts: Floats
    against_profile: Floats


NO_PAST = Past(NONE_COUNTED, np.full(len(COUNTED), np.nan))
"""That of a run whose first step is the onset, without a profile."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How shares since an onset compare: those that are higher, and those that are not. Of others it is not known."""

    higher: frozenset[Counted]
    usual: frozenset[Counted]


def standing_of(since: Floats, past: Past) -> Standing:
    """Whether shares since an onset are higher than before it, than in a profile, or than a healthy one is.

    The run's own past says most; the next is asked where there is none.

    Args:
        since: hits and events (`COUNTED`, 2) since the onset.
        past: what they are compared with.
    """
    rows = zip(since.tolist(), past.counts.tolist(), past.against_profile.tolist(), strict=True)
    found = {counted: _is_higher(counted, *row) for counted, row in zip(COUNTED, rows, strict=True)}
    enough = {counted for counted, (_, events) in zip(COUNTED, since.tolist(), strict=True) if events >= FEWEST}
    return Standing(
        frozenset(counted for counted, is_higher in found.items() if is_higher is True),
        frozenset(counted for counted, is_higher in found.items() if is_higher is False and counted in enough),
    )


def _is_higher(counted: Counted, now: list[float], before: list[float], against_profile: float) -> bool | None:
    """None where it is not known."""
    if now[1] == 0:
        return None
    if before[1] >= FEWEST:
        return _is_more(counted, now, before)
    if math.isfinite(against_profile):
        return against_profile > HIGHER
    if counted.healthy is None:
        return None
    nats = bernoulli_ratio(now[0] / now[1], now[1] / counted.clustered, *counted.healthy)
    return True if nats > 0 else False if nats < -HEALTHY_NATS else None


def _is_more(counted: Counted, now: list[float], before: list[float]) -> bool:
    """A one-sided z test of two shares; half a hit is added to those before, which may have been none."""
    expected = (before[0] + 0.5) / (before[1] + 1) * now[1]
    spread = math.sqrt(counted.clustered * expected * (1 + now[1] / before[1]))
    return now[0] > expected + HIGHER * spread
