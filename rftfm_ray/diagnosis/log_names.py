"""Names the fault behind the alarms of a step log, as far as its columns go, and says which columns would tell more.

The rule is that of a guarded run: the evidence of the first alarm and of `PATIENCE` rows after it, and no name below
`CLAIMED`. A log of another trainer lacks most of what parts look-alikes, so how its telemetry has moved makes a
suspicion alone; a name takes a broken law, a value that is not finite, or a reading of one meaning.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from rftfm_ray.detection.detectors.exact import FiniteDetector
from rftfm_ray.detection.detectors.laws import LAW
from rftfm_ray.detection.detectors.readings import PREFIX
from rftfm_ray.detection.observed import Observation, Observed
from rftfm_ray.detection.readings.base import Grade
from rftfm_ray.diagnosis.classify import PATIENCE, claimed, diagnose, suspected
from rftfm_ray.diagnosis.diagnoser import CRITIC_FAULT
from rftfm_ray.diagnosis.fingerprints import FINGERPRINTS, TELLING, meaning_of_readings, would_tell
from rftfm_ray.diagnosis.log_laws import LogLaw
from rftfm_ray.diagnosis.log_readings import Break
from rftfm_ray.diagnosis.readings import WINDOW, Readings
from rftfm_ray.numerals import as_percent
from rftfm_ray.taxonomy import UNKNOWN, name_of
from rftfm_ray.verdicts import EXACT_EVIDENCE, Diagnosis, Evidence, Rival, Symptom

# Beginnings of alarms that are kept; a log whose alarms come and go has more.
MOST_EPISODES = 50


@dataclass(frozen=True, slots=True)
class LogName:
    """What the fault behind the first alarms of a log is named.

    Attributes:
        code: of the fault; UNKNOWN where none is likely enough to be named.
        name: of the code.
        probability: of the code.
        first_step: step of the log at which the fault began, as estimated.
        named_at: step of the log whose evidence is the last that counts.
        rivals: other explanations with their probabilities and what speaks against each; a suspicion stands first.
        place: where the source of the fault sits; empty where nothing tells it.
        says: in one sentence or two.
        would_tell: signals without a column in the log that would tell the likeliest explanations apart.
    """

    code: str
    name: str
    probability: float
    first_step: int
    named_at: int
    rivals: tuple[Rival, ...]
    place: str
    says: str
    would_tell: tuple[str, ...]


class Witness:
    """Keeps what the monitor has said around the beginnings of alarms, so that they can be named later.

    Rows count from 1, as the steps of the monitor's reports do.
    """

    def __init__(self) -> None:
        self._before: deque[Observation] = deque(maxlen=WINDOW)
        self._episodes: list[list[Observation]] = []
        self._begun: list[int] = []
        self._open = False

    def watch(self, observed: Observed) -> None:
        """Take the next rows; those that are far from any alarm are left out."""
        near = np.zeros(len(observed), bool)
        # The first alarm of the next rows has these before it.
        near[-WINDOW:] = True
        if self._begun:
            near[: max(0, self._begun[-1] + PATIENCE + WINDOW + 1 - int(observed.view.steps[0]))] = True
        for row in observed.symptoms:
            near[max(0, row - WINDOW) : row + PATIENCE + WINDOW + 1] = True
        for row in np.flatnonzero(near).tolist():
            self.observe(observed.at(row))

    def observe(self, observation: Observation) -> None:
        """Take the next row."""
        alarmed, row = any(symptom.alarm for symptom in observation.symptoms), observation.report.id.step
        if alarmed and not self._open and len(self._episodes) < MOST_EPISODES:
            self._episodes.append(list(self._before))
            self._begun.append(row)
        self._open = alarmed
        if self._begun and row <= self._begun[-1] + PATIENCE + WINDOW:
            self._episodes[-1].append(observation)
        self._before.append(observation)

    def between(self, first: int, last: int) -> tuple[Readings, tuple[Symptom, ...]]:
        """What is read of the rows up to the last, and the symptoms of the rows from the first on.

        Nothing is known of rows that are far from the beginning of any alarm of the monitor.
        """
        readings, symptoms = Readings(), dict[tuple[str, str, int], Symptom]()
        near = [kept for begun, kept in zip(self._begun, self._episodes, strict=True) if begun <= last]
        for observation in near[-1] if near else ():
            row = observation.report.id.step
            if row <= last:
                readings.observe(observation)
            if first <= row <= last:
                symptoms |= {(s.detector, s.signal, s.direction): s for s in observation.symptoms}
        return readings, tuple(symptoms.values())


@dataclass(frozen=True, slots=True)
class Heard:
    """What was said of a log.

    Attributes:
        witness: of the monitor.
        laws: that were judged.
        breaks: of readings.
        not_finite: signals that stop being finite, with the row (from 0) at which they do.
    """

    witness: Witness
    laws: Sequence[LogLaw]
    breaks: Sequence[Break]
    not_finite: Sequence[tuple[str, int]]


def name_log(
    heard: Heard, alarms: Collection[tuple[str, int]], steps: Sequence[int], columns: Collection[str]
) -> LogName | None:
    """The name of the fault behind the first alarms of a log; None without an alarm.

    Args:
        heard: of the log.
        alarms: that stand: their signals, with the row (from 0) at which each was raised.
        steps: of the log.
        columns: signals that the log has a column for.
    """
    if not alarms:
        return None
    first = min(row for _, row in alarms) + 1
    last = min(first + PATIENCE, len(steps))
    readings, symptoms = heard.witness.between(first, last)
    standing = {signal for signal, _ in alarms}
    others = [*_of_laws(heard.laws), *_of_readings(heard.breaks), *map(_not_finite, heard.not_finite)]
    evidence = [symptom for symptom in symptoms if not symptom.alarm or symptom.signal in standing]
    evidence += [symptom for row, symptom in others if row <= last]
    has_critic = any(name in columns for name in FINGERPRINTS[CRITIC_FAULT].harm)
    found = diagnose(evidence, readings, () if has_critic else (CRITIC_FAULT,))
    if found is None:
        return None
    return _named(claimed(found) if _is_told(found, evidence) else suspected(found), steps, last, columns)


def _is_told(diagnosis: Diagnosis, evidence: Sequence[Symptom]) -> bool:
    """Whether a name rests on more than how telemetry has moved, which in these columns many faults move alike."""
    exact = any(symptom.alarm and symptom.evidence in EXACT_EVIDENCE for symptom in evidence)
    return exact or meaning_of_readings(evidence).get(diagnosis.code, 0.0) >= TELLING


def _named(diagnosis: Diagnosis, steps: Sequence[int], last: int, columns: Collection[str]) -> LogName:
    likely = [diagnosis.code, *(rival.code for rival in diagnosis.rivals[:2])]
    return LogName(
        code=diagnosis.code,
        name=name_of(diagnosis.code),
        probability=round(diagnosis.probability, 4),
        first_step=int(steps[max(0, diagnosis.onset - 1)]),
        named_at=int(steps[last - 1]),
        rivals=tuple(Rival(rival.code, round(rival.probability, 4), rival.against) for rival in diagnosis.rivals),
        place="" if diagnosis.place is None else str(diagnosis.place),
        says=_said(diagnosis),
        would_tell=would_tell(likely, lambda signal: signal not in columns),
    )


def _said(diagnosis: Diagnosis) -> str:
    rivals = [rival for rival in diagnosis.rivals if rival.code != UNKNOWN]
    if diagnosis.code != UNKNOWN:
        start = f"This looks like {diagnosis.code} ({name_of(diagnosis.code)}), {as_percent(diagnosis.probability)}"
        rest = f"; the next likely is {rivals[0].code} ({as_percent(rivals[0].probability)})" if rivals else ""
        return f"{start}{rest}."
    if not rivals:
        return "No known fault explains this."
    suspected = " or ".join(
        f"{rival.code} ({name_of(rival.code)}, {as_percent(rival.probability)})" for rival in rivals[:2]
    )
    return f"It cannot be named from these columns; {suspected} would explain it."


def _of_laws(laws: Iterable[LogLaw]) -> Iterator[tuple[int, Symptom]]:
    """The first break of each law, with its row from 1."""
    for law in laws:
        if law.broken:
            row = law.broken[0] + 1
            yield row, _symptom((f"{LAW}:{law.name}", law.signal), Evidence.LAW, law.side, row, law.states)


def _of_readings(breaks: Iterable[Break]) -> Iterator[tuple[int, Symptom]]:
    for each in breaks:
        alarm, row = each.rule.grade is Grade.CRITICAL, each.raised + 1
        about = f"{PREFIX}{each.rule.name}", each.signal
        found = _symptom(about, each.rule.evidence, each.rule.direction, row, each.says)
        yield row, replace(found, alarm=alarm)


def _not_finite(stopped: tuple[str, int]) -> tuple[int, Symptom]:
    name, row = stopped
    return row + 1, _symptom((FiniteDetector.name, name), Evidence.IDENTITY, 1, row + 1, f"{name} is not finite")


def _symptom(about: tuple[str, str], evidence: Evidence, side: int, row: int, reason: str) -> Symptom:
    """An alarm by the names of a detector and a signal."""
    return Symptom(*about, evidence, True, side, math.nan, math.nan, math.inf, row, row, reason)
