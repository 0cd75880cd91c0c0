"""How likely each fault is: evidence in nats, learnt and written, and an explicit `UNKNOWN` beside them. Pure."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from rftfm_ray.diagnosis.features import Features, is_exact
from rftfm_ray.diagnosis.features import name_of as feature_name
from rftfm_ray.diagnosis.fingerprints import (
    FINGERPRINTS,
    Fingerprint,
    meaning_of,
    meaning_of_readings,
    without_readings,
)
from rftfm_ray.diagnosis.meaning import is_break, nats_of_breaks, nats_of_identities
from rftfm_ray.diagnosis.model import CODES, EXACT, HIGHEST, TELEMETRY, DiagnosisModel
from rftfm_ray.taxonomy import NUMERICAL, UNKNOWN
from rftfm_ray.verdicts import Evidence, Symptom

# Nats above which a fault is likelier than one without a fingerprint.
UNKNOWN_NATS = 2.5
# Added to a learnt share, so that no fault is ruled out because no example had it.
LEAST_SHARE = 0.01
# Nats for a fault, of whatever kind, where there is an alarm: false ones are rare.
FAULT_NATS = 3.0
# Largest share up to which a model has learnt from nothing like a case, and from which from something like it; between
# them the tables fade, so that a case at a limit has one name. Chosen on the tune split.
LIKE_NOTHING, LIKE_SOMETHING = 0.25, 0.35
# Share of a model's answers from which a fault is there beside a leading one.
SEEN = 0.45
# Nats of the numerical fault when a value is not finite: the evidence is certain.
CERTAIN_NATS = 20.0
# Penalty in nats for a symptom that a fault does not explain.
UNEXPLAINED_NATS = 0.5

_Evidence = tuple[Sequence[Symptom], Sequence[str]]
"""Symptoms and findings."""


@dataclass(frozen=True, slots=True)
class Case:
    """What a diagnosis rests on.

    Attributes:
        symptoms: that count: those that something harmless explains are left out.
        findings: `findings.FINDINGS` that hold.
        remarks: sentences on what was left out.
        features: what the learnt evidence is about.
    """

    symptoms: tuple[Symptom, ...]
    findings: tuple[str, ...]
    remarks: tuple[str, ...]
    features: Features


def alarms_in(symptoms: Sequence[Symptom]) -> list[Symptom]:
    """The alarms of `symptoms`, without notices."""
    return [symptom for symptom in symptoms if symptom.alarm]


def stated_of(case: Case, model: DiagnosisModel | None, excluded: Collection[str] = ()) -> list[tuple[str, float]]:
    """Codes with their stated probabilities, the likeliest first.

    A model weighs symptoms together with readings, so that without readings the fingerprints alone decide.

    Args:
        case: with an alarm.
        model: that is asked; None for fingerprints alone.
        excluded: faults that are known not to be behind it.
    """
    if _is_numerical(case.symptoms):
        # A value that is not finite explains every other symptom.
        return _probabilities({NUMERICAL: CERTAIN_NATS, UNKNOWN: UNKNOWN_NATS})
    if model is None:
        prints = fingerprint_scores(case.symptoms)
        tables = nats_of_breaks(case.symptoms, tuple(prints)), meaning_of_readings(case.symptoms)
        told = {code: nats + math.fsum(table.get(code, 0.0) for table in tables) for code, nats in prints.items()}
        scores = _without({**told, UNKNOWN: UNKNOWN_NATS}, excluded)
        return [(code, min(HIGHEST, share)) for code, share in _probabilities(scores)]
    return _calibrated(ranked_by(case, model, excluded), model, level_of(alarms_in(case.symptoms)))


def ranked_by(case: Case, model: DiagnosisModel, excluded: Collection[str] = ()) -> list[tuple[str, float]]:
    """Codes with the probabilities of a model, before calibration, the likeliest first."""
    return _probabilities(_without(scores_of(case, model), excluded))


def level_of(alarms: Sequence[Symptom]) -> str:
    """The kind of evidence of some alarms, one of those with a calibration of their own."""
    return EXACT if any(alarm.evidence is not Evidence.TELEMETRY for alarm in alarms) else TELEMETRY


def also_in(case: Case, model: DiagnosisModel, others: Collection[str]) -> tuple[str, ...]:
    """Codes of faults that a model sees beside a leading one, the likeliest first, and that no check speaks against.

    Args:
        case: what the diagnosis rests on.
        model: whose answers are one for each fault, so that two can be yes.
        others: the leading fault, and those that are ruled out.
    """
    shares = zip(CODES, model.shares(case.features).tolist(), strict=True)
    against = nats_of_identities(case.symptoms, CODES, case.findings, meaning_of_readings(case.symptoms))
    seen = sorted((-share, code) for code, share in shares if share >= SEEN and code not in {*others, *against})
    return tuple(code for _, code in seen)


def scores_of(case: Case, model: DiagnosisModel) -> dict[str, float]:
    """Nats for every fault but the numerical one, and for `UNKNOWN`.

    The model has learnt what residuals mean, and symptoms and findings that it has seen. Of others, of telemetry
    without a residual, and of absolute readings, it says nothing: for them the written tables speak, and so they do for
    faults that it does not know, and for everything where it knows nothing like it. What cannot break a broken identity
    is ruled out whatever the model says: trees weigh exact evidence like any other, and would outvote it.
    """
    shares = dict(zip(CODES, model.shares(case.features).tolist(), strict=True))
    none = max(0.0, 1.0 - math.fsum(shares.values()))
    codes = [code for code in FINGERPRINTS if code != NUMERICAL]
    nats = {code: math.log(shares.get(code, 0.0) + LEAST_SHARE) for code in codes}
    nats[UNKNOWN] = math.log(none + LEAST_SHARE) - FAULT_NATS
    new, learnt = _parted_by(case, model)
    like_nothing = (LIKE_SOMETHING - max(shares.values())) / (LIKE_SOMETHING - LIKE_NOTHING)
    fading = min(1.0, max(0.0, like_nothing))
    readings = meaning_of_readings(case.symptoms)
    tables = [
        (1.0, nats_of_identities(case.symptoms, codes, case.findings, readings)), (1.0, readings),
        *((1.0, table) for table in _written_of(*new, codes)),
        *((fading, table) for table in _written_of(*learnt, codes)),
    ]  # fmt: skip
    return {
        code: value + math.fsum(weight * table.get(code, 0.0) for weight, table in tables)
        for code, value in nats.items()
    }


def _parted_by(case: Case, model: DiagnosisModel) -> tuple[_Evidence, _Evidence]:
    """The evidence that a model has learnt nothing of, and that which it has."""
    known = [_is_learnt(symptom, case.features, model) for symptom in case.symptoms]
    seen = [model.has_seen(finding) for finding in case.findings]
    new, learnt = (
        (
            [symptom for symptom, is_known in zip(case.symptoms, known, strict=True) if is_known is wanted],
            [finding for finding, is_seen in zip(case.findings, seen, strict=True) if is_seen is wanted],
        )
        for wanted in (False, True)
    )
    return new, learnt


def _written_of(
    symptoms: Sequence[Symptom], findings: Collection[str], codes: Sequence[str]
) -> tuple[Mapping[str, float], ...]:
    """What the written tables say of some symptoms and findings, in nats by fault."""
    return fingerprint_scores(symptoms), nats_of_breaks(symptoms, codes), meaning_of(findings)


def _is_learnt(symptom: Symptom, features: Features, model: DiagnosisModel) -> bool:
    """Whether a model has learnt what a symptom says, by its name or by the residuals of its signal."""
    if is_exact(symptom):
        return model.has_seen(feature_name(symptom))
    return features.window is not None and features.window.knows(symptom.signal)


def fingerprint_scores(symptoms: Sequence[Symptom]) -> dict[str, float]:
    """Nats for every fault but the numerical one, by fingerprints."""
    signs = without_readings(symptoms)
    return {code: evidence_for(print_, signs) for code, print_ in FINGERPRINTS.items() if code != NUMERICAL}


def evidence_for(fingerprint: Fingerprint, symptoms: Sequence[Symptom]) -> float:
    """Nats for a fault: weights of explained symptoms, minus those of unexplained and of excluding ones.

    What a broken law means stands in a table of its own (`meaning`), and not in the fingerprint of its signal.
    """
    total = 0.0
    for symptom in symptoms:
        if is_break(symptom):
            continue
        weight = fingerprint.weights.get(symptom.signal, 0.0)
        if weight * symptom.direction > 0:
            total += abs(weight)
        else:
            total -= abs(weight) + (UNEXPLAINED_NATS if symptom.alarm else UNEXPLAINED_NATS / 2)
        total -= fingerprint.excludes.get(symptom.signal, 0.0)
    return total


def _is_numerical(symptoms: Sequence[Symptom]) -> bool:
    numerical = FINGERPRINTS[NUMERICAL].weights
    return any(
        s.signal in numerical and s.evidence is Evidence.IDENTITY and not math.isfinite(s.value)
        for s in alarms_in(symptoms)
    )


def _probabilities(scores: Mapping[str, float]) -> list[tuple[str, float]]:
    """Codes with their probabilities, the likeliest first."""
    most = max(scores.values())
    weights = {code: math.exp(score - most) for code, score in scores.items()}
    total = math.fsum(weights.values())
    # Ties go to the code that comes first in the alphabet, so that equal runs get equal diagnoses.
    return sorted(((code, weight / total) for code, weight in weights.items()), key=lambda pair: (-pair[1], pair[0]))


def _without(scores: Mapping[str, float], excluded: Collection[str]) -> dict[str, float]:
    return {code: score for code, score in scores.items() if code == UNKNOWN or code not in excluded}


def _calibrated(ranked: list[tuple[str, float]], model: DiagnosisModel, level: str) -> list[tuple[str, float]]:
    """The leading fault with its calibrated probability; the others share the rest, and none overtakes it."""
    (code, probability), *others = ranked
    if code == UNKNOWN:
        return ranked
    right = model.calibrated(probability, level)
    rest = math.fsum(share for _, share in others)
    scale = (1 - right) / rest if rest > 0 else 0.0
    return [(code, right), *((other, min(right, share * scale)) for other, share in others)]
