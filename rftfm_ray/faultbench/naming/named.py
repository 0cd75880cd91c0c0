"""The name that the fault of a run is given, by one rule for every way to name faults. Pure.

A fault is named as soon as a name is stated with `SURE`, and at the latest `PATIENCE` steps after the alarm: then it
has the likeliest name, or UNKNOWN where that is less likely than `CLAIMED`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from rftfm_ray.diagnosis.classify import CLAIMED, PATIENCE, SURE, dates_of
from rftfm_ray.diagnosis.findings import latest
from rftfm_ray.diagnosis.model import DiagnosisModel
from rftfm_ray.diagnosis.places import source_of
from rftfm_ray.diagnosis.readings import WINDOW
from rftfm_ray.diagnosis.weighing import alarms_in, stated_of
from rftfm_ray.faultbench.detectors.references import ReferenceMode
from rftfm_ray.faultbench.runs.plan import Entry, mechanism_of
from rftfm_ray.faultbench.teaching.evidence import EvidenceScope
from rftfm_ray.faultbench.teaching.following import Diagnosed, Followed, first_diagnosed
from rftfm_ray.faults.kinds import CATALOGUE, Mechanism
from rftfm_ray.taxonomy import UNKNOWN, family_of
from rftfm_ray.verdicts import Family, Place

NO_ALARM = "-"
"""What a fault without an alarm is named: it is not a name of anything, so it is wrong."""
Ranking = Sequence[tuple[str, float]]
Ranker = Callable[[Followed, Diagnosed], Ranking]
"""Ranks the faults that can be behind an alarm of a run, with stated probabilities, the likeliest first."""


@dataclass(frozen=True, slots=True)
class Name:
    """What an alarm was named.

    Attributes:
        code: of the fault, or UNKNOWN.
        probability: as stated at the naming step, of the likeliest code.
        alarm: step of the alarm.
        step: at which it had its final name.
        ranking: at that step.
        place: where the source of the fault is said to sit.
        detectors: that had an alarm at that step.
    """

    code: str
    probability: float
    alarm: int
    step: int
    ranking: tuple[tuple[str, float], ...]
    place: Place | None
    detectors: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NamedRun:
    """The name of a run's fault.

    Attributes:
        entry: of the run, which has one fault.
        mode: of the reference.
        scope: the evidence that the name may rest on.
        switch: step at which the fault was switched on.
        effect: step of its effect.
        name: that it was given; None without an alarm from the switch on.
        was_open: whether an alarm was open already at the switch, so that no later one is of the fault.
    """

    entry: Entry
    mode: ReferenceMode
    scope: EvidenceScope
    switch: int
    effect: int
    name: Name | None
    was_open: bool

    @property
    def code(self) -> str:
        """The name as one of the codes, UNKNOWN or `NO_ALARM`."""
        return NO_ALARM if self.name is None else self.name.code

    @property
    def truth(self) -> str:
        """Code of its fault."""
        return self.entry.code

    @property
    def mechanism(self) -> Mechanism:
        """Of its fault."""
        return CATALOGUE[self.truth].mechanism(mechanism_of(self.entry))

    @property
    def is_right(self) -> bool:
        """Whether it was named as what it is."""
        return self.code == self.truth

    @property
    def is_in_place(self) -> bool:
        """Whether the place of its source was told."""
        return self.name is not None and self.name.place is self.mechanism.acts_in

    @property
    def family(self) -> str:
        """Family of the name; `NO_ALARM` without one."""
        return NO_ALARM if self.name is None else family_of(self.name.code).value

    @property
    def true_family(self) -> Family:
        """Family of its fault."""
        return family_of(self.truth)


def ranker_of(model: DiagnosisModel | None) -> Ranker:
    """Ranks as a model states it, or as fingerprints alone do."""
    return lambda _, diagnosed: stated_of(diagnosed.case, model)


def name_of_alarm(run: Followed, diagnosed: Sequence[Diagnosed], ranker: Ranker, least: float = CLAIMED) -> Name:
    """The name of an alarm.

    Args:
        run: with the alarm.
        diagnosed: its diagnoses from the alarm on, at least one.
        ranker: ranks the faults.
        least: probability below which the alarm stays UNKNOWN.
    """
    alarm = diagnosed[0].step
    at, ranking = diagnosed[0], tuple[tuple[str, float], ...]()
    for at in within_patience(diagnosed):
        ranking = tuple(ranker(run, at))
        if ranking[0][0] != UNKNOWN and ranking[0][1] >= SURE:
            break
    code, probability = ranking[0]
    code = code if probability >= least else UNKNOWN
    detectors = tuple(dict.fromkeys(symptom.detector for symptom in alarms_in(at.case.symptoms)))
    return Name(code, probability, alarm, at.step, ranking, place_of(run, at, code), detectors)


def within_patience(diagnosed: Sequence[Diagnosed]) -> Iterator[Diagnosed]:
    """The diagnoses from an alarm on that can name it."""
    return (each for each in diagnosed if each.step <= diagnosed[0].step + PATIENCE)


def place_of(run: Followed, diagnosed: Diagnosed, code: str) -> Place | None:
    """Where the source of a fault is said to sit, as a diagnosis says it."""
    symptoms = diagnosed.case.symptoms
    _, onset_low = dates_of(alarms_in(symptoms))
    values = run.values[min(diagnosed.step, max(1, onset_low, diagnosed.step - WINDOW + 1)) - 1 : diagnosed.step]
    return source_of(code, symptoms, lambda name: latest(values, name)).place


def named_run(
    run: Followed, mode: ReferenceMode, scope: EvidenceScope, ranker: Ranker, least: float = CLAIMED
) -> NamedRun:
    """The name of the fault of a run.

    Args:
        run: with one fault, already restricted to the evidence.
        mode: of its reference.
        scope: the evidence.
        ranker: ranks the faults.
        least: probability below which the fault stays UNKNOWN.
    """
    diagnosed = first_diagnosed(run)
    name = name_of_alarm(run, diagnosed, ranker, least) if diagnosed else None
    was_open = any(each.step == run.switch - 1 for each in run.diagnosed)
    return NamedRun(run.entry, mode, scope, run.switch, run.effect, name, was_open)


def alarms_of_own(run: Followed) -> list[list[Diagnosed]]:
    """The alarms of a run without a fault that are not those of the run that it was forked from, each as diagnoses at
    consecutive steps."""
    alarms = list[list[Diagnosed]]()
    for each in run.diagnosed:
        if alarms and each.step == alarms[-1][-1].step + 1:
            alarms[-1].append(each)
        else:
            alarms.append([each])
    return [alarm for alarm in alarms if alarm[0].step > run.entry.fork]


def false_name(run: Followed, ranker: Ranker) -> str:
    """The first fault that a run without one is said to have; empty where none is named."""
    names = (name_of_alarm(run, alarm, ranker).code for alarm in alarms_of_own(run))
    return next((code for code in names if code != UNKNOWN), "")
