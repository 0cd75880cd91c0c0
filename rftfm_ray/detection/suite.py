"""The detector suite: the only list of the detectors of a run and of their settings."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rftfm_ray.config import RunConfig
from rftfm_ray.config.declared import DeclaredCourse
from rftfm_ray.detection.detectors.base import Detector
from rftfm_ray.detection.detectors.blow_up import BlowUpDetector
from rftfm_ray.detection.detectors.change_point import ChangePointDetector
from rftfm_ray.detection.detectors.exact import DeclaredRateDetector, FiniteDetector
from rftfm_ray.detection.detectors.identities import IDENTITIES, IdentityDetector
from rftfm_ray.detection.detectors.joint import JointDetector
from rftfm_ray.detection.detectors.laws import FLOOR, FloorDetector, LawDetector, OwnRewardDetector
from rftfm_ray.detection.detectors.probe import ProbeDetector
from rftfm_ray.detection.detectors.rates import CLUSTERED, LearntRateDetector, Rate, RateDetector
from rftfm_ray.detection.detectors.readings import reading_detectors
from rftfm_ray.detection.detectors.trend import trend_detectors
from rftfm_ray.detection.detectors.updates import UpdateSizeDetector
from rftfm_ray.detection.laws.declaring import declared_course
from rftfm_ray.detection.laws.floors import FLOORS
from rftfm_ray.detection.laws.table import LAWS
from rftfm_ray.detection.reference.mixture import Mode, Reference
from rftfm_ray.detection.statistics.thresholds import budget_factor
from rftfm_ray.verdicts import Evidence

# Detectors whose thresholds follow from theory share the budget.
SEQUENTIAL = 7
# Factor of fewer false alarms than promised that thresholds are set for: calibration on some runs must hold on others.
SAFETY = 2
TOOL_ERRORS = Rate("tool_error_rate", "tool_call_count", Evidence.TELEMETRY, 0.02, 0.15, CLUSTERED)
"""Calls that a tool failed: more than tools of the kind fail at all, and more than this run's do (a floor)."""


@dataclass(frozen=True, slots=True)
class MonitorSettings:
    """How a run is watched.

    Attributes:
        warmup: steps before a detector with a self-baseline judges.
        false_alarm_steps: healthy steps to one false alarm of the whole monitor.
        noise: share of verdicts in which an honest reward function and the trusted verifier disagree.
        probe_size: problems of a held-out probe.
        declared: what laws go by; empty where nothing is declared.
    """

    warmup: int
    false_alarm_steps: int
    noise: float
    probe_size: int
    declared: DeclaredCourse = ()


def monitor_settings(config: RunConfig) -> MonitorSettings:
    """The settings from a run's configuration."""
    guard = config.guard
    return MonitorSettings(
        guard.warmup_steps, guard.false_alarm_steps, guard.regrade_noise, config.probe.size, declared_course(config)
    )


def build_detectors(settings: MonitorSettings, reference: Reference) -> list[Detector]:
    """The detector suite of a run, strongest evidence first."""
    budget = SAFETY * settings.false_alarm_steps
    threshold = math.log(SEQUENTIAL * budget)
    detectors: list[Detector] = [
        FiniteDetector(),
        DeclaredRateDetector(),
        *(IdentityDetector(identity) for identity in IDENTITIES),
        *(LawDetector(law, settings.declared) for law in LAWS.values()),
        OwnRewardDetector(settings.declared),
        *(FloorDetector(floor, settings.declared) for floor in FLOORS),
        *(RateDetector(rate, threshold) for rate in rates(settings.noise)),
        LearntRateDetector(TOOL_ERRORS, f"{FLOOR}:{TOOL_ERRORS.signal}", threshold),
        ProbeDetector(settings.probe_size),
        UpdateSizeDetector(threshold, settings.warmup),
        BlowUpDetector("kl_ref", large=0.5, factor=3.0),
        *trend_detectors(),
        *reading_detectors(),
        JointDetector(reference, budget),
    ]
    # A full profile says more about a single signal than its self-baseline does.
    if reference.mode is not Mode.FULL:
        detectors.append(ChangePointDetector(reference.multiplier * budget_factor(budget)))
    return detectors


def rates(noise: float) -> tuple[Rate, ...]:
    """Rates whose healthy value is known beforehand.

    Verdicts of different trajectories are independent; a fault that touches a tenth of them is looked for.
    """
    channel = Evidence.CHANNEL
    return (
        Rate("trained_mismatch_rate", "regrade_count", channel, noise, 0.1, companion="regrade_error_mean"),
        TOOL_ERRORS,
        Rate("verifier_error_rate", "trajectory_count", channel, 0.001, 0.03),
        Rate("golden_mismatch_rate", "golden_count", channel, noise, 0.1),
        Rate("known_call_error_rate", "known_call_count", channel, 0.02, 0.3),
    )
