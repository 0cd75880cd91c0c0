"""From symptoms to one diagnosis: what it rests on, its rivals, and what it says. Pure."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from rftfm_ray.detection.detectors.exact import FiniteDetector
from rftfm_ray.diagnosis.features import features_of
from rftfm_ray.diagnosis.findings import REGRADE_FINDINGS
from rftfm_ray.diagnosis.fingerprints import FINGERPRINTS, explains, without_readings, would_tell
from rftfm_ray.diagnosis.meaning import nothing_differs
from rftfm_ray.diagnosis.model import DiagnosisModel, installed_model
from rftfm_ray.diagnosis.places import Measured, said_of, source_of
from rftfm_ray.diagnosis.raised import REGRADING
from rftfm_ray.diagnosis.readings import Readings
from rftfm_ray.diagnosis.weighing import Case, alarms_in, also_in, stated_of
from rftfm_ray.numerals import as_percent
from rftfm_ray.taxonomy import NUMERICAL, UNKNOWN, family_of, name_of
from rftfm_ray.verdicts import Diagnosis, Evidence, Rival, Symptom

RIVALS = 3
# Lowest probability of a rival in the summary.
LEAST_NAMED = 0.02
# Lowest probability of a rival in a diagnosis.
LEAST_LISTED = 1e-4
SURE, CLAIMED, PATIENCE = 0.9, 0.6, 6
"""Calibrated probabilities from which a fault is named at once, and so many steps after its first alarm; below it the
fault is only suspected. Evidence grows in the first steps. Chosen on the tune split."""
PERSISTENCE = 3
"""Steps in a row that another fault leads for, until a named fault gets its name: evidence of a step is noisy."""
# What stands still where no gradient is left, whatever the optimizer does.
_OF_GRADIENTS = ("grad_norm", "update_ratio", "changed_rate", "update_gain", "step_kl", "loss", "policy_loss")
_NO_GRADIENT = "Without two different rewards in a group there is no gradient: that nothing changes follows from it."
_REFUSED = "The commit gate refused the update, so its loss was not computed: NaN is no value of it here."


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
        impossible: faults that cannot occur in the run.
        excluded: faults that are known not to be behind these symptoms, and get no probability.
        model: that is asked beside readings; None for the installed one.
    """
    alarms = alarms_in(symptoms)
    if not alarms:
        return None
    onset, onset_low = dates_of(alarms)
    case = case_of(symptoms, readings)
    reasons = reasons_of(alarms)
    if not alarms_in(case.symptoms):
        return unnamed(symptoms, " ".join(case.remarks))
    asked = None if readings is None else model or installed_model()
    out = {*impossible, *excluded}
    ranked = stated_of(case, asked, out)
    also: tuple[str, ...] = ()
    if asked is not None and ranked[0][0] != NUMERICAL:
        also = also_in(case, asked, {ranked[0][0], *out})
    (code, probability), *others = ranked
    possible = [(rival, share) for rival, share in others if rival not in also and share > LEAST_LISTED]
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
        would_tell=_would_tell(ranked, readings, onset_low),
    )


def _would_tell(ranked: Sequence[tuple[str, float]], readings: Readings | None, onset: int) -> tuple[str, ...]:
    """What was not measured since the onset and would tell the two likeliest explanations apart; nothing once sure."""
    likely = [code for code, share in ranked if code != UNKNOWN and share >= LEAST_NAMED][:2]
    if readings is None or len(likely) < 2 or ranked[0][1] >= SURE:
        return ()
    unknown = readings.unmeasured(onset)
    return would_tell(likely, lambda signal: signal in unknown)


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
    if nothing_differs(relevant):
        readings = readings.without(_OF_GRADIENTS)
        remarks.append(_NO_GRADIENT)
    findings = readings.findings(onset_low)
    if readings.update_was_refused_unseen and any(_is_uncomputed(s) for s in relevant):
        relevant = tuple(s for s in relevant if not _is_uncomputed(s))
        remarks.append(_REFUSED)
    if readings.errs_both_ways_from_start and any(s.signal in REGRADING for s in relevant):
        relevant = tuple(s for s in relevant if s.signal not in (*REGRADING, "regrade_error_mean"))
        findings = tuple(finding for finding in findings if finding not in REGRADE_FINDINGS)
        remarks.append(_noisy_verifier(readings.disagreement))
    features = features_of(without_readings(relevant), findings, readings.window(onset))
    return Case(relevant, findings, tuple(remarks), features)


def dated(diagnosis: Diagnosis, onset: int, onset_low: int) -> Diagnosis:
    """The diagnosis with another estimated onset and earliest possible one, in its summary as well."""
    summary = diagnosis.summary.replace(_since(diagnosis.onset), _since(onset), 1)
    return replace(diagnosis, onset=onset, onset_low=onset_low, summary=summary)


def claimed(diagnosis: Diagnosis) -> Diagnosis:
    """The diagnosis as far as it may be claimed: below `CLAIMED` the fault is UNKNOWN, and its name a suspicion."""
    return diagnosis if diagnosis.code == UNKNOWN or diagnosis.probability >= CLAIMED else suspected(diagnosis)


def suspected(diagnosis: Diagnosis) -> Diagnosis:
    """The diagnosis UNKNOWN, with the name as a suspicion.

    It stays one distribution: the probability of UNKNOWN is what the suspicion and its rivals leave of 1.
    """
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
    summary = f"{_since(onset)} {reasons_of(alarms)}. {reason}"
    return Diagnosis(UNKNOWN, family_of(UNKNOWN), 1.0, (), tuple(symptoms), onset, onset_low, summary)


def dates_of(alarms: Sequence[Symptom]) -> tuple[int, int]:
    """The estimated onset of the fault behind some alarms, and the earliest possible one."""
    # Probes are several steps apart: signals that are measured at every step date a fault better.
    dated = [alarm for alarm in alarms if alarm.signal != "probe_accuracy"] or alarms
    return min(alarm.onset for alarm in dated), min(alarm.onset_low for alarm in dated)


def _measured(readings: Readings | None, onset: int) -> Measured:
    return lambda name: math.nan if readings is None else readings.latest(name, onset)


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


def reasons_of(alarms: Iterable[Symptom]) -> str:
    """What alarms say, one for each signal and side: several detectors may watch one."""
    said: dict[tuple[str, int], str] = {}
    for alarm in alarms:
        said.setdefault((alarm.signal, alarm.direction), alarm.reason)
    return "; ".join(dict.fromkeys(said.values()))
