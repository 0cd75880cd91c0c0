"""From symptoms to one diagnosis: additive evidence for every fault, and an explicit `UNKNOWN` beside them. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rftfm_ray.diagnosis.fingerprints import FINGERPRINTS, Fingerprint
from rftfm_ray.taxonomy import NUMERICAL, UNKNOWN, family_of, name_of
from rftfm_ray.verdicts import Diagnosis, Evidence, Rival, Symptom

# Nats above which a fault is likelier than one without a fingerprint.
UNKNOWN_NATS = 2.5
# Nats of the numerical fault when a value is not finite: the evidence is certain.
CERTAIN_NATS = 20.0
# Penalty in nats for a symptom that a fault does not explain.
UNEXPLAINED_NATS = 0.5
RIVALS = 3
# Lowest probability of a rival in the summary.
LEAST_NAMED = 0.02
# Lowest probability of a rival in a diagnosis.
LEAST_LISTED = 1e-4


def diagnose(symptoms: Sequence[Symptom]) -> Diagnosis | None:
    """The likeliest explanation of the active symptoms, with its rivals; None without an alarm.

    Probabilities are those of a naive Bayes over faults with equal priors: the exponential of the evidence, normalised.
    """
    alarms = alarms_in(symptoms)
    if not alarms:
        return None
    onset, onset_low = dates_of(alarms)
    # A notice from long before the fault belongs to the normal progress of the run.
    symptoms = [s for s in symptoms if s.alarm or s.onset >= onset_low - 1]
    numerical = FINGERPRINTS[NUMERICAL].weights
    if any(s.signal in numerical and s.evidence is Evidence.IDENTITY and not math.isfinite(s.value) for s in alarms):
        # A value that is not finite explains every other symptom.
        scores = {NUMERICAL: CERTAIN_NATS}
    else:
        scores = {
            code: evidence_for(fingerprint, symptoms) for code, fingerprint in FINGERPRINTS.items() if code != NUMERICAL
        }
    scores[UNKNOWN] = UNKNOWN_NATS
    ranked = _probabilities(scores)
    (code, probability), *others = ranked
    rivals = tuple(
        Rival(rival, share, _against(rival, symptoms)) for rival, share in others[:RIVALS] if share > LEAST_LISTED
    )
    return Diagnosis(
        code=code,
        family=family_of(code),
        probability=probability,
        rivals=rivals,
        symptoms=tuple(symptoms),
        onset=onset,
        onset_low=onset_low,
        summary=_summary(code, probability, alarms, onset, rivals),
    )


def unnamed(symptoms: Sequence[Symptom], reason: str) -> Diagnosis | None:
    """The diagnosis UNKNOWN for alarms without a classification; None without an alarm.

    Args:
        symptoms: that are active.
        reason: why the fault has no name, as a sentence.
    """
    alarms = alarms_in(symptoms)
    if not alarms:
        return None
    onset, onset_low = dates_of(alarms)
    summary = f"Since about step {onset}: {_reasons(alarms)}. {reason}"
    return Diagnosis(UNKNOWN, family_of(UNKNOWN), 1.0, (), tuple(symptoms), onset, onset_low, summary)


def alarms_in(symptoms: Sequence[Symptom]) -> list[Symptom]:
    """The alarms of `symptoms`, without notices."""
    return [symptom for symptom in symptoms if symptom.alarm]


def dates_of(alarms: Sequence[Symptom]) -> tuple[int, int]:
    """The estimated onset of the fault behind some alarms, and the earliest possible one."""
    # Probes are several steps apart: signals that are measured at every step date a fault better.
    dated = [alarm for alarm in alarms if alarm.signal != "probe_accuracy"] or alarms
    return min(alarm.onset for alarm in dated), min(alarm.onset_low for alarm in dated)


def evidence_for(fingerprint: Fingerprint, symptoms: Sequence[Symptom]) -> float:
    """Nats for a fault: weights of explained symptoms, minus those of unexplained and of excluding ones."""
    total = 0.0
    for symptom in symptoms:
        weight = fingerprint.weights.get(symptom.signal, 0.0)
        if weight * symptom.direction > 0:
            total += abs(weight)
        else:
            total -= abs(weight) + (UNEXPLAINED_NATS if symptom.alarm else UNEXPLAINED_NATS / 2)
        total -= fingerprint.excludes.get(symptom.signal, 0.0)
    return total


def _probabilities(scores: dict[str, float]) -> list[tuple[str, float]]:
    """Codes with their probabilities, the likeliest first."""
    most = max(scores.values())
    weights = {code: math.exp(score - most) for code, score in scores.items()}
    total = math.fsum(weights.values())
    # Ties go to the code that comes first in the alphabet, so that equal runs get equal diagnoses.
    return sorted(((code, weight / total) for code, weight in weights.items()), key=lambda pair: (-pair[1], pair[0]))


def _against(code: str, symptoms: Sequence[Symptom]) -> str:
    if code not in FINGERPRINTS:
        return "would be a fault without a fingerprint"
    weights = FINGERPRINTS[code].weights
    # A signal may have several symptoms; it is named once.
    unexplained = list(dict.fromkeys(s.signal for s in symptoms if weights.get(s.signal, 0.0) * s.direction <= 0))
    active = {symptom.signal for symptom in symptoms}
    missing = [name for name, weight in weights.items() if abs(weight) >= 2 and name not in active]
    parts = [f"does not explain {', '.join(unexplained[:3])}"] if unexplained else []
    parts += [f"would move {', '.join(missing[:3])}"] if missing else []
    return " and ".join(parts) or "explains less"


def _summary(code: str, probability: float, alarms: Sequence[Symptom], onset: int, rivals: Sequence[Rival]) -> str:
    """Two sentences: the observation, and its explanation."""
    start = f"Since about step {onset}: {_reasons(alarms)}."
    if code == UNKNOWN:
        return f"{start} No known fault explains this; inspect the run before you continue it."
    likely = [rival for rival in rivals if rival.code != UNKNOWN and rival.probability >= LEAST_NAMED]
    others = "no other known fault is likely"
    if likely:
        others = f"the next likely is {likely[0].code} ({likely[0].probability:.0%}), which {likely[0].against}"
    return f"{start} This is {code} ({name_of(code)}) with a probability of {probability:.0%}; {others}."


def _reasons(alarms: Sequence[Symptom]) -> str:
    return "; ".join(alarm.reason for alarm in alarms)
