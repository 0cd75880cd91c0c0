"""The parts of a training run that signals measure themselves, apart from what a policy has become. Pure.

A lasting fault changes the policy, and in time whatever describes its answers, its distance to the reference, its
reward and its held-out accuracy. Such signals do not show that another fault has begun beside it. Those listed here
measure a part of the run, and stay as they are where that part works. Only a verifier that fails changes no policy:
what has no verdict is not trained on.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from enum import StrEnum

from rftfm_ray.taxonomy import VERIFIER, family_of
from rftfm_ray.verdicts import Evidence, Family, Symptom


class Part(StrEnum):
    """A part of a training run that can be at fault."""

    REWARD = "reward"
    VERIFIER = "verifier"
    ENVIRONMENT = "environment"
    UPDATE = "update"
    CREDIT = "credit"


_SIGNALS: Mapping[Part, tuple[str, ...]] = {
    Part.REWARD: (
        "trained_mismatch_rate", "regrade_mismatch_rate", "regrade_error_mean", "golden_mismatch_rate",
        "golden_right_error", "golden_wrong_error", "regrade_hit_right", "regrade_hit_wrong", "regrade_by_length",
        "regrade_by_repetition", "regrade_empty", "regrade_by_form", "golden_repeat_mismatch_rate",
    ),
    Part.VERIFIER: ("verifier_error_rate",),
    Part.ENVIRONMENT: (
        "tool_error_rate", "tool_timeout_rate", "tool_retry_rate", "tool_shadow_error_rate", "known_call_error_rate",
        "observation_mismatch_rate", "replay_observation_mismatch_rate", "replay_termination_mismatch_rate",
        "termination_mismatch_rate", "observation_decode_mismatch_rate", "limit_excess", "cut_short_rate",
    ),
    Part.UPDATE: (
        "update_ratio", "step_kl", "changed_rate", "lr_excess", "schedule_excess", "weights_mismatch", "parity_gap",
        "rollout_gap_max", "update_gain",
    ),
    Part.CREDIT: (
        "advantage_error", "credit_error", "credit_known_share", "return_error", "value_error",
        "sample_mismatch_rate", "credit_lag", "credit_correlation",
    ),
}  # fmt: skip
MEASURED: Mapping[str, Part] = {signal: part for part, signals in _SIGNALS.items() for signal in signals}
"""The part that a signal measures; no other signal measures one."""
_OF_LAWS: Mapping[Part, tuple[str, ...]] = {
    Part.CREDIT: ("advantage_mean", "advantage_std", "return_early", "policy_loss"),
    Part.UPDATE: ("loss", "ratio_max", "clip_high_rate", "kl_ref", "grad_norm", "lr"),
    Part.REWARD: ("reward_mean",),
    Part.ENVIRONMENT: ("turns_mean", "length_max", "valid_rate"),
}
# A signal that follows the policy measures a part where a law of it is broken.
_MEASURED_BY_LAW: Mapping[str, Part] = {signal: part for part, signals in _OF_LAWS.items() for signal in signals}
# Generation faults are in the reward as often as in the sampler: a policy that is paid for something learns it.
_OF_FAMILIES: Mapping[Family, Part] = {
    Family.RF: Part.REWARD, Family.PG: Part.REWARD, Family.OD: Part.UPDATE, Family.SYNC: Part.UPDATE,
    Family.NUMERICAL: Part.UPDATE, Family.CA: Part.CREDIT, Family.TE: Part.ENVIRONMENT,
}  # fmt: skip
# Of telemetry only the size of an update measures a part: noise of the others follows the answers.
SIZES = ("update_ratio", "step_kl")


def part_of(code: str) -> Part | None:
    """The part of the run that a fault is in; None where nobody knows."""
    return Part.VERIFIER if code == VERIFIER else _OF_FAMILIES.get(family_of(code))


def shows_another(alarms: Iterable[Symptom], known: Collection[Part], *, changes_policy: bool) -> bool:
    """Whether alarms show a fault in another part of the run than those that are known to be at fault.

    Args:
        alarms: that the known faults do not explain.
        known: parts that are at fault.
        changes_policy: whether a known fault changes the policy, so that what a policy has become shows nothing.
    """
    return any(
        (_measures(alarm) or not changes_policy) and measured_part(alarm.signal, alarm.evidence) not in known
        for alarm in alarms
    )


def measured_part(signal: str, evidence: Evidence) -> Part | None:
    """The part that an alarm of a signal is about; None where it measures none."""
    part = MEASURED.get(signal)
    return _MEASURED_BY_LAW.get(signal) if part is None and evidence is Evidence.LAW else part


def _measures(alarm: Symptom) -> bool:
    """Whether an alarm is about a part: a broken law, an identity of any signal, or more than telemetry of a part."""
    if alarm.evidence is Evidence.LAW:
        return True
    if alarm.signal not in MEASURED:
        return alarm.evidence is Evidence.IDENTITY
    return alarm.evidence is not Evidence.TELEMETRY or alarm.signal in SIZES
