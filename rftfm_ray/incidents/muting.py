"""Muted faults, which were left to people: they open no second incident while they last. Pure.

What a muted fault explains is left out of a step, and the rest is diagnosed by itself: another fault may begin at any
time, and a step has one diagnosis for all of its alarms. A lasting fault goes on to change the policy, so the rest is
another fault only where it shows one in another part of the run (`parts`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from rftfm_ray.diagnosis.classify import CLAIMED, unnamed
from rftfm_ray.diagnosis.fingerprints import explains
from rftfm_ray.diagnosis.weighing import alarms_in
from rftfm_ray.incidents.parts import Part, measured_part, part_of, shows_another
from rftfm_ray.incidents.state import Incident
from rftfm_ray.policies.playbook import plan_of
from rftfm_ray.taxonomy import UNKNOWN, VERIFIER
from rftfm_ray.verdicts import Assessment, Diagnosis, Evidence, Place, Rediagnoser, Symptom

Mark: TypeAlias = tuple[str, int]
"""What an alarm is known by: its signal and its side."""

NOT_NAMED = "What a fault that was left to people explains is left out, and the rest has no name."


@dataclass(frozen=True, slots=True)
class MutedShare:
    """A muted fault as a value: code, place, of each mark signal, side, evidence and silent steps, its own silence."""

    code: str
    place: str | None
    marks: tuple[tuple[str, int, Evidence, int], ...]
    silent_code: int


@dataclass(slots=True)
class _MutedFault:
    """A muted fault: code and place, the strongest evidence of each of its marks, and the steps of silence of both."""

    code: str
    place: Place | None
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

    def parts(self) -> set[Part]:
        """The parts of the run that it is in; of a fault without a name those that its alarms measure."""
        part = part_of(self.code)
        if part is not None:
            return {part}
        measured = (measured_part(mark[0], self.evidence[mark]) for mark in self.silent)
        return {each for each in measured if each is not None}


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

    def share(self) -> tuple[MutedShare, ...]:
        """The muted faults as values."""
        return tuple(
            MutedShare(
                fault.code,
                None if fault.place is None else fault.place.value,
                tuple((*mark, fault.evidence[mark], steps) for mark, steps in fault.silent.items()),
                fault.silent_code,
            )
            for fault in self._faults
        )

    def take_over(self, shares: tuple[MutedShare, ...]) -> None:
        """Mute the faults of another run's share instead."""
        self._faults = [
            _MutedFault(
                share.code,
                None if share.place is None else Place(share.place),
                {(signal, side): evidence for signal, side, evidence, _ in share.marks},
                {(signal, side): silent for signal, side, _, silent in share.marks},
                share.silent_code,
            )
            for share in shares
        ]

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
        explained = [symptom for symptom in alarms if _explains(code, incident.place, symptom)]
        others = [s for s in alarms if s not in explained and s.onset <= incident.opened.step]
        # A fault without a name explains nothing, so that all of its alarms are its own: were those that have a name by
        # themselves left out, it would be opened again as soon as it is closed. A name that may be claimed ends it.
        if others and code != UNKNOWN and rediagnoser is not None:
            signals = {symptom.signal for symptom in explained}
            other = rediagnoser.rediagnose(others, signals - {s.signal for s in others}, (code,))
            others = [] if other is not None and _is_claimed(other) else others
        evidence: dict[Mark, Evidence] = dict.fromkeys(plan_of(code, incident.place).source_sides, Evidence.IDENTITY)
        for symptom in (*explained, *others):
            evidence[_mark(symptom)] = max(symptom.evidence, evidence.get(_mark(symptom), symptom.evidence))
        self._faults.append(_MutedFault(code, incident.place, evidence, dict.fromkeys(evidence, 0)))

    def unmuted(self, assessment: Assessment) -> Diagnosis | None:
        """Count one step, and return its diagnosis without what muted faults explain; None where nothing is left.

        What is left is a muted fault that goes on, and stays muted, where it has the code of one, or shows no fault in
        another part of the run. Faults without a name are not muted any more once the step has a name that may be
        claimed: with all of its alarms, for they are the evidence for it. A rest that may be claimed by itself comes
        first: it has a date of its own.
        """
        diagnosis = assessment.diagnosis
        if not self._faults:
            return diagnosis
        rest = None if diagnosis is None else self._rest(diagnosis, assessment.rediagnoser)
        active = {_mark(symptom) for symptom in diagnosis.symptoms if symptom.alarm} if diagnosis is not None else set()
        codes = {each.code for each in (diagnosis, rest) if each is not None}
        self._faults = [fault for fault in self._faults if fault.observe(codes, active, self._silence)]
        other = None if rest is None or self._goes_on(rest) else rest
        if other is not None and _is_claimed(other):
            return other
        if diagnosis is not None and _is_claimed(diagnosis) and all(f.code == UNKNOWN for f in self._faults):
            return diagnosis
        return other

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
            fault.code
            for fault in self._faults
            if not any(_explains(fault.code, fault.place, symptom) for symptom in alarms)
        } - {UNKNOWN}
        return rediagnoser.rediagnose(left, explained - {symptom.signal for symptom in alarms}, tuple(excluded))

    def _goes_on(self, rest: Diagnosis) -> bool:
        """Whether what is left of a step is no other fault than those that are muted."""
        if not self._faults:
            return False
        named = rest.code != UNKNOWN and rest.code in {fault.code for fault in self._faults}
        known = set[Part]().union(*(fault.parts() for fault in self._faults))
        changes_policy = any(fault.code != VERIFIER for fault in self._faults)
        return named or not shows_another(alarms_in(rest.symptoms), known, changes_policy=changes_policy)


def _is_claimed(diagnosis: Diagnosis) -> bool:
    return diagnosis.code != UNKNOWN and diagnosis.probability >= CLAIMED


def _mark(symptom: Symptom) -> Mark:
    return symptom.signal, symptom.direction


def _explains(code: str, place: Place | None, symptom: Symptom) -> bool:
    """Whether a fault moves the signal of a symptom to its side, by its fingerprint or as its cause."""
    return explains(code, symptom) or _mark(symptom) in plan_of(code, place).source_sides
