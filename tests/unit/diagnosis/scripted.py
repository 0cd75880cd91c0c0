"""A monitor whose symptoms are given, for tests of what is made of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from rftfm_ray.detection.monitor import Monitor
from rftfm_ray.detection.observed import Observation
from rftfm_ray.detection.state import State, check_keys, scalar_from
from rftfm_ray.verdicts import DeclaredChange, Evidence, StepReport, Symptom

Given = Mapping[int, Sequence[Symptom]] | Callable[[int], Sequence[Symptom]]
"""Symptoms by step, or as a function of it."""


def alarm(signal: str, onset: int = 1, *, evidence: Evidence = Evidence.TELEMETRY, direction: int = 1) -> Symptom:
    """An alarm of a signal."""
    return Symptom("test", signal, evidence, True, direction, 1.0, 0.0, 9.0, onset, onset, f"{signal} is high")


class ScriptedMonitor(Monitor):
    """Has the symptoms that are given for its own count of observed steps, which is all of its state."""

    def __init__(self, symptoms: Given) -> None:
        self._given = symptoms
        self.count = 0
        self.chunks: list[int] = []
        self.changes: list[DeclaredChange] = []

    @property
    def active(self) -> tuple[str, ...]:
        return ("test",)

    def observe(self, reports: Sequence[StepReport]) -> list[Observation]:
        self.chunks.append(len(reports))
        observations = []
        for report in reports:
            self.count += 1
            given = self._given(self.count) if callable(self._given) else self._given.get(self.count, ())
            observations.append(Observation(report, tuple(given)))
        return observations

    def declare(self, change: DeclaredChange) -> None:
        self.changes.append(change)

    def state_dict(self) -> State:
        return {"count": self.count}

    def load_state_dict(self, state: State) -> None:
        check_keys(state, ("count",))
        self.count = scalar_from(state, "count", int)
