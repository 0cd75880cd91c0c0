"""Which detectors watch a run, and how they are set."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rftfm_ray.config import RunConfig
from rftfm_ray.detection.detectors import (
    BlowUpDetector,
    DeclaredRateDetector,
    Detector,
    FiniteDetector,
    ProbeDetector,
    RateDetector,
    ShiftDetector,
    UpdateSizeDetector,
)
from rftfm_ray.verdicts import Evidence

# A notice tells look-alikes apart and opens nothing: it may be wrong more often than an alarm.
NOTICE_NATS = 6.0
NOTICED: dict[str, tuple[int, ...]] = {
    "reward_mean": (1, -1),
    "reward_std": (1, -1),
    "reward_max": (1,),
    "length_mean": (1, -1),
    "entropy": (1, -1),
    "grad_norm": (1, -1),
    "kl_ref": (1,),
    "advantage_max": (1,),
    "repeated_bigram_rate": (1,),
    "empty_rate": (1,),
    "truncated_rate": (1,),
    "tool_unparsable_rate": (1,),
    "zero_variance_group_rate": (1,),
    "valid_rate": (-1,),
}


@dataclass(frozen=True, slots=True)
class WatchSettings:
    """How a run is watched. `noise` is the share of verdicts in which an honest reward channel and the trusted
    verifier disagree; `false_alarm_steps` the healthy steps to one false alarm of a detector."""

    warmup: int
    false_alarm_steps: int
    noise: float
    probe_size: int
    keep_every: int
    keep: int


def watch_settings(config: RunConfig) -> WatchSettings:
    """The settings that a run's configuration calls for."""
    guard, snapshots = config.guard, config.snapshots
    return WatchSettings(
        warmup=guard.warmup_steps,
        false_alarm_steps=guard.false_alarm_steps,
        noise=guard.regrade_noise,
        probe_size=config.probe.size,
        keep_every=snapshots.every,
        keep=snapshots.keep,
    )


def battery(settings: WatchSettings) -> tuple[Detector, ...]:
    """All detectors of a run, strongest evidence first."""
    threshold = math.log(settings.false_alarm_steps)
    notices = [
        ShiftDetector(name, sides, alarm=False, threshold=NOTICE_NATS, warmup=settings.warmup)
        for name, sides in NOTICED.items()
    ]
    return (
        FiniteDetector(),
        DeclaredRateDetector(),
        # Verdicts of different trajectories are independent; a fault that touches a tenth of them is sought.
        RateDetector(
            "trained_mismatch_rate", "regrade_count", Evidence.CHANNEL, usual=settings.noise, faulty=0.1,
            threshold=threshold, clustered=1.0, companion="regrade_error_mean",
        ),
        RateDetector("tool_error_rate", "tool_call_count", Evidence.TELEMETRY, 0.02, 0.15, threshold),
        ProbeDetector(settings.probe_size),
        UpdateSizeDetector(threshold, settings.warmup),
        BlowUpDetector("kl_ref", large=0.5, factor=3.0),
        *notices,
    )  # fmt: skip
