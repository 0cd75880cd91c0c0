"""From symptoms to one diagnosis: additive evidence for every fault, and an explicit `UNKNOWN` beside them. Pure."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from rftfm_ray.detection.detectors.exact import FiniteDetector
from rftfm_ray.diagnosis.features import Features, features_of, is_exact
from rftfm_ray.diagnosis.features import name_of as feature_name
from rftfm_ray.diagnosis.findings import REGRADE_FINDINGS
from rftfm_ray.diagnosis.fingerprints import (
    FINGERPRINTS,
    Fingerprint,
    explains,
    meaning_of,
    meaning_of_readings,
    without_readings,
)
from rftfm_ray.diagnosis.meaning import is_break, nats_of_breaks
from rftfm_ray.diagnosis.model import CODES, EXACT, HIGHEST, TELEMETRY, DiagnosisModel, installed_model
from rftfm_ray.diagnosis.places import Measured, said_of, source_of
from rftfm_ray.diagnosis.readings import Readings
from rftfm_ray.taxonomy import NUMERICAL, UNKNOWN, family_of, name_of
from rftfm_ray.verdicts import Diagnosis, Evidence, Rival, Symptom, as_percent

# Nats above which a fault is likelier than one without a fingerprint.
UNKNOWN_NATS = 2.5
# Added to a learnt share, so that no fault is ruled out because no example had it.
LEAST_SHARE = 0.01
# Nats for a fault, of whatever kind, where there is an alarm: false ones are rare.
FAULT_NATS = 3.0
# Largest share below which a model has learnt from nothing like a case. Chosen on the tune split.
LIKE_NOTHING = 0.25
# Share of a model's answers from which a fault is there beside a leading one.
SEEN = 0.45
# Nats of the numerical fault when a value is not finite: the evidence is certain.
CERTAIN_NATS = 20.0
# Penalty in nats for a symptom that a fault does not explain.
UNEXPLAINED_NATS = 0.5
RIVALS = 3
# Lowest probability of a rival in the summary.
LEAST_NAMED = 0.02
# Lowest probability of a rival in a diagnosis.
LEAST_LISTED = 1e-4
CLAIMED = 0.6
"""Calibrated probability from which a fault is named; below it the fault is only suspected."""
# Alarms that say nothing but that the reward channel and the trusted verifier disagree.
_REGRADING = ("trained_mismatch_rate", "regrade_mismatch_rate", "golden_mismatch_rate")
_REFUSED = "The commit gate refused the update, so its loss was not computed: NaN is no value of it here."


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


def diagnose(
    symptoms: Sequence[Symptom],
    readings: Readings | None = None,
    impossible: Sequence[str] = (),
    excluded: Collection[str] = (),
    model: DiagnosisModel | None = None,
) -> Diagnosis | None:
    """The likeliest explanation of the active symptoms, with its rivals; None without an alarm.

    What the model has learnt and what is written of evidence that it has never seen are added, their exponential is
    normalised, and the result is calibrated: of recorded diagnoses with this probability so many were right.

    Args:
        symptoms: that are active.
        readings: of the run up to the newest step; None where symptoms are all that is known: fingerprints alone then
            decide.
        impossible: faults that cannot occur in the run, and are not listed as rivals.
        excluded: faults that are known not to be behind these symptoms, and get no probability.
        model: that is asked beside readings; None for the installed one.
    """
    alarms = alarms_in(symptoms)
    if not alarms:
        return None
    onset, onset_low = dates_of(alarms)
    case = case_of(symptoms, readings)
    reasons = _reasons(alarms)
    if not alarms_in(case.symptoms):
        return unnamed(symptoms, " ".join(case.remarks))
    asked = None if readings is None else model or installed_model()
    ranked = stated_of(case, asked, excluded)
    also: tuple[str, ...] = ()
    if asked is not None and ranked[0][0] != NUMERICAL:
        also = also_in(case, asked, {ranked[0][0], *impossible, *excluded})
    (code, probability), *others = ranked
    possible = [(rival, share) for rival, share in others if rival not in (*impossible, *also) and share > LEAST_LISTED]
    rivals = tuple(Rival(rival, share, _against(rival, case.symptoms)) for rival, share in possible[:RIVALS])
    text = f"{_since(onset)} {reasons}. {_summary(code, probability, rivals)}"
    source = source_of(code, case.symptoms, _measured(readings, onset_low))
    return Diagnosis(
        code=code,
        family=family_of(code),
        probability=probability,
        rivals=rivals,
        symptoms=case.symptoms,
        onset=onset,
        onset_low=onset_low,
        summary=" ".join(
            (text, *_said(also), *(said_of(source) if source.is_told or probability >= CLAIMED else ()), *case.remarks)
        ),
        place=source.place,
        strength=source.strength,
        strength_of=source.strength_of,
        also=also,
    )


def also_in(case: Case, model: DiagnosisModel, others: Collection[str]) -> tuple[str, ...]:
    """Codes of faults that a model sees beside a leading one, the likeliest first.

    Args:
        case: what the diagnosis rests on.
        model: whose answers are one for each fault, so that two can be yes.
        others: the leading fault, and those that are ruled out.
    """
    shares = zip(CODES, model.shares(case.features).tolist(), strict=True)
    seen = sorted((-share, code) for code, share in shares if share >= SEEN and code not in others)
    return tuple(code for _, code in seen)


def _said(also: Sequence[str]) -> list[str]:
    named = " and ".join(f"{code} ({name_of(code)})" for code in also)
    return [f"{named} {'is' if len(also) == 1 else 'are'} likely there as well."] if also else []


def case_of(symptoms: Sequence[Symptom], readings: Readings | None) -> Case:
    """What a diagnosis rests on: the symptoms that need an explanation, and what is read beside them.

    Args:
        symptoms: that are active, with an alarm among them.
        readings: of the run; None where symptoms are all that is known.
    """
    onset, onset_low = dates_of(alarms_in(symptoms))
    # A notice from long before the fault belongs to the normal progress of the run.
    relevant = tuple(s for s in symptoms if s.alarm or s.onset >= onset_low - 1)
    if readings is None:
        return Case(relevant, (), (), features_of(without_readings(relevant)))
    remarks = list[str]()
    findings = readings.findings(onset_low)
    if readings.update_was_refused_unseen and any(_is_uncomputed(s) for s in relevant):
        relevant = tuple(s for s in relevant if not _is_uncomputed(s))
        remarks.append(_REFUSED)
    if readings.errs_both_ways_from_start and any(s.signal in _REGRADING for s in relevant):
        relevant = tuple(s for s in relevant if s.signal not in (*_REGRADING, "regrade_error_mean"))
        findings = tuple(finding for finding in findings if finding not in REGRADE_FINDINGS)
        remarks.append(_noisy_verifier(readings.disagreement))
    features = features_of(without_readings(relevant), findings, readings.window(onset))
    return Case(relevant, findings, tuple(remarks), features)


def scores_of(case: Case, model: DiagnosisModel) -> dict[str, float]:
    """Nats for every fault but the numerical one, and for `UNKNOWN`.

    The model has learnt what residuals mean, and symptoms and findings that it has seen. Of others, of telemetry
    without a residual, and of absolute readings, it says nothing: for them the written tables speak, and so they do for
    faults that it does not know, and for everything where it knows nothing like it.
    """
    shares = dict(zip(CODES, model.shares(case.features).tolist(), strict=True))
    none = max(0.0, 1.0 - math.fsum(shares.values()))
    codes = [code for code in FINGERPRINTS if code != NUMERICAL]
    nats = {code: math.log(shares.get(code, 0.0) + LEAST_SHARE) for code in codes}
    nats[UNKNOWN] = math.log(none + LEAST_SHARE) - FAULT_NATS
    is_new = max(shares.values()) < LIKE_NOTHING
    new = tuple(s for s in case.symptoms if is_new or not _is_learnt(s, case.features, model))
    findings = tuple(finding for finding in case.findings if is_new or not model.has_seen(finding))
    tables = (
        fingerprint_scores(new), nats_of_breaks(new, codes), meaning_of_readings(case.symptoms), meaning_of(findings),
    )  # fmt: skip
    return {code: value + math.fsum(table.get(code, 0.0) for table in tables) for code, value in nats.items()}


def _is_learnt(symptom: Symptom, features: Features, model: DiagnosisModel) -> bool:
    """Whether a model has learnt what a symptom says, by its name or by the residuals of its signal."""
    if is_exact(symptom):
        return model.has_seen(feature_name(symptom))
    return features.window is not None and features.window.knows(symptom.signal)


def fingerprint_scores(symptoms: Sequence[Symptom]) -> dict[str, float]:
    """Nats for every fault but the numerical one, by fingerprints."""
    signs = without_readings(symptoms)
    return {code: evidence_for(print_, signs) for code, print_ in FINGERPRINTS.items() if code != NUMERICAL}


def dated(diagnosis: Diagnosis, onset: int, onset_low: int) -> Diagnosis:
    """The diagnosis with another estimated onset and earliest possible one, in its summary as well."""
    summary = diagnosis.summary.replace(_since(diagnosis.onset), _since(onset), 1)
    return replace(diagnosis, onset=onset, onset_low=onset_low, summary=summary)


def claimed(diagnosis: Diagnosis) -> Diagnosis:
    """The diagnosis as far as it may be claimed: below `CLAIMED` the fault is UNKNOWN, and its name a suspicion.

    It stays one distribution: the probability of UNKNOWN is what the suspicion and its rivals leave of 1.
    """
    if diagnosis.code == UNKNOWN or diagnosis.probability >= CLAIMED:
        return diagnosis
    suspicion = Rival(diagnosis.code, diagnosis.probability, "suspected, but not likely enough to be named")
    rivals = (suspicion, *(rival for rival in diagnosis.rivals if rival.code != UNKNOWN))[:RIVALS]
    rest = max(0.0, 1 - math.fsum(rival.probability for rival in rivals))
    # What a suspicion says of a place is worth no more than the suspicion; what a check tells is.
    source = source_of(UNKNOWN, diagnosis.symptoms, _measured(None, diagnosis.onset_low))
    return replace(
        diagnosis, code=UNKNOWN, family=family_of(UNKNOWN), probability=rest, rivals=rivals, place=source.place,
        strength=source.strength, strength_of=source.strength_of,
    )  # fmt: skip


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
    summary = f"{_since(onset)} {_reasons(alarms)}. {reason}"
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


def _measured(readings: Readings | None, onset: int) -> Measured:
    return lambda name: math.nan if readings is None else readings.latest(name, onset)


def _is_numerical(symptoms: Sequence[Symptom]) -> bool:
    numerical = FINGERPRINTS[NUMERICAL].weights
    return any(
        s.signal in numerical and s.evidence is Evidence.IDENTITY and not math.isfinite(s.value)
        for s in alarms_in(symptoms)
    )


def _is_uncomputed(symptom: Symptom) -> bool:
    """Whether a symptom says that a value of the update is not finite."""
    of_update = symptom.signal in FiniteDetector.OF_UPDATES and symptom.evidence is Evidence.IDENTITY
    return of_update and not math.isfinite(symptom.value)


def _noisy_verifier(rate: float) -> str:
    share = "some" if math.isnan(rate) else f"{rate:.1%}"
    return (
        f"The verifier is not deterministic: since the first steps it has graded {share} of the same answers "
        "differently, as often up as down. Make it deterministic, or set guard.regrade_noise to that share, below 0.05."
    )


def _probabilities(scores: Mapping[str, float]) -> list[tuple[str, float]]:
    """Codes with their probabilities, the likeliest first."""
    most = max(scores.values())
    weights = {code: math.exp(score - most) for code, score in scores.items()}
    total = math.fsum(weights.values())
    # Ties go to the code that comes first in the alphabet, so that equal runs get equal diagnoses.
    return sorted(((code, weight / total) for code, weight in weights.items()), key=lambda pair: (-pair[1], pair[0]))


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


def _against(code: str, symptoms: Sequence[Symptom]) -> str:
    if code not in FINGERPRINTS:
        return "a fault that is not in the taxonomy"
    weights = FINGERPRINTS[code].weights
    # A signal may have several symptoms; it is named once.
    unexplained = list(dict.fromkeys(s.signal for s in symptoms if not explains(code, s)))
    active = {symptom.signal for symptom in symptoms}
    missing = [name for name, weight in weights.items() if abs(weight) >= 2 and name not in active]
    parts = [f"does not explain {', '.join(unexplained[:3])}"] if unexplained else []
    parts += [f"would show in {', '.join(missing[:3])}"] if missing else []
    return " and ".join(parts) or "explains less"


def _summary(code: str, probability: float, rivals: Sequence[Rival]) -> str:
    """What explains the observation, and how likely that is."""
    if code == UNKNOWN:
        return "No known fault explains this; inspect the run before you continue it."
    likely = [rival for rival in rivals if rival.code != UNKNOWN and rival.probability >= LEAST_NAMED]
    if probability < CLAIMED:
        start = f"{code} ({name_of(code)}) is suspected, with a probability of {as_percent(probability)}"
    else:
        start = f"This is {code} ({name_of(code)}) with a probability of {as_percent(probability)}"
    if not likely:
        return f"{start}."
    rival = likely[0]
    return f"{start}; the next likely is {rival.code} ({as_percent(rival.probability)}), which {rival.against}."


def _since(onset: int) -> str:
    return f"Since about step {onset}:"


def _reasons(alarms: Sequence[Symptom]) -> str:
    return "; ".join(alarm.reason for alarm in alarms)
