"""From symptoms to one diagnosis: additive evidence for every fault, and an honest `unknown` beside them. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rftfm_ray.diagnosis.fingerprints import FINGERPRINTS, Fingerprint, family_of, name_of
from rftfm_ray.verdicts import Diagnosis, Evidence, Rival, Symptom

UNKNOWN = "UNKNOWN"
# What a fault must bring together to be likelier than one that nobody has described.
UNKNOWN_NATS = 2.5
# A symptom that a fault does not explain.
UNEXPLAINED_NATS = 0.5
RIVALS = 3
# A rival below this is not worth a word.
NEAR = 0.02


def diagnose(symptoms: Sequence[Symptom]) -> Diagnosis | None:
    """The likeliest explanation of the symptoms that stand now, with its rivals; None without an alarm.

    Probabilities are those of a naive Bayes over faults with equal priors: the exponential of the evidence, shared out.
    """
    alarms = [symptom for symptom in symptoms if symptom.alarm]
    if not alarms:
        return None
    # Between two probes lie several steps: a signal that is measured at each of them dates a fault better.
    dated = [alarm for alarm in alarms if alarm.signal != "probe_accuracy"] or alarms
    first = min(alarm.onset_low for alarm in dated)
    # A notice that stood long before the fault is the run's own course.
    symptoms = [s for s in symptoms if s.alarm or s.onset >= first - 1]
    known = FINGERPRINTS["NUMERICAL"].weights
    broken = any(s.signal in known and s.evidence is Evidence.IDENTITY and not math.isfinite(s.value) for s in alarms)
    if broken:
        # No threshold, no doubt: a value that is not a number explains whatever else is seen.
        scores = {"NUMERICAL": 20.0}
    else:
        scores = {code: evidence_for(print_, symptoms) for code, print_ in FINGERPRINTS.items() if code != "NUMERICAL"}
    scores[UNKNOWN] = UNKNOWN_NATS
    most = max(scores.values())
    scores = {code: score - most for code, score in scores.items()}
    total = math.fsum(math.exp(score) for score in scores.values())
    # Ties go to the name that comes first, so that equal runs tell equal stories.
    ranked = sorted(((code, math.exp(score) / total) for code, score in scores.items()), key=lambda p: (-p[1], p[0]))
    (code, probability), *others = ranked
    rivals = tuple(Rival(rival, share, _against(rival, symptoms)) for rival, share in others[:RIVALS] if share > 1e-4)
    onset = min(alarm.onset for alarm in dated)
    return Diagnosis(
        code=code,
        family=family_of(code),
        probability=probability,
        rivals=rivals,
        symptoms=tuple(symptoms),
        onset=onset,
        onset_low=first,
        summary=_summary(code, probability, alarms, onset, rivals),
    )


def evidence_for(fingerprint: Fingerprint, symptoms: Sequence[Symptom]) -> float:
    """Nats for a fault: weights of what it explains, less what it does not explain and what excludes it."""
    total = 0.0
    for symptom in symptoms:
        weight = fingerprint.weights.get(symptom.signal, 0.0)
        if weight * symptom.direction > 0:
            total += abs(weight)
        else:
            total -= abs(weight) + (UNEXPLAINED_NATS if symptom.alarm else UNEXPLAINED_NATS / 2)
        total -= fingerprint.excludes.get(symptom.signal, 0.0)
    return total


def _against(code: str, symptoms: Sequence[Symptom]) -> str:
    if code not in FINGERPRINTS:
        return "would be something that nobody has described"
    fingerprint = FINGERPRINTS[code]
    strange = [s.signal for s in symptoms if fingerprint.weights.get(s.signal, 0.0) * s.direction <= 0]
    seen = {symptom.signal for symptom in symptoms}
    missing = [name for name, weight in fingerprint.weights.items() if abs(weight) >= 2 and name not in seen]
    parts = [f"does not explain {', '.join(strange[:3])}"] if strange else []
    parts += [f"would move {', '.join(missing[:3])}"] if missing else []
    return " and ".join(parts) or "explains less"


def _summary(code: str, probability: float, alarms: Sequence[Symptom], onset: int, rivals: Sequence[Rival]) -> str:
    """Two sentences in plain words: what is seen, and what it means."""
    seen = "; ".join(alarm.reason for alarm in alarms)
    if code == UNKNOWN:
        return f"Since about step {onset}: {seen}. No described fault explains this; look at it before going on."
    described = [rival for rival in rivals if rival.code != UNKNOWN and rival.probability >= NEAR]
    beside = "nothing else that is described comes near"
    if described:
        beside = f"next to it comes {described[0].code} ({described[0].probability:.0%}), which {described[0].against}"
    meaning = f"This is {code} ({name_of(code)}) with a probability of {probability:.0%}; {beside}."
    return f"Since about step {onset}: {seen}. {meaning}"
