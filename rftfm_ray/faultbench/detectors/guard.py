"""The guard adapter: recorded runs go through the same monitor, diagnoser and incident manager as a live run's steps.

Runs are judged in `observe`. In runs without a fault the guard must not act: where it has opened an incident in one of
them, the run is judged again in `act`, up to its first order, as an order would have changed what comes after.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, dataclass, field

import numpy as np

from rftfm_ray.config import RunConfig
from rftfm_ray.detection.detectors.base import Detector
from rftfm_ray.detection.monitor import Monitor
from rftfm_ray.detection.observed import Observation
from rftfm_ray.detection.reference.mixture import Reference
from rftfm_ray.detection.suite import monitor_settings
from rftfm_ray.diagnosis.assessor import Assessor
from rftfm_ray.diagnosis.diagnoser import FaultDiagnoser
from rftfm_ray.faultbench.detectors.alarms import Alarm, alarms_while
from rftfm_ray.faultbench.detectors.strata import Floats
from rftfm_ray.faultbench.runs.dataset import Recorded
from rftfm_ray.faultbench.runs.declared import SNAPSHOT_EVERY, declarations, watched
from rftfm_ray.faultbench.runs.plan import is_without_fault
from rftfm_ray.incidents.guardian import Guardian
from rftfm_ray.incidents.settings import incident_settings
from rftfm_ray.incidents.state import Entry as JournalEntry
from rftfm_ray.incidents.state import EntryKind
from rftfm_ray.policies.loading import PLAYBOOK
from rftfm_ray.policies.playbook import Playbook
from rftfm_ray.policies.safety import SafePolicy
from rftfm_ray.types import GuardMode, StepId
from rftfm_ray.verdicts import Evidence, StepReport

LAWS = "laws"
"""Name of the evidence of telemetry together with laws."""
MakeDetectors = Callable[[], Sequence[Detector]]


@dataclass(frozen=True, slots=True)
class OpenedIncident:
    """An incident: the step that opened it, and the code that it was given first."""

    step: int
    code: str


@dataclass(frozen=True, slots=True)
class GivenOrder:
    """An order of the guard: the step whose report led to it, and its remedy."""

    step: int
    remedy: str


@dataclass(frozen=True, slots=True)
class GuardTrace:
    """Alarms, incidents and orders of the guard on one recorded run of N steps.

    Attributes:
        name: of the run.
        telemetry: alarms by telemetry alone.
        every: alarms by any evidence.
        telemetry_scores: (N) the largest score of any telemetry alarm, in units of its threshold.
        every_scores: (N) the same by any evidence.
        incidents: that were opened.
        orders: the first one that the guard gives in a run without a fault, or nothing.
        disabled: detectors that failed, and why.
        lawful: alarms by telemetry and laws: what a trainer logs and declares, without asking anybody.
        lawful_scores: (N) the largest score of any of these.
    """

    name: str
    telemetry: tuple[Alarm, ...]
    every: tuple[Alarm, ...]
    telemetry_scores: Floats
    every_scores: Floats
    incidents: tuple[OpenedIncident, ...]
    orders: tuple[GivenOrder, ...]
    disabled: tuple[tuple[str, str], ...]
    lawful: tuple[Alarm, ...] = ()
    lawful_scores: Floats = field(default_factory=lambda: np.zeros(0))

    def alarms(self, evidence: str) -> tuple[Alarm, ...]:
        """Alarms by the name of the evidence, `telemetry`, `laws` (beside telemetry) or `all`."""
        return {"telemetry": self.telemetry, LAWS: self.lawful}.get(evidence, self.every)

    def scores(self, evidence: str) -> Floats:
        """Scores (N) by the name of the evidence, as `alarms` has it."""
        return {"telemetry": self.telemetry_scores, LAWS: self.lawful_scores}.get(evidence, self.every_scores)


def opened_incidents(journal: Iterable[JournalEntry]) -> tuple[OpenedIncident, ...]:
    """The incidents of a journal, in order."""
    opened = [entry for entry in journal if entry.kind is EntryKind.OPENED]
    return tuple(OpenedIncident(entry.id.step, entry.text("code")) for entry in opened)


class RecordingMonitor(Monitor):
    """A monitor that keeps its observations."""

    def __init__(
        self, config: RunConfig, reference: Reference, detectors: Sequence[Detector] = (), *, shipped: bool = True
    ) -> None:
        super().__init__(monitor_settings(config), reference, detectors, shipped=shipped)
        self.observations = list[Observation]()

    def observe(self, reports: Sequence[StepReport]) -> list[Observation]:
        """Judge the next steps and store the observations."""
        observations = super().observe(reports)
        self.observations += observations
        return observations


class RecordedGuard:
    """The guard of one recorded run.

    Args:
        run: that it follows.
        monitor: of its own.
        mode: how far it may go.
    """

    def __init__(self, run: Recorded, monitor: Monitor, mode: GuardMode) -> None:
        config = watched(run.entry)
        config = config.model_copy(update={"guard": config.guard.model_copy(update={"mode": mode})})
        self._keep = config.snapshots.keep
        self._journal = list[JournalEntry]()
        self._step = 0
        self._reports = list(run.reports())
        self._declared = {declaration.id.step: declaration for declaration in declarations(run.entry, config)}
        # No order is carried out, so nothing is rewound. States are stored only for user detectors, so that one whose
        # state cannot be saved is disabled at the same step as in a live run; the shipped ones can always be saved.
        keep_every = config.snapshots.every if monitor.has_user_detectors else 0
        assessor = Assessor(monitor, FaultDiagnoser(), keep_every, self._keep)
        policy = SafePolicy(Playbook(), PLAYBOOK, config.guard.policy_timeout_s)
        self._guardian = Guardian(assessor, incident_settings(config), policy, self._snapshots, self._journal.append)
        self._guardian.start(StepId(0, 0, 0))

    @property
    def incidents(self) -> tuple[OpenedIncident, ...]:
        """Incidents opened so far."""
        return opened_incidents(self._journal)

    def follow(self) -> None:
        """Judge all steps, in pieces between declared changes."""
        bounds = sorted({0, *(step - 1 for step in self._declared), len(self._reports)})
        for start, end in itertools.pairwise(bounds):
            self._declare(start + 1)
            self._guardian.steps(self._reports[start:end])

    def first_order(self) -> GivenOrder | None:
        """Judge step by step up to the first order; None where none is given."""
        for report in self._reports:
            self._step = report.id.step
            self._declare(self._step)
            _, order = self._guardian.step(report)
            if order is not None:
                return GivenOrder(self._step, order.remedy)
        return None

    def _declare(self, step: int) -> None:
        if step in self._declared:
            self._guardian.declare(self._declared[step])

    def _snapshots(self) -> tuple[int, ...]:
        """Steps whose snapshots a live run would still have."""
        newest = self._step - 1 - (self._step - 1) % SNAPSHOT_EVERY
        return tuple(sorted(range(newest, -1, -SNAPSHOT_EVERY)[: self._keep]))


def guard_trace(run: Recorded, reference: Reference, detectors: MakeDetectors | None = None) -> GuardTrace:
    """Run the guard on a recorded run.

    Args:
        run: of a benchmark.
        reference: what it is compared with.
        detectors: makes new detectors of the user's, which then watch alone; None for the shipped ones.
    """

    def monitor() -> RecordingMonitor:
        return RecordingMonitor(
            watched(run.entry), reference, () if detectors is None else detectors(), shipped=detectors is None
        )

    recording = monitor()
    guard = RecordedGuard(run, recording, GuardMode.OBSERVE)
    guard.follow()
    order = None
    if guard.incidents and is_without_fault(run.entry):
        order = RecordedGuard(run, monitor(), GuardMode.ACT).first_order()
    observations = recording.observations
    return GuardTrace(
        name=run.entry.name,
        telemetry=alarms_while(_is_open(item, (Evidence.TELEMETRY,)) for item in observations),
        every=alarms_while(_is_open(item, tuple(Evidence)) for item in observations),
        telemetry_scores=np.array([item.scores.telemetry for item in observations]),
        every_scores=np.array([max(astuple(item.scores)) for item in observations]),
        incidents=guard.incidents,
        orders=() if order is None else (order,),
        disabled=tuple(pair for item in observations for pair in item.disabled),
        lawful=alarms_while(_is_open(item, (Evidence.TELEMETRY, Evidence.LAW)) for item in observations),
        lawful_scores=np.array([max(item.scores.telemetry, item.scores.law) for item in observations]),
    )


def _is_open(observation: Observation, evidence: Sequence[Evidence]) -> bool:
    return any(symptom.alarm and symptom.evidence in evidence for symptom in observation.symptoms)
