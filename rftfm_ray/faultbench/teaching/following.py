"""A recorded run as a diagnoser sees it, step by step. Pure; numpy."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rftfm_ray.config import RunConfig
from rftfm_ray.detection.observed import Observation
from rftfm_ray.detection.reference.mixture import Reference
from rftfm_ray.detection.reference.residuals import COLUMNS
from rftfm_ray.diagnosis.classify import case_of, dates_of
from rftfm_ray.diagnosis.features import SINCE_ONSET, Features, Window, features_of, figures_in
from rftfm_ray.diagnosis.findings import findings_in, values_of
from rftfm_ray.diagnosis.readings import WINDOW, Readings
from rftfm_ray.diagnosis.weighing import Case, alarms_in
from rftfm_ray.faultbench.detectors.guard import RecordingMonitor
from rftfm_ray.faultbench.runs.dataset import Recorded
from rftfm_ray.faultbench.runs.declared import declarations, watched
from rftfm_ray.faultbench.runs.plan import Entry, is_without_fault
from rftfm_ray.verdicts import Symptom

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Diagnosed:
    """What a diagnosis at a step is made from: the step, the estimated onset, and the case."""

    step: int
    onset: int
    case: Case


@dataclass(frozen=True, slots=True, eq=False)
class Followed:
    """A run of N steps as a diagnoser sees it.

    Attributes:
        entry: what was planned.
        switch: first step with its fault switched on; 0 without a fault.
        effect: first step with the effect of its fault; 0 without one in time.
        residuals: (N, `COLUMNS`) in standard deviations; NaN where unknown.
        profiled: (N) whether they are against a profile.
        values: (N, `findings.READ`).
        symptoms: of each step, as far as they need an explanation.
        diagnosed: the steps with an alarm.
    """

    entry: Entry
    switch: int
    effect: int
    residuals: Floats
    profiled: NDArray[np.bool_]
    values: Floats
    symptoms: tuple[tuple[Symptom, ...], ...]
    diagnosed: tuple[Diagnosed, ...]

    def __len__(self) -> int:
        return len(self.values)

    @property
    def codes(self) -> tuple[str, ...]:
        """Codes of its faults; a declared change is none."""
        return () if is_without_fault(self.entry) else self.entry.codes

    def window(self, onset: int, end: int) -> Window:
        """What is known at a step of the steps since an onset, both counted from 1."""
        first = max(onset, end - SINCE_ONSET + 1) - 1
        values = self.values[max(onset, end - WINDOW + 1) - 1 : end]
        return Window(self.residuals[first:end], figures_in(values), bool(self.profiled[end - 1]))

    def features(self, onset: int, end: int) -> Features:
        """The features of a diagnosis at a step if the fault had begun at an onset."""
        values = self.values[max(onset, end - WINDOW + 1) - 1 : end]
        return features_of(self.symptoms[end - 1], findings_in(values), self.window(onset, end))


def observations_of(run: Recorded, monitor: RecordingMonitor, config: RunConfig) -> list[Observation]:
    """Judge a run of a configuration, with what was declared in it."""
    declared = {d.id.step: d.change for d in declarations(run.entry, config)}
    reports = list(run.reports())
    bounds = sorted({0, *(step - 1 for step in declared), len(reports)})
    for start, end in itertools.pairwise(bounds):
        if start + 1 in declared:
            monitor.declare(declared[start + 1])
        monitor.observe(reports[start:end])
    return monitor.observations


def follow(run: Recorded, reference: Reference, config: RunConfig | None = None) -> Followed:
    """Follow a run that is compared with a reference.

    Args:
        run: of a benchmark, or another with its configuration.
        reference: what it is compared with.
        config: of the run; None for that of its entry in a benchmark.
    """
    config = watched(run.entry) if config is None else config
    observations = observations_of(run, RecordingMonitor(config, reference), config)
    readings, symptoms, diagnosed = Readings(), list[tuple[Symptom, ...]](), list[Diagnosed]()
    for step, observation in enumerate(observations, start=1):
        readings.observe(observation)
        alarms = alarms_in(observation.symptoms)
        case = case_of(observation.symptoms, readings) if alarms else None
        if case is not None and alarms_in(case.symptoms):
            diagnosed.append(Diagnosed(step, min(step, dates_of(alarms)[0]), case))
        symptoms.append(observation.symptoms if case is None else case.symptoms)
    effects = [effect for effect in run.outcome.effects if effect is not None and effect <= len(run)]
    nothing = np.full(len(COLUMNS), np.nan)
    return Followed(
        run.entry, min(run.outcome.switched, default=0), min(effects, default=0),
        np.array([nothing if o.residuals is None else o.residuals for o in observations]),
        np.array([o.profiled for o in observations]), np.array([values_of(o.report.values) for o in observations]),
        tuple(symptoms), tuple(diagnosed),
    )  # fmt: skip


def first_diagnosed(run: Followed) -> Sequence[Diagnosed]:
    """The diagnoses of a run's fault: from the first alarm after its switch on, which was not open before.

    Empty where no alarm is raised, or where one was open at the switch.
    """
    steps = {each.step for each in run.diagnosed}
    if run.switch - 1 in steps:
        return ()
    return tuple(each for each in run.diagnosed if each.step >= run.switch)
