"""Fault signatures: the direction in which each fault moves the signals, and the weight of that evidence.

Weights are nats, reasoned from mechanism: 5 for a symptom that hardly any other fault has, 1 for a common one. The
sign gives the direction. `excludes` are signals whose symptom is evidence against the fault, with their nats. Names and
families are in `taxonomy`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

from rftfm_ray.detection.detectors.readings import PREFIX
from rftfm_ray.diagnosis.meaning import explains_break, is_break
from rftfm_ray.verdicts import Diagnosis, Symptom


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """The symptoms of one fault.

    Attributes:
        weights: nats by signal; the sign is the direction in which the fault moves it.
        excludes: nats by signal that its symptom subtracts.
        harm: signals that show the damage of the fault; a remedy is verified on them.
    """

    weights: Mapping[str, float]
    excludes: Mapping[str, float] = field(default_factory=dict)
    harm: tuple[str, ...] = ()


TELLING = 4.0
"""Nats from which evidence parts a fault from others."""
MOST_WANTED = 6
"""Signals that are named at most as those that would tell more."""


def would_tell(codes: Iterable[str], is_wanted: Callable[[str], bool]) -> tuple[str, ...]:
    """Signals that part some explanations from others.

    Args:
        codes: of the faults.
        is_wanted: whether a signal is wanted: it is not known yet, and could be.
    """
    told = (FINGERPRINTS[code].weights.items() for code in codes if code in FINGERPRINTS)
    wanted = [signal for weights in told for signal, nats in weights if abs(nats) >= TELLING and is_wanted(signal)]
    return tuple(dict.fromkeys(wanted))[:MOST_WANTED]


def explained_signals(diagnosis: Diagnosis) -> frozenset[str]:
    """The signals of a diagnosis that its fault moves in the direction in which they have moved."""
    return frozenset(s.signal for s in diagnosis.symptoms if explains(diagnosis.code, s))


def explains(code: str, symptom: Symptom) -> bool:
    """Whether a fault moves the signal of a symptom to its side, or can break the law that it is about."""
    if is_break(symptom):
        return explains_break(code, symptom)
    return FINGERPRINTS.get(code, Fingerprint({})).weights.get(symptom.signal, 0.0) * symptom.direction > 0


MEANINGS: Mapping[str, Mapping[str, float]] = {
    # Misplaced credit is that of other tokens; noise gives numbers that no token has.
    "credit_of_other_tokens": {"CA-3": 4},
    "credit_lag_exceeded": {"CA-3": 4},
    "credit_of_no_token": {"CA-2": 4},
    # A rule with another discount gives other advantages and other returns.
    "credit_by_another_rule": {"CA-3": 4},
    # Ends that are drawn too often leave empty answers, or short ones: their share says which.
    "ends_sampled_more": {"PG-1": 3, "PG-3S": 3},
    "ends_sampled_less": {"PG-3L": 5},
    "answers_empty": {"PG-1": 2, "PG-3S": -3},
    "ends_forbidden": {"PG-3L": 5},
    "repeats_sampled_more": {"PG-2": 5},
    "sampled_colder": {"OD-3": 5},
    # A gap that follows no kind of token: weights that did not arrive.
    "sampled_by_other_weights": {"OD-2": 3},
    "turns_cut_short": {"PG-3S": 4},
    "limit_lower": {"TE-3": 5},
    "limit_higher": {"PG-3L": 3, "TE-3": 3},
    # What an answer is paid too much for is what the policy will learn.
    "regrade_of_empty": {"PG-1": 5},
    "regrade_follows_repetition": {"PG-2": 5},
    "regrade_follows_length": {"PG-3L": 5},
    "regrade_follows_shortness": {"PG-3S": 5},
    "regrade_of_right_paid_less": {"RF-2": 4},
    "regrade_of_every_wrong": {"RF-1": 4, "RF-3": -2},
    "regrade_of_right_and_wrong": {"RF-1": 4},
    # A loophole pays those wrong answers that go through it, which have something in common.
    "regrade_of_some_wrong": {"RF-3": 2, "RF-1": 1},
    "regrade_follows_form": {"RF-3": 5},
    "regrade_by_chance": {"RF-1": 4, "RF-3": -2},
}
"""Nats by fault of findings that are exact, so that nothing about them has to be learnt."""


def meaning_of(findings: Collection[str]) -> Mapping[str, float]:
    """Nats by fault of some findings; findings without a written meaning have none."""
    total: dict[str, float] = {}
    for finding in findings:
        for code, nats in MEANINGS.get(finding, {}).items():
            total[code] = total.get(code, 0.0) + nats
    return total


READING_MEANINGS: Mapping[str, Mapping[str, float]] = {
    # Equal rewards come from a channel that pays everything alike as well as from answers that are all the same.
    "groups_agree": {"OD-3": 1, "RF-2": 1},
    "groups_agree_from_start": {"OD-3": 0.5, "RF-2": 0.5},
    "gradient_zero": {"OD-2": 1},
    # An update that goes nowhere is a frozen one, whatever has frozen it.
    "rate_zero": {"OD-2": 5},
    "updates_refused": {"CA-2": 1},
    "kl_impossible": {"OD-1": 4},
    "kl_large": {"OD-1": 2},
    "step_kl_impossible": {"OD-1": 5},
    "entropy_impossible": {},
    "entropy_huge": {"OD-1": 2},
    "certain_but_wrong": {"OD-3": 3, "RF-3": 2},
    # Weights that were not sent, a sampler that is not the declared one: which, the kind of token tells, not the size.
    "rollout_ratio": {"OD-2": 1.5, "OD-3": 1, "PG-1": 1, "PG-2": 1, "PG-3S": 1, "PG-3L": 1},
    "rollout_kl": {"OD-2": 1.5, "OD-3": 1, "PG-1": 1, "PG-2": 1, "PG-3S": 1, "PG-3L": 1},
    "rollout_gap_max": {"OD-3": 0.5, "PG-1": 0.5, "PG-2": 0.5, "PG-3S": 0.5, "PG-3L": 0.5},
    "ratio_impossible": {"OD-1": 2},
    "clip_share": {"OD-1": 1},
    "critic_worse_than_none": {"CA-1": 2},
    # A limit that was lowered cuts answers off as answers that grow do.
    "cut_off": {"PG-3L": 2, "TE-3": 2},
    "length_pinned": {"PG-3L": 3, "TE-3": 2},
    "reward_lost": {"RF-2": 0.5},
    # What is paid for is something else than right answers, and the policy has found it.
    "paid_for_wrong": {"RF-3": 6},
    "right_answers_lost": {"RF-3": 6},
    "held_out_lost": {"RF-3": 6},
    "kl_without_gain": {"OD-1": 1, "RF-3": 0.5},
    "broke_together": {},
    "drift_correct_rate": {},
    "drift_entropy": {"OD-1": 0.5},
    "drift_grad_norm": {"OD-1": 1},
    "drift_rollout_kl": {"OD-2": 2},
    "drift_rollout_ratio_mean": {"OD-2": 2},
    "drift_truncated_rate": {"PG-3L": 2, "TE-3": 1},
    "drift_empty_rate": {"PG-1": 3},
    "drift_repeated_bigram_rate": {"PG-2": 3},
    "drift_failed_rate": {"TE-1": 1},
    "drift_tool_error_rate": {"TE-1": 3},
    "drift_clip_high_rate": {"OD-1": 1},
    "drift_clip_low_rate": {"OD-1": 1},
    "drift_explained_variance": {"CA-1": 2},
}
"""Nats by fault of an absolute reading, by its name. They are written, not learnt: few recorded runs go that far.

