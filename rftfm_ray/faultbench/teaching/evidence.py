"""What a trainer logs that measures less: telemetry alone, telemetry with laws, or everything. Pure; numpy.

The same restriction makes windows that teach a model, and runs that it is judged on: symptoms of other evidence do not
exist, and figures of independent channels and identities, with every finding, are unknown.
"""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum

import numpy as np

from rftfm_ray.detection.detectors.laws import FLOOR, LAW
from rftfm_ray.diagnosis.classify import dates_of
from rftfm_ray.diagnosis.features import FIGURES, UNMEASURED, Features, features_of
from rftfm_ray.diagnosis.findings import READ
from rftfm_ray.diagnosis.fingerprints import without_readings
from rftfm_ray.diagnosis.weighing import Case, alarms_in
from rftfm_ray.faultbench.teaching.following import Diagnosed, Followed
from rftfm_ray.signals.groups import TELEMETRY
from rftfm_ray.verdicts import Evidence, Symptom

_LAWFUL = (f"{LAW}:", f"{FLOOR}:")
_LOGGED_FIGURES = np.array([name in TELEMETRY for name in FIGURES])
_LOGGED_VALUES = np.array([name in TELEMETRY for name in READ])


class EvidenceScope(StrEnum):
    """The evidence that a diagnosis may rest on."""

    TELEMETRY = "telemetry"
    LAWS = "laws"
    ALL = "all"

    def covers(self, symptom: Symptom) -> bool:
        """Whether a symptom is of this evidence. A floor is one with the laws: it has the same form."""
        if self is EvidenceScope.ALL:
            return True
        if symptom.detector.startswith(_LAWFUL):
            return self is EvidenceScope.LAWS
        return symptom.evidence is Evidence.TELEMETRY


def less_of(features: Features, scope: EvidenceScope) -> Features:
    """Features as far as they are of some evidence."""
    window = features.window
    if window is None or scope is EvidenceScope.ALL:
        return features
    is_lawful = scope is EvidenceScope.LAWS
    present = tuple(name for name in features.present if is_lawful and name.partition(" ")[2].startswith(_LAWFUL))
    return Features(present, replace(window, figures=np.where(_LOGGED_FIGURES, window.figures, UNMEASURED)))


def restricted(run: Followed, scope: EvidenceScope) -> Followed:
    """A run as a guard sees it that has this evidence alone: its alarms, their onsets, and what is read since."""
    if scope is EvidenceScope.ALL:
        return run
    return replace(
        run,
        values=np.where(_LOGGED_VALUES, run.values, np.nan),
        symptoms=tuple(tuple(filter(scope.covers, symptoms)) for symptoms in run.symptoms),
        diagnosed=tuple(less for each in run.diagnosed if (less := _less_diagnosed(run, each, scope)) is not None),
    )


def _less_diagnosed(run: Followed, diagnosed: Diagnosed, scope: EvidenceScope) -> Diagnosed | None:
    """A diagnosis by some evidence; None where that raises no alarm."""
    symptoms = tuple(filter(scope.covers, diagnosed.case.symptoms))
    alarms = alarms_in(symptoms)
    if not alarms:
        return None
    onset, onset_low = dates_of(alarms)
    onset = min(diagnosed.step, onset)
    # As for the whole evidence: a notice from long before the fault is not about it.
    relevant = tuple(symptom for symptom in symptoms if symptom.alarm or symptom.onset >= onset_low - 1)
    features = features_of(without_readings(relevant), (), run.window(onset, diagnosed.step))
    return Diagnosed(diagnosed.step, onset, Case(relevant, (), diagnosed.case.remarks, less_of(features, scope)))
