"""Which detectors watch a run, and how they are set."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rftfm_ray.config import RunConfig
from rftfm_ray.detection.detectors.base import Detector
from rftfm_ray.detection.detectors.blow_up import BlowUpDetector
from rftfm_ray.detection.detectors.exact import DeclaredRateDetector, FiniteDetector
from rftfm_ray.detection.detectors.identities import IDENTITIES, IdentityDetector
from rftfm_ray.detection.detectors.joint import DepartureDetector
from rftfm_ray.detection.detectors.probe import ProbeDetector
from rftfm_ray.detection.detectors.rates import RateDetector
from rftfm_ray.detection.detectors.shift import ProfileDetector, ShiftDetector
from rftfm_ray.detection.detectors.updates import UpdateSizeDetector
from rftfm_ray.detection.reference.profile import Profile
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
# With a profile of few runs these sides open an incident: there is a fingerprint to name each of them.
ALARMED: dict[str, tuple[int, ...]] = {
    "reward_mean": (1, -1),
    "length_mean": (1, -1),
    "entropy": (-1,),
    "grad_norm": (1,),
    "kl_ref": (1,),
    "repeated_bigram_rate": (1,),
    "empty_rate": (1,),
    "truncated_rate": (1,),
}


@dataclass(frozen=True, slots=True)
class WatchSettings:
    """How a run is watched. `noise` is the share of verdicts in which an honest reward channel and the trusted
    verifier disagree; `false_alarm_steps` the healthy steps to one false alarm of a detector; `profile` what healthy
    runs look like, None to hold the run against its own past."""

    warmup: int
    false_alarm_steps: int
    noise: float
    probe_size: int
    keep_every: int
    keep: int
    profile: Profile | None = None


def watch_settings(config: RunConfig, profile: Profile | None = None) -> WatchSettings:
    """The settings that a run's configuration calls for, with the profile that it names."""
    guard, snapshots = config.guard, config.snapshots
    return WatchSettings(
        warmup=guard.warmup_steps,
        false_alarm_steps=guard.false_alarm_steps,
        noise=guard.regrade_noise,
        probe_size=config.probe.size,
        keep_every=snapshots.every,
        keep=snapshots.keep,
        profile=profile,
    )


def battery(settings: WatchSettings) -> tuple[Detector, ...]:
    """All detectors of a run, strongest evidence first."""
    threshold = math.log(settings.false_alarm_steps)
    notices = [_noticing(name, sides, threshold, settings) for name, sides in NOTICED.items()]
    return (
        FiniteDetector(),
        DeclaredRateDetector(),
        *(IdentityDetector(identity) for identity in IDENTITIES),
        # Verdicts of different trajectories are independent; a fault that touches a tenth of them is sought.
        RateDetector(
            "trained_mismatch_rate", "regrade_count", Evidence.CHANNEL, usual=settings.noise, faulty=0.1,
            threshold=threshold, clustered=1.0, companion="regrade_error_mean",
        ),
        RateDetector("tool_error_rate", "tool_call_count", Evidence.TELEMETRY, 0.02, 0.15, threshold),
        # They speak of the source, which stays when its harm has been kept away: no alarm of its own.
        RateDetector(
            "golden_mismatch_rate", "golden_count", Evidence.CHANNEL, settings.noise, 0.1, threshold, clustered=1.0,
            alarm=False,
        ),
        RateDetector(
            "known_call_error_rate", "known_call_count", Evidence.CHANNEL, 0.02, 0.3, threshold, clustered=1.0,
            alarm=False,
        ),
        ProbeDetector(settings.probe_size),
        UpdateSizeDetector(threshold, settings.warmup),
        BlowUpDetector("kl_ref", large=0.5, factor=3.0),
        *notices,
        *_departing(settings.profile),
    )  # fmt: skip


def _departing(profile: Profile | None) -> tuple[Detector, ...]:
    return () if profile is None or profile.together is None else (DepartureDetector.of(profile),)


def _noticing(name: str, sides: tuple[int, ...], threshold: float, settings: WatchSettings) -> Detector:
    """What watches one signal: against its profile where there is one, else against the run's own past."""
    own = ShiftDetector(name, sides, alarm=False, threshold=NOTICE_NATS, warmup=settings.warmup)
    profile = None if settings.profile is None else settings.profile.find(name)
    if profile is None:
        return own
    # One signal's own evidence is weighed by what is normal, and calm runs have bursts: where healthy runs have shown
    # how high the evidence of every signal climbs in them, that decides, and this only tells look-alikes apart.
    alarms = ALARMED.get(name, ()) if settings.profile is not None and settings.profile.together is None else ()
    notices = [side for side in sides if side not in alarms]
    return ProfileDetector(profile, alarms=alarms, notices=notices, threshold=threshold, notice=NOTICE_NATS, own=own)
