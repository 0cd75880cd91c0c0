"""Muted faults, which were left to people: they open no second incident while they last. Pure.

What a muted fault explains is left out of a step, and the rest is diagnosed by itself: another fault may begin at any
time, and a step has one diagnosis for all of its alarms.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from rftfm_ray.diagnosis.classify import CLAIMED, alarms_in, unnamed
from rftfm_ray.diagnosis.fingerprints import FINGERPRINTS
from rftfm_ray.incidents.state import Incident
from rftfm_ray.policies.playbook import plan_of
from rftfm_ray.taxonomy import UNKNOWN
from rftfm_ray.verdicts import Assessment, Diagnosis, Evidence, Rediagnoser, Symptom

Mark: TypeAlias = tuple[str, int]
"""What an alarm is known by: its signal and its side."""

NOT_NAMED = "What a fault that was left to people explains is left out, and the rest has no name."


@dataclass(slots=True)
class _MutedFault:
    """A muted fault: its code, the strongest evidence of each of its marks, and the steps of silence of both."""

    code: str
    evidence: dict[Mark, Evidence]
    silent: dict[Mark, int]
    silent_code: int = 0

    def observe(self, codes: set[str], active: set[Mark], silence: int) -> bool:
        """Count one step; whether the fault lasts. A mark is forgotten after its silence."""
        self.silent_code = 0 if self.code in codes else self.silent_code + 1
        counted = {mark: 0 if mark in active else steps + 1 for mark, steps in self.silent.items()}
        self.silent = {mark: steps for mark, steps in counted.items() if steps < silence}
        return bool(self.silent) or self.silent_code < silence

    def has(self, symptom: Symptom) -> bool:
        """Whether this is one of the fault's alarms, on no stronger evidence than the fault had."""
        mark = _mark(symptom)
        return mark in self.silent and symptom.evidence <= self.evidence[mark]


class MutedFaults:
    """Muted faults, until they have been silent for `silence` steps.

    Args:
        silence: steps of silence after which a fault is over.
    """

    def __init__(self, silence: int) -> None:
        self._silence = silence
        self._faults: list[_MutedFault] = []

    def __bool__(self) -> bool:
        return bool(self._faults)

    def add(self, incident: Incident, diagnosis: Diagnosis | None, rediagnoser: Rediagnoser | None) -> None:
        """Mute the fault of an incident: by its code, the signals of its cause, and the alarms that it explains.

        Of the alarms that its fingerprint does not explain, those that began later than the incident are not muted with
        it, nor are those that make up another fault by themselves.

        Args:
            incident: left to people.
            diagnosis: its newest one.
            rediagnoser: of the newest step.
        """
        code, alarms = incident.code, alarms_in(diagnosis.symptoms) if diagnosis is not None else []
        explained = [symptom for symptom in alarms if _explains(code, symptom)]
        others = [s for s in alarms if s not in explained and s.onset <= incident.opened.step]
        if others and rediagnoser is not None:
            signals = {symptom.signal for symptom in explained}
            other = rediagnoser.rediagnose(others, signals - {s.signal for s in others}, (code,))
            others = [] if other is not None and _is_claimed(other) else others
        evidence: dict[Mark, Evidence] = dict.fromkeys(
            ((signal, 1) for signal in plan_of(code).source_signals), Evidence.IDENTITY
        )
        for symptom in (*explained, *others):
            evidence[_mark(symptom)] = max(symptom.evidence, evidence.get(_mark(symptom), symptom.evidence))
        self._faults.append(_MutedFault(code, evidence, dict.fromkeys(evidence, 0)))

    def unmuted(self, assessment: Assessment) -> Diagnosis | None:
        """Count one step, and return its diagnosis without what muted faults explain; None where nothing is left.

        What is left is a muted fault that grows, and stays muted, where it has the code of one, or where it has no name
        that may be claimed and is telemetry that such a fault moves. No fault without a name explains more than
        telemetry.
        """
        diagnosis = assessment.diagnosis
        if not self._faults:
            return diagnosis
        rest = None if diagnosis is None else self._rest(diagnosis, assessment.rediagnoser)
        active = {_mark(symptom) for symptom in diagnosis.symptoms if symptom.alarm} if diagnosis is not None else set()
        codes = {each.code for each in (diagnosis, rest) if each is not None}
        self._faults = [fault for fault in self._faults if fault.observe(codes, active, self._silence)]
        return None if rest is None or self._grows(rest) else rest

    def _rest(self, diagnosis: Diagnosis, rediagnoser: Rediagnoser | None) -> Diagnosis | None:
        """The diagnosis of the symptoms that are not those of a muted fault; the same one where none is."""
        left = [s for s in diagnosis.symptoms if not any(fault.has(s) for fault in self._faults)]
        if len(left) == len(diagnosis.symptoms):
            return diagnosis
        alarms = alarms_in(left)
        if rediagnoser is None or not alarms:
            return unnamed(left, NOT_NAMED)
        explained = {signal for fault in self._faults for signal, _ in fault.silent}
        excluded = {
            fault.code for fault in self._faults if not any(_explains(fault.code, symptom) for symptom in alarms)
        } - {UNKNOWN}
        return rediagnoser.rediagnose(left, explained - {symptom.signal for symptom in alarms}, tuple(excluded))

    def _grows(self, rest: Diagnosis) -> bool:
        alarms, codes = alarms_in(rest.symptoms), {fault.code for fault in self._faults}
        telemetry = all(symptom.evidence is Evidence.TELEMETRY for symptom in alarms)
        if rest.code in codes:
            return rest.code != UNKNOWN or telemetry
        follows = all(any(_explains(code, symptom) for code in codes) for symptom in alarms)
        return bool(alarms) and telemetry and follows and not _is_claimed(rest)


def _is_claimed(diagnosis: Diagnosis) -> bool:
    return diagnosis.code != UNKNOWN and diagnosis.probability >= CLAIMED


def _mark(symptom: Symptom) -> Mark:
    return symptom.signal, symptom.direction


def _explains(code: str, symptom: Symptom) -> bool:
    """Whether a fault moves the signal of a symptom to its side, by its fingerprint or as its cause."""
    fingerprint = FINGERPRINTS.get(code)
    moved = fingerprint.weights.get(symptom.signal, 0.0) if fingerprint is not None else 0.0
    is_source = symptom.signal in plan_of(code).source_signals and symptom.direction > 0
    return moved * symptom.direction > 0 or is_source