A reading counts by this table alone: its signal may have a symptom of its own beside it, and must not count twice.
"""


def meaning_of_readings(symptoms: Collection[Symptom]) -> Mapping[str, float]:
    """Nats by fault of the readings among some symptoms."""
    total: dict[str, float] = {}
    for symptom in symptoms:
        for code, nats in READING_MEANINGS.get(symptom.detector.removeprefix(PREFIX), {}).items():
            total[code] = total.get(code, 0.0) + nats
    return total


def without_readings(symptoms: Iterable[Symptom]) -> tuple[Symptom, ...]:
    """The symptoms that fingerprints and learnt evidence are about."""
    return tuple(symptom for symptom in symptoms if not symptom.detector.startswith(PREFIX))


FINGERPRINTS: Mapping[str, Fingerprint] = {
    "RF-1": Fingerprint(
        {
            "trained_mismatch_rate": 5,
            "regrade_error_mean": 2,
            "golden_mismatch_rate": 4,
            "regrade_mismatch_rate": 4,
            "reward_max": 1,
            "reward_mean": 1,
            "reward_std": 0.5,
        },
        harm=("trained_mismatch_rate",),
    ),
    "RF-2": Fingerprint(
        {
            "trained_mismatch_rate": 5,
            "regrade_error_mean": -2,
            "golden_mismatch_rate": 4,
            "regrade_mismatch_rate": 4,
            "reward_mean": -1,
            "reward_std": -0.5,
        },
        harm=("trained_mismatch_rate",),
    ),
    "RF-3": Fingerprint(
        {"probe_accuracy": -2, "reward_mean": 2, "length_mean": 0.5, "repeated_bigram_rate": 0.5, "kl_ref": 0.5},
        # The loophole is in the verifier itself: regrading gives the same reward.
        excludes={"trained_mismatch_rate": 4, "update_ratio": 2},
        harm=("probe_accuracy",),
    ),
    "PG-1": Fingerprint(
        {"empty_rate": 5, "length_mean": -1, "reward_mean": -1},
        harm=("empty_rate", "length_mean"),
    ),
    "PG-2": Fingerprint(
        {"repeated_bigram_rate": 5, "length_mean": 1, "entropy": -0.5},
        harm=("repeated_bigram_rate",),
    ),
    "PG-3S": Fingerprint({"length_mean": -3, "reward_mean": -0.5}, {"empty_rate": 2}, ("length_mean",)),
    "PG-3L": Fingerprint(
        {"length_mean": 3, "truncated_rate": 2},
        {"repeated_bigram_rate": 2},
        ("length_mean", "truncated_rate"),
    ),
    "OD-1": Fingerprint(
        {
            "update_ratio": 5,
            "lr_excess": 5,
            "update_gain": 5,
            "kl_ref": 4,
            "grad_norm": 1,
            "probe_accuracy": -1,
            "reward_mean": -0.5,
        },
        harm=("update_ratio", "kl_ref"),
    ),
    "OD-2": Fingerprint(
        {"changed_rate": -5, "weights_mismatch": 5, "update_gain": -5, "update_ratio": -4, "grad_norm": -0.5},
        harm=("changed_rate", "weights_mismatch"),
    ),
    "OD-3": Fingerprint(
        {"entropy": -3, "zero_variance_group_rate": 1.5, "reward_std": -0.5},
        {"update_ratio": 2},
        ("entropy",),
    ),
    "CA-1": Fingerprint(
        {"value_error": 5, "return_error": 5, "explained_variance": -3, "value_loss": 3, "advantage_mean": 0.5},
        # Where the rewards have changed the critic is only behind.
        {"trained_mismatch_rate": 3, "update_ratio": 1},
        ("value_loss", "explained_variance"),
    ),
    "CA-2": Fingerprint(
        {"advantage_error": 5, "credit_error": 5, "advantage_max": 3, "grad_norm": 1, "kl_ref": 0.5},
        # Seen in the rewards as well, it is the rewards.
        {"trained_mismatch_rate": 3, "reward_std": 2, "update_ratio": 2},
        ("advantage_max",),
    ),
    "CA-3": Fingerprint(
        {
            "sample_mismatch_rate": 5,
            "advantage_error": 4,
            "credit_error": 4,
            "return_error": 2,
            "credit_lag": 4,
            "credit_correlation": -2,
        },
        {"advantage_max": 1},
        ("credit_lag",),
    ),
    "TE-1": Fingerprint(
        {
            "tool_error_rate": 5,
            "known_call_error_rate": 4,
            "tool_shadow_error_rate": 4,
            "tool_retry_rate": 4,
            "valid_rate": -1,
            "reward_mean": -0.5,
            "probe_accuracy": -0.5,
        },
        harm=("tool_error_rate",),
    ),
    "TE-2": Fingerprint(
        {
            "observation_mismatch_rate": 5,
            "replay_observation_mismatch_rate": 5,
            "observation_decode_mismatch_rate": 5,
            "entropy_observed": 1,
            "reward_mean": -0.5,
        },
        {"tool_error_rate": 1},
        ("observation_mismatch_rate", "replay_observation_mismatch_rate"),
    ),
    "TE-3": Fingerprint(
        {
            "replay_termination_mismatch_rate": 5,
            "termination_mismatch_rate": 5,
            "limit_excess": -5,
            "truncated_rate": 2,
            "reward_mean": -1,
            "length_mean": -0.5,
        },
        {"tool_error_rate": 3, "update_ratio": 2},
        ("replay_termination_mismatch_rate", "termination_mismatch_rate", "truncated_rate"),
    ),
    # Only the user can mend the code or the service that gives the verdicts, so it has no remedy.
    "VERIFIER": Fingerprint(
        {"verifier_error_rate": 8, "valid_rate": -2, "golden_mismatch_rate": 1},
        harm=("verifier_error_rate",),
    ),
    "NUMERICAL": Fingerprint(
        {"loss": 8, "grad_norm": 8, "kl_ref": 8, "entropy": 8, "reward_mean": 8},
        harm=("vetoes",),
    ),
}
