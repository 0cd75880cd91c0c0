"""Which signals are telemetry: what any log could hold. Others are identities, channels, settings and times. Pure."""

from __future__ import annotations

import math

from rftfm_ray.detection.dictionary import DICTIONARY, Scale, Signal, Source
from rftfm_ray.detection.signals import SIGNALS

# Exact by construction, or set and not measured.
NOT_MEASURED = (
    "advantage_error", "staleness", "vetoes", "lr", "critic_lr", "schedule_factor", "kl_coef", "trajectory_count",
    "tool_call_count",
)  # fmt: skip


def is_telemetry(signal: Signal) -> bool:
    """Whether a signal is measured by the run itself, without asking anybody else, and is no time."""
    own = signal.source in (Source.ROLLOUT, Source.LEARNER) and math.isfinite(signal.floor)
    return own and signal.name not in NOT_MEASURED and signal.unit != "s"


TELEMETRY: tuple[str, ...] = tuple(signal.name for signal in SIGNALS if is_telemetry(signal))
"""Names of the telemetry signals, in the order of a report's values."""


def floor_of(name: str, batch: float) -> float:
    """The smallest spread that a signal's level is judged against: its own, 1e-3, one event in a batch of trajectories
    for rates, 1 % for what is compared by its ratio."""
    signal = DICTIONARY[name]
    floors = [1e-3]
    if signal.scale is Scale.RATE and batch > 0:
        floors.append(1 / batch)
    if signal.scale is Scale.RATIO:
        floors.append(0.01)
    return max(floors)
