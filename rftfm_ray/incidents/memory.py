"""The incident manager's memory of a run: the newest reports, and the reference of each incident. Pure."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, replace

from rftfm_ray.diagnosis.classify import dated
from rftfm_ray.diagnosis.fingerprints import explained_signals
from rftfm_ray.incidents.state import Incident
from rftfm_ray.incidents.verification import Case
from rftfm_ray.signals.held_out import last_probe
from rftfm_ray.signals.schema import INDEX
from rftfm_ray.types import StepId
from rftfm_ray.verdicts import Diagnosis, Evidence, IncidentState, StepReport

# Number of remembered reports: a second remedy is judged by the steps under the fault, before the longest wait for the
# first one and the longest of its own.
REPORTS = 512
# Reports from before a fault that are the reference of its harm.
REFERENCE_STEPS = 10


@dataclass(frozen=True, slots=True)
class MemoryShare:
    """A run's memory as a value.

    Attributes:
        reports: the newest ones, those of abandoned attempts included.
        lineage: ids of those of the lineage that is kept.
        references: by incident, the reports from before its fault.
        diagnoses: by incident, the newest one.
        alarms: of the newest step, by signal, side and evidence.
        attempt: number of the current one.
        leading: code of the fault that leads.
        led: steps in a row for which it does.
    """

    reports: tuple[StepReport, ...]
    lineage: tuple[StepId, ...]
    references: tuple[tuple[int, tuple[StepReport, ...]], ...]
    diagnoses: tuple[tuple[int, Diagnosis], ...]
    alarms: tuple[tuple[str, int, Evidence], ...]
    attempt: int
    leading: str
    led: int


class RunMemory:
    """The newest reports and, by incident, the newest diagnosis and the reports from before its fault."""

    def __init__(self) -> None:
        # The current lineage, and all reports including those of abandoned attempts.
        self._lineage: deque[StepReport] = deque(maxlen=REPORTS)
        self._history: deque[StepReport] = deque(maxlen=REPORTS)
        self._references: dict[int, tuple[StepReport, ...]] = {}
        self._diagnoses: dict[int, Diagnosis] = {}
        # The alarms of the newest step, by signal, side and evidence.
        self._alarms: frozenset[tuple[str, int, Evidence]] = frozenset()
        self._attempt = 0
        # The fault that leads, and the number of steps in a row for which it does.
        self._leading, self._led = "", 0

    def share(self) -> MemoryShare:
        """All of it as a value."""
        return MemoryShare(
            tuple(self._history), tuple(report.id for report in self._lineage), tuple(self._references.items()),
            tuple(self._diagnoses.items()), tuple(sorted(self._alarms)), self._attempt, self._leading, self._led,
        )  # fmt: skip

    def take_over(self, share: MemoryShare) -> None:
        """Remember what a share holds instead."""
        kept = set(share.lineage)
        self._history = deque(share.reports, maxlen=REPORTS)
        self._lineage = deque((report for report in share.reports if report.id in kept), maxlen=REPORTS)
        self._references, self._diagnoses = dict(share.references), dict(share.diagnoses)
        self._alarms, self._attempt = frozenset(share.alarms), share.attempt
        self._leading, self._led = share.leading, share.led

    @property
    def reports(self) -> tuple[StepReport, ...]:
        """The newest reports of the current lineage, newest last."""
        return tuple(self._lineage)

    def is_late(self, report: StepReport) -> bool:
        """Whether a report belongs to an attempt that a rollback has ended."""
        return report.id.attempt < self._attempt

    def add(self, report: StepReport, diagnosis: Diagnosis | None = None) -> None:
        """Remember a step, and the alarms of its diagnosis."""
        self._lineage.append(report)
        self._history.append(report)
        self._alarms = frozenset(_alarms(diagnosis)) if diagnosis is not None else frozenset()

    def led_by(self, diagnosis: Diagnosis | None) -> int:
        """Take a step's diagnosis; the number of steps in a row, this one included, that its fault leads for."""
        code = "" if diagnosis is None else diagnosis.code
        self._led = self._led + 1 if code and code == self._leading else int(bool(code))
        self._leading = code
        return self._led

    def rewind(self, step: int) -> None:
        """Forget the steps of the lineage after `step`, and end its attempt."""
        newest = self._history[-1].id.attempt if self._history else 0
        self._attempt = max(self._attempt, newest) + 1
        self._lineage = deque((report for report in self._lineage if report.id.step <= step), maxlen=REPORTS)
        self._alarms = frozenset()

    def diagnose(self, incident: Incident, diagnosis: Diagnosis) -> Diagnosis:
        """Take a diagnosis as the newest one of an incident; it is returned with the incident's onset.

        The onset of an incident that has been diagnosed is the one in the journal, so that whoever is asked later reads
        no other. What a later diagnosis adds is how early the fault may have begun.
        """
        # The fault that an incident is about began before its first alarm, whatever has been raised since.
        latest, latest_low = incident.opened.step, incident.opened.step
        if incident.tried or incident.code == diagnosis.code:
            # The alarm that was raised first may have cleared, the onset of the fault stays.
            latest, latest_low = incident.onset, incident.onset_low
        onset, onset_low = min(latest, diagnosis.onset), min(latest_low, diagnosis.onset_low)
        if incident.state is not IncidentState.SUSPECTED and (incident.tried or incident.code == diagnosis.code):
            onset = incident.onset
        diagnosis = dated(diagnosis, onset, min(onset, onset_low))
        self._diagnoses[incident.id] = diagnosis
        if not incident.tried:
            before = [report for report in self._lineage if report.id.step < diagnosis.onset_low]
            self._references[incident.id] = tuple(before[-REFERENCE_STEPS:])
        return diagnosis

    def diagnosis_of(self, incident: int) -> Diagnosis | None:
        """The newest diagnosis of an incident."""
        return self._diagnoses.get(incident)

    def active_diagnosis_of(self, incident: int) -> Diagnosis | None:
        """The newest diagnosis of an incident with those of its alarms that the newest step has too.

        An incident outlasts its alarms: what they said earlier is no evidence of now.
        """
        diagnosis = self.diagnosis_of(incident)
        if diagnosis is None:
            return None
        symptoms = tuple(
            replace(s, alarm=s.alarm and (s.signal, s.direction, s.evidence) in self._alarms)
            for s in diagnosis.symptoms
        )
        return replace(diagnosis, symptoms=symptoms)

    def forget(self, signals: Collection[str]) -> None:
        """Take signals out of the references of open and later incidents: a declared change has moved them."""
        indices = {INDEX[name] for name in signals if name in INDEX}
        if not indices:
            return
        self._references = {
            number: tuple(_without(report, indices) for report in reports)
            for number, reports in self._references.items()
        }

    def reference_of(self, incident: int) -> tuple[StepReport, ...]:
        """Reports from before the fault of an incident; empty where they are not known."""
        return self._references.get(incident, ())

    def case_of(self, incident: Incident) -> Case:
        """The reports that the last remedy of an incident is judged by."""
        first, newest = incident.tried[0].paid_step, incident.tried[-1].paid_step
        attempt, began = incident.opened.attempt, min(incident.onset, incident.opened.step)
        under_fault = (
            r for r in self._history if r.id.attempt == attempt and r.id.step >= began and r.id.paid_step < first
        )
        after = (r for r in self._lineage if r.id.paid_step >= newest)
        return replace(self._case(incident), under_fault=tuple(under_fault), after=tuple(after))

    def case_of_silence(self, incident: Incident, steps: int) -> Case:
        """The newest reports, that many steps without an alarm, which an incident without a remedy is judged by."""
        began, kept = min(incident.onset, incident.opened.step), self.reports
        under = (report for report in kept[: max(0, len(kept) - steps)] if report.id.step >= began)
        return replace(self._case(incident), under_fault=tuple(under), after=kept[-steps:])

    def is_active(self, incident: Incident, diagnosis: Diagnosis | None) -> bool:
        """Whether an incident's alarm is active in the newest step, whatever its diagnosis says of it.

        Its fault may be the one diagnosed now; or an alarm is on that was one of its own.

        Args:
            incident: an open one.
            diagnosis: of the newest step, None without one.
        """
        if diagnosis is None:
            return bool(self._alarms) and self._has_own(incident)
        return diagnosis.code == incident.code or self._has_own(incident)

    def _has_own(self, incident: Incident) -> bool:
        latest = self.diagnosis_of(incident.id)
        if latest is None:
            return False
        explained = explained_signals(latest)
        own = {(s.signal, s.direction) for s in latest.symptoms if s.alarm and (not explained or s.signal in explained)}
        return any((signal, side) in own for signal, side, _ in self._alarms)

    def _case(self, incident: Incident) -> Case:
        """What is known of an incident beside its reports."""
        probe = math.nan if incident.probe is None else incident.probe
        return Case(self.reference_of(incident.id), (), (), probe, self.diagnosis_of(incident.id))

    def since(self, paid_step: int) -> list[StepReport]:
        """Reports of the lineage from a consumed step on."""
        return [report for report in self._lineage if report.id.paid_step >= paid_step]

    def probe_before(self, onset: int) -> float:
        """The newest held-out accuracy from before a fault; NaN without one."""
        # The probe in a step's report is of the weights before that step's update.
        return last_probe([report for report in self._lineage if report.id.step <= onset])

    def best_probe(self, onset: int, alarm: int, first: float | None) -> float | None:
        """The held-out accuracy that a remedy has to give back: the highest of before a fault and before its alarm.

        The fault may have lowered the last ones before the alarm, and the run may have learnt since an onset that is
        estimated too early. `first` is the one before the first step, which is before a fault that leaves no later one.
        """
        before = self.probe_before(onset)
        healthy = first if math.isnan(before) else before
        known = [healthy, self.probe_before(alarm - 1), self.probe_before(alarm)]
        return max((probe for probe in known if probe is not None and not math.isnan(probe)), default=None)

    def probe_now(self, since: int = 0) -> float:
        """The newest held-out accuracy of the lineage, from step `since` on; NaN without one."""
        return last_probe([report for report in self._lineage if report.id.step >= since])


def _alarms(diagnosis: Diagnosis) -> list[tuple[str, int, Evidence]]:
    return [(s.signal, s.direction, s.evidence) for s in diagnosis.symptoms if s.alarm]


def _without(report: StepReport, indices: Collection[int]) -> StepReport:
    values = tuple(math.nan if index in indices else v for index, v in enumerate(report.values))
    return replace(report, values=values)
